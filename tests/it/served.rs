//! The example platform as users have it: `hello/1161` on real machines, served by `host:up` on a host of its own, whose
//! resolver and trust `host:bind-proxy` changed. What it changes in `/etc` is a copy that vanishes with that host.

use std::path::PathBuf;

use super::adt::Adt;

pub const SITE: &str = "www.1161.hello.example.test";

pub struct Served {
    pub adt: Adt,
    /// The home folder that trusts adt's authority.
    pub home: PathBuf,
}

/// No program of this host reads the copy, so none is led anywhere; name services that live outside of files are left out.
const COPIES: &str = "set -e
    mount -t tmpfs adt-test-etc /mnt
    mkdir /mnt/upper /mnt/work
    mount -t overlay adt-test-etc -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
    umount -l /mnt
    mount -t tmpfs adt-test-certificates /usr/local/share/ca-certificates
    rm -f /etc/resolv.conf
    : > /etc/resolv.conf
    echo 'hosts: files dns' > /etc/nsswitch.conf";

impl Served {
    /// `None`, said loudly, where no machines can run.
    pub fn new() -> Option<Self> {
        let adt = Adt::real()?.alone();
        let home = adt.path().join("home");
        let profile = home.join(".mozilla/firefox/test.default");
        std::fs::create_dir_all(&profile).expect("the folder is ours");
        let served = Self { adt: adt.env("HOME", &home.to_string_lossy()), home };
        served.program("sh", &["-c", COPIES]);
        served.program("certutil", &["-N", "--empty-password", "-d", &format!("sql:{}", profile.display())]);
        served.adt.run("platform:init hello").ok();
        served.adt.run("host:up --detach").ok().says("are served at 127.77.77.77");
        served.adt.run("host:bind-proxy").ok().says("its certificates are trusted");
        // The daemon was first: it follows.
        served.adt.run("env:init 1161").ok();
        Some(served)
    }

    /// What a program on that host prints; it must succeed.
    #[track_caller]
    pub fn program(&self, program: &str, args: &[&str]) -> String {
        let (worked, text) = self.attempt(program, args);
        assert!(worked, "{program} {args:?}: {text}");
        text
    }

    /// Whether a program succeeds there, and what it prints.
    pub fn attempt(&self, program: &str, args: &[&str]) -> (bool, String) {
        let output = self.adt.program_there(program).args(args).env("HOME", &self.home).output().expect("it starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Does something in that host's network.
    pub fn there<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let host = self.adt.host.as_ref().expect("it has a host of its own");
        let network = std::fs::File::open(format!("/proc/{}/ns/net", host.pid())).expect("it runs");
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(kind)).expect("we are root");
                act()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Everything goes, and nothing is left.
    pub fn end(self) {
        self.adt.run("env:destroy 1161 --yes").ok();
        self.adt.run("host:unbind-proxy").ok();
        self.adt.run("host:halt").ok();
        assert_eq!(self.adt.leftovers(), Vec::<String>::new());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.adt.run("host:halt");
    }
}
