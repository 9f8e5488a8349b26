//! What of the host's kernel the services of a machine do not see in `/proc` and `/sys`: what tells of the host or of other
//! machines, and that no service has a use for.
//!
//! ```text
//! liblxc: mounts proc and sys, waits ─► hook (as the host's root): enters the machine's mounts, covers ─► init starts
//! ```
//! The hook is this program, called by liblxc's monitor: `/proc/$PPID/exe` is the very program that started the machine, also
//! when another was installed meanwhile.
//!
//! A machine's root may uncover it, or mount a `/proc` of its own: its power over its mounts is what systemd, the phases of a
//! release and engines of containers live on. What acts on the host the kernel refuses to it there too, and to show it is all
//! that a fresh `/proc` does; addresses, memory and the log of the kernel are shown to the host's own root alone.
//!
//! Not chosen: covers that the kernel locks, by a copy through another user namespace as for `.git`. It works, but the kernel
//! then refuses a `/proc` of its own to every pid namespace in the machine: a release's phase would see the processes of the
//! services that it must not touch, and leave its own mounts by their `root`; and no engine of containers would start one.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, open, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::overlay::{Error, RUN, Saying};

/// The verb that nobody types.
pub const VERB: &str = "internal:lxc-masks";

/// liblxc's key and how it calls us, with the machine's init as `LXC_PID`. Its shell knows its parent, the monitor, and becomes
/// what it starts.
pub const HOOK: (&str, &str) = ("lxc.hook.start-host", "/proc/$PPID/exe internal:lxc-masks");

/// The filesystems that carry covers, and what the kernel calls their kind.
const ROOTS: [(&str, i64); 2] = [("/proc", 0x9fa0), ("/sys", 0x6265_6572)];

/// Folders are empty and files can't be opened. What a kernel doesn't have is left out.
const HIDDEN: &[&str] = &[
    // The kernel's log, memory, symbols, configuration and what it is at.
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/kernel/boot_params",
    "/sys/kernel/btf",
    "/sys/kernel/debug",
    "/sys/kernel/notes",
    "/sys/kernel/tracing",
    "/sys/kernel/vmcoreinfo",
    // Keys, which are those of each machine with the same ids.
    "/proc/key-users",
    "/proc/keys",
    // The host's hardware, disks and firmware.
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/driver",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/scsi",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/power",
    // Acts on the host.
    "/proc/sysrq-trigger",
    // Settings of the host that are no service's business: its hardware, its helpers and their paths.
    "/proc/sys/abi",
    "/proc/sys/crypto",
    "/proc/sys/debug",
    "/proc/sys/dev",
    "/proc/sys/sunrpc",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/firmware_config",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/keys",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/printk",
    "/proc/sys/kernel/tainted",
    "/proc/sys/kernel/usermodehelper",
];

/// The hook's `main`.
pub fn main() -> i32 {
    let Some(init) = std::env::var("LXC_PID").ok().and_then(|pid| pid.parse().ok()) else { return 2 };
    // Opened before: by the time that something fails, this path may be the machine's.
    let run = open(RUN, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Err(error) = cover(init) else { return 0 };
    // liblxc keeps what its hooks print to itself. Whoever waits for the start has the same `/run/lxc`.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(file) = run.and_then(|run| openat(&run, COMPLAINT, flags, Mode::from_raw_mode(0o600))) {
        let _ = fs::File::from(file).write_all(error.to_string().as_bytes());
    }
    1
}

const COMPLAINT: &str = "adt-masks.failed";

/// Why the covers of the machine whose start has just failed could not be made.
pub fn failure() -> Option<String> {
    fs::read_to_string(Path::new(RUN).join(COMPLAINT)).ok()
}

fn cover(init: u32) -> Result<(), Error> {
    let covers = covers()?;
    let namespace = PathBuf::from(format!("/proc/{init}/ns/mnt"));
    let inside = open(&namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).saying("open", &namespace)?;
    move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Mount)).saying("enter", &namespace)?;
    for (path, kind) in ROOTS {
        let root = folder(path).saying("open", path)?;
        let found = fstatfs(&root).saying("look at", path)?.f_type;
        if found != kind {
            return Err(io::Error::other("it is something else")).saying("cover what is in", path);
        }
    }
    for (path, cover) in covers {
        // The machine's own may have less in it than the host's.
        match openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(place) => put(&cover, &place).saying("cover", path)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).saying("cover", path),
        }
    }
    Ok(())
}

/// A cover for all that this kernel has of [`HIDDEN`]: of the kind of what is below, which nobody can write to.
fn covers() -> Result<Vec<(&'static str, OwnedFd)>, Error> {
    let desk = Path::new(RUN).join("adt-masks");
    fs::create_dir_all(&desk).saying("create", &desk)?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("adt", &desk, "tmpfs", plain, Some(c"mode=0555,size=4k,nr_inodes=8")).saying("mount", &desk)?;
    let (empty, closed) = (desk.join("folder"), desk.join("file"));
    fs::create_dir(&empty).saying("create", &empty)?;
    // No user of the machine's has a right to it, and its root has no power over files of the host's.
    fs::write(&closed, "").saying("create", &closed)?;
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).saying("close", &closed)?;
    mount_remount(&desk, MountFlags::BIND | MountFlags::RDONLY | plain, c"").saying("protect", &desk)?;
    let mut covers = Vec::new();
    for path in HIDDEN {
        let Ok(known) = fs::symlink_metadata(path) else { continue };
        let source = if known.is_dir() { &empty } else { &closed };
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        covers.push((*path, open_tree(CWD, source, clone).saying("open", source)?));
    }
    Ok(covers)
}

fn folder(path: &str) -> rustix::io::Result<OwnedFd> {
    openat2(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn put(tree: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    move_mount(tree, "", place, "", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}
