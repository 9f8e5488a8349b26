//! What stands before a packed layer: which layer it is, in JSON, in a frame that zstd itself skips.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::boxes::archive::ENTRIES;
use crate::boxes::layer::Content;
use crate::boxes::{Error, Layer, Result};
use crate::model::Digest;

/// Raised when a packed layer can't be read by an adt from before.
const FORMAT: u32 = 1;
/// One of the numbers that zstd keeps for frames of others; a length follows.
const MAGIC: [u8; 4] = 0x184D_2A5A_u32.to_le_bytes();
/// A layer's record has its packages and checks.
const LONGEST: u32 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    format: u32,
    pub layer: Layer,
    /// The content of the layer that it stands on: what was built on one does not fit another of the same digest.
    pub stands_on: Option<Digest>,
}

/// As much as every format has.
#[derive(Deserialize)]
struct Any {
    format: u32,
}

impl Head {
    pub fn of(layer: &Layer, parent: Option<&Layer>) -> Self {
        let content = |layer: &Layer| layer.content.as_ref().map(|content| content.sha256.clone());
        // What it takes on this disk is nobody else's business, and each packing of it is the same bytes.
        Self { format: FORMAT, layer: Layer { size: 0, ..layer.clone() }, stands_on: parent.and_then(content) }
    }

    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("a layer's description is plain data");
        let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or_else(|| io::Error::other("the layer's description is too long"))?;
        to.write_all(&MAGIC)?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&text)
    }

    /// `None` at the end of the file.
    pub fn read(from: &mut dyn BufRead, archive: &Path) -> Result<Option<Self>> {
        let failed = || Error::io("could not read", archive);
        if from.fill_buf().map_err(failed())?.is_empty() {
            return Ok(None);
        }
        let cut = |_| Error::bad_archive(archive, "its head", "is cut off");
        let (mut magic, mut length) = ([0; 4], [0; 4]);
        from.read_exact(&mut magic).map_err(cut)?;
        if magic != MAGIC {
            return Err(Error::bad_archive(archive, "its head", "is missing: `adt box:export` writes what can be imported"));
        }
        from.read_exact(&mut length).map_err(cut)?;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(Error::bad_archive(archive, "its head", format!("is longer than {} MB", LONGEST >> 20)));
        }
        let mut text = Vec::new();
        from.take(length.into()).read_to_end(&mut text).map_err(failed())?;
        if text.len() as u64 != u64::from(length) {
            return Err(Error::bad_archive(archive, "its head", "is cut off"));
        }
        let damaged = |error: serde_json::Error| Error::bad_archive(archive, "its head", format!("is damaged: {error}"));
        let Any { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != FORMAT {
            return Err(Error::bad_archive(archive, "its head", format!("is of format {format}; this adt knows {FORMAT}")));
        }
        let head: Self = serde_json::from_slice(&text).map_err(damaged)?;
        head.check(archive)?;
        Ok(Some(head))
    }

    fn check(&self, archive: &Path) -> Result<()> {
        let Layer { digest, parent, .. } = &self.layer;
        if parent.is_some() != self.stands_on.is_some() {
            return Err(Error::bad_archive(
                archive,
                "its head",
                "tells of a layer below without its content, or the other way round",
            ));
        }
        match parent {
            Some(parent) if parent == digest => Err(Error::LayerCycle { child: digest.clone(), parent: parent.clone() }),
            _ => Ok(()),
        }
    }

    /// What its files are said to be.
    pub fn content(&self, archive: &Path) -> Result<Content> {
        let content =
            self.layer.content.clone().ok_or_else(|| Error::bad_archive(archive, "its head", "does not tell its content"))?;
        if content.entries > u64::from(ENTRIES) {
            return Err(Error::bad_archive(archive, "its head", format!("tells of more than {ENTRIES} files")));
        }
        Ok(content)
    }
}
