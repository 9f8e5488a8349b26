//! Copies of whole trees, however deep.
//!
//! `cp` knows owners, times, links, holes, devices and extended attributes, and shares blocks where that is possible. But it names
//! everything by its whole path, and a path has at most 4,095 bytes: what programs in a machine put deeper it can't reach. It
//! copies all the rest and says so of each; what it could not reach is then copied from open folders on, in which paths are
//! short again. Two names of one file, of which one lies so deep, become two files.
//!
//! Not chosen: a copy of our own. It would be another `cp`, with all that one learned about filesystems in thirty years, for a case
//! that only somebody makes who wants it to fail.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, fstat, openat, utimensat};

use crate::exec::{Cancel, Command, Limits};
use crate::providers::Result;

use super::failed_io;

/// The longest path that the kernel takes, with the zero behind it.
const PATH_MAX: usize = 4096;
const TOO_LONG: &str = "File name too long";

/// Makes a copy at `to`, where nothing is. Where there is nothing at `from`, nothing is made. Nobody writes in the tree meanwhile.
pub fn copy(from: &Path, to: &Path, cancel: &Cancel) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let mut left = Vec::new();
    if reach(from, to, cancel)? == Reach::Part {
        left = beyond(from, to).map_err(failed_io("look for what lies too deep in", from))?;
    }
    while let Some(part) = left.pop() {
        let (from, to) = part.paths();
        if reach(&from, &to, cancel)? == Reach::Part {
            left.extend(beyond(&from, &to).map_err(failed_io("look for what lies too deep in", &from))?);
        }
        part.give_times().map_err(failed_io("give its times to", &to))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Reach {
    All,
    /// All whose path is short enough.
    Part,
}

fn reach(from: &Path, to: &Path, cancel: &Cancel) -> Result<Reach> {
    let copy = Command::new("cp").args(["--archive", "--reflink=auto", "--no-target-directory", "--"]).arg(from).arg(to);
    let copy = copy.env("LC_ALL", "C").limits(Limits { cancel: Some(cancel.clone()), ..Limits::default() });
    let mut only_too_long = true;
    let (status, output) = copy.run_any(&mut |_, line| only_too_long &= line.ends_with(TOO_LONG))?;
    match status.success() {
        true => Ok(Reach::All),
        false if only_too_long => Ok(Reach::Part),
        false => Err(copy.failed(status, &output).into()),
    }
}

/// What lies too deep to be named, in the folders of both trees that can be.
struct Part {
    from: Rc<OwnedFd>,
    to: Rc<OwnedFd>,
    name: PathBuf,
}

impl Part {
    /// As any process of ours can name them.
    fn paths(&self) -> (PathBuf, PathBuf) {
        let path =
            |folder: &OwnedFd| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd())).join(&self.name);
        (path(&self.from), path(&self.to))
    }

    /// The folder that it was put into is as old as it was.
    fn give_times(&self) -> io::Result<()> {
        let stat = fstat(&*self.from)?;
        let time = |seconds: i64, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec.cast_signed()),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
        };
        Ok(utimensat(&*self.to, ".", &times, AtFlags::empty())?)
    }
}

/// The entries of `from` that are too deep in it, or would be in `to`, and lie in folders that are not.
fn beyond(from: &Path, to: &Path) -> io::Result<Vec<Part>> {
    let (mut parts, mut last) = (Vec::new(), None::<(PathBuf, Rc<OwnedFd>, Rc<OwnedFd>)>);
    let mut walk = walkdir::WalkDir::new(from).min_depth(1).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry?;
        let inside = entry.path().strip_prefix(from).expect("the walk stays below its start");
        let longest = from.as_os_str().len().max(to.as_os_str().len()) + 1 + inside.as_os_str().len();
        if longest < PATH_MAX {
            continue;
        }
        if entry.file_type().is_dir() {
            walk.skip_current_dir();
        }
        let (Some(folder), Some(name)) = (inside.parent(), inside.file_name()) else { continue };
        if last.as_ref().is_none_or(|(known, ..)| known != folder) {
            let open = |top: &Path| open(&top.join(folder)).map(Rc::new);
            last = Some((folder.to_owned(), open(from)?, open(to)?));
        }
        let (_, from, to) = last.as_ref().expect("it was just opened");
        parts.push(Part { from: Rc::clone(from), to: Rc::clone(to), name: PathBuf::from(name) });
    }
    Ok(parts)
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, folder, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::mkdirat;

    use super::*;

    /// Far deeper than any path reaches.
    const LEVELS: usize = 5_000;

    fn deep(top: &Path) -> OwnedFd {
        fs::create_dir(top).unwrap();
        let mut at = open(top).unwrap();
        for level in 0..LEVELS {
            if level % 500 == 7 {
                write(&at, "file", &level.to_string());
            }
            mkdirat(&at, "dd", Mode::RWXU).unwrap();
            at = down(&at);
        }
        at
    }

    fn down(at: &OwnedFd) -> OwnedFd {
        openat(at, "dd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn write(at: &OwnedFd, name: &str, text: &str) {
        let file = openat(at, name, OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR).unwrap();
        io::Write::write_all(&mut File::from(file), text.as_bytes()).unwrap();
    }

    fn text(at: &OwnedFd, name: &str) -> String {
        let file = openat(at, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        io::read_to_string(File::from(file)).unwrap()
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_copied() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("a-longer-name"));
        let bottom = deep(&from);
        write(&bottom, "last", "the bottom");
        rustix::fs::fchown(&bottom, Some(rustix::fs::Uid::from_raw(123)), None).unwrap();
        fs::write(from.join("one"), "shallow").unwrap();
        fs::hard_link(from.join("one"), from.join("two")).unwrap();
        let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        // The last folder that has a path.
        let mut edge = from.clone();
        while edge.as_os_str().len() + "/dd".len() < PATH_MAX {
            edge.push("dd");
        }
        let times = Timestamps { last_access: old, last_modification: old };
        for folder in [edge.parent().unwrap(), &edge] {
            utimensat(CWD, folder, &times, AtFlags::empty()).unwrap();
        }
        copy(&from, &to, &Cancel::default()).unwrap();

        let (mut one, mut other) = (open(&from).unwrap(), open(&to).unwrap());
        for level in 0..LEVELS {
            let (here, there) = (fstat(&one).unwrap(), fstat(&other).unwrap());
            assert_eq!((here.st_mtime, here.st_mode), (there.st_mtime, there.st_mode), "at level {level}");
            if level % 500 == 7 {
                assert_eq!(text(&other, "file"), level.to_string());
            }
            (one, other) = (down(&one), down(&other));
        }
        assert_eq!((text(&other, "last").as_str(), fstat(&other).unwrap().st_uid), ("the bottom", 123));
        assert_eq!(to.join("one").metadata().unwrap().ino(), to.join("two").metadata().unwrap().ino());
    }

    #[test]
    fn other_troubles_are_told() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        drop(deep(&from));
        let to = home.path().join("no-such-folder/to");
        let error = copy(&from, &to, &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("cp "), "{error}");
        copy(&home.path().join("nothing"), &to, &Cancel::default()).unwrap();
        let cancel = Cancel::default();
        cancel.0.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(copy(&from, &home.path().join("to"), &cancel).is_err());
    }
}
