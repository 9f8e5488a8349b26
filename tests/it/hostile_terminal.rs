//! Programs in machines that would like to have the terminal of whoever called them.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::adt::Adt;
use super::servers::until;
use super::terminal::Terminal;

/// Runs `adt …` by a shell at a terminal: `script` has it as `"$@"`.
fn shell(adt: &Adt, script: &str, words: &[&str]) -> Terminal {
    let own = adt.command(words);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Terminal::open(&command, 24, 200)
}

/// Whatever of 0, 1 and 2 is a terminal: types into it, tries to become its owner, and writes to it again once nobody waits.
const ATTACK: &str = r#"
for my $fd (0, 1, 2) {
    open(my $file, "+<&=", $fd) or next;
    ioctl($file, 0x5412, my $key = $_) for split //, "typed\n";
    ioctl($file, 0x540E, 1);
    open(my $again, "+>", "/proc/self/fd/$fd");
    if ($again) { ioctl($again, 0x5412, my $key = $_) for split //, "typed\n"; }
}
print STDERR "device ", join(" ", map { (stat "/proc/self/fd/$_")[0] // 0 } 0, 1, 2), " end\n";
$SIG{PIPE} = $SIG{HUP} = "IGNORE";
exit 7 if fork;
open(my $left, ">", "/tmp/daemon");
sleep 1;
syswrite(STDIN, "LATER 0\n"); syswrite(STDOUT, "LATER 1\n"); syswrite(STDERR, "LATER 2\n");
print $left "wrote\n";
"#;

/// An environment `1` with so many machines: `one`, or `one1` and `one2`.
fn machines(count: usize) -> Option<Adt> {
    let adt = Adt::real()?.alone();
    let count = if count == 1 { String::new() } else { format!("count = {count}\n") };
    let text = format!("[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"debian\"\n{count}");
    adt.platform_toml("tiny", &text);
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    Some(adt)
}

#[test]
fn the_callers_terminal_is_never_a_machines() {
    let Some(adt) = machines(1) else { return };
    let before = "echo host $(stat -L -c %d /proc/self/fd/0) end; ";
    let after = "; echo code $?; read line; echo \"got [$line]\"";
    // Which of the three are the caller's terminal; the others are pipes that it gave away itself.
    let ways = [
        ("all", "012", "\"$@\"".to_owned()),
        ("input and errors", "02", "{ \"$@\"; echo code $? >&2; } | cat".to_owned()),
        ("output and errors", "12", "echo | \"$@\"".to_owned()),
        ("errors", "2", "{ echo | \"$@\"; echo code $? >&2; } | cat".to_owned()),
        ("input", "0", "\"$@\" 2>&1 >/dev/null | cat".to_owned()),
    ];
    for verb in ["env:exec", "env:ssh"] {
        for (name, terminals, way) in &ways {
            adt.run("env:exec 1 one -- rm -f /tmp/daemon").ok();
            let words = [verb, "1", "one", "--", "perl", "-e", ATTACK];
            let mut terminal = shell(&adt, &format!("{before}{way}{after}"), &words);
            terminal.shows("host ");
            let host = terminal.until(" end");
            terminal.shows("device ");
            let inside = terminal.until(" end");
            assert!(!inside.split(' ').any(|device| device == host), "{verb}, {name}: {host} in {inside}");
            terminal.shows("code ");
            // The one that it left behind had its say.
            let words =
                ["env:exec", "1", "one", "--", "timeout", "15", "sh", "-c", "until test -s /tmp/daemon; do sleep 0.1; done"];
            assert!(adt.command(&words).status().expect("it starts").success(), "{verb}, {name}");
            terminal.types("mine\r");
            let seen = terminal.until("got [mine]");
            let late = terminals.chars().any(|fd| seen.contains(&format!("LATER {fd}")));
            assert!(!late && !seen.contains("typed"), "{verb}, {name}: {seen}");
            assert_eq!(terminal.end(), 0, "{verb}, {name}");
        }
    }
    // What people use it for.
    let mut all =
        shell(&adt, "\"$@\"; echo code $?", &["env:exec", "1", "one", "--", "sh", "-c", "tty; read a; echo [$a]; exit 7"]);
    all.shows("/dev/pts/");
    all.types("word\r");
    all.shows("[word]");
    all.shows("code 7");
    all.end();
    let mut piped = shell(&adt, "\"$@\" | cat; echo done", &["env:exec", "1", "one", "--", "sh", "-c", "read a; echo [$a]"]);
    piped.types("word\r");
    piped.shows("[word]");
    piped.shows("done");
    piped.end();
    let waits =
        ["env:exec", "1", "one", "--", "sh", "-c", "trap 'echo caught; exit 5' INT; echo rea''dy; while :; do sleep 0.1; done"];
    let mut stopped = shell(&adt, "trap : INT; \"$@\" | (trap '' INT; cat)", &waits);
    stopped.shows("ready");
    stopped.types("\x03");
    stopped.shows("caught");
    stopped.end();
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Looks at each of 0, 1 and 2 and does to it what only a file allows, now and once nobody waits.
const GRAB: &str = r#"
$SIG{PIPE} = "IGNORE";
for my $fd (0, 1, 2) {
    open(my $file, "+<&=", $fd) or open($file, ">&=", $fd) or open($file, "<&=", $fd) or next;
    seek $file, 0, 0;
    truncate $file, 0;
    open(my $again, "+<", "/proc/self/fd/$fd") and sysread($again, my $read, 100) if $fd != 0;
    print STDERR "read $read
" if $read;
    open($again, ">", "/proc/self/fd/0") and syswrite $again, "written
" if $fd == 0;
}
print STDOUT "out
"; print STDERR "err
";
exit 7 if fork;
open(my $left, ">", "/tmp/daemon");
sleep 1;
syswrite(STDOUT, "LATER 1
"); syswrite(STDERR, "LATER 2
");
seek STDOUT, 0, 0; truncate STDOUT, 0; truncate STDERR, 0;
print $left "wrote
";
"#;

#[test]
fn the_callers_files_are_never_a_machines() {
    let Some(adt) = machines(1) else { return };
    let file = |name: &str| adt.path().join(name);
    let open = |name: &str| fs::File::options().read(true).append(true).create(true).open(file(name)).expect("the home is ours");
    let text = |name: &str| fs::read_to_string(file(name)).expect("it is there");
    for (name, words) in [("in", "mine in\n"), ("out", "secret out\n"), ("err", "secret err\n")] {
        fs::write(file(name), words).expect("the home is ours");
    }
    let words = ["env:exec", "1", "one", "--", "perl", "-e", GRAB];
    let status = adt.command(&words).stdin(open("in")).stdout(open("out")).stderr(open("err")).status().expect("it starts");
    assert_eq!(status.code(), Some(7));
    let wait = ["env:exec", "1", "one", "--", "timeout", "15", "sh", "-c", "until test -s /tmp/daemon; do sleep 0.1; done"];
    assert!(adt.command(&wait).status().expect("it starts").success());
    assert_eq!(
        (text("in"), text("out"), text("err")),
        ("mine in\n".into(), "secret out\nout\n".into(), "secret err\nerr\n".into())
    );

    // What people use it for: any bytes in and out, into one file in their order, and no line of the caller's list is lost.
    let mut bytes = vec![0; 3 << 20];
    fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).expect("the kernel has random bytes");
    fs::write(file("bytes"), &bytes).expect("the home is ours");
    let cat = ["env:exec", "1", "one", "--", "cat"];
    let (from, to) =
        (fs::File::open(file("bytes")).expect("it is there"), fs::File::create(file("copy")).expect("the home is ours"));
    assert!(adt.command(&cat).stdin(from).stdout(to).status().expect("it starts").success());
    assert!(fs::read(file("copy")).expect("it is there") == bytes);
    let script = |script: &str| {
        let own = adt.command(&["env:exec", "1", "one", "--"]);
        let mut command = Command::new("bash");
        command.args(["-c", script, "sh"]).arg(own.get_program()).args(own.get_args()).current_dir(adt.path());
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for (what, says) in [
        (
            "\"$@\" sh -c 'for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done' >both 2>&1; tr -d '\\n' <both",
            "o1e1o2e2o3e3o4e4o5e5o6e6o7e7o8e8o9e9",
        ),
        ("seq 3 >list; while read n; do \"$@\" true; echo $n; done <list | tr -d '\\n'", "123"),
        ("seq 3 | while read n; do \"$@\" echo $n; done | tr -d '\\n'", "123"),
        ("seq 9 | { \"$@\" sh -c 'read a; read b; echo $a-$b'; cat; } | tr -d '\\n'", "1-23456789"),
        ("seq 9 >list; { \"$@\" sh -c 'read a; read b; echo $a-$b'; cat; } <list | tr -d '\\n'", "1-23456789"),
        ("\"$@\" cat <&- ; echo code $?", "code 0"),
        ("set -o pipefail; \"$@\" yes | head -n 1; echo code ${PIPESTATUS[*]}", "y\ncode 141 0"),
        ("\"$@\" echo much >/dev/full; echo code $?", "No space left on device (os error 28)"),
        ("\"$@\" sh -c 'kill -TERM $$'; echo code $?", "code 143"),
        ("\"$@\" sh -c 'sleep 1000 & echo started' | cat", "started"),
        ("head -c 300000 /dev/zero | \"$@\" wc -c", "300000"),
        ("\"$@\" head -c 1000000 /dev/zero | wc -c", "1000000"),
    ] {
        let said = script(what);
        assert!(said.contains(says), "{what}: {said}");
    }
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// A title, the clipboard, a link, a question that is answered by typing, a cleared screen, another direction, a bell.
const EVIL: &str =
    "\x1b]0;TITLE\x07\x1b]52;c;cm0=\x1b\\\x1b]8;;file:///\x1b\\\x1b[c\x1b[2J\x1b[?1049h\u{9b}2J\u{202e}\x07\x1b[31mred";

/// No sequence but colours, no other control character.
#[track_caller]
fn is_harmless(screen: &str) {
    let mut rest = screen;
    while let Some(at) = rest.find(|c: char| (c.is_control() && !"\r\n\t".contains(c)) || c == '\u{202e}') {
        let colour =
            rest[at..].strip_prefix("\x1b[").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        let Some(next) = colour.and_then(|rest| rest.strip_prefix('m')) else { panic!("{:?} in {screen:?}", &rest[at..]) };
        rest = next;
    }
}

#[test]
fn what_machines_print_steers_no_terminal() {
    let Some(adt) = machines(2) else { return };
    for machine in ["one1", "one2"] {
        let into = ["env:exec", "1", machine, "--", "sh", "-c", "cat >/tmp/evil"];
        let mut child = adt.command(&into).stdin(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().expect("it was piped").write_all(format!("{EVIL}\n").as_bytes()).expect("it reads");
        assert!(child.wait().expect("it is ours").success());
    }
    // Lines of several machines, on both ways.
    for way in ["cat /tmp/evil", "cat /tmp/evil >&2"] {
        let mut terminal = shell(&adt, "\"$@\"; echo end", &["env:exec", "1", "--", "sh", "-c", way]);
        let seen = terminal.until("end\r\n");
        assert!(seen.contains("one1") && seen.contains("one2") && seen.contains("red"), "{seen:?}");
        is_harmless(&seen);
        terminal.end();
    }
    // Who reads it elsewhere gets what was printed.
    let piped = adt.run("env:exec 1 -- cat /tmp/evil").ok().stdout;
    assert_eq!(piped.matches(EVIL).count(), 2, "{piped:?}");
    let exact = adt.command(&["env:exec", "1", "one1", "--", "cat", "/tmp/evil"]).output().expect("it starts").stdout;
    assert_eq!(exact, format!("{EVIL}\n").as_bytes());
    // What failed says why: a `tar` of the machine's, and a journal's reader.
    let script = "for name in tar journalctl; do printf '#!/bin/sh\ncat /tmp/evil >&2\nexit 3\n' >/usr/local/sbin/$name; \
                  chmod 755 /usr/local/sbin/$name; done";
    assert!(adt.command(&["env:exec", "1", "one1", "--", "sh", "-c", script]).status().expect("it starts").success());
    for words in [["env:cp", "1", "one1:/etc/passwd", "/tmp/none"].as_slice(), &["env:logs", "1", "--machine", "one1"]] {
        let mut terminal = shell(&adt, "\"$@\"; echo end", words);
        let seen = terminal.until("end\r\n");
        assert!(seen.contains("red"), "{seen:?}");
        is_harmless(&seen);
        terminal.end();
        let said = adt.command(words).output().expect("it starts");
        is_harmless(&String::from_utf8_lossy(&said.stderr));
    }
    // JSON says all of it, in letters.
    let failed = adt.command(&["env:cp", "1", "one1:/etc/passwd", "/tmp/none", "--json"]).output().expect("it starts").stdout;
    let failed = String::from_utf8(failed).expect("JSON is text");
    is_harmless(&failed);
    let last = failed.lines().last().expect("it failed");
    let told: serde_json::Value = serde_json::from_str(last).expect("it is JSON");
    assert!(told["failure"]["tail"].to_string().contains("TITLE"), "{failed}");
    // Names that a repository or a person chose.
    let folder = format!("evil{EVIL}");
    let mut terminal = shell(&adt, "\"$@\"; echo end", &["platform:init", &format!("./{}", folder.replace('/', ""))]);
    let seen = terminal.until("end\r\n");
    assert!(seen.contains("evil"), "{seen:?}");
    is_harmless(&seen);
    terminal.end();
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_shell_inside_has_jobs_and_leaves_the_terminal_as_it_was() {
    let Some(adt) = machines(1) else { return };
    let kept = "saved=$(stty -g); \"$@\"; echo code $?; test \"$(stty -g)\" = \"$saved\" && echo as it was";
    let mut inside = shell(&adt, kept, &["env:ssh", "1", "one"]);
    inside.types("PS1='re''ady '\r");
    inside.shows("ready ");
    // Stopped and gone on with by the keys, which reach the job in front only.
    inside.types("sh -c 'echo beg''un; exec sleep 1000'\r");
    inside.shows("begun");
    inside.types("\x1a");
    inside.shows("Stopped");
    inside.types("jobs; bg; sh -c 'trap \"echo fro''nt; exit\" INT; echo sta''rted; while :; do sleep 0.1; done'\r");
    inside.shows("started");
    inside.types("\x03");
    inside.shows("front\r\n");
    inside.types("jobs; fg\r");
    inside.shows("Running");
    inside.shows("exec sleep 1000' &\r\n");
    inside.shows("exec sleep 1000'\r\n");
    // The shell names the job before it hands over the terminal; a key in between would reach the shell.
    until("the job in front", || adt.run("env:exec 1 one -- ps -C sleep -o stat=").ok().stdout.contains('+'));
    inside.types("\x03");
    inside.shows("ready ");
    inside.types("echo $?\r");
    inside.shows("130");
    // The window's size reaches a program that runs.
    inside.types("sh -c 'trap \"stty size; exit\" WINCH; echo wai''ting; while :; do sleep 0.1; done'\r");
    inside.shows("waiting");
    inside.resize(41, 123);
    inside.shows("41 123");
    inside.types("stty raw -echo; exit 5\r");
    inside.shows("code 5");
    inside.shows("as it was");
    assert_eq!(inside.end(), 0);

    let mut console = shell(&adt, kept, &["env:ssh", "1", "one", "--console"]);
    console.shows("joined the console");
    console.types("\r");
    console.shows("login:");
    // Once is a key like others.
    console.types("\x1dx\r");
    console.shows("Password:");
    console.types("\x1d\x1d");
    console.shows("code 0");
    console.shows("as it was");
    assert_eq!(console.end(), 0);

    // Killed in the middle, by the host.
    let killed = format!("trap : TERM; {kept}");
    let mut killed = shell(&adt, &killed, &["env:ssh", "1", "one", "--", "sh", "-c", "echo in''side; exec sleep 1000"]);
    killed.shows("inside");
    adt.run("env:exec 1 one -- pkill -KILL -x sleep").ok();
    killed.shows("code 137");
    killed.shows("as it was");
    assert_eq!(killed.end(), 0);
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
