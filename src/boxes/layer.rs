//! Layers on disk.
//!
//! ```text
//! <store>/layers/<digest>/rootfs/            files, ids shifted by 100000
//! <store>/layers/<digest>/layer.json         written last: a folder without it is half a layer
//! <store>/layers/.build-<digest>-<process>/  being built; renamed when it is whole
//! <store>/layers/.old-<digest>/              being removed
//! <store>/layers/.lock-<digest>              held by the process that builds it
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, Result};
use crate::disk;
use crate::model::{BoxName, Digest, Health};
use crate::store;
use crate::store::lock::{self, Lock};

const RECORD: &str = "layer.json";

/// [`RECORD`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub name: BoxName,
    pub digest: Digest,
    pub parent: Option<Digest>,
    pub created: jiff::Timestamp,
    /// Bytes on disk.
    pub size: u64,
    pub summary: String,
    pub packages: Vec<String>,
    pub exposes: Vec<u16>,
    pub health: Health,
    /// What its files are, found out when somebody first asks; see [`super::packed`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<Content>,
}

/// What a layer's files are, wherever it lies: two layers of one digest were made of the same, these tell whether they are the
/// same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Of its packed form before compression.
    pub sha256: Digest,
    /// How long that is.
    pub bytes: u64,
    pub entries: u64,
}

/// What the lock of a layer that is being built tells: a prune must keep the layer below it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Building {
    stands_on: Option<Digest>,
}

/// The layers of a store.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
}

impl Layers {
    pub fn open(store: &Path) -> Result<Self> {
        let folder = store.join("layers");
        // A packed root filesystem has programs that run as their owner. No user of the host may reach one: a draft's belong to
        // the host's root until their ids are shifted. Machines see layers through mounts that root makes.
        store::make_folder(&folder, store::PRIVATE)?;
        Ok(Self { folder })
    }

    pub fn rootfs(&self, digest: &Digest) -> PathBuf {
        self.path(digest).join("rootfs")
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.as_str())
    }

    /// Another one for each process: what a killed one had started may still be ending, and writes where it was told to.
    fn building(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!(".build-{digest}-{}", std::process::id()))
    }

    /// Whether the layer is whole.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).join(RECORD).is_file()
    }

    pub fn get(&self, digest: &Digest) -> Result<Layer> {
        let path = self.path(digest).join(RECORD);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::LayerMissing { digest: digest.clone() });
            }
            Err(error) => return Err(Error::io("could not read", path)(error)),
        };
        let damaged = |reason: String| Error::LayerDamaged { path: path.clone(), reason };
        let layer: Layer = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if layer.digest != *digest {
            return Err(damaged(format!("it describes layer `{}`", layer.digest)));
        }
        if !self.rootfs(digest).is_dir() {
            return Err(damaged("the folder `rootfs` beside it is missing".to_owned()));
        }
        Ok(layer)
    }

    /// Every whole layer by name, then age. A damaged one is an error of its own, not the end of the list.
    pub fn list(&self) -> Result<Vec<std::result::Result<Layer, Error>>> {
        let mut layers: Vec<_> =
            self.digests()?.iter().filter(|digest| self.has(digest)).map(|digest| self.get(digest)).collect();
        layers.sort_by(|a, b| match (a, b) {
            (Ok(a), Ok(b)) => (&a.name, a.created, &a.digest).cmp(&(&b.name, b.created, &b.digest)),
            (a, b) => a.is_err().cmp(&b.is_err()),
        });
        Ok(layers)
    }

    /// Every folder that is named like a layer, whole or not.
    pub(super) fn digests(&self) -> Result<Vec<Digest>> {
        Ok(self.names()?.into_iter().filter_map(|name| Digest::try_from(name).ok()).collect())
    }

    /// What interrupted builds and removals left; builds that run right now are left out.
    pub fn halves(&self) -> Result<Vec<PathBuf>> {
        let mut halves = Vec::new();
        for name in self.names()? {
            let word = [".build-", ".old-", ".lock-"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
            let Ok(digest) = Digest::try_from(word.split('-').next().unwrap_or_default().to_owned()) else { continue };
            if (name.starts_with('.') || !self.has(&digest)) && lock::held::<Building>(&self.lock_path(&digest)).is_none() {
                halves.push(self.folder.join(&name));
            }
        }
        Ok(halves)
    }

    /// What the builds that run right now stand on.
    pub(super) fn parents_of_builds(&self) -> Result<Vec<Digest>> {
        let names = self.names()?;
        let locks = names.iter().filter(|name| name.starts_with(".lock-")).map(|name| self.folder.join(name));
        Ok(locks.filter_map(|path| lock::held::<Building>(&path).flatten()?.stands_on).collect())
    }

    fn lock_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!(".lock-{digest}"))
    }

    /// Makes this process the one that builds `digest`; `waiting` is called once if another one is at it.
    pub fn lock(&self, digest: &Digest, parent: Option<&Digest>, cancel: &AtomicBool, waiting: &dyn Fn()) -> Result<Lock> {
        let request = lock::Request::new(self.lock_path(digest), Building { stands_on: parent.cloned() });
        Ok(request.wait(cancel, &mut |_| waiting())?)
    }

    /// Writes down what is known of a layer now; the caller holds its lock.
    pub(super) fn describe(&self, layer: &Layer) -> Result<()> {
        let path = self.path(&layer.digest).join(RECORD);
        disk::File::at(&path).mode(0o644).write(text(layer)).map_err(Error::io("could not write", path))
    }

    /// A build that was killed after its last step leaves a layer that is whole, and its lock.
    pub fn drop_idle_lock(&self, digest: &Digest) {
        lock::drop_idle(&self.lock_path(digest));
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.folder).map_err(Error::io("could not read", &self.folder))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(Error::io("could not read", &self.folder))?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The layers that a machine on `digest` stacks, the base first.
    pub fn chain(&self, digest: &Digest) -> Result<Vec<Digest>> {
        let mut chain = vec![digest.clone()];
        while let Some(parent) = self.get(chain.last().expect("the chain starts with one"))?.parent {
            if chain.contains(&parent) {
                let child = chain.pop().expect("the chain starts with one");
                return Err(Error::LayerCycle { child, parent });
            }
            chain.push(parent);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Removes a layer, whole or not. A layer that is absent is fine.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        let old = self.folder.join(format!(".old-{digest}"));
        remove_tree(&old)?;
        match disk::put_spare(&path, &old) {
            Ok(()) => remove_tree(&old),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("could not remove", path)(error)),
        }
    }

    /// A new folder to build `digest` in; what an interrupted build left there is removed. The lock is held until the end.
    pub fn begin(&self, digest: &Digest, lock: Lock) -> Result<Draft<'_>> {
        let left = format!(".build-{digest}");
        for name in self.names()?.iter().filter(|name| name.starts_with(&left)) {
            remove_left(&self.folder.join(name))?;
        }
        let folder = self.building(digest);
        store::make_folder(&folder, store::PRIVATE)?;
        Ok(Draft { layers: self, folder, digest: digest.clone(), _lock: lock })
    }
}

/// Whoever is ending may put one more file into a folder that is being emptied.
fn remove_left(folder: &Path) -> Result<()> {
    let mut result = remove_tree(folder);
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        result = remove_tree(folder);
    }
    result
}

/// A layer that is being built. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct Draft<'a> {
    layers: &'a Layers,
    folder: PathBuf,
    digest: Digest,
    _lock: Lock,
}

impl Draft<'_> {
    /// Where the files go; not there yet.
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// A place on the same filesystem for what the build needs meanwhile.
    pub fn scratch(&self) -> Result<PathBuf> {
        let path = self.folder.join("scratch");
        std::fs::create_dir_all(&path).map_err(Error::io("could not create", &path))?;
        Ok(path)
    }

    /// Makes the layer: from here on it is there as a whole, also after a power cut.
    pub fn finish(self, mut layer: Layer) -> Result<Layer> {
        remove_tree(&self.folder.join("scratch"))?;
        layer.size = size(&self.rootfs())?;
        let path = self.folder.join(RECORD);
        std::fs::write(&path, text(&layer)).map_err(Error::io("could not write", &path))?;
        let target = self.layers.path(&self.digest);
        if target.exists() {
            self.layers.remove(&self.digest)?;
        }
        disk::put_tree(&self.folder, &target).map_err(Error::io("could not create", &target))?;
        Ok(layer)
    }
}

fn text(layer: &Layer) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(layer).expect("a layer's description is plain data");
    text.push(b'\n');
    text
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // After `finish` it is gone; what can't be removed now is removed by the next build or prune.
        drop(remove_tree(&self.folder));
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<()> {
    disk::tree::remove(path).map_err(Error::io("could not remove", path))
}

/// Bytes on disk below a folder; hard links count once.
pub(super) fn size(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut total = 0;
    for entry in walkdir::WalkDir::new(path) {
        let meta = entry.and_then(|entry| entry.metadata()).map_err(|error| Error::Io {
            what: "could not measure",
            path: path.to_owned(),
            source: error.into(),
        })?;
        if meta.nlink() == 1 || meta.is_dir() || seen.insert(meta.ino()) {
            total += meta.blocks() * 512;
        }
    }
    Ok(total)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn digest(number: u8) -> Digest {
        Digest::from_bytes(&[number; 32])
    }

    pub(crate) fn layer(number: u8, parent: Option<u8>) -> Layer {
        Layer {
            name: BoxName::new("web").unwrap(),
            digest: digest(number),
            parent: parent.map(digest),
            created: jiff::Timestamp::UNIX_EPOCH,
            size: 0,
            summary: String::new(),
            packages: Vec::new(),
            exposes: vec![80],
            health: Health { checks: Vec::new(), deadline_seconds: 10 },
            content: None,
        }
    }

    fn begin(layers: &Layers, number: u8) -> Draft<'_> {
        let lock = layers.lock(&digest(number), Some(&digest(77)), &AtomicBool::new(false), &|| {}).unwrap();
        layers.begin(&digest(number), lock).unwrap()
    }

    pub(crate) fn make(layers: &Layers, number: u8, parent: Option<u8>) {
        let draft = begin(layers, number);
        std::fs::create_dir(draft.rootfs()).unwrap();
        std::fs::write(draft.rootfs().join("file"), vec![1; 9000]).unwrap();
        draft.finish(layer(number, parent)).unwrap();
    }

    #[test]
    fn a_layer_is_there_as_a_whole_or_not_at_all() {
        let store = tempfile::tempdir().unwrap();
        let layers = Layers::open(store.path()).unwrap();
        let draft = begin(&layers, 1);
        std::fs::create_dir(draft.rootfs()).unwrap();
        assert!(!layers.has(&digest(1)));
        drop(draft);
        assert_eq!(std::fs::read_dir(store.path().join("layers")).unwrap().count(), 0);
        make(&layers, 1, None);
        make(&layers, 2, Some(1));
        make(&layers, 2, Some(1));
        assert!(layers.get(&digest(1)).unwrap().size >= 9000);
        assert_eq!(layers.chain(&digest(2)).unwrap(), [digest(1), digest(2)]);
        assert_eq!(layers.list().unwrap().len(), 2);
        layers.remove(&digest(1)).unwrap();
        layers.remove(&digest(1)).unwrap();
        assert!(matches!(layers.chain(&digest(2)), Err(Error::LayerMissing { digest: d }) if d == digest(1)));
    }

    #[test]
    fn a_damaged_description_is_a_clear_error() {
        let store = tempfile::tempdir().unwrap();
        let layers = Layers::open(store.path()).unwrap();
        make(&layers, 1, None);
        let path = layers.path(&digest(1)).join("layer.json");
        for text in ["", "{\"name\": 1}", &serde_json::to_string(&layer(2, None)).unwrap()] {
            std::fs::write(&path, text).unwrap();
            let error = layers.get(&digest(1)).unwrap_err();
            assert!(error.to_string().contains("layer.json` is damaged: "), "{error}");
            assert!(layers.list().unwrap()[0].is_err());
        }
        let looped = serde_json::to_string(&layer(1, Some(1))).unwrap();
        std::fs::write(&path, looped).unwrap();
        assert!(matches!(layers.chain(&digest(1)), Err(Error::LayerCycle { .. })));
    }

    #[test]
    fn halves_are_found() {
        let store = tempfile::tempdir().unwrap();
        let layers = Layers::open(store.path()).unwrap();
        make(&layers, 1, None);
        let folder = store.path().join("layers");
        let names = [format!(".build-{}", digest(2)), digest(3).to_string(), format!(".old-{}", digest(4))];
        for name in &names {
            std::fs::create_dir(folder.join(name)).unwrap();
        }
        std::fs::create_dir(folder.join("somebody-elses")).unwrap();
        assert_eq!(layers.halves().unwrap().len(), 3);
        let running = begin(&layers, 2);
        assert_eq!(layers.halves().unwrap().len(), 2);
        assert_eq!(layers.parents_of_builds().unwrap(), [digest(77)]);
        drop(running);
        assert_eq!(layers.halves().unwrap().len(), 2);
    }
}
