//! Volumes: the folders of a machine whose content outlives it.
//!
//! | below `machines/<platform>/<environment>/.volumes/<machine>/<key>` | what it is |
//! |---|---|
//! | `volume.json` | where it is shown, and from which layers it began |
//! | `upper/` | what was written since |
//! | `work/`, `empty/` | overlayfs' own; a layer for one that began empty |
//!
//! Files in it keep the numbers of users that they began with. A box that has other numbers for the same names is shown its own:
//! the mounts below the overlay map them, so nothing is written anew and a snapshot fits wherever it is put back.
//!
//! A volume is an overlay of its own over what the layers of its beginning have at its path, so beginning one copies nothing,
//! and the machine around it may stand on other layers. It lies beside the machines, in the filesystem that theirs are in: what
//! an older machine has among its own files moves in by a rename.
//!
//! ```text
//! nothing ─draft with volume.json→ draft ─upper moved or made→ draft ─rename→ volume
//! ```
//! Killed anywhere, the next call goes on: a draft with an `upper` has taken the data already and is only given its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fsync, open, openat2, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::disk::{self, marks::Marks};
use crate::model::machine::{SeenVolume, Volume};
use crate::model::{Digest, EnvironmentId, MachineName, MachineSpec};

use super::config::FIRST_ID;
use super::folder::{self, Folder, hex};
use super::ids::Renumbering;
use super::place::{Accounts, Stack};

const FOLDER: &str = ".volumes";
const RECORD: &str = "volume.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    path: String,
    /// The layers that it shows where nothing was written, the base first.
    seed: Vec<Digest>,
    /// How often it went back to a seed.
    seeded: u32,
    /// Whom the numbers on its files mean. Another box may have other numbers for the same names, and is shown those.
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

/// One volume as overlayfs needs it.
#[derive(Debug)]
pub struct Shown {
    pub path: String,
    /// The uppermost first, never none.
    pub lowers: Vec<PathBuf>,
    /// Holds `upper` and `work`.
    pub own: PathBuf,
    pub users: Renumbering,
    pub groups: Renumbering,
}

/// Begins what is missing of a machine's volumes, from its own files where these have something at that place. The machine
/// does not run.
pub fn begin(store: &Path, spec: &MachineSpec) -> io::Result<()> {
    let machine = Folder::new(store, &spec.id);
    for volume in spec.volumes.iter().flatten() {
        let place = of_machine(store, &spec.id.environment, &spec.id.machine).join(key(&volume.path));
        match record(&place)? {
            Some(record) if record.seeded == spec.seeded => continue,
            Some(_) => machine.discard(&place)?,
            None => {}
        }
        Draft { store, machine: &machine, volume, layers: &spec.layers, seeded: spec.seeded, place: &place }.finish()?;
    }
    Ok(())
}

/// The volumes of a machine that have begun. One that has not is still among its own files.
pub fn shown(store: &Path, spec: &MachineSpec) -> io::Result<Vec<Shown>> {
    let mut all = Vec::new();
    let now = accounts(store, Some(Folder::new(store, &spec.id).join("upper")), &spec.layers)?;
    for volume in spec.volumes.iter().flatten() {
        let own = of_machine(store, &spec.id.environment, &spec.id.machine).join(key(&volume.path));
        let Some(record) = record(&own)? else { continue };
        let mut lowers = below(store, &record.seed, &record.path)?;
        if lowers.is_empty() {
            lowers.push(own.join("empty"));
        }
        let users = Renumbering::between(&record.users, &now.users());
        let groups = Renumbering::between(&record.groups, &now.groups());
        all.push(Shown { path: record.path, lowers, own, users, groups });
    }
    Ok(all)
}

/// Whom a machine of these layers knows.
fn accounts(store: &Path, upper: Option<PathBuf>, layers: &[Digest]) -> io::Result<Accounts> {
    let layers = layers.iter().rev().map(|layer| store.join("layers").join(layer.as_str()).join("rootfs"));
    let all: Vec<_> = upper.into_iter().filter(|upper| upper.exists()).chain(layers).collect();
    match all.split_first() {
        Some((upper, layers)) => Accounts::of(&Stack { upper, layers }),
        None => Ok(Accounts::default()),
    }
}

/// The volume that a path of a machine leads into, and the rest of the path.
pub fn holder<'a>(shown: &'a [Shown], path: &str) -> Option<(&'a Shown, String)> {
    let path = Path::new("/").join(path);
    shown.iter().find_map(|volume| {
        let rest = path.strip_prefix(&volume.path).ok()?.to_str()?;
        (!rest.is_empty()).then(|| (volume, rest.to_owned()))
    })
}

pub fn list(store: &Path, environment: &EnvironmentId) -> io::Result<Vec<SeenVolume>> {
    let mut all = Vec::new();
    for (machine, folder) in each(&of_environment(store, environment))? {
        // A draft may hold data already, and nobody must be told that there is none. What can't be read can still be removed.
        let Ok(Some(record)) = record(&folder) else { continue };
        all.push(SeenVolume { machine, path: record.path });
    }
    Ok(all)
}

/// Bytes of one volume.
pub fn size(store: &Path, environment: &EnvironmentId, volume: &SeenVolume) -> u64 {
    folder::disk(&of_machine(store, environment, &volume.machine).join(key(&volume.path)))
}

/// Bytes of one machine's volumes.
pub fn disk(store: &Path, environment: &EnvironmentId, machine: &MachineName) -> u64 {
    folder::disk(&of_machine(store, environment, machine))
}

/// The layers that the volumes in a folder of volumes began from.
pub fn held_in(volumes: &Path) -> io::Result<BTreeSet<Digest>> {
    let mut held = BTreeSet::new();
    for (_, folder) in each(volumes)? {
        held.extend(record(&folder)?.into_iter().flat_map(|record| record.seed));
    }
    Ok(held)
}

pub fn of_environment(store: &Path, environment: &EnvironmentId) -> PathBuf {
    folder::of_environment(store, environment).join(FOLDER)
}

pub fn of_machine(store: &Path, environment: &EnvironmentId, machine: &MachineName) -> PathBuf {
    of_environment(store, environment).join(machine.as_str())
}

fn key(path: &str) -> String {
    hex(&Sha256::digest(path.as_bytes())[..8])
}

fn draft(place: &Path) -> PathBuf {
    place.with_file_name(format!(".{}", place.file_name().and_then(|name| name.to_str()).expect("a key is hexadecimal")))
}

fn record(place: &Path) -> io::Result<Option<Record>> {
    match fs::read(place.join(RECORD)) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every volume's folder, drafts too.
fn each(volumes: &Path) -> io::Result<Vec<(MachineName, PathBuf)>> {
    let mut all = Vec::new();
    for machine in entries(volumes)? {
        let Some(name) = machine.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else { continue };
        let name: MachineName = name;
        all.extend(entries(&machine)?.into_iter().map(|folder| (name.clone(), folder)));
    }
    all.sort();
    Ok(all)
}

pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A volume that is being begun.
struct Draft<'a> {
    store: &'a Path,
    machine: &'a Folder,
    volume: &'a Volume,
    /// What its machine stands on.
    layers: &'a [Digest],
    seeded: u32,
    place: &'a Path,
}

impl Draft<'_> {
    fn finish(&self) -> io::Result<()> {
        let draft = draft(self.place);
        let taken = record(&draft)?.is_some_and(|record| record.seeded == self.seeded) && draft.join("upper").exists();
        if !taken {
            self.machine.discard(&draft)?;
            self.take(&draft)?;
        }
        // What was moved in is found under the volume's name or, after a power cut, at its old place: never at neither.
        fsync(&open(&draft, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
        disk::put(&draft, self.place)
    }

    fn take(&self, draft: &Path) -> io::Result<()> {
        for name in ["work", "empty"] {
            folder::private(&draft.join(name))?;
        }
        let path = self.volume.path.trim_matches('/');
        let own = Own::find(&self.machine.join("upper"), path)?;
        let seed = if own.hides() { Vec::new() } else { self.volume.seed.clone() };
        // What is taken over has the numbers of the machine that it was in, the seed those of its layers.
        let known = match own {
            Own::Folder { .. } => {
                let layers = self.machine.spec()?.map_or_else(|| self.layers.to_vec(), |before| before.layers);
                accounts(self.store, Some(self.machine.join("upper")), &layers)?
            }
            Own::Nothing { .. } if self.volume.seed.is_empty() => accounts(self.store, None, self.layers)?,
            Own::Nothing { .. } => accounts(self.store, None, &self.volume.seed)?,
        };
        let (users, groups) = (known.users(), known.groups());
        let record = Record { path: self.volume.path.clone(), seed, seeded: self.seeded, users, groups };
        // On the disk first: the record is found whenever the data is.
        disk::File::at(&draft.join(RECORD)).write(serde_json::to_vec_pretty(&record).map_err(io::Error::other)?)?;
        let upper = draft.join("upper");
        match own {
            Own::Folder { parent, name, .. } => {
                disk::put(&Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name), &upper)?;
                Ok(fsync(&parent)?)
            }
            Own::Nothing { .. } => {
                let below = below(self.store, &record.seed, path)?;
                fresh_upper(&draft.join("upper.new"), below.first().map(PathBuf::as_path))?;
                disk::put_spare(&draft.join("upper.new"), &upper)
            }
        }
    }
}

/// The folder of a new volume, owned and open as that of its seed is.
fn fresh_upper(upper: &Path, like: Option<&Path>) -> io::Result<()> {
    folder::private(upper)?;
    let opened = File::open(upper)?;
    let (user, group, mode) = match like {
        Some(like) => {
            let meta = fs::metadata(like)?;
            for name in xattr::list(like)?.filter(|name| !name.as_encoded_bytes().starts_with(Marks::here().prefix().as_bytes()))
            {
                if let Some(value) = xattr::get(like, &name)? {
                    xattr::set(upper, &name, &value)?;
                }
            }
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        }
        None => (FIRST_ID, FIRST_ID, 0o755),
    };
    fchown(&opened, Some(user), Some(group))?;
    opened.set_permissions(fs::Permissions::from_mode(mode))
}

/// What a machine's own files have at a path.
enum Own {
    /// `opaque`: nothing of the layers below shows through.
    Folder { parent: OwnedFd, name: String, opaque: bool },
    /// `removed`: the machine took away what its layers had.
    Nothing { removed: bool },
}

impl Own {
    fn hides(&self) -> bool {
        match self {
            Self::Folder { opaque, .. } => *opaque,
            Self::Nothing { removed } => *removed,
        }
    }

    /// The machine's root may have put anything there; nothing is followed.
    fn find(upper: &Path, path: &str) -> io::Result<Self> {
        let mut folder = match open(upper, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(Self::Nothing { removed: false }),
            Err(error) => return Err(error.into()),
        };
        let mut opaque = false;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            match step(&folder, name)? {
                Found::Nothing => return Ok(Self::Nothing { removed: opaque }),
                Found::Removed => return Ok(Self::Nothing { removed: true }),
                Found::Other => return Err(not_a_folder(path)),
                Found::Folder(next) => {
                    opaque |= is_opaque(&next);
                    if names.peek().is_none() {
                        return Ok(Self::Folder { parent: folder, name: name.to_owned(), opaque });
                    }
                    folder = next;
                }
            }
        }
        Err(not_a_folder(path))
    }
}

/// The folders of layers that overlayfs shows at a path, the uppermost first.
fn below(store: &Path, seed: &[Digest], path: &str) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for digest in seed.iter().rev() {
        let root = store.join("layers").join(digest.as_str()).join("rootfs");
        let mut folder = open(&root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let (mut there, mut last) = (true, false);
        for name in path.trim_matches('/').split('/') {
            match step(&folder, name)? {
                Found::Nothing => there = false,
                Found::Removed => (there, last) = (false, true),
                Found::Other => return Err(not_a_folder(path)),
                Found::Folder(next) => {
                    last |= is_opaque(&next);
                    folder = next;
                }
            }
            if !there {
                break;
            }
        }
        if there {
            folders.push(root.join(path.trim_matches('/')));
        }
        if last {
            break;
        }
    }
    Ok(folders)
}

enum Found {
    Nothing,
    /// Overlayfs' mark that a layer below had something there.
    Removed,
    Folder(OwnedFd),
    Other,
}

fn step(folder: &OwnedFd, name: &str) -> io::Result<Found> {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(Found::Folder(openat2(folder, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?))
        }
        FileType::CharacterDevice if stat.st_rdev == 0 => Ok(Found::Removed),
        _ => Ok(Found::Other),
    }
}

fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(folder, Marks::here().opaque(), &mut value).is_ok_and(|length| length == 1 && value[0] == b'y')
}

fn not_a_folder(path: &str) -> io::Error {
    let reason = format!("`/{}` is a link or a file, or lies behind one; data lies in a plain folder", path.trim_matches('/'));
    io::Error::new(io::ErrorKind::NotADirectory, reason)
}
