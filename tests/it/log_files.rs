//! The program that follows log files inside machines, on real files that are rotated in every usual manner: each line comes
//! once.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::servers::until;

const PROGRAM: &str = include_str!("../../src/logs/follow.pl");

struct Follower {
    child: Child,
    /// Whole lines: place, path and text.
    told: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn start(words: &[&str]) -> Self {
        let mut perl = Command::new("perl");
        let mut child = perl.args(["-e", PROGRAM, "follow"]).args(words).stdout(Stdio::piped()).spawn().expect("perl is there");
        let told = Arc::new(Mutex::new(Vec::new()));
        let (out, into) = (child.stdout.take().expect("it was piped"), Arc::clone(&told));
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        Self { child, told }
    }

    /// What the lines say, in the order in which they came.
    fn texts(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().map(|line| line.split('\t').next_back().expect("a line has fields").to_owned()).collect()
    }

    #[track_caller]
    fn tells(&self, text: &str) {
        until(text, || self.texts().iter().any(|line| line == text));
    }

    /// The last line's place, as the next follower is given it.
    fn mark(&self, path: &Path) -> String {
        let told = self.told.lock().unwrap();
        let fields: Vec<_> = told.last().expect("something came").split('\t').collect();
        format!("{}:{}:{}", fields[0], fields[1], path.display())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

struct Log {
    folder: tempfile::TempDir,
    path: PathBuf,
    file: File,
    count: usize,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("app.log");
        let file = open(&path);
        Self { folder, path, file, count: 0 }
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.folder.path().join(format!("app.log{end}"))
    }

    fn write(&mut self) -> String {
        self.count += 1;
        let text = format!("line {}", self.count);
        writeln!(self.file, "{text}").expect("the file is ours");
        text
    }

    /// As logrotate does it by itself: the service is told afterwards, and writes to the old file until then.
    fn rename(&mut self, end: &str) {
        fs::rename(&self.path, self.beside(end)).expect("it is there");
        let new = open(&self.path);
        self.write();
        // More than one look of the follower later.
        std::thread::sleep(std::time::Duration::from_millis(400));
        self.write();
        self.file = new;
    }

    /// As logrotate does it for services that can't be told.
    fn copy_and_truncate(&mut self, end: &str) {
        fs::copy(&self.path, self.beside(end)).expect("it is there");
        self.file.set_len(0).expect("it is ours");
    }

    #[track_caller]
    fn is_told_once_by(&self, follower: &Follower) {
        let mut texts = follower.texts();
        texts.sort_by_key(|text| text.trim_start_matches("line ").parse::<usize>().unwrap_or(0));
        let wanted: Vec<_> = (1..=self.count).map(|number| format!("line {number}")).collect();
        assert_eq!(texts, wanted);
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("the folder is ours")
}

#[test]
fn rotated_while_it_is_followed() {
    for pattern in ["app.log", "app.log*", "*"] {
        let mut log = Log::new();
        let pattern = log.folder.path().join(pattern);
        let follower = Follower::start(&["--", pattern.to_str().expect("a plain path")]);
        for (round, end) in [".1", "-20260102", ".1", ".2", ".3"].into_iter().enumerate() {
            let first = log.write();
            follower.tells(&first);
            // What follows is not seen yet when the file is turned.
            log.write();
            if round % 2 == 0 {
                log.rename(end)
            } else {
                log.copy_and_truncate(end)
            }
            let packed = Command::new("gzip").arg("--keep").arg("--force").arg(log.beside(end)).status();
            assert!(packed.expect("gzip is there").success());
            let last = log.write();
            follower.tells(&last);
        }
        log.is_told_once_by(&follower);
    }
}

#[test]
fn cut_off_and_longer_again_before_the_next_look() {
    let mut log = Log::new();
    let follower = Follower::start(&["--", log.path.to_str().expect("a plain path")]);
    let first = log.write();
    follower.tells(&first);
    log.copy_and_truncate(".1");
    let mut last = String::new();
    for _ in 0..50 {
        last = log.write();
    }
    follower.tells(&last);
    log.is_told_once_by(&follower);
}

#[test]
fn cut_off_and_as_long_again_before_the_next_look() {
    let mut log = Log::new();
    let follower = Follower::start(&["--", log.path.to_str().expect("a plain path")]);
    let first = log.write();
    follower.tells(&first);
    log.copy_and_truncate(".1");
    let second = log.write();
    follower.tells(&second);
    log.is_told_once_by(&follower);
}

#[test]
fn gone_and_there_again() {
    let mut log = Log::new();
    let follower = Follower::start(&["--", log.path.to_str().expect("a plain path")]);
    let first = log.write();
    follower.tells(&first);
    fs::remove_file(&log.path).expect("it is there");
    let second = log.write();
    follower.tells(&second);
    log.file = open(&log.path);
    let third = log.write();
    follower.tells(&third);
    log.is_told_once_by(&follower);
}

#[test]
fn rotated_while_nobody_follows() {
    for end in [".1", "-20260102"] {
        let mut log = Log::new();
        let path = log.path.to_str().expect("a plain path").to_owned();
        let follower = Follower::start(&["--", &path]);
        let first = log.write();
        follower.tells(&first);
        let mark = follower.mark(&log.path);
        assert!(mark.starts_with(&log.file.metadata().expect("it is open").ino().to_string()), "{mark}");
        drop(follower);
        let second = log.write();
        fs::rename(&log.path, log.beside(end)).expect("it is there");
        log.file = open(&log.path);
        let third = log.write();
        let follower = Follower::start(&[&mark, "--", &path]);
        follower.tells(&third);
        assert_eq!(follower.texts(), [second, third]);
    }
}
