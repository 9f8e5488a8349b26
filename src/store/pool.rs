//! Where a store may lie apart from its disk: in a pool, a file beside it that holds a filesystem of its own.
//!
//! ```text
//! <store>           the folder; the pool is mounted here
//! <store>.pool      the pool; from the moment that this name exists, it holds the store
//! <store>.pool.new  a pool that is being made; holds nothing that is not elsewhere
//! <store>.pool.mnt  an empty folder, where that one is filled
//! <store>.pool.old  a pool that is being removed
//! ```
//! Every command holds the store's folder shared while it works, so who moves a store knows that nobody is in it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, Stat};

use super::{Error, Result};

/// A name beside the store.
fn beside(store: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(store);
    path.push(ending);
    path.into()
}

/// The file that holds the store, where there is one.
pub fn file(store: &Path) -> PathBuf {
    beside(store, ".pool")
}

pub fn draft(store: &Path) -> PathBuf {
    beside(store, ".pool.new")
}

pub fn place(store: &Path) -> PathBuf {
    beside(store, ".pool.mnt")
}

pub fn discarded(store: &Path) -> PathBuf {
    beside(store, ".pool.old")
}

/// Whether `folder` lies in the filesystem that the file `pool` holds.
pub fn holds(pool: &Path, folder: &Stat) -> bool {
    let (major, minor) = (rustix::fs::major(folder.st_dev), rustix::fs::minor(folder.st_dev));
    let Ok(backing) = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/loop/backing_file")) else { return false };
    match (rustix::fs::stat(backing.trim_end_matches('\n')), rustix::fs::stat(pool)) {
        (Ok(backing), Ok(pool)) => backing.st_ino == pool.st_ino && backing.st_dev == pool.st_dev,
        _ => false,
    }
}

/// Opens the store's folder and holds it as one of many. Fails where its pool is not mounted: what lies beneath is not the store.
pub(super) fn enter(store: &Path) -> Result<File> {
    let io = |errno: rustix::io::Errno| Error::Io { what: "open the folder", path: store.to_owned(), source: errno.into() };
    loop {
        let folder = rustix::fs::open(store, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(io)?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Moving { path: store.to_owned() }),
            Err(errno) => return Err(io(errno)),
        }
        // Mounted over between the two calls: what was opened is not the store any more.
        let ours = rustix::fs::fstat(&folder).map_err(io)?;
        let there = rustix::fs::stat(store).map_err(io)?;
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino) {
            continue;
        }
        let pool = file(store);
        if pool.exists() && !holds(&pool, &ours) {
            return Err(Error::PoolUnmounted { path: store.to_owned() });
        }
        return Ok(folder.into());
    }
}

/// Makes an entered folder this process's alone, if nobody else is in it.
pub(super) fn alone(folder: impl AsFd) -> std::io::Result<bool> {
    match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
