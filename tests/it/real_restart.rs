//! Nobody is turned away while the service of a server is replaced, restarted or killed: curl asks from outside all the while.

use super::adt::Adt;
use super::real_target::{self, ticket};
use super::servers::until;
use super::visitors::{KEPT, Visitors, Way, failed};

const SITE: &str = "https://www.shop.example/healthz";

fn there(adt: &Adt, script: &str) -> String {
    real_target::there(adt, "hello-production", script).ok().stdout
}

/// How many sockets systemd keeps.
fn kept(adt: &Adt) -> u32 {
    there(adt, "systemctl show adt -p NFileDescriptorStore --value").trim().parse().expect("a number")
}

fn restarted(adt: &Adt, script: &str) {
    let pid = || there(adt, "systemctl show adt -p MainPID --value").trim().to_owned();
    let before = pid();
    there(adt, script);
    until("another process serves", || {
        let now = pid();
        now != before && now != "0" && there(adt, "systemctl is-active adt || true").trim() == "active"
    });
    // Five within ten seconds are too many for systemd.
    there(adt, "systemctl reset-failed adt || true");
}

/// Some of all visitors asked again since.
fn visited(visitors: &Visitors) {
    let before = visitors.answered();
    until("it is asked all the while", || visitors.answered() > before + 20);
}

#[test]
fn nobody_is_turned_away_while_the_service_is_replaced() {
    let Some(adt) = ticket() else { return };
    let hello = adt.here().join("hello/platform.toml");
    let shipped = std::fs::read_to_string(&hello).expect("it was made");
    let target = "\n[targets.production]\nservers = [\"root@203.0.113.7\"]\nnames = { www = [\"www.shop.example\"] }\n";
    std::fs::write(&hello, format!("{shipped}{target}")).expect("the folder is ours");
    adt.run("target:rehearse production --from 1161 --keep").ok();
    let (address, _) = real_target::server(&adt, "hello-production");
    let ways = [&KEPT[..], &[Way::Anew, Way::Anew]].concat();
    let visitors = || Visitors::of(&adt, &address, SITE, &ways);

    let before = kept(&adt);
    assert!(before > 10, "{before}: the doors of names, pages and of the world");
    let all = visitors();
    for _ in 0..5 {
        visited(&all);
        restarted(&adt, "systemctl restart adt");
    }
    // As a promotion does that brings another adt.
    let replace = "cd /usr/local/bin && cp adt .new && mv .new adt && adt host:bootstrap";
    for _ in 0..2 {
        visited(&all);
        restarted(&adt, replace);
    }
    visited(&all);
    all.end_well();
    assert_eq!(kept(&adt), before, "what is kept is used again");

    // Killed, only what ran at that instant is lost, and nobody finds a closed port.
    let all = visitors();
    let kills = 3;
    for _ in 0..kills {
        visited(&all);
        restarted(&adt, "kill -9 $(systemctl show adt -p MainPID --value)");
    }
    visited(&all);
    let told = all.end();
    let lost = failed(&told);
    assert!(lost.len() <= kills * ways.len() && lost.iter().all(|line| !line.ends_with(" 7")), "{lost:?}");
    eprintln!("{} of {} requests ran when it was killed", lost.len(), told.len());

    // A unit of an adt that knew nothing of this keeps nothing, and serves all the same.
    there(&adt, "sed -i '/^FileDescriptorStoreMax/d' /etc/systemd/system/adt.service && systemctl daemon-reload");
    restarted(&adt, "systemctl restart adt");
    assert_eq!(kept(&adt), 0);
    let one =
        || adt.program_there("curl").args(["-sk", "--max-time", "20", "--connect-to", &format!("::{address}:"), SITE]).status();
    until("it serves", || one().expect("curl starts").success());
    restarted(&adt, "adt host:bootstrap");
    assert_eq!(kept(&adt), before);

    // A stop closes all doors, and so does a service that never comes up again: nobody waits unseen.
    assert_eq!(one().expect("curl starts").code(), Some(0));
    there(&adt, "systemctl stop adt");
    assert_eq!((kept(&adt), one().expect("curl starts").code()), (0, Some(7)));
    there(&adt, "systemctl start adt");
    until("it serves", || one().expect("curl starts").success());
    there(&adt, "mv /usr/local/bin/adt /usr/local/bin/.away; kill -9 $(systemctl show adt -p MainPID --value)");
    until("it is given up", || one().expect("curl starts").code() == Some(7));
    there(&adt, "mv /usr/local/bin/.away /usr/local/bin/adt; systemctl reset-failed adt; systemctl start adt");
    until("it serves", || one().expect("curl starts").success());
    // Names that go take their doors along, also those that systemd has.
    there(&adt, "adt env:destroy hello production --yes");
    until("the world's door is closed", || one().expect("curl starts").code() == Some(7));
    assert!(kept(&adt) < before);

    adt.run("env:destroy rehearsal hello-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
