//! A virtual machine under software emulation, which needs nothing of the processor and works in any CI. It runs in a network of its
//! own, which leads nowhere but to its door for ssh, and ends with its test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::adt::Run;
use super::super::host::Host;
use super::image::{Image, run};

/// Emulation takes twenty to forty times as long as the processor itself.
const BOOT: Duration = Duration::from_secs(420);

pub struct Vm {
    /// Where the port of its door is.
    host: Host,
    qemu: Child,
    key: PathBuf,
    home: tempfile::TempDir,
}

impl Vm {
    /// Starts from the image, which stays as it is, with the files of `given` at `/mnt`. Returns when it lets root in.
    pub fn boot(image: &Image, given: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("adt-test-").tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
        let disk = home.path().join("given.img");
        let size = format!("{}M", megabytes(given) * 5 / 4 + 64);
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F", "-d"]).arg(given).arg(&disk).arg(size));
        // ssh wants a key that nobody else can read, whatever the cache has become.
        let key = home.path().join("key");
        fs::copy(image.key(), &key).expect("the home is new");
        let host = Host::new();
        let log = File::create(home.path().join("console.log")).expect("the home is new");
        let mut command = host.command("setpriv");
        // What is killed takes it along.
        command.args([
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi,tb-size=1024",
            "-cpu",
            "max",
            "-smp",
            "2",
        ]);
        command.args([
            "-m",
            "3G",
            "-machine",
            "q35",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-no-user-config",
        ]);
        command.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initrd());
        // Where all cores are busy, the kernel takes an emulated timer that comes late for a broken one, and stops.
        command.args([
            "-append",
            "root=/dev/vda rw console=ttyS0 net.ifnames=0 no_timer_check mitigations=off quiet systemd.show_status=0",
        ]);
        // Written to a file that has no name and goes with the process, so nothing need reach a disk.
        command.env("TMPDIR", home.path());
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", image.disk().display()));
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio,readonly=on", disk.display()));
        command.args(["-nic", "user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22"]);
        command.args(["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("one more")).stderr(log);
        let qemu = command.spawn().expect("nsenter is part of every Linux");
        let mut vm = Self { host, qemu, key, home };
        vm.wait_for_boot("");
        vm
    }

    /// Runs a script as root.
    pub fn run(&self, script: &str) -> Run {
        let mut command = self.host.command("ssh");
        command.arg("-i").arg(&self.key).args(["-p", "2222", "-F", "none", "-o", "UserKnownHostsFile=/dev/null"]);
        for option in
            ["StrictHostKeyChecking=no", "LogLevel=ERROR", "BatchMode=yes", "ConnectTimeout=60", "GSSAPIAuthentication=no"]
        {
            command.args(["-o", option]);
        }
        let since = Instant::now();
        let run = Run::of(command.args(["root@127.0.0.1", script]).stdin(Stdio::null()), script);
        eprintln!("{:4} s  {script}", since.elapsed().as_secs());
        run
    }

    /// Restarts it as its owner does, and returns when it is up again.
    pub fn restart(&mut self) {
        let before = self.run(BOOT_ID).ok().stdout;
        // The connection goes down with it.
        self.run("systemctl reboot");
        self.wait_for_boot(&before);
    }

    fn wait_for_boot(&mut self, before: &str) {
        let since = Instant::now();
        loop {
            let now = self.run(BOOT_ID);
            if now.code == 0 && now.stdout != before {
                return;
            }
            let ended = self.qemu.try_wait().expect("it is ours");
            assert!(ended.is_none() && since.elapsed() < BOOT, "it does not boot: {ended:?} {}\n{}", now.stderr, self.console());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn console(&self) -> String {
        let text = fs::read(self.home.path().join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

impl Drop for Vm {
    fn drop(&mut self) {
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

fn megabytes(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len().max(4096)).sum::<u64>() >> 20
}
