//! Folders of a person on the host, shown in a machine as one of its users' own: each edits, the other sees it, and on
//! either side the files belong to whom they should.
//!
//! ```text
//! on disk            in the machine
//! the folder's owner ↔ the mount's user           (1000 ↔ 33)
//! 100000 + n         ↔ n, for everybody else      (a file of the machine's root never belongs to the host's)
//! ```
//! The kernel maps ids for one mount, nothing on disk changes. `.git` stays outside: what is in it decides which programs
//! run when its owner calls git on the host, and a web server could show it to everybody.
//!
//! A running machine gets and loses such mounts too. One that it has had since its start the kernel keeps in place as long
//! as it runs; an empty folder covers it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, open, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::disk::{self, walk};
use crate::model::machine::{Mount, MountMode};

use super::attach::{User, small_text};
use super::ids::{self, COUNT, Range};
use super::overlay::{Error, IN_ROOT, RUN, Saying, make_folders};
use super::passing;

/// Shows `mount` below `root`, which is this process' own root or a mount of its own.
pub fn show(root: &OwnedFd, mount: &Mount, user: &str, range: Range) -> Result<(), Error> {
    let tree = Tree::new(root, mount, user, range)?;
    tree.attach(root, range)
}

/// Brings the mounts of a running machine from `before` to `after`; mounts that are in place stay untouched.
pub fn change(init: u32, before: &[Mount], after: &[Mount]) -> Result<(), Error> {
    let proc = PathBuf::from(format!("/proc/{init}"));
    let inside = open(proc.join("root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let inside = inside.saying("open", proc.join("root"))?;
    let range = Range::of(init).saying("read the ids in", proc.join("uid_map"))?;
    let gone: Vec<&Mount> = before.iter().filter(|mount| !after.contains(mount) && is_shared(mount)).collect();
    // Made while the host's folders can still be seen.
    let mut trees = Vec::new();
    for mount in after {
        if let MountMode::Shared { user, .. } = &mount.mode
            && !in_place(&inside, mount)
        {
            trees.push(Tree::new(&inside, mount, user, range)?);
        }
    }
    let namespace = proc.join("ns/mnt");
    let namespace = open(&namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).saying("open", &namespace)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).saying("enter", proc.join("ns/mnt"))?;
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).saying("open", "/")?;
    // Inner ones first on the way out, outer ones first on the way in.
    for mount in by_depth(gone, |mount| &mount.target).into_iter().rev() {
        hide(&root, mount, range)?;
    }
    by_depth(trees, |tree| &tree.target).into_iter().try_for_each(|tree| tree.attach(&root, range))
}

pub fn is_shared(mount: &Mount) -> bool {
    matches!(mount.mode, MountMode::Shared { .. })
}

fn by_depth<T>(mut all: Vec<T>, target: impl Fn(&T) -> &str) -> Vec<T> {
    all.sort_by_key(|one| target(one).trim_end_matches('/').matches('/').count());
    all
}

/// A mount that is not anywhere yet, with the cover in it.
struct Tree {
    target: String,
    tree: OwnedFd,
}

impl Tree {
    fn new(root: &OwnedFd, mount: &Mount, user: &str, range: Range) -> Result<Self, Error> {
        let source = source(mount).saying("open", &mount.source)?;
        let owner = fstat(&source).saying("look at", &mount.source)?;
        let user = find_user(root, user);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&source, "", flags).saying("open", &mount.source)?;
        let (uids, gids) = (map(range, owner.st_uid, user.uid), map(range, owner.st_gid, user.gid));
        let ids = ids::namespace(&uids, &gids, None).saying("map the ids of", &mount.source)?;
        let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let remedy = if disk::host::is_real() {
            "show under other owners (a filesystem like ext4, xfs or btrfs can; move the platform's folder to one)"
        } else {
            "show under other owners (this host is a machine itself, where only a tmpfs can; let the site have `mode = \"release\"`)"
        };
        ids::set_attributes(&tree, false, plain, Some(&ids)).saying(remedy, &mount.source)?;
        let tree = covered(&tree).saying("cover `.git` (it must be there, as a folder or a file) in", &mount.source)?;
        Ok(Self { target: mount.target.clone(), tree })
    }

    fn attach(self, root: &OwnedFd, range: Range) -> Result<(), Error> {
        let place = make_folders(root, self.target.trim_matches('/'), range).saying("prepare", &self.target)?;
        put(&self.tree, &place).saying("mount", &self.target)
    }
}

/// The folder itself: what its path leads to can change at any moment.
fn source(mount: &Mount) -> io::Result<OwnedFd> {
    match &mount.mode {
        MountMode::Shared { owner: Some(owner), .. } => walk::open(&mount.source, *owner),
        MountMode::Shared { owner: None, .. } | MountMode::ReadOnly | MountMode::ReadWrite | MountMode::CopyOnWrite => {
            Ok(open(&mount.source, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
        }
    }
}

/// The tree and the cover over its `.git` as one, which nobody takes apart: what enters another user namespace the kernel
/// locks together, also in every copy, and a machine that gets it can unmount, move or copy it only as a whole.
///
/// Not chosen: to keep the real git folder elsewhere, because a machine could replace the file that leads there.
fn covered(tree: &OwnedFd) -> io::Result<OwnedFd> {
    let (ours, theirs) = passing::pair()?;
    // SAFETY: the helper has a single thread, so the child may do whatever the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            let done = lock_together(tree).and_then(|locked| passing::send(&theirs, &locked));
            let code = done.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            // SAFETY: ends this process at once; nothing of the parent's is run twice.
            unsafe { libc::_exit(code) }
        }
        child => {
            drop(theirs);
            let locked = passing::receive(&ours);
            let status = waitpid(Pid::from_raw(child), WaitOptions::empty())?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => locked,
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => Err(io::Error::other("the process that does it was killed")),
            }
        }
    }
}

/// In a process of its own, which loses the host's rights here.
fn lock_together(tree: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: a new mount namespace shares no memory or descriptors anew; the process has a single thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Both places are of this namespace's alone.
    let desk = Path::new(RUN).join("adt-cover");
    fs::create_dir_all(desk.join("tree"))?;
    let place = open(desk.join("tree"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    put(tree, &place)?;
    std::env::set_current_dir(desk.join("tree"))?;
    // A link or what is not there can't be covered, and a machine could put another in its place.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let git = openat2(rustix::fs::CWD, ".git", flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
    match FileType::from_raw_mode(fstat(&git)?.st_mode) {
        FileType::Directory => put(&empty()?, &git)?,
        FileType::RegularFile => {
            fs::write(desk.join("file"), "")?;
            let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            put(&open_tree(rustix::fs::CWD, desk.join("file"), clone)?, &git)?;
            mount_remount(".git", MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")?;
        }
        _ => return Err(Errno::LOOP.into()),
    }
    // The copy of all mounts that this makes belongs to another user namespace: therefore the kernel locks each in its place.
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    // Our folder is the copy's. What is cloned with it stays locked below it.
    let whole = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(rustix::fs::CWD, "", whole)?)
}

/// Whether a machine sees this very folder at the mount's target.
fn in_place(inside: &OwnedFd, mount: &Mount) -> bool {
    let Ok(source) = fs::metadata(&mount.source) else { return false };
    let target = openat2(inside, mount.target.trim_matches('/'), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), IN_ROOT);
    let there = target.and_then(fstat);
    there.is_ok_and(|there| there.st_dev == source.dev() && there.st_ino == source.ino())
}

/// Takes a mount away; what can't go is covered.
fn hide(root: &OwnedFd, mount: &Mount, range: Range) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(place) = openat2(root, mount.target.trim_matches('/'), flags, Mode::empty(), IN_ROOT) else { return Ok(()) };
    let known = rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::BASIC_STATS);
    let known = known.saying("look at", &mount.target)?;
    let is_mount = known.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
    let is_cover = fstatfs(&place).is_ok_and(|kind| kind.f_type == libc::TMPFS_MAGIC);
    if !is_mount || is_cover {
        return Ok(());
    }
    drop(place);
    match unmount(&mount.target, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        // The kernel locks what a machine got at its start.
        Err(Errno::INVAL) => {
            let place = make_folders(root, mount.target.trim_matches('/'), range).saying("open", &mount.target)?;
            empty().and_then(|cover| Ok(put(&cover, &place)?)).saying("cover", &mount.target)
        }
        Err(error) => Err(error).saying("unmount", &mount.target),
    }
}

/// An empty folder that nobody can write to.
fn empty() -> io::Result<OwnedFd> {
    let kind = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&kind, "mode", "0555")?;
    fsconfig_set_string(&kind, "size", "4k")?;
    fsconfig_create(&kind)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(&kind, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

pub(super) fn put(tree: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    move_mount(tree, "", place, "", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

/// A user of the machine; one that its box does not have is its root.
fn find_user(root: &OwnedFd, name: &str) -> User {
    let read = |path: &str| {
        let file = openat2(root, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty(), IN_ROOT).ok()?;
        small_text(file.into())
    };
    let (passwd, group) = (read("etc/passwd").unwrap_or_default(), read("etc/group").unwrap_or_default());
    User::parse(name, &passwd, &group).unwrap_or_else(User::root)
}

/// Lines of an id map: what is on disk, what it is in the kernel for this machine, how many.
fn map(range: Range, owner: u32, user: u32) -> String {
    let disk = Range::DISK.all();
    let place = user.min(COUNT - 1);
    let mut lines = vec![(owner, range.id(place), 1)];
    let mut holes = vec![Range::DISK.id(place)];
    // Where the owner is one of the machine's ids itself, the two change places.
    if disk.contains(&owner) && owner != Range::DISK.id(place) {
        lines.push((Range::DISK.id(place), range.id(owner - disk.start), 1));
        holes.push(owner);
    }
    holes.sort_unstable();
    let mut first = disk.start;
    for hole in holes.into_iter().chain([disk.end]) {
        if hole > first {
            lines.push((first, range.id(first - disk.start), hole - first));
        }
        first = hole + 1;
    }
    lines.iter().map(|(disk, shown, count)| format!("{disk} {shown} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(map: &str) -> Vec<[u32; 3]> {
        let numbers = |line: &str| line.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<_>>();
        map.lines().map(|line| numbers(line).try_into().unwrap()).collect()
    }

    /// What an id on disk is in the kernel.
    fn shown(map: &str, disk: u32) -> Option<u32> {
        let line = |[from, to, count]: [u32; 3]| (from..from + count).contains(&disk).then(|| to + (disk - from));
        lines(map).into_iter().find_map(line)
    }

    #[test]
    fn the_owner_is_the_user_and_nobody_is_the_hosts_root() {
        for first in [100_000, 2_000_000] {
            let map = map(Range::at(first), 1000, 33);
            assert_eq!(shown(&map, 1000), Some(first + 33));
            for id in [0, 32, 34, 65_535] {
                assert_eq!(shown(&map, 100_000 + id), Some(first + id));
            }
            for id in [0, 33, 999, 100_033, 165_536] {
                assert_eq!(shown(&map, id), None, "{id}");
            }
        }
    }

    #[test]
    fn every_owner_gives_a_map_in_which_no_two_are_one() {
        for first in [100_000, 165_000, 2_000_000] {
            for owner in [0, 1000, 100_000, 100_033, 100_034, 165_535, 165_536, 4_000_000] {
                for user in [0, 33, 34, 65_535, 70_000] {
                    let map = map(Range::at(first), owner, user);
                    assert_eq!(shown(&map, owner), Some(first + user.min(65_535)), "{owner} {user}");
                    for column in [0, 1] {
                        let mut ranges: Vec<_> =
                            lines(&map).into_iter().map(|line| line[column]..line[column] + line[2]).collect();
                        ranges.sort_unstable_by_key(|range| range.start);
                        assert!(ranges.windows(2).all(|two| two[0].end <= two[1].start), "{owner} {user}: {map}");
                        let ours = first..first + 65_536;
                        let inside = |range: &std::ops::Range<u32>| ours.start <= range.start && range.end <= ours.end;
                        assert!(column == 0 || ranges.iter().all(inside), "{owner} {user}: {map}");
                    }
                }
            }
        }
    }
}
