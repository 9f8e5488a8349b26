//! What goes wrong on real hosts: machines that don't boot, full disks, failing scripts, two terminals, Ctrl-C, foreign hands.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::adt::Adt;
use super::leftovers::kill;

fn tiny(more: &str) -> String {
    format!(
        "[platform]\nname = \"tiny\"\nsummary = \"Two machines\"\n\
         [machines.node]\nbox = \"debian\"\ncount = 2\nmemory = \"160M\"\n{more}"
    )
}

fn recipe(platform: &Path, name: &str, health: &str, script: &str) {
    let folder = platform.join("boxes").join(name);
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    let text =
        format!("[box]\nsummary = \"A test\"\nfrom = {{ box = \"debian\" }}\n{health}\n[[steps]]\nscript = \"setup.sh\"\n");
    std::fs::write(folder.join("box.toml"), text).expect("the folder is ours");
    std::fs::write(folder.join("setup.sh"), script).expect("the folder is ours");
}

fn state(adt: &Adt, name: &str) -> String {
    let list = adt.run("env:list --json").ok().json();
    let one = list.as_array().expect("a list").iter().find(|one| one["name"] == name).cloned();
    one.map_or("absent".into(), |one| one["state"].as_str().expect("a word").to_owned())
}

/// A verb at work in another terminal.
struct Terminal {
    child: Child,
    begun: Instant,
}

impl Terminal {
    fn open(adt: &Adt, words: &str) -> Self {
        let split: Vec<_> = words.split_whitespace().collect();
        let mut command = adt.command(&split);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("it starts");
        Self { child, begun: Instant::now() }
    }

    /// Waits for so many lines of `--json`.
    fn lines(&mut self, count: usize) {
        let stdout = self.child.stdout.as_mut().expect("it was piped");
        let mut lines = BufReader::with_capacity(1, stdout).lines();
        for _ in 0..count {
            lines.next();
        }
    }

    fn signal(&self, signal: Signal) {
        kill(i32::try_from(self.child.id()).expect("process numbers are small"), signal);
    }

    fn end(mut self) -> (i32, String, Instant, Instant) {
        let mut text = String::new();
        self.child.stdout.take().expect("it was piped").read_to_string(&mut text).expect("text");
        self.child.stderr.take().expect("it was piped").read_to_string(&mut text).expect("text");
        let code = self.child.wait().expect("it is ours").code().unwrap_or(-1);
        (code, text, self.begun, Instant::now())
    }
}

#[test]
fn a_machine_that_does_not_boot_is_shown_and_the_others_stay() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let folder = adt.platform_toml("tiny", &tiny("[machines.bad]\nbox = \"frail\"\n"));
    // systemd itself will listen, once somebody asks it to.
    let script = "cd /etc/systemd/system
printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n[Install]\\nWantedBy=multi-user.target\\n' > broken.service
printf '[Service]\\nType=oneshot\\nExecStart=/bin/systemctl poweroff --force --force\\n[Install]\\nWantedBy=multi-user.target\\n' > dies.service
printf '[Socket]\\nListenStream=9999\\nAccept=yes\\n[Install]\\nWantedBy=sockets.target\\n' > port.socket
printf '[Service]\\nExecStart=/bin/cat\\nStandardInput=socket\\n' > port@.service
systemctl enable broken.service
";
    recipe(&folder, "frail", "[health]\ntcp = 9999\ndeadline = 4", script);
    adt.run("platform:init tiny").ok();
    adt.run("platform:build").ok();
    let since = Instant::now();
    let failed = adt.run("env:init 1").fails(9).says("tiny/1/bad").says("within 4 s").says("broken.service");
    assert!(since.elapsed() < Duration::from_secs(14), "{:?}", since.elapsed());
    assert!(failed.stderr.contains("login:") || failed.stderr.contains("console"), "no console: {}", failed.stderr);
    assert_eq!(failed.stderr.matches("error:").count(), 1, "{}", failed.stderr);
    adt.run("env:exec 1 node1 node2 -- true").ok();
    adt.run("env:check 1").fails(13).says("broken.service");
    adt.run("env:exec 1 bad -- systemctl enable --now port.socket").ok();
    adt.run("env:exec 1 bad -- systemctl disable broken.service").ok();
    adt.run("env:exec 1 bad -- systemctl reset-failed").ok();
    adt.run("env:up 1").ok();
    adt.run("env:check 1").ok();
    adt.run("env:halt 1").ok();
    adt.run("env:up 1").ok();

    adt.run("env:exec 1 bad -- systemctl enable dies.service").ok();
    adt.run("env:exec 1 bad -- systemctl disable port.socket").ok();
    adt.run("env:halt 1").ok();
    adt.run("env:up 1").fails(8).says("it went halted while starting");
    assert_eq!(state(&adt, "1"), "partial");
    adt.run("env:exec 1 node1 -- true").ok();
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_script_that_fails_leaves_no_half_box() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let folder = adt.platform_toml("tiny", &tiny(""));
    adt.run("platform:init tiny").ok();
    recipe(&folder, "brew", "", "echo first words\necho last words >&2\nexit 42\n");
    let layers = std::fs::read_dir(adt.store().join("layers")).expect("there are layers").count();
    adt.run("box:build brew").fails(8).says("exit code 42").says("last words").says("script setup.sh");
    assert_eq!(std::fs::read_dir(adt.store().join("layers")).expect("there are layers").count(), layers);
    assert_eq!(adt.leftovers(), Vec::<String>::new());
    assert_eq!(adt.run("box:show brew --json").ok().json()["built"], false);
    recipe(&folder, "brew", "", "echo fine\n");
    adt.run("box:build brew").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Leaves this many kilobytes free.
fn fill(adt: &Adt, kilobytes: u64) {
    let file = adt.store().join("ballast");
    drop(std::fs::remove_file(&file));
    let stat = rustix::fs::statvfs(adt.store().as_path()).expect("it is mounted");
    let free = stat.f_bavail * stat.f_frsize;
    let ballast = std::fs::File::create(&file).expect("one more file");
    let length = free.saturating_sub(kilobytes * 1024);
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length).expect("it fits");
}

#[test]
fn a_full_disk_is_told_and_the_same_verb_converges() {
    let Some(adt) = Adt::real() else { return };
    // A store on a small disk; the layers of the boxes are elsewhere.
    let home = adt.store.clone();
    std::fs::remove_dir_all(&home).expect("only links are in there");
    std::fs::create_dir(&home).expect("it was there before");
    let adt = adt.disk(120);
    let folder = adt.platform_toml("tiny", &tiny(""));
    adt.run("platform:init tiny").ok();
    for kilobytes in [0, 40, 100] {
        fill(&adt, kilobytes);
        adt.run("env:init 1").fails(10).says("free some space");
        fill(&adt, 60_000);
        adt.run("env:init 1").ok();
        adt.run("env:halt 1").ok();
        fill(&adt, 0);
        adt.run("env:up 1").fails(10).says("free some space");
        fill(&adt, 60_000);
        adt.run("env:up 1").ok();
        adt.run("env:check 1").ok();
        adt.run("env:destroy 1 --yes").ok();
        assert_eq!(adt.leftovers(), Vec::<String>::new(), "{kilobytes} kB were left");
    }
    // With next to nothing left, what takes space can still be destroyed.
    adt.run("env:init 2").ok();
    fill(&adt, 300);
    adt.run("env:destroy 2 --yes").ok();
    fill(&adt, 60_000);

    let script = "echo brewing\nhead -c 40000000 /dev/zero > /var/big\n";
    recipe(&folder, "brew", "", script);
    fill(&adt, 20_000);
    adt.run("box:build brew").fails(10).says("No space left on device").says("adt box:prune");
    assert_eq!(adt.leftovers(), Vec::<String>::new());
    fill(&adt, 70_000);
    adt.run("box:build brew").ok();
}

#[test]
fn two_terminals() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", &tiny(""));
    adt.run("platform:init tiny").ok();
    let mut first = Terminal::open(&adt, "env:init 1 --json");
    first.lines(1);
    adt.run("env:halt 1").ok().says("waiting for tiny/1: `env:init 1 --json` of").says("is halted");
    let (code, text, ..) = first.end();
    assert_eq!(code, 0, "{text}");
    assert_eq!(state(&adt, "1"), "halted");

    let [one, two] = ["env:init 2", "env:init 3"].map(|words| Terminal::open(&adt, words)).map(Terminal::end);
    assert_eq!((one.0, two.0), (0, 0), "{}\n{}", one.1, two.1);
    assert!(two.2 < one.3, "they did not overlap");
    assert_eq!([state(&adt, "2"), state(&adt, "3")], ["up", "up"]);
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn ctrl_c() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", &tiny(""));
    adt.run("platform:init tiny").ok();
    for lines in [2, 4, 6] {
        let mut terminal = Terminal::open(&adt, "env:init 1 --json");
        terminal.lines(lines);
        terminal.signal(Signal::INT);
        let (code, text, ..) = terminal.end();
        assert_eq!(code, 130, "{text}");
        assert!(text.contains("`adt env:init 1 --json` goes on"), "no command goes on after {lines} lines: {text}");
        let after = state(&adt, "1");
        adt.run("env:up 1").ok();
        adt.run("env:check 1").ok();
        assert_ne!(after, "broken");
        adt.run("env:destroy 1 --yes").ok();
        assert_eq!(adt.leftovers(), Vec::<String>::new(), "after {lines} lines");
    }
    for lines in [3, 5, 7] {
        let mut terminal = Terminal::open(&adt, "env:init 1 --json");
        terminal.lines(lines);
        terminal.signal(Signal::INT);
        // The second press is another signal only once the first one is seen.
        std::thread::sleep(Duration::from_millis(10));
        terminal.signal(Signal::INT);
        let since = Instant::now();
        let (code, text, ..) = terminal.end();
        assert_eq!(code, 130, "{text}");
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        adt.run("env:up 1").ok();
        adt.run("env:check 1").ok();
        adt.run("env:destroy 1 --yes").ok();
        assert_eq!(adt.leftovers(), Vec::<String>::new(), "twice after {lines} lines");
    }
}

#[test]
fn what_foreign_hands_break_is_seen_and_mended() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", &tiny(""));
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let host = adt.host.as_ref().expect("it is alone");

    let shown = adt.run("env:show 1 --json").ok().json();
    let text = shown["machines"][0]["state"].to_string();
    let pid: String = text.chars().filter(char::is_ascii_digit).collect();
    kill(pid.parse().unwrap_or_else(|_| panic!("no process in {text}")), Signal::KILL);
    let until = Instant::now() + Duration::from_secs(10);
    while state(&adt, "1") != "partial" {
        assert!(Instant::now() < until, "a killed machine counts as {}", state(&adt, "1"));
    }
    adt.run("env:check 1").fails(13).says("tiny/1/node1").says("adt env:up tiny 1");
    adt.run("env:up 1").ok();
    adt.run("env:check 1").ok();

    host.run(&format!("ip link delete adt{}", adt.tag("tiny/1")));
    adt.run("env:check 1").fails(13).says("not connected").says("adt env:up tiny 1");
    adt.run("env:up 1").ok();
    adt.run("env:check 1").ok();

    host.run("nft flush ruleset");
    adt.run("env:check 1").fails(13).says("adt env:up tiny 1");
    adt.run("env:up 1").ok();
    adt.run("env:check 1").ok();
    assert!(host.run("nft list tables").contains("inet adt_"));

    host.run(&format!("ip link set adt{} down", adt.tag("tiny/1")));
    adt.run("env:check 1").fails(13);
    adt.run("env:up 1").ok();
    adt.run("env:check 1").ok();
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
