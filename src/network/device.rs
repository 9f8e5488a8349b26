//! A device of the kernel, by its name: its folder below `/sys`, its alias, and `ip` for what has none.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{Error, Result};
use crate::exec::Command;

pub(super) fn class(device: &str) -> PathBuf {
    Path::new("/sys/class/net").join(device)
}

pub(super) fn exists(device: &str) -> bool {
    class(device).exists()
}

/// The owner's note; `None` when there is no such device (any more).
pub(super) fn alias(device: &str) -> Result<Option<String>> {
    Ok(read(&class(device).join("ifalias"))?.map(|note| note.trim_end_matches('\n').to_owned()))
}

pub(super) fn read(path: &Path) -> Result<Option<String>> {
    const ENODEV: i32 = 19;
    const EINVAL: i32 = 22;
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // The kernel answers one of these to a reader who opened the file of a device that is going.
        Err(error) if matches!(error.raw_os_error(), Some(ENODEV | EINVAL)) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: format!("could not read `{}`", path.display()), source }),
    }
}

pub(super) fn set(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).map_err(|source| Error::Io { what: format!("could not write `{}`", path.display()), source })
}

pub(super) fn ip(lines: String, args: &[&str], what: &str) -> Result<()> {
    let command = Command::new("ip").args(args.iter().copied()).stdin(lines).tied();
    command.run().map(drop).map_err(|source| Error::Kernel { what: what.to_owned(), source })
}

/// What `ip -json` printed. Where there is nothing to tell, older versions print nothing.
pub(super) fn entries<T: DeserializeOwned>(json: &[u8]) -> Result<Vec<T>> {
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(json)
        .map_err(|source| Error::Io { what: "could not read what `ip` printed".into(), source: source.into() })
}
