//! The AppArmor profile of all machines, where the kernel has AppArmor on: one text, loaded once, under a name that tells its content.
//! So "is it loaded" also answers "is it this version's", and installations of one adt share it. Must never know what a machine is for.
//!
//! What root of a machine may do the kernel decides by user namespaces, and the filter of system calls; this is for the day on which
//! one of them lets through too much. It closes the host's settings, hardware and disks by their paths and kinds, whatever covers
//! ([`super::masks`]) a machine's root took off, and keeps signals and `ptrace` among machines' programs. A machine that is a host has
//! the same: its own machines inherit it, since what is in a user namespace loads no profile here.
//!
//! `host:bootstrap` writes it to where the host's own start loads profiles from. A start that finds it missing, after an update of
//! adt, loads it for as long as the host runs.
//!
//! Not chosen: liblxc's `generated`, a profile for each machine and start, whose compilation takes longer than the start itself;
//! and `lxc-container-default-cgns`, which denies the mounts that systemd, releases and engines of containers live on.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::disk;
use crate::exec::Command;

/// Where the host's start loads profiles from.
const FOLDER: &str = "/etc/apparmor.d";

/// What the kernel has loaded, a line for each: `name (enforce)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// All but its name. Without a version of rules (`abi`), each version of the parser would read other things into it.
const RULES: &str = r#"
  capability,
  dbus,
  file,
  mount,
  network,
  pivot_root,
  umount,
  unix,

  # The host and its modules, hardware and clock.
  deny capability mac_admin,
  deny capability mac_override,
  deny capability sys_module,
  deny capability sys_rawio,
  deny capability sys_time,

  # Programs of machines, and nobody else.
  signal (receive),
  signal (send) peer=@NAME@,
  ptrace (readby, tracedby),
  ptrace (read, trace) peer=@NAME@,
  change_profile -> @NAME@,

  # The kernel's memory, log and symbols.
  deny /dev/{kmem,mem,port} rwklx,
  deny /proc/{kallsyms,kcore,kmsg,mtrr,sysrq-trigger,timer_list} rwklx,
  deny /proc/{acpi,bus,driver,irq,scsi}/** wklx,

  # Settings of the host: what a machine has of its own is left.
  deny /proc/sys/{abi,crypto,debug,dev,sunrpc,vm}/** wklx,
  deny /proc/sys/fs/[^bm]** wklx,
  deny /proc/sys/kernel/{core_*,dmesg_restrict,ftrace*,hotplug,kexec_*,kptr_restrict,modprobe,modules_disabled} wklx,
  deny /proc/sys/kernel/{panic*,perf_*,poweroff_cmd,printk*,randomize_va_space,sysrq,tainted,unprivileged_*} wklx,
  deny /proc/sys/kernel/{firmware_config,keys,usermodehelper,yama}/** wklx,

  # Hardware and firmware; networks and control groups are the machine's.
  deny /sys/{block,bus,dev,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/devices/[^v]*/** wklx,
  deny /sys/devices/virtual/[^n]*/** wklx,
  deny /sys/fs/{btrfs,ext4,f2fs,pstore,selinux,smackfs,xfs}/** wklx,
  deny /sys/kernel/{debug,security,tracing}/** rwklx,

  # Disks, other hosts' disks, and what shows the inside of the kernel.
  deny mount fstype=(ext2,ext3,ext4,xfs,btrfs,f2fs,jfs,reiserfs,minix,hfs,hfsplus,squashfs,erofs),
  deny mount fstype=(vfat,msdos,exfat,ntfs,ntfs3,iso9660,udf),
  deny mount fstype=(nfs,nfs4,cifs,smb3,ceph,9p,virtiofs),
  deny mount fstype=(debugfs,tracefs,securityfs,configfs,pstore,efivarfs),
"#;

/// How a machine's programs are confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// The kernel has no AppArmor, or it is off.
    Off,
    /// What has us has its machines too.
    Inherited,
    /// By the profile of this name.
    Profile(String),
    /// By none, and why.
    Lacking(String),
}

impl Confinement {
    /// What a machine that starts now gets; loads the profile where it can be loaded.
    pub fn for_start() -> Self {
        match Self::seen() {
            Self::Lacking(_) => load_text(&text()).map_or_else(Self::Lacking, |()| Self::Profile(name())),
            other => other,
        }
    }

    /// The same, without a change.
    pub fn seen() -> Self {
        if !is_on() {
            Self::Off
        } else if !disk::host::is_real() {
            Self::Inherited
        } else if is_loaded() {
            Self::Profile(name())
        } else {
            Self::Lacking(format!("the profile `{}` is not loaded", name()))
        }
    }

    /// As liblxc wants it said.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Off => None,
            Self::Inherited => Some("unchanged"),
            Self::Profile(name) => Some(name),
            Self::Lacking(_) => Some("unconfined"),
        }
    }
}

fn is_on() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// Whether this host's kernel has profiles for us to load.
pub fn is_ours_to_set() -> bool {
    is_on() && disk::host::is_real()
}

pub fn name() -> String {
    let digest = Sha256::digest(RULES);
    format!("adt-{}", digest[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn text() -> String {
    let name = name();
    format!(
        "# Written by `adt host:bootstrap`; `adt host:bootstrap --remove` removes it.\nabi <abi/3.0>,\n\n\
         profile {name} flags=(attach_disconnected,mediate_deleted) {{{}}}\n",
        RULES.replace("@NAME@", &name)
    )
}

fn is_loaded() -> bool {
    let start = format!("{} (", name());
    fs::read_to_string(LOADED).is_ok_and(|text| text.lines().any(|line| line.starts_with(&start)))
}

/// An installation's own file, so that none takes another's away.
pub fn file(install: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("adt-{install}"))
}

/// Whether it is loaded, and will be after the next start of this host, whichever installation saw to it; `Err` says what is missing.
pub fn state() -> Result<String, String> {
    let text = text();
    let Some(file) = files().find(|file| fs::read_to_string(file).is_ok_and(|found| found == text)) else {
        return Err(format!("not in {FOLDER}"));
    };
    if is_loaded() { Ok(format!("loaded, as in {}", file.display())) } else { Err("not loaded".into()) }
}

/// Those that installations wrote.
fn files() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("adt-")).map(|entry| entry.path())
}

/// Writes and loads it. The reason of a failure is in words.
pub fn set_up(install: &str) -> Result<(), String> {
    let file = file(install);
    disk::File::at(&file).mode(0o644).write(text()).map_err(|error| format!("write `{}`: {error}", file.display()))?;
    load_text(&text())
}

fn load_text(text: &str) -> Result<(), String> {
    parser("--replace", text)
}

fn parser(verb: &str, text: &str) -> Result<(), String> {
    // Its cache would outlive us.
    let command = Command::new("apparmor_parser").args([verb, "--quiet", "--skip-cache"]);
    command.stdin(text).run().map(drop).map_err(|error| {
        let said = error.tail().join(" ");
        if said.is_empty() { error.to_string() } else { format!("{error}: {said}") }
    })
}

/// Takes the installation's file away, and with the last of them the profile, unless some machine still has it. `None` where there
/// was none.
pub fn take_out(install: &str, dry_run: bool) -> Result<Option<PathBuf>, String> {
    let file = file(install);
    if !file.exists() {
        return Ok(None);
    }
    if !dry_run {
        fs::remove_file(&file).map_err(|error| format!("remove `{}`: {error}", file.display()))?;
        if is_loaded() && !is_used() {
            parser("--remove", &text())?;
        }
    }
    Ok(Some(file))
}

/// Whether another installation wrote it, or a program of a machine has it.
fn is_used() -> bool {
    let name = name();
    let has_it = |entry: fs::DirEntry| {
        let label = fs::read_to_string(entry.path().join("attr/current"));
        label.is_ok_and(|label| label.split_whitespace().next() == Some(&name))
    };
    files().next().is_some() || fs::read_dir("/proc").into_iter().flatten().flatten().any(has_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_of_one_profile_whose_name_tells_its_content() {
        let text = text();
        assert!(text.contains(&format!("profile {} flags=", name())) && !text.contains('@'), "{text}");
        assert_eq!(text.matches(&format!("peer={},\n", name())).count(), 2, "{text}");
        assert!(text.ends_with("),\n}\n"), "{text}");
    }

    #[test]
    fn liblxc_is_never_left_to_choose_where_apparmor_is_on() {
        assert_eq!(Confinement::Off.word(), None);
        for on in [Confinement::Inherited, Confinement::Profile("adt-1".into()), Confinement::Lacking("why".into())] {
            assert!(on.word().is_some_and(|word| word != "generated"), "{on:?}");
        }
    }
}
