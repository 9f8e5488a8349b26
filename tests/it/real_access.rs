//! Who may reach a target's server: its firewall, grants, and operators who would have locked themselves out.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::adt::{Adt, Run};
use super::real_target::{self, Agent, server, ticket};

/// Longer than a change is on trial, shorter than the minute that is promised.
const MINUTE: Duration = Duration::from_secs(58);

fn there(adt: &Adt, script: &str) -> Run {
    real_target::there(adt, "hello-production", script)
}

fn answers(adt: &Adt, address: &str, port: u16) -> bool {
    let mut knock = adt.program_there("timeout");
    knock.args(["2", "bash", "-c", &format!("exec 3<>/dev/tcp/{address}/{port}")]).stderr(Stdio::null());
    knock.status().expect("timeout starts").success()
}

/// How long it takes from now until the server's ssh lets us in again.
#[track_caller]
fn until_it_answers(adt: &Adt, address: &str, since: Instant) {
    while !answers(adt, address, 22) {
        assert!(since.elapsed() < MINUTE, "locked out");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// An operator who is about to lock everybody out, as soon as the server tries that.
fn about_to_lock_out(adt: &Adt) -> std::process::Child {
    let words = ["env:promote", "hello", "1161", "production"];
    let child = adt.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let until = Instant::now() + Duration::from_secs(60);
    while there(adt, "grep -q trial /var/lib/adt/access.json && nft list tables | grep -q adtwall").code != 0 {
        assert!(Instant::now() < until, "the change is not tried");
        std::thread::sleep(Duration::from_millis(100));
    }
    child
}

#[test]
fn who_may_come_in_is_kept_out_of_nobodys_reach() {
    let Some(adt) = ticket() else { return };
    adt.run("target:rehearse production --from 1161 --keep").ok();
    let (address, print) = server(&adt, "hello-production");
    let (agent, adt) = Agent::of(adt);
    let hello = adt.here().join("hello/platform.toml");
    let shipped = std::fs::read_to_string(&hello).expect("it was made");
    let admit = |admin: &str| {
        let target = format!("[targets.production]\nservers = [\"root@{address}\"]\nhost_key = \"{print}\"\nadmin = [{admin}]\n");
        std::fs::write(&hello, format!("{shipped}\n{target}")).expect("the folder is ours");
    };
    // Where we come from, as the server sees it.
    let way = adt.program_there("ip").args(["-o", "route", "get", &address]).output().expect("ip starts").stdout;
    let way = String::from_utf8_lossy(&way).into_owned();
    let ours = way.split_whitespace().skip_while(|word| *word != "src").nth(1).expect("an address of ours").to_owned();

    admit("");
    adt.run("target:check hello production").ok().says("everybody may try its ssh");
    adt.run("target:grant hello production 203.0.113.7").fails(5).says("everybody may come already");
    let listen = "my $s = IO::Socket::INET->new(LocalPort => 8022, Listen => 5); while (my $c = $s->accept) { close $c }";
    there(&adt, &format!("systemd-run --quiet --unit other perl -MIO::Socket::INET -e '{listen}'")).ok();
    let until = Instant::now() + Duration::from_secs(20);
    while !answers(&adt, &address, 8022) {
        assert!(Instant::now() < until, "nobody listens at 8022");
        std::thread::sleep(Duration::from_millis(100));
    }

    admit(&format!("\"{ours}\""));
    adt.run("env:promote hello 1161 production --dry-run").fails(14).says(&format!("let only {ours}/32 come"));
    assert!(answers(&adt, &address, 8022), "it was only told");
    adt.run("env:promote hello 1161 production").ok();
    assert!(answers(&adt, &address, 22) && !answers(&adt, &address, 8022));
    adt.run("env:promote hello 1161 production").ok().says("nothing to do");
    adt.run("target:check hello production").ok().says(&format!("ssh: {ours}/32"));

    // For a while, and by name.
    adt.run("target:grant hello production 203.0.113.7 --for 90m").ok().says("203.0.113.7/32 may come");
    let access = adt.run("target:access hello production --json").ok().json()[0].clone();
    assert_eq!((access["in_force"].as_bool(), access["grants"][0]["network"].as_str()), (Some(true), Some("203.0.113.7/32")));
    there(&adt, "nft list ruleset | grep -q 'timeout 1h30m expires'").ok();
    adt.run("target:revoke hello production 203.0.113.7").ok();
    adt.run("target:revoke hello production 203.0.113.7").fails(5).says("it was not granted");
    adt.run("target:access hello production")
        .ok()
        .says("granted 203.0.113.7/32 for 90 min: kept")
        .says("revoked 203.0.113.7/32: kept");

    // Who writes networks that they are not in is let in again, whatever becomes of their command and of the server.
    admit("\"198.51.100.0/24\"");
    let since = Instant::now();
    adt.run("env:promote hello 1161 production").fails(8).says("the server is as before").says("is your own address in `admin`");
    until_it_answers(&adt, &address, since + Duration::from_secs(10));
    let mut child = about_to_lock_out(&adt);
    let since = Instant::now();
    child.kill().expect("it is there");
    child.wait().expect("it ends");
    assert!(!answers(&adt, &address, 22), "the drill locks nobody out");
    until_it_answers(&adt, &address, since);
    let mut child = about_to_lock_out(&adt);
    adt.run("env:halt rehearsal hello-production").ok();
    let _ = child.wait().expect("it ends");
    adt.run("env:up rehearsal hello-production").ok();
    until_it_answers(&adt, &address, Instant::now());
    there(&adt, "systemctl is-active adt-access.service && nft list tables | grep adtwall").ok().says("adtwall");
    there(&adt, "grep trial /var/lib/adt/access.json").fails(1);

    // Somebody loads another firewall.
    there(&adt, "nft flush ruleset").ok();
    admit(&format!("\"{ours}\""));
    adt.run("target:check hello production").fails(13).says("its firewall is not in force");
    adt.run("env:promote hello 1161 production").ok();
    there(&adt, "nft list tables | grep -q adtwall").ok();
    admit("");
    adt.run("env:promote hello 1161 production").ok();
    there(&adt, "! nft list tables | grep -q adtwall && ! ls /etc/systemd/system/adt-access.service /var/lib/adt/access.json")
        .ok();

    drop(agent);
    adt.run("env:destroy rehearsal hello-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
