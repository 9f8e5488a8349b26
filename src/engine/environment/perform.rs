//! Runs a plan: wave after wave, the chains of a wave at the same time, each step told by events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::engine::at_once::{combine, join, stopped};
use crate::engine::check::probe;
use crate::engine::environment::standing::with_volumes;
use crate::engine::events::{Events, milliseconds};
use crate::engine::site::code::LiveSites;
use crate::exec::Cancel;
use crate::model::response::Done;
use crate::model::{
    Action, Event, Exec, Failure, Kind, MachineName, MachineSpec, MachineState, NetworkSpec, Plan, ProviderName, Response,
    SiteName, Step, Wave,
};
use crate::network::address;
use crate::plan::Wanted;
use crate::providers::{Provider, Stdio};
use crate::store::Environment;

/// What the steps of one environment need to know.
pub struct Scene<'a> {
    /// The record; none where nothing is left but what goes.
    pub environment: Option<&'a Environment>,
    /// What a plan needs that brings something up.
    pub raising: Option<Raising<'a>>,
    pub network: &'a NetworkSpec,
    pub specs: BTreeMap<&'a MachineName, &'a MachineSpec>,
    /// The providers that have something of a machine before any step.
    pub on: BTreeMap<MachineName, BTreeSet<ProviderName>>,
    pub sites: &'a LiveSites,
    /// Where its checkouts are, for when all of it goes.
    pub workspace: Option<PathBuf>,
}

impl<'a> Scene<'a> {
    /// For what only goes, which needs no record, and for sites alone.
    pub fn of(network: &'a NetworkSpec, sites: &'a LiveSites) -> Self {
        Self { environment: None, raising: None, network, specs: BTreeMap::new(), on: BTreeMap::new(), sites, workspace: None }
    }
}

/// Wanted things that take more than a machine's own specification.
pub struct Raising<'a> {
    pub environment: &'a Environment,
    pub wanted: &'a Wanted,
}

impl Engine {
    /// Runs all that can be run. Where a chain fails, the others of its wave finish, later waves don't begin.
    pub(in crate::engine) fn perform(&self, plan: &Plan, scene: &Scene<'_>, events: &Events) -> Result<(), Failure> {
        self.waves(plan, scene, events, &self.cancel)
    }

    /// For cleaning up after a cancelled command: Ctrl-C asked for exactly this.
    pub(in crate::engine) fn perform_uncancelled(&self, plan: &Plan, scene: &Scene<'_>, events: &Events) -> Result<(), Failure> {
        self.waves(plan, scene, events, &AtomicBool::new(false))
    }

    fn waves(&self, plan: &Plan, scene: &Scene<'_>, events: &Events, cancel: &AtomicBool) -> Result<(), Failure> {
        for wave in &plan.waves {
            let opening = Opening::of(wave);
            let failures: Vec<Failure> = std::thread::scope(|scope| {
                let chains: Vec<_> =
                    wave.chains.iter().map(|chain| scope.spawn(|| self.chain(chain, scene, events, cancel, &opening))).collect();
                chains.into_iter().filter_map(|chain| join(chain).err()).collect()
            });
            if !failures.is_empty() {
                return Err(combine(failures));
            }
        }
        Ok(())
    }

    fn chain(
        &self,
        chain: &[Step],
        scene: &Scene<'_>,
        events: &Events,
        cancel: &AtomicBool,
        opening: &Opening,
    ) -> Result<(), Failure> {
        // However this ends, nobody waits for ever.
        let _told = chain.iter().any(|step| step.action == Action::Open).then(|| Told(opening));
        for step in chain {
            if step.action.needs_network() && !opening.wait() {
                // The chain that was to open it tells why.
                return Ok(());
            }
            if stopped(cancel) {
                let failure = Failure::new(Kind::Cancelled, step.to_string());
                return Err(self.goes_on(failure.cause("cancelled before it began; what was done so far is kept")));
            }
            events.emit(Event::StepStarted { step: step.clone() });
            let since = Instant::now();
            if let Action::Await { machine } = &step.action
                && !chain.iter().any(|other| other.action.starts(machine))
            {
                self.begin_again(scene.specs.get(machine).expect("the planner names only machines that are wanted here"), events);
            }
            if let Err(failure) = self.step(step, scene, events) {
                events.emit(Event::StepFailed { step: step.clone(), reason: failure.to_string() });
                return Err(failure);
            }
            events.emit(Event::StepDone { step: step.clone(), milliseconds: milliseconds(since) });
            if step.action == Action::Open {
                opening.tell(true);
            }
        }
        Ok(())
    }

    fn step(&self, step: &Step, scene: &Scene<'_>, events: &Events) -> Result<(), Failure> {
        let id = |machine: &MachineName| step.environment.machine(machine);
        let spec =
            |machine: &MachineName| *scene.specs.get(machine).expect("the planner names only machines that are wanted here");
        let environment = || scene.environment.expect("only the sites of a recorded environment are worked on");
        let site = |site: &SiteName| scene.sites.get(site).expect("the planner names only sites that are live here");
        match &step.action {
            Action::Connect => {
                address::check_free(scene.network.v4, &self.network.routes()?)?;
                self.network.connect(scene.network)?;
            }
            Action::Open => self.network.open(scene.network)?,
            Action::Disconnect => self.network.disconnect(&scene.network.tag)?,
            Action::Create { machine } => {
                let raising = scene.raising.as_ref().expect("only plans that bring something up create");
                self.make_machine(raising.environment, spec(machine))?;
            }
            Action::Start { machine } => self.start_machine(spec(machine), events)?,
            Action::Thaw { machine } => match self.providers.of(spec(machine))?.freezer() {
                Some(freezer) => freezer.thaw(&id(machine))?,
                None => self.start_machine(spec(machine), events)?,
            },
            Action::Await { machine } => self.await_answer(spec(machine), true)?,
            Action::Deploy { machine, site, release } => {
                let raising = scene.raising.as_ref().expect("only plans that bring something up deploy");
                self.deploy_onto(raising, machine, site, release, events)?;
            }
            Action::Stop { machine } => {
                self.where_it_is(scene, machine)?
                    .into_iter()
                    .try_for_each(|provider| provider.stop(&id(machine), self.grace()))?;
            }
            Action::Restore { machine, snapshot } => {
                let snapshots =
                    self.providers.of(spec(machine))?.snapshots().expect("only a snapshot that was taken is put back");
                snapshots.restore(&id(machine), snapshot, &Cancel(Arc::clone(&self.cancel)))?;
            }
            Action::Keep { machine } => {
                let volumes = self.providers.of(spec(machine))?.volumes().expect("only machines with volumes keep anything");
                volumes.keep(spec(machine))?;
            }
            Action::Erase => {
                let around = self.around(&step.environment)?;
                with_volumes(&around).try_for_each(|(_, volumes)| volumes.erase(&step.environment))?;
            }
            Action::Delete { machine } => {
                self.where_it_is(scene, machine)?.into_iter().try_for_each(|provider| provider.delete(&id(machine)))?;
                self.store.database.forget_applied(&id(machine))?;
            }
            Action::Checkout { site: name } => {
                self.check_out(&step.environment, name, site(name), events)?;
                self.render_checkout(environment(), name, site(name), events)?;
            }
            Action::Render { site: name } => self.render_checkout(environment(), name, site(name), events)?,
            Action::Switch { site: name, .. } => {
                self.switch(site(name))?;
                self.render_checkout(environment(), name, site(name), events)?;
            }
            Action::Discard { site: name } => self.discard(&step.environment, name, site(name), events)?,
            Action::Forget => {
                // Before the record goes, which alone says where the folder is.
                scene.workspace.as_deref().map_or(Ok(()), |folder| self.tidy_workspace(&step.environment, folder))?;
                self.store.keys.forget(&step.environment)?;
                self.store.snapshots.forget(&step.environment)?;
                self.store.promotions.forget(&step.environment)?;
                self.store.database.forget_environment(&step.environment)?;
            }
        }
        Ok(())
    }

    /// The providers on which a machine stops or goes: it may be wanted on another.
    fn where_it_is(&self, scene: &Scene<'_>, machine: &MachineName) -> Result<Vec<&dyn Provider>, Failure> {
        let on = scene.on.get(machine).into_iter().flatten();
        on.map(|name| Ok(self.providers.get(name)?)).collect()
    }

    fn start_machine(&self, spec: &MachineSpec, events: &Events) -> Result<(), Failure> {
        if let Some(warning) = self.providers.of(spec)?.start(&spec.id)?.warning {
            events.warn(warning);
        }
        Ok(())
    }

    /// What failed in a machine that ran before this command, e.g. because the disk was full, has to be begun again by somebody. In one
    /// that was just started, it would fail the same way.
    fn begin_again(&self, spec: &MachineSpec, events: &Events) {
        let Ok(provider) = self.providers.of(spec) else { return };
        if probe::once(&*self.probe, provider, spec).is_ok() {
            return;
        }
        let units = self.failed_units(spec);
        if units.is_empty() {
            return;
        }
        events.note(format!("{}: {} failed earlier and is begun again", spec.id, units.join(", ")));
        for words in [&["systemctl", "reset-failed", "--"][..], &["systemctl", "start", "--no-block", "--"]] {
            let exec = Exec::new(words.iter().copied().chain(units.iter().map(String::as_str)));
            // If it does not begin, the wait that comes now says what is missing.
            let _ = provider.exec(&spec.id, &exec, Stdio::Pipes { stdin: None, each: &mut |_, _| () });
        }
    }

    /// `again`: a machine that ends is started once more. One that a killed run had started may have looked alive to this run
    /// just before it went down with that run.
    fn await_answer(&self, spec: &MachineSpec, again: bool) -> Result<(), Failure> {
        let deadline = Duration::from_secs(spec.health.deadline_seconds.into());
        let provider = self.providers.of(spec)?;
        let (kind, cause) = match probe::wait(&*self.probe, provider, spec, deadline, &self.cancel) {
            Ok(()) => return Ok(()),
            Err(probe::NoAnswer::Died(MachineState::Halted)) if again => {
                provider.start(&spec.id)?;
                return self.await_answer(spec, false);
            }
            Err(probe::NoAnswer::Cancelled) => {
                return Err(self.goes_on(Failure::new(Kind::Cancelled, format!("wait for `{}`", spec.id)).cause("cancelled")));
            }
            Err(probe::NoAnswer::Deadline(reason)) => {
                (Kind::Deadline, format!("it did not answer within {} s: {reason}", deadline.as_secs()))
            }
            Err(probe::NoAnswer::Died(state)) => (Kind::Program, format!("it went {} while starting", state.word())),
        };
        let mut failure = Failure::new(kind, format!("bring up `{}`", spec.id)).cause(cause);
        failure.causes.extend(self.failed_units(spec).into_iter().map(|unit| format!("unit `{unit}` failed")));
        let console = provider.console().and_then(|console| console.tail(&spec.id, 20).ok());
        let environment = &spec.id.environment;
        if kind == Kind::Deadline {
            failure = failure.hint(format!(
                "look inside with `adt env:ssh {} {} {}`; the other machines stay usable",
                environment.platform, environment.name, spec.id.machine
            ));
        }
        Err(failure
            .tail(console.unwrap_or_default())
            .hint(format!("when it is mended, `adt env:up {} {}` goes on", environment.platform, environment.name)))
    }

    /// A cancelled command goes on when it is given again: whatever it was, and for whatever part of it was left.
    pub(in crate::engine) fn goes_on(&self, failure: Failure) -> Failure {
        failure.hint(format!("`adt {}` goes on from here", self.caller.command))
    }

    /// The same for one that may have failed otherwise, or says it already.
    pub(in crate::engine) fn goes_on_if_cancelled(&self, failure: Failure) -> Failure {
        if failure.kind == Kind::Cancelled && failure.hints.is_empty() { self.goes_on(failure) } else { failure }
    }

    /// The units of a machine that failed, asked of its init.
    pub(in crate::engine) fn failed_units(&self, spec: &MachineSpec) -> Vec<String> {
        let Ok(provider) = self.providers.of(spec) else { return Vec::new() };
        if !matches!(provider.inspect(&spec.id), Ok(MachineState::Running { .. })) {
            return Vec::new();
        }
        let list = Exec::new(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"]);
        let mut units = Vec::new();
        let each = &mut |_, line: &str| {
            let unit = line.split_whitespace().next().filter(|_| units.len() < MOST_UNITS);
            units.extend(unit.map(str::to_owned));
        };
        match provider.exec(&spec.id, &list, Stdio::Pipes { stdin: None, each }) {
            Ok(ended) if ended.code == 0 => units,
            Ok(_) | Err(_) => Vec::new(),
        }
    }
}

/// A machine with more failed units than this is told of well enough.
const MOST_UNITS: usize = 100;

/// Whether the network is open that a wave's machines start on.
struct Opening(OnceLock<bool>);

impl Opening {
    fn of(wave: &Wave) -> Self {
        let opens = wave.chains.iter().flatten().any(|step| step.action == Action::Open);
        Self(if opens { OnceLock::new() } else { OnceLock::from(true) })
    }

    fn tell(&self, open: bool) {
        let _ = self.0.set(open);
    }

    fn wait(&self) -> bool {
        *self.0.wait()
    }
}

/// Says that it stays closed, if nobody said otherwise.
struct Told<'a>(&'a Opening);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.tell(false);
    }
}

pub(in crate::engine) fn done(summary: String, plan: Plan, dry_run: bool, next: Vec<String>) -> Response {
    let changed = !dry_run && !plan.is_empty();
    Response::Done(Done { summary, changed, plan: dry_run.then_some(plan), next, ..Done::default() })
}
