//! A folder in which others write, too: its person and machines, in a build a stranger's program. Root reads and writes there
//! by names that lead over no link, so what they put in the way is an error and never another file of this host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, mkdirat, open, openat2, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::disk::walk;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// What is new in it belongs to the one whom it belongs to.
pub struct Beneath {
    root: OwnedFd,
    owner: (Uid, Gid),
}

/// A plain file.
pub struct Found {
    pub mode: u32,
    pub bytes: Vec<u8>,
}

impl Beneath {
    /// A folder that is known to be `user`'s is opened on a way that nobody else can bend.
    pub fn open(folder: &Path, user: Option<u32>) -> io::Result<Self> {
        let root = match user {
            Some(user) => openat2(&walk::open(folder, user)?, ".", FOLDER, Mode::empty(), BENEATH)?,
            None => open(folder, FOLDER | OFlags::NOFOLLOW, Mode::empty())?,
        };
        Self::new(root)
    }

    /// One that is held already.
    pub fn of(folder: &OwnedFd) -> io::Result<Self> {
        Self::new(openat2(folder, ".", FOLDER, Mode::empty(), BENEATH)?)
    }

    fn new(root: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&root)?;
        Ok(Self { root, owner: (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)) })
    }

    /// `None` where nothing has the name. Anything but a plain file is an error, as is one of more than `most` bytes.
    pub fn read(&self, path: &str, most: usize) -> io::Result<Option<Found>> {
        // Not blocking: it may be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat2(&self.root, path, flags, Mode::empty(), BENEATH) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        let mut bytes = Vec::new();
        File::from(file).take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
        }
        Ok(Some(Found { mode: stat.st_mode & 0o777, bytes }))
    }

    /// The plain files of a folder, open.
    pub fn files(&self, folder: &str) -> io::Result<Vec<(String, File)>> {
        let folder = openat2(&self.root, folder, FOLDER, Mode::empty(), BENEATH)?;
        let mut files = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = openat2(&folder, name.as_str(), flags, Mode::empty(), BENEATH) else { continue };
            if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile {
                files.push((name, File::from(file)));
            }
        }
        Ok(files)
    }

    /// Whether anything has the name, a link included.
    pub fn has(&self, path: &str) -> io::Result<bool> {
        let (folder, name) = split(path);
        let found = openat2(&self.root, folder, FOLDER, Mode::empty(), BENEATH)
            .and_then(|folder| statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whole or as it was, for everybody who reads it meanwhile, and after a power cut. It is written as `draft` first, where
    /// nobody looks.
    pub fn replace(&self, path: &str, mode: u32, text: &[u8], draft: &str) -> io::Result<()> {
        let (folder, name) = split(path);
        let folder = self.make(folder)?;
        let (desk, draft) = split(draft);
        let desk = self.make(desk)?;
        match unlinkat(&desk, draft, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat2(&desk, draft, flags, Mode::from_raw_mode(0o600), BENEATH)?);
        file.write_all(text)?;
        fchmod(&file, Mode::from_raw_mode(mode))?;
        fchown(&file, Some(self.owner.0), Some(self.owner.1))?;
        file.sync_all()?;
        renameat(&desk, draft, &folder, name)?;
        sync(&folder)
    }

    /// One that is not there is fine, and a folder stays.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let (folder, name) = split(path);
        let removed = openat2(&self.root, folder, FOLDER, Mode::empty(), BENEATH)
            .and_then(|folder| unlinkat(&folder, name, AtFlags::empty()).map(|()| folder));
        match removed {
            Ok(folder) => sync(&folder),
            // What leads over a link, or became a folder, is no longer what was meant.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder of this name, made where it is missing.
    fn make(&self, path: &str) -> io::Result<OwnedFd> {
        let mut folder = openat2(&self.root, ".", FOLDER, Mode::empty(), BENEATH)?;
        for part in path.split('/') {
            folder = match openat2(&folder, part, FOLDER, Mode::empty(), BENEATH) {
                Err(Errno::NOENT) => {
                    mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                    let made = openat2(&folder, part, FOLDER, Mode::empty(), BENEATH)?;
                    fchmod(&made, Mode::from_raw_mode(0o755))?;
                    fchown(&made, Some(self.owner.0), Some(self.owner.1))?;
                    made
                }
                other => other?,
            };
        }
        Ok(folder)
    }
}

/// The names in it: who writes one before the other relies on that order.
fn sync(folder: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(folder)?)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_are_written_read_and_removed_below() {
        let home = tempfile::tempdir().unwrap();
        let below = Beneath::open(home.path(), None).unwrap();
        below.replace("a/b/file", 0o750, b"text", "desk/draft").unwrap();
        let found = below.read("a/b/file", 4).unwrap().unwrap();
        assert_eq!((found.mode, found.bytes.as_slice()), (0o750, b"text".as_slice()));
        assert_eq!(fs::metadata(home.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(home.path().join("a/b")).unwrap().uid(), fs::metadata(home.path()).unwrap().uid());
        assert!(below.read("a/b/file", 3).err().unwrap().to_string().contains("too large"));
        assert!(below.read("a/b", 9).err().unwrap().to_string().contains("no plain file"));
        assert!(below.has("a/b/file").unwrap() && !below.has("a/b/other").unwrap() && !below.has("none/other").unwrap());
        below.replace("a/b/file", 0o600, b"new", "desk/draft").unwrap();
        assert_eq!(fs::read(home.path().join("a/b/file")).unwrap(), b"new");
        for path in ["a/b/file", "a/b/file", "a/b", "none/other"] {
            below.remove(path).unwrap();
        }
        assert!(home.path().join("a/b").exists() && below.read("a/b/file", 9).unwrap().is_none());
        assert_eq!(fs::read_dir(home.path().join("desk")).unwrap().count(), 0);
    }

    #[test]
    fn no_link_and_no_pipe_is_ever_followed() {
        let (home, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(host.path().join("shadow"), "host").unwrap();
        symlink(host.path(), home.path().join("folder")).unwrap();
        symlink(host.path().join("shadow"), home.path().join("file")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            home.path().join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(0, 0),
        )
        .unwrap();
        let below = Beneath::open(home.path(), None).unwrap();
        for path in ["folder/shadow", "file", "../x", "/etc/passwd", "pipe"] {
            assert!(below.read(path, 99).is_err(), "{path}");
        }
        assert!(below.replace("folder/shadow", 0o644, b"x", "draft").is_err());
        assert!(below.replace("ok", 0o644, b"x", "folder/draft").is_err());
        assert!(below.replace("../x", 0o644, b"x", "draft").is_err());
        below.remove("folder/shadow").unwrap();
        // A link with the file's own name, or the draft's, is replaced and stays a stranger's.
        symlink(host.path().join("shadow"), home.path().join("draft")).unwrap();
        below.replace("file", 0o644, b"ours", "draft").unwrap();
        assert_eq!(fs::read_to_string(home.path().join("file")).unwrap(), "ours");
        assert_eq!(fs::read_to_string(host.path().join("shadow")).unwrap(), "host");
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1);
        assert!(Beneath::open(&home.path().join("folder"), None).is_err());
    }

    #[test]
    fn only_plain_files_of_the_folder_itself_are_opened() {
        let (work, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(host.path().join("secret.pack"), "host").unwrap();
        let packs = work.path().join("objects/pack");
        std::fs::create_dir_all(packs.join("folder.pack")).unwrap();
        std::fs::write(packs.join("a.pack"), "own").unwrap();
        symlink(host.path().join("secret.pack"), packs.join("b.pack")).unwrap();
        // Whoever opens this to read it waits for a writer.
        rustix::fs::mknodat(rustix::fs::CWD, packs.join("c.pack"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let below = Beneath::open(work.path(), None).unwrap();
        let names: Vec<_> = below.files("objects/pack").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.pack"]);
        symlink(host.path(), work.path().join("link")).unwrap();
        assert!(below.files("link").is_err());
    }
}
