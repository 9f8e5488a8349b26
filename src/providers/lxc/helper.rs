//! The short-lived process that calls liblxc: `adt` run again under a hidden verb.
//!
//! liblxc forks, closes descriptors and leaves a monitor behind that keeps whatever memory its parent had; from a small
//! process with one thread that is quick and clean. Asked and answered over a memory file that the caller holds and the
//! helper opens as `/proc/<caller>/fd/<n>`: descriptors 0, 1 and 2 stay free for the program inside, nothing shows up in
//! the process list, and nothing is left when either side is killed.
//!
//! ```text
//! caller: request → memory file → `adt internal:lxc /proc/123/fd/7` → helper: reads it, empties it, acts, writes the reply
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};

use crate::exec::Command;
use crate::model::machine::Mount;
use crate::model::{Exec, IdPool, MachineSpec, Tag};

use super::cgroup::Hierarchies;
use super::config::MOUNT;
use super::ffi;
use super::folder::Folder;
use super::ids::{self, Range, Shown};
use super::{attach, cgroup, console, host, masks, overlay, seccomp, shared};

/// A reply is a sentence at most.
const LONGEST: u64 = 64 << 10;

/// The verb that nobody types.
pub const VERB: &str = "internal:lxc";

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Start {
        target: Target,
    },
    Exec {
        target: Target,
        exec: Exec,
        terminal: Option<Terminal>,
    },
    Console {
        target: Target,
    },
    /// Other shared folders for a machine that runs.
    Mounts {
        init_pid: u32,
        before: Vec<Mount>,
        after: Vec<Mount>,
    },
    /// Which liblxc there is.
    Version,
}

/// The machine that is meant.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    pub store: PathBuf,
    pub tag: Tag,
    pub group: String,
    /// Where a start takes the machine's ids from.
    pub pool: IdPool,
    pub spec: MachineSpec,
}

/// What the caller's terminal is like.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Terminal {
    pub kind: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// The machine's init runs. `shares`: why it has no ids of its own.
    Started {
        shares: Option<String>,
    },
    /// The program inside ended.
    Ended {
        code: i32,
    },
    /// And what keeps machines from having a filter of system calls.
    Version {
        version: String,
        without_filter: Option<String>,
    },
    LibraryMissing,
    Failed {
        reason: String,
    },
}

/// The caller's end.
pub struct Call {
    file: File,
    pub command: Command,
}

impl Call {
    pub fn new(exe: &Path, request: &Request) -> io::Result<Self> {
        let mut file = File::from(memfd_create("adt-lxc", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(request).map_err(io::Error::other)?)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok(Self { file, command: Command::new(exe).arg(VERB).arg(path) })
    }

    /// The answer of a helper that has ended; `None` when it was cut off.
    pub fn reply(mut self) -> Option<Reply> {
        let mut text = Vec::new();
        self.file.rewind().ok()?;
        // Written by ours, but in the machine, which may have got hold of it.
        self.file.take(LONGEST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// The helper's `main`. Its arguments are those behind the verb.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let Some(path) = arguments.next() else { return 2 };
    // A caller that is killed takes us along, and we what we started for it.
    if set_parent_process_death_signal(Some(Signal::TERM)).is_err() {
        return 2;
    }
    // When the caller is gone already, so is its memory file.
    let Ok(mut file) = OpenOptions::new().read(true).write(true).open(path) else { return 2 };
    let reply = match read(&mut file) {
        Ok(request) => serve(request, &mut file),
        Err(error) => Reply::Failed { reason: format!("the request is unreadable: {error}") },
    };
    // What the program's side of `attach` wrote about itself is nearer to the cause.
    if file.metadata().is_ok_and(|meta| meta.len() == 0) && write(&mut file, &reply).is_err() {
        return 2;
    }
    0
}

fn read(file: &mut File) -> io::Result<Request> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    file.set_len(0)?;
    file.rewind()?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

pub fn write(file: &mut File, reply: &Reply) -> io::Result<()> {
    file.write_all(&serde_json::to_vec(reply).map_err(io::Error::other)?)
}

fn serve(request: Request, file: &mut File) -> Reply {
    if let Request::Mounts { init_pid, before, after } = &request {
        let done = overlay::leave_host().and_then(|()| shared::change(*init_pid, before, after));
        return done.map_or_else(|error| Reply::Failed { reason: error.to_string() }, |()| Reply::Done);
    }
    let Ok(lxc) = ffi::Lxc::load() else { return Reply::LibraryMissing };
    if let Err(error) = overlay::leave_host() {
        return Reply::Failed { reason: error.to_string() };
    }
    let done = match request {
        Request::Start { target } => start(&lxc, &target),
        Request::Exec { target, exec, terminal } => {
            running(&lxc, &target).and_then(|container| attach::run(&container, &exec, terminal.as_ref(), file))
        }
        Request::Version => {
            let without_filter = seccomp::lacking().map(str::to_owned);
            Ok(Reply::Version { version: lxc.version(), without_filter })
        }
        Request::Console { target } => running(&lxc, &target).and_then(|container| console::join(&container)),
        Request::Mounts { .. } => unreachable!("answered before"),
    };
    done.unwrap_or_else(|reason| Reply::Failed { reason })
}

/// liblxc names its sockets after a home folder and insists that the machine's root can walk to it. It gets one in the
/// helper's own `/run/lxc`, always the same for a machine, so that the store can stay closed and may have a long path. `namespace`
/// is a path to the machine's own, where it is not liblxc that makes one.
fn container(lxc: &ffi::Lxc, target: &Target, range: Range, namespace: Option<&str>) -> Result<ffi::Container, String> {
    let home = Path::new(overlay::RUN).join("adt").join(target.tag.as_str());
    let name = target.spec.id.machine.as_str();
    let file = Path::new(overlay::RUN).join("adt/config");
    let written = fs::read_to_string(Folder::new(&target.store, &target.spec.id).join("config"));
    // One that an older adt wrote has ids, which need not be those that the machine runs with.
    let mut text: String =
        written.map_err(|error| error.to_string())?.split_inclusive('\n').filter(|line| !line.starts_with("lxc.idmap")).collect();
    for kind in ["u", "g"] {
        text.push_str(&format!("lxc.idmap = {kind} 0 {} {}\n", range.root(), range.count()));
    }
    if let Some(path) = namespace {
        text.push_str(&format!("lxc.namespace.share.user = {path}\n"));
    }
    let container = fs::create_dir_all(home.join(name))
        .and_then(|()| fs::create_dir_all(MOUNT))
        .and_then(|()| fs::write(&file, text))
        .and_then(|()| lxc.container(name, &home, &file));
    container.map_err(|error| error.to_string())
}

/// One that runs, with the ids that it has.
fn running(lxc: &ffi::Lxc, target: &Target) -> Result<ffi::Container, String> {
    let failed = |error: io::Error| error.to_string();
    let init = Hierarchies::detect().map_err(failed)?.init(&target.group).ok_or("the machine has just ended")?;
    let range = Range::of(init.as_raw_nonzero().get().unsigned_abs()).map_err(failed)?;
    container(lxc, target, range, None)
}

fn start(lxc: &ffi::Lxc, target: &Target) -> Result<Reply, String> {
    let Target { store, spec, .. } = target;
    let folder = Folder::new(store, &spec.id);
    let failed = |error: io::Error| error.to_string();
    let hierarchies = Hierarchies::detect().map_err(failed)?;
    let _lock = hierarchies.hold().map_err(failed)?;
    hierarchies.enter(&cgroup::helper(&target.group)).map_err(failed)?;
    // From here on whoever comes next finds and ends us by our group, and what liblxc forks with us. Ended by the caller's
    // death alone, we would leave that behind halfway.
    set_parent_process_death_signal(None).map_err(|error| error.to_string())?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    raise_file_limit();
    hide_idmap_programs();
    // The same for the same machine, whichever installation's.
    let count = if spec.host { host::IDS } else { ids::COUNT };
    let claim = ids::claim(target.pool, count, &target.group, &hierarchies)?;
    let (range, shares) = assemble(store, &folder, spec, claim.range)?;
    if spec.host {
        host::devices(range).map_err(|error| error.to_string())?;
    }
    let namespace = match ids::user_namespace(range, Some(claim.range)) {
        // Where adt itself runs in a container, the host has no such ids.
        Err(_) if shares.is_some() => ids::user_namespace(range, None),
        made => made,
    };
    let namespace = namespace.and_then(|namespace| keep(&namespace)).map_err(failed)?;
    let container = container(lxc, target, range, Some(&namespace))?;
    if container.start() || container.is_running() {
        return Ok(Reply::Started { shares });
    }
    Err(masks::failure().or_else(|| container.error()).unwrap_or_else(|| "liblxc gave up".into()))
}

/// Puts the machine's root together for these ids; where a filesystem can't show them, for those on disk, and says why.
fn assemble(store: &Path, folder: &Folder, spec: &MachineSpec, range: Range) -> Result<(Range, Option<String>), String> {
    let own = Shown::to(range).map_err(|error| error.to_string());
    let own = own.and_then(|shown| overlay::assemble(store, folder, spec, &shown).map_err(|error| error.to_string()));
    let Err(why) = own else { return Ok((range, None)) };
    overlay::take_apart();
    if spec.host {
        // Those on disk are too few for its machines.
        return Err(format!("a machine that is a host needs ids of its own: {why}"));
    }
    // What fails for any ids fails again, and its reason is the one to tell.
    overlay::assemble(store, folder, spec, &Shown::as_on_disk()).map_err(|error| error.to_string())?;
    Ok((Range::DISK, Some(why)))
}

/// A path that leads to a namespace as long as our mounts are there.
fn keep(namespace: &OwnedFd) -> io::Result<String> {
    let path = Path::new(overlay::RUN).join("adt/user");
    File::create(&path)?;
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), &path)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Services raise their own limits up to what init inherits; the shell that ran adt must not decide that. Set here because
/// liblxc's own setting fails where the host's hard limit is lower. A host that allows no more keeps what it has.
fn raise_file_limit() {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let limit = Rlimit { current: most, maximum: most };
    let _ = setrlimit(Resource::Nofile, limit);
}

/// With `newuidmap` in its path liblxc uses it and fails where `/etc/subuid` does not list root; without, root maps ids itself.
fn hide_idmap_programs() {
    let folders = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
    let path = folders.into_iter().filter(|folder| !fs::exists(Path::new(folder).join("newuidmap")).unwrap_or(true));
    let path = path.collect::<Vec<_>>().join(":");
    let path = if path.is_empty() { "/nonexistent".to_owned() } else { path };
    // SAFETY: the helper has a single thread, so nobody reads the environment meanwhile.
    unsafe {
        for (name, _) in std::env::vars_os() {
            std::env::remove_var(name);
        }
        std::env::set_var("PATH", path);
    }
}
