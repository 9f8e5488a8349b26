//! What a machine gets that is a host itself (`MachineSpec::host`), and no other machine: enough ids for machines of its own, a
//! `/proc` and `/sys` of which the kernel allows copies, its control groups, and devices for networks and file systems in user
//! space. Must never know how the machines in it are made.
//!
//! ```text
//! real host ── a machine with `host = true` ── its machines        no level more
//! ```
//! Whatever it mounts, makes or enters stays in its user namespace: its root, and that of its machines, is nobody on the real
//! host, as any machine's. The filter of system calls is the same. What differs: a service of it that makes namespaces can mount a
//! `/proc` without the covers of [`super::masks`], since the kernel refuses one to its machines unless there is one to be seen; in
//! other machines only root can uncover it. Addresses, memory and the log of the kernel are closed there, too.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount};

use super::ids::{COUNT, Range};
use super::overlay::{Error, RUN, Saying};
use crate::providers::Trouble;

/// Its own 0 to 65535, and 100000 to 165535, which its machines have on disk. They can't have others in the kernel, because it
/// maps ids for a mount only where the file system is of the same user namespace; so ids for each of them would lie idle.
pub const IDS: u32 = 3 * COUNT;

/// Where a start makes the devices, in its own mount namespace.
const DEVICES: &str = "adt/devices";

/// Name below `/dev`, major and minor number.
const NODES: [(&str, u32, u32); 2] = [("net/tun", 10, 200), ("fuse", 10, 229)];

/// liblxc's configuration, instead of a usual machine's mounts.
pub fn lines() -> Vec<(&'static str, String)> {
    // Forced, because systemd mounts `cpu` and `cpuacct` of version 1 as one where its host has two, and liblxc stumbles over it.
    let mut lines = vec![("lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed:force".to_owned())];
    // Where liblxc's own configuration for nesting has them. Its root's alone.
    for entry in [
        "none dev/.lxc tmpfs create=dir,mode=0700,size=4k,nosuid,nodev,noexec 0 0",
        "proc dev/.lxc/proc proc create=dir,nosuid,nodev,noexec 0 0",
        "sys dev/.lxc/sys sysfs create=dir,nosuid,nodev,noexec 0 0",
    ] {
        lines.push(("lxc.mount.entry", entry.to_owned()));
    }
    for (name, ..) in NODES {
        lines.push(("lxc.mount.entry", format!("{RUN}/{DEVICES}/{name} dev/{name} none bind,create=file 0 0")));
    }
    lines
}

/// Makes the devices that its root may open: the real host's are the host's root's, and no folder of a machine may have any.
pub fn devices(range: Range) -> Result<(), Error> {
    let folder = Path::new(RUN).join(DEVICES);
    fs::create_dir_all(&folder).saying("create", &folder)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("adt", &folder, "tmpfs", flags, Some(c"mode=0755,size=4k,nr_inodes=8")).saying("mount", &folder)?;
    for (name, major, minor) in NODES {
        let node = folder.join(name);
        let above = node.parent().expect("it lies in the folder");
        fs::create_dir_all(above).saying("create", above)?;
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            .saying("make the device", &node)?;
        // Whatever the mask of new files is: users open both, and what they may do there the kernel decides.
        fs::set_permissions(&node, PermissionsExt::from_mode(0o666)).saying("open to users", &node)?;
        chown(&node, Some(range.root()), Some(range.root())).saying("give away", &node)?;
    }
    Ok(())
}

/// What is less in such a machine than on a real host.
pub fn trouble() -> Trouble {
    Trouble {
        seen:
            "this host is a machine itself: all machines in it have the ids 100000-165535 together, sites can't be served from a \
               checkout, and they can't be hosts once more"
                .into(),
        remedy: "where that matters, run them on the real host".into(),
    }
}
