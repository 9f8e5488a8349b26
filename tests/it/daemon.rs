//! `host:up` as a process: ports that others hold, a takeover, what it writes down and tells. Each test on a host of its own.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::adt::{Adt, Run};
use super::fakes::{self, init};
use super::host::Host;
use super::servers::{installed, until};

/// Somebody else's program on the test's host.
pub struct Foreign(Child);

impl Foreign {
    pub fn start(host: &Host, program: &str, args: &[&str]) -> Self {
        let mut command = host.command(program);
        Self(
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed"),
        )
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_none()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        drop(self.0.wait());
    }
}

impl Adt {
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("this test is alone")
    }

    /// What a program on the test's host prints, whatever it ends with.
    pub fn there(&self, program: &str, args: &[&str]) -> String {
        let output = self.host().command(program).args(args).output().expect("it is installed");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The page at a name of adt's, as this host's programs see it once they are led there.
    pub fn page(&self, url: &str) -> String {
        let authority = self.store().join("tls/authority/example.test.pem");
        let to = ["80", "443"].map(|port| format!("::127.77.77.77:{port}"));
        let to = if url.starts_with("https:") { &to[1] } else { &to[0] };
        let args =
            ["-sS", "--noproxy", "*", "--max-time", "20", "--connect-to", to, "--cacert", &authority.display().to_string()];
        self.there("curl", &[&args[..], &[url]].concat())
    }

    pub fn address_of(&self, name: &str, more: &[&str]) -> String {
        let dig = [&["@127.77.77.77", "+short", "+tries=1", "+time=3", name][..], more].concat();
        self.there("dig", &dig).trim().to_owned()
    }

    /// The process that serves.
    pub fn daemon(&self) -> u32 {
        let lock = std::fs::read_to_string(self.store().join("locks/host.lock")).expect("it serves");
        let lock: serde_json::Value = serde_json::from_str(&lock).expect("a lock tells its holder");
        u32::try_from(lock["pid"].as_u64().expect("a process id")).expect("it is small")
    }

    pub fn kill_daemon(&self) {
        let pid = self.signal_daemon(Signal::KILL);
        until("the killed process is gone", || !super::servers::is_alive(pid));
    }

    fn signal_daemon(&self, signal: Signal) -> Pid {
        let pid = Pid::from_raw(self.daemon() as i32).expect("it is not 0");
        kill_process(pid, signal).expect("it runs");
        pid
    }

    pub fn up(&self) -> Run {
        self.run("host:up --detach").ok()
    }
}

/// Apache as Debian starts it: at every address.
pub fn apache(adt: &Adt) -> Foreign {
    let folder = adt.path().join("apache");
    std::fs::create_dir(&folder).expect("the home is ours");
    std::fs::write(folder.join("index.html"), "somebody's own page\n").expect("it is ours");
    let modules = ["mpm_event", "authz_core", "dir"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
    let folder = folder.display();
    let text = format!(
        "{}ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nErrorLog {folder}/error.log\n\
         DefaultRuntimeDir {folder}\nListen 80\nListen 443\nDocumentRoot {folder}\nDirectoryIndex index.html\n",
        modules.concat()
    );
    std::fs::set_permissions(adt.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let main = format!("{folder}/apache2.conf");
    std::fs::write(&main, text).expect("it is ours");
    let server = Foreign::start(adt.host(), "apache2", &["-DFOREGROUND", "-f", &main]);
    until("Apache answers", || adt.there("curl", &["-sS", "http://127.0.0.1:443/"]).contains("somebody's own page"));
    server
}

/// dnsmasq as Debian starts it: at every address.
pub fn dnsmasq(adt: &Adt) -> Foreign {
    let args = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        "--address=/their.test/192.0.2.7",
    ];
    let server = Foreign::start(adt.host(), "dnsmasq", &args);
    until("dnsmasq answers", || theirs(adt) == "192.0.2.7");
    server
}

fn theirs(adt: &Adt) -> String {
    adt.there("dig", &["@127.0.0.1", "+short", "+tries=1", "+time=1", "their.test"]).trim().to_owned()
}

#[test]
fn who_holds_the_ports_keeps_them_and_adt_works_all_the_same() {
    if !installed(&["apache2", "dnsmasq", "dig", "curl", "nft"]) {
        return;
    }
    let adt = Adt::new().alone();
    let mut others = [apache(&adt), dnsmasq(&adt)];
    let run = adt.up().says("port 53 belongs to dnsmasq (process ").says("port 443 belongs to apache2 (process ");
    let pid = others[1].pid();
    let run = run.says(&format!("dnsmasq (process {pid})"));
    assert!(run.stderr.contains("port 80 belongs to"), "{run:?}");
    let serves = |adt: &Adt| {
        assert_eq!(adt.address_of("example.test", &[]), "127.77.77.77");
        assert_eq!(adt.address_of("example.test", &["+tcp"]), "127.77.77.77");
        for url in ["https://example.test/", "http://example.test/"] {
            let page = adt.page(url);
            assert!(page.starts_with("example.test\n"), "{url}: {page}");
        }
        // Nobody else notices.
        assert!(adt.there("curl", &["-sS", "http://127.0.0.1:443/"]).contains("somebody's own page"));
        assert!(adt.there("curl", &["-sS", "http://127.0.0.1/"]).contains("somebody's own page"));
        assert_eq!(theirs(adt), "192.0.2.7");
    };
    serves(&adt);
    let tables = || adt.there("nft", &["list", "tables"]);
    assert!(tables().contains("ip adtdetour_"), "{}", tables());

    // Killed at once, with its table left behind: the next one serves.
    adt.kill_daemon();
    adt.up();
    serves(&adt);
    // Somebody loads a firewall of their own, which flushes everybody's.
    adt.host().run("nft flush ruleset");
    until("the ways around are back", || tables().contains("ip adtdetour_"));
    serves(&adt);
    adt.run("host:halt").ok();
    assert_eq!(tables(), "");
    // Killed, and never started again.
    adt.up();
    adt.kill_daemon();
    assert!(tables().contains("ip adtdetour_"));
    adt.run("host:halt").ok();
    assert_eq!(tables(), "");
    assert!(others.iter_mut().all(Foreign::runs));
    drop(others);
    // Free ports are used as they are.
    let run = adt.up();
    assert!(!run.stderr.contains("belongs to"), "{run:?}");
    assert_eq!(tables(), "");
    assert!(adt.page("https://example.test/").starts_with("example.test\n"));
    adt.run("host:halt").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn names_come_over_tls_where_the_settings_say_so() {
    if !installed(&["dig", "nft"]) {
        return;
    }
    let adt = Adt::new().alone();
    let ca = format!("+tls-ca={}", adt.store().join("tls/authority/example.test.pem").display());
    let over_tls = |adt: &Adt| adt.address_of("example.test", &["+tls", &ca, "+tls-hostname=example.test"]);
    adt.run("host:up --detach --dns-over-tls true").ok();
    assert_eq!(over_tls(&adt), "127.77.77.77");
    adt.run("host:halt").ok();
    adt.up();
    assert_eq!(adt.address_of("example.test", &[]), "127.77.77.77");
    assert_ne!(over_tls(&adt), "127.77.77.77", "nobody asked for it");
    adt.run("host:halt").ok();
    // Who wants it is told where it can't be had.
    let _holder = Foreign::start(adt.host(), "perl", &["-MIO::Socket::INET", "-e", HOLD_853]);
    until("the port is taken", || adt.there("ss", &["-Hltn"]).contains(":853"));
    adt.run("host:up --detach --dns-over-tls true").fails(7).says("over TLS at 127.77.77.77:853").says("perl (process ");
}

const HOLD_853: &str = r#"my $all = IO::Socket::INET->new(LocalAddr => "0.0.0.0:853", Listen => 1) or die; sleep 600"#;

/// Asks without end, and reads no answer.
const FLOOD: &str = r#"use Socket;
socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die;
my $to = sockaddr_in(53, inet_aton("127.77.77.77"));
my $question = "\0\1\1\0\0\1\0\0\0\0\0\0\7example\4test\0\0\1\0\1";
send($socket, $question, 0, $to) while 1"#;

#[test]
fn a_flood_of_questions_holds_up_no_halt() {
    if !installed(&["perl", "dig"]) {
        return;
    }
    let adt = Adt::new().alone();
    adt.up();
    let mut floods: Vec<_> = (0..4).map(|_| Foreign::start(adt.host(), "perl", &["-e", FLOOD])).collect();
    until("a question gets through", || adt.address_of("example.test", &["+tcp"]) == "127.77.77.77");
    adt.run("host:halt").ok();
    assert!(floods.iter_mut().all(Foreign::runs));
    drop(floods);
    adt.up();
    assert_eq!(adt.address_of("example.test", &[]), "127.77.77.77");
    adt.run("host:halt").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn an_address_that_somebody_means_is_not_taken_from_them() {
    if !installed(&["apache2", "curl"]) {
        return;
    }
    let adt = Adt::new().alone();
    let apache = apache(&adt);
    let everywhere = format!("apache2 (process {})", apache.pid());
    // 127.0.0.1 is everybody's: who asks there wants what is there already.
    let run = Adt::run(&adt, "--listen 127.0.0.1 host:up");
    run.fails(5).says("could not listen at 127.0.0.1:80").says(&everywhere);
    drop(apache);
    let one = adt.up();
    drop(one);
    // A second adt at the first one's address.
    let store = adt.path().join("other");
    let other = format!("--store {} host:up", store.display());
    let run = adt.run(&other).fails(5).says("could not listen at 127.77.77.77:53");
    assert!(run.stderr.contains(&format!("adt (process {})", adt.daemon())), "{run:?}");
    adt.run("host:halt").ok();
}

#[test]
fn a_record_that_can_not_be_read_takes_nobody_elses_name_away() {
    if !installed(&["dig"]) {
        return;
    }
    let adt = Adt::new().alone();
    let town = fakes::Host::new(adt.path());
    let make = |name| town.process("env:init").done(init(name));
    let damage = |name: &str| {
        let database = rusqlite::Connection::open(adt.store.join("adt.db")).unwrap();
        database.execute("UPDATE environments SET definition = '{}' WHERE name = ?1", [name]).unwrap();
    };
    for name in ["1", "2", "3"] {
        make(name);
    }
    damage("1");
    adt.up().says("the record of `shop/1` can't be read").says("adt env:destroy shop 1");
    let address = |name: &str| adt.address_of(&format!("www.{name}.shop.example.test"), &[]);
    assert_eq!([address("1"), address("2"), address("3")], ["", "127.77.77.77", "127.77.77.77"]);
    // One more while it serves, and what comes afterwards is followed all the same.
    damage("2");
    make("4");
    until("the new one has its name", || address("4") == "127.77.77.77");
    assert_eq!([address("2"), address("3")], ["", "127.77.77.77"]);
    let log = std::fs::read_to_string(adt.store.join("daemon.log")).unwrap();
    assert_eq!(log.matches("the record of `shop/2`").count(), 1, "{log}");
    adt.run("host:halt").ok();
    for name in ["1", "2"] {
        adt.run(&format!("env:destroy shop {name} --yes")).ok();
    }
}

#[test]
fn a_killed_one_is_succeeded_at_once() {
    if !installed(&["dig"]) {
        return;
    }
    let adt = Adt::new().alone();
    adt.up().says("127.77.77.77");
    // The kernel takes the old one down meanwhile.
    for _ in 0..20 {
        let old = adt.signal_daemon(Signal::KILL);
        adt.up();
        assert_ne!(adt.daemon(), old.as_raw_nonzero().get() as u32);
        assert_eq!(adt.address_of("example.test", &[]), "127.77.77.77");
    }
    adt.run("host:up --detach").ok().says("already");
    adt.run("host:halt").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn metrics_and_the_access_log_tell_what_was_asked() {
    if !installed(&["curl", "dig"]) {
        return;
    }
    let adt = Adt::new().alone();
    adt.up();
    assert_eq!(adt.address_of("example.test", &[]), "127.77.77.77");
    assert_eq!(adt.address_of("nobody.example.test", &[]), "");
    for url in ["https://example.test/metrics", "http://example.test/metrics"] {
        let text = adt.page(url);
        assert!(text.contains("adt_proxy_connections 1\n"), "{text}");
        assert!(text.contains("adt_dns_answers_total{code=\"0\"} 1\nadt_dns_answers_total{code=\"3\"} 1\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let post = adt.there("curl", &["-sS", "-X", "POST", "-H", "Host: example.test", "http://127.77.77.77/metrics"]);
    assert!(post.contains("can only be read"), "{post}");
    adt.run("host:halt").ok();
}

#[test]
fn few_files_may_be_open() {
    let adt = Adt::new().alone();
    let limited = |soft: u32, hard: u32| {
        let mut command: Command = adt.command(&["host:up", "--detach"]);
        let limits = rustix::process::Rlimit { current: Some(soft.into()), maximum: Some(hard.into()) };
        use std::os::unix::process::CommandExt;
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(move || Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limits)?)) };
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let shown = std::fs::read_to_string(format!("/proc/{}/limits", adt.daemon())).expect("it runs");
        let shown = shown.lines().find(|line| line.starts_with("Max open files")).expect("a limit").to_owned();
        adt.run("host:halt").ok();
        (String::from_utf8_lossy(&output.stderr).into_owned(), shown.split_whitespace().nth(3).map(str::to_owned))
    };
    let (said, limit) = limited(256, 4096);
    assert!(!said.contains("files") && limit.as_deref() == Some("4096"), "{said} {limit:?}");
    let (said, limit) = limited(256, 512);
    assert!(said.contains("only 512 files may be open here") && said.contains("LimitNOFILE"), "{said}");
    assert_eq!(limit.as_deref(), Some("512"));
}
