//! Machines in memory, for tests of everything above: states are kept as exactly as the real ones, nothing runs.
//!
//! Each change happens in two halves with a checkpoint before, between and after. A test that panics out of a checkpoint
//! leaves what a SIGKILL there would leave; with [`Fake::kept_in`] the machines outlive a real one.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Capabilities, Ended, Error, Freezer, Provider, Result, Stdio};
use crate::exec::Output;
use crate::model::{EnvironmentId, Exec, MachineId, MachineName, MachineSpec, MachineState, Stream};

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
    failures: Vec<(String, String)>,
    next_pid: u32,
    file: Option<PathBuf>,
}

impl World {
    /// A real kernel keeps its machines when adt dies; so does the file.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let machines: Vec<_> = self.machines.iter().collect();
        let text = serde_json::to_string(&(machines, self.next_pid)).expect("machines are plain data");
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

impl Fake {
    /// Machines that outlive this process, like real ones: they are in `file` from each change on.
    pub fn kept_in(file: &Path) -> Self {
        let kept = std::fs::read_to_string(file).ok();
        let read = |text: String| serde_json::from_str(&text).expect("this type wrote it");
        let (machines, next_pid): (Vec<(MachineId, Machine)>, u32) = kept.map(read).unwrap_or_default();
        let world =
            World { machines: machines.into_iter().collect(), next_pid, failures: Vec::new(), file: Some(file.to_owned()) };
        Self { world: Arc::new(Mutex::new(world)), checkpoint: None }
    }

    /// With what a machine was created, to compare it with what was wanted.
    pub fn spec(&self, id: &MachineId) -> Option<MachineSpec> {
        self.world().machines.get(id).and_then(|machine| machine.spec.clone())
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

    fn running(&self, id: &MachineId) -> Result<()> {
        match self.inspect(id)? {
            MachineState::Running { .. } => Ok(()),
            MachineState::Absent => Err(Error::Absent { id: id.clone() }),
            state => Err(Error::NotRunning { id: id.clone(), state: state.word() }),
        }
    }
}

impl Provider for Fake {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "fake", freeze: true, console: false, local_network: true }
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
        self.change(|world| {
            let machine = world.machines.get_mut(id).expect("inserted above");
            if matches!(machine.state, MachineState::Broken { .. }) {
                machine.state = MachineState::Halted;
            }
            machine.spec = Some(spec.clone());
        });
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

    fn start(&self, id: &MachineId) -> Result<()> {
        self.point("start", id, "before");
        self.refuse("start", id)?;
        match self.inspect(id)? {
            MachineState::Absent => return Err(Error::Absent { id: id.clone() }),
            MachineState::Broken { reason } => return Err(Error::Broken { id: id.clone(), reason }),
            MachineState::Running { .. } => {}
            MachineState::Frozen { init_pid } => self.set(id, MachineState::Running { init_pid }),
            MachineState::Halted => {
                let mut world = self.world();
                world.next_pid += 1;
                let init_pid = world.next_pid;
                drop(world);
                self.set(id, MachineState::Running { init_pid });
            }
        }
        self.point("start", id, "after");
        Ok(())
    }

    fn stop(&self, id: &MachineId, _grace: Duration) -> Result<()> {
        self.point("stop", id, "before");
        self.refuse("stop", id)?;
        match self.inspect(id)? {
            MachineState::Absent | MachineState::Halted => {}
            MachineState::Running { .. } | MachineState::Frozen { .. } => self.set(id, MachineState::Halted),
            // What runs without a whole machine around it can only be removed.
            MachineState::Broken { .. } => {
                self.change(|world| drop(world.machines.remove(id)));
            }
        }
        self.point("stop", id, "after");
        Ok(())
    }

    fn delete(&self, id: &MachineId) -> Result<()> {
        self.point("delete", id, "before");
        self.refuse("delete", id)?;
        self.set(id, MachineState::Broken { reason: "its removal was interrupted".into() });
        self.point("delete", id, "half");
        self.change(|world| drop(world.machines.remove(id)));
        self.point("delete", id, "after");
        Ok(())
    }

    fn exec(&self, id: &MachineId, exec: &Exec, stdio: Stdio<'_>) -> Result<Ended> {
        self.running(id)?;
        self.refuse("exec", id)?;
        let line = exec.argv.join(" ");
        match stdio {
            Stdio::Pipes { each, .. } | Stdio::Fed { each, .. } => each(Stream::Out, &line),
            Stdio::Follow { each } => drop(each(Some((Stream::Out, &line)))),
            Stdio::Inherit | Stdio::Terminal => {}
        }
        Ok(Ended { code: 0, output: Output { stdout: line.into_bytes(), stderr: Vec::new() } })
    }

    fn copy_in(&self, id: &MachineId, _source: &Path, _target: &str) -> Result<()> {
        self.running(id)
    }

    fn unpack(&self, id: &MachineId, tar: &mut (dyn Read + Send), _folder: &str, _user: &str) -> Result<()> {
        self.running(id)?;
        let failed = |source| Error::Io { what: "read the archive for", path: id.to_string().into(), source };
        std::io::copy(tar, &mut std::io::sink()).map(drop).map_err(failed)
    }

    fn copy_out(&self, id: &MachineId, _source: &str, _target: &Path) -> Result<()> {
        self.running(id)
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
}

impl Freezer for Fake {
    fn freeze(&self, id: &MachineId) -> Result<()> {
        if let MachineState::Running { init_pid } = self.inspect(id)? {
            self.set(id, MachineState::Frozen { init_pid });
        }
        Ok(())
    }

    fn thaw(&self, id: &MachineId) -> Result<()> {
        self.point("thaw", id, "before");
        if let MachineState::Frozen { init_pid } = self.inspect(id)? {
            self.set(id, MachineState::Running { init_pid });
        }
        self.point("thaw", id, "after");
        Ok(())
    }
}
