//! Unpacking what a stranger packed: nothing lands outside of the folder, no device nodes, nothing is followed, and nothing
//! fills the disk or the memory of the host on its way.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tar::EntryType;

use super::compressed::Source;
use super::layer::remove_tree;
use super::{Error, Result};
use crate::exec::watched::Watched;

/// Markers of an OCI layer for what it takes away from the ones below.
pub(super) const WHITEOUT: &[u8] = b".wh.";
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// A whole desktop has 400,000 files.
pub(super) const ENTRIES: u32 = 1_000_000;
/// Deeper than any real tree, and not too deep for whoever walks through it later.
pub(super) const DEPTH: usize = 128;
/// An entry's header with its name and attributes, which are read into memory whole. A filesystem takes 64 KB of attributes.
pub const HEADERS: u64 = 1 << 20;
/// What stays free on a disk, or a twentieth of it where that is less.
const SPARE_BYTES: u64 = 256 << 20;
const SPARE_FILES: u64 = 10_000;

/// Files of one certain machine: a copy must make its own.
fn is_identity(path: &Path) -> bool {
    path == Path::new("etc/machine-id")
        || path == Path::new("var/lib/dbus/machine-id")
        || path.parent() == Some(Path::new("etc/ssh"))
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_"))
}

/// How entries become files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A machine's files: owners, modes and attributes are kept.
    Rootfs,
    /// The same as one layer over others: whiteouts take away.
    Layer,
    /// An archive of archives.
    Plain,
}

/// What one base may take of this host, however many archives it is packed in.
pub struct Room<'a> {
    bytes: u64,
    entries: u32,
    cancel: &'a AtomicBool,
}

impl<'a> Room<'a> {
    /// As much as the disk of `folder` can spare now. Unpacking ends early once `cancel` is set.
    pub fn on_disk_of(folder: &Path, cancel: &'a AtomicBool) -> Result<Self> {
        Ok(Self { bytes: Spare::of(folder)?.bytes, entries: ENTRIES, cancel })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes away what an entry stores and how many new files and folders it makes.
    pub(super) fn take(&mut self, archive: &Path, target: &Path, entry: &Path, stored: u64, files: usize) -> Result<()> {
        // What others write meanwhile counts, too.
        let spare = Spare::of(target)?;
        if stored > self.bytes.min(spare.bytes) || files as u64 > spare.files {
            return Err(Error::NoRoom { archive: archive.to_owned(), entry: entry.display().to_string() });
        }
        self.bytes -= stored;
        let files = u32::try_from(files.max(1)).unwrap_or(u32::MAX);
        let left = self.entries.checked_sub(files);
        self.entries = left.ok_or_else(|| {
            Error::bad_archive(archive, entry.display(), format!("is one too many: an image has at most {ENTRIES} files"))
        })?;
        Ok(())
    }
}

/// What a disk has left for us.
struct Spare {
    bytes: u64,
    files: u64,
}

impl Spare {
    fn of(folder: &Path) -> Result<Self> {
        let disk = rustix::fs::statvfs(folder).map_err(|errno| Error::io("could not measure", folder)(errno.into()))?;
        let kept = SPARE_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 20);
        // btrfs makes inodes as it needs them, and says that it has none.
        let files = if disk.f_files == 0 { u64::MAX } else { disk.f_favail.saturating_sub(SPARE_FILES.min(disk.f_files / 20)) };
        Ok(Self { bytes: disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(kept), files })
    }
}

/// Unpacks a tar archive, compressed or not, into a folder that exists.
pub fn unpack(archive: &Path, target: &Path, mode: Mode, room: &mut Room<'_>) -> Result<()> {
    let mut source = Source::open(archive)?;
    unpack_from(&mut source.reader, archive, target, mode, room)?;
    source.finish(archive)
}

/// The bytes of an archive. Only so many may come until the next entry is known: what belongs to a header is kept in memory.
pub struct Metered<'a, R> {
    pub reader: R,
    pub left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(std::io::Error::other("its name and attributes are too long"));
        }
        let count = self.reader.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

fn unpack_from(reader: &mut dyn Read, archive: &Path, target: &Path, mode: Mode, room: &mut Room<'_>) -> Result<()> {
    let target = &target.canonicalize().map_err(Error::io("could not read", target))?;
    let left = Cell::new(HEADERS);
    let reader = Watched { inner: reader, cancel: room.cancel };
    let mut tar = tar::Archive::new(Metered { reader, left: &left });
    tar.set_preserve_permissions(mode != Mode::Plain);
    tar.set_preserve_ownerships(mode != Mode::Plain);
    tar.set_unpack_xattrs(mode != Mode::Plain);
    let mut added = Added::default();
    let mut last = PathBuf::from("the first entry");
    for entry in tar.entries().map_err(Error::io("could not unpack", archive))? {
        let mut entry = entry.map_err(|error| unreadable(archive, &last, &error))?;
        let name = entry.path().map_err(|error| unreadable(archive, &last, &error))?.into_owned();
        let path = clean(archive, &name)?;
        let kind = entry.header().entry_type();
        // Holes of a file take no space; its size counts them.
        let stored = if kind.is_gnu_sparse() { entry.header().entry_size().unwrap_or(u64::MAX) } else { entry.size() };
        let place = Place::of(target, &path);
        if place.depth > DEPTH {
            return Err(Error::bad_archive(archive, name.display(), format!("lies more than {DEPTH} folders deep")));
        }
        room.take(archive, target, &name, stored, place.new)?;
        last = name;
        // Passing over what an entry stores is reading, too.
        left.set(HEADERS.saturating_add(stored));
        // systemd brings its own devices; the ones in archives would be the host's.
        let left_out = matches!(kind, EntryType::Char | EntryType::Block | EntryType::Fifo | EntryType::XGlobalHeader);
        if left_out || path.as_os_str().is_empty() || is_identity(&path) {
            continue;
        }
        if kind == EntryType::Link {
            let link = entry.link_name().map_err(|error| unreadable(archive, &last, &error))?.unwrap_or_default();
            clean(archive, &link)?;
        }
        if mode == Mode::Layer && whiteout(archive, target, &path, &added)? {
            continue;
        }
        make_room(target, &path, kind)?;
        entry.unpack_in(target).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => Error::io("could not unpack", archive)(error),
            _ => Error::bad_archive(archive, last.display(), error.to_string()),
        })?;
        left.set(HEADERS);
        if mode == Mode::Layer {
            path.ancestors().for_each(|path| added.insert(path));
        }
    }
    Ok(())
}

/// The disk's own errors have a number; the others are about what was read.
fn unreadable(archive: &Path, after: &Path, error: &std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(number) => Error::io("could not read", archive)(std::io::Error::from_raw_os_error(number)),
        None => Error::bad_archive(archive, after.display(), format!("is the last that can be read: {error}")),
    }
}

/// What one layer has added so far. Names are a stranger's and may be long, so only their hashes are kept.
#[derive(Default)]
struct Added {
    hasher: RandomState,
    paths: HashSet<u64>,
}

impl Added {
    fn insert(&mut self, path: &Path) {
        self.paths.insert(self.hasher.hash_one(path));
    }

    fn contains(&self, path: &Path) -> bool {
        self.paths.contains(&self.hasher.hash_one(path))
    }
}

/// Where an entry comes to lie: links on the way lead to where they lead.
struct Place {
    depth: usize,
    /// Folders that have to be made, and the entry itself.
    new: usize,
}

impl Place {
    fn of(root: &Path, path: &Path) -> Self {
        let there = path.ancestors().skip(1).find_map(|above| Some((above, folder_inside(root, above)?)));
        let (above, real) = there.unwrap_or_else(|| (Path::new(""), root.to_owned()));
        let count = |path: &Path, start: &Path| path.strip_prefix(start).map_or(0, |rest| rest.components().count());
        let new = count(path, above);
        Self { depth: count(&real, root) + new, new }
    }
}

/// The entry's path below the root. `./` in front is how `tar .` writes it.
pub(super) fn clean(archive: &Path, name: &Path) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(Error::bad_archive(archive, name.display(), "has a `..` in its path")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(Error::bad_archive(archive, name.display(), "has an absolute path"));
            }
        }
    }
    Ok(path)
}

/// Takes away what a marker stands for; whether the entry was one.
fn whiteout(archive: &Path, root: &Path, path: &Path, added: &Added) -> Result<bool> {
    let name = path.file_name().unwrap_or_default();
    let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) else { return Ok(false) };
    let parent = path.parent().unwrap_or(Path::new(""));
    let Some(folder) = folder_inside(root, parent) else { return Ok(true) };
    if name.as_bytes() != OPAQUE {
        // `.wh...` would take away the folder above.
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::bad_archive(archive, path.display(), "takes away no file of its folder"));
        }
        remove_tree(&folder.join(std::ffi::OsStr::from_bytes(hidden)))?;
        return Ok(true);
    }
    for entry in std::fs::read_dir(&folder).map_err(Error::io("could not read", &folder))? {
        let entry = entry.map_err(Error::io("could not read", &folder))?;
        if !added.contains(&parent.join(entry.file_name())) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(true)
}

/// A folder below the root, which is canonical; nothing where a link leads outside or nothing is there.
fn folder_inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let folder = root.join(path).canonicalize().ok()?;
    (folder.starts_with(root) && folder.is_dir()).then_some(folder)
}

/// A later entry replaces an earlier one, whatever that was; only a folder over a folder stays.
fn make_room(root: &Path, path: &Path, kind: EntryType) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let Some(folder) = folder_inside(root, parent) else { return Ok(()) };
    let place = folder.join(name);
    let Ok(meta) = std::fs::symlink_metadata(&place) else { return Ok(()) };
    if kind == EntryType::Directory && meta.is_dir() {
        return Ok(());
    }
    debug_assert!(!meta.file_type().is_block_device(), "devices are never unpacked");
    remove_tree(&place)
}

/// Where a path of a machine ends up, links followed as they would be inside. `None` where it leads nowhere.
pub fn follow(root: &Path, path: &str) -> Option<PathBuf> {
    let mut left: Vec<std::ffi::OsString> = Path::new(path).iter().rev().map(Into::into).collect();
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next()? {
            Component::RootDir | Component::Prefix(_) => at = PathBuf::new(),
            Component::CurDir => {}
            Component::ParentDir => drop(at.pop()),
            Component::Normal(part) => {
                let next = at.join(part);
                let meta = std::fs::symlink_metadata(root.join(&next)).ok()?;
                if meta.is_symlink() {
                    links += 1;
                    let target = std::fs::read_link(root.join(&next)).ok().filter(|_| links < 40)?;
                    left.extend(target.iter().rev().map(std::ffi::OsString::from));
                } else {
                    at = next;
                }
            }
        }
    }
    Some(root.join(at))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::exec::Command;

    /// Entries as (path, content); `-> x` is a link, `=> x` a hard link, `/` at the end a folder, `!` a device.
    pub(crate) fn pack(path: &Path, entries: &[(&str, &str)]) {
        let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
        for (name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(rustix::process::geteuid().as_raw().into());
            header.set_gid(rustix::process::getegid().as_raw().into());
            // Not `set_path`, which refuses what these tests are about.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let mut body: &[u8] = b"";
            if let Some(link) = text.strip_prefix("-> ").or(text.strip_prefix("=> ")) {
                header.set_entry_type(if text.starts_with('-') { EntryType::Symlink } else { EntryType::Link });
                header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            } else if *text == "!" {
                header.set_entry_type(EntryType::Char);
            } else if name.ends_with('/') {
                header.set_mode(0o755);
                header.set_entry_type(EntryType::Directory);
            } else {
                body = text.as_bytes();
            }
            header.set_size(body.len() as u64);
            header.set_cksum();
            tar.append(&header, body).unwrap();
        }
        tar.finish().unwrap();
    }

    pub(crate) fn take_apart(archive: &Path, root: &Path, mode: Mode) -> Result<()> {
        let cancel = AtomicBool::new(false);
        unpack(archive, root, mode, &mut Room::on_disk_of(root, &cancel)?)
    }

    fn try_unpack(entries: &[(&str, &str)], mode: Mode) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let (archive, root) = (folder.path().join("a.tar"), folder.path().join("root"));
        std::fs::create_dir(&root).unwrap();
        pack(&archive, entries);
        let result = take_apart(&archive, &root, mode);
        (folder, result)
    }

    #[test]
    fn nothing_gets_out() {
        let attacks: [&[(&str, &str)]; 5] = [
            &[("../evil", "x")],
            &[("/evil", "x")],
            &[("a", "-> /tmp"), ("a/evil", "x")],
            &[("a", "-> .."), ("a/evil", "x")],
            &[("a", "=> ../a.tar")],
        ];
        for attack in attacks {
            let (folder, result) = try_unpack(attack, Mode::Rootfs);
            assert!(matches!(result, Err(Error::BadArchive { .. })), "{attack:?}: {result:?}");
            assert!(!folder.path().join("evil").exists() && !Path::new("/tmp/evil").exists());
        }
    }

    #[test]
    fn devices_and_identities_are_left_out_and_links_kept() {
        let (folder, result) = try_unpack(
            &[
                ("./bin", "-> usr/bin"),
                ("usr/bin/", ""),
                ("bin/sh", "sh"),
                ("run", "-> /nowhere"),
                ("null", "!"),
                ("etc/machine-id", "1"),
                ("etc/ssh/ssh_host_rsa_key", "1"),
            ],
            Mode::Rootfs,
        );
        result.unwrap();
        let root = folder.path().join("root");
        assert_eq!(std::fs::read_to_string(root.join("usr/bin/sh")).unwrap(), "sh");
        assert!(root.join("run").is_symlink());
        assert!(!root.join("null").exists() && !root.join("etc").exists());
        assert_eq!(follow(&root, "/bin/sh"), Some(root.join("usr/bin/sh")));
        assert_eq!(follow(&root, "/run/x"), None);
    }

    #[test]
    fn compressed_archives_are_known_by_their_content_and_a_cut_one_fails() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a");
        pack(&archive, &[("file", &"text".repeat(9000))]);
        for program in ["gzip", "xz", "zstd"] {
            let root = folder.path().join(program);
            std::fs::create_dir(&root).unwrap();
            let packed = Command::new(program).args(["-c", "-q"]).arg(&archive).run().unwrap().stdout;
            let file = folder.path().join("packed");
            std::fs::write(&file, &packed).unwrap();
            take_apart(&file, &root, Mode::Rootfs).unwrap();
            assert!(root.join("file").exists());
            std::fs::write(&file, &packed[..packed.len() - 9]).unwrap();
            assert!(take_apart(&file, &root, Mode::Rootfs).is_err(), "{program}");
        }
    }

    #[test]
    fn files_without_number_end_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, root) = (folder.path().join("a.tar"), folder.path().join("root"));
        let all: Vec<_> = (0..20).map(|number| format!("d{number}/e/f")).collect();
        pack(&archive, &all.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
        std::fs::create_dir(&root).unwrap();
        let cancel = AtomicBool::new(false);
        let mut room = Room { entries: 30, ..Room::on_disk_of(&root, &cancel).unwrap() };
        let error = unpack(&archive, &root, Mode::Layer, &mut room).unwrap_err();
        assert!(matches!(&error, Error::BadArchive { reason, .. } if reason.contains("one too many")), "{error}");
        // Folders that no entry names are counted, too.
        let made = walkdir::WalkDir::new(&root).min_depth(1).into_iter().count();
        assert_eq!(made, 30);
    }

    #[test]
    fn a_stopped_build_reads_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, root) = (folder.path().join("a.tar"), folder.path().join("root"));
        pack(&archive, &[("a", "x")]);
        std::fs::create_dir(&root).unwrap();
        let cancel = AtomicBool::new(true);
        assert!(unpack(&archive, &root, Mode::Rootfs, &mut Room::on_disk_of(&root, &cancel).unwrap()).is_err());
        assert!(!root.join("a").exists());
    }
}
