//! Who made and destroyed what, one JSON line each: for people, and to tell "destroyed already" from "never existed".

use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

    /// One write of one line, so that lines of two commands never mix.
    pub fn add(&self, entry: &Entry) -> std::io::Result<()> {
        self.trim()?;
        let mut line = serde_json::to_string(entry).expect("an entry is plain text and numbers");
        line.push('\n');
        std::fs::OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())
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
        if std::fs::metadata(&self.path).map_or(0, |meta| meta.len()) < LIMIT {
            return Ok(());
        }
        let text = std::fs::read_to_string(&self.path)?;
        let half = text[text.len() / 2..].find('\n').map_or(0, |at| text.len() / 2 + at + 1);
        let new = self.path.with_extension("new");
        std::fs::write(&new, &text[half..])?;
        std::fs::rename(new, &self.path)
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
        std::fs::write(&history.path, format!("{}\n", "x".repeat(1000)).repeat(1100)).unwrap();
        history.add(&entry("created")).unwrap();
        assert!(std::fs::metadata(&history.path).unwrap().len() < LIMIT);
        assert_eq!(history.last("shop/1161").unwrap().what, "created");
    }
}
