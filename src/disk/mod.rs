//! Files and folders that come into place whole, and whether they outlive a power cut: the one way to do either.
//!
//! ```text
//! a file     temporary beside it ── fsync ── rename ── fsync of the folder
//! a folder   syncfs ── rename ── fsync of the folder above
//! ```
//! A kernel writes names to the disk before the bytes behind them, unless it is told otherwise: without the first sync a power
//! cut leaves an empty file under a final name, without the last one the old file or none. Whoever is told that something is
//! done may count on it, so all but what can be made again goes by [`File::write`] and [`put_tree`]. What can, says so by
//! [`File::write_spare`] and [`put_spare`]: a reader never finds half of it while the host runs, and must take what a power
//! cut left for nothing.
//!
//! Not chosen: a file system's own promises about renames (`auto_da_alloc`), which ext4 alone gives, and not always.

pub mod host;
pub mod marks;
pub mod tree;
pub mod walk;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A file in the place where it belongs: `disk::File::at(path).mode(0o644).write(text)`.
#[derive(Debug, Clone)]
#[must_use = "nothing is written yet"]
pub struct File<'a> {
    path: &'a Path,
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl<'a> File<'a> {
    /// Its owner's alone, unless something else is said.
    pub fn at(path: &'a Path) -> Self {
        Self { path, mode: 0o600, owner: None }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// User and group.
    pub fn owner(self, user: u32, group: u32) -> Self {
        Self { owner: Some((user, group)), ..self }
    }

    /// The old file or the new one, whatever happens; when this returns, the new one.
    pub fn write(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut draft = self.begin()?;
        draft.write_all(bytes.as_ref())?;
        self.finish(draft)
    }

    /// What is too large for memory is written into this, and put in place by [`File::finish`]; dropped, it is gone.
    pub fn begin(&self) -> io::Result<tempfile::NamedTempFile> {
        // Made for its owner alone, and opened to others once it is all there.
        tempfile::Builder::new().prefix(&draft_name(self.path)).tempfile_in(self.folder())
    }

    /// As [`File::write`] ends.
    pub fn finish(&self, draft: tempfile::NamedTempFile) -> io::Result<()> {
        self.open_to_others(&draft)?;
        draft.as_file().sync_all()?;
        draft.persist(self.path).map_err(|error| error.error)?;
        sync_folder(self.folder())
    }

    /// The same, but what is there stays, e.g. what another process wrote meanwhile. When this returns, one of the two is there
    /// for good.
    pub fn write_new(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let draft = self.draft(bytes.as_ref())?;
        draft.as_file().sync_all()?;
        match draft.persist_noclobber(self.path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
            // The other one may be on its way to the disk still.
            Ok(_) | Err(_) => sync_folder(self.folder()),
        }
    }

    /// Whole for every reader, and worth nothing after a power cut: for what can be made again.
    pub fn write_spare(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.draft(bytes.as_ref())?.persist(self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn folder(&self) -> &'a Path {
        folder_of(self.path)
    }

    fn draft(&self, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
        let mut draft = self.begin()?;
        draft.write_all(bytes)?;
        self.open_to_others(&draft)?;
        Ok(draft)
    }

    fn open_to_others(&self, draft: &tempfile::NamedTempFile) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            fchown(draft.as_file(), Some(user), Some(group))?;
        }
        draft.as_file().set_permissions(fs::Permissions::from_mode(self.mode))
    }
}

/// What the drafts of a file begin with, so that those of a killed process are told from others'.
fn draft_name(path: &Path) -> String {
    format!(".{}.new-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes a file and what killed processes were writing for it; none is fine. Nobody else may be writing it.
pub fn remove(path: &Path) -> io::Result<()> {
    let folder = match fs::read_dir(folder_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let name = draft_name(path);
    let drafts = folder.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&name));
    for file in drafts.map(|entry| entry.path()).chain([path.to_owned()]) {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Moves a folder to the name under which it is found, with all that was written into it; when this returns, it is there.
pub fn put_tree(from: &Path, to: &Path) -> io::Result<()> {
    sync_tree(from)?;
    put(from, to)
}

/// Moves what is on the disk already, e.g. a file that was moved aside, for good.
pub fn put(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(folder_of(to))
}

/// Moves what can be made again, or what is about to be removed. A power cut may leave it here, there, or with holes.
pub fn put_spare(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Puts a folder where another is, and that one where it was; when this returns, with all that was written into the first.
pub fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    sync_tree(new)?;
    renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE)?;
    sync_folder(folder_of(old))
}

/// Whether files in a folder can share blocks, by trying it.
pub fn shares_blocks(folder: &Path) -> io::Result<bool> {
    let mut from = tempfile::tempfile_in(folder)?;
    from.write_all(&[1; 4096])?;
    match rustix::fs::ioctl_ficlone(&tempfile::tempfile_in(folder)?, &from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Everything in and below a folder. One call for its whole filesystem costs less than one for each of ten thousand files.
pub fn sync_tree(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(folder)?)?)
}

/// The names in a folder.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Makes a folder and those above it that are missing, for good, so that what is put into it later has a way to it.
pub fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let missing: Vec<PathBuf> = path.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    missing.iter().rev().try_for_each(|folder| sync_folder(folder_of(folder)))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_or_kept_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::at(&path).write("one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        File::at(&path).write_new("two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        File::at(&path).mode(0o644).write("three").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().mode() & 0o777), (b"three".to_vec(), 0o644));
        File::at(&path).write_spare("four").unwrap();
        fs::write(folder.path().join(".other.new-abc"), "half").unwrap();
        remove(&folder.path().join("other")).unwrap();
        fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(File::at(&folder.path().join("taken")).write("five").is_err());
        assert!(File::at(&folder.path().join("absent/file")).write("six").is_err());
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "taken"]);
    }

    #[test]
    fn a_folder_is_put_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b/c/d"));
        make_folders(to.parent().unwrap(), 0o711).unwrap();
        fs::create_dir(&from).unwrap();
        fs::write(from.join("file"), "x").unwrap();
        put_tree(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("file")).unwrap(), b"x");
        assert!(!from.exists());
    }
}
