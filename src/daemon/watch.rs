//! Tells when the store changed: the kernel says when a file of the database was written.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

pub struct Watch {
    events: OwnedFd,
}

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Store,
    /// For [`QUIET`].
    Nothing,
    Cancelled,
}

/// How long nothing may happen before the servers look around by themselves.
const QUIET: Duration = Duration::from_secs(5);
/// How long a Ctrl-C may go unnoticed.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A verb writes several times in a row; a moment later the rest of it is there too.
const GATHER: Duration = Duration::from_millis(5);

impl Watch {
    pub fn new(store: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Commits go to the log beside the database, which SQLite may remove and make again: so the folder is watched.
        inotify::add_watch(&events, store, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self { events })
    }

    /// Waits for a change, but not for ever.
    pub fn next(&self, cancel: &AtomicBool) -> Change {
        let since = Instant::now();
        while since.elapsed() < QUIET {
            if cancel.load(Ordering::Relaxed) {
                return Change::Cancelled;
            }
            let mut fds = [PollFd::new(&self.events, PollFlags::IN)];
            // Interrupted by a signal, most likely the one that cancels: the loop looks.
            if poll(&mut fds, Some(&NAP)).unwrap_or(0) > 0 {
                std::thread::sleep(GATHER);
                if self.drain() {
                    return Change::Store;
                }
            }
        }
        Change::Nothing
    }

    /// Reads what has come; whether the database was among it.
    fn drain(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        let mut database = false;
        while let Ok(event) = reader.next() {
            database |= event.file_name().is_some_and(|name| name.to_bytes().starts_with(b"adt.db"));
        }
        database
    }
}
