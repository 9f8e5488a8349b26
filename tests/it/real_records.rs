//! The records of a target, by whole promotions: the zone's servers are a real Bind, and a real Knot that gets it from there.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::adt::Adt;
use super::real_target::{self, Agent, killed_at, ticket};
use super::servers::installed;

const KEY: &str = "key \"adt\" {\n\talgorithm hmac-sha256;\n\tsecret \"b3VycyBvdXJzIG91cnMgb3VycyBvdXJzIG91cnMgISE=\";\n};\n";

const ZONE: &str = "$TTL 300
@ IN SOA ns1 ops 1 3600 600 86400 60
@ IN NS ns1
@ IN NS ns2
ns1 IN A 127.0.0.1
ns2 IN A 127.0.0.3
";

/// Both name servers, on the host of the test alone.
struct Zone<'a> {
    adt: &'a Adt,
    bind: Child,
    knot: Child,
}

impl<'a> Zone<'a> {
    fn serve(adt: &'a Adt) -> Self {
        let folder = adt.path().join("zone");
        for name in ["", "bind", "knot"] {
            std::fs::create_dir(folder.join(name)).expect("the home is new");
        }
        let path = folder.display();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("it is ours");
        write("bind/zone", ZONE);
        write("key", KEY);
        set_mode(adt, 0o640);
        write(
            "bind/conf",
            &format!(
                "options {{ directory \"{path}/bind\"; pid-file \"{path}/bind/pid\"; session-keyfile \"{path}/bind/session\"; recursion no;\n\
                 listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; allow-transfer {{ 127.0.0.0/8; }}; notify-delay 0; }};\ncontrols {{ }};\n\
                 include \"{path}/key\";\n\
                 zone \"shop.example\" {{ type primary; file \"zone\"; update-policy {{ grant adt zonesub ANY; }}; }};\n"
            ),
        );
        write(
            "knot/conf",
            &format!(
                "server:\n    rundir: {path}/knot\n    listen: 127.0.0.3@53\n    pidfile: {path}/knot/pid\ndatabase:\n    storage: {path}/knot\n\
                 remote:\n  - id: bind\n    address: 127.0.0.1@53\nacl:\n  - id: bind\n    address: 127.0.0.0/8\n    action: notify\n\
                 zone:\n  - domain: shop.example\n    file: {path}/knot/zone\n    master: bind\n    acl: bind\n"
            ),
        );
        let start = |program: &str, words: &[&str], conf: &str| {
            let log = std::fs::File::create(folder.join(format!("{program}.log"))).expect("it is ours");
            let mut command = adt.program_there(program);
            let command = command.args(words).arg(folder.join(conf)).stdout(log.try_clone().expect("it is open")).stderr(log);
            command.spawn().expect("it is installed")
        };
        let bind = start("named", &["-g", "-n", "1", "-c"], "bind/conf");
        let zone = Self { adt, bind, knot: start("knotd", &["-c"], "knot/conf") };
        zone.says("127.0.0.1", "ns1.shop.example", "127.0.0.1");
        zone.says("127.0.0.3", "ns1.shop.example", "127.0.0.1");
        zone
    }

    fn ask(&self, server: &str, name: &str, kind: &str) -> String {
        let mut dig = self.adt.program_there("dig");
        let output = dig.args([&format!("@{server}"), "+noall", "+answer", "+time=2", name, kind]).output().expect("dig starts");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[track_caller]
    fn says(&self, server: &str, name: &str, address: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.ask(server, name, "A");
            if said.split_whitespace().last().unwrap_or_default() == address {
                return;
            }
            assert!(Instant::now() < until, "{name} at {server}: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn by_hand(&self, changes: &str) {
        let mut nsupdate = self.adt.program_there("nsupdate");
        let nsupdate = nsupdate.arg("-k").arg(self.adt.path().join("zone/key")).stdin(Stdio::piped());
        let mut child = nsupdate.spawn().expect("it is installed");
        let text = format!("server 127.0.0.1\nzone shop.example\n{changes}\nsend\n");
        std::io::Write::write_all(&mut child.stdin.take().expect("it is piped"), text.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ends").success(), "{changes}");
    }

    fn signal_knot(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.knot), signal).expect("it runs");
    }
}

impl Drop for Zone<'_> {
    fn drop(&mut self) {
        for child in [&mut self.bind, &mut self.knot] {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["named", "knotd"] {
                let log = std::fs::read_to_string(self.adt.path().join(format!("zone/{name}.log")));
                eprintln!("{}", log.unwrap_or_default());
            }
        }
    }
}

fn set_mode(adt: &Adt, mode: u32) {
    std::fs::set_permissions(adt.path().join("zone/key"), PermissionsExt::from_mode(mode)).expect("it is ours");
}

/// The names of the site, and where they are entered.
fn target(adt: &Adt, server: &str, names: &str) {
    let hello = adt.here().join("hello/platform.toml");
    let text = std::fs::read_to_string(&hello).expect("it was made");
    let text = text.split("\n[targets.production]").next().expect("a split has a first part");
    let key = adt.path().join("zone/key");
    let target = format!(
        "{text}\n[targets.production]\n{server}\nnames = {{ www = [{names}] }}\n\
         [targets.production.records]\nserver = \"127.0.0.1\"\nzone = \"shop.example\"\nkey_file = \"{}\"\n",
        key.display()
    );
    std::fs::write(&hello, target).expect("the folder is ours");
}

const PROMOTE: &str = "env:promote hello 1161 production";
const BOTH: &str = "\"www.shop.example\", \"old.shop.example\"";

#[test]
fn a_promotion_enters_its_names_and_proves_them_at_every_server() {
    if !installed(&["named", "knotd", "nsupdate", "dig"]) {
        return;
    }
    let Some(adt) = ticket() else { return };
    target(&adt, "servers = [\"root@203.0.113.7\"]", BOTH);
    // Nobody answers for the zone, and nobody is asked.
    adt.run("target:rehearse production --from 1161 --keep").ok().says("no record of a name is touched");
    let (address, print) = real_target::server(&adt, "hello-production");
    let server = format!("servers = [\"root@{address}\"]\nhost_key = \"{print}\"");
    let (agent, adt) = Agent::of(adt);
    target(&adt, &server, BOTH);
    adt.run(PROMOTE).fails(3).says("zone/key");
    let zone = Zone::serve(&adt);
    set_mode(&adt, 0o644);
    adt.run(PROMOTE).fails(3).says("everybody on this computer may read").says("chmod 640");
    set_mode(&adt, 0o640);

    // All but the records is there already.
    adt.run(&format!("{PROMOTE} --dry-run")).fails(14).says(&format!("record: `www.shop.example` leads to {address}"));
    assert_eq!(zone.ask("127.0.0.1", "www.shop.example", "A"), "");
    adt.run(PROMOTE).ok().says(&format!("leads to {address} at `127.0.0.1` and `ns2.shop.example`"));
    zone.says("127.0.0.3", "old.shop.example", &address);
    adt.run(PROMOTE).ok().says("nothing to do");
    adt.run("target:check hello production").ok().says(&format!("leads to {address} at"));

    moved_by_hand(&adt, &zone, &address);
    names_come_and_go(&adt, &zone, &server, &address);

    drop(zone);
    drop(agent);
    adt.run("env:destroy rehearsal hello-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// What somebody entered is found and mended, but not where it is theirs; one server that is silent fails the proof.
fn moved_by_hand(adt: &Adt, zone: &Zone, address: &str) {
    let elsewhere = "update delete www.shop.example A\nupdate add www.shop.example 3600 A 198.51.100.9";
    zone.by_hand(elsewhere);
    adt.run("target:check hello production").fails(13).says("instead of 198.51.100.9").says("env:promote");
    zone.says("127.0.0.3", "www.shop.example", "198.51.100.9");
    zone.signal_knot(Signal::STOP);
    adt.run(PROMOTE).fails(13).says("which who asked before may keep for 3600 s").says("`ns2.shop.example` gives no answer");
    zone.signal_knot(Signal::CONT);
    assert!(zone.ask("127.0.0.1", "www.shop.example", "A").contains("\t60\t"), "it is not proven, so it stays short");
    adt.run(PROMOTE).ok().says("may be kept for 300 s, not 60");
    assert!(zone.ask("127.0.0.1", "www.shop.example", "A").contains("\t300\t"));
    zone.says("127.0.0.3", "www.shop.example", address);

    zone.by_hand(&format!("{elsewhere}\nupdate delete _adt.www.shop.example TXT"));
    let theirs = adt.run(PROMOTE).fails(5);
    theirs.says("leads to 198.51.100.9 already, and adt did not enter that").says("IN TXT \"adt hello/production\"");
    adt.run("target:check hello production").fails(13).says("adt did not enter that");
    zone.by_hand("update add _adt.www.shop.example 300 TXT \"adt hello/production\"");
    adt.run(PROMOTE).ok();
    zone.says("127.0.0.1", "www.shop.example", address);
}

/// Names are part of what is promoted, and so of the way back.
fn names_come_and_go(adt: &Adt, zone: &Zone, server: &str, address: &str) {
    target(adt, server, "\"www.shop.example\"");
    adt.run(&format!("{PROMOTE} --dry-run")).fails(14).says("remove the record of `old.shop.example`");
    // Killed while it enters them, the same command goes on.
    killed_at(adt, PROMOTE, "records: changing");
    adt.run(PROMOTE).ok();
    for kind in ["A", "TXT"] {
        assert_eq!(zone.ask("127.0.0.1", "old.shop.example", kind), "");
        assert_eq!(zone.ask("127.0.0.1", "_adt.old.shop.example", kind), "");
    }
    let back = "env:rollback hello production";
    adt.run(&format!("{back} --dry-run")).fails(14).says(&format!("record: `old.shop.example` leads to {address}"));
    adt.run(back).ok();
    zone.says("127.0.0.1", "old.shop.example", address);
}
