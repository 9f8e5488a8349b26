//! A person's files in and out of a running machine, of whichever provider: tar streams, which travel over any wire.
//!
//! The person's files are touched with that person's rights. Where the person's own process is on another side of a wire, it
//! does [`pack`] and [`unpack`], and this one runs the machine's `tar`, as [`inwards`] and [`outwards`] say.
//!
//! What comes out of a machine is not trusted: nothing of it may land outside of the target, be a device or carry a set-id
//! bit, whatever its `tar` says.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use tar::{Archive, Builder, Entry, EntryType, Header};

use super::{Error, Provider, Result, Stdio};
use crate::exec::{Cancel, HostPath};
use crate::model::{Exec, MachineId};

/// Copies a file or folder of this host into a running machine, for its root; `target` follows `cp -a`: into an existing
/// folder, else as that name.
pub fn copy_in(provider: &dyn Provider, id: &MachineId, from: HostPath<'_>, target: &str, cancel: &Cancel) -> Result<()> {
    let source = from.path;
    let failed = |error| Error::Io { what: "copy", path: source.to_owned(), source: error };
    from.with_rights(|source| fs::symlink_metadata(source)).map_err(failed)?;
    let is_folder = provider.exec(id, &is_folder(target), Stdio::Pipes { stdin: None, each: &mut |_, _| {} })?.code == 0;
    let (folder, name) = place(source, target, is_folder);
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    let (unpacked, packed) = std::thread::scope(|scope| {
        let packing = scope.spawn(move || from.with_rights(|source| pack(source, &name, writer)));
        let unpacked = provider.unpack(id, &mut reader, &folder, "root", cancel);
        // Who still packs must not wait for a reader that gave up.
        drop(reader);
        (unpacked, packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    match packed {
        // A machine that fails closes the pipe; its own words say more than that.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        Ok(()) | Err(_) => unpacked,
    }
}

/// Copies a file or folder out of a running machine, as files of the one with whose rights they are written; `target` as above.
pub fn copy_out(provider: &dyn Provider, id: &MachineId, source: &str, to: HostPath<'_>, cancel: &Cancel) -> Result<()> {
    let target = to.path;
    let failed = |error| Error::Io { what: "copy to", path: target.to_owned(), source: error };
    let Outwards { name, folder, new_name, .. } = to.with_rights(|target| outwards(source, target));
    let (reader, mut writer) = io::pipe().map_err(failed)?;
    let (packed, unpacked) = std::thread::scope(|scope| {
        let packing = scope.spawn(move || provider.pack(id, source, &mut writer, cancel));
        let unpacked = to.with_rights(|_| unpack(reader, &name, &folder, &new_name));
        (packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), unpacked)
    });
    match (packed, unpacked) {
        (Err(error), _) if cancel.is_set() => Err(error),
        // Ours first when it refused something: the machine then only tells of a closed pipe.
        (_, Err(error)) => Err(failed(error)),
        (packed, Ok(())) => packed,
    }
}

/// Tells by its exit code whether a machine has a folder of this name.
pub fn is_folder(path: &str) -> Exec {
    Exec { cwd: Some("/".into()), ..Exec::new(["/bin/sh", "-c", "test -d \"$1\"", "adt", path]) }
}

/// The folder of a machine into which an archive of `source` is unpacked, and what its top entry must be called.
fn place(source: &Path, target: &str, is_folder: bool) -> (String, String) {
    if is_folder { (target.to_owned(), name_of(source)) } else { split(target) }
}

/// The machine's program that takes what [`pack`] makes, as its root, and what the only top entry must be called.
pub fn inwards(source: &Path, target: &str, is_folder: bool) -> (Vec<String>, String) {
    let (folder, name) = place(source, target, is_folder);
    (unpacking(&folder), name)
}

/// The machine's program that unpacks into a folder; what it holds becomes whose who runs it.
pub fn unpacking(folder: &str) -> Vec<String> {
    ["tar", "--extract", "--preserve-permissions", "--no-same-owner", "--directory", folder, "--file", "-"]
        .map(str::to_owned)
        .to_vec()
}

/// What [`unpack`] needs of a copy out of a machine.
pub struct Outwards {
    /// The machine's program whose output it is.
    pub argv: Vec<String>,
    pub name: String,
    pub folder: PathBuf,
    pub new_name: String,
}

/// Looks at `target`, with the rights of whoever calls this.
pub fn outwards(source: &str, target: &Path) -> Outwards {
    let (argv, name) = packing(source);
    // None where it leads upwards.
    let own = Path::new(&name).file_name().map_or_else(|| ".".to_owned(), |own| own.to_string_lossy().into_owned());
    let (folder, new_name) = if target.is_dir() {
        (target, own)
    } else {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (parent, target.file_name().map_or(own, |name| name.to_string_lossy().into_owned()))
    };
    Outwards { argv, folder: folder.to_owned(), name, new_name }
}

/// The machine's program that packs a file or folder, and what its only top entry is called.
pub fn packing(path: &str) -> (Vec<String>, String) {
    let (folder, name) = split(path);
    (["tar", "--create", "--directory", &folder, "--file", "-", "--", &name].map(str::to_owned).to_vec(), name)
}

/// What it means that the machine's `tar` did not succeed.
pub fn failed(verb: &'static str, id: &MachineId, code: i32, tail: Vec<String>) -> Error {
    let reason = format!("`tar` in the machine ended with exit code {code}");
    Error::Failed { verb, id: id.clone(), reason, tail }
}

/// What a file or folder of this host is called when it is copied; `x/.` means what is in it.
fn name_of(source: &Path) -> String {
    let contents = source.as_os_str().as_encoded_bytes().ends_with(b"/.");
    let own = source.file_name().filter(|_| !contents);
    own.map_or_else(|| ".".to_owned(), |own| own.to_string_lossy().into_owned())
}

/// Folder and name of a path inside a machine.
pub fn split(path: &str) -> (String, String) {
    let path = if path.ends_with("/.") { path } else { path.trim_end_matches('/') };
    match path.rsplit_once('/') {
        Some(("", "")) | None if path.is_empty() => ("/".into(), ".".into()),
        Some(("", name)) => ("/".into(), name.into()),
        Some((folder, name)) => (folder.into(), name.into()),
        None => ("/".into(), path.into()),
    }
}

/// Writes `source` as an archive whose only top entry is `name`. Everything in it belongs to root.
pub fn pack(source: &Path, name: &str, to: impl Write) -> io::Result<()> {
    let mut builder = Builder::new(BufWriter::with_capacity(128 * 1024, to));
    for entry in walkdir::WalkDir::new(source) {
        let entry = entry.map_err(io::Error::from)?;
        let below = entry.path().strip_prefix(source).expect("the walk stays below its start");
        let inside = if below.as_os_str().is_empty() { PathBuf::from(name) } else { Path::new(name).join(below) };
        append(&mut builder, entry.path(), &inside)?;
    }
    builder.into_inner()?.flush()
}

fn append(builder: &mut Builder<impl Write>, path: &Path, inside: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&meta);
    header.set_uid(0);
    header.set_gid(0);
    if meta.is_symlink() {
        header.set_size(0);
        builder.append_link(&mut header, inside, fs::read_link(path)?)
    } else if meta.is_dir() {
        header.set_size(0);
        builder.append_data(&mut header, inside, io::empty())
    } else if meta.is_file() {
        // A file that grows meanwhile would break the archive; one that shrinks ends it with an error.
        builder.append_data(&mut header, inside, File::open(path)?.take(meta.len()))
    } else {
        // Sockets, pipes and devices have no content to copy.
        Ok(())
    }
}

/// Unpacks an archive whose only top entry is `name` into `folder`, where it is called `new_name`.
pub fn unpack(from: impl Read, name: &str, folder: &Path, new_name: &str) -> io::Result<()> {
    let left = Rc::new(Cell::new(0));
    let metered = Metered { from: BufReader::with_capacity(128 * 1024, from), left: Rc::clone(&left) };
    let mut archive = Archive::new(metered);
    let folder = folder.canonicalize()?;
    // Modes of folders come last, or a read-only one could not be filled.
    let mut folders = Vec::new();
    let mut entries = archive.entries()?;
    loop {
        // Long names, attributes and maps of holes are read whole, as long as they say that they are.
        left.set(HEADERS);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        left.set(u64::MAX);
        let path = renamed(&entry.path()?, name, new_name)?;
        let (mode, time) = (entry.header().mode()? & 0o777, entry.header().mtime()?);
        match entry.header().entry_type() {
            EntryType::Directory => {
                make_folder(&folder, &path)?;
                folders.push((folder.join(path), mode, time));
            }
            EntryType::Link => {
                let link = renamed(&target_of(&entry, &path)?, name, new_name)?;
                check_parents(&folder, &link)?;
                fs::hard_link(folder.join(link), clear(&folder, &path)?)?;
            }
            EntryType::Symlink => std::os::unix::fs::symlink(target_of(&entry, &path)?, clear(&folder, &path)?)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let target = clear(&folder, &path)?;
                entry.set_preserve_mtime(true);
                entry.unpack(&target)?;
                fs::set_permissions(&target, PermissionsExt::from_mode(mode))?;
            }
            _ => return Err(refused(&path, "is neither file, folder nor link")),
        }
        io::copy(&mut entry, &mut io::sink())?;
    }
    for (target, mode, time) in folders.into_iter().rev() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time);
        let opened = File::open(&target)?;
        opened.set_permissions(PermissionsExt::from_mode(mode))?;
        opened.set_modified(time)?;
    }
    left.set(u64::MAX);
    // An archive ends before its last block does, and whoever still writes that must not find the pipe closed.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// All that may come before the content of a file.
const HEADERS: u64 = 1 << 20;

/// Gives out no more than is left.
struct Metered<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the machine sent a name without end"));
        }
        let count = self.from.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

fn target_of(entry: &Entry<'_, impl Read>, path: &Path) -> io::Result<PathBuf> {
    entry.link_name()?.map(Cow::into_owned).ok_or_else(|| refused(path, "is a link to nowhere"))
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the machine sent `{}`, which {why}", path.display()))
}

/// The path of an entry below its new name; refuses every path that could lead elsewhere.
fn renamed(path: &Path, name: &str, new_name: &str) -> io::Result<PathBuf> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir).peekable();
    if name != "." && parts.next() != Some(Component::Normal(name.as_ref())) {
        return Err(refused(path, "was not asked for"));
    }
    let mut renamed = PathBuf::from(new_name);
    for part in parts {
        match part {
            Component::Normal(part) => renamed.push(part),
            _ => return Err(refused(path, "leads out of the copy")),
        }
    }
    Ok(renamed)
}

/// Fails when a parent of `path` is anything but a real folder: an earlier entry may have made a link there.
fn check_parents(folder: &Path, path: &Path) -> io::Result<()> {
    let mut walked = folder.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        walked.push(part);
        if !fs::symlink_metadata(&walked)?.is_dir() {
            return Err(refused(path, "leads through a link"));
        }
    }
    Ok(())
}

/// Makes room for a new entry and says where. An existing file is replaced, never written through.
fn clear(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    check_parents(folder, path)?;
    let target = folder.join(path);
    match fs::symlink_metadata(&target) {
        Ok(meta) if meta.is_dir() => Err(refused(path, "would replace a folder")),
        Ok(_) => fs::remove_file(&target).map(|()| target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(target),
        Err(error) => Err(error),
    }
}

fn make_folder(folder: &Path, path: &Path) -> io::Result<()> {
    check_parents(folder, path)?;
    let target = folder.join(path);
    match fs::symlink_metadata(&target) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(refused(path, "would replace a file")),
        Err(_) => fs::create_dir(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive as a hostile machine makes it: the crate's own checks of names are gone around.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_000_000_000);
            let is_file = *kind == EntryType::Regular;
            if !is_file {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            header.set_cksum();
            builder.append(&header, if is_file { text.as_bytes() } else { &[] }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn whoever_sends_an_archive_can_send_all_of_it() {
        let mut bytes = archive(&[("copy", EntryType::Regular, "text")]);
        // More than is read at once.
        bytes.resize(bytes.len() + (1 << 20), 0);
        let to = tempfile::tempdir().unwrap();
        let mut left = &bytes[..];
        unpack(&mut left, "copy", to.path(), "new").unwrap();
        assert!(left.is_empty(), "{} bytes", left.len());
    }

    #[test]
    fn a_name_without_end_ends() {
        for kind in [b'L', b'K', b'x'] {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::new(kind));
            header.set_size(1 << 40);
            header.set_cksum();
            let to = tempfile::tempdir().unwrap();
            let endless = header.as_bytes().chain(io::repeat(b'a'));
            let error = unpack(endless, "x", to.path(), "x").unwrap_err();
            assert!(error.to_string().contains("a name without end"), "{error}");
        }
    }

    #[test]
    fn a_tree_goes_through() {
        let from = tempfile::tempdir().unwrap();
        let tree = from.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), [0, 255, 10]).unwrap();
        fs::set_permissions(tree.join("a/b/file"), PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
        let mut bytes = Vec::new();
        pack(&tree, "copy", &mut bytes).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(&bytes[..], "copy", to.path(), "new").unwrap();
        let new = to.path().join("new");
        assert_eq!(fs::read(new.join("a/b/file")).unwrap(), [0, 255, 10]);
        let (old, new_meta) = (fs::metadata(tree.join("a/b/file")).unwrap(), fs::metadata(new.join("a/b/file")).unwrap());
        assert_eq!(new_meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(
            old.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
            new_meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        );
        assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn set_id_bits_stay_behind() {
        let to = tempfile::tempdir().unwrap();
        unpack(&archive(&[("x", EntryType::Regular, "text")])[..], "x", to.path(), "x").unwrap();
        assert_eq!(fs::metadata(to.path().join("x")).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_hostile_machine_writes_nowhere_else() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        let cases: [&[(&str, EntryType, &str)]; 7] = [
            &[("x/../../escaped", EntryType::Regular, "text")],
            &[("/etc/escaped", EntryType::Regular, "text")],
            &[("other", EntryType::Regular, "text")],
            &[("x", EntryType::Directory, ""), ("x/l", EntryType::Symlink, target), ("x/l/escaped", EntryType::Regular, "text")],
            &[("x", EntryType::Symlink, target), ("x/escaped", EntryType::Regular, "text")],
            &[("x", EntryType::Directory, ""), ("x/l", EntryType::Link, "../../etc/passwd")],
            &[("x", EntryType::Char, "")],
        ];
        for entries in cases {
            let to = tempfile::tempdir().unwrap();
            let error = unpack(&archive(entries)[..], "x", to.path(), "x").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{entries:?}: {error}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{entries:?}");
        }
    }
}
