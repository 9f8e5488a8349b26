//! `host:check` and `host:bootstrap` say that machines run here only where one just did.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use adt::model::{EnvironmentId, EnvironmentName, PlatformName, Tag};
use rustix::process::Signal;

use super::adt::Adt;
use super::leftovers::kill;

/// What the proof left of its machine: files and control groups, and so processes.
fn left(adt: &Adt) -> Vec<String> {
    let install = fs::read_to_string(adt.store().join("install")).expect("the store was opened");
    let environment = EnvironmentId {
        platform: PlatformName::new("adt").expect("a label"),
        name: EnvironmentName::new("proof").expect("a label"),
    };
    let tag = Tag::of(install.trim(), &environment);
    let entries = |folder: &Path| walkdir::WalkDir::new(folder).min_depth(1).max_depth(4).into_iter().flatten();
    let files = entries(&adt.store().join("proof"));
    let groups = entries(Path::new("/sys/fs/cgroup")).filter(|entry| entry.file_name().to_str() == Some(tag.as_str()));
    files.chain(groups).map(|entry| entry.path().display().to_string()).collect()
}

#[test]
fn a_check_of_the_host_starts_a_machine_and_leaves_nothing_of_it() {
    let Some(adt) = Adt::real() else { return };
    for _ in 0..2 {
        adt.run("host:check").says("one was started, entered and taken away");
        assert_eq!(left(&adt), Vec::<String>::new());
    }
    adt.run("platform:init hello").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn two_checks_at_once_do_not_meet() {
    let Some(adt) = Adt::real() else { return };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| adt.run("host:check").says("one was started, entered and taken away"));
        }
    });
    assert_eq!(left(&adt), Vec::<String>::new());
}

#[test]
fn a_host_on_which_no_machine_starts_is_not_ready() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone().env("ADT_POOL_IDS", "900000000-900065535");
    adt.run("host:bootstrap --no-service").ok();
    // All rows are as they should be, and yet no machine has ids left.
    fs::write(adt.at("/etc/subuid"), "bob:900000000:65536\n").expect("the test's own");
    adt.run("host:check").fails(13).says("does not run").says("no 65536 ids are free");
    let run = adt.run("host:bootstrap --no-service").fails(7).says("no 65536 ids are free").says("adt host:check");
    assert!(!run.stdout.contains("has all that adt needs"), "{}", run.stdout);
    assert_eq!(left(&adt), Vec::<String>::new());
    fs::write(adt.at("/etc/subuid"), "").expect("the test's own");
    adt.run("host:bootstrap --no-service").ok().says("this host has all that adt needs");
}

#[test]
fn what_a_killed_check_left_the_next_one_takes_away() {
    let Some(adt) = Adt::real() else { return };
    adt.run("host:check");
    let mut child = adt.command(&["host:check"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let since = Instant::now();
    // As soon as there is something to leave.
    while !Path::new(&adt.store().join("proof/machines")).exists() {
        assert!(since.elapsed() < Duration::from_secs(60), "no machine comes");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(i32::try_from(child.id()).expect("process numbers are small"), Signal::KILL);
    child.wait().expect("it is ours");
    assert!(!left(&adt).is_empty(), "it was killed too late to leave anything");
    adt.run("host:check").says("one was started, entered and taken away");
    assert_eq!(left(&adt), Vec::<String>::new());
}
