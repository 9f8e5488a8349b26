//! The attributes of a file that travel with it, with ids as a machine sees them: capabilities, access lists and `user.*`.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{XattrFlags, fsetxattr};

use crate::boxes::shift::{CAPABILITY, LISTS, inside, inside_capability, list_with, namespaced, shifted};
use crate::disk::marks::Marks;

const USER: &str = "user.";

/// Notes of an overlay about its own files, which mean nothing elsewhere.
const NOTES: [&str; 6] = ["origin", "impure", "nlink", "upper", "uuid", "protattr"];

/// An attribute that travels: its name and value.
pub(super) type Attribute = (String, Vec<u8>);

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Those that travel, by name.
    pub all: Vec<Attribute>,
    /// The folder hides what is below it.
    pub opaque: bool,
}

/// Those of a file or folder, links are not asked; `Err` inside tells why the file can't be packed.
pub(super) fn read(path: &Path, marks: Marks) -> io::Result<std::result::Result<Attributes, String>> {
    let mut found = Attributes::default();
    let names = match xattr::list(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => return Ok(Ok(found)),
        other => other?,
    };
    for name in names {
        let Some(value) = xattr::get(path, &name)? else { continue };
        let Some(name) = name.to_str() else {
            return Ok(Err(format!("has an attribute `{}` that is no text", name.display())));
        };
        if let Some(mark) = name.strip_prefix(marks.prefix()) {
            match mark {
                "opaque" => found.opaque |= value == b"y",
                note if NOTES.contains(&note) => {}
                _ => return Ok(Err(format!("has the mark `{name}`, which only the host that made it understands"))),
            }
            continue;
        }
        if !travels(name) {
            continue;
        }
        // A record ends the name there.
        if name.contains('=') {
            return Ok(Err(format!("has an attribute `{name}`, whose name holds a `=`")));
        }
        let value = if name == CAPABILITY {
            inside_capability(&value)
        } else if LISTS.contains(&name) {
            list_with(&value, inside)
        } else {
            Some(value)
        };
        found.all.extend(value.map(|value| (name.to_owned(), value)));
    }
    found.all.sort();
    Ok(Ok(found))
}

/// Marks of either kind of host stay behind: on the other kind they would be marks where they were none.
pub(super) fn travels(name: &str) -> bool {
    let is_mark = [Marks::Trusted, Marks::User].iter().any(|marks| name.starts_with(marks.prefix()));
    name == CAPABILITY || LISTS.contains(&name) || (name.starts_with(USER) && !is_mark)
}

/// Gives a file an attribute that came with it.
pub(super) fn write(file: impl AsFd, (name, value): &Attribute) -> io::Result<()> {
    let value = if name == CAPABILITY {
        namespaced(value)
    } else if LISTS.contains(&name.as_str()) {
        list_with(value, shifted)
    } else {
        Some(value.clone())
    };
    let value = value.ok_or_else(|| io::Error::other(format!("its attribute `{name}` is damaged")))?;
    Ok(fsetxattr(file, name.as_str(), &value, XattrFlags::empty())?)
}

/// Makes a folder hide what is below it.
pub(super) fn hide_below(folder: impl AsFd, marks: Marks) -> io::Result<()> {
    Ok(fsetxattr(folder, marks.opaque(), b"y", XattrFlags::empty())?)
}

/// Whether a name is one that only a marker may have.
pub(super) fn is_marker(name: &std::ffi::OsStr) -> bool {
    name.as_bytes().starts_with(super::WHITEOUT)
}
