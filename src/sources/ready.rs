//! Where the trees are that wait for an environment, and how one is taken. Who makes them is [`super::spare`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::git::Person;
use super::mirror::Mirror;
use super::stock;
use crate::disk;

/// The folder of a platform in which spares are, and trees that wait to be removed.
pub const SPARES: &str = ".adt";

/// Moves one to `draft`; whether there was any. One rename, so that of two who want it only one gets it.
pub(super) fn take(mirror: &Mirror, person: &Person, folder: &Path, draft: &Path) -> bool {
    let Some(platform) = folder.parent().and_then(Path::parent) else { return false };
    let spares = platform.join(SPARES);
    (0..stock::MOST).map(|number| place(&spares, mirror, number)).any(|spare| {
        fs::symlink_metadata(&spare).is_ok_and(|meta| meta.is_dir() && meta.uid() == person.user())
            && disk::put_spare(&spare, draft).is_ok()
    })
}

pub(super) fn stem(mirror: &Mirror) -> String {
    mirror.folder.file_stem().expect("a mirror's folder has a name").to_string_lossy().into_owned()
}

/// `.adt/www-3f2a….2` is number 1.
pub(super) fn place(spares: &Path, mirror: &Mirror, number: usize) -> PathBuf {
    let stem = stem(mirror);
    spares.join(if number == 0 { stem } else { format!("{stem}.{}", number + 1) })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Ready(usize),
    Draft,
}

/// The mirror's name, and what of it this is. A name that is not surely ours is nobody's.
pub(super) fn parse(name: &str) -> Option<(&str, What)> {
    let (stem, what) = match name.strip_prefix('.') {
        Some(name) => (name.strip_suffix(".draft")?, What::Draft),
        None => match name.split_once('.') {
            Some((stem, number)) => (stem, What::Ready(number.parse::<usize>().ok().filter(|number| *number >= 2)? - 1)),
            None => (name, What::Ready(0)),
        },
    };
    let (_, hash) = stem.rsplit_once('-')?;
    let is_hash = hash.len() == 20 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hash.then_some((stem, what))
}
