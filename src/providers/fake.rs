//! Machines in memory, for tests of everything above: states are kept as exactly as the real ones, nothing runs.
//!
//! Each change happens in two halves with a checkpoint before, between and after. A test that panics out of a checkpoint
//! leaves what a SIGKILL there would leave; with [`Fake::kept_in`] the machines outlive a real one and have files, see [`folder`].

mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Ended, Error, Freezer, Layers, Provider, Result, Snapshots, Started, Stdio, Volumes, copies};
use crate::exec::{Cancel, Command, Limits, Output};
use crate::model::machine::{SeenVolume, Volume};
use crate::model::{
    BootId, Digest, EnvironmentId, Exec, MachineId, MachineName, MachineSpec, MachineState, SnapshotName, Stream, Tail,
};

/// Called with the name of each point at which a real command could be killed.
pub type Checkpoint = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Clone, Default)]
pub struct Fake {
    world: Arc<Mutex<World>>,
    checkpoint: Option<Checkpoint>,
}

#[derive(Default)]
struct World {
    machines: BTreeMap<MachineId, Machine>,
    volumes: Vec<Begun>,
    snapshots: Vec<Copied>,
    failures: Vec<(String, String)>,
    boots: u32,
    file: Option<PathBuf>,
}

impl World {
    /// A real kernel keeps its machines when adt dies; so does the file.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let machines: Vec<_> = self.machines.iter().collect();
        let text =
            serde_json::to_string(&(machines, self.boots, &self.volumes, &self.snapshots)).expect("machines are plain data");
        let new = file.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)).expect("a test's folder takes a file");
    }
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Machine {
    /// Missing in a machine whose creation was interrupted.
    spec: Option<MachineSpec>,
    state: MachineState,
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// A volume, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Begun {
    pub machine: MachineId,
    pub volume: Volume,
    pub seeded: u32,
}

/// What outlives a process.
type Kept = (Vec<(MachineId, Machine)>, u32, Vec<Begun>, Vec<Copied>);

/// A snapshot: which volumes there were, and what the machines' files were.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Copied {
    environment: EnvironmentId,
    name: SnapshotName,
    sealed: bool,
    machines: Vec<(MachineId, BTreeMap<String, String>)>,
    volumes: Vec<Begun>,
}

impl Fake {
    /// Machines that outlive this process, like real ones: they are in `file` from each change on.
    pub fn kept_in(file: &Path) -> Self {
        let kept = std::fs::read_to_string(file).ok();
        let read = |text: String| serde_json::from_str(&text).expect("this type wrote it");
        let (machines, boots, volumes, snapshots): Kept = kept.map(read).unwrap_or_default();
        let machines = machines.into_iter().collect();
        let world = World { machines, volumes, snapshots, boots, failures: Vec::new(), file: Some(file.to_owned()) };
        Self { world: Arc::new(Mutex::new(world)), checkpoint: None }
    }

    /// The host's folder with what programs in a kept machine wrote.
    pub fn root(&self, id: &MachineId) -> Option<PathBuf> {
        let folder = self.world().file.as_ref()?.with_extension("");
        Some(folder.join(format!("{}.{}.{}", id.environment.platform, id.environment.name, id.machine)))
    }

    /// With what a machine was created, to compare it with what was wanted.
    pub fn spec(&self, id: &MachineId) -> Option<MachineSpec> {
        self.world().machines.get(id).and_then(|machine| machine.spec.clone())
    }

    /// Every volume that has begun.
    pub fn begun(&self) -> Vec<Begun> {
        self.world().volumes.clone()
    }

    fn begin(&self, spec: &MachineSpec) {
        for volume in spec.volumes.iter().flatten() {
            self.change(|world| {
                let same = |begun: &Begun| begun.machine == spec.id && begun.volume.path == volume.path;
                if world.volumes.iter().any(|begun| same(begun) && begun.seeded == spec.seeded) {
                    return;
                }
                world.volumes.retain(|begun| !same(begun));
                world.volumes.push(Begun { machine: spec.id.clone(), volume: volume.clone(), seeded: spec.seeded });
            });
        }
    }

    /// What was put into a machine, by path.
    pub fn files(&self, id: &MachineId) -> BTreeMap<String, String> {
        self.world().machines.get(id).map(|machine| machine.files.clone()).unwrap_or_default()
    }

    /// The same machines, seen through a checkpoint.
    pub fn with_checkpoint(&self, checkpoint: Checkpoint) -> Self {
        Self { world: Arc::clone(&self.world), checkpoint: Some(checkpoint) }
    }

    /// Makes the next call of `verb` for a machine named `machine` fail.
    pub fn fail_next(&self, verb: &str, machine: &str) {
        self.world().failures.push((verb.into(), machine.into()));
    }

    /// Everything stops at once, as when the host loses power.
    pub fn power_cut(&self) {
        self.change(|world| {
            for machine in world.machines.values_mut() {
                if matches!(machine.state, MachineState::Running { .. } | MachineState::Frozen { .. }) {
                    machine.state = MachineState::Halted;
                }
            }
        });
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world();
        change(&mut world);
        world.keep();
    }

    fn point(&self, verb: &str, id: &MachineId, half: &str) {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint(&format!("{verb} {} {half}", id.machine));
        }
    }

    /// A point of what concerns no single machine.
    fn all_point(&self, verb: &str, half: &str) {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint(&format!("{verb} all {half}"));
        }
    }

    fn refuse(&self, verb: &'static str, id: &MachineId) -> Result<()> {
        let mut world = self.world();
        let found = world.failures.iter().position(|(v, machine)| v == verb && machine == id.machine.as_str());
        match found {
            Some(index) => {
                world.failures.remove(index);
                let reason = "the test wanted it to".to_owned();
                Err(Error::Failed { verb, id: id.clone(), reason, tail: vec!["last words".into()] })
            }
            None => Ok(()),
        }
    }

    fn set(&self, id: &MachineId, state: MachineState) {
        self.change(|world| {
            if let Some(machine) = world.machines.get_mut(id) {
                machine.state = state;
            }
        });
    }

    fn forget(&self, id: &MachineId) {
        if let Some(root) = self.root(id)
            && root.exists()
        {
            std::fs::remove_dir_all(root).expect("a test's folder can be removed");
        }
        self.change(|world| drop(world.machines.remove(id)));
    }

    /// A path of a machine; where it has no files, one that nothing is done with.
    fn below(&self, id: &MachineId, path: &str) -> PathBuf {
        self.root(id).map(|root| folder::below(&root, path)).unwrap_or_default()
    }

    fn running(&self, id: &MachineId) -> Result<()> {
        match self.inspect(id)? {
            MachineState::Running { .. } => Ok(()),
            MachineState::Absent => Err(Error::Absent { id: id.clone() }),
            state => Err(Error::NotRunning { id: id.clone(), state: state.word() }),
        }
    }
}

impl Provider for Fake {
    fn hosts(&self) -> bool {
        true
    }

    fn ready(&self) -> Result<String> {
        Ok("in memory".to_owned())
    }

    fn list(&self) -> Result<Vec<(MachineId, MachineState)>> {
        Ok(self.world().machines.iter().map(|(id, machine)| (id.clone(), machine.state.clone())).collect())
    }

    fn machines(&self, environment: &EnvironmentId) -> Result<BTreeMap<MachineName, MachineState>> {
        let own = self.list()?.into_iter().filter(|(id, _)| id.environment == *environment);
        Ok(own.map(|(id, state)| (id.machine, state)).collect())
    }

    fn inspect(&self, id: &MachineId) -> Result<MachineState> {
        Ok(self.world().machines.get(id).map_or(MachineState::Absent, |machine| machine.state.clone()))
    }

    fn create(&self, spec: &MachineSpec) -> Result<()> {
        let id = &spec.id;
        self.point("create", id, "before");
        self.refuse("create", id)?;
        if !self.world().machines.contains_key(id) {
            let state = MachineState::Broken { reason: "its creation was interrupted".into() };
            self.change(|world| drop(world.machines.insert(id.clone(), Machine { spec: None, state, files: BTreeMap::new() })));
        }
        self.point("create", id, "half");
        if !matches!(self.inspect(id)?, MachineState::Running { .. } | MachineState::Frozen { .. }) {
            self.begin(spec);
            self.point("create", id, "with volumes");
        }
        self.change(|world| {
            let machine = world.machines.get_mut(id).expect("inserted above");
            if matches!(machine.state, MachineState::Broken { .. }) {
                machine.state = MachineState::Halted;
            }
            machine.spec = Some(spec.clone());
        });
        if let Some(root) = self.root(id) {
            std::fs::create_dir_all(root).expect("a test's folder takes a folder");
        }
        self.point("create", id, "after");
        Ok(())
    }

    fn place(&self, id: &MachineId, files: &[super::File], gone: &[String]) -> Result<()> {
        self.point("place", id, "before");
        self.refuse("place", id)?;
        self.change(|world| {
            if let Some(machine) = world.machines.get_mut(id) {
                machine.files.retain(|path, _| !gone.contains(path));
                machine.files.extend(files.iter().map(|file| (file.path.clone(), file.text.expose_secret().to_owned())));
            }
        });
        self.point("place", id, "after");
        Ok(())
    }

    fn start(&self, id: &MachineId) -> Result<Started> {
        self.point("start", id, "before");
        self.refuse("start", id)?;
        match self.inspect(id)? {
            MachineState::Absent => return Err(Error::Absent { id: id.clone() }),
            MachineState::Broken { reason } => return Err(Error::Broken { id: id.clone(), reason }),
            MachineState::Running { .. } => {}
            MachineState::Frozen { boot } => self.set(id, MachineState::Running { boot }),
            MachineState::Halted => {
                let mut world = self.world();
                world.boots += 1;
                let boot = BootId::new(world.boots);
                drop(world);
                self.set(id, MachineState::Running { boot });
            }
        }
        self.point("start", id, "after");
        Ok(Started::default())
    }

    fn stop(&self, id: &MachineId, _grace: Duration) -> Result<()> {
        self.point("stop", id, "before");
        self.refuse("stop", id)?;
        match self.inspect(id)? {
            MachineState::Absent | MachineState::Halted => {}
            MachineState::Running { .. } | MachineState::Frozen { .. } => self.set(id, MachineState::Halted),
            // What runs without a whole machine around it can only be removed.
            MachineState::Broken { .. } => self.forget(id),
        }
        self.point("stop", id, "after");
        Ok(())
    }

    fn delete(&self, id: &MachineId) -> Result<()> {
        self.point("delete", id, "before");
        self.refuse("delete", id)?;
        self.set(id, MachineState::Broken { reason: "its removal was interrupted".into() });
        self.point("delete", id, "half");
        self.forget(id);
        self.point("delete", id, "after");
        Ok(())
    }

    fn exec(&self, id: &MachineId, exec: &Exec, mut stdio: Stdio<'_>) -> Result<Ended> {
        self.running(id)?;
        self.refuse("exec", id)?;
        let (mut read, mut status) = (Vec::new(), 0);
        if let Stdio::Follow { each } = &mut stdio
            && let Some(root) = self.root(id)
            && let Some(command) = folder::command(&root, &exec.argv, &exec.env)
        {
            self.point("exec", id, "before");
            let ended = command.follow(&mut |line| match line {
                Some((stream, line)) => each(Some((stream, &folder::line(&root, line)))),
                None => each(None),
            })?;
            return Ok(Ended { code: ended.code().unwrap_or(137), output: Output::default() });
        }
        if let Some(root) = self.root(id)
            && let Some(command) = folder::command(&root, &exec.argv, &exec.env)
        {
            self.point("exec", id, "before");
            let (ended, _) = command.run_any(&mut |stream, line| read.push((stream, folder::line(&root, line))))?;
            status = ended.code().unwrap_or(137);
        } else {
            read.push((Stream::Out, exec.argv.join(" ")));
        }
        let stdout = read.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n").into_bytes();
        let mut tail = Tail::default();
        read.iter().for_each(|(_, line)| tail.push(line));
        for (stream, line) in read {
            match &mut stdio {
                Stdio::Pipes { each, .. } | Stdio::Fed { each, .. } => each(stream, &line),
                Stdio::Follow { each } => drop(each(Some((stream, &line)))),
                Stdio::Ends(given) => {
                    let end = if stream == Stream::Out { &given.ends.stdout } else { &given.ends.stderr };
                    let _ = rustix::io::write(end, format!("{line}\n").as_bytes());
                }
                Stdio::Caller | Stdio::Terminal => {}
            }
        }
        Ok(Ended { code: status, output: Output { stdout, tail, ..Output::default() } })
    }

    fn unpack(&self, id: &MachineId, tar: &mut (dyn Read + Send), folder: &str, _user: &str, cancel: &Cancel) -> Result<()> {
        self.running(id)?;
        self.point("unpack", id, "before");
        if self.root(id).is_some() {
            let unpack = Command::new("tar").args(["--extract", "--no-same-owner", "--directory"]).arg(self.below(id, folder));
            let limits = Limits { cancel: Some(cancel.clone()), ..Limits::default() };
            let (status, output) = unpack.clone().limits(limits).run_fed(tar, &mut |_, _| {})?;
            if !status.success() {
                return Err(unpack.failed(status, &output).into());
            }
        } else {
            let failed = |source| Error::Io { what: "read the archive for", path: id.to_string().into(), source };
            std::io::copy(tar, &mut std::io::sink()).map_err(failed)?;
        }
        Ok(())
    }

    fn pack(&self, id: &MachineId, path: &str, tar: &mut (dyn Write + Send), cancel: &Cancel) -> Result<()> {
        self.running(id)?;
        self.point("pack", id, "before");
        if self.root(id).is_some() {
            let (folder, name) = copies::split(path);
            let limits = Limits { cancel: Some(cancel.clone()), ..Limits::default() };
            let pack = Command::new("tar").args(["--create", "--file", "-", "--directory"]).arg(self.below(id, &folder));
            let packed = pack.arg("--").arg(name).limits(limits).run()?;
            let failed = |source| Error::Io { what: "hand on the files of", path: id.to_string().into(), source };
            tar.write_all(&packed.stdout).map_err(failed)?;
        }
        Ok(())
    }

    fn address(&self, id: &MachineId) -> Result<Vec<IpAddr>> {
        let world = self.world();
        let spec = world.machines.get(id).and_then(|machine| machine.spec.as_ref());
        Ok(spec.map_or_else(Vec::new, |spec| vec![spec.network.v4.into(), spec.network.v6.into()]))
    }

    fn disk(&self, _id: &MachineId) -> Result<u64> {
        Ok(4096)
    }

    fn freezer(&self) -> Option<&dyn Freezer> {
        Some(self)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn layers(&self) -> Option<&dyn Layers> {
        let kept = self.world().file.is_some();
        kept.then_some(self as &dyn Layers)
    }
}

impl Layers for Fake {
    fn commit(&self, id: &MachineId, target: &Path) -> Result<()> {
        let failed = |source| Error::Io { what: "keep as a layer", path: target.to_owned(), source };
        std::fs::rename(self.below(id, "/"), target).map_err(failed)?;
        self.delete(id)
    }

    fn written(&self, id: &MachineId, target: &str) -> Result<PathBuf> {
        Ok(self.below(id, target))
    }
}

impl Volumes for Fake {
    fn keep(&self, spec: &MachineSpec) -> Result<()> {
        self.point("keep", &spec.id, "before");
        self.refuse("keep", &spec.id)?;
        self.begin(spec);
        self.point("keep", &spec.id, "after");
        Ok(())
    }

    fn seen(&self, environment: &EnvironmentId) -> Result<Vec<SeenVolume>> {
        let own = self.begun().into_iter().filter(|begun| begun.machine.environment == *environment);
        Ok(own.map(|begun| SeenVolume { machine: begun.machine.machine, path: begun.volume.path }).collect())
    }

    fn size(&self, _environment: &EnvironmentId, _volume: &SeenVolume) -> Result<u64> {
        Ok(4096)
    }

    fn any(&self, environment: &EnvironmentId) -> bool {
        let world = self.world();
        world.volumes.iter().any(|begun| begun.machine.environment == *environment)
            || world.snapshots.iter().any(|copied| copied.environment == *environment)
    }

    fn held(&self) -> Result<BTreeSet<Digest>> {
        Ok(self.begun().into_iter().flat_map(|begun| begun.volume.seed).collect())
    }

    fn erase(&self, environment: &EnvironmentId) -> Result<()> {
        self.all_point("erase", "before");
        self.change(|world| {
            world.volumes.retain(|begun| begun.machine.environment != *environment);
            world.snapshots.retain(|copied| copied.environment != *environment);
        });
        self.all_point("erase", "after");
        Ok(())
    }
}

impl Snapshots for Fake {
    fn cost(&self, _environment: &EnvironmentId) -> Result<Option<super::Cost>> {
        Ok(None)
    }

    fn copy(&self, environment: &EnvironmentId, name: &SnapshotName, _cancel: &Cancel) -> Result<()> {
        self.all_point("copy", "before");
        for (machine, state) in self.machines(environment)? {
            if let MachineState::Running { .. } = state {
                let (id, reason) = (environment.machine(&machine), "it is running".to_owned());
                return Err(Error::Failed { verb: "copy", id, reason, tail: Vec::new() });
            }
        }
        self.change(|world| {
            world.snapshots.retain(|copied| copied.environment != *environment || copied.name != *name);
            let machines = world.machines.iter().filter(|(id, _)| id.environment == *environment);
            let machines = machines.map(|(id, machine)| (id.clone(), machine.files.clone())).collect();
            let volumes = world.volumes.iter().filter(|begun| begun.machine.environment == *environment).cloned().collect();
            world.snapshots.push(Copied {
                environment: environment.clone(),
                name: name.clone(),
                sealed: false,
                machines,
                volumes,
            });
        });
        self.all_point("copy", "after");
        Ok(())
    }

    fn seal(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<()> {
        self.all_point("seal", "before");
        self.change(|world| {
            let mut all = world.snapshots.iter_mut();
            if let Some(copied) = all.find(|copied| copied.environment == *environment && copied.name == *name) {
                copied.sealed = true;
            }
        });
        self.all_point("seal", "after");
        Ok(())
    }

    fn sweep(&self, environment: &EnvironmentId) -> Result<()> {
        self.change(|world| world.snapshots.retain(|copied| copied.sealed || copied.environment != *environment));
        Ok(())
    }

    fn names(&self, environment: &EnvironmentId) -> Result<BTreeSet<SnapshotName>> {
        let world = self.world();
        let own = world.snapshots.iter().filter(|copied| copied.sealed && copied.environment == *environment);
        Ok(own.map(|copied| copied.name.clone()).collect())
    }

    fn alone(&self, _environment: &EnvironmentId, _name: &SnapshotName) -> Result<u64> {
        Ok(4096)
    }

    fn restore(&self, id: &MachineId, name: &SnapshotName, _cancel: &Cancel) -> Result<()> {
        self.point("restore", id, "before");
        self.refuse("restore", id)?;
        let found = self.world().snapshots.iter().find(|one| one.environment == id.environment && one.name == *name).cloned();
        let Some(copied) = found else { return Err(Error::Absent { id: id.clone() }) };
        self.change(|world| {
            world.volumes.retain(|begun| begun.machine != *id);
            world.volumes.extend(copied.volumes.iter().filter(|begun| begun.machine == *id).cloned());
            if let Some(machine) = world.machines.get_mut(id) {
                let files = copied.machines.iter().find(|(machine, _)| machine == id).map(|(_, files)| files.clone());
                machine.files = files.unwrap_or_default();
            }
        });
        self.point("restore", id, "after");
        Ok(())
    }

    fn remove(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<()> {
        self.all_point("remove", "before");
        self.change(|world| world.snapshots.retain(|copied| copied.environment != *environment || copied.name != *name));
        self.all_point("remove", "after");
        Ok(())
    }
}

impl Freezer for Fake {
    fn freeze(&self, id: &MachineId) -> Result<()> {
        self.point("freeze", id, "before");
        if let MachineState::Running { boot } = self.inspect(id)? {
            self.set(id, MachineState::Frozen { boot });
        }
        Ok(())
    }

    fn thaw(&self, id: &MachineId) -> Result<()> {
        self.point("thaw", id, "before");
        if let MachineState::Frozen { boot } = self.inspect(id)? {
            self.set(id, MachineState::Running { boot });
        }
        self.point("thaw", id, "after");
        Ok(())
    }
}
