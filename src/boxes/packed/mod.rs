//! Layers that travel: the form in which a layer goes from one store to another, and the hash of its content.
//!
//! ```text
//! a file     one layer after the other, the lowest first
//! a layer    a head (JSON in a frame that zstd skips) ── a zstd frame with a tar of its files
//! ```
//! So `zstd -d` and `tar` read it, too. The tar is one and the same wherever the layer lies:
//! - Folders before what is in them, names in the order of their bytes, `./` first; of a file with several names the first holds
//!   the bytes, the others are links to it.
//! - Owners as a machine sees them, by number only; times in whole seconds. Attributes are records of PAX: file capabilities,
//!   access lists and `user.*`. What a host writes for itself (labels, an overlay's own notes) stays.
//! - Whiteouts and folders that hide what is below are entries as OCI has them, `.wh.NAME` and `.wh..wh..opq`. A file that is
//!   really called so can't be packed.
//! - Holes are zeros: where they lie is the file system's business. Unpacked, long runs of zeros become holes.
//! - No devices, which are the host's, and no sockets, whose programs are gone. Where these cover something of a layer below, a
//!   whiteout does.
//!
//! The SHA-256 of this stream is the layer's content, kept beside the digest of its inputs. The digest says what a layer was made
//! of, and whoever packed it claims that; the content says what it is, and is found out here: an unpacked layer is packed once
//! more, into nothing, and put in place only if that gives the content that its head tells. So neither a damaged file nor one that
//! two readers would read in two ways gets in.
//!
//! Not chosen: a hash over each entry's own hash, which would let parts be asked for but is no faster, and no tool outside has it;
//! sparse entries, which hold where one file system put its holes; registries' manifests around each layer, which name a layer by
//! what its compression made of it.

mod attributes;
mod head;
mod read;
mod write;

use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use self::head::Head;
use super::archive::{OPAQUE, Room, WHITEOUT};
use super::layer::Content;
use super::{Error, Layer, Layers, Result};
use crate::disk::marks::Marks;
use crate::exec::watched::Watched;
use crate::model::Digest;
use crate::store::{self, Lock};

/// Measured with a base of 200 MB, on one core: level 1 makes 74 MB of it in 1.2 s, 3 makes 63 MB in 2.3 s, 6 makes 59 MB in
/// 5.2 s, 9 makes 56 MB in 10.9 s. Unpacking takes 0.4 s, whatever the level.
const LEVEL: i32 = 3;
/// What a reader must keep to undo any level up to 19. A frame says itself how much it wants.
const WINDOW_LOG: u32 = 23;

/// Records of PAX that are in use.
const PAX_PATH: &str = "path";
const PAX_LINK: &str = "linkpath";
const PAX_ATTRIBUTE: &str = "SCHILY.xattr.";
/// All records of one entry. A file system takes 64 KB of attributes.
const LONGEST_RECORDS: u64 = 256 << 10;

/// The layers of one store, packed or unpacked.
pub struct Packing<'a> {
    pub layers: &'a Layers,
    /// Those that this host's overlays have.
    pub marks: Marks,
    pub cancel: &'a AtomicBool,
    /// Told once where another command works on the same layer.
    pub waiting: &'a (dyn Fn(&Layer) + Sync),
}

/// What became of a packed layer.
#[derive(Debug)]
pub enum Unpacked {
    New(Layer),
    /// The same is here already.
    There(Layer),
}

impl Packing<'_> {
    /// A layer with its content, which is found out and kept where nobody asked before.
    pub fn layer(&self, digest: &Digest) -> Result<Layer> {
        let layer = self.layers.get(digest)?;
        if layer.content.is_some() {
            return Ok(layer);
        }
        // What is written down must be of the layer that is there then.
        let _lock = self.lock(&layer)?;
        self.with_content(self.layers.get(digest)?)
    }

    /// The same; the caller holds the layer's lock.
    fn with_content(&self, mut layer: Layer) -> Result<Layer> {
        if layer.content.is_none() {
            layer.content = Some(self.content(&layer, &self.layers.rootfs(&layer.digest))?);
            self.layers.describe(&layer)?;
        }
        Ok(layer)
    }

    /// Writes a layer, a piece at a time.
    pub fn pack(&self, digest: &Digest, to: &mut dyn Write) -> Result<Layer> {
        let layer = self.layer(digest)?;
        let parent = layer.parent.as_ref().map(|parent| self.layer(parent)).transpose()?;
        let head = Head::of(&layer, parent.as_ref());
        let failed = || Error::io("could not pack", self.layers.path(digest));
        head.write(to).map_err(failed())?;
        let mut encoder = zstd::Encoder::new(to, LEVEL).map_err(failed())?;
        encoder.include_checksum(true).map_err(failed())?;
        let found = self.write(&layer, &self.layers.rootfs(digest), &mut encoder)?;
        encoder.finish().map_err(failed())?;
        if Some(&found) == layer.content.as_ref() {
            return Ok(layer);
        }
        let reason = format!("its files are no longer those of its content, they are `{}`", found.sha256);
        Err(Error::LayerDamaged { path: self.layers.path(digest), reason })
    }

    /// What the files of a layer are now, whatever its record says.
    pub fn read_again(&self, layer: &Layer) -> Result<Content> {
        self.content(layer, &self.layers.rootfs(&layer.digest))
    }

    /// What the files of a layer are.
    pub(super) fn content(&self, layer: &Layer, rootfs: &Path) -> Result<Content> {
        self.write(layer, rootfs, &mut std::io::sink())
    }

    /// The stream of a layer's files.
    fn write(&self, layer: &Layer, rootfs: &Path, to: &mut dyn Write) -> Result<Content> {
        let written = write::stream(layer, rootfs, self.marks, Watched { inner: to, cancel: self.cancel });
        self.finished(layer, written)
    }

    /// Reads the next layer of a file and puts it into the store; `None` at the file's end. `name` is for messages.
    pub fn unpack(&self, from: &mut dyn BufRead, name: &Path) -> Result<Option<Unpacked>> {
        let Some(head) = Head::read(from, name)? else { return Ok(None) };
        let Head { layer, .. } = &head;
        let content = head.content(name)?;
        let lock = self.lock(layer)?;
        let mut stream = Stream::open(from, name, &content)?;
        if self.layers.has(&layer.digest) {
            let here = self.with_content(self.layers.get(&layer.digest)?)?;
            same(name, layer, &content.sha256, &here)?;
            return self.finished(layer, stream.end()).map(|()| Some(Unpacked::There(here)));
        }
        if let (Some(parent), Some(wanted)) = (&layer.parent, &head.stands_on) {
            if !self.layers.has(parent) {
                return Err(Error::ParentMissing { archive: name.to_owned(), name: layer.name.clone(), parent: parent.clone() });
            }
            let here = self.layer(parent)?;
            same(name, &here, wanted, &here)?;
        }
        let draft = self.layers.begin(&layer.digest, lock)?;
        let rootfs = draft.rootfs();
        store::make_folder(&rootfs, store::PRIVATE)?;
        let room = Room::on_disk_of(&rootfs, self.cancel)?;
        let read = read::stream(&mut stream, &rootfs, &content, self.marks, room);
        self.finished(layer, read.and_then(|()| stream.end()))?;
        let found = self.content(layer, &rootfs)?;
        if found != content {
            let reason = format!("is not what its head says: its content is `{}`, not `{}`", found.sha256, content.sha256);
            return Err(Error::bad_archive(name, &layer.name, reason));
        }
        draft.finish(layer.clone()).map(|layer| Some(Unpacked::New(layer)))
    }

    fn lock(&self, layer: &Layer) -> Result<Lock> {
        self.layers.lock(&layer.digest, layer.parent.as_ref(), self.cancel, &|| (self.waiting)(layer))
    }

    /// A stream that was stopped is no damage of the layer.
    fn finished<T>(&self, layer: &Layer, result: Result<T>) -> Result<T> {
        result.map_err(|error| match self.cancel.load(Ordering::Relaxed) {
            true => Error::Cancelled { name: layer.name.to_string() },
            false => error,
        })
    }
}

/// Layers of one digest are the same, or one of them stays where it is.
fn same(archive: &Path, packed: &Layer, there: &Digest, here: &Layer) -> Result<()> {
    match &here.content {
        Some(content) if content.sha256 != *there => Err(Error::OtherContent {
            archive: archive.to_owned(),
            name: packed.name.clone(),
            digest: packed.digest.clone(),
            there: there.clone(),
            here: content.sha256.clone(),
        }),
        _ => Ok(()),
    }
}

/// The tar of one layer, which ends where its frame does, and is as long as its head says.
struct Stream<'a> {
    reader: std::io::Take<zstd::Decoder<'static, &'a mut dyn BufRead>>,
    name: &'a Path,
}

impl<'a> Stream<'a> {
    fn open(from: &'a mut dyn BufRead, name: &'a Path, content: &Content) -> Result<Self> {
        let failed = || Error::io("could not read", name);
        let mut decoder = zstd::Decoder::with_buffer(from).map_err(failed())?.single_frame();
        decoder.window_log_max(WINDOW_LOG).map_err(failed())?;
        Ok(Self { reader: decoder.take(content.bytes), name })
    }

    /// Reads what is left of it.
    fn end(&mut self) -> Result<()> {
        let unreadable = |error: std::io::Error| read::unreadable(self.name, Path::new("its end"), &error);
        std::io::copy(&mut self.reader, &mut std::io::sink()).map_err(unreadable)?;
        if self.reader.limit() > 0 {
            return Err(Error::bad_archive(self.name, "its end", "comes before its head says"));
        }
        let more = self.reader.get_mut().read(&mut [0]).map_err(unreadable)?;
        if more > 0 { Err(Error::bad_archive(self.name, "its end", "comes later than its head says")) } else { Ok(()) }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }
}

#[cfg(test)]
mod tests;
