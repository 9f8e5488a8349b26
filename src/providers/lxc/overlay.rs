//! The mounts of a machine, made by the start helper in a mount namespace that only it and its children have: when the
//! machine's last process ends, the kernel takes them away, and the host never sees one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, statat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::model::MachineSpec;
use crate::model::machine::{Mount, MountMode};

use super::config::{FIRST_ID, ROOT};
use super::folder::Folder;
use super::shared;

/// liblxc keeps locks below `/run/lxc`; in the helper's namespace it is an own filesystem, so none stays behind.
pub const RUN: &str = "/run/lxc";

/// A step that failed, in words.
#[derive(Debug, thiserror::Error)]
#[error("{what} `{path}`: {source}")]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

pub(super) trait Saying<T> {
    fn saying(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Saying<T> for Result<T, E> {
    fn saying(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|error| Error { what, path: path.as_ref().to_owned(), source: error.into() })
    }
}

/// Leaves the host's mount namespace. Unmounts of the host still arrive, or a machine would keep its disks busy.
pub fn leave_host() -> Result<(), Error> {
    // SAFETY: a new mount namespace shares no memory or descriptors anew; the helper has a single thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.saying("unshare", "mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).saying("detach", "/")?;
    fs::create_dir_all(RUN).saying("create", RUN)?;
    mount("adt", RUN, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755,size=1m")).saying("mount", RUN)
}

/// Puts the machine's root together at [`ROOT`].
pub fn assemble(store: &Path, folder: &Folder, spec: &MachineSpec) -> Result<(), Error> {
    // The base comes first in the spec and last for overlayfs.
    let lowers: Vec<PathBuf> =
        spec.layers.iter().rev().map(|layer| store.join("layers").join(layer.as_str()).join("rootfs")).collect();
    overlay("root", &lowers, &folder.path, Path::new(ROOT))?;
    let root = open(ROOT, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).saying("open", ROOT)?;
    for name in ["hosts", "resolv.conf"] {
        let target = plain_file(&root, "etc", name).saying("prepare", format!("/etc/{name}"))?;
        let source = folder.join(name);
        mount_bind(&source, magic(&target)).saying("mount", &source)?;
    }
    // Outer folders first, so that a mount inside another stays visible.
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.target.trim_end_matches('/').matches('/').count());
    for (number, mount) in mounts.into_iter().enumerate() {
        show(&root, folder, mount, number)?;
    }
    Ok(())
}

fn show(root: &OwnedFd, folder: &Folder, mount: &Mount, number: usize) -> Result<(), Error> {
    let read_only = match &mount.mode {
        MountMode::Shared { user } => return shared::show(root, mount, user),
        MountMode::ReadOnly => MountFlags::RDONLY,
        MountMode::ReadWrite | MountMode::CopyOnWrite => MountFlags::empty(),
    };
    // Looked up in the machine's root with its links, as the machine itself would, and made where it is missing.
    let is_file = fs::metadata(&mount.source).saying("find", &mount.source)?.is_file();
    let target = target(root, &mount.target, is_file).saying("prepare", &mount.target)?;
    let place = magic(&target);
    match &mount.mode {
        MountMode::ReadWrite => mount_bind_recursive(&mount.source, &place).saying("mount", &mount.source)?,
        MountMode::ReadOnly => mount_bind(&mount.source, &place).saying("mount", &mount.source)?,
        MountMode::Shared { .. } => {}
        MountMode::CopyOnWrite => {
            let place = PathBuf::from(&place);
            overlay(
                &format!("mount{number}"),
                std::slice::from_ref(&mount.source),
                &folder.copy_on_write(&mount.target),
                &place,
            )?;
        }
    }
    if mount.mode != MountMode::CopyOnWrite {
        let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | read_only;
        // The descriptor still names the folder below; the mount on it is found by its path.
        let path = Path::new(ROOT).join(real_path(&target, root).saying("find", &mount.target)?);
        mount_remount(&path, flags, c"").saying("protect", &mount.target)?;
    }
    Ok(())
}

/// Mounts an overlay over `target`. The kernel takes a page of options at most and splits them at `:` and `,`, so every
/// folder gets a short link and the options name those; `/proc/mounts` inside then tells nothing about the host either.
fn overlay(name: &str, lowers: &[PathBuf], own: &Path, target: &Path) -> Result<(), Error> {
    let links = Path::new(RUN).join("adt").join(format!("{name}.d"));
    fs::create_dir_all(&links).saying("create", &links)?;
    if target == Path::new(ROOT) {
        fs::create_dir_all(target).saying("create", target)?;
    }
    let names: Vec<String> = (0..lowers.len()).map(|number| number.to_string()).collect();
    for (name, lower) in names.iter().zip(lowers) {
        symlink(lower, links.join(name)).saying("link", lower)?;
    }
    symlink(own.join("upper"), links.join("u")).saying("link", own)?;
    symlink(own.join("work"), links.join("w")).saying("link", own)?;
    std::env::set_current_dir(&links).saying("enter", &links)?;
    // Without redirects and metadata-only copies, an upper folder is a layer that means the same anywhere.
    let options = format!("lowerdir={},upperdir=u,workdir=w,redirect_dir=off,metacopy=off,index=off", names.join(":"));
    let options = CString::new(options).expect("digits and words have no NUL");
    // A box from elsewhere may have device files in it, which would be the host's.
    let mounted = mount("adt", target, "overlay", MountFlags::NODEV, Some(options.as_c_str()));
    std::env::set_current_dir("/").saying("enter", "/")?;
    mounted.saying("mount the layers at", target)
}

/// A path that leads to exactly what a descriptor has open, whatever happens to its name.
fn magic(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn real_path(fd: &OwnedFd, root: &OwnedFd) -> io::Result<PathBuf> {
    let (path, root) = (fs::read_link(magic(fd))?, fs::read_link(magic(root))?);
    path.strip_prefix(&root).map(Path::to_owned).map_err(io::Error::other)
}

pub(super) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A regular file of that name, made anew where there is none or a link: systemd-resolved's `/etc/resolv.conf` is one.
fn plain_file(root: &OwnedFd, folder: &str, name: &str) -> io::Result<OwnedFd> {
    let folder = make_folders(root, folder)?;
    let kind = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::RegularFile) => {}
        Ok(_) => {
            unlinkat(&folder, name, AtFlags::empty())?;
            make_file(&folder, name)?;
        }
        Err(Errno::NOENT) => make_file(&folder, name)?,
        Err(error) => return Err(error.into()),
    }
    Ok(openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn make_file(folder: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::from_raw_mode(0o644))?);
    std::os::unix::fs::fchown(&file, Some(FIRST_ID), Some(FIRST_ID))
}

fn target(root: &OwnedFd, path: &str, is_file: bool) -> io::Result<OwnedFd> {
    let path = path.trim_matches('/');
    if !is_file {
        return make_folders(root, path);
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    plain_file(root, folder, name)
}

/// Opens a folder below `root`, making what is missing of it.
pub(super) fn make_folders(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let path = if path.is_empty() { "." } else { path };
    match openat2(root, path, flags, Mode::empty(), IN_ROOT) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = make_folders(root, parent)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            let made = openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            std::os::unix::fs::fchown(&made, Some(FIRST_ID), Some(FIRST_ID))?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
            Ok(made)
        }
        // A dangling link has the name; a mount is not worth guessing what it meant.
        Err(error) => Err(error.into()),
    }
}
