//! Root of one machine, who takes all that the kernel gives to one user, of one thing after the other. Another environment's
//! machine and the host's root get theirs all the same.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};

use super::adt::Adt;

const PLATFORM: &str = "[platform]
name = \"tiny\"
summary = \"One\"
[machines.one]
box = \"debian\"
processes = 600
";

/// What is taken: how a program asks for one more. It dies where the kernel gives none, and leaves what it got in `@held`.
struct Thing {
    name: &'static str,
    one_more: String,
    /// The most that one process asks for.
    each: u32,
    /// How many processes ask.
    askers: u32,
}

/// Keys are not among these: no program of a machine gets any, see `hostile_kernel`.
fn things() -> Vec<Thing> {
    let thing = |name, one_more: String, each, askers| Thing { name, one_more, each, askers };
    let open = |call: String| format!("my $fd = syscall({call}); die \"none: $!\\n\" if $fd < 0; push @held, $fd;");
    // A process that waits for ever; its own children never get here.
    let process = "my $pid = fork; die \"none: $!\\n\" unless defined $pid; unless ($pid) { sleep 1 while 1 } push @held, $pid;";
    let signal = format!(
        "my $mask = pack('Q', 1 << 39); syscall({}, 0, $mask, 0, 8) == 0 or die; \
         my $info = pack('iiiiiLx104', 40, 0, -1, 0, $$, 0); \
         die \"none: $!\\n\" if syscall({}, $$, 40, $info) < 0; push @held, 1;",
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigqueueinfo
    );
    let queue = format!("my $name = 'queue'.$$.'x'.(0+@held); {}", open(format!("{}, $name, 66, 384, 0", libc::SYS_mq_open)));
    vec![
        thing("inotify instances", open(format!("{}, 0", libc::SYS_inotify_init1)), 20_000, 2),
        thing("fanotify groups", open(format!("{}, 0x200, 0", libc::SYS_fanotify_init)), 20_000, 1),
        thing("pending signals", signal, 200_000, 1),
        thing("message queues", queue, 300, 1),
        thing("processes", process.into(), 1_000, 1),
    ]
}

impl Thing {
    /// A program that takes as many as there are, says how many, and holds them until it is killed.
    fn greedy(&self) -> String {
        format!(
            "my @held; for my $asker (2 .. {}) {{ last unless my $pid = fork }} \
             for (1 .. {}) {{ eval {{ {} 1 }} or do {{ print STDERR $@; last }} }} \
             print STDOUT scalar(@held), \" held\\n\"; close STDOUT; sleep 1 while 1",
            self.askers, self.each, self.one_more
        )
    }

    /// A program that takes one and gives it back.
    fn modest(&self) -> String {
        let back = match self.name {
            "processes" => "kill 'KILL', @held;".to_owned(),
            // It would outlive its maker.
            "message queues" => format!("syscall({}, $name) == 0 or die;", libc::SYS_mq_unlink),
            _ => String::new(),
        };
        format!("my @held; {} {back}", self.one_more)
    }
}

fn init_of(adt: &Adt, environment: &str) -> u32 {
    let inside = adt.run(&format!("env:exec {environment} one -- readlink /proc/1/ns/pid")).ok().stdout;
    let is_init = |pid: &u32| {
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        namespace.to_str() == Some(inside.trim()) && numbers.split_whitespace().last() == Some("1")
    };
    let processes = std::fs::read_dir("/proc").expect("it is there").flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_init).expect("it runs")
}

/// Where the machine's ids begin in the kernel.
fn first_id(init: u32) -> u32 {
    let map = std::fs::read_to_string(format!("/proc/{init}/uid_map")).expect("it runs");
    map.split_whitespace().nth(1).expect("a line").parse().expect("a number")
}

/// Who answers on the host for what is made in the machine.
fn owner_of(init: u32) -> u32 {
    let namespace = std::fs::File::open(format!("/proc/{init}/ns/user")).expect("it runs");
    let mut owner: libc::uid_t = 0;
    const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
    // SAFETY: the kernel writes one id into a place that is ours.
    let done = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    owner
}

/// A program as root of a machine, in the background.
fn attack(adt: &Adt, script: &str) -> Child {
    let mut command = adt.command(&["env:exec", "1", "one", "--", "perl", "-e", script]);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
}

fn tiny(adt: &Adt) {
    adt.platform_toml("tiny", PLATFORM);
    adt.run("platform:init tiny").ok();
}

#[test]
fn what_the_kernel_counts_for_a_user_is_each_machines_own() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    tiny(&adt);
    for environment in ["1", "2"] {
        adt.run(&format!("env:init {environment}")).ok();
    }
    let neighbour = |thing: &Thing| adt.command(&["env:exec", "2", "one", "--", "perl", "-e", &thing.modest()]).output();
    let host = |thing: &Thing| adt.program_there("perl").args(["-e", &thing.modest()]).output();
    for thing in things() {
        for (who, output) in [("the neighbour", neighbour(&thing)), ("the host's root", host(&thing))] {
            let output = output.expect("it starts");
            assert!(output.status.success(), "{} for {who} before: {output:?}", thing.name);
        }
        let mut attack = attack(&adt, &thing.greedy());
        let lines = BufReader::new(attack.stdout.take().expect("it was piped")).lines();
        let held: Vec<u32> = lines
            .take(thing.askers as usize)
            .map(|line| line.expect("text").split(' ').next().and_then(|word| word.parse().ok()).expect("a number"))
            .collect();
        eprintln!("{}: {held:?}", thing.name);
        let asked = thing.each * thing.askers;
        assert!(held.iter().sum::<u32>() > 0 && held.iter().sum::<u32>() < asked, "{}: {held:?} of {asked}", thing.name);
        for (who, output) in [("the neighbour", neighbour(&thing)), ("the host's root", host(&thing))] {
            let output = output.expect("it starts");
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{} for {who} while {held:?} are held: {told}", thing.name);
        }
        attack.kill().expect("it is ours");
        attack.wait().expect("it ends");
        adt.run("env:halt 1").ok();
        adt.run("env:up 1").ok();
    }
    let (one, two) = (init_of(&adt, "1"), init_of(&adt, "2"));
    assert!(first_id(one).abs_diff(first_id(two)) >= 65_536, "{} and {}", first_id(one), first_id(two));
    for init in [one, two] {
        assert!((1_879_048_192..2_147_352_576).contains(&first_id(init)), "{}", first_id(init));
        assert_eq!(owner_of(init), first_id(init), "what it makes in its namespace counts for nobody else");
    }
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn on_disk_a_machines_files_belong_to_whom_they_always_did() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    tiny(&adt);
    adt.run("env:init 1").ok();
    let script = "cd /srv; echo text > mine; echo text > theirs; chown www-data:adm theirs; rm /etc/issue; \
                  chown nobody /etc/motd; mkdir -m 2775 folder; cp /bin/true set; chmod 4755 set; ln mine other";
    let run = || adt.command(&["env:exec", "1", "one", "--", "sh", "-ec", script]).status().expect("it starts");
    assert!(run().success());
    std::fs::write(adt.here().join("copied"), "text").expect("it is ours");
    adt.run("env:cp 1 copied one:/srv/").ok();
    let inside = |adt: &Adt| {
        adt.run("env:exec 1 one -- stat -c %n:%u:%g:%a /srv/mine /srv/theirs /srv/set /srv/copied /etc/motd").ok().stdout
    };
    let before = inside(&adt);
    for line in ["/srv/mine:0:0:644", "/srv/theirs:33:4:644", "/srv/set:0:0:4755", "/srv/copied:0:0:"] {
        assert!(before.contains(line), "{line} in {before}");
    }
    let first = first_id(init_of(&adt, "1"));
    adt.run("env:halt 1").ok();
    let upper = adt.store().join("machines/tiny/1/one/upper");
    let mut owners = BTreeSet::new();
    for entry in walkdir::WalkDir::new(&upper) {
        let meta = entry.expect("it is root's to read").metadata().expect("it is there");
        // The mark of a deleted file is overlayfs' own.
        let is_mark = meta.rdev() == 0 && std::os::unix::fs::FileTypeExt::is_char_device(&meta.file_type());
        owners.extend((!is_mark).then_some([meta.uid(), meta.gid()]).into_iter().flatten());
    }
    assert!(owners.contains(&100_033) && owners.contains(&100_004), "{owners:?}");
    assert!(owners.iter().all(|id| (100_000..165_536).contains(id)), "{owners:?}");
    // Another range, and the same files.
    let adt = adt.env("ADT_POOL_IDS", "900000000-900131071");
    adt.run("env:up 1").ok();
    let moved = first_id(init_of(&adt, "1"));
    assert!(moved != first && (900_000_000..900_131_072).contains(&moved), "{moved}");
    assert_eq!(inside(&adt), before);
    adt.run("env:exec 1 one -- test ! -e /etc/issue").ok();
    // A pool of two ranges has none for a third machine, and what runs keeps its own.
    adt.run("env:init 2").ok();
    adt.run("env:init 3").fails(8).says("no 65536 ids are free in 900000000-900131071").says("`pool_ids`");
    assert_eq!(first_id(init_of(&adt, "1")), moved);
    adt.run("env:destroy 2 --yes").ok();
    adt.run("env:up 3").ok();
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// As machines of an older adt run: with the ids that files on disk have.
#[test]
fn a_filesystem_that_can_not_map_ids_is_told_and_its_machines_work() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.plain_disk();
    tiny(&adt);
    let told = adt.run("env:init 1").ok().stderr;
    assert_eq!(told.matches("warning: `tiny/1/one` has no ids of its own").count(), 1, "{told}");
    let init = init_of(&adt, "1");
    assert_eq!(first_id(init), 100_000);
    assert!(owner_of(init) >= 1_879_048_192, "what it makes is counted apart all the same");
    // An older adt wrote the ids into the configuration, too.
    let config = adt.store().join("machines/tiny/1/one/config");
    let text = std::fs::read_to_string(&config).expect("it was started");
    assert!(!text.contains("lxc.idmap"), "{text}");
    std::fs::write(&config, text + "lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n").expect("it is ours");
    adt.run("env:exec 1 one -- touch /srv/file").ok();
    std::fs::write(adt.here().join("copied"), "text").expect("it is ours");
    for copy in ["copied one:/srv/", "one:/srv/copied back"] {
        adt.run(&format!("env:cp 1 {copy}")).ok();
    }
    let file = adt.store().join("machines/tiny/1/one/upper/srv/file");
    assert_eq!(std::fs::metadata(file).expect("it was made").uid(), 100_000);
    adt.run("env:reload 1").ok();
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn ids_that_a_user_of_the_host_has_are_no_machines() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone().env("ADT_POOL_IDS", "900000000-900196607");
    std::fs::write(adt.at("/etc/subuid"), "alice:100000:65536\nbob:900000000:65537\n").expect("the test's own");
    std::fs::write(adt.at("/etc/subgid"), "").expect("the test's own");
    tiny(&adt);
    adt.run("env:init 1").ok();
    assert_eq!(first_id(init_of(&adt, "1")), 900_131_072);
    let check = adt.run("host:check");
    for line in [
        "`alice` has 100000-165535 by /etc/subuid, and may change what machines leave in checkouts",
        "usermod --del-subuids 100000-165535 --add-subuids 200000-265535 alice",
        "`bob` has 900000000-900065536 by /etc/subuid; machines take none of these, and 1 of them can still run",
    ] {
        assert!(check.stdout.contains(line), "{line} in {}", check.stdout);
    }
    std::fs::write(adt.at("/etc/subuid"), "").expect("the test's own");
    adt.run("host:check").says("900000000-900196607 and those on disk are nobody else's");
    adt.run("platform:destroy tiny --yes").ok();
}

#[test]
fn a_machine_of_which_nobody_said_its_memory_has_a_limit() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let machines = "[machines.one]\nbox = \"debian\"\n[machines.two]\nbox = \"debian\"\nmemory = \"unlimited\"\n";
    adt.platform_toml("tiny", &format!("[platform]\nname = \"tiny\"\nsummary = \"Two\"\n{machines}"));
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let text = std::fs::read_to_string("/proc/meminfo").expect("every Linux has it");
    let total: u64 = text.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    let limit = |machine: &str, files| adt.limit("tiny/1", machine, files).parse::<u64>().unwrap_or(u64::MAX);
    let files = ["memory.limit_in_bytes", "memory.max"];
    // Both count in pages of their own size.
    assert!(limit("one", files).abs_diff((2 << 30).min(total * 512)) < 1 << 20, "{}", limit("one", files));
    assert!(limit("two", files) > total * 1024);
    assert_eq!(limit("one", ["pids.max", "pids.max"]), 4096);
    adt.run("env:show 1").ok().says("unlimited").says("default");
    adt.run("platform:destroy tiny --yes").ok();
}
