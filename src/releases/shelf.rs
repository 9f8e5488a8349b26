//! Releases on disk.
//!
//! ```text
//! <store>/releases/<digest>/tree.tar.zst    the files; owners are given where they are unpacked
//! <store>/releases/<digest>/manifest.json   written last
//! <store>/releases/.build-<digest>-<process>/  being built; renamed when it is whole
//! <store>/releases/.old-<digest>/           being removed
//! <store>/releases/.lock-<digest>           held by the process that builds it
//! <store>/releases/.use-<digest>-<process>  held by a process that puts it on machines
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::archive::{self, Content};
use super::{Error, Result};
use crate::disk;
use crate::disk::tree;
use crate::model::{Digest, PlatformName, SiteName};
use crate::sources::rendered::Template;
use crate::store;
use crate::store::lock::{self, Lock};

/// `manifest.json`: what a release was made of, for people and for the next build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub digest: Digest,
    pub platform: PlatformName,
    pub site: SiteName,
    /// The commit it was first built for; others with the same files use it too.
    pub commit: String,
    pub tree: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub buildpack: Option<PathBuf>,
    /// Its files that are rendered for each machine, as the build left them.
    #[serde(default)]
    pub templates: Vec<Template>,
    /// The layers that its build's machine stood on, the base first.
    pub layers: Vec<Digest>,
    pub created: jiff::Timestamp,
    /// Bytes of the archive.
    pub size: u64,
    pub files: u64,
    /// `None` where nobody asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// The releases of a store.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

/// Why a lock of the shelf is held: nothing but that it is.
type Request = lock::Request<()>;

impl Shelf {
    pub fn open(store: &Path) -> Result<Self> {
        let folder = store.join("releases");
        // Private source code lies in here.
        store::make_folder(&folder, store::PRIVATE)?;
        Ok(Self { folder })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.as_str())
    }

    pub fn archive(&self, digest: &Digest) -> PathBuf {
        self.path(digest).join("tree.tar.zst")
    }

    /// Whether the release is whole.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).join("manifest.json").is_file()
    }

    pub fn get(&self, digest: &Digest) -> Result<Manifest> {
        let path = self.path(digest).join("manifest.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::Missing { digest: digest.clone() }),
            Err(error) => return Err(Error::io("could not read", path)(error)),
        };
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if manifest.digest != *digest {
            return Err(damaged(format!("it describes release `{}`", manifest.digest.short())));
        }
        Ok(manifest)
    }

    /// A release with its content, which is found out and kept where nobody asked before. The caller holds it.
    pub fn with_content(&self, digest: &Digest, cancel: &AtomicBool) -> Result<Manifest> {
        let mut manifest = self.get(digest)?;
        if manifest.content.is_none() {
            manifest.content = Some(self.read_again(&manifest, cancel)?);
            describe(&self.path(digest), &manifest)?;
        }
        Ok(manifest)
    }

    /// What the files of a release are now, whatever its manifest says.
    pub fn read_again(&self, manifest: &Manifest, cancel: &AtomicBool) -> Result<Content> {
        archive::content(&self.archive(&manifest.digest), &manifest.templates, u64::MAX, cancel)
    }

    /// The releases that are whole and sound.
    pub fn all(&self) -> Result<Vec<Manifest>> {
        let digests = self.names()?.into_iter().filter_map(|name| Digest::try_from(name).ok());
        Ok(digests.filter_map(|digest| self.get(&digest).ok()).collect())
    }

    /// Makes this process the one that builds `digest`; `waiting` is called once if another one is at it.
    pub fn lock(&self, digest: &Digest, cancel: &AtomicBool, waiting: &dyn Fn()) -> Result<Lock> {
        let request = Request::new(self.lock_path(digest), ());
        Ok(request.wait(cancel, &mut |_| waiting())?)
    }

    fn lock_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!(".lock-{digest}"))
    }

    /// A build that was killed after its last step leaves a release that is whole, and its lock.
    pub fn drop_idle_lock(&self, digest: &Digest) {
        lock::drop_idle(&self.lock_path(digest));
    }

    /// Keeps a release from being pruned while it is put on machines.
    pub fn hold(&self, digest: &Digest) -> Result<Lock> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!(".use-{digest}-{}-{count}", std::process::id());
        let request = Request::new(self.folder.join(name), ());
        // A dead process may have had our number; its lock died with it.
        Ok(request.wait(&AtomicBool::new(false), &mut |_| {})?)
    }

    /// Refuses what the disk has no place for.
    pub fn has_room(&self, bytes: u64) -> Result<()> {
        let disk =
            rustix::fs::statvfs(&self.folder).map_err(|errno| Error::io("could not measure", &self.folder)(errno.into()))?;
        if bytes > disk.f_bavail.saturating_mul(disk.f_frsize) {
            return Err(Error::io("could not make room in", &self.folder)(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    /// A new folder to build `digest` in; what an interrupted build left there is removed. The lock is held until the end.
    pub fn begin(&self, digest: &Digest, lock: Lock) -> Result<Draft<'_>> {
        let left = format!(".build-{digest}");
        for name in self.names()?.iter().filter(|name| name.starts_with(&left)) {
            remove_tree(&self.folder.join(name))?;
        }
        // A name of its own: what a killed build started may still be writing into the old one.
        let folder = self.folder.join(format!("{left}-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(Error::io("could not create", &folder))?;
        Ok(Draft { shelf: self, folder, digest: digest.clone(), _lock: lock })
    }

    /// Takes a release away in one step, to where it is removed from; `None` where it is absent. The caller has its lock.
    fn set_aside(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let old = self.folder.join(format!(".old-{digest}"));
        remove_tree(&old)?;
        match disk::put_spare(&self.path(digest), &old) {
            Ok(()) => Ok(Some(old)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("could not remove", self.path(digest))(error)),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.folder).map_err(Error::io("could not read", &self.folder))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// What nobody needs any more: neither in `kept`, nor on its way to machines, nor among the newest of its site.
    pub fn unused(&self, kept: &BTreeSet<Digest>, newest: usize) -> Result<Unused> {
        let names = self.names()?;
        let held = |name: &String| lock::held::<()>(&self.folder.join(name)).is_some();
        let busy: BTreeSet<Digest> = names.iter().filter(|name| held(name)).filter_map(|name| digest_of(name)).collect();
        let mut sites: BTreeMap<(PlatformName, SiteName), Vec<Manifest>> = BTreeMap::new();
        let mut unused = Unused::default();
        for name in &names {
            match (digest_of(name), Digest::try_from(name.clone()).is_ok()) {
                (Some(digest), true) => match self.get(&digest) {
                    Ok(manifest) => {
                        let site = (manifest.platform.clone(), manifest.site.clone());
                        sites.entry(site).or_default().push(manifest);
                    }
                    Err(_) if kept.contains(&digest) || busy.contains(&digest) => {}
                    Err(_) => unused.releases.push((digest, None)),
                },
                (Some(digest), false) if !busy.contains(&digest) => unused.halves.push(self.folder.join(name)),
                (Some(_) | None, _) => {}
            }
        }
        for manifests in sites.values_mut() {
            manifests.sort_by_key(|manifest| std::cmp::Reverse(manifest.created));
            let old = manifests.iter().skip(newest);
            let old = old.filter(|manifest| !kept.contains(&manifest.digest) && !busy.contains(&manifest.digest));
            unused.releases.extend(old.map(|manifest| (manifest.digest.clone(), Some(manifest.clone()))));
        }
        Ok(unused)
    }

    /// Removes what was found unused and still is: since then, others may have begun to build it, or put it on machines.
    /// `kept` is what is needed now.
    pub fn prune(&self, unused: &Unused, kept: &dyn Fn() -> Result<BTreeSet<Digest>>) -> Result<()> {
        for (digest, _) in &unused.releases {
            let Ok(_lock) = Request::new(self.lock_path(digest), ()).attempt()? else { continue };
            let Some(old) = self.set_aside(digest)? else { continue };
            // Only now: who holds it before this may have read that it is there, who comes later sees that it is not. And what
            // a holder has let go of by now is among the kept, if it is needed.
            let needed = self.is_held(digest).and_then(|held| Ok(held || kept()?.contains(digest)));
            if matches!(needed, Ok(false)) {
                remove_tree(&old)?;
            } else {
                let back = disk::put(&old, &self.path(digest));
                back.map_err(Error::io("could not keep", self.path(digest)))?;
                needed?;
            }
        }
        for half in &unused.halves {
            let digest = half.file_name().and_then(|name| digest_of(&name.to_string_lossy()));
            if half.is_file() {
                lock::drop_idle(half);
            } else if let Some(digest) = digest
                && let Ok(_lock) = Request::new(self.lock_path(&digest), ()).attempt()?
            {
                remove_tree(half)?;
            }
        }
        Ok(())
    }

    /// Whether it is on its way to machines.
    fn is_held(&self, digest: &Digest) -> Result<bool> {
        let ours = format!(".use-{digest}-");
        let held = |name: &String| name.starts_with(&ours) && lock::held::<()>(&self.folder.join(name)).is_some();
        Ok(self.names()?.iter().any(held))
    }
}

/// What a prune removes; shown before it is done.
#[derive(Debug, Default, PartialEq)]
pub struct Unused {
    /// Without a manifest where that is damaged.
    pub releases: Vec<(Digest, Option<Manifest>)>,
    /// What interrupted builds and removals left.
    pub halves: Vec<PathBuf>,
}

impl Unused {
    /// One line for each thing that goes.
    pub fn words(&self) -> Vec<String> {
        let releases = self.releases.iter().map(|(digest, manifest)| match manifest {
            Some(manifest) => format!("release {} of {}/{}", digest.short(), manifest.platform, manifest.site),
            None => format!("damaged release {}", digest.short()),
        });
        releases.chain(self.halves.iter().map(|half| half.display().to_string())).collect()
    }

    /// Bytes that it frees.
    pub fn size(&self) -> u64 {
        self.releases.iter().filter_map(|(_, manifest)| manifest.as_ref()).map(|manifest| manifest.size).sum()
    }
}

/// The digest in any of the names that the shelf gives.
fn digest_of(name: &str) -> Option<Digest> {
    let word = [".build-", ".old-", ".lock-", ".use-"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    Digest::try_from(word.get(..64)?.to_owned()).ok()
}

/// A release that is being built. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct Draft<'a> {
    shelf: &'a Shelf,
    folder: PathBuf,
    digest: Digest,
    _lock: Lock,
}

impl Draft<'_> {
    /// The tree that is to be packed; not there yet.
    pub fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// For what the build begins with; not there yet.
    pub fn source(&self) -> PathBuf {
        self.folder.join("source")
    }

    /// For what was packed elsewhere; not there yet.
    pub fn archive(&self) -> PathBuf {
        self.folder.join("tree.tar.zst")
    }

    /// Makes the release of the tree.
    pub fn finish(self, mut manifest: Manifest, cancel: &AtomicBool) -> Result<Manifest> {
        let path = self.archive();
        let file = File::create(&path).map_err(Error::io("could not write", &path))?;
        manifest.files = archive::pack(&self.tree(), &file, cancel)?;
        manifest.size = file.metadata().map_err(Error::io("could not read", &path))?.len();
        remove_tree(&self.tree())?;
        remove_tree(&self.source())?;
        self.place(manifest)
    }

    /// Makes the release of the archive: from here on it is there as a whole, also after a power cut.
    pub fn place(self, manifest: Manifest) -> Result<Manifest> {
        describe(&self.folder, &manifest)?;
        if let Some(old) = self.shelf.set_aside(&self.digest)? {
            remove_tree(&old)?;
        }
        let target = self.shelf.path(&self.digest);
        disk::put_tree(&self.folder, &target).map_err(Error::io("could not create", &target))?;
        Ok(manifest)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // After `finish` it is gone; what can't be removed now is removed by the next build or prune.
        drop(remove_tree(&self.folder));
    }
}

fn describe(folder: &Path, manifest: &Manifest) -> Result<()> {
    let path = folder.join("manifest.json");
    let mut text = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
    text.push(b'\n');
    disk::File::at(&path).write(text).map_err(Error::io("could not write", &path))
}

fn remove_tree(path: &Path) -> Result<()> {
    tree::remove(path).map_err(Error::io("could not remove", path))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::from_bytes(&[number; 32])
    }

    fn begin(shelf: &Shelf, number: u8) -> Draft<'_> {
        let lock = shelf.lock(&digest(number), &AtomicBool::new(false), &|| {}).unwrap();
        shelf.begin(&digest(number), lock).unwrap()
    }

    pub fn make(shelf: &Shelf, number: u8) -> Manifest {
        let draft = begin(shelf, number);
        std::fs::create_dir(draft.tree()).unwrap();
        std::fs::write(draft.tree().join("index.php"), [number; 100]).unwrap();
        let manifest = Manifest {
            digest: digest(number),
            platform: "shop".parse().unwrap(),
            site: "www".parse().unwrap(),
            commit: "c0ffee".into(),
            tree: "4b825dc6".into(),
            buildpack: None,
            templates: Vec::new(),
            layers: Vec::new(),
            created: jiff::Timestamp::from_second(i64::from(number)).unwrap(),
            size: 0,
            files: 0,
            content: None,
        };
        draft.finish(manifest, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn a_release_is_there_as_a_whole_or_not_at_all() {
        let store = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(store.path()).unwrap();
        let draft = begin(&shelf, 1);
        std::fs::create_dir(draft.tree()).unwrap();
        assert!(!shelf.has(&digest(1)));
        drop(draft);
        assert_eq!(std::fs::read_dir(store.path().join("releases")).unwrap().count(), 0);
        let made = make(&shelf, 1);
        assert_eq!((made.files, shelf.get(&digest(1)).unwrap()), (1, made.clone()));
        // Built again over itself, e.g. because its description was damaged.
        std::fs::write(shelf.path(&digest(1)).join("manifest.json"), "{").unwrap();
        assert!(matches!(shelf.get(&digest(1)), Err(Error::Damaged { .. })));
        assert_eq!(make(&shelf, 1), made);
        assert!(matches!(shelf.get(&digest(2)), Err(Error::Missing { .. })));
    }

    #[test]
    fn a_shelf_is_closed_to_others_also_one_that_was_not() {
        use std::os::unix::fs::PermissionsExt;
        let store = tempfile::tempdir().unwrap();
        let folder = store.path().join("releases");
        for _ in 0..2 {
            Shelf::open(store.path()).unwrap();
            assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn what_is_used_new_or_on_its_way_stays() {
        let store = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(store.path()).unwrap();
        for number in 1..=6 {
            make(&shelf, number);
        }
        std::fs::create_dir(store.path().join("releases").join(format!(".build-{}", digest(9)))).unwrap();
        // A process that is dead.
        std::fs::write(store.path().join("releases").join(format!(".use-{}-1-0", digest(3))), "null").unwrap();
        let way = shelf.hold(&digest(2)).unwrap();
        let building = begin(&shelf, 8);
        let unused = shelf.unused(&BTreeSet::from([digest(1)]), 2).unwrap();
        let gone: Vec<_> = unused.releases.iter().map(|(digest, _)| digest.clone()).collect();
        assert_eq!(gone, [digest(4), digest(3)]);
        assert_eq!(unused.halves.len(), 2, "{:?}", unused.halves);
        shelf.prune(&unused, &|| Ok(BTreeSet::new())).unwrap();
        drop((way, building));
        let unused = shelf.unused(&BTreeSet::from([digest(1)]), 2).unwrap();
        assert_eq!(unused.releases.iter().map(|(digest, _)| digest.clone()).collect::<Vec<_>>(), [digest(2)]);
        assert_eq!(unused.halves, Vec::<PathBuf>::new());
    }

    #[test]
    fn what_others_began_to_use_since_the_look_stays() {
        let store = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(store.path()).unwrap();
        for number in 1..=3 {
            make(&shelf, number);
        }
        for name in [".build-", ".old-"] {
            std::fs::create_dir(shelf.folder.join(format!("{name}{}", digest(9)))).unwrap();
        }
        let dead = shelf.folder.join(format!(".lock-{}", digest(9)));
        std::fs::write(&dead, "null").unwrap();
        let unused = shelf.unused(&BTreeSet::new(), 0).unwrap();
        assert_eq!((unused.releases.len(), unused.halves.len()), (3, 3));
        let way = shelf.hold(&digest(1)).unwrap();
        let building = begin(&shelf, 9);
        shelf.prune(&unused, &|| Ok(BTreeSet::from([digest(2)]))).unwrap();
        assert_eq!([1, 2, 3].map(|number| shelf.get(&digest(number)).is_ok()), [true, true, false]);
        assert!(building.folder.is_dir() && lock::held::<()>(&dead).is_some(), "a second one could begin to build it");
        drop((way, building));
        assert_eq!(
            shelf.unused(&BTreeSet::from([digest(1), digest(2)]), 0).unwrap().halves,
            [shelf.folder.join(format!(".old-{}", digest(9)))]
        );
    }
}
