//! The folder of an environment inside its platform's folder, where its person finds the sites' checkouts.
//!
//! It keeps itself out of the platform's own repository: a `.gitignore` in it that ignores all, itself too. The same file
//! tells that the folder is adt's, so that nothing else of the platform is ever taken for one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, fsync, mkdirat, open, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::beneath::Beneath;
use super::git::Person;
use super::{Error, Result};
use crate::disk::tree::{self, FOLDER};
use crate::disk::walk;

const MARK: &str = ".gitignore";
/// Whoever adds lines of their own may.
const MOST_BYTES: usize = 1 << 16;
const FIRST_LINE: &str = "# This folder is adt's: it holds the checkouts of an environment's sites.";

/// The folder of an environment and the platform's that it lies in, held open. Their paths lead through folders in which members
/// write, and can become ways to anything between two looks; names in these two stay names in these two.
pub(super) struct Place {
    pub platform: OwnedFd,
    pub workspace: OwnedFd,
    name: OsString,
}

impl Place {
    /// `None` where there is none. The platform's folder is its keeper's, and the other is the person's where that is known.
    pub fn open(workspace: &Path, keeper: u32, person: &Person) -> Result<Option<Self>> {
        let io = |source| Error::Io { what: "use the folder", path: workspace.to_owned(), source };
        let (Some(platform), Some(name)) = (workspace.parent(), workspace.file_name()) else { return Ok(None) };
        let platform = match hold(platform, keeper) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io)?,
        };
        let held = match openat(&platform, name, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| io(error.into()))?,
        };
        if person.only && fstat(&held).map_err(|error| io(error.into()))?.st_uid != person.user() {
            return Err(io(ErrorKind::PermissionDenied.into()));
        }
        Ok(Some(Self { platform, workspace: held, name: name.to_owned() }))
    }

    pub fn is_ours(&self) -> bool {
        is_marked(&self.workspace)
    }
}

/// A platform's folder, on a way that nobody but root and its keeper can bend.
fn hold(platform: &Path, keeper: u32) -> io::Result<OwnedFd> {
    Ok(openat(walk::open(platform, keeper)?, ".", FOLDER, Mode::empty())?)
}

/// The way to a name in a held folder, for calls that take a path.
pub(super) fn in_held(folder: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

/// Makes the folder `name` in the folder of a platform that is `keeper`'s, as the person's own. Nobody else may enter: what
/// machines write there (a program with the set-user-id bit) is nothing for other users of this host.
pub fn make(platform: &Path, keeper: u32, name: &str, person: &Person) -> Result<PathBuf> {
    let folder = platform.join(name);
    let io = |source| Error::Io { what: "make a folder in", path: platform.to_owned(), source };
    make_in(&hold(platform, keeper).map_err(io)?, &folder, person)?;
    Ok(folder)
}

/// The same in a platform's folder that is held; `folder` is the path that is told.
pub(super) fn make_in(parent: &OwnedFd, folder: &Path, person: &Person) -> Result<OwnedFd> {
    let io = |error: Errno| Error::Io { what: "make the folder", path: folder.to_owned(), source: error.into() };
    let occupied = || Error::Occupied { folder: folder.to_owned() };
    let name = folder.file_name().expect("an environment's folder has a name");
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(io(error)),
    }
    let made = match openat(parent, name, FOLDER, Mode::empty()) {
        // Not a folder, or a link to one.
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(occupied()),
        other => other.map_err(io)?,
    };
    if is_marked(&made) {
        return Ok(made);
    }
    // What has just been made is ours; if by now another's lies in its place, it must not become the person's.
    let stat = fstat(&made).map_err(io)?;
    let as_made = stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o7777 == Mode::RWXU.as_raw_mode();
    if !as_made && stat.st_uid != person.user() {
        return Err(occupied());
    }
    // One without the mark was left by a command that was killed here, or another site's checkout has just made it, or it
    // is the person's. Whoever else makes it writes the same words, so that doing it twice is no harm.
    if !is_blank(&made).map_err(io)? {
        return if is_marked(&made) { Ok(made) } else { Err(occupied()) };
    }
    mark(parent, &made, person).map_err(|source| Error::Io { what: "write", path: folder.join(MARK), source })?;
    Ok(made)
}

/// Makes a new folder the person's and adt's.
fn mark(parent: &OwnedFd, made: &OwnedFd, person: &Person) -> io::Result<()> {
    let owner = person.account.as_ref().map(|own| (Uid::from_raw(own.user), Gid::from_raw(own.group))).unzip();
    // Not blocking: it may be a pipe by now.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(openat(made, MARK, flags, Mode::from_raw_mode(0o644))?);
    // In a folder that was the person's already a second name of a file of root's may lie there.
    if fstat(&file)?.st_nlink != 1 {
        return Err(ErrorKind::PermissionDenied.into());
    }
    fchown(&file, owner.0, owner.1)?;
    fchmod(made, Mode::RWXU)?;
    fchown(made, owner.0, owner.1)?;
    // Last: with these words in it the folder is whole.
    file.write_all(format!("{FIRST_LINE}\n*\n").as_bytes())?;
    // Before anything else is in it: what a power cut leaves of a checkout without the mark would be taken for somebody's work.
    for part in [file.as_fd(), made.as_fd(), parent.as_fd()] {
        fsync(part)?;
    }
    Ok(())
}

pub fn is_ours(folder: &Path) -> bool {
    open(folder, FOLDER, Mode::empty()).is_ok_and(|folder| is_marked(&folder))
}

fn is_marked(folder: &OwnedFd) -> bool {
    Beneath::of(folder)
        .and_then(|below| below.read(MARK, MOST_BYTES))
        .is_ok_and(|found| found.is_some_and(|found| found.bytes.starts_with(FIRST_LINE.as_bytes())))
}

/// Whether nobody has put anything into it; a mark without words is a killed command's.
fn is_blank(folder: &OwnedFd) -> std::result::Result<bool, Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let blank = match entry.file_name().to_bytes() {
            b"." | b".." => true,
            name if name == MARK.as_bytes() => {
                statat(folder, MARK, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_size == 0 && stat.st_nlink == 1)
            }
            _ => false,
        };
        if !blank {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the folder once nothing but its mark is in it.
pub(super) fn remove_empty(place: &Place) {
    let Ok(entries) = Dir::read_from(&place.workspace) else { return };
    let known = [".", "..", MARK].map(str::as_bytes);
    if place.is_ours() && !entries.flatten().any(|entry| !known.contains(&entry.file_name().to_bytes())) {
        let _ = unlinkat(&place.workspace, MARK, AtFlags::empty());
        let _ = unlinkat(&place.platform, &place.name, AtFlags::REMOVEDIR);
    }
}

/// Removes the folder with all that is in it: for what adt made for itself.
pub fn remove(folder: &Path, keeper: u32) -> Result<()> {
    // Of a folder that is no longer its keeper's nothing is adt's.
    let Ok(Some(place)) = Place::open(folder, keeper, &Person::default()) else { return Ok(()) };
    if !place.is_ours() {
        return Ok(());
    }
    tree::remove(&in_held(&place.platform, &place.name)).map_err(|source| Error::Io {
        what: "remove",
        path: folder.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn what_is_not_adts_is_never_taken() {
        let platform = tempfile::tempdir().unwrap();
        let make = || make(platform.path(), geteuid().as_raw(), "boxes", &Person::default());
        let boxes = platform.path().join("boxes");
        let place = || Place::open(&boxes, geteuid().as_raw(), &Person::default()).unwrap().unwrap();
        std::fs::create_dir_all(boxes.join("web")).unwrap();
        assert!(matches!(make().unwrap_err(), Error::Occupied { .. }));
        std::fs::remove_dir_all(&boxes).unwrap();
        std::os::unix::fs::symlink("/etc", &boxes).unwrap();
        assert!(matches!(make().unwrap_err(), Error::Occupied { .. }));
        std::fs::remove_file(&boxes).unwrap();
        mkdirat(rustix::fs::CWD, &boxes, Mode::RWXU).unwrap();
        assert_eq!(make().unwrap(), boxes, "one that a kill left empty");
        assert_eq!(make().unwrap(), boxes);
        std::fs::write(boxes.join("mine"), "").unwrap();
        remove_empty(&place());
        assert!(boxes.join("mine").exists());
        std::fs::remove_file(boxes.join("mine")).unwrap();
        remove_empty(&place());
        assert!(!boxes.exists());
    }

    #[test]
    fn all_sites_of_an_environment_may_make_it_at_once() {
        let platform = tempfile::tempdir().unwrap();
        for round in 0..200 {
            let name = round.to_string();
            let start = Barrier::new(4);
            let make = |site: usize| {
                start.wait();
                let folder =
                    make(platform.path(), geteuid().as_raw(), &name, &Person::default()).map_err(|error| error.to_string())?;
                std::fs::create_dir(folder.join(site.to_string())).map_err(|error| error.to_string())
            };
            let made: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|site| {
                        scope.spawn({
                            let make = &make;
                            move || make(site)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(made, vec![Ok(()); 4], "round {round}");
        }
    }
}
