//! A layer's folder as the one stream that stands for it; what the stream is like is told in [`super`].

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::attributes::{self, Attribute, Attributes};
use super::{LONGEST_RECORDS, OPAQUE, PAX_ATTRIBUTE, PAX_LINK, PAX_PATH, WHITEOUT};
use crate::boxes::archive::{DEPTH, ENTRIES};
use crate::boxes::layer::Content;
use crate::boxes::shift::inside;
use crate::boxes::{Error, Layer, Result};
use crate::disk::marks::Marks;
use crate::model::Digest;

/// What fits into a header without a record.
const SHORT: usize = 100;

/// Writes the files of a layer and tells what they are.
pub(super) fn stream(layer: &Layer, rootfs: &Path, marks: Marks, to: impl Write) -> Result<Content> {
    let measured = Measured { to, hash: Sha256::new(), bytes: 0 };
    let mut walk = Walk {
        layer,
        rootfs,
        marks,
        tar: Builder::new(io::BufWriter::with_capacity(1 << 17, measured)),
        first: HashMap::new(),
        entries: 0,
    };
    for entry in walkdir::WalkDir::new(rootfs).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(rootfs).to_owned();
            Error::Io { what: "could not read", path, source: error.into() }
        })?;
        let inside = entry.path().strip_prefix(rootfs).expect("walkdir stays below its root");
        if entry.depth() > DEPTH {
            return Err(walk.cant(inside, format!("lies more than {DEPTH} folders deep")));
        }
        walk.entry(entry.path(), inside)?;
    }
    let entries = walk.entries;
    let written = walk.tar.into_inner().and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
    let Measured { hash, bytes, .. } = written.map_err(Error::io("could not pack", rootfs))?;
    Ok(Content { sha256: Digest::from_bytes(&hash.finalize()), bytes, entries })
}

/// Counts and hashes what passes.
struct Measured<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

struct Walk<'a, W: Write> {
    layer: &'a Layer,
    rootfs: &'a Path,
    marks: Marks,
    tar: Builder<W>,
    /// The first name of each file that has several.
    first: HashMap<u64, PathBuf>,
    entries: u64,
}

impl<W: Write> Walk<'_, W> {
    fn entry(&mut self, path: &Path, inside: &Path) -> Result<()> {
        let meta = std::fs::symlink_metadata(path).map_err(Error::io("could not read", path))?;
        let kind = meta.file_type();
        if inside.file_name().is_some_and(attributes::is_marker) {
            return Err(self.cant(inside, "has a name that means a removed file to all who read layers"));
        }
        if kind.is_char_device() && meta.rdev() == 0 {
            return self.whiteout(inside);
        }
        if kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
            // Nothing can be below a base.
            return if self.layer.parent.is_some() { self.whiteout(inside) } else { Ok(()) };
        }
        let Attributes { all, opaque } = match kind.is_symlink() {
            true => Attributes::default(),
            false => attributes::read(path, self.marks)
                .map_err(Error::io("could not read the attributes of", path))?
                .map_err(|reason| self.cant(inside, reason))?,
        };
        let mut header = header(&meta);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.append(header, inside, None, &all, io::empty())?;
            return if opaque { self.marker(inside.join(std::ffi::OsStr::from_bytes(OPAQUE))) } else { Ok(()) };
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(Error::io("could not read", path))?;
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            return self.append(header, inside, Some(&target), &all, io::empty());
        }
        if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            return self.append(header, inside, None, &all, io::empty());
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.first.get(&meta.ino()).cloned() {
                header.set_entry_type(EntryType::Link);
                return self.append(header, inside, Some(&first), &[], io::empty());
            }
            self.first.insert(meta.ino(), inside.to_owned());
        }
        header.set_size(meta.len());
        let file = File::open(path).map_err(Error::io("could not read", path))?;
        self.append(header, inside, None, &all, file)
    }

    fn whiteout(&mut self, inside: &Path) -> Result<()> {
        let name = inside.file_name().unwrap_or_default().as_bytes();
        let name = [WHITEOUT, name].concat();
        self.marker(inside.with_file_name(std::ffi::OsStr::from_bytes(&name)))
    }

    /// Whose it is and when it was made is nobody's business.
    fn marker(&mut self, inside: PathBuf) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        self.append(header, &inside, None, &[], io::empty())
    }

    fn append(
        &mut self,
        mut header: Header,
        inside: &Path,
        link: Option<&Path>,
        attributes: &[Attribute],
        data: impl io::Read,
    ) -> Result<()> {
        self.entries += 1;
        if self.entries > u64::from(ENTRIES) {
            return Err(self.cant(inside, format!("is one too many: a layer has at most {ENTRIES} files")));
        }
        let name = match header.entry_type() {
            EntryType::Directory if inside.as_os_str().is_empty() => b"./".to_vec(),
            EntryType::Directory => [inside.as_os_str().as_bytes(), b"/"].concat(),
            _ => inside.as_os_str().as_bytes().to_vec(),
        };
        let link = link.map(|link| link.as_os_str().as_bytes()).unwrap_or_default();
        let long = [(PAX_PATH, name.as_slice()), (PAX_LINK, link)].into_iter().filter(|(_, value)| value.len() > SHORT);
        let mut records: Vec<_> = long.map(|(key, value)| (key.to_owned(), value)).collect();
        records.extend(attributes.iter().map(|(name, value)| (format!("{PAX_ATTRIBUTE}{name}"), value.as_slice())));
        if records.iter().map(|(key, value)| key.len() + value.len() + 20).sum::<usize>() as u64 > LONGEST_RECORDS {
            return Err(self.cant(inside, format!("has more than {} KB of attributes", LONGEST_RECORDS >> 10)));
        }
        let failed = || Error::io("could not pack", self.rootfs.join(inside));
        self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), *value))).map_err(failed())?;
        let old = header.as_old_mut();
        for (field, value) in [(&mut old.name, name.as_slice()), (&mut old.linkname, link)] {
            let length = value.len().min(SHORT);
            field[..length].copy_from_slice(&value[..length]);
        }
        header.set_cksum();
        self.tar.append(&header, data).map_err(failed())
    }

    fn cant(&self, inside: &Path, reason: impl Into<String>) -> Error {
        let (name, entry) = (self.layer.name.clone(), inside.display().to_string());
        Error::CantTravel { name, entry, reason: reason.into() }
    }
}

fn header(meta: &Metadata) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(inside(meta.uid()).into());
    header.set_gid(inside(meta.gid()).into());
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    header.set_entry_type(EntryType::Regular);
    header
}
