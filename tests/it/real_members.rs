//! A member of the group `adt` uses real machines without sudo: the same words, the same output, the same exit codes, terminals and
//! Ctrl-C included. What the session does for them, it does for nobody's files but theirs.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::adt::{Adt, Run};
use super::leftovers::kill;
use super::members::{ADA, EVE, Town};
use super::real_logs_unit::Manager;
use super::servers::{installed, until};
use super::terminal::Terminal;

const TINY: &str = "[platform]\nname = \"tiny\"\nsummary = \"Two\"\n[machines.node]\nbox = \"debian\"\ncount = 2\n";

fn town() -> Option<Town> {
    let town = Town::of(Adt::real()?);
    let folder = town.adt.platform_toml("tiny", TINY);
    for path in [folder.clone(), folder.join("platform.toml")] {
        chown(path, Some(ADA.1), Some(ADA.1)).expect("we are root");
    }
    town.run("platform:init tiny").ok();
    town.run("env:init 1").ok();
    Some(town)
}

fn end(town: &Town) {
    town.run("platform:destroy tiny --yes").ok();
    until("the sessions are gone", || town.sessions().is_empty());
    town.adt.run("host:halt").ok();
    assert_eq!(town.adt.leftovers(), Vec::<String>::new());
}

/// The same words with sudo and without.
fn same(town: &Town, words: &[&str]) -> Run {
    let told = words.join(" ");
    let (with, without) = (Run::of(&mut town.sudo(words), &told), Run::of(&mut town.command(words), &told));
    assert_eq!((with.code, &with.stdout, &with.stderr), (without.code, &without.stdout, &without.stderr), "adt {told}");
    without
}

#[test]
fn the_same_output_and_exit_codes_as_with_sudo() {
    let Some(town) = town() else { return };
    let list = town.run("env:list --json").ok().json();
    assert_eq!(list[0]["owner"], "ada");
    for words in ["env:list --json", "env:show 1 --json"] {
        let split: Vec<_> = words.split_whitespace().collect();
        let (with, without) = (Run::of(&mut town.sudo(&split), words).ok(), town.run(words).ok());
        assert_eq!(still(with.json()), still(without.json()), "adt {words}");
    }
    for words in [
        "env:urls 1",
        "platform:list",
        "site:list 1",
        "box:list",
        "env:up 1",
        "env:init 1",
        "env:up 1 --dry-run",
        "env:show nothing",
        "env:exec 1 nothing -- true",
        "env:exec 1 node1 -- no-such-program",
        "env:exec 1 node1 -- /etc/passwd",
        "env:destroy 1",
        "env:init A_B",
        "env:logs 1 --grep ( --machine node1",
        "env:logs 1 --machine nothing",
        "env:cp 1 nothing node1:/tmp/",
        "env:cp 1 node1:/no/such/file .",
        "env:cp 1 node1:/etc/hostname /etc/nowhere/at/all",
    ] {
        same(&town, &words.split_whitespace().collect::<Vec<_>>());
    }
    for script in ["exit 7", "kill -9 $$", "echo out; echo err >&2; exit 3"] {
        same(&town, &["env:exec", "1", "node1", "--", "sh", "-c", script]);
        same(&town, &["env:ssh", "1", "node1", "--", "sh", "-c", script]);
    }
    assert_eq!(same(&town, &["env:exec", "1", "--", "sh", "-c", "test $(hostname) = node1"]).code, 1);
    let both = town.run("env:exec 1 node1 node2 -- hostname").ok();
    assert!(both.stdout.contains("node1 | node1\n") && both.stdout.contains("node2 | node2\n"), "{both:?}");
    town.run("env:exec 1 node1 -- logger -t mine said-by-a-machine").ok();
    let logs = || town.run("env:logs 1 --grep said-by-a-machine --json");
    until("the record", || logs().stdout.contains("said-by-a-machine"));
    same(&town, &["env:logs", "1", "--grep", "said-by-a-machine"]);
    same(&town, &["env:logs", "1", "--grep", "said-by-a-machine", "--json"]);
    follows(&town);
    pipes(&town);
    files(&town);
    end(&town);
}

/// Without what a machine that runs changes by itself.
fn still(mut value: serde_json::Value) -> serde_json::Value {
    match &mut value {
        serde_json::Value::Object(map) => {
            map.remove("disk");
            map.values_mut().for_each(|value| *value = still(value.take()));
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(|value| *value = still(value.take())),
        _ => {}
    }
    value
}

fn follows(town: &Town) {
    let mut command = town.command(&["env:logs", "1", "--follow", "--machine", "node1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    // One of them comes after it has begun to follow.
    let mut number = 0;
    let mut seen = false;
    while !seen && number < 100 {
        number += 1;
        town.run(&format!("env:exec 1 node1 -- logger -t mine followed-{number}")).ok();
        seen = lines.next().expect("it goes on").expect("text").contains("followed-");
    }
    assert!(seen);
    kill(child.id() as i32, Signal::INT);
    assert_eq!(child.wait().expect("it is ours").code(), Some(0));
}

fn pipes(town: &Town) {
    // Any bytes, five megabytes of them, both ways at once.
    let mut bytes = vec![0; 5 << 20];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("the kernel has random bytes");
    let mut cat = town.command(&["env:ssh", "1", "node1", "--", "cat"]);
    let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    let copy = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy).expect("it reads"));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("it wrote");
    assert!(output.status.success() && output.stdout == bytes, "{} bytes came back", output.stdout.len());

    // No more of the input is taken than the program reads: from a pipe, and from a file.
    // As a shell would have it.
    let adt = format!("{:?}", town.command(&["env:exec", "1", "node1", "--"]));
    for feed in ["printf '1\\n2\\n3\\n' |", "printf '1\\n2\\n3\\n' >lines; <lines"] {
        let script = format!("{feed} sh -c 'while read -r line; do {adt} true; echo read-$line; done'");
        let output = Command::new("sh").arg("-c").arg(&script).current_dir(town.adt.path()).output().expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(text, "read-1\nread-2\nread-3\n", "{script}");
    }
    // Whoever wants no more ends it.
    let script = format!("{adt} yes | head -n 2");
    let output = Command::new("sh").arg("-c").arg(&script).output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "y\ny\n");
}

/// Files come and go as the person's own: what they can't read or write, root does not read or write for them.
fn files(town: &Town) {
    let here = town.adt.here();
    std::fs::create_dir_all(here.join("tree/inner")).expect("the folder is there");
    std::fs::write(here.join("tree/inner/script"), "#!/bin/sh\nexit 3\n").expect("the folder is there");
    std::fs::set_permissions(here.join("tree/inner/script"), PermissionsExt::from_mode(0o755)).expect("it is ours");
    std::os::unix::fs::symlink("inner/script", here.join("tree/link")).expect("the folder is there");
    same(town, &["env:cp", "1", "tree", "node1:/srv/"]).ok().says("is at `tiny/1/node1:/srv/`");
    town.run("env:exec 1 node1 -- /srv/tree/link").fails(3);
    town.run("env:exec 1 node1 -- stat -c %U:%N /srv/tree/link").ok().says("root:").says("->");
    town.run("env:cp 1 node1:/srv/tree back").ok();
    let back = std::fs::metadata(here.join("back/inner/script")).expect("it came back");
    assert_eq!((back.uid(), back.mode() & 0o777), (ADA.1, 0o755));
    assert_eq!(std::fs::read_link(here.join("back/link")).expect("a link").to_str(), Some("inner/script"));

    let shadow = std::fs::read_to_string(town.adt.at("/etc/shadow")).expect("we are root");
    let run = town.run("env:cp 1 /etc/shadow node1:/srv/stolen");
    assert!(run.code != 0 && run.stderr.contains("Permission denied"), "{run:?}");
    let stolen = town.run("env:exec 1 node1 -- cat /srv/stolen");
    assert!(stolen.stdout.is_empty(), "{stolen:?}");
    let run = town.run("env:cp 1 node1:/etc/hostname /etc/adt-test-planted");
    assert!(run.code != 0 && run.stderr.contains("Permission denied"), "{run:?}");
    assert!(!town.adt.at("/etc/adt-test-planted").exists());
    let run = town.run("env:cp 1 node1:/etc/shadow /etc/shadow");
    assert_ne!(run.code, 0);
    assert_eq!(std::fs::read_to_string(town.adt.at("/etc/shadow")).expect("we are root"), shadow);
    // A link that leads there goes as a link, and what it leads to in the machine is the machine's.
    std::os::unix::fs::symlink("/etc/shadow", here.join("link")).expect("the folder is there");
    town.run("env:cp 1 link node1:/srv/stolen").ok();
    town.run("env:exec 1 node1 -- stat -c %N /srv/stolen").ok().says("-> '/etc/shadow'");
    // Somebody else's folder.
    let home = town.adt.path().join("eve");
    assert_ne!(town.run(&format!("env:cp 1 node1:/etc/hostname {}/planted", home.display())).code, 0);
    assert_eq!(std::fs::metadata(&home).expect("it is there").uid(), EVE.1);
    assert_eq!(std::fs::read_dir(&home).expect("we are root").count(), 0);
}

#[test]
fn terminals_and_ctrl_c() {
    let Some(town) = town() else { return };
    let mut shell = Terminal::open(&town.command(&["env:ssh", "1", "node1"]), 33, 101);
    shell.shows("node1");
    shell.types("stty size; tty\r");
    shell.shows("33 101");
    shell.shows("/dev/pts/");
    shell.resize(44, 120);
    // The way of a new size is not that of keys.
    shell.types("until stty size | grep 44; do sleep 0.1; done\r");
    shell.shows("44 120");
    shell.types("sh -c 'trap \"echo caught; exit\" INT; echo rea\"\"dy; while :; do sleep 0.1; done'\r");
    shell.shows("ready");
    shell.types("\x03");
    shell.shows("caught\r\n");
    shell.types("echo still-$((40+2))\r");
    shell.shows("still-42");
    shell.types("exit 7\r");
    assert_eq!(shell.end(), 7);

    // Not joined to a terminal inside, Ctrl-C reaches the program all the same.
    let mut shell =
        Terminal::open(&town.command(&["env:exec", "1", "--", "sh", "-c", "echo rea\"\"dy; exec sleep 1000"]), 24, 80);
    // On both machines: one that is about to start would not hear of it.
    shell.shows("ready");
    shell.shows("ready");
    shell.types("\x03");
    assert_eq!(shell.end(), 130);

    let mut question = Terminal::open(&town.command(&["env:destroy", "1"]), 24, 80);
    question.shows("Go on? [y/N]");
    question.types("\x03");
    question.shows("you stopped it; nothing was changed");
    assert_eq!(question.end(), 130);
    let mut question = Terminal::open(&town.command(&["env:destroy", "1"]), 24, 80);
    question.shows("Go on? [y/N]");
    question.types("y\r");
    question.shows("`tiny/1` is destroyed");
    assert_eq!(question.end(), 0);

    town.run("env:init 1").ok();
    let mut console = Terminal::open(&town.command(&["env:ssh", "1", "node1", "--console"]), 24, 80);
    console.shows("joined the console");
    console.types("\r");
    console.shows("login:");
    console.types("\x1d\x1d");
    assert_eq!(console.end(), 0);
    end(&town);
}

#[test]
fn whoever_vanishes_leaves_what_a_ctrl_c_leaves() {
    let Some(town) = town() else { return };
    // The client in the middle of a verb: the session ends at its next step, and the next command goes on.
    let mut client = town.command(&["env:init", "2", "--json"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(client.stdout.take().expect("it was piped")).lines();
    lines.next().expect("it tells of itself").expect("text");
    client.kill().expect("it runs");
    client.wait().expect("it is ours");
    until("its session has ended", || town.sessions().is_empty());
    town.run("env:init 2").ok();
    town.run("env:exec 2 node1 -- true").ok();

    // The session in the middle of one: the client says so.
    let child = town.command(&["env:init", "3", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    lines.next().expect("it tells of itself").expect("text");
    town.sessions().into_iter().for_each(|pid| kill(pid, Signal::KILL));
    let last = lines.map(|line| line.expect("text")).last().expect("it says why");
    assert!(last.contains("the session that worked for you was ended"), "{last}");
    assert_eq!(child.wait().expect("it is ours").code(), Some(8));
    town.run("env:init 3").ok();

    // A program goes with its client.
    let mut sleeper = town.command(&["env:exec", "1", "node1", "--", "sh", "-c", "echo ready; exec sleep 4711"]);
    let mut sleeper = sleeper.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(sleeper.stdout.take().expect("it was piped")).read_line(&mut line).expect("text");
    sleeper.kill().expect("it runs");
    sleeper.wait().expect("it is ours");
    until("the program has ended", || town.run("env:exec 1 node1 -- pgrep -f sleep.4711").code == 1);
    end(&town);
}

/// What adt writes for the host's systemd: people are let in, and what they started goes on while the unit is started anew.
#[test]
fn the_unit_lets_members_in_and_what_they_started_outlives_it() {
    if !installed(&["systemctl"]) {
        return;
    }
    let Some(town) = town() else { return };
    town.adt.run("host:halt").ok();
    // A host that systemd runs, as far as files tell.
    town.adt.host().run("mount -t tmpfs adt-test-run /run");
    town.adt.host().run("mkdir -p /run/systemd/system");
    town.adt.run("host:bootstrap");
    let unit = std::fs::read_to_string(town.adt.at("/etc/systemd/system/adt-commands.service")).expect("bootstrap wrote it");
    let manager = Manager::start(&town.adt);
    std::fs::write(manager.units.join("adt-commands.service"), unit).expect("the folder is ours");
    assert_eq!(manager.control(&["daemon-reload"]), "");
    assert_eq!(manager.control(&["start", "adt-commands.service"]), "");
    town.run("env:init 2").ok();
    let mut reader = town.command(&["env:exec", "2", "node1", "--", "cat"]);
    let mut reader = reader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let (mut keys, screen) = (reader.stdin.take().expect("piped"), reader.stdout.take().expect("piped"));
    let mut screen = BufReader::new(screen);
    let mut echo = |text: &str| {
        keys.write_all(text.as_bytes()).expect("it reads");
        let mut line = String::new();
        screen.read_line(&mut line).expect("text");
        assert_eq!(line, text);
    };
    echo("before\n");
    assert_eq!(manager.control(&["restart", "adt-commands.service"]), "");
    echo("after\n");
    town.run("env:exec 2 node1 -- systemctl is-system-running --wait").ok().says("running");
    drop(keys);
    assert_eq!(reader.wait().expect("it is ours").code(), Some(0));
    town.run("platform:destroy tiny --yes").ok();
    until("the sessions are gone", || town.sessions().is_empty());
    drop(manager);
    town.adt.host().run("umount /run");
    assert_eq!(town.adt.leftovers(), Vec::<String>::new());
}
