//! Snapshots: copies of all that an environment's machines are, at one moment.
//!
//! | below `machines/<platform>/<environment>/.snapshots/<name>` | what it is |
//! |---|---|
//! | `machines/<machine>/upper`, `…/mounts` | its own files, and what it wrote beside its copy-on-write mounts |
//! | `volumes/<machine>/…` | every volume, used or not, as [`super::volume`] keeps it |
//!
//! Layers are not in it: they don't change, and whoever removes layers asks what snapshots hold. On a filesystem that shares
//! blocks a copy takes the time of its number of files and no space; elsewhere it takes both, and [`cost`] says so before.
//!
//! ```text
//! nothing ─copy→ draft ─seal: sync, rename→ snapshot ─remove→ trash
//! ```
//! Whoever copies has seen to it that nobody writes: machines are halted or frozen. A restore copies beside what is there, moves
//! that away and takes its place; cut off anywhere, it is done again from its beginning.
//!
//! Not chosen: subvolumes of btrfs, because they are one filesystem's own, and a snapshot of the whole pool, because its other
//! environments would go back as well.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::exec::Cancel;
use crate::model::{Digest, EnvironmentId, MachineId, SnapshotName};
use crate::providers::{Cost, Result};

use super::folder::{self, Folder};
use super::{failed_io, tree_copy, volume};

const FOLDER: &str = ".snapshots";

/// What a copy of everything takes now; nothing worth a word where blocks are shared.
pub fn cost(store: &Path, environment: &EnvironmentId) -> io::Result<Option<Cost>> {
    let home = folder::of_environment(store, environment);
    if home.exists() && disk::shares_blocks(&home)? {
        return Ok(None);
    }
    let mut cost = Cost { bytes: 0, files: 0 };
    let ours = |entry: &walkdir::DirEntry| entry.depth() != 1 || entry.file_name() != FOLDER;
    for entry in walkdir::WalkDir::new(&home).into_iter().filter_entry(ours).flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        cost.files += 1;
        cost.bytes += meta.blocks() * 512;
    }
    Ok(Some(cost))
}

/// Copies everything into a draft. Nobody writes meanwhile.
pub fn copy(store: &Path, environment: &EnvironmentId, name: &SnapshotName, cancel: &Cancel) -> Result<()> {
    let draft = draft(store, environment, name);
    folder::discard(store, &draft).map_err(failed_io("remove", &draft))?;
    let machines = draft.join("machines");
    folder::private(&machines).map_err(failed_io("make", &machines))?;
    let found = folder::list_of(store, environment).map_err(failed_io("list the machines in", store))?;
    let mut pairs = vec![(volume::of_environment(store, environment), draft.join("volumes"))];
    for (machine, _) in found {
        let own = Folder::new(store, &environment.machine(&machine));
        let target = machines.join(machine.as_str());
        folder::private(&target).map_err(failed_io("make", &target))?;
        pairs.extend(["upper", "mounts"].map(|part| (own.join(part), target.join(part))));
    }
    std::thread::scope(|scope| {
        let copies: Vec<_> = pairs.iter().map(|(from, to)| scope.spawn(|| tree_copy::copy(from, to, cancel))).collect();
        copies.into_iter().try_for_each(|copy| copy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Makes a copy a snapshot: it is on the disk, and has its name. Fine where it has.
pub fn seal(store: &Path, environment: &EnvironmentId, name: &SnapshotName) -> io::Result<()> {
    let (draft, place) = (draft(store, environment, name), place(store, environment, name));
    if !draft.exists() && place.exists() {
        return Ok(());
    }
    disk::put_tree(&draft, &place)
}

/// Puts one machine back. Of a machine that the snapshot does not have, nothing is touched.
pub fn restore(store: &Path, id: &MachineId, name: &SnapshotName, cancel: &Cancel) -> Result<()> {
    let environment = &id.environment;
    let from = place(store, environment, name);
    let files = from.join("machines").join(id.machine.as_str());
    if !files.exists() {
        return Err(failed_io("find", &files)(io::ErrorKind::NotFound.into()));
    }
    let own = Folder::new(store, id);
    folder::private(&own.path).map_err(failed_io("make", &own.path))?;
    for part in ["upper", "mounts"] {
        replace(store, &files.join(part), &own.join(part), cancel)?;
    }
    let volumes = volume::of_machine(store, environment, &id.machine);
    let parent = volumes.parent().expect("a machine's volumes lie in the folder of all");
    folder::private(parent).map_err(failed_io("make", parent))?;
    replace(store, &from.join("volumes").join(id.machine.as_str()), &volumes, cancel)?;
    // Overlayfs' own of a mount that is no more.
    folder::discard(store, &own.join("work")).map_err(failed_io("remove", &own.path))
}

/// What is at `to` becomes a copy of `from`, or goes where that has nothing.
fn replace(store: &Path, from: &Path, to: &Path, cancel: &Cancel) -> Result<()> {
    let new = to.with_file_name(format!(".new-{}", to.file_name().and_then(|name| name.to_str()).expect("names are ours")));
    folder::discard(store, &new).map_err(failed_io("remove", &new))?;
    tree_copy::copy(from, &new, cancel)?;
    folder::discard(store, to).map_err(failed_io("remove", to))?;
    if new.exists() {
        // A restore that a power cut undid is done again: nothing says yet that it is done.
        disk::put_spare(&new, to).map_err(failed_io("put in place", to))?;
    }
    Ok(())
}

/// Every snapshot that is whole.
pub fn names(store: &Path, environment: &EnvironmentId) -> io::Result<BTreeSet<SnapshotName>> {
    let all = volume::entries(&of_environment(store, environment))?.into_iter();
    Ok(all.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
}

/// Bytes that nobody else shares: what removing it frees.
pub fn alone(store: &Path, environment: &EnvironmentId, name: &SnapshotName) -> u64 {
    let files = walkdir::WalkDir::new(place(store, environment, name)).into_iter().flatten();
    files.map(|entry| unshared(entry.path()).unwrap_or(0)).sum()
}

pub fn remove(store: &Path, environment: &EnvironmentId, name: &SnapshotName) -> io::Result<()> {
    folder::discard(store, &place(store, environment, name))?;
    folder::discard(store, &draft(store, environment, name))?;
    // Others may still be there.
    let _ = fs::remove_dir(of_environment(store, environment));
    folder::clear(store, &folder::of_environment(store, environment));
    Ok(())
}

/// Drafts that a killed copy left.
pub fn sweep(store: &Path, environment: &EnvironmentId) -> io::Result<()> {
    for path in volume::entries(&of_environment(store, environment))? {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            folder::discard(store, &path)?;
        }
    }
    Ok(())
}

/// The layers that volumes in snapshots began from.
pub fn held(store: &Path, environment: &EnvironmentId) -> io::Result<BTreeSet<Digest>> {
    let mut held = BTreeSet::new();
    for name in names(store, environment)? {
        held.extend(volume::held_in(&place(store, environment, &name).join("volumes"))?);
    }
    Ok(held)
}

pub fn of_environment(store: &Path, environment: &EnvironmentId) -> PathBuf {
    folder::of_environment(store, environment).join(FOLDER)
}

fn place(store: &Path, environment: &EnvironmentId, name: &SnapshotName) -> PathBuf {
    of_environment(store, environment).join(name.as_str())
}

fn draft(store: &Path, environment: &EnvironmentId, name: &SnapshotName) -> PathBuf {
    of_environment(store, environment).join(format!(".{name}"))
}

/// How many extents the kernel tells of at a time.
const EXTENTS: usize = 128;

/// `struct fiemap` with room for its extents (linux/fiemap.h).
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
const LAST: u32 = 0x1;
const SHARED: u32 = 0x2000;

/// Bytes of a file in blocks that are its own.
fn unshared(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() || meta.blocks() == 0 {
        return Ok(meta.blocks() * 512);
    }
    let file = File::from(rustix::fs::open(
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?);
    let (mut own, mut start) = (0, 0);
    loop {
        let length = u64::MAX - start;
        let count = u32::try_from(EXTENTS).expect("a small constant");
        let mut map = Fiemap { start, length, flags: 0, mapped: 0, count, reserved: 0, extents: [Extent::default(); EXTENTS] };
        // SAFETY: the kernel writes at most `count` extents behind the header, and `map` has room for these.
        if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) } != 0 {
            // A filesystem that can't tell shares nothing either.
            return Ok(meta.blocks() * 512);
        }
        let found = &map.extents[..usize::try_from(map.mapped).unwrap_or(0).min(EXTENTS)];
        own += found.iter().filter(|extent| extent.flags & SHARED == 0).map(|extent| extent.length).sum::<u64>();
        match found.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            Some(_) | None => return Ok(own),
        }
    }
}
