//! The control groups of machines, read and written directly: whether a machine runs is the kernel's word, and asking it
//! must work without liblxc, for half-started machines too.
//!
//! ```text
//! adt/                      one tree in every hierarchy
//!   lxc.pivot, pivot/…      where liblxc's monitors end their lives
//!   <tag>/                  an environment
//!     <machine>/            its processes; systemd makes groups of its own below
//!     <machine>.monitor/    liblxc's monitor of it
//!     <machine>.helper/     who is starting it: empty once the monitor has taken over
//! ```
//! Version 1 has a tree per controller, version 2 one for all, and hosts in between have both.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

use crate::model::{MachineId, Tag};

pub const TOP: &str = "adt";
pub const PIVOT: &str = "adt/pivot";

/// The group of a machine, relative to every hierarchy's root.
pub fn group(install: &str, id: &MachineId) -> String {
    format!("{TOP}/{}/{}", Tag::of(install, &id.environment), id.machine)
}

/// The group of a machine's monitor. A machine's name has no dot, so the two never meet.
pub fn monitor(group: &str) -> String {
    format!("{group}.monitor")
}

/// The group of whoever starts a machine. liblxc moves the monitor out of it, so that what is in there is always a start
/// that goes on or was cut off.
pub fn helper(group: &str) -> String {
    format!("{group}.helper")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Legacy,
    Unified,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// Where groups that liblxc makes begin.
    pub root: PathBuf,
    pub controllers: Vec<String>,
}

/// What this host offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies(Vec<Hierarchy>);

/// For `host:check`: which version serves each limit, and which limit can't be kept here.
impl fmt::Display for Hierarchies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "control groups")?;
        for controller in ["memory", "cpu", "pids"] {
            match self.version_of(controller) {
                Some(Version::Legacy) => write!(f, " {controller}:v1")?,
                Some(Version::Unified) => write!(f, " {controller}:v2")?,
                None => write!(f, " {controller}:none (its limit is not kept)")?,
            }
        }
        Ok(())
    }
}

impl Hierarchies {
    pub fn detect() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        // liblxc, run by root, makes groups beside that of the host's init, wherever it runs itself.
        let init = fs::read_to_string("/proc/1/cgroup")?;
        Ok(Self::parse(&mounts, &init, |root| {
            let text = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        }))
    }

    fn parse(mounts: &str, init: &str, unified: impl Fn(&Path) -> Vec<String>) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, target, kind, options, ..] = fields[..] else { continue };
            let (version, wanted) = match kind {
                "cgroup" => (Version::Legacy, legacy_controllers(options)),
                "cgroup2" => (Version::Unified, Vec::new()),
                _ => continue,
            };
            let Some(base) = base_of(init, version, &wanted) else { continue };
            let root = Path::new(target).join(base);
            let controllers = if version == Version::Unified { unified(&root) } else { wanted };
            // The same hierarchy may be mounted twice.
            if !found.iter().any(|h| h.version == version && h.controllers == controllers) {
                found.push(Hierarchy { version, root, controllers });
            }
        }
        Self(found)
    }

    pub fn version_of(&self, controller: &str) -> Option<Version> {
        self.with(controller).map(|hierarchy| hierarchy.version)
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|hierarchy| hierarchy.controllers.iter().any(|c| c == controller))
    }

    /// The hierarchy in which a machine's processes are looked up. With version 1 that is the freezer's, because systemd
    /// never makes groups in it: one file lists every process.
    fn census(&self) -> Option<&Hierarchy> {
        ["freezer", "pids", "memory"]
            .iter()
            .find_map(|controller| {
                self.0.iter().find(|h| h.version == Version::Legacy && h.controllers.iter().any(|c| c == controller))
            })
            .or_else(|| self.0.iter().find(|h| h.version == Version::Unified))
            .or_else(|| self.0.first())
    }

    /// The folder of a group in each hierarchy, whether it exists or not.
    fn folders<'a>(&'a self, group: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        self.0.iter().map(move |hierarchy| hierarchy.root.join(group))
    }

    pub fn exists(&self, group: &str) -> bool {
        self.folders(group).any(|folder| folder.exists())
    }

    /// Whether any hierarchy knows the group. `TOP/<tag>` tells at once for a whole environment that nothing of it runs.
    pub fn children(&self, group: &str) -> Vec<String> {
        let Some(census) = self.census() else { return Vec::new() };
        let Ok(entries) = fs::read_dir(census.root.join(group)) else { return Vec::new() };
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Process 1 of the machine, as a process of the host.
    pub fn init(&self, group: &str) -> Option<Pid> {
        let folder = self.census()?.root.join(group);
        let first = procs(&folder).into_iter().chain(procs(&folder.join("init.scope"))).find(|pid| is_init(*pid));
        first.or_else(|| all_procs(&folder).into_iter().find(|pid| is_init(*pid)))
    }

    /// Every process of the group and those below it, in every hierarchy.
    pub fn processes(&self, group: &str) -> Vec<Pid> {
        let mut pids: Vec<Pid> = self.folders(group).flat_map(|folder| all_procs(&folder)).collect();
        pids.sort_by_key(|pid| pid.as_raw_nonzero());
        pids.dedup();
        pids
    }

    pub fn has_living(&self, group: &str) -> bool {
        self.processes(group).into_iter().any(is_alive)
    }

    pub fn is_frozen(&self, group: &str) -> bool {
        let Some((folder, version)) = self.freezer(group) else { return false };
        match version {
            Version::Legacy => read(&folder, "freezer.state").is_some_and(|text| text.trim() == "FROZEN"),
            Version::Unified => read(&folder, "cgroup.events").is_some_and(|text| text.lines().any(|line| line == "frozen 1")),
        }
    }

    /// Stops or continues every process of the group; returns when the kernel says it is so.
    pub fn set_frozen(&self, group: &str, frozen: bool, deadline: Duration) -> io::Result<bool> {
        let (folder, version) = self.freezer(group).ok_or_else(|| io::Error::other("the host offers no cgroup freezer"))?;
        let until = Instant::now() + deadline;
        loop {
            // Written again each time: a version 1 freezer gives up on processes that are being born.
            match version {
                Version::Legacy => fs::write(folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })?,
                Version::Unified => fs::write(folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?,
            }
            if self.is_frozen(group) == frozen {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn freezer(&self, group: &str) -> Option<(PathBuf, Version)> {
        let hierarchy = self.with("freezer").or_else(|| self.0.iter().find(|h| h.version == Version::Unified))?;
        Some((hierarchy.root.join(group), hierarchy.version))
    }

    /// Puts limits in force on a group that exists.
    pub fn apply(&self, group: &str, settings: &[super::config::Setting]) -> io::Result<()> {
        for setting in settings {
            let Some(hierarchy) = self.with(setting.controller) else { continue };
            let folder = hierarchy.root.join(group);
            if folder.exists() {
                fs::write(folder.join(setting.file), &setting.value)?;
            }
        }
        Ok(())
    }

    /// Kills whatever is in the group until nothing is, then removes it. False when something outlived the deadline.
    pub fn clear(&self, group: &str, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        loop {
            let left = self.processes(group);
            if left.is_empty() && self.remove(group) {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            if !left.is_empty() {
                // A frozen process of version 1 dies only once it is thawed.
                let _ = self.set_frozen(group, false, Duration::ZERO);
            }
            for pid in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes empty groups, the inner ones first. True when none is left.
    fn remove(&self, group: &str) -> bool {
        self.folders(group).filter(|folder| !remove_tree(folder)).count() == 0
    }

    /// Keeps the groups that machines share from being removed while one is starting. Held on the tree itself, so it counts
    /// for every installation on the host, leaves no file and ends with the process.
    pub fn hold(&self) -> io::Result<Option<File>> {
        self.lock(FlockOperation::LockShared)
    }

    /// Moves this process and what it starts into a group.
    pub fn enter(&self, group: &str) -> io::Result<()> {
        let Some(census) = self.census() else { return Ok(()) };
        let folder = census.root.join(group);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("cgroup.procs"), "0")
    }

    fn lock(&self, how: FlockOperation) -> io::Result<Option<File>> {
        let Some(census) = self.census() else { return Ok(None) };
        let file = File::open(&census.root)?;
        flock(&file, how)?;
        Ok(Some(file))
    }

    /// Removes the environment's group and the top when nothing uses them.
    pub fn prune(&self, group: &str) {
        // liblxc makes `adt/<tag>/<machine>` step by step; taking a step away meanwhile would fail its start.
        let Ok(_lock) = self.lock(FlockOperation::LockExclusive) else { return };
        let environment = group.rsplit_once('/').map_or(group, |(environment, _)| environment);
        for hierarchy in &self.0 {
            let _ = fs::remove_dir(hierarchy.root.join(environment));
            let top = hierarchy.root.join(TOP);
            // The pivot is shared: it may go only when no machine is left.
            let others = fs::read_dir(&top).is_ok_and(|entries| {
                entries.flatten().any(|e| e.file_name() != "pivot" && e.file_type().is_ok_and(|kind| kind.is_dir()))
            });
            if !others {
                remove_tree(&top);
            }
        }
    }

    #[cfg(test)]
    pub fn fixed(version: Version) -> Self {
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).to_vec();
        Self(vec![Hierarchy { version, root: PathBuf::from("/sys/fs/cgroup"), controllers }])
    }
}

/// Mount options that are no controllers.
const OPTIONS: [&str; 10] =
    ["rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "clone_children", "xattr", "cpuset_v2_mode"];

fn legacy_controllers(options: &str) -> Vec<String> {
    options.split(',').filter(|o| !OPTIONS.contains(o) && !o.starts_with("release_agent=")).map(str::to_owned).collect()
}

/// The group of the host's init in one hierarchy, without systemd's leaf, relative.
fn base_of(init: &str, version: Version, controllers: &[String]) -> Option<String> {
    init.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = match version {
            Version::Unified => names.is_empty(),
            Version::Legacy => !names.is_empty() && names.split(',').all(|name| controllers.iter().any(|c| c == name)),
        };
        same.then(|| path.trim_end_matches("/init.scope").trim_matches('/').to_owned())
    })
}

/// The kernel tells no size of these: the standard library would ask for one, and begin with some thirty bytes. Looking at many
/// machines is mostly this.
fn read(folder: &Path, file: &str) -> Option<String> {
    let mut text = String::with_capacity(4096);
    File::open(folder.join(file)).ok()?.take(u64::MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn procs(folder: &Path) -> Vec<Pid> {
    let text = read(folder, "cgroup.procs").unwrap_or_default();
    // 0 stands for a process of a namespace that we can't see.
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn all_procs(folder: &Path) -> Vec<Pid> {
    let mut pids = procs(folder);
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            pids.extend(all_procs(&entry.path()));
        }
    }
    pids
}

fn remove_tree(folder: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The kernel's mark of a process that was forked and has not yet become another program.
const NOT_YET_ITSELF: u64 = 0x40;
/// The kernel's mark of a process on its way out, from the first step to the corpse that its parent has not yet fetched.
const ENDING: u64 = 0x4;

/// Whether a process is alive, number 1 of a process namespace directly below ours, and past liblxc's preparations.
fn is_init(pid: Pid) -> bool {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let Some(status) = read(&folder, "status") else { return false };
    let Some(pids) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else { return false };
    if pids.split_whitespace().skip(1).collect::<Vec<_>>() != ["1"] {
        return false;
    }
    !is_killed(&status) && flags(pid).is_some_and(|flags| flags & (NOT_YET_ITSELF | ENDING) == 0)
}

/// Killed, but still ending the machine's other processes: that takes a while, and nobody may wait for an answer from there.
fn is_killed(status: &str) -> bool {
    const KILL: u64 = 1 << 8;
    let pending = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & KILL != 0)
}

/// Whether a process is more than a corpse.
fn is_alive(pid: Pid) -> bool {
    flags(pid).is_some_and(|flags| flags & ENDING == 0)
}

/// The kernel's flags of a process.
fn flags(pid: Pid) -> Option<u64> {
    let stat = read(Path::new(&format!("/proc/{pid}")), "stat")?;
    // The name, in brackets, may hold anything; the flags are the seventh field behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_layout() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n";
        let found = Hierarchies::parse(mounts, "0::/init.scope\n", |_| vec!["cpu".into(), "memory".into(), "pids".into()]);
        assert_eq!(found, Hierarchies::fixed(Version::Unified));
        assert_eq!(found.version_of("memory"), Some(Version::Unified));
        assert_eq!(found.census().unwrap().root, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn the_hybrid_layout_with_an_empty_unified_tree() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let init = "4:name=systemd:/init.scope\n3:freezer:/\n2:cpu,cpuacct:/box\n0::/init.scope\n";
        let found = Hierarchies::parse(mounts, init, |_| vec![]);
        assert_eq!(found.0.len(), 4);
        assert_eq!(found.version_of("cpu"), Some(Version::Legacy));
        assert_eq!(found.version_of("memory"), None);
        assert_eq!(found.with("cpu").unwrap().root, Path::new("/sys/fs/cgroup/cpu,cpuacct/box"));
        assert_eq!(found.census().unwrap().root, Path::new("/sys/fs/cgroup/freezer"));
    }

    #[test]
    fn we_are_not_the_init_of_a_machine() {
        assert!(!is_init(rustix::process::getpid()));
    }
}
