//! Machines on LXC: a library and the kernel, no daemon.
//!
//! Owns the machine folders, their mounts, control groups and links. Must never know what runs inside, how addresses are
//! chosen or where layers come from.
//!
//! - Starting, entering and the console need liblxc, which only a short-lived helper loads ([`helper`]). Everything else
//!   (seeing, stopping, freezing, deleting) asks the kernel directly and works without it.
//! - A machine's mounts live in the mount namespace of its own processes ([`overlay`]): nothing to clean up, nothing to see
//!   on the host.
//! - Whether a machine runs is read from its control group ([`cgroup`]), never from a file of ours.
//!
//! ```text
//! absent ─create→ halted ─start→ running ⇄ frozen
//!    ↑               ↑______stop_____|________|
//!    └──────────── delete, from everywhere ───┘
//! ```
//!
//! Not chosen: mounts in the host's namespace, as liblxc and Incus do it, because every killed start then leaves one; a PID
//! file, because it lies after a crash; `lxc-*` programs, because their messages and exit codes are not an interface.

mod abi;
mod apparmor;
mod attach;
mod cgroup;
mod config;
mod console;
mod down;
mod ffi;
mod folder;
pub mod helper;
mod host;
mod ids;
pub mod masks;
mod overlay;
mod passing;
mod place;
mod program;
mod proof;
mod seccomp;
mod setup;
mod shared;
mod snapshot;
mod terminal;
mod tree_copy;
mod trust;
mod upper;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::disk;
use crate::exec::{Cancel, Ends};
use crate::model::machine::SeenVolume;
use crate::model::{
    BootId, Digest, EnvironmentId, Exec, IdPool, MachineId, MachineName, MachineSpec, MachineState, SnapshotName, Tag,
};

use super::{Console, Ended, Error, Freezer, Layers, Provider, Result, Setup, Snapshots, Started, Stdio, Trouble, Volumes};
use apparmor::Confinement;
use cgroup::Hierarchies;
use down::{Asked, Running};
use folder::Folder;
use helper::{Call, Reply, Request, Target};

/// From so many environments on, all cores look at them.
const MANY: usize = 8;
/// How long a program waits for a machine that stands still.
const STILL: Duration = Duration::from_secs(10);

/// Where machines live and with what they are run.
#[derive(Debug, Clone)]
pub struct LxcHome {
    /// Holds `layers/` and `machines/`.
    pub store: PathBuf,
    /// Tells this installation's machines from another's on the same host.
    pub install: String,
    /// The adt program, run again as the helper.
    pub exe: PathBuf,
    /// Where machines' ids come from.
    pub ids: IdPool,
}

#[derive(Debug)]
pub struct Lxc {
    home: LxcHome,
    hierarchies: OnceLock<Hierarchies>,
}

impl Lxc {
    pub fn new(home: LxcHome) -> Self {
        Self { home, hierarchies: OnceLock::new() }
    }

    /// What the kernel offers does not change while we run; what is in it is read each time.
    fn hierarchies(&self) -> Result<&Hierarchies> {
        if let Some(found) = self.hierarchies.get() {
            return Ok(found);
        }
        let found = Hierarchies::detect().map_err(failed_io("read", Path::new("/proc/mounts")))?;
        Ok(self.hierarchies.get_or_init(|| found))
    }

    fn machine<'a>(&'a self, id: &'a MachineId) -> Result<Machine<'a>> {
        let group = cgroup::group(&self.home.install, id);
        Ok(Machine { home: &self.home, id, folder: Folder::new(&self.home.store, id), group, hierarchies: self.hierarchies()? })
    }
}

/// One machine, for the length of one verb.
struct Machine<'a> {
    home: &'a LxcHome,
    id: &'a MachineId,
    folder: Folder,
    group: String,
    hierarchies: &'a Hierarchies,
}

impl Machine<'_> {
    fn running(&self) -> Running<'_> {
        Running { hierarchies: self.hierarchies, group: &self.group }
    }

    fn state(&self) -> MachineState {
        let broken = |reason: &str| MachineState::Broken { reason: reason.into() };
        let init = self.hierarchies.init(&self.group);
        if let Err(error) = self.folder.spec() {
            return broken(&format!("its spec.json is unreadable: {error}"));
        }
        if !self.folder.is_whole() {
            return match (self.folder.exists(), init) {
                (true, None) => broken("its creation was interrupted"),
                (_, Some(_)) => broken("its processes run but its files are gone"),
                (false, None) if self.running().anything_left() => broken("its files are gone but not its control groups"),
                (false, None) => MachineState::Absent,
            };
        }
        match init.map(|pid| BootId::new(pid.as_raw_nonzero())) {
            None => MachineState::Halted,
            Some(boot) if self.hierarchies.is_frozen(&self.group) => MachineState::Frozen { boot },
            Some(boot) => MachineState::Running { boot },
        }
    }

    /// The init of a machine that is up.
    fn init_pid(&self) -> Option<u32> {
        match self.state() {
            MachineState::Running { .. } | MachineState::Frozen { .. } => {
                self.hierarchies.init(&self.group).map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
            }
            MachineState::Absent | MachineState::Halted | MachineState::Broken { .. } => None,
        }
    }

    /// The spec of a machine that is there and whole.
    fn spec(&self) -> Result<MachineSpec> {
        match self.folder.spec() {
            Ok(Some(spec)) => Ok(spec),
            Ok(None) if self.folder.exists() => {
                Err(Error::Broken { id: self.id.clone(), reason: "its creation was interrupted".into() })
            }
            Ok(None) => Err(Error::Absent { id: self.id.clone() }),
            Err(error) => Err(Error::Broken { id: self.id.clone(), reason: format!("its spec.json is unreadable: {error}") }),
        }
    }

    /// The spec of a machine that can run programs now.
    fn running_spec(&self) -> Result<MachineSpec> {
        let spec = self.spec()?;
        let since = Instant::now();
        // A snapshot takes a moment, for which nobody's program need fail.
        while matches!(self.state(), MachineState::Frozen { .. }) && since.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(20));
        }
        match self.state() {
            MachineState::Running { .. } => Ok(spec),
            state => Err(Error::NotRunning { id: self.id.clone(), state: state.word() }),
        }
    }

    fn create(&self, spec: &MachineSpec) -> Result<()> {
        let seeds = spec.volumes.iter().flatten().flat_map(|volume| &volume.seed);
        for digest in spec.layers.iter().chain(seeds) {
            if !self.home.store.join("layers").join(digest.as_str()).join("rootfs").is_dir() {
                return Err(Error::LayerMissing { id: self.id.clone(), digest: digest.to_string() });
            }
        }
        self.change_mounts(spec)?;
        self.begin_volumes(spec)?;
        self.write(spec).map_err(failed_io("write the machine's folder", &self.folder.path))?;
        // A machine that runs gets its new limits at once, but none that nobody asked for: it may use more already. It may end
        // meanwhile, and the next start reads them anyway.
        let _ = self.hierarchies.apply(&self.group, &config::settings(&spec.limits, None, self.hierarchies));
        Ok(())
    }

    /// One that runs goes on with what it has; its next start is after another call.
    fn begin_volumes(&self, spec: &MachineSpec) -> Result<()> {
        match self.hierarchies.init(&self.group) {
            Some(_) => Ok(()),
            None => volume::begin(&self.home.store, spec).map_err(failed_io("begin the volumes of", &self.folder.path)),
        }
    }

    /// Its files may only be moved while nothing in it runs.
    fn must_lie_still(&self, verb: &'static str) -> Result<()> {
        match self.hierarchies.init(&self.group) {
            Some(_) => Err(is_running(verb, self.id)),
            None => Ok(()),
        }
    }

    /// Shows a machine that runs its new shared folders. Before the specification is written: as long as it is the old one,
    /// whoever comes next knows what there was.
    fn change_mounts(&self, spec: &MachineSpec) -> Result<()> {
        let Ok(Some(before)) = self.folder.spec() else { return Ok(()) };
        let Some(init_pid) = self.init_pid() else { return Ok(()) };
        if before.mounts == spec.mounts {
            return Ok(());
        }
        let (before, after) = (before.mounts, spec.mounts.clone());
        let call = self.call(&Request::Mounts { init_pid, before, after })?;
        let (_, output) = call.command.run_any(&mut |_, _| {})?;
        match call.reply() {
            Some(Reply::Done) => Ok(()),
            // It may have ended meanwhile; its next start shows it the right ones.
            _ if !matches!(self.state(), MachineState::Running { .. } | MachineState::Frozen { .. }) => Ok(()),
            other => Err(self.failed("show folders in", other, output.tail.lines())),
        }
    }

    fn write(&self, spec: &MachineSpec) -> io::Result<()> {
        self.folder.make(spec)?;
        upper::write_identity(&self.folder.join("upper"), &self.home.install, spec)?;
        self.write_trust(spec)?;
        self.folder.write_shared("hosts", &spec.hosts)?;
        self.folder.write_shared("resolv.conf", &config::resolv(spec))?;
        let confinement = Confinement::for_start();
        let host = config::Host {
            hierarchies: self.hierarchies,
            apparmor: confinement.word(),
            memory: default_memory(),
            seccomp: seccomp::is_possible(),
        };
        let text = config::text(spec, &self.folder.path, &self.group, host);
        // Both are written for each start.
        disk::File::at(&self.folder.join("config")).mode(0o644).write_spare(text)?;
        disk::File::at(&self.folder.join("seccomp")).mode(0o644).write_spare(seccomp::profile())?;
        self.folder.write_spec(spec)
    }

    /// Files below a mounted overlay must not change: what runs is written to through its own eyes.
    fn write_trust(&self, spec: &MachineSpec) -> io::Result<()> {
        if let Some(init_pid) = self.init_pid() {
            let range = ids::Range::of(init_pid)?;
            return trust::write(Path::new(&format!("/proc/{init_pid}/root")), &[], &spec.trusted, range);
        }
        trust::write(&self.folder.join("upper"), &self.below(spec), &spec.trusted, ids::Range::DISK)
    }

    /// Its layers, the uppermost first.
    fn below(&self, spec: &MachineSpec) -> Vec<PathBuf> {
        let layers = self.home.store.join("layers");
        spec.layers.iter().rev().map(|layer| layers.join(layer.as_str()).join("rootfs")).collect()
    }

    fn place(&self, files: &[super::File], gone: &[String]) -> Result<()> {
        let spec = self.spec()?;
        match self.state() {
            MachineState::Running { .. } | MachineState::Frozen { .. } => Err(is_running("put files into", self.id)),
            MachineState::Halted | MachineState::Absent | MachineState::Broken { .. } => {
                let upper = self.folder.join("upper");
                self.place_files(&spec, files, gone).map_err(failed_io("put files into", &upper))
            }
        }
    }

    /// Each file among the machine's own, or in the volume that its path leads into.
    fn place_files(&self, spec: &MachineSpec, files: &[super::File], gone: &[String]) -> io::Result<()> {
        let volumes = volume::shown(&self.home.store, spec)?;
        let (upper, layers) = (self.folder.join("upper"), self.below(spec));
        let root = place::Stack { upper: &upper, layers: &layers };
        let accounts = place::Accounts::of(&root)?;
        let within = |volume: Option<&volume::Shown>, path: &str| match (volume::holder(&volumes, path), volume) {
            (None, None) => Some(path.to_owned()),
            (Some((holder, rest)), Some(volume)) if holder.path == volume.path => Some(rest),
            (Some(_) | None, _) => None,
        };
        for volume in std::iter::once(None).chain(volumes.iter().map(Some)) {
            let files: Vec<_> = files.iter().filter_map(|file| Some((within(volume, &file.path)?, file))).collect();
            let gone: Vec<_> = gone.iter().filter_map(|path| within(volume, path)).collect();
            match volume {
                None => place::write(&root, &accounts, &files, &gone)?,
                Some(volume) => {
                    let upper = volume.own.join("upper");
                    place::write(&place::Stack { upper: &upper, layers: &volume.lowers }, &accounts, &files, &gone)?;
                }
            }
        }
        Ok(())
    }

    fn start(&self) -> Result<Started> {
        let spec = self.spec()?;
        match self.state() {
            // Without its monitor the machine is about to end with it.
            MachineState::Running { .. } if self.running().has_monitor() => return Ok(Started::default()),
            MachineState::Frozen { .. } if self.running().has_monitor() => {
                return self.freeze(false).map(|()| Started::default());
            }
            MachineState::Running { .. } | MachineState::Frozen { .. } | MachineState::Halted => {}
            MachineState::Absent | MachineState::Broken { .. } => {}
        }
        self.clear_leftovers(&spec)?;
        self.folder.turn_logs().map_err(failed_io("turn the logs in", &self.folder.path))?;
        let request = Request::Start { target: self.target(spec.clone()) };
        let call = self.call(&request)?;
        let (_, output) = call.command.run_any(&mut |_, _| {})?;
        match call.reply() {
            Some(Reply::Started { shares }) => {
                self.running().clear_helper();
                // In a machine that is a host itself it is so for all of them, and `host:check` says it once.
                let id = self.id;
                let shared = shares.filter(|_| disk::host::is_real()).map(|why| {
                    format!("`{id}` has no ids of its own and can use up what the kernel counts for those of others: {why}")
                });
                let warnings: Vec<_> = shared.into_iter().chain(self.unconfined()).collect();
                Ok(Started { warning: (!warnings.is_empty()).then(|| warnings.join("; ")) })
            }
            other => {
                let error = self.failed("start", other, output.tail.lines());
                let _ = self.clear_leftovers(&spec);
                Err(error)
            }
        }
    }

    fn unconfined(&self) -> Option<String> {
        match Confinement::seen() {
            Confinement::Off | Confinement::Inherited | Confinement::Profile(_) => None,
            Confinement::Lacking(why) => {
                Some(format!("`{}` runs without AppArmor: {why}; `adt host:bootstrap` brings it", self.id))
            }
        }
    }

    /// What a start or stop that was cut off left behind.
    fn clear_leftovers(&self, spec: &MachineSpec) -> Result<()> {
        if self.running().anything_left() && !self.running().clear() {
            return Err(self.deadline("stop", 20));
        }
        Ok(down::remove_link(&spec.network.cable)?)
    }

    fn stop(&self, grace: Duration) -> Result<()> {
        let running = self.running();
        if !running.anything_left() {
            return Ok(());
        }
        // A host needs its time after that of its machines.
        let grace = if self.folder.spec().is_ok_and(|spec| spec.is_some_and(|spec| spec.host)) { grace * 2 } else { grace };
        let asked =
            if grace.is_zero() { Asked::Stays } else { running.ask(grace).map_err(failed_io("ask", &self.folder.path))? };
        let clean = match asked {
            Asked::Gone => running.settle(),
            Asked::Stays => running.kill(),
            // Whatever is there is no machine: a start or stop that was cut off.
            Asked::Nobody => running.clear(),
        };
        if !clean {
            return Err(self.deadline("stop", 20));
        }
        self.hierarchies.prune(&self.group);
        Ok(())
    }

    fn delete(&self) -> Result<()> {
        self.stop(Duration::ZERO)?;
        if let Ok(Some(spec)) = self.folder.spec() {
            down::remove_link(&spec.network.cable)?;
        }
        self.hierarchies.prune(&self.group);
        self.folder.remove().map_err(failed_io("remove", &self.folder.path))
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        let verb = if frozen { "freeze" } else { "thaw" };
        self.spec()?;
        match (self.state(), frozen) {
            (MachineState::Running { .. }, true) | (MachineState::Frozen { .. }, false) => {}
            (MachineState::Running { .. }, false) | (MachineState::Frozen { .. }, true) => return Ok(()),
            (state, _) => return Err(Error::NotRunning { id: self.id.clone(), state: state.word() }),
        }
        let done = self.hierarchies.set_frozen(&self.group, frozen, Duration::from_secs(10));
        match done.map_err(failed_io(verb, &self.folder.path))? {
            true => Ok(()),
            false => Err(self.deadline(verb, 10)),
        }
    }

    fn target(&self, spec: MachineSpec) -> Target {
        let tag = Tag::of(&self.home.install, &self.id.environment);
        Target { store: self.home.store.clone(), tag, group: self.group.clone(), pool: self.home.ids, spec }
    }

    fn call(&self, request: &Request) -> Result<Call> {
        Call::new(&self.home.exe, request).map_err(failed_io("call the helper", &self.home.exe))
    }

    fn deadline(&self, verb: &'static str, seconds: u64) -> Error {
        Error::Deadline { verb, id: self.id.clone(), seconds }
    }

    /// The error behind a reply that is no success, with what liblxc's log says.
    fn failed(&self, verb: &'static str, reply: Option<Reply>, mut tail: Vec<String>) -> Error {
        let reason = match reply {
            Some(Reply::LibraryMissing) => {
                return Error::HostLacks { what: "liblxc".into(), hint: "run `adt host:bootstrap`".into() };
            }
            Some(Reply::Failed { reason }) => reason,
            Some(Reply::Done | Reply::Started { .. } | Reply::Ended { .. } | Reply::Version { .. }) | None => {
                "its helper was ended".into()
            }
        };
        if reason.starts_with("liblxc") {
            let log = fs::read_to_string(self.folder.join("lxc.log")).unwrap_or_default();
            tail.extend(console::complaints(&log));
        }
        tail.drain(..tail.len().saturating_sub(10));
        Error::Failed { verb, id: self.id.clone(), reason, tail }
    }
}

/// Enough for what teams run on one machine; a host of little memory stays its users'.
fn default_memory() -> u64 {
    super::half_of_memory().min(2 << 30)
}

fn is_running(verb: &'static str, id: &MachineId) -> Error {
    Error::Failed { verb, id: id.clone(), reason: "it is running".into(), tail: Vec::new() }
}

fn failed_io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

impl Provider for Lxc {
    fn hosts(&self) -> bool {
        disk::host::is_real()
    }

    fn ready(&self) -> Result<String> {
        let lacks = |what: &str| Error::HostLacks { what: what.into(), hint: "run `adt host:bootstrap`".into() };
        let call = Call::new(&self.home.exe, &Request::Version).map_err(failed_io("call the helper", &self.home.exe))?;
        call.command.run_any(&mut |_, _| {})?;
        match call.reply() {
            Some(Reply::Version { version, without_filter: None }) => Ok(format!("liblxc {version}, {}", self.hierarchies()?)),
            Some(Reply::Version { version, without_filter: Some(why) }) => Ok(format!(
                "liblxc {version}, {}; machines run without a filter of system calls, since {why}",
                self.hierarchies()?
            )),
            Some(Reply::Done | Reply::Started { .. } | Reply::Ended { .. } | Reply::LibraryMissing | Reply::Failed { .. })
            | None => Err(lacks("liblxc")),
        }
    }

    fn troubles(&self) -> Vec<Trouble> {
        let here = (!disk::host::is_real()).then(host::trouble);
        here.into_iter().chain(ids::troubles(self.home.ids, &ids::owners())).collect()
    }

    fn list(&self) -> Result<Vec<(MachineId, MachineState)>> {
        folder::sweep(&self.home.store);
        let environments = folder::list(&self.home.store).map_err(failed_io("list the machines in", &self.home.store))?;
        let environments: Vec<_> = environments.into_iter().collect();
        let live: BTreeSet<String> = self.hierarchies()?.children(cgroup::TOP).into_iter().collect();
        let look = |part: &[(EnvironmentId, Vec<folder::Found>)]| {
            let mut found = Vec::new();
            for (environment, folders) in part {
                // Most environments do not run: one look at the groups spares a look for each of their machines.
                let groups = live.contains(Tag::of(&self.home.install, environment).as_str());
                let states = self.states(environment, folders, groups)?;
                found.extend(states.into_iter().map(|(machine, state)| (environment.machine(&machine), state)));
            }
            Ok(found)
        };
        if environments.len() < MANY {
            return look(&environments);
        }
        // Each machine that runs costs a dozen files of the kernel's, which several cores read at once.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            let parts = environments.chunks(environments.len().div_ceil(cores));
            let looking: Vec<_> = parts.map(|part| scope.spawn(move || look(part))).collect();
            let parts = looking.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            parts.collect::<Result<Vec<_>>>().map(|parts| parts.concat())
        })
    }

    fn machines(&self, environment: &EnvironmentId) -> Result<BTreeMap<MachineName, MachineState>> {
        // A delete that was killed while it removed files left nothing else that a later verb would come back for.
        folder::sweep(&self.home.store);
        let folders = folder::list_of(&self.home.store, environment);
        let folders = folders.map_err(failed_io("list the machines in", &self.home.store))?;
        self.states(environment, &folders, true)
    }

    fn inspect(&self, id: &MachineId) -> Result<MachineState> {
        Ok(self.machine(id)?.state())
    }

    fn create(&self, spec: &MachineSpec) -> Result<()> {
        self.machine(&spec.id)?.create(spec)
    }

    fn place(&self, id: &MachineId, files: &[super::File], gone: &[String]) -> Result<()> {
        self.machine(id)?.place(files, gone)
    }

    fn start(&self, id: &MachineId) -> Result<Started> {
        self.machine(id)?.start()
    }

    fn stop(&self, id: &MachineId, grace: Duration) -> Result<()> {
        self.machine(id)?.stop(grace)
    }

    fn delete(&self, id: &MachineId) -> Result<()> {
        self.machine(id)?.delete()
    }

    fn exec(&self, id: &MachineId, exec: &Exec, stdio: Stdio<'_>) -> Result<Ended> {
        self.machine(id)?.exec(exec, stdio)
    }

    fn unpack(&self, id: &MachineId, tar: &mut (dyn Read + Send), folder: &str, user: &str, cancel: &Cancel) -> Result<()> {
        self.machine(id)?.unpack(tar, folder, user, cancel)
    }

    fn pack(&self, id: &MachineId, path: &str, tar: &mut (dyn Write + Send), cancel: &Cancel) -> Result<()> {
        self.machine(id)?.pack(path, tar, cancel)
    }

    fn address(&self, id: &MachineId) -> Result<Vec<IpAddr>> {
        let spec = self.machine(id)?.folder.spec().map_err(failed_io("read the spec of", &self.home.store))?;
        Ok(spec.map_or_else(Vec::new, |spec| vec![spec.network.v4.into(), spec.network.v6.into()]))
    }

    fn disk(&self, id: &MachineId) -> Result<u64> {
        Ok(self.machine(id)?.folder.disk() + volume::disk(&self.home.store, &id.environment, &id.machine))
    }

    fn freezer(&self) -> Option<&dyn Freezer> {
        Some(self)
    }

    fn console(&self) -> Option<&dyn Console> {
        Some(self)
    }

    fn layers(&self) -> Option<&dyn Layers> {
        Some(self)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn setup(&self) -> Option<&dyn Setup> {
        Some(self)
    }
}

impl Lxc {
    /// Where the data of an environment lies.
    fn data(&self, environment: &EnvironmentId) -> [PathBuf; 2] {
        [volume::of_environment(&self.home.store, environment), snapshot::of_environment(&self.home.store, environment)]
    }

    /// The states of an environment's machines: those with a folder, and where `groups` says that there are control groups
    /// of it, those of which only processes are left.
    fn states(
        &self,
        environment: &EnvironmentId,
        folders: &[folder::Found],
        groups: bool,
    ) -> Result<BTreeMap<MachineName, MachineState>> {
        let mut states = BTreeMap::new();
        for (name, whole) in folders {
            let state = if *whole && !groups { MachineState::Halted } else { self.machine(&environment.machine(name))?.state() };
            states.insert(name.clone(), state);
        }
        if groups {
            let tag = Tag::of(&self.home.install, environment);
            for group in self.hierarchies()?.children(&format!("{}/{tag}", cgroup::TOP)) {
                let Ok(name) = group.split('.').next().unwrap_or(&group).parse::<MachineName>() else { continue };
                if !states.contains_key(&name) {
                    states.insert(name.clone(), self.machine(&environment.machine(&name))?.state());
                }
            }
        }
        Ok(states)
    }
}

impl Freezer for Lxc {
    fn freeze(&self, id: &MachineId) -> Result<()> {
        self.machine(id)?.freeze(true)
    }

    fn thaw(&self, id: &MachineId) -> Result<()> {
        self.machine(id)?.freeze(false)
    }
}

impl Volumes for Lxc {
    fn keep(&self, spec: &MachineSpec) -> Result<()> {
        let machine = self.machine(&spec.id)?;
        machine.must_lie_still("keep the data of")?;
        machine.begin_volumes(spec)
    }

    fn seen(&self, environment: &EnvironmentId) -> Result<Vec<SeenVolume>> {
        volume::list(&self.home.store, environment).map_err(failed_io("list the volumes in", &self.home.store))
    }

    fn size(&self, environment: &EnvironmentId, volume: &SeenVolume) -> Result<u64> {
        Ok(volume::size(&self.home.store, environment, volume))
    }

    fn any(&self, environment: &EnvironmentId) -> bool {
        self.data(environment).iter().any(|folder| folder.exists())
    }

    fn held(&self) -> Result<BTreeSet<Digest>> {
        let store = &self.home.store;
        let held = folder::list(store).and_then(|environments| {
            environments.keys().try_fold(BTreeSet::new(), |mut held, environment| {
                held.extend(volume::held_in(&volume::of_environment(store, environment))?);
                held.extend(snapshot::held(store, environment)?);
                Ok(held)
            })
        });
        held.map_err(failed_io("list the volumes in", store))
    }

    fn erase(&self, environment: &EnvironmentId) -> Result<()> {
        let store = &self.home.store;
        self.data(environment)
            .iter()
            .try_for_each(|folder| folder::discard(store, folder))
            .map_err(failed_io("erase the data in", store))?;
        folder::clear(store, &folder::of_environment(store, environment));
        Ok(())
    }
}

impl Snapshots for Lxc {
    fn cost(&self, environment: &EnvironmentId) -> Result<Option<super::Cost>> {
        snapshot::cost(&self.home.store, environment).map_err(failed_io("look at the files in", &self.home.store))
    }

    fn copy(&self, environment: &EnvironmentId, name: &SnapshotName, cancel: &Cancel) -> Result<()> {
        for (machine, state) in self.machines(environment)? {
            if let MachineState::Running { .. } = state {
                return Err(is_running("copy", &environment.machine(&machine)));
            }
        }
        snapshot::copy(&self.home.store, environment, name, cancel)
    }

    fn seal(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<()> {
        snapshot::seal(&self.home.store, environment, name).map_err(failed_io("keep the snapshot in", &self.home.store))
    }

    fn sweep(&self, environment: &EnvironmentId) -> Result<()> {
        snapshot::sweep(&self.home.store, environment).map_err(failed_io("remove unfinished snapshots in", &self.home.store))
    }

    fn names(&self, environment: &EnvironmentId) -> Result<BTreeSet<SnapshotName>> {
        snapshot::names(&self.home.store, environment).map_err(failed_io("list the snapshots in", &self.home.store))
    }

    fn alone(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<u64> {
        Ok(snapshot::alone(&self.home.store, environment, name))
    }

    fn restore(&self, id: &MachineId, name: &SnapshotName, cancel: &Cancel) -> Result<()> {
        let machine = self.machine(id)?;
        machine.must_lie_still("put back")?;
        // Its last processes may still hold the mount.
        machine.stop(Duration::ZERO)?;
        snapshot::restore(&self.home.store, id, name, cancel)
    }

    fn remove(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<()> {
        snapshot::remove(&self.home.store, environment, name).map_err(failed_io("remove the snapshot in", &self.home.store))
    }
}

impl Console for Lxc {
    fn attach(&self, id: &MachineId, ends: Option<Ends>) -> Result<()> {
        self.machine(id)?.join_console(ends)
    }

    fn tail(&self, id: &MachineId, lines: usize) -> Result<Vec<String>> {
        let machine = self.machine(id)?;
        if !machine.folder.exists() {
            return Err(Error::Absent { id: id.clone() });
        }
        let path = machine.folder.join("console.log");
        console::tail(&path, lines).map_err(failed_io("read the console log", &path))
    }
}

impl Layers for Lxc {
    fn written(&self, id: &MachineId, target: &str) -> Result<PathBuf> {
        Ok(self.machine(id)?.folder.copy_on_write(target).join("upper"))
    }

    fn commit(&self, id: &MachineId, target: &Path) -> Result<()> {
        let machine = self.machine(id)?;
        machine.spec()?;
        machine.must_lie_still("commit")?;
        // Its last processes may still hold the mount.
        machine.stop(Duration::ZERO)?;
        if target.exists() {
            let reason = format!("`{}` exists", target.display());
            return Err(Error::Failed { verb: "commit", id: id.clone(), reason, tail: Vec::new() });
        }
        // The caller makes it a layer, which is put in place with all that it holds.
        disk::put_spare(&machine.folder.join("upper"), target).map_err(failed_io("move the machine's files to", target))?;
        machine.delete()
    }
}
