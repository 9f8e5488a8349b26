//! The host goes down without a word and comes back: what was up comes up again, with its data.

use super::adt::Adt;

const TINY: &str = "[platform]\nname = \"tiny\"\nsummary = \"Two machines\"\n\
    [machines.node]\nbox = \"debian\"\ncount = 2\nmemory = \"128M\"\n";

/// `up` or another word for each environment, in the order of their names.
fn states(adt: &Adt) -> Vec<String> {
    let list = adt.run("env:list --json").ok().json();
    let list = list.as_array().expect("a list");
    list.iter().map(|one| format!("{} {}", one["name"], one["state"]).replace('"', "")).collect()
}

#[test]
fn what_was_up_comes_back_after_a_power_cut() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", TINY);
    adt.run("platform:init tiny").ok();
    for name in ["a", "b", "c"] {
        adt.run(&format!("env:init {name}")).ok();
        adt.run(&format!("env:exec {name} node2 -- sh -c hostname>/root/kept;sync")).ok();
        adt.run(&format!("env:exec {name} node2 -- touch /root/touched")).ok();
    }
    adt.run("env:halt c").ok();

    for name in ["a", "b", "c"] {
        adt.cut_power(&format!("tiny/{name}"));
    }
    adt.host.as_ref().expect("it is alone").run("nft flush ruleset");
    assert_eq!(states(&adt), ["a down", "b down", "c halted"]);
    adt.run("env:check a").fails(13).says("adt env:up tiny a");

    adt.run("platform:up").ok().says("a, b");
    assert_eq!(states(&adt), ["a up", "b up", "c halted"]);
    for name in ["a", "b"] {
        adt.run(&format!("env:exec {name} node2 -- test -e /root/touched")).ok();
        adt.run(&format!("env:check {name}")).ok();
    }

    adt.run("platform:halt").ok();
    assert_eq!(states(&adt), ["a halted", "b halted", "c halted"]);
    adt.run("platform:halt").ok();
    adt.run("platform:up").ok();
    assert_eq!(states(&adt), ["a up", "b up", "c halted"]);

    // One that can't boot any more keeps no other down.
    adt.run("env:exec b node1 -- rm /sbin/init /lib/systemd/systemd").ok();
    adt.run("platform:halt").ok();
    let told = adt.run("platform:up").fails(8);
    assert!(told.stderr.contains("tiny/b/node1") && !told.stderr.contains("tiny/a/"), "{}", told.stderr);
    let after = states(&adt);
    assert_eq!(after, ["a up", "b partial", "c halted"]);
    adt.run("env:exec a -- true").ok();
    adt.run("env:exec b node2 -- true").ok();
    adt.run("env:up c").ok();
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
