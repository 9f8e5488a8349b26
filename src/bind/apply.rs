//! Puts the files in their place, all of them or none.
//!
//! ```text
//! compare ─ same ──────────────────────────────────► done, nothing was touched
//!    │ differs
//! stage in .adt-new (what is unchanged is a hard link) ─ checker refuses ─► .adt-new removed
//!    │
//! swap .adt-new ↔ adt, now marked `pending` ─ set hooks ─ whole check ─ reload ─ fails ─► hooks unset, swapped back
//!    │
//! mark removed, .adt-new removed
//! ```
//! A run that is killed leaves the mark in `adt`. The next one swaps back first: what is not marked was accepted by the server.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::hook::{self, Hook};
use super::manifest::{Bound, Manifest};
use super::{Error, Facts, File, Home, Owner, Reloaded, Result, Scope, Server, check, files};
use crate::disk;
use crate::exec::HostPath;

/// What became of one server's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub server: Server,
    /// Written, below `<root>/adt`.
    pub written: Vec<String>,
    pub removed: Vec<String>,
    pub reloaded: Reloaded,
}

const PENDING: &str = "pending";

/// Which environments this server's configuration is kept for; `None` where adt wrote nothing.
pub fn bound(home: &Home) -> Result<Option<Bound>> {
    Ok(Manifest::read(home)?.map(|manifest| manifest.bound))
}

/// The installation whose routes adt wrote for this server: another one on the same host has no say in it.
pub fn owner(home: &Home) -> Result<Option<String>> {
    Ok(Manifest::read(home)?.map(|manifest| manifest.owner))
}

/// Makes the server's configuration fit the routes. A second call with the same routes writes nothing and reloads nothing.
pub fn apply(home: &Home, facts: &Facts<'_>, scope: &Scope) -> Result<Outcome> {
    if !home.root.is_dir() {
        return Err(Error::NotThere { server: home.server, missing: home.root.clone() });
    }
    let _lock = lock(home)?;
    refuse_others(home, facts.owner)?;
    let unfinished = recover(home)?;
    let before = own(home)?.map(|manifest| manifest.bound);
    let bound = Bound::after(before.as_ref(), scope, facts.routes);
    if bound == Bound::Only(Vec::new()) {
        return remove(home);
    }
    let routes = bound.of(facts.routes);
    let previous = |path: &str| fs::read(home.adt().join(path)).ok();
    let mut wanted = files(home, &Facts { routes: &routes, ..*facts }, &previous)?;
    let manifest = Manifest::new(facts.owner, bound, &wanted);
    wanted.push(manifest.file());
    let difference = Difference::of(home, &wanted)?;
    let hooks = hook::hooks(home);
    let hooked = hooks.iter().map(Hook::there).collect::<Result<Vec<_>>>()?.into_iter().all(|there| there);
    if difference.is_empty() && hooked && !unfinished {
        return Ok(difference.outcome(home, Reloaded::Unneeded));
    }
    stage(home, &wanted, &difference)?;
    if let Err(error) = check::staged(home, &staging(home), &difference.written) {
        clear(&staging(home))?;
        return Err(error);
    }
    let swap = Swap::new(home)?;
    let reloaded = swap.finish(&hooks)?;
    Ok(difference.outcome(home, reloaded))
}

/// The files that are not as the routes are now; empty where adt wrote nothing. Changes nothing.
pub fn outdated(home: &Home, facts: &Facts<'_>) -> Result<Vec<String>> {
    let Some(before) = own(home)?.map(|manifest| manifest.bound) else { return Ok(Vec::new()) };
    let bound = Bound::after(Some(&before), &Scope::Again, facts.routes);
    let routes = bound.of(facts.routes);
    let previous = |path: &str| fs::read(home.adt().join(path)).ok();
    let mut wanted = files(home, &Facts { routes: &routes, ..*facts }, &previous)?;
    wanted.push(Manifest::new(facts.owner, bound, &wanted).file());
    let difference = Difference::of(home, &wanted)?;
    Ok(difference.written.into_iter().chain(difference.removed).collect())
}

/// Removes everything that this installation wrote for this server.
pub fn unbind(home: &Home, owner: Owner<'_>) -> Result<Outcome> {
    if !home.root.is_dir() {
        return Ok(Difference::default().outcome(home, Reloaded::Unneeded));
    }
    let _lock = lock(home)?;
    refuse_others(home, owner)?;
    recover(home)?;
    remove(home)
}

/// Writes what `apply` would into a folder to look at, and returns the files. The system is not touched.
pub fn output(home: &Home, facts: &Facts<'_>, to: HostPath<'_>) -> Result<Vec<PathBuf>> {
    let folder = to.path.join(home.server.as_str());
    let shown = Home { root: folder.clone(), ..home.clone() };
    let previous = |path: &str| fs::read(home.adt().join(path)).ok();
    let mut wanted = files(home, facts, &previous)?;
    wanted.push(Manifest::new(facts.owner, Bound::All, &wanted).file());
    let put = || {
        if own(&shown)?.is_some() {
            clear(&shown.adt())?;
        }
        wanted.iter().try_for_each(|file| write(&shown.adt(), file))?;
        hook::hooks(home).iter().map(|hook| hook.show(home, &folder)).collect::<Result<Vec<_>>>()
    };
    let hooks = to.with_rights(|_| put())?;
    Ok(wanted.iter().map(|file| shown.adt().join(&file.path)).chain(hooks).collect())
}

/// On the folder itself, so that no file stays behind.
fn lock(home: &Home) -> Result<fs::File> {
    let folder = fs::File::open(&home.root).map_err(Error::io("open", &home.root))?;
    flock(&folder, FlockOperation::LockExclusive).map_err(|errno| Error::io("lock", &home.root)(errno.into()))?;
    Ok(folder)
}

fn staging(home: &Home) -> PathBuf {
    home.root.join(".adt-new")
}

/// The manifest; a folder `adt` without one is someone else's.
fn own(home: &Home) -> Result<Option<Manifest>> {
    let manifest = Manifest::read(home)?;
    if manifest.is_none() && home.adt().exists() { Err(Error::Foreign { path: home.adt() }) } else { Ok(manifest) }
}

/// What another installation wrote stays as it is, down to what a killed run of it left. An earlier adt wrote no owner: the
/// files of web servers lead to their store's certificates, and those that lead nowhere are whoever's asks.
fn refuse_others(home: &Home, owner: Owner<'_>) -> Result<()> {
    let Some(manifest) = Manifest::read(home)? else { return Ok(()) };
    let is_own = match manifest.owner.as_str() {
        "" => leads_to(&home.adt(), owner.store).unwrap_or(true),
        other => other == owner.install,
    };
    if is_own { Ok(()) } else { Err(Error::Taken { server: home.server, store: manifest.store, owner: manifest.owner }) }
}

/// Whether files name certificates of this store; `None` where they name none at all.
fn leads_to(folder: &Path, store: &Path) -> Option<bool> {
    let store = format!("{}/tls/", store.display());
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let texts = files.filter_map(|entry| fs::read_to_string(entry.path()).ok()).filter(|text| text.contains("/tls/"));
    texts.map(|text| text.contains(&store)).reduce(|any, one| any || one)
}

/// Goes back to the last accepted files. Says whether a run was cut off, so that the server may have read either.
fn recover(home: &Home) -> Result<bool> {
    let pending = home.adt().join(PENDING).exists();
    if pending && staging(home).exists() {
        exchange(&staging(home), &home.adt())?;
    } else if pending {
        // There was nothing before: no server has ever accepted what is here.
        for hook in hook::possible(home) {
            drop(hook.unset());
        }
        clear(&home.adt())?;
    }
    clear(&staging(home))?;
    Ok(pending)
}

fn remove(home: &Home) -> Result<Outcome> {
    let manifest = own(home)?;
    let mut unhooked = false;
    for hook in hook::possible(home) {
        // What is at a hook's place and is not adt's has not kept adt from working, or there would be no manifest.
        unhooked |= matches!(hook.unset(), Ok(true));
    }
    let reloaded = if !unhooked && manifest.is_none() {
        Reloaded::Unneeded
    } else {
        // What is wrong without adt's files was wrong before; it must not keep them here.
        match check::whole(home).and_then(|()| check::reload(home)) {
            Ok(reloaded) => reloaded,
            Err(error) => Reloaded::ByHand(
                std::iter::once(error.to_string()).chain(error.tail().iter().cloned()).collect::<Vec<_>>().join("\n"),
            ),
        }
    };
    clear(&home.adt())?;
    let removed = manifest.map(|manifest| manifest.files).unwrap_or_default();
    Ok(Outcome { server: home.server, written: Vec::new(), removed, reloaded })
}

#[derive(Debug, Default)]
struct Difference {
    written: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Difference {
    fn of(home: &Home, wanted: &[File]) -> Result<Self> {
        let mut difference = Self::default();
        for file in wanted {
            let path = home.adt().join(&file.path);
            let same = fs::symlink_metadata(&path)
                .is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes.len() as u64 && meta.mode() & 0o7777 == file.mode);
            if !same || fs::read(&path).map_err(Error::io("read", &path))? != file.bytes {
                difference.written.insert(file.path.clone());
            }
        }
        let names: BTreeSet<&str> = wanted.iter().map(|file| file.path.as_str()).collect();
        for entry in walkdir::WalkDir::new(home.adt()).into_iter().flatten().filter(|entry| !entry.file_type().is_dir()) {
            let path = entry.path().strip_prefix(home.adt()).expect("it was found below").to_string_lossy().into_owned();
            if !names.contains(path.as_str()) && path != PENDING {
                difference.removed.insert(path);
            }
        }
        Ok(difference)
    }

    fn is_empty(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }

    fn outcome(self, home: &Home, reloaded: Reloaded) -> Outcome {
        Outcome {
            server: home.server,
            written: self.written.into_iter().collect(),
            removed: self.removed.into_iter().collect(),
            reloaded,
        }
    }
}

fn stage(home: &Home, wanted: &[File], difference: &Difference) -> Result<()> {
    let stage = staging(home);
    for file in wanted {
        if difference.written.contains(&file.path) {
            write(&stage, file)?;
            continue;
        }
        let (from, to) = (home.adt().join(&file.path), stage.join(&file.path));
        make_parent(&to)?;
        fs::hard_link(&from, &to).map_err(Error::io("link", &to))?;
    }
    Ok(())
}

fn write(folder: &Path, file: &File) -> Result<()> {
    let path = folder.join(&file.path);
    make_parent(&path)?;
    let mut options = fs::OpenOptions::new();
    let mut open = options.write(true).create_new(true).mode(file.mode).open(&path).map_err(Error::io("write", &path))?;
    std::io::Write::write_all(&mut open, &file.bytes).map_err(Error::io("write", &path))?;
    // A stricter umask would hide the pages from the server's workers.
    open.set_permissions(fs::Permissions::from_mode(file.mode)).map_err(Error::io("set the mode of", &path))
}

fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().expect("a file is in a folder");
    if folder.is_dir() {
        return Ok(());
    }
    make_parent(folder)?;
    fs::DirBuilder::new().mode(0o755).create(folder).map_err(Error::io("make the folder", folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(Error::io("set the mode of", folder))
}

fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn exchange(one: &Path, other: &Path) -> Result<()> {
    disk::exchange(one, other).map_err(Error::io("swap in", other))
}

/// The new files are in place and not yet accepted.
struct Swap<'a> {
    home: &'a Home,
    /// Whether there were files before, which now are where the new ones were staged.
    replaced: bool,
}

impl<'a> Swap<'a> {
    fn new(home: &'a Home) -> Result<Self> {
        let (stage, adt) = (staging(home), home.adt());
        fs::write(stage.join(PENDING), "").map_err(Error::io("write", &stage.join(PENDING)))?;
        let replaced = adt.exists();
        if replaced {
            exchange(&stage, &adt)?;
        } else {
            disk::put_tree(&stage, &adt).map_err(Error::io("put in place", &adt))?;
        }
        Ok(Self { home, replaced })
    }

    fn finish(self, hooks: &[Hook]) -> Result<Reloaded> {
        let mut set = Vec::new();
        match self.accept(hooks, &mut set) {
            Ok(reloaded) => {
                let mark = self.home.adt().join(PENDING);
                fs::remove_file(&mark).map_err(Error::io("remove", &mark))?;
                clear(&staging(self.home))?;
                Ok(reloaded)
            }
            Err(error) => {
                self.back(&set)?;
                if matches!(error, Error::Reload { .. }) {
                    // It runs with the old files still, or with none; the first error is the one to tell.
                    drop(check::reload(self.home));
                }
                Err(error)
            }
        }
    }

    fn accept<'h>(&self, hooks: &'h [Hook], set: &mut Vec<&'h Hook>) -> Result<Reloaded> {
        for hook in hooks {
            if hook.set(self.home)? {
                set.push(hook);
            }
        }
        check::whole(self.home)?;
        check::reload(self.home)
    }

    fn back(&self, set: &[&Hook]) -> Result<()> {
        for hook in set {
            hook.unset()?;
        }
        if self.replaced {
            exchange(&staging(self.home), &self.home.adt())?;
            clear(&staging(self.home))
        } else {
            clear(&self.home.adt())
        }
    }
}
