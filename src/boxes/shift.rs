//! The id range that unprivileged machines use: moves a tree's owners into it, together with what carries ids besides the inode
//! (file capabilities and POSIX access lists), and tells what a machine sees of an id on disk.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};

use super::{Error, Result};

/// Where the machines' id 0 is on the host.
pub const BASE: u32 = 100_000;
/// How many ids a machine has.
pub const COUNT: u32 = 65_536;

pub(super) const CAPABILITY: &str = "security.capability";
pub(super) const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Shifts everything below `root`, and `root` itself. An owner that is in the range already stays, so an interrupted run may be
/// repeated; one that no machine can have becomes the machine's root.
pub fn tree(root: &Path) -> Result<()> {
    let mut linked = std::collections::HashSet::new();
    for entry in walkdir::WalkDir::new(root).follow_links(false) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            Error::Io { what: "could not read", path, source: error.into() }
        })?;
        let path = entry.path();
        let meta = std::fs::symlink_metadata(path).map_err(Error::io("could not read", path))?;
        // A second name of a file that is done.
        if !meta.is_dir() && meta.nlink() > 1 && !linked.insert(meta.ino()) {
            continue;
        }
        one(path, &meta).map_err(Error::io("could not shift the owner of", path))?;
    }
    Ok(())
}

fn one(path: &Path, meta: &std::fs::Metadata) -> std::io::Result<()> {
    let (uid, gid) = (shifted(meta.uid()), shifted(meta.gid()));
    // chown drops file capabilities and clears the set-id bits.
    let capability = if meta.is_file() { get(path, CAPABILITY)? } else { None };
    if (uid, gid) != (meta.uid(), meta.gid()) {
        chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
        if !meta.is_symlink() && meta.mode() & 0o6000 != 0 {
            // Not a link, and the tree is ours alone: nothing can replace it by one meanwhile.
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(meta.mode() & 0o7777))?;
        }
    }
    if let Some(value) = capability.as_deref().and_then(namespaced) {
        xattr::set(path, CAPABILITY, &value)?;
    }
    if !meta.is_symlink() {
        for list in LISTS {
            if let Some(value) = get(path, list)?.as_deref().and_then(shifted_list) {
                xattr::set(path, list, &value)?;
            }
        }
    }
    Ok(())
}

pub(super) fn shifted(id: u32) -> u32 {
    match id {
        0..COUNT => id + BASE,
        id if (BASE..BASE + COUNT).contains(&id) => id,
        _ => BASE,
    }
}

/// An owner on disk as the machine sees it: the way back of [`shifted`].
pub(super) fn inside(id: u32) -> u32 {
    shifted(id) - BASE
}

fn get(path: &Path, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    match xattr::get(path, OsStr::new(name)) {
        // A filesystem without attributes or lists has none to shift.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => Ok(None),
        other => other,
    }
}

/// The two revisions of a file's capability that are in use, in the highest byte of its first word.
const FOR_ALL: u32 = 0x0200_0000;
const FOR_ONE: u32 = 0x0300_0000;

/// `struct vfs_cap_data` (revision 2, five words) to `struct vfs_ns_cap_data` (revision 3, with the root id that the
/// capability is good for): the kernel ignores revision 2 for files that a user namespace's root owns.
pub(super) fn namespaced(value: &[u8]) -> Option<Vec<u8>> {
    let flags = flags_of(value, FOR_ALL, 20)?;
    let mut new = (FOR_ONE | flags).to_le_bytes().to_vec();
    new.extend_from_slice(&value[4..]);
    new.extend_from_slice(&BASE.to_le_bytes());
    Some(new)
}

/// The way back of [`namespaced`]; `None` for a capability that is good for no machine's root.
pub(super) fn inside_capability(value: &[u8]) -> Option<Vec<u8>> {
    let Some(flags) = flags_of(value, FOR_ONE, 24) else { return flags_of(value, FOR_ALL, 20).map(|_| value.to_vec()) };
    let root = u32::from_le_bytes(value.last_chunk::<4>().copied()?);
    let words = &value[4..20];
    (root == BASE).then(|| (FOR_ALL | flags).to_le_bytes().into_iter().chain(words.iter().copied()).collect())
}

fn flags_of(value: &[u8], revision: u32, length: usize) -> Option<u32> {
    let magic = u32::from_le_bytes(value.first_chunk::<4>().copied()?);
    (magic & 0xff00_0000 == revision && value.len() == length).then_some(magic & 0x00ff_ffff)
}

fn shifted_list(value: &[u8]) -> Option<Vec<u8>> {
    let new = list_with(value, shifted)?;
    (new != value).then_some(new)
}

/// A list is a version word and entries of tag (2 bytes), permissions (2) and id (4); only named users and groups have ids.
pub(super) fn list_with(value: &[u8], owner: impl Fn(u32) -> u32) -> Option<Vec<u8>> {
    const VERSION: u32 = 2;
    const NAMED: [u16; 2] = [0x02, 0x08];
    if u32::from_le_bytes(value.first_chunk::<4>().copied()?) != VERSION || !(value.len() - 4).is_multiple_of(8) {
        return None;
    }
    let mut new = value.to_vec();
    for entry in new[4..].chunks_exact_mut(8) {
        if NAMED.contains(&u16::from_le_bytes([entry[0], entry[1]])) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&owner(id).to_le_bytes());
        }
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// `cap_net_raw+ep`, as setcap writes it.
    const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn ids_move_once_and_strangers_become_root() {
        for (id, wanted) in [(0, 100_000), (33, 100_033), (65_535, 165_535), (100_033, 100_033), (70_000, BASE), (u32::MAX, BASE)]
        {
            assert_eq!(shifted(id), wanted, "{id}");
            assert_eq!(inside(id), wanted - BASE, "{id}");
        }
    }

    #[test]
    fn capabilities_become_good_for_the_machines_root() {
        let new = namespaced(&NET_RAW).unwrap();
        assert_eq!(new.len(), 24);
        assert_eq!(new[..4], [1, 0, 0, 3]);
        assert_eq!(new[20..], BASE.to_le_bytes());
        assert_eq!(namespaced(&new), None);
        assert_eq!(namespaced(&[]), None);
        assert_eq!(inside_capability(&new).unwrap(), NET_RAW);
        assert_eq!(inside_capability(&NET_RAW).unwrap(), NET_RAW);
        let strangers: Vec<u8> = new[..20].iter().copied().chain(7u32.to_le_bytes()).collect();
        assert_eq!((inside_capability(&strangers), inside_capability(&[])), (None, None));
    }

    #[test]
    fn only_named_entries_of_a_list_move() {
        let list = |user: u32| {
            let mut list = 2u32.to_le_bytes().to_vec();
            for (tag, id) in [(0x01u16, u32::MAX), (0x02, user), (0x04, u32::MAX), (0x10, u32::MAX)] {
                list.extend(tag.to_le_bytes().into_iter().chain(6u16.to_le_bytes()).chain(id.to_le_bytes()));
            }
            list
        };
        assert_eq!(shifted_list(&list(33)), Some(list(100_033)));
        assert_eq!(shifted_list(&list(100_033)), None);
        assert_eq!(shifted_list(&[2, 0, 0, 0, 1]), None);
        assert_eq!(list_with(&list(100_033), inside), Some(list(33)));
    }

    #[test]
    fn a_tree_keeps_its_modes_and_links_are_not_followed() {
        if !root() {
            eprintln!("NOT RUN: shifting owners needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let tree_root = folder.path().join("rootfs");
        std::fs::create_dir(&tree_root).unwrap();
        let file = tree_root.join("ping");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4755)).unwrap();
        xattr::set(&file, CAPABILITY, &NET_RAW).unwrap();
        std::fs::hard_link(&file, tree_root.join("ping4")).unwrap();
        symlink(outside.path(), tree_root.join("link")).unwrap();
        symlink("nowhere", tree_root.join("dangling")).unwrap();
        for _ in 0..2 {
            tree(&tree_root).unwrap();
            let meta = std::fs::metadata(&file).unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (BASE, BASE, 0o4755));
            assert_eq!(xattr::get(&file, CAPABILITY).unwrap().unwrap(), namespaced(&NET_RAW).unwrap());
            assert_eq!(std::fs::symlink_metadata(tree_root.join("link")).unwrap().uid(), BASE);
            assert_eq!(outside.as_file().metadata().unwrap().uid(), 0);
        }
    }
}
