//! Authorities that a machine's programs trust: added to the bundle that its box has, in the machine's own files.
//!
//! `update-ca-certificates` would do the same in two seconds and a thousand links; here it is one file, because OpenSSL, GnuTLS
//! and what is built on them read the bundle alone. The authority is put where that program looks too, so that running it
//! inside keeps it. A box without a bundle trusts nobody, and stays so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, mkdirat, open, openat2, renameat, unlinkat};
use rustix::io::Errno;

use super::ids::Range;
use super::upper::BENEATH;

const BUNDLE: (&str, &str) = ("etc/ssl/certs", "ca-certificates.crt");
const SOURCES: &str = "usr/local/share/ca-certificates";
/// More than this is no bundle.
const LIMIT: u64 = 16 << 20;

/// Makes a machine trust these, by name and PEM. `root` is its own files, or all it sees while it runs; `layers` lie below
/// them, the uppermost first; `range` is whose files these are.
pub fn write(root: &Path, layers: &[PathBuf], trusted: &BTreeMap<String, String>, range: Range) -> io::Result<()> {
    if trusted.is_empty() {
        return Ok(());
    }
    let root = folder_at(root)?;
    let layers = layers.iter().map(|layer| folder_at(layer)).collect::<io::Result<Vec<_>>>()?;
    let path = format!("{}/{}", BUNDLE.0, BUNDLE.1);
    let Some(before) = std::iter::once(&root).chain(&layers).find_map(|root| look(root, &path)) else { return Ok(()) };
    // What is no plain file was put there on purpose.
    let Ok(before) = before else { return Ok(()) };
    let mut bundle = before.clone();
    for pem in trusted.values().filter(|pem| !before.contains(pem.trim())) {
        if !bundle.is_empty() && !bundle.ends_with('\n') {
            bundle.push('\n');
        }
        bundle.push_str(pem);
    }
    if bundle == before {
        return Ok(());
    }
    let right = Right { user: range.root(), group: range.root(), mode: 0o644 };
    // The bundle last: where it is whole, the rest is there too.
    if let Some(folder) = make(&root, &layers, SOURCES, range)? {
        for (name, pem) in trusted {
            replace(&folder, &format!("adt-{name}.crt"), pem, &right)?;
        }
    }
    match make(&root, &layers, BUNDLE.0, range)? {
        Some(folder) => replace(&folder, BUNDLE.1, &bundle, &right),
        None => Ok(()),
    }
}

pub(super) fn folder_at(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// `None` where this layer says nothing of the file.
pub(super) fn look(root: &OwnedFd, path: &str) -> Option<Result<String, Errno>> {
    // Not blocking: it may be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let text = || -> Result<String, Errno> {
        let file = openat2(root, path, flags, Mode::empty(), BENEATH)?;
        // A deleted file is a device in an overlay's layer.
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let mut text = String::new();
        let read = File::from(file).take(LIMIT).read_to_string(&mut text);
        read.map(|_| text).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    };
    match text() {
        Err(Errno::NOENT) => None,
        other => Some(other),
    }
}

/// A folder of the machine's own with the owner and mode that it has below. `None` where it is something else.
pub(super) fn make(root: &OwnedFd, layers: &[OwnedFd], path: &str, range: Range) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut made = None;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for part in ends.map(|end| &path[..end]) {
        made = match openat2(root, part, flags, Mode::empty(), BENEATH) {
            Ok(folder) => Some(folder),
            Err(Errno::NOENT) => {
                let below = layers.iter().map(|layer| openat2(layer, part, flags, Mode::empty(), BENEATH));
                let (mode, user, group) = match below.into_iter().find(|found| !matches!(found, Err(Errno::NOENT))) {
                    Some(Ok(folder)) => fstat(&folder).map(|stat| (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid))?,
                    // A link there would be hidden by a folder here.
                    Some(Err(_)) => return Ok(None),
                    None => (0o755, range.root(), range.root()),
                };
                let (parent, name) = part.rsplit_once('/').unwrap_or((".", part));
                let parent = openat2(root, parent, flags, Mode::empty(), BENEATH)?;
                mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
                let folder = openat2(&parent, name, flags, Mode::empty(), BENEATH)?;
                fchown(&folder, Some(user), Some(group))?;
                fchmod(&folder, Mode::from_raw_mode(mode))?;
                Some(folder)
            }
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(made)
}

/// Whose a new file is, and who else may use it.
pub(super) struct Right {
    pub user: u32,
    pub group: u32,
    pub mode: u32,
}

/// Whole or as it was, also for a program that reads it now.
pub(super) fn replace(folder: &OwnedFd, name: &str, text: &str, right: &Right) -> io::Result<()> {
    let draft = format!(".{name}.adt");
    match unlinkat(folder, draft.as_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat2(folder, draft.as_str(), flags, Mode::from_raw_mode(0o600), BENEATH)?);
    fchown(&file, Some(right.user), Some(right.group))?;
    fchmod(&file, Mode::from_raw_mode(right.mode))?;
    file.write_all(text.as_bytes())?;
    // The next start would take half a bundle for the machine's own.
    file.sync_all()?;
    match renameat(folder, draft.as_str(), folder, name) {
        // Somebody made a folder of that name.
        Err(Errno::ISDIR) => Ok(unlinkat(folder, draft.as_str(), AtFlags::empty())?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n";

    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        /// One layer with a bundle of one certificate.
        fn new() -> Self {
            let machine = Self { folder: tempfile::tempdir().unwrap() };
            fs::create_dir(machine.upper("")).unwrap();
            fs::create_dir_all(machine.layer("etc/ssl/certs")).unwrap();
            fs::create_dir_all(machine.layer("usr/local/share")).unwrap();
            fs::set_permissions(machine.layer("usr/local/share"), fs::Permissions::from_mode(0o2775)).unwrap();
            fs::write(machine.layer("etc/ssl/certs/ca-certificates.crt"), "theirs").unwrap();
            machine
        }

        fn upper(&self, path: &str) -> PathBuf {
            self.folder.path().join("upper").join(path)
        }

        fn layer(&self, path: &str) -> PathBuf {
            self.folder.path().join("layer").join(path)
        }

        fn write(&self) {
            let trusted = [("example.test".to_owned(), PEM.to_owned())].into();
            write(&self.upper(""), &[self.layer("")], &trusted, Range::DISK).unwrap();
        }

        fn bundle(&self) -> Option<String> {
            fs::read_to_string(self.upper("etc/ssl/certs/ca-certificates.crt")).ok()
        }
    }

    #[test]
    fn the_bundle_of_the_box_gets_one_more_and_the_box_stays() {
        let machine = Machine::new();
        machine.write();
        assert_eq!(machine.bundle().unwrap(), format!("theirs\n{PEM}"));
        assert_eq!(fs::read_to_string(machine.layer("etc/ssl/certs/ca-certificates.crt")).unwrap(), "theirs");
        let source = machine.upper("usr/local/share/ca-certificates/adt-example.test.crt");
        assert_eq!(fs::read_to_string(source).unwrap(), PEM);
        assert_eq!(fs::metadata(machine.upper("usr/local/share")).unwrap().mode() & 0o7777, 0o2775, "as the box has it");
        // Twice is fine; what the machine itself made of it counts.
        machine.write();
        assert_eq!(machine.bundle().unwrap(), format!("theirs\n{PEM}"));
        fs::write(machine.upper("etc/ssl/certs/ca-certificates.crt"), "its own\n").unwrap();
        machine.write();
        assert_eq!(machine.bundle().unwrap(), format!("its own\n{PEM}"));
    }

    #[test]
    fn where_there_is_no_bundle_or_a_link_nothing_is_written() {
        let machine = Machine::new();
        fs::remove_file(machine.layer("etc/ssl/certs/ca-certificates.crt")).unwrap();
        machine.write();
        assert_eq!(fs::read_dir(machine.upper("")).unwrap().count(), 0);

        let machine = Machine::new();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir(machine.upper("etc")).unwrap();
        symlink(elsewhere.path(), machine.upper("etc/ssl")).unwrap();
        machine.write();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "a link of the machine leads nowhere");
    }
}
