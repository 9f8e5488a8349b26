//! The way to a folder in which somebody else than root decides what is where.
//!
//! Between the look at a path and its use every folder on the way that a person may write in can become a link, or another folder.
//! So whoever works there with root's rights walks one name at a time, follows links only of those who may lead there, and then
//! holds the folder itself, which is whoever's it should be.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

const AS_IT_IS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// As many links as the kernel follows in one path.
const MOST_LINKS: u32 = 40;

/// The folder at an absolute path. Links on the way are root's in a folder of root's, or `user`'s own; the folder is `user`'s, and
/// no link itself.
pub fn open(path: &Path, user: u32) -> io::Result<OwnedFd> {
    let mut left: VecDeque<OsString> = names(path);
    let mut at = openat(CWD, "/", AS_IT_IS | OFlags::DIRECTORY, Mode::empty())?;
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let next = openat(&at, &name, AS_IT_IS, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&next)?.st_mode) != FileType::Symlink {
            at = next;
            continue;
        }
        links += 1;
        if left.is_empty() || links > MOST_LINKS || !may_lead(&at, &next, user)? {
            return Err(Errno::LOOP.into());
        }
        let target = readlinkat(&next, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            at = openat(CWD, "/", AS_IT_IS | OFlags::DIRECTORY, Mode::empty())?;
        }
        names(&target).into_iter().rev().for_each(|name| left.push_front(name));
    }
    let stat = fstat(&at)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    if stat.st_uid != user {
        let told = format!("it belongs to user {} and not to user {user}", stat.st_uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, told));
    }
    Ok(at)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Whether a link in a folder is one that may be followed.
fn may_lead(folder: &OwnedFd, link: &OwnedFd, user: u32) -> io::Result<bool> {
    let (folder, link) = (fstat(folder)?, fstat(link)?);
    let others_write = folder.st_mode & 0o022 != 0 && folder.st_mode & 0o1000 == 0;
    Ok(link.st_uid == user || (link.st_uid == 0 && folder.st_uid == 0 && !others_write))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    const ADA: u32 = 70_001;
    const EVA: u32 = 70_002;

    fn folder(path: PathBuf, owner: u32) -> PathBuf {
        fs::create_dir(&path).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path
    }

    #[test]
    fn nobody_but_root_and_the_user_lead_to_the_users_folder() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let (ada, eva) = (folder(home.path().join("ada"), ADA), folder(home.path().join("eva"), EVA));
        let work = folder(ada.join("work"), ADA);
        let own = folder(eva.join("work"), EVA);
        assert!(open(&work, ADA).is_ok() && open(&own, EVA).is_ok());
        assert!(open(&work, EVA).unwrap_err().to_string().contains("70001"), "it is another's");
        assert!(open(&ada.join("../ada/./work"), ADA).is_ok() && open(&ada.join("none"), ADA).is_err());
        // Ada's folder leads into Eva's, who is led by nobody but herself and root.
        symlink(&eva, ada.join("link")).unwrap();
        lchown(ada.join("link"), Some(ADA), Some(ADA)).unwrap();
        assert!(open(&ada.join("link/work"), EVA).is_err(), "through a link of another's");
        lchown(ada.join("link"), Some(0), Some(0)).unwrap();
        assert!(open(&ada.join("link/work"), EVA).is_err(), "one of root's in a folder of another's");
        lchown(ada.join("link"), Some(EVA), Some(EVA)).unwrap();
        assert!(open(&ada.join("link/work"), EVA).is_ok());
        symlink("eva", home.path().join("link")).unwrap();
        assert!(open(&home.path().join("link/work"), EVA).is_ok(), "one of root's");
        assert!(open(&home.path().join("link"), EVA).is_err(), "the folder itself is no link");
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(open(&home.path().join("link/work"), EVA).is_err(), "in a folder where everybody writes");
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).unwrap();
        symlink("loop", eva.join("loop")).unwrap();
        lchown(eva.join("loop"), Some(EVA), Some(EVA)).unwrap();
        assert!(open(&eva.join("loop/work"), EVA).is_err());
        fs::write(eva.join("file"), "").unwrap();
        assert!(open(&eva.join("file"), EVA).is_err());
    }
}
