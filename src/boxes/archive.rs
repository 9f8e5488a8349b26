//! Unpacking what a stranger packed: nothing lands outside of the folder, no device nodes, nothing is followed.

use std::collections::HashSet;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Stdio};

use tar::EntryType;

use super::layer::remove_tree;
use super::{Error, Result};
use crate::exec::{self, Command, Status};

/// The kinds of compression that are told apart by their first bytes.
const PROGRAMS: [(&[u8], &str); 3] =
    [(&[0x1f, 0x8b], "gzip"), (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd")];

/// Markers of an OCI layer for what it takes away from the ones below.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

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

/// Unpacks a tar archive, compressed or not, into a folder that exists.
pub fn unpack(archive: &Path, target: &Path, mode: Mode) -> Result<()> {
    let mut source = Source::open(archive)?;
    unpack_from(&mut source.reader, archive, target, mode)?;
    source.finish(archive)
}

/// A file as it was before it was packed, whatever packed it.
pub(super) struct Source {
    pub reader: Box<dyn Read + Send>,
    child: Option<(Command, Child)>,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let failed = || Error::io("could not read", path);
        let mut start = Vec::new();
        let file = std::fs::File::open(path).map_err(failed())?;
        file.take(8).read_to_end(&mut start).map_err(failed())?;
        let file = std::fs::File::open(path).map_err(failed())?;
        let Some((_, program)) = PROGRAMS.iter().find(|(magic, _)| start.starts_with(magic)) else {
            return Ok(Self { reader: Box::new(BufReader::new(file)), child: None });
        };
        let command = Command::new(*program).args(["-d", "-c", "-q"]);
        let child = command.to_std().stdin(file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => exec::Error::Missing { program: (*program).to_owned() },
            _ => exec::Error::Start { command: command.to_string(), source },
        })?;
        let reader = Box::new(BufReader::new(child.stdout.take().expect("stdout was piped")));
        Ok(Self { reader, child: Some((command, child)) })
    }

    /// A cut-off archive shows only in the exit code of the program that unpacked it.
    pub fn finish(mut self, archive: &Path) -> Result<()> {
        // What follows the archive's end mark must be read, or the program dies of a closed pipe.
        std::io::copy(&mut self.reader, &mut std::io::sink()).map_err(Error::io("could not read", archive))?;
        let Some((command, mut child)) = self.child.take() else { return Ok(()) };
        let status = child.wait().map_err(Error::io("could not read", archive))?;
        if status.success() {
            return Ok(());
        }
        let tail = vec![format!("{} is damaged or cut off", archive.display())];
        Err(exec::Error::Failed { command: command.to_string(), status: Status(status), tail }.into())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some((_, child)) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn unpack_from(reader: &mut dyn Read, archive: &Path, target: &Path, mode: Mode) -> Result<()> {
    let failed = || Error::io("could not unpack", archive);
    let mut tar = tar::Archive::new(reader);
    tar.set_preserve_permissions(mode != Mode::Plain);
    tar.set_preserve_ownerships(mode != Mode::Plain);
    tar.set_unpack_xattrs(mode != Mode::Plain);
    let mut added = HashSet::new();
    for entry in tar.entries().map_err(failed())? {
        let mut entry = entry.map_err(failed())?;
        let name = entry.path().map_err(failed())?.into_owned();
        let path = clean(archive, &name)?;
        if path.as_os_str().is_empty() || is_identity(&path) {
            continue;
        }
        match entry.header().entry_type() {
            // systemd brings its own devices; the ones in archives would be the host's.
            EntryType::Char | EntryType::Block | EntryType::Fifo => continue,
            EntryType::Link => {
                let link = entry.link_name().map_err(failed())?.unwrap_or_default();
                clean(archive, &link)?;
            }
            _ => {}
        }
        if mode == Mode::Layer && whiteout(target, &path, &added)? {
            continue;
        }
        make_room(target, &path, entry.header().entry_type())?;
        entry.unpack_in(target).map_err(|error| bad(archive, &name, error.to_string()))?;
        added.extend(path.ancestors().map(Path::to_owned));
    }
    Ok(())
}

fn bad(archive: &Path, entry: &Path, reason: impl Into<String>) -> Error {
    Error::BadArchive { archive: archive.to_owned(), entry: entry.display().to_string(), reason: reason.into() }
}

/// The entry's path below the root. `./` in front is how `tar .` writes it.
fn clean(archive: &Path, name: &Path) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(bad(archive, name, "has a `..` in its path")),
            Component::RootDir | Component::Prefix(_) => return Err(bad(archive, name, "has an absolute path")),
        }
    }
    Ok(path)
}

/// Takes away what a marker stands for; whether the entry was one.
fn whiteout(root: &Path, path: &Path, added: &HashSet<PathBuf>) -> Result<bool> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(false) };
    let parent = path.parent().unwrap_or(Path::new(""));
    let Some(folder) = folder_inside(root, parent) else { return Ok(true) };
    if name != OPAQUE {
        remove_tree(&folder.join(hidden))?;
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

/// A folder below the root; nothing where a link leads outside or nothing is there.
fn folder_inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let folder = root.join(path).canonicalize().ok()?;
    (folder.starts_with(&root) && folder.is_dir()).then_some(folder)
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

    fn try_unpack(entries: &[(&str, &str)], mode: Mode) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let (archive, root) = (folder.path().join("a.tar"), folder.path().join("root"));
        std::fs::create_dir(&root).unwrap();
        pack(&archive, entries);
        let result = unpack(&archive, &root, mode);
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
            unpack(&file, &root, Mode::Rootfs).unwrap();
            assert!(root.join("file").exists());
            std::fs::write(&file, &packed[..packed.len() - 9]).unwrap();
            assert!(unpack(&file, &root, Mode::Rootfs).is_err(), "{program}");
        }
    }
}
