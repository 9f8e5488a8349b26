//! The access log: a line for each request to a site, in a file that can't grow without end.
//!
//! ```text
//! request over ─▶ its thread's buffer ── once a second ─▶ access.log ── at its limit ─▶ access.log.1 (the one before goes)
//! ```
//! No request waits for a disk or for another thread. A process that is killed loses the lines of its last second.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Config;

/// What a thread keeps at most; lines beyond that within a second are counted and not kept.
const BUFFER: usize = 4 << 20;

thread_local! {
    static LINES: RefCell<(String, u64)> = const { RefCell::new((String::new(), 0)) };
}

/// A log file, shared by all threads.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
    limit: u64,
    file: Arc<Mutex<(File, u64)>>,
}

impl Log {
    /// Goes on behind what is there. `limit` is in bytes, for the file and for the one before it.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), limit, file: Arc::new(Mutex::new(append(path)?)) })
    }

    fn write(&self, lines: &str) -> io::Result<()> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, length) = &mut *guard;
        file.write_all(lines.as_bytes())?;
        *length += lines.len() as u64;
        if *length >= self.limit {
            crate::disk::put_spare(&self.path, &self.path.with_added_extension("1"))?;
            *guard = append(&self.path)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Adds what `write` writes to this thread's lines.
pub fn add(write: impl FnOnce(&mut String)) {
    LINES.with_borrow_mut(|(lines, lost)| if lines.len() < BUFFER { write(lines) } else { *lost += 1 });
}

/// Writes this thread's lines down. A full disk costs lines, not requests.
pub fn flush(config: &Config) {
    let Some(log) = &config.log else { return };
    let (mut lines, lost) = LINES.take();
    if lost > 0 {
        lines.push_str(&format!("{lost} more requests within a second\n"));
    }
    if lines.is_empty() {
        return;
    }
    if let Err(error) = log.write(&lines) {
        tracing::warn!(%error, path = %log.path.display(), "the access log was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_makes_room_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = Log::open(&path, 100).unwrap();
        for number in 0..10 {
            log.write(&format!("{number}{}\n", "x".repeat(58))).unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(text("access.log.1").starts_with('8') && text("access.log").is_empty());
        drop(log);
        Log::open(&path, 100).unwrap().write("again\n").unwrap();
        Log::open(&path, 100).unwrap().write("more\n").unwrap();
        assert_eq!(text("access.log"), "again\nmore\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
