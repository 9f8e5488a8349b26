//! `kill -9` at any moment of any verb: the same verb again converges, and `destroy` leaves nothing.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use super::adt::Adt;
use super::leftovers::kill;

/// When and how far a killing goes.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Right after this many event lines.
    line: usize,
    later: Duration,
    /// Also everything that the program has started and that still belongs to it.
    family: bool,
}

/// A fixed sequence, so that what failed once fails again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// The `round`th of `rounds` points of a verb that tells of itself in about `lines` lines.
    fn point(&mut self, round: usize, rounds: usize, lines: usize) -> Point {
        let later = if self.roll(2) == 0 { 0 } else { self.roll(60) };
        Point { line: 1 + round * lines / rounds, later: Duration::from_millis(later), family: self.roll(3) == 0 }
    }
}

/// Runs a verb and kills it there. False when it came to its end first.
fn killed(adt: &Adt, words: &str, point: Point) -> bool {
    let mut split: Vec<_> = words.split_whitespace().collect();
    split.push("--json");
    let mut command = adt.command(&split);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    // Fewer lines than that: it has ended.
    for _ in 0..point.line {
        if lines.next().is_none() {
            break;
        }
    }
    std::thread::sleep(point.later);
    let pid = i32::try_from(child.id()).expect("process numbers are small");
    if point.family {
        // Stopped first, or it could have another child meanwhile.
        kill(pid, Signal::STOP);
        for descendant in descendants(pid) {
            kill(descendant, Signal::KILL);
        }
    }
    kill(pid, Signal::KILL);
    child.wait().expect("it is ours").signal() == Some(9)
}

fn descendants(of: i32) -> Vec<i32> {
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let entries = std::fs::read_dir("/proc").expect("there are processes").flatten();
    let pids: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let pairs: Vec<_> = pids.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(one) = found.get(next).copied() {
        found.extend(pairs.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Kills a verb, runs it again, and says whether it was killed at work.
#[track_caller]
fn again(adt: &Adt, words: &str, point: Point) -> usize {
    let was = killed(adt, words, point);
    let run = adt.run(words);
    assert_eq!(run.code, 0, "`{words}` after a kill at {point:?}:\n{}{}", run.stdout, run.stderr);
    usize::from(was)
}

fn tiny(count: u32, memory: u32) -> String {
    format!(
        "[platform]\nname = \"tiny\"\nsummary = \"Two machines\"\n\
         [machines.node]\nbox = \"debian\"\ncount = {count}\nmemory = \"{memory}M\"\n"
    )
}

#[track_caller]
fn state(adt: &Adt, point: &str) -> String {
    let list = adt.run("env:list --json").ok().json();
    let state = list[0]["state"].as_str().unwrap_or_else(|| panic!("no environment after {point}"));
    state.to_owned()
}

/// All machines run, answer, and have what was written before.
#[track_caller]
fn is_up(adt: &Adt, name: &str) {
    adt.run(&format!("env:check {name}")).ok();
    assert_eq!(state(adt, name), "up");
}

#[test]
fn a_killed_verb_converges() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let folder = adt.platform_toml("tiny", &tiny(2, 160));
    adt.run("platform:init tiny").ok();
    let mut dice = Dice(0x5eed_0ad7);
    let mut kills = 0;
    const ROUNDS: usize = 9;
    for round in 0..ROUNDS {
        let mut point = |lines| dice.point(round, ROUNDS, lines);
        let name = format!("{}", round % 3);
        kills += again(&adt, &format!("env:init {name}"), point(14));
        is_up(&adt, &name);
        adt.run(&format!("env:exec {name} node1 -- touch /root/kept")).ok();

        kills += again(&adt, &format!("env:halt {name}"), point(8));
        assert_eq!(state(&adt, "halt"), "halted");
        kills += again(&adt, &format!("env:up {name}"), point(14));
        is_up(&adt, &name);

        let (count, memory) = if round % 2 == 0 { (3, 192) } else { (2, 160) };
        std::fs::write(folder.join("platform.toml"), tiny(count, memory)).expect("the folder is ours");
        kills += again(&adt, &format!("env:reload {name}"), point(16));
        is_up(&adt, &name);
        let limit = adt.limit(&format!("tiny/{name}"), "node1", ["memory.limit_in_bytes", "memory.max"]);
        assert_eq!(limit, (u64::from(memory) << 20).to_string());
        let machines = adt.run("env:list --json").json()[0]["machines"].as_object().map(serde_json::Map::len);
        assert_eq!(machines, Some(count as usize));

        kills += again(&adt, "platform:halt tiny", point(8));
        assert_eq!(state(&adt, "platform:halt"), "halted");
        kills += again(&adt, "platform:up tiny", point(14));
        is_up(&adt, &name);
        adt.run(&format!("env:exec {name} node1 -- test -f /root/kept")).ok();

        let killed_init = Point { line: 6, later: Duration::from_millis(5 * round as u64), family: round % 2 == 0 };
        kills += again(&adt, &format!("env:destroy {name} --yes"), point(8));
        assert_eq!(adt.leftovers(), Vec::<String>::new(), "round {round}");
        // Destroyed right after a kill, without anything in between.
        kills += usize::from(killed(&adt, &format!("env:init {name}"), killed_init));
        adt.run(&format!("env:destroy {name} --yes")).ok();
        assert_eq!(adt.leftovers(), Vec::<String>::new(), "round {round}: destroyed after a kill at {killed_init:?}");
    }
    eprintln!("{kills} kills");
    assert!(kills >= 50, "only {kills} of the kills came in time");
}

#[test]
fn a_killed_build_converges() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let folder = adt.platform_toml("tiny", &tiny(2, 160));
    adt.run("platform:init tiny").ok();
    let recipe = folder.join("boxes/brew");
    std::fs::create_dir_all(&recipe).expect("the folder is ours");
    let text = "[box]\nsummary = \"Tea\"\nfrom = { box = \"debian\" }\n[[steps]]\nscript = \"setup.sh\"\n";
    std::fs::write(recipe.join("box.toml"), text).expect("the folder is ours");
    let mut dice = Dice(0xb0b);
    let mut kills = 0;
    const ROUNDS: usize = 7;
    for round in 0..ROUNDS {
        let script = format!("echo round {round}\nsleep 0.1\necho {round} > /etc/brewed\n");
        std::fs::write(recipe.join("setup.sh"), script).expect("the folder is ours");
        kills += again(&adt, "box:build brew", dice.point(round, ROUNDS, 15));
        assert_eq!(adt.run("box:show brew --json").ok().json()["built"], true);
        assert_eq!(adt.leftovers(), Vec::<String>::new(), "round {round}");
    }
    // Nobody builds it again: a prune takes what is left.
    std::fs::write(recipe.join("setup.sh"), "echo never\n").expect("the folder is ours");
    kills += usize::from(killed(&adt, "box:build brew", Point { line: 4, later: Duration::ZERO, family: true }));
    adt.run("box:prune --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
    assert!(kills >= 6, "only {kills} of the kills came in time");
}
