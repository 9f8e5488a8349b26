//! Files that the provider itself puts into a machine's own layer before it starts.
//!
//! The machine's root may have put anything there, a link to the host's `/etc` included: every path is resolved beneath the
//! upper folder and without following any link.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, open, openat2, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::model::MachineSpec;

use super::config::FIRST_ID;
use super::folder::hex;

pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Gives the machine its name and identity. The identity is the same again when the machine is made again, so that logs and
/// leases stay its own, and its presence keeps systemd from treating the start as a first boot.
pub fn write_identity(upper: &Path, install: &str, spec: &MachineSpec) -> io::Result<()> {
    let root = open(upper, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let etc = match folder(&root, "etc") {
        Ok(etc) => etc,
        // A machine that turned its own /etc into something else has to live with it.
        Err(Errno::LOOP | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    file(&etc, "hostname", &format!("{}\n", spec.hostname))?;
    file(&etc, "machine-id", &format!("{}\n", machine_id(install, spec)))
}

fn machine_id(install: &str, spec: &MachineSpec) -> String {
    hex(&Sha256::digest(format!("{install}/{}", spec.id))[..16])
}

fn folder(root: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    match openat2(root, name, flags, Mode::empty(), BENEATH) {
        Err(Errno::NOENT) => {
            mkdirat(root, name, Mode::from_raw_mode(0o755))?;
            let made = openat2(root, name, flags, Mode::empty(), BENEATH)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
            fchown(&made, Some(FIRST_ID), Some(FIRST_ID)).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            Ok(made)
        }
        other => other,
    }
}

fn file(folder: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    if read(folder, name).is_some_and(|old| old == text) {
        return Ok(());
    }
    // Whatever has the name (a link, a whiteout) goes; the file is always a new one.
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::ISDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat2(folder.as_fd(), name, flags, Mode::from_raw_mode(0o644), BENEATH)?);
    fchown(&file, Some(FIRST_ID), Some(FIRST_ID))?;
    file.write_all(text.as_bytes())
}

fn read(folder: &OwnedFd, name: &str) -> Option<String> {
    // Not blocking: it may be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat2(folder, name, flags, Mode::empty(), BENEATH).ok()?);
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::lxc::config::tests::spec;

    #[test]
    fn a_link_in_the_machines_layer_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let host = tempfile::tempdir().unwrap();
        std::fs::write(host.path().join("hostname"), "host").unwrap();
        std::os::unix::fs::symlink(host.path(), folder.path().join("etc")).unwrap();
        write_identity(folder.path(), "test", &spec()).unwrap();
        assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(host.path().join("hostname")).unwrap(), "host");
    }

    #[test]
    fn the_identity_belongs_to_installation_and_machine() {
        let id = machine_id("a", &spec());
        assert_eq!(id.len(), 32);
        assert_eq!(id, machine_id("a", &spec()));
        assert_ne!(id, machine_id("b", &spec()));
    }
}
