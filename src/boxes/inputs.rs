//! The files that a recipe takes from its folder: read for the layer's name, and taken for its build as they were then. Whoever
//! has the folder may change them meanwhile, and others share the layer by that name: a copy that is not what was read ends the
//! build. It must never know what a step does with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Error, Result};
use crate::disk;
use crate::exec::{Account, HostPath, on_files_of};
use crate::model::recipe::Archive;
use crate::model::{BuildStep, Digest, Parent, Recipe};

/// What a file is, as far as a layer can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the folder that the step names.
    pub path: PathBuf,
    pub mode: u32,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    File(Digest),
    Folder,
    Link(PathBuf),
}

/// The files that one step (or the base archive) takes, read from disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    pub entries: Vec<Entry>,
}

/// What a layer's name was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The archive that a base is unpacked from.
    pub base: Option<Material>,
    /// The files of each step.
    pub steps: Vec<Material>,
}

/// Reads what a recipe takes from its folder. Where that is much, digests are remembered in the folder `known`, if
/// one is given. `keeper`: whose rights count in the recipe's folder, where it is not a folder of the host's.
pub fn read(recipe: &Recipe, keeper: Option<&Account>, known: Option<&Path>) -> Result<Inputs> {
    let base = match &recipe.parent {
        Parent::Rootfs(archive) | Parent::Oci(archive) => Some(base(recipe, archive, keeper, known)?.0),
        Parent::Suite(_) | Parent::Box(_) => None,
    };
    let steps = recipe.steps.iter().map(|step| {
        let source = on_files_of(keeper, || source(recipe, step))?;
        read_material(&source, keeper, known)
    });
    Ok(Inputs { base, steps: steps.collect::<Result<_>>()? })
}

/// The files that name each file of an image by its digest.
const INDEXES: [&str; 2] = ["index.json", "manifest.json"];

/// What a base starts from, with the digest that a recipe can pin; an error if it pins another.
pub fn base(recipe: &Recipe, archive: &Archive, keeper: Option<&Account>, known: Option<&Path>) -> Result<(Material, Digest)> {
    let path = on_files_of(keeper, || inside(recipe, &archive.path))?;
    let material = read_material(&path, keeper, known)?;
    let digest_of = |name: &str| {
        material.entries.iter().find_map(|entry| match &entry.content {
            Content::File(digest) if entry.path == Path::new(name) => Some(digest.clone()),
            _ => None,
        })
    };
    let found = digest_of("").or_else(|| INDEXES.iter().find_map(|name| digest_of(name)));
    let found = found.ok_or_else(|| Error::BadArchive {
        archive: path.clone(),
        entry: INDEXES[0].to_owned(),
        reason: "is missing, and `manifest.json` too: this is no image".to_owned(),
    })?;
    match &archive.sha256 {
        Some(wanted) if *wanted != found => {
            Err(Error::OtherDigest { name: recipe.name.clone(), archive: path, found, wanted: wanted.clone() })
        }
        _ => Ok((material, found)),
    }
}

/// The file or folder that a step takes as a whole.
pub fn source(recipe: &Recipe, step: &BuildStep) -> Result<PathBuf> {
    match step {
        BuildStep::Files(path) | BuildStep::Script(path) | BuildStep::Seed { path, .. } => inside(recipe, path),
        // A playbook and a state file use their neighbours: roles, templates, other states.
        BuildStep::Ansible(path) | BuildStep::Salt(path) => {
            let path = inside(recipe, path)?;
            Ok(if path.is_dir() { path } else { path.parent().map_or_else(|| recipe.folder.clone(), Path::to_owned) })
        }
    }
}

/// The step's path, which may not lead out of the recipe's folder, not even by a link: what a stranger's recipe names
/// becomes part of a machine.
pub(super) fn inside(recipe: &Recipe, path: &Path) -> Result<PathBuf> {
    let folder = recipe.folder.canonicalize().map_err(Error::io("could not read", &recipe.folder))?;
    let whole = recipe.folder.join(path);
    let real = whole.canonicalize().map_err(Error::io("could not read", &whole))?;
    // A platform's provision scripts and archives are named by absolute paths once they are settled.
    if real.starts_with(&folder) { Ok(real) } else { Err(Error::Outside { name: recipe.name.clone(), path: path.to_owned() }) }
}

fn read_material(root: &Path, keeper: Option<&Account>, known: Option<&Path>) -> Result<Material> {
    let mut memory = known.map(|known| Memory::of(root, known));
    let entries = on_files_of(keeper, || read_entries(root, &mut memory))?;
    memory.map_or(Ok(()), |memory| memory.keep())?;
    Ok(Material { entries })
}

fn read_entries(root: &Path, memory: &mut Option<Memory>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            Error::Io { what: "could not read", path, source: error.into() }
        })?;
        let path = entry.path().strip_prefix(root).expect("walkdir stays below its root").to_owned();
        let meta = entry.metadata().map_err(|error| Error::Io {
            what: "could not read",
            path: entry.path().to_owned(),
            source: error.into(),
        })?;
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            Content::Folder
        } else if kind.is_symlink() {
            Content::Link(std::fs::read_link(entry.path()).map_err(Error::io("could not read", entry.path()))?)
        } else if kind.is_file() {
            Content::File(match memory {
                Some(memory) => memory.file(entry.path(), &meta)?,
                None => file(entry.path())?,
            })
        } else {
            // A socket or pipe can't be copied into a machine either.
            continue;
        };
        entries.push(Entry { path, mode: mode(&meta), content });
    }
    Ok(entries)
}

/// Only what git keeps too: two clones under different umasks are one box.
fn mode(meta: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    if meta.is_symlink() {
        0o777
    } else if meta.is_dir() || meta.permissions().mode() & 0o100 != 0 {
        0o755
    } else {
        0o644
    }
}

/// Reading this much takes longer than finding out whether it has changed.
const LARGE: u64 = 4 << 20;

/// The digests of files that were read before and have not changed since: every new environment asks for the digest of each
/// seed, and gigabytes, be they one dump or a hundred thousand pictures, take seconds to read. A file is the same while its
/// inode, size and times are, and is trusted only once its last change is a while ago, because two changes within one tick of
/// the clock look like one.
struct Memory {
    note: PathBuf,
    before: HashMap<String, Digest>,
    /// Lines of the note as it will be.
    now: String,
    /// Bytes that had to be read.
    read: u64,
}

impl Memory {
    /// A note for each root; one that can't be read knows nothing.
    fn of(root: &Path, known: &Path) -> Self {
        let name = Digest::from_bytes(&Sha256::digest(root.as_os_str().as_encoded_bytes()));
        let note = known.join(name.as_str());
        let text = std::fs::read_to_string(&note).unwrap_or_default();
        let line = |line: &str| {
            let (state, digest) = line.rsplit_once(' ')?;
            Some((state.to_owned(), Digest::try_from(digest.to_owned()).ok()?))
        };
        Self { note, before: text.lines().filter_map(line).collect(), now: String::new(), read: 0 }
    }

    fn file(&mut self, path: &Path, meta: &std::fs::Metadata) -> Result<Digest> {
        use std::os::unix::fs::MetadataExt;
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let state = format!("{} {} {} {times:?}", meta.dev(), meta.ino(), meta.len());
        let digest = match self.before.get(&state) {
            Some(digest) => digest.clone(),
            None => {
                self.read += meta.len();
                file(path)?
            }
        };
        if meta.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age.as_secs() >= 2) {
            self.now += &format!("{state} {digest}\n");
        }
        Ok(digest)
    }

    /// Written only where it will spare more than it costs.
    fn keep(self) -> Result<()> {
        if self.read < LARGE {
            return Ok(());
        }
        let folder = self.note.parent().expect("a note lies in a folder");
        std::fs::create_dir_all(folder).map_err(Error::io("could not create", folder))?;
        // Lines that a power cut spoilt are read for nothing, and their files once more.
        disk::File::at(&self.note).write_spare(&self.now).map_err(Error::io("could not write", &self.note))
    }
}

pub fn file(path: &Path) -> Result<Digest> {
    let mut reader = std::fs::File::open(path).map_err(Error::io("could not read", path))?;
    digest(&mut reader).map_err(Error::io("could not read", path))
}

pub(super) fn digest(reader: &mut dyn std::io::Read) -> std::io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
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
    entry.is(&file(to)?, from.path)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::catalogue::tests::recipe;

    #[test]
    fn what_is_large_is_read_again_when_it_has_changed_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, known) = (folder.path().join("tree"), folder.path().join("known"));
        std::fs::create_dir(&tree).unwrap();
        let write = |name: &str, byte: u8, size: u64| {
            std::fs::write(tree.join(name), vec![byte; size as usize]).unwrap();
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
            std::fs::File::options().write(true).open(tree.join(name)).unwrap().set_modified(old).unwrap();
        };
        write("small", 1, 1);
        let read = || read_material(&tree, None, Some(&known)).unwrap();
        assert_eq!(read(), read_material(&tree, None, None).unwrap());
        assert!(!known.exists(), "reading it is cheaper");

        (0..8).for_each(|number| write(&number.to_string(), number, LARGE / 8));
        let first = read();
        assert_eq!(first, read_material(&tree, None, None).unwrap());
        // What is remembered is not looked at again: of another file in its place, nobody would know.
        let note = std::fs::read_dir(&known).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(&note).unwrap();
        let Content::File(digest) = &first.entries.last().unwrap().content else { panic!("a file is the last") };
        let wrong = Digest::from_bytes(&[9; 32]);
        std::fs::write(&note, text.replace(digest.as_str(), wrong.as_str())).unwrap();
        assert_eq!(read().entries.last().unwrap().content, Content::File(wrong));
        write("small", 2, 1);
        write("7", 99, LARGE / 8);
        assert_eq!(read(), read_material(&tree, None, None).unwrap());
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("box");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(outer.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
        for path in ["../secret", "link"] {
            let mut recipe = recipe("web", Parent::Suite("bookworm".into()));
            recipe.folder = inner.clone();
            recipe.steps = vec![BuildStep::Script(path.into())];
            assert!(matches!(read(&recipe, None, None), Err(Error::Outside { .. })), "{path}");
        }
    }
}
