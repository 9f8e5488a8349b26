//! Downloads that builds share. A machine sees the cache and writes beside it, so parallel builds never wait for apt's locks;
//! what a successful build downloaded is moved in afterwards.

use std::path::{Path, PathBuf};

use super::{Error, Result, shift};
use crate::disk;
use crate::model::machine::{Mount, MountMode};

/// Where apt keeps packages and lists, and which folder of the cache stands for it.
pub const PARTS: [(&str, &str); 2] = [("archives", "/var/cache/apt/archives"), ("lists", "/var/lib/apt/lists")];

pub fn folder(store: &Path, part: &str) -> PathBuf {
    store.join("cache/apt").join(part)
}

/// Makes the folders, as a machine's root owns them, and the mounts that show them.
pub fn mounts(store: &Path) -> Result<Vec<Mount>> {
    PARTS
        .iter()
        .map(|(part, target)| {
            let source = folder(store, part);
            std::fs::create_dir_all(&source).map_err(Error::io("could not create", &source))?;
            own(&source)?;
            Ok(Mount { source, target: (*target).to_owned(), mode: MountMode::CopyOnWrite })
        })
        .collect()
}

/// Gives a path to the machines' root. Without root there are no machines either; a test's folders stay as they are.
fn own(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(shift::BASE), Some(shift::BASE)).map_err(Error::io("could not change", path))?;
    }
    Ok(())
}

/// Moves whole downloads from `upper` into the cache's part. Locks, partial downloads and the markers of deleted files stay.
pub fn take(upper: &Path, cache: &Path) -> Result<usize> {
    std::fs::create_dir_all(cache).map_err(Error::io("could not create", cache))?;
    let entries = match std::fs::read_dir(upper) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io("could not read", upper)(error)),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.map_err(Error::io("could not read", upper))?.path();
        let name = path.file_name().expect("an entry of a folder has a name").to_owned();
        let meta = std::fs::symlink_metadata(&path).map_err(Error::io("could not read", &path))?;
        let wanted = meta.is_file() && meta.len() > 0 && name != "lock";
        if wanted {
            move_file(&path, cache, &name)?;
            count += 1;
        }
    }
    Ok(count)
}

/// A reader never sees half a package, whichever filesystems the two folders are on.
fn move_file(path: &Path, cache: &Path, name: &std::ffi::OsStr) -> Result<()> {
    let target = cache.join(name);
    own(path)?;
    // apt compares each with its digest before it uses it, and fetches what a power cut spoilt once more.
    if disk::put_spare(path, &target).is_ok() {
        return Ok(());
    }
    let new = tempfile::NamedTempFile::new_in(cache).map_err(Error::io("could not create a file in", cache))?;
    std::fs::copy(path, new.path()).map_err(Error::io("could not copy", path))?;
    disk::put_spare(new.path(), &target).map_err(Error::io("could not write", target))?;
    drop(new.into_temp_path().keep());
    std::fs::remove_file(path).map_err(Error::io("could not remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_downloads_are_taken() {
        let store = tempfile::tempdir().unwrap();
        let upper = tempfile::tempdir().unwrap();
        let mounts = mounts(store.path()).unwrap();
        assert_eq!(mounts[0].target, "/var/cache/apt/archives");
        std::fs::create_dir(upper.path().join("partial")).unwrap();
        std::fs::write(upper.path().join("partial/x.deb"), "half").unwrap();
        for (name, text) in [("lock", ""), ("a.deb", "a"), ("b.deb", "")] {
            std::fs::write(upper.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", upper.path().join("c.deb")).unwrap();
        assert_eq!(take(upper.path(), &mounts[0].source).unwrap(), 1);
        assert_eq!(take(upper.path(), &mounts[0].source).unwrap(), 0);
        assert_eq!(std::fs::read_to_string(mounts[0].source.join("a.deb")).unwrap(), "a");
        assert_eq!(take(Path::new("/nowhere"), &mounts[0].source).unwrap(), 0);
    }
}
