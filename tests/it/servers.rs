//! Other people's servers as a test's own processes: in a temporary folder, on loopback, ended by their process ids.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use adt::bind::{Front, Home, Server};
use tempfile::TempDir;

use super::front::LOOPBACK;

/// Whether these programs are here. Says so loudly if not, and fails in CI.
pub fn installed(programs: &[&str]) -> bool {
    let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing: Vec<_> =
        programs.iter().filter(|program| !folders.iter().any(|folder| folder.join(program).is_file())).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "not installed: {missing:?}");
    eprintln!("SKIPPED: {missing:?} are not installed; `make test-packages` installs them");
    false
}

/// Below the ports that the kernel gives away by itself, so that no other socket gets it before the server does.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 600) as u16 * 20;
    let mut ports = std::iter::from_fn(|| Some(start + NEXT.fetch_add(1, Ordering::Relaxed) % 700));
    let free = |port: &u16| TcpListener::bind((LOOPBACK, *port)).is_ok();
    ports.by_ref().take(700).find(free).expect("one of 700 ports is free")
}

/// A folder like the one that Debian's package makes, with nothing of adt's in it.
pub struct Place {
    pub folder: TempDir,
    pub home: Home,
    pub front: Front,
    process: Option<Child>,
}

impl Place {
    pub fn new(server: Server) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let root = folder.path().join("etc");
        for name in ["etc", "run", "etc/mods-enabled", "etc/sites-enabled", "etc/conf.d"] {
            std::fs::create_dir(folder.path().join(name)).expect("it is ours");
        }
        let main = match server {
            Server::Apache => root.join("apache2.conf"),
            Server::Nginx => root.join("nginx.conf"),
            Server::Bind => root.join("named.conf"),
            Server::Dnsmasq => folder.path().join("dnsmasq.conf"),
        };
        let home = Home { server, root, main, unit: None, pid_file: folder.path().join("run/pid") };
        let front = Front { v4: [10, 9, 8, 7].into(), v6: None, http: free_port(), https: free_port(), listen: vec![LOOPBACK] };
        let place = Self { folder, home, front, process: None };
        std::fs::write(&place.home.main, place.main()).expect("it is ours");
        match server {
            Server::Apache => place
                .write("mods-enabled/mpm_event.load", "LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n"),
            Server::Bind => place.write("named.conf.local", "// the host's own, without a newline at its end"),
            Server::Nginx | Server::Dnsmasq => {}
        }
        place
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.home.root.join(path), text).expect("it is ours");
    }

    /// Where it listens: the front's http port, for name servers too.
    pub fn address(&self) -> SocketAddr {
        (LOOPBACK, self.front.http).into()
    }

    fn main(&self) -> String {
        let (root, run) = (self.home.root.display(), self.folder.path().join("run"));
        let (run, http, https) = (run.display(), self.front.http, self.front.https);
        match self.home.server {
            Server::Apache => format!(
                "ServerRoot {root}\nServerName localhost\nPidFile {run}/pid\nErrorLog {run}/error.log\nDefaultRuntimeDir {run}\n\
                 User www-data\nGroup www-data\nIncludeOptional mods-enabled/*.load\nListen 127.0.0.1:{http}\n\
                 Listen 127.0.0.1:{https}\nIncludeOptional sites-enabled/*.conf\n"
            ),
            Server::Nginx => format!(
                "pid {run}/pid;\nerror_log {run}/error.log;\nworker_processes 2;\nevents {{}}\nhttp {{\naccess_log off;\n\
                 include {root}/conf.d/*.conf;\ninclude {root}/sites-enabled/*;\n}}\n"
            ),
            Server::Bind => format!(
                "options {{ directory \"{run}\"; pid-file \"{run}/pid\"; session-keyfile \"{run}/key\"; recursion no;\n\
                 listen-on port {http} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\n\
                 include \"{root}/named.conf.local\";\n"
            ),
            Server::Dnsmasq => format!(
                "port={http}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file={run}/pid\n"
            ),
        }
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) {
        let (root, main) = (&self.home.root, &self.home.main);
        let mut command = match self.home.server {
            Server::Apache => {
                with(Command::new("apache2"), &[Path::new("-DFOREGROUND"), Path::new("-d"), root, Path::new("-f"), main])
            }
            Server::Nginx => with(Command::new("nginx"), &[Path::new("-g"), Path::new("daemon off;"), Path::new("-c"), main]),
            Server::Bind => {
                with(Command::new("named"), &[Path::new("-g"), Path::new("-n"), Path::new("1"), Path::new("-c"), main])
            }
            Server::Dnsmasq => {
                let folder = format!("--conf-dir={}", root.display());
                with(Command::new("dnsmasq"), &[Path::new("--keep-in-foreground"), Path::new("-C"), main, Path::new(&folder)])
            }
        };
        let log = std::fs::File::create(self.folder.path().join("run/log")).expect("it is ours");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("it is installed"));
        let address = self.address();
        let ready = || std::fs::read_to_string(&self.home.pid_file).is_ok_and(|pid| pid.ends_with('\n'));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !(ready() && TcpStream::connect(address).is_ok()) {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().expect("it is ours"));
            if ended.is_some() || Instant::now() > deadline {
                let log = |name: &str| std::fs::read_to_string(self.folder.path().join("run").join(name)).unwrap_or_default();
                panic!("{} does not listen at {address}: {ended:?}\n{}{}", self.home.server, log("log"), log("error.log"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn with(mut command: Command, args: &[&Path]) -> Command {
    command.args(args);
    command
}

/// A zombie is not: it holds nothing any more.
pub fn is_alive(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "not within 30 seconds: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if let Some(pid) = rustix::process::Pid::from_raw(process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        drop(process.wait());
    }
}

/// A connection from an address of the caller's choice: on loopback, each is another client.
pub fn connect_from(address: Ipv4Addr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddr::from((address, 0))).unwrap();
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}
