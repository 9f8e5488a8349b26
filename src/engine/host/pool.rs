//! The store's pool: where the disk can't share blocks between files, a file on it holds a filesystem that can.
//!
//! A machine's first write to a file of a lower layer makes the kernel copy that file. ext4 copies all of it, XFS and btrfs
//! only note that both share their blocks. The pool is XFS: its first writes cost the same as those of btrfs, and a database that
//! waits for the disk at each transaction waits about half as long.
//!
//! A store is moved in while nobody else is in it. The pool is filled under another name and gets its own by one rename; until
//! then the folder is the store and the half pool is thrown away, from then on the pool is the store and what is left in the
//! folder beneath is thrown away, by whoever mounts it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::boxes::Layers;
use crate::disk;
use crate::engine::host::pool_unit::{self, KIND, OPTIONS};
use crate::engine::host::requirement::Requirement;
use crate::engine::{Engine, Events};
use crate::exec::Command;
use crate::model::response::CheckItem;
use crate::model::{Failure, Kind, MachineState, Size};
use crate::store::{self, Store, pool};

/// What a pool needs beyond what machines need.
pub(in crate::engine) const REQUIREMENTS: &[Requirement] = &[
    Requirement::Program { program: "mkfs.xfs", package: "xfsprogs" },
    Requirement::Module { name: "xfs", sign: "/sys/module/xfs" },
    Requirement::Module { name: "loop", sign: "/dev/loop-control" },
];

/// In a folder whose contents are in the pool, so that what lies there may go.
const MOVED: &str = ".moved-into-pool";

/// In a mount namespace of its own: whenever this ends, nothing stays mounted.
const FILL: &str = r#"mount -t xfs -o loop "$1" "$2" && cp --archive --one-file-system "$3/." "$2" && umount "$2""#;

/// Opens the store, mounting its pool where that is missing.
pub fn open(folder: &Path) -> Result<Store, Failure> {
    match Store::open(folder) {
        Err(store::Error::PoolUnmounted { .. }) => {
            mount(folder)?;
            Ok(Store::open(folder)?)
        }
        other => Ok(other?),
    }
}

/// Mounts a store's pool at its folder. Of several commands that come at once, one does it.
fn mount(folder: &Path) -> Result<(), Failure> {
    let file = pool::file(folder);
    let failed = || Failure::new(Kind::Host, format!("mount the pool `{}`", file.display()));
    let held = File::open(&file).map_err(|error| failed().because(&error))?;
    rustix::fs::flock(&held, FlockOperation::LockExclusive).map_err(|error| failed().because(&error))?;
    if is_mounted(&file, folder) {
        return Ok(());
    }
    clear_beneath(folder)?;
    let command = Command::new("mount").args(["-t", KIND, "-o", OPTIONS]).arg(&file).arg(folder);
    command.run().map_err(|error| {
        let failure = failed().because(&error).tail(error.tail().iter().cloned());
        failure
            .hint(format!("the kernel's log tells more (`dmesg`); a damaged pool is mended by `xfs_repair {}`", file.display()))
    })?;
    if is_mounted(&file, folder) { Ok(()) } else { Err(failed().cause("the kernel does not show it")) }
}

fn is_mounted(pool: &Path, folder: &Path) -> bool {
    rustix::fs::stat(folder).is_ok_and(|stat| pool::holds(pool, &stat))
}

/// Empties a folder whose contents have moved; anything else in it is somebody's.
fn clear_beneath(folder: &Path) -> Result<(), Failure> {
    let told = |error: std::io::Error| Failure::new(Kind::Store, format!("empty `{}`", folder.display())).because(&error);
    let mark = folder.join(MOVED);
    let entries: Vec<_> = std::fs::read_dir(folder).and_then(Iterator::collect).map_err(told)?;
    if !entries.is_empty() && !mark.exists() {
        return Err(Failure::new(Kind::Conflict, format!("mount the pool `{}`", pool::file(folder).display()))
            .cause(format!("the folder `{}` is not empty, and what is in it is not the pool's", folder.display()))
            .hint(format!("move it away: mv {0} {0}.other", folder.display())));
    }
    for entry in entries.iter().filter(|entry| entry.path() != mark) {
        let path = entry.path();
        disk::tree::remove(&path).map_err(told)?;
    }
    remove_file(&mark)
}

/// What people call the filesystem that a folder is on.
fn filesystem(folder: &Path) -> &'static str {
    match rustix::fs::statfs(folder).map(|stat| stat.f_type as u64 & 0xffff_ffff) {
        Ok(0xef53) => "ext4",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x0102_1994) => "tmpfs",
        _ => "this filesystem",
    }
}

impl Engine {
    /// Whether the store lies in a pool at the moment.
    pub(in crate::engine) fn has_pool(&self) -> bool {
        is_mounted(&pool::file(&self.store.folder), &self.store.folder)
    }

    pub(in crate::engine) fn check_sharing(&self) -> CheckItem {
        let subject = "first writes to large files";
        let folder = &self.store.folder;
        let name = filesystem(folder);
        match disk::shares_blocks(folder) {
            Ok(true) if self.has_pool() => {
                CheckItem::ok(subject, format!("blocks are shared ({name}, in the pool {})", pool::file(folder).display()))
            }
            Ok(true) => CheckItem::ok(subject, format!("blocks are shared ({name})")),
            Ok(false) if !disk::host::is_real() => CheckItem::notice(
                subject,
                format!("{name} copies a large file whole when a machine first writes to it; only the real host can make a pool"),
                None,
            ),
            Ok(false) => CheckItem::notice(
                subject,
                format!("{name} copies a large file whole when a machine first writes to it"),
                Some("adt host:bootstrap --pool 50G".into()),
            ),
            Err(error) => CheckItem::notice(subject, format!("could not be tried: {error}"), None),
        }
    }

    /// Whether a pool of this size is to be made; refuses what can't be done before anything is, and keeps others out from then on.
    pub(in crate::engine) fn lacks_pool(&self, size: u64, dry_run: bool, events: &Events) -> Result<bool, Failure> {
        let folder = &self.store.folder;
        let file = pool::file(folder);
        if self.has_pool() {
            let is = std::fs::metadata(&file).map_or(0, |data| data.len());
            if is != size {
                events.note(format!("the pool {} is of {} and stays so", file.display(), Size(is)));
            }
            return Ok(false);
        }
        let refused = || Failure::new(Kind::Conflict, format!("make the pool `{}`", file.display()));
        if disk::shares_blocks(folder).map_err(|error| refused().because(&error))? {
            events.note(format!("{} shares blocks already: no pool is needed", filesystem(folder)));
            return Ok(false);
        }
        if !disk::host::is_real() {
            return Err(refused()
                .cause("this host is a machine itself, in which the kernel mounts no file as a disk")
                .hint("make it on the real host, for the store that this machine is in: adt host:bootstrap --pool 50G"));
        }
        self.refuse_machines(refused)?;
        if !dry_run {
            self.be_alone(refused)?;
            // Once more: one may have been started before everybody was kept out.
            self.refuse_machines(refused)?;
        }
        let disk = rustix::fs::statvfs(folder).map_err(|error| refused().because(&error))?;
        let free = disk.f_bavail * disk.f_frsize;
        if size > free {
            return Err(Failure { kind: Kind::Exhausted, ..refused() }
                .cause(format!("it may grow to {}, but its disk has only {} free", Size(size), Size(free)))
                .hint("choose a smaller size, or another disk for the store with `store` in /etc/adt/adt.toml"));
        }
        Ok(true)
    }

    /// A store in which machines run can't be moved.
    fn refuse_machines(&self, refused: impl Fn() -> Failure) -> Result<(), Failure> {
        let mut running = 0;
        for (_, provider) in self.providers.here() {
            let list = provider.list()?;
            running += list.iter().filter(|(_, state)| matches!(state, MachineState::Running { .. })).count();
        }
        match running {
            0 => Ok(()),
            count => Err(refused()
                .cause(format!("{count} machines run from the store"))
                .hint("halt them first with `adt platform:halt`; `adt platform:up` brings back those that were up")),
        }
    }

    /// Keeps all others out of the store until this command ends.
    fn be_alone(&self, refused: impl Fn() -> Failure) -> Result<(), Failure> {
        if self.store.alone()? {
            return Ok(());
        }
        Err(match self.store.server() {
            Some(holder) => refused().cause(format!("{holder} serves from it")).hint("stop it first with `adt host:halt`"),
            None => refused().cause("another command of adt works in the store").hint("wait until it has ended"),
        })
    }

    pub(in crate::engine) fn make_pool(&self, size: u64, events: &Events) -> Result<(), Failure> {
        let folder = &self.store.folder;
        let (file, draft) = (pool::file(folder), pool::draft(folder));
        let failed = || Failure::new(Kind::Host, format!("make the pool `{}`", file.display()));
        let told = |error: std::io::Error| failed().because(&error);
        events.task("pool", &format!("moving the store into {}", file.display()), || {
            remove_file(&draft)?;
            remove_file(&folder.join(MOVED))?;
            // Whoever reads it reads every file of every machine.
            let private = File::options().write(true).create_new(true).mode(0o600).open(&draft);
            private.and_then(|draft| draft.set_len(size)).map_err(told)?;
            Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&draft).run()?;
            let place = pool::place(folder);
            std::fs::create_dir_all(&place).map_err(told)?;
            let fill = Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", FILL, "sh"]);
            let filled = fill.arg(&draft).arg(&place).arg(folder).run();
            std::fs::remove_dir(&place).map_err(told)?;
            if let Err(error) = filled {
                remove_file(&draft)?;
                return Err(Failure::from(error).hint("the store is as it was; choose a larger size if it did not fit"));
            }
            disk::File::at(&folder.join(MOVED)).write("").map_err(told)?;
            File::open(&draft).and_then(|draft| draft.sync_all()).map_err(told)?;
            disk::put(&draft, &file).map_err(told)?;
            mount(folder)
        })
    }

    /// Takes the pool away, if it holds nothing that anybody made. Says whether there was something to take away.
    pub(in crate::engine) fn remove_pool(&self, all: bool, dry_run: bool, events: &Events) -> Result<bool, Failure> {
        let folder = &self.store.folder;
        let (file, old) = (pool::file(folder), pool::discarded(folder));
        if !file.exists() && !old.exists() {
            return Ok(false);
        }
        let refused = || Failure::new(Kind::Conflict, format!("remove the pool `{}`", file.display()));
        let platforms = self.store.database.platforms()?.len();
        let layers = Layers::open(folder).and_then(|layers| layers.list()).map_err(|error| error.failure("count layers"))?.len();
        if !all && platforms + layers > 0 {
            events.note(format!(
                "the pool {} stays with {platforms} platforms and {layers} layers; `adt host:bootstrap --remove --remove-pool` \
                 removes it with all that it holds",
                file.display()
            ));
            return Ok(false);
        }
        self.refuse_machines(refused)?;
        events.note(format!("removing the pool {} with {platforms} platforms and {layers} layers", file.display()));
        if dry_run {
            return Ok(true);
        }
        self.be_alone(refused)?;
        pool_unit::remove(folder)?;
        // From here on no command mounts it again.
        if file.exists() {
            disk::put(&file, &old).map_err(|error| refused().because(&error))?;
        }
        if is_mounted(&old, folder) {
            // Lazily, because this very command has the store open; the pool's blocks are freed when it ends.
            Command::new("umount").arg("--lazy").arg(folder).run()?;
        }
        remove_file(&old)?;
        Ok(true)
    }
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(Kind::Host, format!("remove `{}`", path.display())).because(&error))
        }
        _ => Ok(()),
    }
}
