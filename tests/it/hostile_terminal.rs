//! Programs in machines that would like to have the terminal of whoever called them.

use std::process::Command;

use super::adt::Adt;
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

#[test]
fn the_callers_terminal_is_never_a_machines() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", "[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"debian\"\n");
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
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
