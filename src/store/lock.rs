//! Locks that name their holder and vanish with the process.
//!
//! A lock is an flock on a file that tells, as JSON, who holds it. The kernel frees it when the process ends, however
//! it ends. The file is removed on release, so the one who gets the lock checks that the file is still the one in the folder.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// Who works on something, in the words that the next one reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub user: String,
    pub command: String,
    pub pid: u32,
    /// Seconds since 1970.
    pub since: i64,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` of {} (process {})", self.command, self.user, self.pid)
    }
}

/// A lock not yet held; `T` is what its file tells others.
#[derive(Debug)]
pub struct Request<T = Holder> {
    path: PathBuf,
    text: T,
}

/// A held lock; dropping it frees it and removes its file.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed before the flock ends with the file: whoever waits on the old file sees that it left the folder.
        drop(std::fs::remove_file(&self.path));
    }
}

/// What the holder of a lock tells, if there is a holder (`None` inside where it can't be read).
pub fn held<T: DeserializeOwned>(path: &Path) -> Option<Option<T>> {
    let mut file = File::open(path).ok()?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(serde_json::from_str(&text).ok())
}

/// Removes the file of a lock that nobody holds, as a killed process leaves it. One that can't be removed now is left.
pub fn drop_idle(path: &Path) {
    if path.exists() {
        drop(Request::new(path.to_owned(), ()).attempt());
    }
}

impl<T: Serialize + DeserializeOwned + PartialEq + Clone> Request<T> {
    pub fn new(path: PathBuf, text: T) -> Self {
        Self { path, text }
    }

    /// Waits until the lock is free. `waiting` is told once for each holder that is in the way.
    pub fn wait(&self, cancel: &AtomicBool, waiting: &mut dyn FnMut(Option<T>)) -> Result<Lock> {
        let mut told = None;
        loop {
            match self.attempt()? {
                Ok(lock) => return Ok(lock),
                Err(holder) if told.as_ref() == Some(&holder) => {}
                Err(holder) => {
                    told = Some(holder.clone());
                    waiting(holder);
                }
            }
            if cancel.load(Ordering::Relaxed) {
                let what = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                return Err(Error::Cancelled { what });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Takes the lock if it is free, else tells what its holder wrote (`None` where that one has not written it yet).
    pub fn attempt(&self) -> Result<std::result::Result<Lock, Option<T>>> {
        let io = |source| Error::Io { what: "lock", path: self.path.clone(), source };
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600)).map_err(|e| io(e.into()))?;
            let mut file = File::from(file);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).map_err(io)?;
                    return Ok(Err(serde_json::from_str(&text).ok()));
                }
                Err(errno) => return Err(io(errno.into())),
            }
            if !still_there(&self.path, &file) {
                continue;
            }
            if file.metadata().map_err(io)?.len() > 0 {
                // A killed one left it. In a new file nobody can take its words for those of who holds the lock now.
                std::fs::remove_file(&self.path).map_err(io)?;
                continue;
            }
            let text = serde_json::to_string(&self.text).expect("what a lock tells is plain text and numbers");
            file.write_all(text.as_bytes()).map_err(io)?;
            return Ok(Ok(Lock { path: self.path.clone(), _file: file }));
        }
    }
}

/// Whether an open file is the one that has this name now: another process may have removed or replaced it meanwhile.
pub(super) fn still_there(path: &Path, file: &File) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::stat(path)) {
        (Ok(ours), Ok(there)) => ours.st_ino == there.st_ino && ours.st_dev == there.st_dev,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &std::path::Path, command: &str) -> Request {
        let holder = Holder { user: "ada".into(), command: command.into(), pid: 7, since: 0 };
        Request::new(path.join("x.lock"), holder)
    }

    #[test]
    fn the_second_learns_whom_it_waits_for_and_gets_it_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let first = request(folder.path(), "env:up").attempt().unwrap().unwrap();
        let second = request(folder.path(), "env:halt");
        let holder = second.attempt().unwrap().unwrap_err().unwrap();
        assert_eq!(holder.to_string(), "`env:up` of ada (process 7)");
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let told = told;
                second.wait(&AtomicBool::new(false), &mut |holder| told.send(holder).unwrap()).is_ok()
            });
            assert!(heard.recv().unwrap().is_some());
            drop(first);
            assert!(waiter.join().unwrap());
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_nobody_holds_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let held = request(folder.path(), "x").attempt().unwrap().unwrap();
        drop_idle(&held.path);
        assert!(held.path.exists());
        let idle = folder.path().join("idle.lock");
        std::fs::write(&idle, "{}").unwrap();
        drop_idle(&idle);
        drop_idle(&idle);
        assert!(!idle.exists());
    }

    #[test]
    fn what_a_killed_one_told_is_never_said_of_who_comes_next() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let next = request(folder.path(), "env:up");
        std::fs::write(&next.path, r#"{"user":"ada","command":"env:halt","pid":8,"since":0}"#).unwrap();
        let left = File::open(&next.path).unwrap();
        let _lock = next.attempt().unwrap().unwrap();
        // The old words are in no file that the lock was ever on.
        assert_ne!(left.metadata().unwrap().ino(), std::fs::metadata(&next.path).unwrap().ino());
        assert_eq!(held::<Holder>(&next.path).flatten().map(|holder| holder.pid), Some(7));
    }

    #[test]
    fn a_hundred_threads_hold_it_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let inside = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let request = request(folder.path(), "x");
                        let lock = request.wait(&AtomicBool::new(false), &mut |_| {}).unwrap();
                        assert!(!inside.swap(true, Ordering::SeqCst));
                        inside.store(false, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
