//! The ids that a machine has. On disk all machines have the same ones, so that they share layers and a machine's files can
//! become a layer; in the kernel each has a range of its own for as long as it runs, so that what the kernel counts per user
//! (inotify instances, keys, pending signals, message queues) is never another machine's.
//!
//! ```text
//! on disk                               in the kernel                           in the machine
//! 100000 + n  ── id-mapped mounts ──▶   first + n  ── its user namespace ──▶    n
//! ```
//! - A machine takes a free range when it starts. Nothing remembers which: what runs says it itself (`/proc/PID/uid_map`), so
//!   one that an older adt started is as good as any, and two installations on one host can't disagree.
//! - Free is what no process of any machine has, what no machine that starts at this moment has claimed, and what `/etc/subuid`
//!   and `/etc/subgid` give to nobody.
//! - What is made in a user namespace the kernel counts once more, for the namespace's owner in the namespace above. liblxc's
//!   would all be the host's root's, and a machine could use up what its host has. Therefore we make the namespace, as the
//!   range's first id, and liblxc enters it.
//!
//! Not chosen: files on disk in the machine's own range (a copy of every layer for each), a range for life in the database
//! (an environment may have more machines than one range for each of 1,024 networks leaves, and it says nothing of the
//! machines of another installation).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, Gid, Uid};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{UnshareFlags, set_thread_res_gid, set_thread_res_uid, unshare_unsafe};

use crate::model::IdPool;

use super::cgroup::{Hierarchies, TOP};
use super::passing;
use crate::providers::Trouble;

/// How many ids a machine has; [`super::host::IDS`] where it is a host itself.
pub const COUNT: u32 = 65_536;

/// The ids of one machine, users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: u32,
    count: u32,
}

impl Range {
    /// Whose files on disk are, and which all machines have where a filesystem can't map ids.
    pub const DISK: Self = Self { first: super::config::FIRST_ID, count: COUNT };

    /// What a running machine has: its init says it.
    pub fn of(init: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{init}/uid_map"))?;
        let ids = maps(&text).find(|(inside, _)| *inside == 0).map(|(_, outside)| outside);
        let range = |ids: ops::Range<u64>| {
            Some(Self { first: u32::try_from(ids.start).ok()?, count: u32::try_from(ids.end - ids.start).ok()? })
        };
        ids.and_then(range).ok_or_else(|| io::Error::other("it has no ids"))
    }

    #[cfg(test)]
    pub fn at(first: u32) -> Self {
        Self { first, count: COUNT }
    }

    pub fn root(self) -> u32 {
        self.first
    }

    pub fn count(self) -> u32 {
        self.count
    }

    /// What a user or group of the machine is in the kernel.
    pub fn id(self, inside: u32) -> u32 {
        self.first + inside.min(self.count - 1)
    }

    pub fn all(self) -> ops::Range<u32> {
        self.first..self.first + self.count
    }

    fn wide(self) -> ops::Range<u64> {
        u64::from(self.first)..u64::from(self.first) + u64::from(self.count)
    }
}

/// Lines of a `uid_map`: the first id inside, and which ids these are for us.
fn maps(text: &str) -> impl Iterator<Item = (u64, ops::Range<u64>)> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let (inside, outside, count) = (words.next()??, words.next()??, words.next()??);
        Some((inside, outside..outside.checked_add(count)?))
    })
}

fn meet(one: &ops::Range<u64>, other: &ops::Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// A range that is a machine's from now on. Held until its processes can be seen; what is forked meanwhile holds it too.
pub struct Claim {
    pub range: Range,
    _lock: File,
}

/// Where claims are held, for every installation on this host. Its bytes stand for ids; it has no content.
const CLAIMS: &str = "/run/adt-ids.lock";

/// A free range of so many ids for the machine of this name. The same machine gets the same one again as long as nobody else has it.
pub fn claim(pool: IdPool, count: u32, name: &str, hierarchies: &Hierarchies) -> Result<Claim, String> {
    let file = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(CLAIMS);
    let failed = |error: io::Error| format!("claim ids in `{CLAIMS}`: {error}");
    let owned = owned_ids();
    for range in candidates(pool, count, name) {
        if owned.iter().any(|owned| meet(owned, &range.wide())) {
            continue;
        }
        let lock = file().map_err(failed)?;
        // First the claim, then the look: whoever had it before us lets go only when his machine can be seen.
        if hold(&lock, range).map_err(failed)? && !in_use(hierarchies).iter().any(|used| meet(used, &range.wide())) {
            return Ok(Claim { range, _lock: lock });
        }
    }
    Err(format!("no {count} ids are free in {pool}; set `pool_ids` in /etc/adt/adt.toml to a larger range that is nobody's"))
}

/// Every place of the pool for so many ids once, in steps of a usual machine's, from one that follows from the machine's name.
fn candidates(pool: IdPool, count: u32, name: &str) -> impl Iterator<Item = Range> {
    let all = (u64::from(pool.last) + 1 - u64::from(pool.first)) / u64::from(COUNT);
    let places = (all + 1).saturating_sub(count.div_ceil(COUNT).into());
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let start = hasher.finish() % places.max(1);
    (0..places).map(move |number| {
        let number = u32::try_from((start + number) % places).expect("a pool has fewer than 65,536 places");
        Range { first: pool.first + number * COUNT, count }
    })
}

/// False where somebody else holds part of it.
fn hold(file: &File, range: Range) -> io::Result<bool> {
    // SAFETY: integers only; zero is valid for all of them, and this kind of lock asks for a process of zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = range.first.into();
    lock.l_len = range.count.into();
    // SAFETY: the structure outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        error => Err(error),
    }
}

/// What machines that run have, whichever installation's they are.
fn in_use(hierarchies: &Hierarchies) -> Vec<ops::Range<u64>> {
    let mut used = Vec::new();
    for tag in hierarchies.children(TOP) {
        for machine in hierarchies.children(&format!("{TOP}/{tag}")) {
            // Monitors and helpers have the host's.
            if machine.contains('.') {
                continue;
            }
            let group = format!("{TOP}/{tag}/{machine}");
            // Its init has all of its ids; of what is left of one that ends, each process may have a part.
            let processes = hierarchies.init(&group).map_or_else(|| hierarchies.processes(&group), |init| vec![init]);
            for process in processes {
                let text = fs::read_to_string(format!("/proc/{process}/uid_map")).unwrap_or_default();
                used.extend(maps(&text).map(|(_, outside)| outside).filter(|outside| outside.start != 0));
            }
        }
    }
    used
}

/// A line of `/etc/subuid` or `/etc/subgid`: who may use which ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub who: String,
    pub file: &'static str,
    pub ids: ops::Range<u64>,
}

/// What this host has given to its users.
pub fn owners() -> Vec<Owned> {
    ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .flat_map(|file| parse_owners(file, &fs::read_to_string(file).unwrap_or_default()))
        .collect()
}

fn parse_owners(file: &'static str, text: &str) -> Vec<Owned> {
    let line = |line: &str| {
        let mut words = line.split(':');
        let (who, first, count) = (words.next()?.trim(), words.next()?.trim().parse().ok()?, words.next()?.trim().parse().ok()?);
        Some(Owned { who: who.to_owned(), file, ids: first..u64::checked_add(first, count)? })
            .filter(|owned| !owned.ids.is_empty())
    };
    text.lines().filter(|text| !text.trim_start().starts_with('#')).filter_map(line).collect()
}

/// Whose of these are machines' too.
pub fn troubles(pool: IdPool, owners: &[Owned]) -> Vec<Trouble> {
    let in_kernel = u64::from(pool.first)..u64::from(pool.last) + 1;
    let is_free = |range: Range| !owners.iter().any(|owned| meet(&owned.ids, &range.wide()));
    let left = candidates(pool, COUNT, "").filter(|range| is_free(*range)).count();
    // The host's root may use any; a line for him says what its container managers take.
    let on_disk = |owned: &&Owned| owned.who != "root" && owned.who != "0" && meet(&owned.ids, &Range::DISK.wide());
    let free = owners.iter().map(|owned| owned.ids.end).filter(|end| *end < in_kernel.start).fold(200_000, u64::max);
    let disk = owners.iter().filter(on_disk).map(|owned| {
        let Owned { who, file, ids } = owned;
        let (first, last) = (ids.start, ids.end - 1);
        let option = if file.ends_with("gid") { "subgids" } else { "subuids" };
        Trouble {
            seen: format!("`{who}` has {first}-{last} by {file}, and may change what machines leave in checkouts"),
            remedy: format!(
                "usermod --del-{option} {first}-{last} --add-{option} {free}-{} {who}",
                free + (ids.end - ids.start) - 1
            ),
        }
    });
    let kernel = owners.iter().filter(|owned| meet(&owned.ids, &in_kernel)).map(|owned| Trouble {
        seen: format!(
            "`{}` has {}-{} by {}; machines take none of these, and {left} of them can still run",
            owned.who,
            owned.ids.start,
            owned.ids.end - 1,
            owned.file
        ),
        remedy: "set `pool_ids` in /etc/adt/adt.toml to a range that is nobody's".into(),
    });
    disk.chain(kernel).collect()
}

fn owned_ids() -> Vec<ops::Range<u64>> {
    owners().into_iter().map(|owned| owned.ids).collect()
}

/// Numbers on disk that stand for others in the machine: a permutation, so that each stands for one and none is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renumbering(BTreeMap<u32, u32>);

impl Renumbering {
    /// From what names meant to what they mean. Root is root, and of names with one number the first counts.
    pub fn between(before: &BTreeMap<String, u32>, now: &BTreeMap<String, u32>) -> Self {
        let (mut moved, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for (name, old) in before {
            let Some(new) = now.get(name) else { continue };
            let is_usual = (1..COUNT).contains(old) && (1..COUNT).contains(new);
            if old != new && is_usual && !moved.contains_key(old) && taken.insert(*new) {
                moved.insert(*old, *new);
            }
        }
        // Whoever had a number that is taken gets one that was left.
        let left: Vec<_> = moved.keys().filter(|old| !taken.contains(old)).copied().collect();
        let driven_out: Vec<_> = taken.iter().filter(|new| !moved.contains_key(new)).copied().collect();
        moved.extend(driven_out.into_iter().zip(left));
        Self(moved)
    }

    /// As the kernel wants a map of ids; it takes a page at most.
    fn lines(&self, range: Range) -> io::Result<String> {
        let mut text = String::from("0 0 1\n");
        let mut next = 0;
        let mut add = |disk: u32, inside: u32, count: u32| {
            if count > 0 {
                text.push_str(&format!("{} {} {count}\n", Range::DISK.first + disk, range.first + inside));
            }
        };
        for (disk, inside) in &self.0 {
            add(next, next, disk - next);
            add(*disk, *inside, 1);
            next = disk + 1;
        }
        add(next, next, COUNT - next);
        if text.len() < 4096 { Ok(text) } else { Err(io::Error::other("too many of its users have other numbers than before")) }
    }
}

/// How folders of the host are shown to one machine.
pub struct Shown {
    pub range: Range,
    /// `None`: as they are.
    map: Option<OwnedFd>,
}

impl Shown {
    /// As the files of a machine with this range.
    pub fn to(range: Range) -> io::Result<Self> {
        // The host's root stays who it is: overlayfs keeps its own work and the marks of deleted files as his.
        let lines = format!("0 0 1\n{} {} {}\n", Range::DISK.first, range.first, range.count);
        Ok(Self { range, map: Some(namespace(&lines, &lines, None)?) })
    }

    /// The same for files of users and groups that have other numbers in the machine than on disk. Where ids can't be mapped,
    /// they keep those on disk.
    pub fn renumbered(&self, users: &Renumbering, groups: &Renumbering) -> io::Result<Option<Self>> {
        if self.map.is_none() || users.0.is_empty() && groups.0.is_empty() {
            return Ok(None);
        }
        let map = namespace(&users.lines(self.range)?, &groups.lines(self.range)?, None)?;
        Ok(Some(Self { range: self.range, map: Some(map) }))
    }

    /// As they are on disk: for a machine whose ids are those.
    pub fn as_on_disk() -> Self {
        Self { range: Range::DISK, map: None }
    }

    /// A copy of the mount with a folder or file, nowhere attached yet; `deep` with what is mounted below it.
    pub fn tree(&self, path: &Path, deep: bool, plain: MountAttrFlags) -> io::Result<OwnedFd> {
        let depth = if deep { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
        let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | depth)?;
        if self.map.is_some() || !plain.is_empty() {
            set_attributes(&tree, deep, plain, self.map.as_ref())?;
        }
        Ok(tree)
    }
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

/// Sets flags of a mount that is not attached, and whose its files seem to be.
pub fn set_attributes(tree: &OwnedFd, deep: bool, plain: MountAttrFlags, ids: Option<&OwnedFd>) -> io::Result<()> {
    const ID_MAP: u64 = 0x0010_0000;
    let number = |fd: &OwnedFd| u64::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative");
    let attributes = MountAttributes {
        set: u64::from(plain.bits()) | ids.map_or(0, |_| ID_MAP),
        clear: 0,
        propagation: 0,
        namespace: ids.map_or(0, number),
    };
    let depth = if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the structure outlive the call, and the size is the structure's own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | depth,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user namespace of a machine. The first id of `owner` answers for it on the host, or else its root.
pub fn user_namespace(range: Range, owner: Option<Range>) -> io::Result<OwnedFd> {
    let lines = format!("0 {} {}\n", range.first, range.count);
    namespace(&lines, &lines, owner.map(|owner| owner.first))
}

/// A user namespace with these maps; no process stays in it. Without an owner it is ours.
pub fn namespace(uids: &str, gids: &str, owner: Option<u32>) -> io::Result<OwnedFd> {
    let (ours, theirs) = passing::pair()?;
    // SAFETY: the helper has a single thread, so the child may do whatever the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            let entered = owner.map_or(Ok(()), become_owner).and_then(|()| {
                // SAFETY: a new user namespace shares no memory or descriptors anew.
                Ok(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?)
            });
            let _ = rustix::io::write(&theirs, if entered.is_ok() { b"y" } else { b"n" });
            // Until the other side is closed.
            let _ = rustix::io::read(&theirs, &mut [0; 1]);
            // SAFETY: ends this process at once; nothing of the parent's is run twice.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(theirs);
            let made = maps_of(child, &ours, uids, gids);
            drop(ours);
            let _ = waitpid(Pid::from_raw(child), WaitOptions::empty());
            made
        }
    }
}

/// Takes another effective id and keeps every right: hosts that let only root make user namespaces ask for these.
fn become_owner(id: u32) -> io::Result<()> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: changes how this process' own ids and rights go together, nothing in memory.
    if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(Gid::ROOT, group, Gid::ROOT)?;
    Ok(set_thread_res_uid(Uid::ROOT, user, Uid::ROOT)?)
}

fn maps_of(child: i32, ours: &OwnedFd, uids: &str, gids: &str) -> io::Result<OwnedFd> {
    let mut answer = [0; 1];
    rustix::io::read(ours, &mut answer)?;
    if answer != *b"y" {
        return Err(io::Error::other("the kernel allows no further user namespace"));
    }
    fs::write(format!("/proc/{child}/uid_map"), uids)?;
    fs::write(format!("/proc/{child}/gid_map"), gids)?;
    Ok(fs::File::open(format!("/proc/{child}/ns/user"))?.into())
}

#[cfg(test)]
mod tests {
    fn numbers(all: &[(&str, u32)]) -> BTreeMap<String, u32> {
        all.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    }

    #[test]
    fn each_number_stands_for_one_and_none_is_lost() {
        let before = numbers(&[("root", 0), ("a", 100), ("b", 101), ("c", 102), ("gone", 103), ("twin", 100)]);
        let now = numbers(&[("root", 7), ("a", 101), ("b", 100), ("c", 105), ("new", 103), ("twin", 200)]);
        let map = Renumbering::between(&before, &now);
        assert_eq!(map.0, BTreeMap::from([(100, 101), (101, 100), (102, 105), (105, 102)]));
        let text = map.lines(Range::at(500_000)).unwrap();
        let maps: Vec<Vec<u32>> =
            text.lines().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect();
        assert_eq!(maps[0], [0, 0, 1]);
        assert_eq!(maps[1..].iter().map(|map| map[2]).sum::<u32>(), COUNT);
        assert!(maps[1..].windows(2).all(|pair| pair[0][0] + pair[0][2] == pair[1][0]), "{text}");
        assert!(maps.contains(&vec![100_102, 500_105, 1]), "{text}");
        assert_eq!(Renumbering::between(&before, &before), Renumbering::default());
        let many: BTreeMap<_, _> = (1..400).map(|number| (format!("u{number}"), number)).collect();
        let other: BTreeMap<_, _> = (1..400).map(|number| (format!("u{number}"), 400 - number)).collect();
        assert!(Renumbering::between(&many, &other).lines(Range::DISK).is_err());
    }

    use super::*;

    const POOL: IdPool = IdPool { first: 1_000_000, last: 1_000_000 + 10 * COUNT + 5 };

    #[test]
    fn a_pool_is_tried_once_through_and_no_range_leaves_it() {
        for name in ["a/web1", "b/web1", ""] {
            for (count, places) in [(COUNT, 10), (3 * COUNT, 8), (10 * COUNT, 1), (11 * COUNT, 0)] {
                let all: Vec<_> = candidates(POOL, count, name).collect();
                let apart: std::collections::BTreeSet<_> = all.iter().copied().collect();
                assert_eq!((all.len(), apart.len()), (places, places));
                assert!(all.iter().all(|range| range.first >= POOL.first && range.all().end - 1 <= POOL.last));
                assert_eq!(all, candidates(POOL, count, name).collect::<Vec<_>>(), "the same again");
            }
        }
        let all = IdPool { first: 0, last: u32::MAX };
        assert_eq!(candidates(all, COUNT, "x").count(), 65_536);
        assert_eq!(candidates(IdPool { first: 5, last: 9 }, COUNT, "x").count(), 0);
    }

    #[test]
    fn users_own_what_the_files_say() {
        let text = "# comment\nalice:100000:65536\n1000:1879048192:65536\nbroken:x:1\n:::\nbob:5\n";
        let owned = parse_owners("/etc/subuid", text);
        assert_eq!(owned.len(), 2);
        assert_eq!((owned[0].who.as_str(), owned[0].ids.clone()), ("alice", 100_000..165_536));
        assert!(meet(&owned[0].ids, &Range::DISK.wide()));
        assert!(!meet(&(165_536..200_000), &Range::DISK.wide()));
    }

    #[test]
    fn who_has_machines_ids_is_told() {
        let owners = |text: &str| parse_owners("/etc/subuid", text);
        assert_eq!(troubles(POOL, &owners("alice:165536:65536\nroot:100000:65536\nbob:3000000:65536\ncarol:100000:0\n")), []);
        let told = troubles(POOL, &owners("alice:100000:65536\nbob:165536:65536\n"));
        assert_eq!(told.len(), 1);
        assert!(told[0].seen.starts_with("`alice` has 100000-165535 by /etc/subuid"), "{}", told[0].seen);
        assert_eq!(told[0].remedy, "usermod --del-subuids 100000-165535 --add-subuids 231072-296607 alice");
        let told = troubles(POOL, &owners("root:1000000:65537\n"));
        assert!(told[0].seen.contains("and 8 of them can still run"), "{}", told[0].seen);
    }

    #[test]
    fn a_claim_is_one_machines_until_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(folder.path().join("lock")).unwrap();
        let (one, other) = (open(), open());
        let range = Range::at;
        assert!(hold(&one, range(1_000_000)).unwrap());
        assert!(!hold(&other, range(1_000_000)).unwrap());
        assert!(!hold(&other, range(1_000_000 + COUNT - 1)).unwrap(), "an overlap of another pool's");
        assert!(hold(&other, range(1_000_000 + COUNT)).unwrap());
        let wide = Range { count: 3 * COUNT, ..range(1_000_000 - 2 * COUNT) };
        assert!(!hold(&open(), wide).unwrap(), "a host's would overlap at its end");
        drop(one);
        assert!(hold(&other, range(1_000_000)).unwrap());
    }
}
