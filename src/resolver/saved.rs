//! Writes a plan's files and can take that back, byte for byte.
//!
//! ```text
//! <store>/resolver/saved.json   for each path what was there: nothing, a link, or a file with mode and owner; and what adt wrote
//! <store>/resolver/<n>          the files' bytes
//! ```
//! The original is on the disk before anything is written over it. A run that is killed in between has saved something that is
//! still in place, which a second run and `undo` both see.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Plan, Result, plain};
use crate::disk;
use crate::exec;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    entries: Vec<Entry>,
    /// What makes the resolver read its files again; the argument lists.
    commands: Vec<Vec<String>>,
    /// Something was written and the resolver has not been told yet.
    untold: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// Below the root.
    path: PathBuf,
    before: Before,
    written: String,
    /// The installation, where the file is not its alone. An earlier adt kept none.
    #[serde(default)]
    owner: String,
    /// Folders that adt made for it, the deepest first.
    folders: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Before {
    Absent,
    Link { target: PathBuf },
    File { copy: String, mode: u32, user: u32, group: u32 },
}

/// What became of a plan or its undoing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Empty where everything was as it should be.
    pub files: Vec<PathBuf>,
    pub notices: Vec<String>,
}

/// Does what the plan says below `root`, keeping in the store what was there.
pub fn apply(root: &Path, store: &Path, plan: &Plan) -> Result<Change> {
    let folder = store.join("resolver");
    let mut change = Change { files: Vec::new(), notices: plan.notices.clone() };
    let mut saved = load(&folder)?;
    for (path, text) in &plan.files {
        let real = root.join(path);
        // A link to a file with these bytes is not adt's.
        if !real.is_symlink() && fs::read(&real).is_ok_and(|bytes| bytes == text.as_bytes()) {
            continue;
        }
        save(root, &folder, &mut saved, plan, (path, text))?;
        saved.commands = plan.commands.iter().map(words).collect();
        saved.untold = true;
        keep(&folder, &saved)?;
        let folder = real.parent().expect("a file is in a folder");
        fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        put(&real, text.as_bytes(), 0o644, None)?;
        change.files.push(path.clone());
    }
    if saved.untold {
        tell(root, &saved.commands)?;
        saved.untold = false;
        keep(&folder, &saved)?;
    }
    Ok(change)
}

/// Puts back what was there. What someone else has written since stays, and is named in a notice.
pub fn undo(root: &Path, store: &Path) -> Result<Change> {
    let folder = store.join("resolver");
    let mut change = Change::default();
    let saved = load(&folder)?;
    for entry in &saved.entries {
        let real = root.join(&entry.path);
        let ours = !real.is_symlink() && fs::read(&real).is_ok_and(|bytes| bytes == entry.written.as_bytes());
        if ours {
            restore(&real, &folder, &entry.before)?;
            change.files.push(entry.path.clone());
        } else if let Some(left) = shared(&real, &entry.owner) {
            change.notices.extend(leave(&real, &left)?);
            change.files.push(entry.path.clone());
        } else if !is_before(&real, &folder, &entry.before) {
            change
                .notices
                .push(format!("`{}` was changed by someone else since adt wrote it; it stays as it is", real.display()));
        }
        for made in &entry.folders {
            // Not if something else is in it by now.
            drop(fs::remove_dir(root.join(made)));
        }
    }
    if !change.files.is_empty() || saved.untold {
        tell(root, &saved.commands)?;
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &folder)(error)),
        Ok(()) | Err(_) => Ok(change),
    }
}

/// A file that somebody else has written into since, without an installation's lines.
fn shared(real: &Path, owner: &str) -> Option<plain::Left> {
    if real.is_symlink() { None } else { plain::unbind(&fs::read_to_string(real).ok()?, owner) }
}

/// Takes an installation's lines out of a file that others write into; what it can't bring back it says.
fn leave(real: &Path, left: &plain::Left) -> Result<Option<String>> {
    let meta = fs::metadata(real).map_err(Error::io("look at", real))?;
    let Some(target) = &left.link else {
        put(real, left.text.as_bytes(), meta.mode() & 0o7777, Some((meta.uid(), meta.gid())))?;
        return Ok(None);
    };
    let folder = real.parent().expect("a file is in a folder");
    if fs::read_to_string(folder.join(target)).is_ok_and(|text| text == left.text) {
        relink(real, target)?;
        return Ok(None);
    }
    put(real, left.text.as_bytes(), meta.mode() & 0o7777, Some((meta.uid(), meta.gid())))?;
    let (target, real) = (target.display(), real.display());
    Ok(Some(format!(
        "`{real}` was a link to `{target}` before adt, and differs from it now: `ln -sf {target} {real}` links it again"
    )))
}

/// nmcli's exit code where NetworkManager does not run.
const NOT_RUNNING: i32 = 8;

/// A resolver that does not run reads its files when it starts, and one below another root is not this host's.
fn tell(root: &Path, commands: &[Vec<String>]) -> Result<()> {
    let booted = Path::new("/run/systemd/system").is_dir();
    for words in commands.iter().filter(|words| root == Path::new("/") && (booted || words[0] != "systemctl")) {
        match exec::Command::new(&words[0]).args(&words[1..]).run() {
            Ok(_) | Err(exec::Error::Missing { .. }) => {}
            Err(exec::Error::Failed { status, .. }) if words[0] == "nmcli" && status.0.code() == Some(NOT_RUNNING) => {}
            Err(error) => return Err(Error::Reload(error)),
        }
    }
    Ok(())
}

fn words(command: &exec::Command) -> Vec<String> {
    std::iter::once(&command.program).chain(&command.args).map(|word| word.to_string_lossy().into_owned()).collect()
}

fn load(folder: &Path) -> Result<Saved> {
    let path = folder.join("saved.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::BadState { path, what: error.to_string() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Saved::default()),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

fn keep(folder: &Path, saved: &Saved) -> Result<()> {
    let text = serde_json::to_vec_pretty(saved).expect("what is saved has nothing that JSON lacks");
    put(&folder.join("saved.json"), &text, 0o600, None)
}

/// Remembers what is at `path` now, unless that is what adt itself wrote there before.
fn save(root: &Path, folder: &Path, saved: &mut Saved, plan: &Plan, (path, text): (&Path, &str)) -> Result<()> {
    let real = root.join(path);
    let known = saved.entries.iter().position(|entry| entry.path == path);
    if let Some(entry) = known.map(|at| &mut saved.entries[at]) {
        let ours = !real.is_symlink() && fs::read(&real).is_ok_and(|bytes| bytes == entry.written.as_bytes());
        // Others may have come since, or another installation gone.
        let has_ours = !real.is_symlink() && fs::read_to_string(&real).is_ok_and(|text| plain::has_lines(&text, &plan.owner));
        if ours || has_ours || is_before(&real, folder, &entry.before) {
            entry.written = text.to_owned();
            entry.owner = plan.owner.clone();
            return Ok(());
        }
    }
    fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let copy = known.unwrap_or(saved.entries.len()).to_string();
    let before = before(&real, folder, copy)?;
    let missing = path.ancestors().skip(1).take_while(|above| !root.join(above).exists());
    let (written, owner) = (text.to_owned(), plan.owner.clone());
    let entry = Entry { path: path.to_owned(), before, written, owner, folders: missing.map(Path::to_owned).collect() };
    match known {
        // The folders that a first run made are still adt's.
        Some(at) => saved.entries[at] = Entry { folders: saved.entries[at].folders.clone(), ..entry },
        None => saved.entries.push(entry),
    }
    Ok(())
}

fn before(real: &Path, folder: &Path, copy: String) -> Result<Before> {
    let meta = match fs::symlink_metadata(real) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Before::Absent),
        Err(error) => return Err(Error::io("look at", real)(error)),
    };
    if meta.is_symlink() {
        let target = fs::read_link(real).map_err(Error::io("read the link", real))?;
        return Ok(Before::Link { target });
    }
    let bytes = fs::read(real).map_err(Error::io("read", real))?;
    put(&folder.join(&copy), &bytes, 0o600, None)?;
    Ok(Before::File { copy, mode: meta.mode() & 0o7777, user: meta.uid(), group: meta.gid() })
}

fn is_before(real: &Path, folder: &Path, before: &Before) -> bool {
    match before {
        Before::Absent => fs::symlink_metadata(real).is_err(),
        Before::Link { target } => fs::read_link(real).is_ok_and(|found| found == *target),
        Before::File { copy, .. } => {
            let original = fs::read(folder.join(copy)).ok();
            !real.is_symlink() && original.is_some() && fs::read(real).ok() == original
        }
    }
}

fn restore(real: &Path, folder: &Path, before: &Before) -> Result<()> {
    match before {
        Before::Absent => fs::remove_file(real).map_err(Error::io("remove", real)),
        Before::Link { target } => relink(real, target),
        Before::File { copy, mode, user, group } => {
            let path = folder.join(copy);
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            put(real, &bytes, *mode, Some((*user, *group)))
        }
    }
}

fn relink(real: &Path, target: &Path) -> Result<()> {
    let parent = real.parent().expect("a file is in a folder");
    let temporary = parent.join(".adt-link");
    drop(fs::remove_file(&temporary));
    symlink(target, &temporary).map_err(Error::io("make the link", &temporary))?;
    disk::put(&temporary, real).map_err(Error::io("replace", real))
}

/// The old file or the new one, never half of it; where a file is a mount of its own, as in containers, it is written in place.
fn put(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let file = disk::File::at(path).mode(mode);
    let file = owner.map_or(file.clone(), |(user, group)| file.owner(user, group));
    let written = match file.write(bytes) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => fs::write(path, bytes),
        other => other,
    };
    written.map_err(Error::io("write", path))
}
