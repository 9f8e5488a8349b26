//! Removes whole trees, however deep.
//!
//! What runs in a machine or lies in an archive can put folders into folders without end. Who walks down such a tree holds one
//! open folder and one frame of its stack for each, and comes to the end of both. Here a folder that holds others is emptied by
//! moving those up beside it, so nothing is ever deep, and each folder is moved once.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, unlinkat};
use rustix::io::Errno;

/// How often a folder is looked through that somebody fills meanwhile.
const ROUNDS: u32 = 3;
/// A folder itself, never what a link leads to.
pub const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// What is mounted inside is not part of the tree.
const HERE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_XDEV).union(ResolveFlags::NO_SYMLINKS);

/// A file, a link or a folder with all that is in it; nothing is fine, too. Links are never followed.
pub fn remove(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return Ok(other?),
    }
    let top = Top { folder: openat2(CWD, path, FOLDER, Mode::empty(), ResolveFlags::empty())? };
    let mut left = Left::default();
    for _ in 0..ROUNDS {
        each(&top.folder, &mut |name| top.remove(name, &mut left))?;
        while let Some(name) = left.names.pop() {
            top.remove(&name, &mut left)?;
        }
        match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            other => return gone(other),
        }
    }
    Err(Errno::NOTEMPTY.into())
}

/// Removes the files of a folder and hands each folder of it over.
fn each(folder: &OwnedFd, inner: &mut dyn FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => inner(name)?,
            other => gone(other)?,
        }
    }
    Ok(())
}

/// What was moved up and is still to be removed.
#[derive(Default)]
struct Left {
    names: Vec<CString>,
    last: u64,
}

/// The folder that holds the tree.
struct Top {
    folder: OwnedFd,
}

impl Top {
    /// Removes one of its folders. Those inside that are not empty come up beside it.
    fn remove(&self, name: &CStr, left: &mut Left) -> io::Result<()> {
        let inner = match openat2(&self.folder, name, FOLDER, Mode::empty(), HERE) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        each(&inner, &mut |name| match unlinkat(&inner, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => self.move_up(&inner, name, left),
            other => gone(other),
        })?;
        match unlinkat(&self.folder, name, AtFlags::REMOVEDIR) {
            // Somebody put one more into it: the next round's.
            Err(Errno::NOTEMPTY) => Ok(()),
            other => gone(other),
        }
    }

    fn move_up(&self, from: &OwnedFd, name: &CStr, left: &mut Left) -> io::Result<()> {
        loop {
            left.last += 1;
            let new = CString::new(format!(".removed-{}", left.last)).expect("it holds no zero");
            match renameat_with(from, name, &self.folder, &new, RenameFlags::NOREPLACE) {
                Ok(()) => left.names.push(new),
                Err(Errno::EXIST) => continue,
                other => gone(other)?,
            }
            return Ok(());
        }
    }
}

/// Another command may be at the same.
fn gone(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_links_and_folders_go_and_what_links_lead_to_stays() {
        let home = tempfile::tempdir().unwrap();
        let (tree, other) = (home.path().join("tree"), home.path().join("other"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(tree.join(".removed-1/x")).unwrap();
        fs::create_dir(&other).unwrap();
        for file in [tree.join("a/b/c/file"), tree.join("a/file"), tree.join(".removed-1/x/file"), other.join("kept")] {
            fs::write(file, "text").unwrap();
        }
        std::os::unix::fs::symlink(&other, tree.join("a/b/link")).unwrap();
        std::os::unix::fs::symlink(&other, home.path().join("link")).unwrap();
        for path in [tree.clone(), tree, home.path().join("link")] {
            remove(&path).unwrap();
            assert!(fs::symlink_metadata(&path).is_err());
        }
        assert!(other.join("kept").exists());
        remove(&other.join("kept")).unwrap();
        assert!(remove(&other.join("kept/below")).is_ok() && fs::read_dir(&other).unwrap().next().is_none());
    }

    #[test]
    fn a_tree_as_deep_as_the_disk_takes_goes() {
        use rustix::fs::{mkdirat, openat};
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = openat(CWD, &tree, FOLDER, Mode::empty()).unwrap();
        // Far more than a process may have open, and than a thread's stack has frames for.
        for _ in 0..30_000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", FOLDER, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }
}
