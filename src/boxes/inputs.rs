//! Takes a recipe's files out of its folder as they were when its layer was named. Whoever has the folder may change them
//! meanwhile, and others share the layer by that name: a copy that is not what was read then ends the build. It must never know
//! what a step does with them.

use std::path::Path;

use super::digest::{self, Content, Entry, Material};
use super::{Error, Result};
use crate::exec::HostPath;
use crate::model::Digest;

/// What a layer's name was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The archive that a base is unpacked from.
    pub base: Option<Material>,
    /// The files of each step.
    pub steps: Vec<Material>,
}

/// Makes the copy `to` of a file, which is the one that was named.
pub(super) type CopyFile<'a> = &'a dyn Fn(HostPath<'_>, &Path, &Entry) -> Result<()>;

/// A file or a tree as it is, with the modes that count for a layer's name.
pub(super) fn fetch(source: HostPath<'_>, material: &Material, target: &Path) -> Result<()> {
    copy_tree(source, material, target, &copy_file)
}

pub(super) fn copy_tree(source: HostPath<'_>, material: &Material, target: &Path, copy: CopyFile<'_>) -> Result<()> {
    for entry in &material.entries {
        // Nothing is joined to the file itself: that would make a folder of it.
        let join = |path: &Path| if entry.path.as_os_str().is_empty() { path.to_owned() } else { path.join(&entry.path) };
        let (from, to) = (join(source.path), join(target));
        let from = HostPath { path: &from, ..source };
        match &entry.content {
            Content::Folder => create(&to).and_then(|()| set_mode(&to, entry.mode))?,
            Content::Link(link) => std::os::unix::fs::symlink(link, &to).map_err(Error::io("could not create", &to))?,
            Content::File(_) => copy(from, &to, entry)?,
        }
    }
    Ok(())
}

/// Looked at after it was copied, because nobody can change the copy.
pub(super) fn copy_file(from: HostPath<'_>, to: &Path, entry: &Entry) -> Result<()> {
    let failed = || Error::io("could not copy", from.path);
    let mut source = from.with_rights(|path| std::fs::File::open(path)).map_err(failed())?;
    let mut copy = std::fs::File::create(to).map_err(Error::io("could not create", to))?;
    std::io::copy(&mut source, &mut copy).map_err(failed())?;
    entry.is(&digest::file(to)?, from.path)?;
    set_mode(to, entry.mode)
}

impl Entry {
    /// An error where what was taken from `path` is another file than the one that was named.
    pub(super) fn is(&self, taken: &Digest, path: &Path) -> Result<()> {
        match &self.content {
            Content::File(named) if named == taken => Ok(()),
            _ => Err(Error::Changed { path: path.to_owned() }),
        }
    }
}

pub(super) fn create(path: &Path) -> Result<()> {
    std::fs::create_dir(path).map_err(Error::io("could not create", path))?;
    set_mode(path, 0o755)
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(Error::io("could not change", path))
}
