//! The archive of a release: a tar of the tree, compressed.
//!
//! Two things must hold on every machine that it is unpacked on: nothing lands outside of the release's folder, and no link
//! leads from there to what another release or the host of a build left. So both ends check, the one that packs what a
//! stranger's buildpack made, and the one that sends what lies on a disk.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use super::{Error, Result};
use crate::boxes::archive::{HEADERS, Metered};
use crate::exec::watched::Watched;
use crate::model::Digest;
use crate::sources::rendered::{self, Template};

/// Where links may lead besides the tree itself: the programs of the box, as in a Python environment.
const PROGRAMS: &str = "/usr/";

/// zstd's own default: more costs seconds per deploy and saves little.
const LEVEL: i32 = 3;

/// A build's program decides what its tree holds; a hole in a file counts, for it becomes zeros in an archive.
const MOST_FILES: u64 = 1_000_000;
const MOST_BYTES: u64 = 64 << 30;

/// What a release is, whoever built it: what machines get of it, without the times of its files, which every build makes anew,
/// and the templates that are rendered for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub sha256: Digest,
    /// Of its files, unpacked.
    pub bytes: u64,
}

/// Packs a tree and says how many files it has, unless it is cancelled. Owners are left out, and set-id bits with them.
pub fn pack(tree: &Path, to: impl Write, cancel: &AtomicBool) -> Result<u64> {
    pack_until(tree, Watched { inner: to, cancel })
        .map_err(|error| if cancel.load(Ordering::Relaxed) { Error::Cancelled } else { error })
}

fn pack_until(tree: &Path, to: Watched<'_, impl Write>) -> Result<u64> {
    let failed = || Error::io("could not pack", tree);
    let cancel = to.cancel;
    let encoder = zstd::Encoder::new(BufWriter::new(to), LEVEL).map_err(failed())?;
    // In front of the compression, or a file that compresses well would long be read to its end.
    let mut builder = Builder::new(Watched { inner: encoder, cancel });
    let (mut files, mut all, mut bytes) = (0, 0, 0);
    for entry in walkdir::WalkDir::new(tree).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(io::Error::from).map_err(failed())?;
        let inside = entry.path().strip_prefix(tree).expect("the walk stays below its start");
        all += 1;
        bytes += entry.metadata().map_or(0, |meta| meta.len());
        if all > MOST_FILES {
            return Err(one_too_many(inside));
        }
        if bytes > MOST_BYTES {
            return Err(bad(inside, "makes the release larger than 64G"));
        }
        append(&mut builder, entry.path(), inside)?;
        files += u64::from(!entry.file_type().is_dir());
    }
    let encoder = builder.into_inner().map_err(failed())?.inner;
    encoder.finish().and_then(|mut file| file.flush()).map_err(failed())?;
    Ok(files)
}

fn append(builder: &mut Builder<impl Write>, path: &Path, inside: &Path) -> Result<()> {
    let failed = || Error::io("could not pack", path);
    let meta = fs::symlink_metadata(path).map_err(failed())?;
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(&meta, tar::HeaderMode::Complete);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(header.mode().map_err(failed())? & 0o777);
    if meta.is_symlink() {
        let target = fs::read_link(path).map_err(failed())?;
        check_link(inside, &target)?;
        header.set_size(0);
        return builder.append_link(&mut header, inside, target).map_err(failed());
    }
    if meta.is_dir() {
        header.set_size(0);
        return builder.append_data(&mut header, inside, io::empty()).map_err(failed());
    }
    if !meta.is_file() {
        return Err(bad(inside, "is neither file, folder nor link"));
    }
    builder.append_data(&mut header, inside, File::open(path).map_err(failed())?).map_err(failed())
}

/// Writes the archive of a release as a plain tar, entry by entry, and stops at the first that it can't answer for. What was
/// rendered for the machine goes behind it, in nobody's way.
pub fn send(archive: &Path, rendered: &[rendered::File], to: impl Write) -> Result<()> {
    write(archive, rendered, Times::Kept, to)
}

/// Reads an archive as [`send`] does, to find out what it is. `most` is how many bytes it may be, unpacked.
pub fn content(archive: &Path, templates: &[Template], most: u64, cancel: &AtomicBool) -> Result<Content> {
    let mut hash = Hashing { hash: Sha256::new(), bytes: 0, most };
    let read = write(archive, &[], Times::LeftOut, Watched { inner: &mut hash, cancel });
    let bytes = hash.bytes;
    if bytes > most {
        return Err(Error::Damaged { path: archive.to_owned(), reason: format!("it has more than the {most} bytes it should") });
    }
    read.map_err(|error| if cancel.load(Ordering::Relaxed) { Error::Cancelled } else { error })?;
    for Template { path, mode, text } in templates {
        hash.hash.update(format!("{} {mode:o} {}\n{path}{text}", path.len(), text.len()));
    }
    Ok(Content { sha256: Digest::from_bytes(&hash.hash.finalize()), bytes })
}

/// Takes the bytes of a release, and no more than it is said to have.
struct Hashing {
    hash: Sha256,
    bytes: u64,
    most: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What becomes of the times of files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Kept,
    LeftOut,
}

fn write(archive: &Path, rendered: &[rendered::File], times: Times, to: impl Write) -> Result<()> {
    // The disk's own errors have a number; the others are about what was read.
    let failed = || {
        |source: io::Error| match source.raw_os_error() {
            Some(_) => Error::io("could not read", archive)(source),
            None => Error::Damaged { path: archive.to_owned(), reason: source.to_string() },
        }
    };
    let sent = || Error::io("could not send", archive);
    let file = File::open(archive).map_err(failed())?;
    let left = Cell::new(HEADERS);
    let mut reader = Archive::new(Metered { reader: zstd::Decoder::new(file).map_err(failed())?, left: &left });
    let mut builder = Builder::new(BufWriter::with_capacity(128 * 1024, to));
    let mut links = BTreeSet::new();
    for (number, entry) in (1..).zip(reader.entries().map_err(failed())?) {
        let mut entry = entry.map_err(failed())?;
        let path = entry.path().map_err(failed())?.into_owned();
        check_path(&path)?;
        if number > MOST_FILES {
            return Err(one_too_many(&path));
        }
        // What an entry stores is read, too, and behind it the next one's header.
        left.set(HEADERS.saturating_add(entry.size()));
        let kind = entry.header().entry_type();
        let is_in_the_way = |file: &&rendered::File| Path::new(&file.path).starts_with(&path) && kind != EntryType::Directory;
        if let Some(file) = rendered.iter().find(is_in_the_way) {
            return Err(Error::Taken { path: file.path.clone(), entry: path.display().to_string() });
        }
        if path.ancestors().any(|above| links.contains(above)) {
            return Err(bad(&path, "leads through a link"));
        }
        let mut header = Header::new_gnu();
        header.set_mode(entry.header().mode().map_err(failed())? & 0o777);
        header.set_mtime(if times == Times::Kept { entry.header().mtime().map_err(failed())? } else { 0 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(kind);
        header.set_size(0);
        match kind {
            EntryType::Directory => builder.append_data(&mut header, &path, io::empty()).map_err(sent())?,
            EntryType::Regular => {
                header.set_size(entry.size());
                builder.append_data(&mut header, &path, entry.by_ref()).map_err(sent())?;
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(failed())?.ok_or_else(|| bad(&path, "is a link to nowhere"))?.into_owned();
                check_link(&path, &target)?;
                builder.append_link(&mut header, &path, target).map_err(sent())?;
                links.insert(path);
            }
            _ => return Err(bad(&path, "is neither file, folder nor link")),
        }
    }
    left.set(HEADERS);
    let mut rest = Vec::new();
    reader.into_inner().read_to_end(&mut rest).map_err(failed())?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Error::Damaged { path: archive.to_owned(), reason: "it goes on behind its end".to_owned() });
    }
    append_rendered(&mut builder, rendered).and_then(|()| builder.into_inner()?.flush()).map_err(sent())
}

/// A plain tar of what was rendered for a machine that has the rest already.
pub fn send_rendered(rendered: &[rendered::File], to: impl Write) -> io::Result<()> {
    let mut builder = Builder::new(to);
    append_rendered(&mut builder, rendered)?;
    builder.into_inner()?.flush()
}

fn append_rendered(builder: &mut Builder<impl Write>, rendered: &[rendered::File]) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for file in rendered {
        let text = file.text.expose_secret().as_bytes();
        let mut header = Header::new_gnu();
        header.set_mode(file.mode);
        // What caches by time must not take it for the one before.
        header.set_mtime(now);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, &file.path, text)?;
    }
    Ok(())
}

fn one_too_many(entry: &Path) -> Error {
    bad(entry, "is one too many: a release has at most a million files and folders")
}

fn bad(entry: &Path, reason: &'static str) -> Error {
    Error::BadEntry { entry: entry.display().to_string(), reason }
}

fn check_path(path: &Path) -> Result<()> {
    for part in path.components() {
        match part {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return Err(bad(path, "has a `..` in its path")),
            Component::RootDir | Component::Prefix(_) => return Err(bad(path, "has an absolute path")),
        }
    }
    Ok(())
}

/// A link leads to another place of the tree, or to the box's programs.
fn check_link(path: &Path, target: &Path) -> Result<()> {
    let out = || bad(path, "is a link that leads out of the release");
    if target.is_absolute() {
        let climbs = target.components().any(|part| part == Component::ParentDir);
        return if target.starts_with(PROGRAMS) && !climbs { Ok(()) } else { Err(out()) };
    }
    let mut at: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
    for part in target.components() {
        match part {
            Component::Normal(part) => at.push(part),
            Component::ParentDir if at.pop() => {}
            Component::CurDir => {}
            _ => return Err(out()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// An archive as a stranger makes it: the crate's own checks of names are gone around.
    fn archive(folder: &Path, entries: &[(&str, EntryType, &str)]) -> PathBuf {
        let path = folder.join("tree.tar.zst");
        let mut builder = Builder::new(zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap());
        for (name, kind, text) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            let is_file = *kind == EntryType::Regular;
            if !is_file {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            header.set_cksum();
            builder.append(&header, if is_file { text.as_bytes() } else { &[] }).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn what_leads_out_is_never_sent() {
        const FILE: EntryType = EntryType::Regular;
        const FOLDER: EntryType = EntryType::Directory;
        const LINK: EntryType = EntryType::Symlink;
        const HARD: EntryType = EntryType::Link;
        type Entries = &'static [(&'static str, EntryType, &'static str)];
        let attacks: [(Entries, &str); 10] = [
            (&[("../evil", FILE, "x")], "has a `..`"),
            (&[("a/../../evil", FILE, "x")], "has a `..`"),
            (&[("/etc/evil", FILE, "x")], "has an absolute path"),
            (&[("a", LINK, "/etc")], "leads out"),
            (&[("a", LINK, "../..")], "leads out"),
            (&[("a", LINK, "/usr/../etc")], "leads out"),
            (&[("d", FOLDER, ""), ("d/a", LINK, "../../x")], "leads out"),
            (&[("a", LINK, "d"), ("a/evil", FILE, "x")], "through a link"),
            (&[("a", HARD, "/etc/shadow")], "neither file"),
            (&[("a", EntryType::Char, "")], "neither file"),
        ];
        for (entries, reason) in attacks {
            let home = tempfile::tempdir().unwrap();
            let error = send(&archive(home.path(), entries), &[], io::sink()).unwrap_err();
            assert!(matches!(error, Error::BadEntry { .. }) && error.to_string().contains(reason), "{entries:?}: {error}");
        }
    }

    #[test]
    fn a_damaged_archive_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = archive(home.path(), &[("a", EntryType::Regular, "text"), ("b", EntryType::Regular, "text")]);
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"this is no archive"] {
            fs::write(&path, damaged).unwrap();
            let error = send(&path, &[], io::sink()).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
        }
    }

    /// Nobody cancels.
    static ON: AtomicBool = AtomicBool::new(false);

    #[test]
    fn a_cancelled_pack_ends_in_the_middle_of_a_file() {
        let home = tempfile::tempdir().unwrap();
        // Without a block on the disk, long to read, and not too large to be packed.
        File::create(home.path().join("sparse")).unwrap().set_len(MOST_BYTES / 2).unwrap();
        let cancel = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let packing = scope.spawn(|| pack(home.path(), io::sink(), &cancel));
            cancel.store(true, Ordering::Relaxed);
            assert_eq!(packing.join().unwrap().unwrap_err().kind(), crate::model::Kind::Cancelled);
        });
    }

    #[test]
    fn a_tree_arrives_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        let odd = std::ffi::OsStr::from_bytes(b"a \xff\n'\"$(x)");
        let long = "n".repeat(200);
        fs::create_dir_all(tree.join("bin").join(&long)).unwrap();
        fs::write(tree.join(odd), "odd").unwrap();
        fs::write(tree.join("bin").join(&long).join("-rf"), "long").unwrap();
        fs::set_permissions(tree.join(odd), PermissionsExt::from_mode(0o4750)).unwrap();
        symlink("/usr/bin/python3", tree.join("bin/python3")).unwrap();
        symlink("bin/python3", tree.join("python")).unwrap();
        let path = home.path().join("a.tar.zst");
        assert_eq!(pack(&tree, File::create(&path).unwrap(), &ON).unwrap(), 4);
        let mut bytes = Vec::new();
        send(&path, &[], &mut bytes).unwrap();
        let new = home.path().join("new");
        Archive::new(&bytes[..]).unpack(&new).unwrap();
        assert_eq!(fs::read_to_string(new.join(odd)).unwrap(), "odd");
        assert_eq!(fs::metadata(new.join(odd)).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_to_string(new.join("bin").join(&long).join("-rf")).unwrap(), "long");
        assert_eq!(fs::read_link(new.join("bin/python3")).unwrap(), Path::new("/usr/bin/python3"));
        // The same tree is the same archive.
        let mut again = Vec::new();
        pack(&tree, &mut again, &ON).unwrap();
        assert_eq!(fs::read(path).unwrap(), again);
    }

    fn file(path: &str) -> rendered::File {
        rendered::File { path: path.into(), mode: 0o640, text: "rendered".into() }
    }

    #[test]
    fn what_was_rendered_comes_behind_and_over_nothing() {
        let home = tempfile::tempdir().unwrap();
        const FILE: EntryType = EntryType::Regular;
        let entries = [("d", EntryType::Directory, ""), ("d/a.j2", FILE, "x"), ("l", EntryType::Symlink, "d"), ("f", FILE, "x")];
        let path = archive(home.path(), &entries);
        let (new, mut bytes) = (home.path().join("new"), Vec::new());
        send(&path, &[file("d/a"), file("e/b")], &mut bytes).unwrap();
        Archive::new(&bytes[..]).unpack(&new).unwrap();
        for path in ["d/a", "e/b"] {
            assert_eq!(fs::read_to_string(new.join(path)).unwrap(), "rendered");
            assert_eq!(fs::metadata(new.join(path)).unwrap().permissions().mode() & 0o777, 0o640);
        }
        assert_eq!(fs::read_to_string(new.join("d/a.j2")).unwrap(), "x");
        for (taken, by) in [("f", "f"), ("f/a", "f"), ("l/a", "l"), ("d/a.j2", "d/a.j2")] {
            let error = send(&path, &[file(taken)], io::sink()).unwrap_err();
            assert_eq!(error.to_string(), format!("`{taken}` can't be rendered: the release has `{by}`"));
        }
        let mut bytes = Vec::new();
        send_rendered(&[file("d/a")], &mut bytes).unwrap();
        let names: Vec<_> =
            Archive::new(&bytes[..]).entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("d/a")]);
    }

    #[test]
    fn what_a_release_can_not_hold_is_not_packed() {
        let home = tempfile::tempdir().unwrap();
        symlink("/srv/shared/uploads", home.path().join("uploads")).unwrap();
        let error = pack(home.path(), io::sink(), &ON).unwrap_err();
        assert!(error.to_string().contains("`uploads`: it is a link that leads out"), "{error}");
        fs::remove_file(home.path().join("uploads")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(home.path().join("socket")).unwrap();
        assert!(pack(home.path(), io::sink(), &ON).unwrap_err().to_string().contains("neither"));
        fs::remove_file(home.path().join("socket")).unwrap();
        File::create(home.path().join("holes")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(pack(home.path(), io::sink(), &ON).unwrap_err().to_string().contains("larger than 64G"));
    }
}
