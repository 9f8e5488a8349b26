//! A server that lies: `ssh` is replaced by a program that says what a hostile or broken one might. And an operator who lies to a
//! server.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::Arc;

use adt::model::EnvironmentId;
use adt::model::target::Back;
use adt::wire::asker::end_of;
use adt::wire::frame::{self, Patient, Reader};
use adt::wire::{Asker, End, Open, Serve, Stream};

use super::adt::{Adt, Run};

const SHOP: &str = "[platform]
name = \"shop\"
[machines.web]
box = \"debian\"
[targets.production]
servers = [\"root@a.example:2222\"]
host_key = \"SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDPP6/HFWVSCSWQXRk\"
";

/// What `target:check` makes of a server whose connection is this script.
fn check(script: &str) -> (Adt, Run) {
    let adt = Adt::new();
    let bin = adt.path().join("bin");
    std::fs::create_dir(&bin).expect("the folder is ours");
    let ssh = bin.join("ssh");
    let calls = adt.path().join("calls");
    let text = format!("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done >>{}\n{script}\n", calls.display());
    std::fs::write(&ssh, text).expect("the folder is ours");
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).expect("the file is ours");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let adt = adt.env("PATH", &path);
    adt.platform_toml("shop", SHOP);
    adt.run("platform:init shop").ok();
    let run = adt.run("target:check production");
    (adt, run)
}

/// The script's first line, with the hash of some adt.
const DOOR: &str = "echo adt-door 1 0 Linux $(uname -m) $(printf %064d 0) no 1000000";

#[test]
fn a_server_that_says_anything_else_is_refused_with_a_reason() {
    let cases = [
        ("exit 255", "exit code 255"),
        ("echo hello", "`ssh`"),
        ("yes | tr -d '\\n'", "more than a login would"),
        ("yes", "more than a login would"),
        ("echo adt-door 1 1000 Linux x86_64 none no 0; cat >/dev/null", "is not root there"),
        ("echo adt-door 1 0 Plan9 mips none no 0; cat >/dev/null", "it is Plan9 on mips"),
        ("echo adt-door 2 all is well; cat >/dev/null", "not what the script there prints"),
        ("echo adt-door 1 0 Linux $(uname -m) none no 0; cat >/dev/null", "nothing was promoted there"),
        (&format!("{DOOR}; exit 1"), "exit code 1"),
        (&format!("{DOOR}; head -c 1000 /dev/zero; cat >/dev/null"), "unknown kind 0"),
        // A greeting of four gigabytes, and one that is none.
        (&format!("{DOOR}; printf '\\377\\377\\377\\377\\001\\000\\000\\000\\000'; cat >/dev/null"), "are the most"),
        (
            &format!("{DOOR}; printf '\\000\\000\\000\\002\\001\\000\\000\\000\\000{{}}'; cat >/dev/null"),
            "greeting is unreadable",
        ),
    ];
    for (script, why) in cases {
        let (_adt, run) = check(script);
        run.fails(13).says(why);
    }
}

#[test]
fn what_a_server_says_gives_a_terminal_no_commands() {
    let (_adt, run) = check("printf '\\033[2J\\033]0;evil\\007 go away\\n' >&2; exit 255");
    assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{run:?}");
    run.fails(13).says("go away");
}

#[test]
fn ssh_gets_the_address_as_a_host_and_nothing_of_a_configuration_as_an_option() {
    let (adt, run) = check("exit 255");
    run.fails(13);
    let calls = std::fs::read_to_string(adt.path().join("calls")).expect("it was called");
    let words: Vec<_> = calls.lines().collect();
    let end = words.iter().position(|word| *word == "--").expect("options have an end");
    assert_eq!(words[end + 1], "a.example");
    assert_eq!(words.len(), end + 3, "the script is one word");
    assert!(
        words.contains(&"StrictHostKeyChecking=yes") && words.contains(&"BatchMode=yes") && words.contains(&"ControlPath=none")
    );
    // What could be more than a host is none.
    for server in ["root@-oProxyCommand=id", "root@a.example -oProxyCommand=id", "-oProxyCommand=id@a", "root@a;id", "root@$(id)"]
    {
        adt.platform_toml("shop", &SHOP.replace("root@a.example:2222", server));
        adt.run("target:check production").fails(3).says("is not the address of a server");
    }
    assert_eq!(
        std::fs::read_to_string(adt.path().join("calls")).expect("it was called"),
        calls,
        "ssh was called for one of them"
    );
}

/// A session of this program, and the one that asks it.
struct Session {
    child: Child,
    asker: Asker,
}

impl Session {
    fn new(adt: &Adt, verb: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let end = || OwnedFd::from(theirs.try_clone().expect("a copy"));
        let mut command = adt.command(&[verb]);
        let child = command.stdin(end()).stdout(end()).stderr(Stdio::null()).spawn().expect("the program starts");
        drop((command, theirs));
        let reader = Reader::new(Patient::from(OwnedFd::from(ours.try_clone().expect("a copy"))), frame::ANSWERED);
        let asker = Asker::greet(reader, ours, "env:promote 1161 production".into(), &Arc::default()).expect("it greets");
        Self { child, asker }
    }

    /// How it ended, in words where it failed.
    fn ask(&self, serve: Serve, input: &[u8]) -> Result<End, String> {
        let channel = self.asker.channel(&Open::Serve(serve), &[(Stream::Told, 1 << 20)]).expect("it is there");
        // Who takes no more of it has a reason, which comes at the end.
        let _ = channel.send(Stream::In, input).and_then(|()| channel.finish(Stream::In));
        end_of(&channel).map_err(|failure| failure.to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.asker.leave();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn id() -> EnvironmentId {
    EnvironmentId { platform: "shop".parse().expect("a name"), name: "production".parse().expect("a name") }
}

fn hold() -> Serve {
    Serve::Hold { id: id(), by: "ada\u{1b}[2J@laptop".into() }
}

#[track_caller]
fn refused(end: Result<End, String>, why: &str) {
    let said = end.expect_err("it was done");
    assert!(said.contains(why), "{said}");
}

#[test]
fn who_comes_through_the_services_socket_operates_no_target() {
    let adt = Adt::new();
    let session = Session::new(&adt, "internal:session");
    for serve in [hold(), Serve::Layers, Serve::Releases, Serve::Settle, Serve::Standing { id: id(), read: Vec::new() }] {
        refused(session.ask(serve, b""), "only root may");
    }
}

#[test]
fn an_operator_who_sends_anything_else_changes_nothing() {
    let adt = Adt::new();
    let session = Session::new(&adt, "internal:server");
    let define = |input: &[u8]| {
        let (from, by) = (EnvironmentId { name: "1161".parse().expect("a name"), ..id() }, "ada".to_owned());
        session.ask(Serve::Define { id: id(), by, from, seat: None, dry_run: false }, input)
    };
    refused(define(b"{}"), "has not said that it is at it");
    session.ask(hold(), b"").expect("nobody else is at it");
    session.ask(hold(), b"").expect("it is at it already");
    // Another one hears who that is, without what the other's terminal would take for commands.
    let other = Session::new(&adt, "internal:server");
    refused(other.ask(hold(), b""), "`env:promote 1161 production` of ada[2J@laptop");
    refused(define(b""), "understand the definition");
    refused(define(b"{}"), "understand the definition");
    refused(define(&vec![b' '; 20 << 20]), "take the definition");
    let machine = |platform: &str, layer: &str| {
        format!(
            r#"{{"platform":{{"name":"{platform}","summary":"","domain":null,"machines":[{{"role":"web","summary":"","boxed":{{"name":"debian"}},
            "count":null,"limits":{{"memory_bytes":null,"cpus":null,"processes":null}},"after":[],"data":[],"provision":[]}}],"sites":[],"folder":""}},
            "domain":"example.test","boxes":{{"web":{{"layers":["{layer}"],"health":{{"checks":[],"deadline_seconds":1}}}}}},"numbers":{{"web":2}}}}"#
        )
    };
    let digest = "a".repeat(64);
    refused(define(machine("other", &digest).as_bytes()), "the definition is one of `other`");
    refused(define(machine("shop", &digest).as_bytes()), "is not here");
    refused(define(machine("shop", "../../etc").as_bytes()), "understand the definition");
    refused(
        define(machine("shop", &digest).replace("\"numbers\":{\"web\":2}", "\"numbers\":{}").as_bytes()),
        "does not say what `web`",
    );
    refused(session.ask(Serve::Layers, b"no layer at all"), "take in the layers");
    refused(session.ask(Serve::Releases, b"no release at all"), "take in the releases");
    refused(
        session.ask(Serve::Rollback { id: id(), by: "ada".into(), back: Back::default(), dry_run: false }, b""),
        "nothing was promoted",
    );
    assert!(!adt.store().join("promotions").exists());
    adt.run("env:list").ok().says("no environments");
    // Who went away lets go.
    drop(session);
    other.ask(hold(), b"").expect("nobody is at it any more");
}
