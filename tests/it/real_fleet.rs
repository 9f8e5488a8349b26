//! One environment over three servers: machines of this host that are hosts themselves, tied to each other by WireGuard.

use super::adt::{Adt, Run};
use super::real_target::{Agent, is_proven, promotion, ticket};

const TARGET: &str = r#"
[targets.production]
servers = ["root@a.example", "root@b.example", "root@c.example"]

[targets.production.machines.web]
on = ["a.example", "b.example"]

[targets.production.machines.db]
on = ["c.example"]
"#;

/// A shell on one of the rehearsed servers, not by way of its network.
fn on(adt: &Adt, server: &str, script: &str) -> Run {
    Run::of(&mut adt.command(&["env:exec", "rehearsal", "hello-production", server, "--", "sh", "-c", script]), script)
}

#[test]
fn an_environment_stands_on_three_servers() {
    let Some(adt) = ticket() else { return };
    let hello = adt.here().join("hello/platform.toml");
    let shipped = std::fs::read_to_string(&hello).expect("it was made");
    std::fs::write(&hello, format!("{shipped}{TARGET}")).expect("the folder is ours");
    let run = adt.run("target:rehearse hello production --from 1161 --keep --json").ok();
    println!("{}", run.stderr);
    let proof = promotion(&run);
    println!("{proof:#}");
    is_proven(&proof);
    for server in ["server1", "server2", "server3"] {
        println!(
            "{:?}",
            on(&adt, server, "adt env:list; wg show; ip -br a; ip r; nft list ruleset | grep -A20 adttie; cat /etc/hosts")
        );
    }
    println!(
        "{:?}",
        on(
            &adt,
            "server1",
            "adt env:check hello/production; curl -sk -H 'Host: www.production.hello.example.test' https://127.0.0.1/ -D- | head -40"
        )
    );
}
