//! The files of adt's layers in the forms that the peers take: one folder, or a tarball with unshifted ids.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::adt::exec::Command;
use tar::{Builder, EntryType, Header};

use super::adt::{Machine, Model};
use super::{HOME, NAME, Result, run_peer, sweep};

/// Root inside, on the host.
pub const SHIFT: u32 = 100_000;

pub struct Images {
    place: PathBuf,
    /// The machines that stand for the two kinds, `web` and `db`.
    kinds: Vec<(&'static str, Machine)>,
}

/// A file that a tarball gets on top.
pub enum Extra<'a> {
    Text(&'a str, String),
    Link(&'a str, &'a str),
}

impl Images {
    pub fn new(model: &Model) -> Result<Self> {
        let place = Path::new(HOME).join("images");
        std::fs::create_dir_all(&place)?;
        let find = |name: &str| model.machines.iter().find(|machine| machine.name == name).cloned().ok_or("hello has it");
        Ok(Self { place, kinds: vec![("web", find("web1")?), ("db", find("db")?)] })
    }

    /// A machine's layers as one folder of its own.
    pub fn folder(&self, machine: &Machine, name: &str) -> Result<PathBuf> {
        let folder = self.place.join(name);
        if folder.exists() {
            return Ok(folder);
        }
        self.merged(machine, |root| run_peer(&Command::new("cp").args(["-a", "--"]).arg(root).arg(&folder)))?;
        Ok(folder)
    }

    /// A tarball for each kind; its files lie below `prefix`, after the entries of `first`.
    pub fn tarballs(
        &self,
        name: &str,
        prefix: &str,
        first: &[Extra<'_>],
        last: &[Extra<'_>],
    ) -> Result<Vec<(&'static str, PathBuf)>> {
        let pack = |(kind, machine): &(&'static str, Machine)| {
            let path = self.place.join(format!("{name}-{kind}.tar"));
            let mut tar = Builder::new(BufWriter::with_capacity(1 << 20, File::create(&path)?));
            add_extra(&mut tar, first)?;
            self.merged(machine, |root| add_files(&mut tar, root, prefix))?;
            add_extra(&mut tar, last)?;
            tar.into_inner()?;
            Ok((*kind, path))
        };
        self.kinds.iter().map(pack).collect()
    }

    /// Works on a machine's files as it would see them.
    fn merged(&self, machine: &Machine, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let root = self.place.join("merged");
        sweep::folder(&root)?;
        let options = format!("ro,lowerdir={}", machine.lowers());
        run_peer(&Command::new("mount").args(["-t", "overlay", NAME, "-o", &options]).arg(&root))?;
        let done = work(&root);
        rustix::mount::unmount(&root, rustix::mount::UnmountFlags::empty())?;
        done
    }
}

fn add_files(tar: &mut Builder<impl io::Write>, root: &Path, prefix: &str) -> Result<()> {
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry?;
        let meta = entry.metadata()?;
        // The peers name their machines themselves.
        if entry.path().ends_with("merged/etc/hostname") {
            continue;
        }
        let name = Path::new(prefix).join(entry.path().strip_prefix(root)?);
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(meta.uid().saturating_sub(SHIFT).into());
        header.set_gid(meta.gid().saturating_sub(SHIFT).into());
        header.set_mtime(meta.mtime().unsigned_abs());
        header.set_size(0);
        let kind = meta.file_type();
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, name, io::empty())?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, name, std::fs::read_link(entry.path())?)?;
        } else if kind.is_file() {
            header.set_size(meta.len());
            tar.append_data(&mut header, name, File::open(entry.path())?.take(meta.len()))?;
        }
    }
    Ok(())
}

fn add_extra(tar: &mut Builder<impl io::Write>, extra: &[Extra<'_>]) -> Result<()> {
    for one in extra {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match one {
            Extra::Text(name, text) => {
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, name, text.as_bytes())?;
            }
            Extra::Link(name, target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, name, target)?;
            }
        }
    }
    Ok(())
}
