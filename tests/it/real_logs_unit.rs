//! The unit that sends logs, as adt writes it for the host's systemd, under the limits that it sets itself.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::adt::Adt;
use super::servers::{installed, until};

/// Writes whatever it is sent into a file.
const RECEIVER: &str = r#"
import socketserver, sys
class Receiver(socketserver.BaseRequestHandler):
    def handle(self):
        with open(sys.argv[1], "ab", 0) as out:
            while data := self.request.recv(65536):
                out.write(data)
socketserver.ThreadingTCPServer.daemon_threads = True
server = socketserver.ThreadingTCPServer(("127.0.0.1", 6514), Receiver)
print("ready", flush=True)
server.serve_forever()
"#;

/// A systemd of a user's that happens to be root: it puts its units into the same limits as the host's own, and nothing else of
/// the host is its business.
pub struct Manager<'a> {
    adt: &'a Adt,
    process: Child,
    pub units: PathBuf,
    group: String,
}

/// Units stand on these, and here on nothing else.
const STUBS: [&str; 6] =
    ["sysinit.target", "basic.target", "network.target", "multi-user.target", "shutdown.target", "default.target"];

impl<'a> Manager<'a> {
    pub fn start(adt: &'a Adt) -> Self {
        let units = adt.path().join("units");
        std::fs::create_dir(&units).expect("the home is new");
        for name in STUBS {
            std::fs::write(units.join(name), "[Unit]\nDefaultDependencies=no\n").expect("the folder is ours");
        }
        let group = format!("adt-test-{}", std::process::id());
        let script = format!(
            "set -e
            for top in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
                [ -e $top/cgroup.procs ] || continue
                mkdir $top/{group}
                echo $$ >$top/{group}/cgroup.procs
            done
            exec /lib/systemd/systemd --user --log-target=console"
        );
        let mut command = adt.program_there("env");
        command.args(["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]);
        command.arg(format!("SYSTEMD_UNIT_PATH={}", units.display())).arg(format!("XDG_RUNTIME_DIR={}", adt.path().display()));
        let process = command.args(["sh", "-c", &script]).stdin(Stdio::null()).spawn().expect("a shell starts");
        let manager = Self { adt, process, units, group };
        until("systemd answers", || manager.control(&["is-active", "default.target"]).contains("active"));
        manager
    }

    pub fn control(&self, words: &[&str]) -> String {
        let mut command = self.adt.program_there("env");
        command.arg(format!("XDG_RUNTIME_DIR={}", self.adt.path().display())).args(["systemctl", "--user"]).args(words);
        let output = command.output().expect("systemctl is part of systemd");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        self.control(&["stop", "adt-logs.service", "adt-commands.service"]);
        drop(self.process.kill());
        drop(self.process.wait());
        let tops = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        for folder in tops.map(|top| Path::new(top).join(&self.group)) {
            let all = walkdir::WalkDir::new(folder).contents_first(true).into_iter().flatten();
            all.filter(|entry| entry.file_type().is_dir()).for_each(|entry| drop(std::fs::remove_dir(entry.path())));
        }
    }
}

/// What adt writes for the host's systemd enters real machines and delivers what they log, within the unit's own limits.
#[test]
fn the_unit_that_sends_logs_delivers_them_within_its_limits() {
    if !installed(&["python3", "systemctl"]) {
        return;
    }
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let config = adt.path().join("shipping.toml");
    std::fs::write(&config, "[logs]\nsyslog = \"tcp://127.0.0.1:6514\"\n").expect("a file in the home");
    let adt = adt.env("ADT_CONFIG", config.to_str().expect("a plain path"));
    adt.platform_toml("tiny", "[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"debian\"\n");
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let host = adt.host.as_ref().expect("it is alone");
    // A host that systemd runs, as far as files tell.
    host.run("mount -t tmpfs adt-test-run /run");
    host.run("mkdir -p /run/systemd/system");
    adt.run("host:bootstrap");
    let unit = std::fs::read_to_string(adt.at("/etc/systemd/system/adt-logs.service")).expect("bootstrap wrote it");
    let received = adt.path().join("received");
    let mut python = adt.program_there("python3");
    python.args(["-c", RECEIVER]).arg(&received).stdout(Stdio::piped());
    let mut receiver = python.spawn().expect("it is installed");
    let mut ready = String::new();
    BufReader::new(receiver.stdout.take().expect("it was piped")).read_line(&mut ready).expect("it tells when it is ready");

    let manager = Manager::start(&adt);
    std::fs::write(manager.units.join("adt-logs.service"), unit).expect("the folder is ours");
    assert_eq!(manager.control(&["daemon-reload"]), "");
    assert_eq!(manager.control(&["start", "adt-logs.service"]), "");
    let pid = manager.control(&["show", "adt-logs.service", "-p", "MainPID", "--value"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).expect("it runs");
    assert!(status.contains("Seccomp:\t2\n"), "its limits hold: {status}");
    adt.run("env:exec 1 one -- logger -t mine while-the-unit-runs").ok();
    let log = || std::fs::read_to_string(&received).unwrap_or_default();
    until("the record", || log().contains("while-the-unit-runs"));
    assert_eq!(log().matches("while-the-unit-runs").count(), 1, "{}", log());
    // What comes while it is down is made up for.
    assert_eq!(manager.control(&["stop", "adt-logs.service"]), "");
    adt.run("env:exec 1 one -- logger -t mine while-it-was-down").ok();
    assert_eq!(manager.control(&["start", "adt-logs.service"]), "");
    until("the record of meanwhile", || log().contains("while-it-was-down"));
    assert_eq!(log().matches("while-the-unit-runs").count(), 1, "{}", log());
    assert_eq!(manager.control(&["is-active", "adt-logs.service"]), "active\n");
    drop(manager);
    receiver.kill().expect("it runs");
    receiver.wait().expect("it is ours");
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
