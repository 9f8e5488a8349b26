//! Who builds which layer right now. A lock vanishes with its process, so what a killed build left is never taken for a
//! running one, and a prune beside a build leaves the build alone.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Error, Result};
use crate::model::Digest;

/// Held while one layer is built. The file's text is the parent's digest: a prune must keep that one too.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

/// Takes the lock; `waiting` is called once if another process holds it.
pub(super) fn take(path: &Path, parent: Option<&Digest>, waiting: &dyn Fn()) -> Result<Lock> {
    let failed = || Error::io("could not lock", path);
    let mut told = false;
    loop {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if !told {
                waiting();
                told = true;
            }
            flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed()(errno.into()))?;
        }
        // The holder before us may have removed the file after we opened it.
        if !is_at(&file, path) {
            continue;
        }
        file.set_len(0).and_then(|()| file.write_all(parent.map_or("", Digest::as_str).as_bytes())).map_err(failed())?;
        return Ok(Lock { path: path.to_owned(), _file: file });
    }
}

/// What the holder builds on, if there is a holder: `Some(None)` for a base.
pub(super) fn held(path: &Path) -> Option<Option<Digest>> {
    let mut file = File::open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(Digest::try_from(text).ok())
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => held.ino() == named.ino(),
        _ => false,
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is held; whoever waits sees that the name is gone and starts again.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_and_the_others_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let parent = Digest::from_bytes(&[1; 32]);
        let first = take(&path, Some(&parent), &|| panic!("nobody holds it")).unwrap();
        assert_eq!(held(&path), Some(Some(parent)));
        let (sender, waits) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let path = &path;
            let second = scope.spawn(move || take(path, None, &|| sender.send(()).unwrap()).unwrap());
            waits.recv().unwrap();
            drop(first);
            let second = second.join().unwrap();
            assert_eq!(held(path), Some(None));
            drop(second);
        });
        assert_eq!(held(&path), None);
        assert!(!path.exists());
    }
}
