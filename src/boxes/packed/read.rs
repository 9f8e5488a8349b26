//! The stream of a layer as files in a folder of its own. Whoever wrote the stream may be a stranger.
//!
//! No name is ever looked up in what was unpacked: each entry is made in a folder that is open because its own entry came just
//! before, by a name without a `/`. The names of links' files, the only others, lead over no symlink. So there is nothing to
//! follow, and nothing outside that a name could mean.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown, futimens,
    linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, utimensat,
};
use tar::{Archive, Entry, EntryType, Header};

use super::attributes::{self, Attribute};
use super::{LONGEST_RECORDS, OPAQUE, PAX_ATTRIBUTE, PAX_LINK, PAX_PATH, WHITEOUT};
use crate::boxes::archive::{DEPTH, Room, clean};
use crate::boxes::layer::Content;
use crate::boxes::shift::{BASE, COUNT};
use crate::boxes::{Error, Result};
use crate::disk::marks::Marks;
use crate::disk::tree::FOLDER;

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
/// Nobody but root until it has its owner and mode.
const PRIVATE: Mode = Mode::RWXU;
/// A piece of a file that is nothing but zeros becomes a hole.
const PIECE: usize = 1 << 16;

/// Unpacks into `rootfs`, which is empty and nobody else's. `name` is the file that the stream is from.
pub(super) fn stream(from: &mut super::Stream<'_>, rootfs: &Path, content: &Content, marks: Marks, room: Room<'_>) -> Result<()> {
    let name = from.name.to_owned();
    let root = openat(CWD, rootfs, FOLDER, Mode::empty()).map_err(|errno| Error::io("could not open", rootfs)(errno.into()))?;
    let mut tree = Tree { archive: &name, rootfs, root, open: Vec::new(), last: None, left: content.entries, marks, room };
    let mut tar = Archive::new(from);
    let mut records = None;
    for entry in tar.entries().map_err(|error| tree.unreadable(&error))?.raw(true) {
        let mut entry = entry.map_err(|error| tree.unreadable(&error))?;
        match (entry.header().entry_type(), records.take()) {
            (EntryType::XHeader, None) => records = Some(tree.records(&mut entry)?),
            (EntryType::XHeader, Some(_)) => return Err(tree.bad_next("has records twice")),
            (_, known) => tree.entry(&mut entry, known.unwrap_or_default())?,
        }
    }
    if records.is_some() || tree.last.is_none() {
        return Err(tree.bad_next("is missing"));
    }
    tree.close_to(None)
}

/// The disk's own errors have a number; the others are about what was read.
pub(super) fn unreadable(archive: &Path, after: &Path, error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(number) => Error::io("could not read", archive)(io::Error::from_raw_os_error(number)),
        None => Error::bad_archive(archive, after.display(), format!("is the last that can be read: {error}")),
    }
}

/// What the records before an entry tell of it.
#[derive(Debug, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    attributes: Vec<Attribute>,
}

/// A folder that entries go into; it gets its owner, mode, attributes and time when all are in it, because each of these may
/// mean something for what is new in it.
struct Open {
    path: PathBuf,
    folder: OwnedFd,
    header: Header,
    attributes: Vec<Attribute>,
}

struct Tree<'a> {
    archive: &'a Path,
    rootfs: &'a Path,
    root: OwnedFd,
    /// From the root down to where the last entry was made.
    open: Vec<Open>,
    /// The last entry, by the name that it is about: a marker is about what it takes away.
    last: Option<PathBuf>,
    /// Entries that may still come.
    left: u64,
    marks: Marks,
    room: Room<'a>,
}

impl Tree<'_> {
    fn records(&self, entry: &mut Entry<'_, impl Read>) -> Result<Records> {
        if entry.size() > LONGEST_RECORDS {
            return Err(self.bad_next(format!("has more than {} KB of attributes", LONGEST_RECORDS >> 10)));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(|error| self.unreadable(&error))?;
        let mut records = Records::default();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let (key, value);
            (key, value, rest) = record(rest).ok_or_else(|| self.bad_next("has damaged records"))?;
            match key.strip_prefix(PAX_ATTRIBUTE) {
                Some(name) if attributes::travels(name) => records.attributes.push((name.to_owned(), value.to_vec())),
                None if key == PAX_PATH => records.path = Some(value.to_vec()),
                None if key == PAX_LINK => records.link = Some(value.to_vec()),
                _ => return Err(self.bad_next(format!("has a record `{key}`, which no layer has"))),
            }
        }
        Ok(records)
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, records: Records) -> Result<()> {
        let header = entry.header().clone();
        let name = records.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = records.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let name = Path::new(OsStr::from_bytes(&name));
        let path = clean(self.archive, name)?;
        self.left = self.left.checked_sub(1).ok_or_else(|| self.bad(&path, "is one more than the head tells of"))?;
        if path.components().count() > DEPTH {
            return Err(self.bad(&path, format!("lies more than {DEPTH} folders deep")));
        }
        let kind = header.entry_type();
        if kind != EntryType::Regular && entry.size() > 0 {
            return Err(self.bad(&path, "holds bytes without being a file"));
        }
        self.room.take(self.archive, self.rootfs, &path, entry.size(), 1)?;
        let marker = path.file_name().and_then(|name| name.as_bytes().strip_prefix(WHITEOUT)).map(<[u8]>::to_vec);
        if kind == EntryType::Regular && path.file_name().is_some_and(|name| name.as_bytes() == OPAQUE) {
            return self.opaque(&path);
        }
        let about = match &marker {
            None => path.clone(),
            Some(hidden) if matches!(hidden.as_slice(), b"" | b"." | b"..") => {
                return Err(self.bad(&path, "takes away no file of its folder"));
            }
            Some(hidden) => path.with_file_name(OsStr::from_bytes(hidden)),
        };
        self.in_order(&path, &about)?;
        let Some(name) = about.file_name().map(OsStr::to_owned) else {
            return self.begin(&path, kind, header, records.attributes);
        };
        let made = match kind {
            EntryType::Regular if marker.is_some() => self.whiteout(&name),
            _ if marker.is_some() => return Err(self.bad(&path, "is a marker, but no empty file")),
            EntryType::Directory => return self.folder(&path, &name, header, records.attributes),
            EntryType::Regular => self.file(&name, entry, &header, &records.attributes),
            EntryType::Symlink | EntryType::Link if !records.attributes.is_empty() => {
                return Err(self.bad(&path, "is a link with attributes"));
            }
            EntryType::Symlink => {
                let target = link.ok_or_else(|| self.bad(&path, "is a link to nowhere"))?;
                self.symlink(&name, &target, &header)
            }
            EntryType::Link => {
                let target = link.ok_or_else(|| self.bad(&path, "is a link to nowhere"))?;
                return self.link(&path, &name, Path::new(OsStr::from_bytes(&target)));
            }
            EntryType::Fifo => self.fifo(&name, &header, &records.attributes),
            _ => return Err(self.bad(&path, "is neither file, folder nor link")),
        };
        made.map_err(|error| self.failed(&path, &error))
    }

    /// Each name once, after its folder; then the folder that it belongs to is the last of the open ones.
    fn in_order(&mut self, path: &Path, about: &Path) -> Result<()> {
        match &self.last {
            None if !about.as_os_str().is_empty() => return Err(self.bad(path, "comes before the entry `./`")),
            Some(last) if last.as_path() >= about => return Err(self.bad(path, "is there twice, or not in order")),
            _ => {}
        }
        self.close_to(about.parent())?;
        if self.open.last().map(|open| open.path.as_path()) != about.parent() {
            return Err(self.bad(path, "lies in a folder that has no entry before it"));
        }
        self.last = Some(about.to_owned());
        Ok(())
    }

    fn here(&self) -> &OwnedFd {
        &self.open.last().expect("every entry but the first lies in a folder that is open").folder
    }

    /// The folder that everything is in.
    fn begin(&mut self, path: &Path, kind: EntryType, header: Header, attributes: Vec<Attribute>) -> Result<()> {
        if kind != EntryType::Directory {
            return Err(self.bad(path, "is no folder"));
        }
        let folder = self.root.try_clone().map_err(Error::io("could not open", self.rootfs))?;
        self.open.push(Open { path: PathBuf::new(), folder, header, attributes });
        Ok(())
    }

    fn folder(&mut self, path: &Path, name: &OsStr, header: Header, attributes: Vec<Attribute>) -> Result<()> {
        let made = mkdirat(self.here(), name, PRIVATE).and_then(|()| openat(self.here(), name, FOLDER, Mode::empty()));
        let folder = made.map_err(|errno| self.failed(path, &errno.into()))?;
        self.open.push(Open { path: path.to_owned(), folder, header, attributes });
        Ok(())
    }

    /// Right behind the entry of the folder that it is about.
    fn opaque(&mut self, path: &Path) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let is_next = self.last.as_deref() == Some(folder) && self.open.last().is_some_and(|open| open.path == folder);
        if !is_next {
            return Err(self.bad(path, "does not follow its folder"));
        }
        attributes::hide_below(self.here(), self.marks).map_err(|error| self.failed(path, &error))
    }

    /// Overlays of all hosts know it as this.
    fn whiteout(&self, name: &OsStr) -> io::Result<()> {
        Ok(mknodat(self.here(), name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
    }

    fn file(&self, name: &OsStr, from: &mut impl Read, header: &Header, attributes: &[Attribute]) -> io::Result<()> {
        let mut file = File::from(openat(self.here(), name, NEW, Mode::RUSR | Mode::WUSR)?);
        copy(from, &mut file)?;
        settle(&file, header, attributes)
    }

    fn symlink(&self, name: &OsStr, target: &[u8], header: &Header) -> io::Result<()> {
        symlinkat(target, self.here(), name)?;
        let (owner, group) = owners(header)?;
        chownat(self.here(), name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(utimensat(self.here(), name, &times(header)?, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn fifo(&self, name: &OsStr, header: &Header, attributes: &[Attribute]) -> io::Result<()> {
        mknodat(self.here(), name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Not waiting for who writes into it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        settle(openat(self.here(), name, flags, Mode::empty())?, header, attributes)
    }

    /// One more name of a file that has come already.
    fn link(&self, path: &Path, name: &OsStr, target: &Path) -> Result<()> {
        let first = clean(self.archive, target)?;
        let (folder, file) = (first.parent().filter(|folder| !folder.as_os_str().is_empty()), first.file_name());
        let Some(file) = file.filter(|_| first.as_path() < path) else {
            return Err(self.bad(path, "is another name of a file that has not come before it"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let linked = openat2(&self.root, folder.unwrap_or(Path::new(".")), flags, Mode::empty(), BENEATH).and_then(|folder| {
            let stat = statat(&folder, file, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(false);
            }
            linkat(&folder, file, self.here(), name, AtFlags::empty()).map(|()| true)
        });
        match linked {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.bad(path, "is another name of what is no plain file")),
            Err(errno) => Err(self.failed(path, &errno.into())),
        }
    }

    /// Finishes the open folders that `path` is not in, all of them for `None`.
    fn close_to(&mut self, path: Option<&Path>) -> Result<()> {
        while let Some(open) = self.open.pop_if(|open| path.is_none_or(|path| !path.starts_with(&open.path))) {
            settle(&open.folder, &open.header, &open.attributes).map_err(|error| self.failed(&open.path, &error))?;
        }
        Ok(())
    }

    fn bad(&self, path: &Path, reason: impl Into<String>) -> Error {
        let path = if path.as_os_str().is_empty() { Path::new("./") } else { path };
        Error::bad_archive(self.archive, path.display(), reason)
    }

    /// Where the entry's own name is not known yet.
    fn bad_next(&self, reason: impl Into<String>) -> Error {
        Error::bad_archive(
            self.archive,
            format!("the entry after {}", self.last.as_deref().unwrap_or(Path::new("its head")).display()),
            reason,
        )
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        unreadable(self.archive, self.last.as_deref().unwrap_or(Path::new("its head")), error)
    }

    fn failed(&self, path: &Path, error: &io::Error) -> Error {
        match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(errno @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::IO)) => {
                Error::io("could not write", self.rootfs.join(path))(errno.into())
            }
            _ => self.bad(path, format!("can't be made: {error}")),
        }
    }
}

/// A record is `LENGTH KEY=VALUE\n`, and its length counts all of it. A value may be any bytes. The rest comes last.
fn record(text: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((std::str::from_utf8(&record[..equals]).ok()?, &record[equals + 1..], rest))
}

fn copy(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        let mut count = 0;
        while count < PIECE {
            match from.read(&mut piece[count..])? {
                0 => break,
                more => count += more,
            }
        }
        match &piece[..count] {
            [] => return to.set_len(size),
            zeros if zeros.iter().all(|byte| *byte == 0) => drop(to.seek(SeekFrom::Current(count as i64))?),
            bytes => to.write_all(bytes)?,
        }
        size += count as u64;
    }
}

/// Owner, mode, attributes and time, in the order in which none undoes another: a new owner takes set-id bits and capabilities.
fn settle(file: impl AsFd, header: &Header, attributes: &[Attribute]) -> io::Result<()> {
    let (owner, group) = owners(header)?;
    fchown(&file, Some(owner), Some(group))?;
    fchmod(&file, Mode::from_raw_mode(header.mode()? & 0o7777))?;
    attributes.iter().try_for_each(|attribute| attributes::write(&file, attribute))?;
    Ok(futimens(&file, &times(header)?)?)
}

fn owners(header: &Header) -> io::Result<(Uid, Gid)> {
    let shifted = |id: u64| match u32::try_from(id) {
        Ok(id) if id < COUNT => Ok(id + BASE),
        _ => Err(io::Error::other(format!("it belongs to the id {id}, which no machine has"))),
    };
    Ok((Uid::from_raw(shifted(header.uid()?)?), Gid::from_raw(shifted(header.gid()?)?)))
}

fn times(header: &Header) -> io::Result<Timestamps> {
    let seconds = i64::try_from(header.mtime()?).map_err(|_| io::Error::other("its time is out of all bounds"))?;
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(Timestamps { last_access: time, last_modification: time })
}
