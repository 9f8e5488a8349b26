//! A machine's folder. Root's alone (0700): the machine reaches its files through mounts that root makes.
//!
//! | file | what it is |
//! |---|---|
//! | `spec.json` | what is wanted of the machine; written last, so a folder that has it is whole |
//! | `config` | liblxc's configuration, made from it |
//! | `seccomp` | the system calls that its programs don't get |
//! | `upper/` | the machine's own files on top of its layers |
//! | `work/` | overlayfs' own |
//! | `mounts/<key>/upper`, `…/work` | the same for each copy-on-write mount |
//! | `hosts`, `resolv.conf` | shown inside as those of `/etc`; rewritten in place, so a running machine sees it |
//! | `console.log`, `console.log.1` | what the console showed since the last start, and before it |
//! | `lxc.log` | what liblxc has to say about the last start |
//!
//! Machines lie at `machines/<platform>/<environment>/<machine>`, their volumes beside them ([`super::volume`]); what is being
//! deleted in `machines/.trash`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::disk;
use crate::model::{EnvironmentId, EnvironmentName, MachineId, MachineName, MachineSpec, PlatformName};

use super::config::FIRST_ID;

#[derive(Debug, Clone)]
pub struct Folder {
    store: PathBuf,
    pub path: PathBuf,
}

impl Folder {
    pub fn new(store: &Path, id: &MachineId) -> Self {
        let path = of_environment(store, &id.environment).join(id.machine.as_str());
        Self { store: store.to_owned(), path }
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    pub fn is_whole(&self) -> bool {
        self.join("spec.json").exists()
    }

    /// `None` when there is no whole machine.
    pub fn spec(&self) -> io::Result<Option<MachineSpec>> {
        match fs::read(self.join("spec.json")) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write_spec(&self, spec: &MachineSpec) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(spec).map_err(io::Error::other)?;
        let path = self.join("spec.json");
        if fs::read(&path).is_ok_and(|old| old == text) { Ok(()) } else { disk::File::at(&path).write(text) }
    }

    /// Makes the folders. `upper` belongs to the machine's root, or it could not write in its own `/`.
    pub fn make(&self, spec: &MachineSpec) -> io::Result<()> {
        private(&self.path)?;
        overlay_pair(&self.path)?;
        for mount in &spec.mounts {
            if mount.mode == crate::model::machine::MountMode::CopyOnWrite {
                overlay_pair(&self.copy_on_write(&mount.target))?;
            }
        }
        Ok(())
    }

    /// Where the changes to a copy-on-write mount are kept: by its target, so that the order of mounts may change.
    pub fn copy_on_write(&self, target: &str) -> PathBuf {
        self.path.join("mounts").join(hex(&Sha256::digest(target.as_bytes())[..8]))
    }

    /// A file that the machine's root may write, replaced in place: it is mounted inside by its inode.
    pub fn write_shared(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.join(name);
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&path)?;
        fchown(&file, Some(FIRST_ID), Some(FIRST_ID))?;
        // The new text first and the cut after it: no reader ever finds the file empty.
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }

    /// Keeps the console of the boot before; begins liblxc's log anew, so that it tells of one start only.
    pub fn turn_logs(&self) -> io::Result<()> {
        let console = self.join("console.log");
        if console.exists() {
            disk::put_spare(&console, &self.join("console.log.1"))?;
        }
        match fs::remove_file(self.join("lxc.log")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes everything. One rename makes it gone at once; files follow.
    pub fn remove(&self) -> io::Result<()> {
        discard(&self.store, &self.path)?;
        clear(&self.store, self.path.parent().expect("a machine lies in its environment's folder"));
        Ok(())
    }

    pub fn disk(&self) -> u64 {
        disk(&self.path)
    }

    /// Moves something of this store's machines away; the next sweep removes it.
    pub fn discard(&self, path: &Path) -> io::Result<()> {
        discard(&self.store, path)
    }
}

/// Bytes on disk.
pub fn disk(path: &Path) -> u64 {
    let mut linked = std::collections::HashSet::new();
    walkdir::WalkDir::new(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(|meta| meta.is_dir() || meta.nlink() == 1 || linked.insert((meta.dev(), meta.ino())))
        .map(|meta| meta.blocks() * 512)
        .sum()
}

/// One rename makes it gone at once, wherever this is cut off; [`sweep`] removes the files.
pub fn discard(store: &Path, path: &Path) -> io::Result<()> {
    let trash = trash(store);
    while path.exists() {
        private(&trash)?;
        match disk::put_spare(path, &trash.join(unique())) {
            // Another delete has just swept the trash away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// Takes away what was discarded, and an environment's folder, with its platform's, where nothing else is in it.
pub fn clear(store: &Path, environment: &Path) {
    for folder in environment.ancestors().take(2) {
        let _ = fs::remove_dir(folder);
    }
    sweep(store);
}

fn machines(store: &Path) -> PathBuf {
    store.join("machines")
}

pub fn of_environment(store: &Path, environment: &EnvironmentId) -> PathBuf {
    machines(store).join(environment.platform.as_str()).join(environment.name.as_str())
}

/// No platform's name starts with a dot.
fn trash(store: &Path) -> PathBuf {
    machines(store).join(".trash")
}

/// Removes what an interrupted delete left. Another process may be at the same, so nothing here is an error.
pub fn sweep(store: &Path) {
    let trash = trash(store);
    if let Ok(entries) = fs::read_dir(&trash) {
        for entry in entries.flatten() {
            let _ = disk::tree::remove(&entry.path());
        }
        let _ = fs::remove_dir(&trash);
    }
}

/// A machine's folder, and whether it is whole.
pub type Found = (MachineName, bool);

/// Every environment's folders. With hundreds of them the way from `/` to each would cost more than the look itself, so each
/// folder is opened from the one above it.
pub fn list(store: &Path) -> io::Result<BTreeMap<EnvironmentId, Vec<Found>>> {
    let mut found = BTreeMap::new();
    let Some(machines) = open(CWD, &machines(store))? else { return Ok(found) };
    for platform in names::<PlatformName>(&machines)? {
        let Some(folder) = open(&machines, platform.as_str().as_ref())? else { continue };
        for name in names::<EnvironmentName>(&folder)? {
            let Some(environment) = open(&folder, name.as_str().as_ref())? else { continue };
            found.insert(EnvironmentId { platform: platform.clone(), name }, machines_in(&environment)?);
        }
    }
    Ok(found)
}

/// The folders of one environment.
pub fn list_of(store: &Path, environment: &EnvironmentId) -> io::Result<Vec<Found>> {
    open(CWD, &of_environment(store, environment))?.map_or_else(|| Ok(Vec::new()), |folder| machines_in(&folder))
}

fn machines_in(environment: &OwnedFd) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in names::<MachineName>(environment)? {
        let whole = rustix::fs::statat(environment, format!("{name}/spec.json"), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        found.push((name, whole));
    }
    Ok(found)
}

/// `None` is a folder that is not there, or vanished meanwhile.
fn open(above: impl AsFd, name: &Path) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(above, name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What in a folder can be a name.
fn names<T: FromStr>(folder: &OwnedFd) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        match entry {
            Ok(entry) => found.extend(entry.file_name().to_str().ok().and_then(|name| name.parse().ok())),
            Err(Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Deletes of other machines remove folders above this one as soon as these are empty, so it may take several attempts.
pub fn private(path: &Path) -> io::Result<()> {
    let make = || fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    for _ in 0..100 {
        match make() {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
            made => return made,
        }
    }
    make()
}

fn overlay_pair(folder: &Path) -> io::Result<()> {
    private(&folder.join("work"))?;
    let upper = folder.join("upper");
    if !upper.exists() {
        private(&upper)?;
        let opened = File::open(&upper)?;
        opened.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fchown(&opened, Some(FIRST_ID), Some(FIRST_ID))?;
    }
    Ok(())
}

/// A name that no other process or thread makes.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{}-{time}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_removed_at_the_same_time() {
        let store = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let store = store.path();
                scope.spawn(move || {
                    for machine in 0..50 {
                        let name = EnvironmentName::new(number.to_string()).unwrap();
                        let environment = EnvironmentId { platform: PlatformName::new("shop").unwrap(), name };
                        let id = environment.machine(&MachineName::new(format!("web{machine}")).unwrap());
                        let folder = Folder::new(store, &id);
                        private(&folder.path).unwrap();
                        folder.remove().unwrap();
                    }
                });
            }
        });
        assert!(list(store.path()).unwrap().is_empty());
    }
}
