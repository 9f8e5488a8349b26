//! Downloads that builds share. A machine sees a cache and writes beside it, so parallel builds never wait for apt's locks;
//! what a successful build downloaded is moved in afterwards.
//!
//! apt compares a package with its signed list when it downloads it, never again: one that lies in its cache is taken by name
//! and size. So a cache is as good as whoever has written into it, and mmdebstrap runs what it unpacks on this host.
//!
//! ```text
//! <store>/cache/apt/verified/        packages that mmdebstrap downloaded: no program of a recipe has run where they were
//! <store>/cache/apt/lists/           its lists
//! <store>/cache/apt/kept/shipped/    packages of machines in which only shipped recipes ran
//! <store>/cache/apt/kept/<digest>/   the same for each set of authors, seen by builds of the same set alone
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Error, Result, shift};
use crate::disk;
use crate::model::Digest;
use crate::model::machine::{Mount, MountMode};

/// Where apt keeps packages and lists.
pub const ARCHIVES: &str = "/var/cache/apt/archives";
const LISTS: &str = "/var/lib/apt/lists";
const SHIPPED: &str = "shipped";

/// The folders that the recipes of a box and of all below it are from; the one that came with adt is left out.
pub type Authors = BTreeSet<PathBuf>;

pub fn verified(store: &Path) -> PathBuf {
    store.join("cache/apt/verified")
}

pub fn lists(store: &Path) -> PathBuf {
    store.join("cache/apt/lists")
}

pub fn kept(store: &Path, authors: &Authors) -> PathBuf {
    let all = store.join("cache/apt/kept");
    if authors.is_empty() {
        return all.join(SHIPPED);
    }
    let mut hash = Sha256::new();
    for author in authors {
        hash.update(author.as_os_str().as_encoded_bytes());
        hash.update([0]);
    }
    all.join(Digest::from_bytes(&hash.finalize()).as_str())
}

/// Makes the folders, as a machine's root owns them, and the mounts that show them to a build of these authors.
pub fn mounts(store: &Path, authors: &Authors) -> Result<Vec<Mount>> {
    let (archives, lists) = (kept(store, authors), lists(store));
    for folder in [&archives, &lists] {
        create(folder)?;
        own(folder)?;
    }
    // What nobody else's recipe can have touched is good for all.
    lend(&verified(store), &archives)?;
    lend(&kept(store, &Authors::new()), &archives)?;
    let mount = |source, target: &str| Mount { source, target: target.to_owned(), mode: MountMode::CopyOnWrite };
    Ok(vec![mount(archives, ARCHIVES), mount(lists, LISTS)])
}

/// Forgets what builds of these authors have downloaded: the next platform in a folder is another author.
pub fn forget(store: &Path, authors: &Authors) -> Result<()> {
    super::layer::remove_tree(&kept(store, authors))
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("could not create", folder))
}

/// Links cost no time and no space. Machines write beside what they see, so the file stays as it is.
fn lend(from: &Path, to: &Path) -> Result<()> {
    if from == to {
        return Ok(());
    }
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        match std::fs::hard_link(entry.path(), to.join(entry.file_name())) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("could not link", entry.path())(error));
            }
            _ => {}
        }
    }
    Ok(())
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
    create(cache)?;
    let entries = match std::fs::read_dir(upper) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io("could not read", upper)(error)),
    };
    // apt takes what it finds by name and size alone, so what has its name must have its text, also after a power cut.
    disk::sync_tree(upper).map_err(Error::io("could not sync", upper))?;
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
        let mounts = mounts(store.path(), &Authors::new()).unwrap();
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

    #[test]
    fn what_one_authors_machine_wrote_no_other_author_sees() {
        let store = tempfile::tempdir().unwrap();
        let authors = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Authors>();
        let (evil, good, both) = (authors(&["/evil"]), authors(&["/good"]), authors(&["/evil", "/good"]));
        let put = |folder: &Path, name: &str| {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(name), name).unwrap();
        };
        put(&verified(store.path()), "signed.deb");
        put(&kept(store.path(), &Authors::new()), "shipped.deb");
        put(&kept(store.path(), &evil), "evil.deb");
        let seen = |authors: &Authors| {
            let mounts = mounts(store.path(), authors).unwrap();
            let entries = std::fs::read_dir(&mounts[0].source).unwrap().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(seen(&evil), set(&["evil.deb", "shipped.deb", "signed.deb"]));
        assert_eq!(seen(&good), set(&["shipped.deb", "signed.deb"]));
        assert_eq!(seen(&both), set(&["shipped.deb", "signed.deb"]));
        assert_eq!(seen(&Authors::new()), set(&["shipped.deb", "signed.deb"]));
        // mmdebstrap's own: nothing ever comes in from a machine.
        assert_eq!(std::fs::read_dir(verified(store.path())).unwrap().count(), 1);
        forget(store.path(), &evil).unwrap();
        assert_eq!(seen(&evil), set(&["shipped.deb", "signed.deb"]));
    }
}
