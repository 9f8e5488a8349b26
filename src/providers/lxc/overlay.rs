//! The mounts of a machine, made by the start helper in a mount namespace that only it and its children have: when the
//! machine's last process ends, the kernel takes them away, and the host never sees one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, statat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::disk::marks::Marks;
use crate::disk::tree;
use crate::model::MachineSpec;
use crate::model::machine::{Mount, MountMode};
use crate::model::topology::HOST_FOLDER;

use super::config::ROOT;
use super::folder::Folder;
use super::ids::{Range, Shown};
use super::{shared, volume};

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
pub fn assemble(store: &Path, folder: &Folder, spec: &MachineSpec, shown: &Shown) -> Result<(), Error> {
    // The base comes first in the spec and last for overlayfs.
    let lowers: Vec<PathBuf> =
        spec.layers.iter().rev().map(|layer| store.join("layers").join(layer.as_str()).join("rootfs")).collect();
    fs::create_dir_all(ROOT).saying("create", ROOT)?;
    overlay("root", &lowers, &folder.path, Path::new(ROOT), shown, spec.spare)?;
    let root = open(ROOT, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).saying("open", ROOT)?;
    for name in ["hosts", "resolv.conf"] {
        let target = plain_file(&root, "etc", name, shown.range).saying("prepare", format!("/etc/{name}"))?;
        bind(&folder.join(name), &target, false, MountAttrFlags::empty(), shown)?;
    }
    let volumes = volume::shown(store, spec).saying("find the volumes of", &folder.path)?;
    // Outer folders first, so that a mount inside another stays visible.
    let depth = |path: &str| path.trim_end_matches('/').matches('/').count();
    let mut mounts: Vec<Place<'_>> = spec.mounts.iter().map(Place::Mount).chain(volumes.iter().map(Place::Volume)).collect();
    mounts.sort_by_key(|place| match place {
        Place::Mount(mount) => depth(&mount.target),
        Place::Volume(volume) => depth(&volume.path),
    });
    for (number, place) in mounts.into_iter().enumerate() {
        match place {
            Place::Mount(mount) => show(&root, folder, mount, number, shown, spec.spare)?,
            Place::Volume(volume) => {
                let target = target(&root, &volume.path, false, shown.range).saying("prepare", &volume.path)?;
                if spec.host && volume.path == HOST_FOLDER {
                    // An overlay's upper folder can't lie on an overlay, and in here its machines' do.
                    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                    bind(&volume.own.join("upper"), &target, false, plain, shown)?;
                    continue;
                }
                let other = shown.renumbered(&volume.users, &volume.groups).saying("show with its users' ids", &volume.path)?;
                let shown = other.as_ref().unwrap_or(shown);
                overlay(&format!("mount{number}"), &volume.lowers, &volume.own, Path::new(&magic(&target)), shown, spec.spare)?;
            }
        }
    }
    Ok(())
}

/// What is shown at a path of the machine.
enum Place<'a> {
    Mount(&'a Mount),
    Volume(&'a volume::Shown),
}

/// Takes away what an attempt to put it together left.
pub fn take_apart() {
    // With all that lies on it; there may be more than one.
    while unmount(ROOT, UnmountFlags::DETACH).is_ok() {}
}

fn show(root: &OwnedFd, folder: &Folder, mount: &Mount, number: usize, shown: &Shown, spare: bool) -> Result<(), Error> {
    if let MountMode::Shared { user, .. } = &mount.mode {
        return shared::show(root, mount, user, shown.range);
    }
    // Looked up in the machine's root with its links, as the machine itself would, and made where it is missing.
    let is_file = fs::metadata(&mount.source).saying("find", &mount.source)?.is_file();
    let target = target(root, &mount.target, is_file, shown.range).saying("prepare", &mount.target)?;
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    match &mount.mode {
        MountMode::Shared { .. } => Ok(()),
        MountMode::ReadWrite => bind(&mount.source, &target, true, plain, shown),
        MountMode::ReadOnly => bind(&mount.source, &target, false, plain | MountAttrFlags::MOUNT_ATTR_RDONLY, shown),
        MountMode::CopyOnWrite => {
            let (name, own) = (format!("mount{number}"), folder.copy_on_write(&mount.target));
            overlay(&name, std::slice::from_ref(&mount.source), &own, Path::new(&magic(&target)), shown, spare)
        }
    }
}

/// Shows a file or folder of the host at a place in the machine's root.
fn bind(source: &Path, place: &OwnedFd, deep: bool, plain: MountAttrFlags, shown: &Shown) -> Result<(), Error> {
    let tree = shown.tree(source, deep, plain).saying("show with the machine's ids", source)?;
    shared::put(&tree, place).saying("mount", source)
}

/// Mounts an overlay over `target`. The kernel takes a page of options at most and splits them at `:` and `,`, so every
/// folder is mounted under a short name for as long as it takes; `/proc/mounts` inside then tells nothing about the host either.
/// Where what is written is `spare`, nobody inside waits for the disk; who keeps it syncs it.
fn overlay(name: &str, lowers: &[PathBuf], own: &Path, target: &Path, shown: &Shown, spare: bool) -> Result<(), Error> {
    let desk = Path::new(RUN).join("adt").join(format!("{name}.d"));
    let names: Vec<String> = (0..lowers.len()).map(|number| number.to_string()).collect();
    let parts: Vec<_> = names.iter().map(String::as_str).zip(lowers.iter().map(PathBuf::as_path)).chain([("own", own)]).collect();
    for (name, folder) in &parts {
        let place = desk.join(name);
        fs::create_dir_all(&place).saying("create", &place)?;
        let place = open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).saying("open", &place)?;
        bind(folder, &place, false, MountAttrFlags::empty(), shown)?;
    }
    std::env::set_current_dir(&desk).saying("enter", &desk)?;
    // Without redirects and metadata-only copies, an upper folder is a layer that means the same anywhere.
    let plain = match Marks::here() {
        Marks::Trusted => "redirect_dir=off,metacopy=off,index=off",
        // In a user namespace `off` is refused, as is any word on `metacopy`, which is off there; `nofollow` is no less.
        Marks::User => "userxattr,redirect_dir=nofollow,index=off",
    };
    let sync = if spare {
        // The kernel's mark that such an overlay was there, perhaps of a start that failed: it would refuse a second one.
        tree::remove(&own.join("work/work/incompat")).saying("clear", own)?;
        "volatile,"
    } else {
        ""
    };
    let options = format!("lowerdir={},upperdir=own/upper,workdir=own/work,{sync}{plain}", names.join(":"));
    let options = CString::new(options).expect("digits and words have no NUL");
    // A box from elsewhere may have device files in it, which would be the host's.
    let mounted = mount("adt", target, "overlay", MountFlags::NODEV, Some(options.as_c_str()));
    std::env::set_current_dir("/").saying("enter", "/")?;
    // The overlay has copies of its own.
    for (name, _) in &parts {
        let _ = unmount(desk.join(name), UnmountFlags::DETACH);
    }
    mounted.saying("mount the layers at", target)
}

/// A path that leads to exactly what a descriptor has open, whatever happens to its name.
fn magic(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A regular file of that name, made anew where there is none or a link: systemd-resolved's `/etc/resolv.conf` is one.
fn plain_file(root: &OwnedFd, folder: &str, name: &str, range: Range) -> io::Result<OwnedFd> {
    let folder = make_folders(root, folder, range)?;
    let kind = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::RegularFile) => {}
        Ok(_) => {
            unlinkat(&folder, name, AtFlags::empty())?;
            make_file(&folder, name, range)?;
        }
        Err(Errno::NOENT) => make_file(&folder, name, range)?,
        Err(error) => return Err(error.into()),
    }
    Ok(openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn make_file(folder: &OwnedFd, name: &str, range: Range) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::from_raw_mode(0o644))?);
    std::os::unix::fs::fchown(&file, Some(range.root()), Some(range.root()))
}

fn target(root: &OwnedFd, path: &str, is_file: bool, range: Range) -> io::Result<OwnedFd> {
    let path = path.trim_matches('/');
    if !is_file {
        return make_folders(root, path, range);
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    plain_file(root, folder, name, range)
}

/// Opens a folder below `root`, making what is missing of it.
pub(super) fn make_folders(root: &OwnedFd, path: &str, range: Range) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let path = if path.is_empty() { "." } else { path };
    match openat2(root, path, flags, Mode::empty(), IN_ROOT) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = make_folders(root, parent, range)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            let made = openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            std::os::unix::fs::fchown(&made, Some(range.root()), Some(range.root()))?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
            Ok(made)
        }
        // A dangling link has the name; a mount is not worth guessing what it meant.
        Err(error) => Err(error.into()),
    }
}
