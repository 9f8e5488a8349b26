//! Who made and destroyed what, one JSON line each: for people, and to tell "destroyed already" from "never existed".

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::lock::still_there;
use crate::disk;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970.
    pub time: i64,
    pub user: String,
    /// `created` or `destroyed`.
    pub what: String,
    /// `shop/1161`, or `shop` for a platform as a whole.
    #[serde(alias = "environment")]
    pub subject: String,
}

/// The file `history.log` of a store.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
}

/// Beyond this the older half is dropped: the file is for people, and they don't read years of it.
const LIMIT: u64 = 1 << 20;

impl History {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn add(&self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_string(entry).expect("an entry is plain text and numbers");
        line.push('\n');
        let mut file = self.hold()?;
        file.write_all(line.as_bytes())?;
        if file.metadata()?.len() > LIMIT { self.trim() } else { Ok(()) }
    }

    /// The file for this process alone, so that no line of another is lost between a trim's look and its rename.
    fn hold(&self) -> std::io::Result<File> {
        loop {
            let file = File::options().create(true).append(true).open(&self.path)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            // Else it was trimmed meanwhile.
            if still_there(&self.path, &file) {
                return Ok(file);
            }
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last thing that happened to an environment or platform.
    pub fn last(&self, subject: &str) -> Option<Entry> {
        self.entries().into_iter().rev().find(|entry| entry.subject == subject)
    }

    fn trim(&self) -> std::io::Result<()> {
        let bytes = std::fs::read(&self.path)?;
        let (_, younger) = bytes.split_at(bytes.len() / 2);
        let end = younger.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        disk::File::at(&self.path).write(&younger[end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_counts_and_the_file_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::new(folder.path().join("history.log"));
        let entry = |what: &str| Entry { time: 1, user: "ada".into(), what: what.into(), subject: "shop/1161".into() };
        assert_eq!(history.last("shop/1161"), None);
        history.add(&entry("created")).unwrap();
        history.add(&entry("destroyed")).unwrap();
        assert_eq!(history.last("shop/1161").unwrap().what, "destroyed");
        // Half of it is within a letter.
        std::fs::write(&history.path, format!("{}\n", "ü".repeat(500)).repeat(1100)).unwrap();
        history.add(&entry("created")).unwrap();
        assert!(std::fs::metadata(&history.path).unwrap().len() < LIMIT);
        assert_eq!(history.last("shop/1161").unwrap().what, "created");
    }

    #[test]
    fn no_line_is_lost_while_it_is_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.log");
        std::fs::write(&path, format!("{}\n", "x".repeat(1000)).repeat(1040)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let history = History::new(path.clone());
                scope.spawn(move || {
                    for number in 0..50 {
                        let subject = format!("shop/{thread}-{number}");
                        let user = "u".repeat(1000);
                        history.add(&Entry { time: 1, user, what: "created".into(), subject }).unwrap();
                    }
                });
            }
        });
        assert_eq!(History::new(path).entries().len(), 400);
    }
}
