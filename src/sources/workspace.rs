//! The folder of an environment inside its platform's folder, where its person finds the sites' checkouts.
//!
//! It keeps itself out of the platform's own repository: a `.gitignore` in it that ignores all, itself too. The same file
//! tells that the folder is adt's, so that nothing else of the platform is ever taken for one.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, fsync, mkdirat, open, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::beneath::Beneath;
use super::git::Person;
use super::{Error, Result};
use crate::disk::tree;

const MARK: &str = ".gitignore";
/// Whoever adds lines of their own may.
const MOST_BYTES: usize = 1 << 16;
const FIRST_LINE: &str = "# This folder is adt's: it holds the checkouts of an environment's sites.";

/// Makes the folder `name` in a platform's folder, as the person's own. Nobody else may enter: what machines write there
/// (a program with the set-user-id bit) is nothing for other users of this host.
pub fn make(platform: &Path, name: &str, person: &Person) -> Result<PathBuf> {
    let folder = platform.join(name);
    if is_ours(&folder) {
        return Ok(folder);
    }
    let io = |error: Errno| Error::Io { what: "make the folder", path: folder.clone(), source: error.into() };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = open(platform, flags, Mode::empty()).map_err(io)?;
    match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(io(error)),
    }
    let made = match openat(&parent, name, flags, Mode::empty()) {
        // Not a folder, or a link to one.
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Error::Occupied { folder }),
        other => other.map_err(io)?,
    };
    // What has just been made is ours; if by now another's lies in its place, it must not become the person's.
    let stat = fstat(&made).map_err(io)?;
    if stat.st_uid != geteuid().as_raw() && stat.st_uid != person.user() {
        return Err(Error::Occupied { folder });
    }
    // One without the mark was left by a command that was killed here, or another site's checkout has just made it, or it
    // is the person's. Whoever else makes it writes the same words, so that doing it twice is no harm.
    if !is_blank(&made).map_err(io)? {
        return if is_ours(&folder) { Ok(folder) } else { Err(Error::Occupied { folder }) };
    }
    let owner = person.account.as_ref().map(|own| (Uid::from_raw(own.user), Gid::from_raw(own.group))).unzip();
    // Not blocking: it may be a pipe by now.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&made, MARK, flags, Mode::from_raw_mode(0o644));
    let mut file = File::from(file.map_err(io)?);
    fchown(&file, owner.0, owner.1).map_err(io)?;
    fchmod(&made, Mode::RWXU).map_err(io)?;
    fchown(&made, owner.0, owner.1).map_err(io)?;
    // Last: with these words in it the folder is whole.
    let text = format!("{FIRST_LINE}\n*\n");
    file.write_all(text.as_bytes()).map_err(|source| Error::Io { what: "write", path: folder.join(MARK), source })?;
    // Before anything else is in it: what a power cut leaves of a checkout without the mark would be taken for somebody's work.
    for part in [file.as_fd(), made.as_fd(), parent.as_fd()] {
        fsync(part).map_err(io)?;
    }
    Ok(folder)
}

pub fn is_ours(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir())
        && Beneath::open(folder, None)
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
pub fn remove_empty(folder: &Path) {
    if !is_ours(folder) {
        return;
    }
    let others = std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != MARK).count();
    if others == 0 {
        let _ = std::fs::remove_file(folder.join(MARK));
        let _ = std::fs::remove_dir(folder);
    }
}

/// Removes the folder with all that is in it: for what adt made for itself.
pub fn remove(folder: &Path) -> Result<()> {
    if !is_ours(folder) {
        return Ok(());
    }
    tree::remove(folder).map_err(|source| Error::Io { what: "remove", path: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn what_is_not_adts_is_never_taken() {
        let platform = tempfile::tempdir().unwrap();
        let make = || make(platform.path(), "boxes", &Person::default());
        let boxes = platform.path().join("boxes");
        std::fs::create_dir_all(boxes.join("web")).unwrap();
        assert!(matches!(make().unwrap_err(), Error::Occupied { .. }));
        std::fs::remove_dir_all(&boxes).unwrap();
        std::os::unix::fs::symlink("/etc", &boxes).unwrap();
        assert!(matches!(make().unwrap_err(), Error::Occupied { .. }));
        std::fs::remove_file(&boxes).unwrap();
        std::fs::create_dir(&boxes).unwrap();
        assert_eq!(make().unwrap(), boxes, "one that a kill left empty");
        assert_eq!(make().unwrap(), boxes);
        std::fs::write(boxes.join("mine"), "").unwrap();
        remove_empty(&boxes);
        assert!(boxes.join("mine").exists());
        std::fs::remove_file(boxes.join("mine")).unwrap();
        remove_empty(&boxes);
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
                let folder = make(platform.path(), &name, &Person::default()).map_err(|error| error.to_string())?;
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
