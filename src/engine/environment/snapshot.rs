//! `env:snapshot`, `env:snapshots`, `env:rewind`: an environment as it was at one moment, and the way back to it.
//!
//! ```text
//! take     freeze what runs → copy → thaw → seal (sync) → record → remove what the rule no longer keeps
//! rewind   snapshot of now → the old definition, with the wish to be put back, is on record → the plan puts each machine back
//! ```
//! A rewind is a wish in the definition like any other, so whatever kills it, the next `env:up` goes on: each machine whose
//! specification does not have that way back yet is put back and made anew. Machines that were added since go, and their volumes
//! stay unused, as after any reload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::at_once::{join, stopped};
use crate::engine::environment::records::leaving;
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::engine::site::code::at_checkout;
use crate::exec::Cancel;
use crate::model::machine::Rewound;
use crate::model::response::{Done, SnapshotSummary};
use crate::model::snapshot::{Moment, Reason};
use crate::model::{
    EnvironmentId, Failure, Kind, MachineId, MachineState, Plan, ProviderName, Response, SiteName, Size, SnapshotName,
};
use crate::plan::Goal;
use crate::providers::{self, Cost, Freezer, Snapshots};
use crate::sources::{checkout, kept};
use crate::store::record::Definition;
use crate::store::snapshots::{Snapshot, Work};
use crate::store::{Environment, Wanted};

/// What is copied without a question where blocks can't be shared: as much as a disk writes in a blink.
const MOST_UNASKED: u64 = 64 << 20;

impl Engine {
    pub(in crate::engine) fn env_snapshot(
        &self,
        id: &EnvironmentId,
        name: Option<SnapshotName>,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let environment = self.environment(id)?;
        if environment.wanted == Wanted::Gone {
            return Err(leaving(id, "take a snapshot of"));
        }
        let copiers = self.copiers(&environment)?;
        let known = self.tidy_snapshots(&environment)?;
        if let Some(name) = name.as_ref().filter(|name| known.iter().any(|one| one.name == **name)) {
            return Err(Failure::new(Kind::Conflict, format!("take the snapshot `{name}` of `{id}`"))
                .cause("there is one of that name")
                .hint(format!(
                    "choose another name, or remove it: adt env:snapshots {} {} --remove {name}",
                    id.platform, id.name
                )));
        }
        let name = name.unwrap_or_else(|| self.free_name(&known));
        if let Some(cost) = cost(&copiers, id)? {
            events.note(format!(
                "{} in {} files are copied, and `{id}` stands still meanwhile; on a pool they would be shared at once: adt \
                 host:bootstrap --pool SIZE",
                Size(cost.bytes),
                cost.files
            ));
            self.fits(id, cost)?;
        }
        self.take(&environment, &name, Reason::Asked, events)?;
        let next = vec![format!("back to it: adt env:rewind {} {} {name}", id.platform, id.name)];
        Ok(Response::Done(Done {
            summary: format!("the snapshot `{name}` of `{id}` is taken"),
            changed: true,
            next,
            ..Done::default()
        }))
    }

    pub(in crate::engine) fn env_snapshots(&self, id: &EnvironmentId) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        let copiers = self.copiers(&environment)?;
        let summary = |one: Snapshot| {
            let alone = copiers.iter().map(|(_, copier)| copier.alone(id, &one.name).ok()).sum();
            SnapshotSummary {
                taken: one.taken,
                reason: one.reason.to_string(),
                automatic: one.reason.is_automatic(),
                alone,
                name: one.name,
            }
        };
        Ok(Response::Snapshots(self.whole_snapshots(&environment)?.into_iter().map(summary).collect()))
    }

    pub(in crate::engine) fn env_snapshot_remove(
        &self,
        id: &EnvironmentId,
        name: &SnapshotName,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let environment = self.environment(id)?;
        self.tidy_snapshots(&environment)?;
        let found = self.find(&environment, Some(name))?;
        if environment.definition.rewound.as_ref().is_some_and(|rewound| rewound.snapshot == found.name) {
            return Err(unfinished(id, &format!("remove the snapshot `{name}` of `{id}`")));
        }
        if !dry_run {
            self.remove_snapshot(&environment, name)?;
        }
        let verb = if dry_run { "would be" } else { "is" };
        Ok(Response::Done(Done {
            summary: format!("the snapshot `{name}` of `{id}` {verb} removed"),
            changed: !dry_run,
            removes: vec![format!("the snapshot `{name}`, {}", found.reason)],
            ..Done::default()
        }))
    }

    pub(in crate::engine) fn env_rewind(
        &self,
        id: &EnvironmentId,
        name: Option<&SnapshotName>,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let mut environment = self.environment(id)?;
        if environment.wanted == Wanted::Gone {
            return Err(leaving(id, "rewind"));
        }
        let snapshot = self.find(&environment, name)?;
        let removes = self.lost(&environment, &snapshot);
        let kept =
            if dry_run { None } else { self.before(&environment, Reason::BeforeRewind { to: snapshot.name.clone() }, events)? };
        if environment.definition.placed != snapshot.definition.placed {
            return Err(Failure::new(Kind::Conflict, format!("rewind `{id}` to `{}`", snapshot.name))
                .cause("some of its machines stood on other servers then")
                .hint("`adt env:rollback` without `--data` brings machines back to where they were, and leaves data as it is"));
        }
        let ever = std::mem::take(&mut environment.definition.providers.ever);
        // How servers find each other is a matter of now.
        let seat = environment.definition.seat.take();
        environment.definition = Definition { seat, ..snapshot.definition.clone() };
        environment.definition.providers.ever.extend(ever);
        environment.definition.rewound = Some(Rewound { snapshot: snapshot.name.clone(), number: self.next_rewind(id)? });
        let codes = snapshot.codes.clone();
        if !dry_run {
            for (site, code) in &codes {
                self.store.database.put_site_code(id, site, code)?;
            }
            // From here on every `env:up` goes back there.
            self.store.database.set_definition(id, &environment.definition, self.now())?;
            self.remember(&format!("rewound to {}", snapshot.name), &id.to_string());
        }
        let is_up = environment.wanted == Wanted::Up;
        let plan = if is_up { self.drive_with(&environment, Goal::Up, codes, dry_run, events)? } else { Plan::default() };
        let name = &snapshot.name;
        let summary = match (dry_run, is_up) {
            (true, _) => format!("`{id}` would be rewound to `{name}`, {}", snapshot.reason),
            (false, true) => format!("`{id}` is as it was in `{name}`"),
            (false, false) => format!("`{id}` is as it was in `{name}` from the next `env:up` on"),
        };
        let next = kept.map(|kept| format!("undo it: adt env:rewind {} {} {kept}", id.platform, id.name));
        Ok(Response::Done(Done {
            summary,
            changed: !dry_run,
            plan: dry_run.then_some(plan),
            next: next.into_iter().collect(),
            removes,
            ..Done::default()
        }))
    }

    /// A way back that every machine has gone is no wish any more: one that is made anew later must not go it again.
    pub(super) fn settle_rewind(&self, environment: &Environment) -> Result<(), Failure> {
        if environment.definition.rewound.is_some() {
            let mut definition = environment.definition.clone();
            definition.rewound = None;
            self.store.database.set_definition(&environment.id, &definition, self.now())?;
        }
        Ok(())
    }

    /// The automatic snapshot before what can destroy; its name. None where the platform wants none, or where it would cost
    /// more than a blink: that is said, with the remedy.
    pub(in crate::engine) fn before(
        &self,
        environment: &Environment,
        reason: Reason,
        events: &Events,
    ) -> Result<Option<SnapshotName>, Failure> {
        let id = &environment.id;
        let Ok(copiers) = self.copiers(environment) else { return Ok(None) };
        let around = self.around_of(&environment.definition)?;
        if !environment.definition.platform.snapshots.automatic || self.found(id, &around)?.is_empty() {
            return Ok(None);
        }
        let cost = cost(&copiers, id)?.filter(|cost| cost.bytes > MOST_UNASKED || self.fits(id, *cost).is_err());
        if let Some(cost) = cost {
            events.warn(format!(
                "no snapshot is taken {reason}: it would copy {}; `adt env:snapshot {} {}` does it all the same, and on a pool it costs \
                 nothing: adt host:bootstrap --pool SIZE",
                Size(cost.bytes),
                id.platform,
                id.name
            ));
            return Ok(None);
        }
        let name = self.free_name(&self.tidy_snapshots(environment)?);
        self.take(environment, &name, reason, events)?;
        Ok(Some(name))
    }

    fn take(&self, environment: &Environment, name: &SnapshotName, reason: Reason, events: &Events) -> Result<(), Failure> {
        let id = &environment.id;
        let copiers = self.copiers(environment)?;
        let works = {
            let _still = Still::of(self, environment)?;
            if stopped(&self.cancel) {
                let failure = Failure::new(Kind::Cancelled, format!("take a snapshot of `{id}`"));
                return Err(failure.cause("cancelled before it began"));
            }
            with_each(&copiers, |copier| copier.copy(id, name, &Cancel(Arc::clone(&self.cancel))))?;
            self.keep_works(environment, name, events)?
        };
        with_each(&copiers, |copier| copier.seal(id, name))?;
        let codes = self.codes(id)?;
        let definition = environment.definition.clone();
        self.store.snapshots.add(id, &Snapshot { name: name.clone(), taken: self.now(), reason, definition, codes, works })?;
        for surplus in self.surplus(environment)? {
            events.note(format!("the snapshot `{surplus}` goes, as `[snapshots]` of its platform says"));
            self.remove_snapshot(environment, &surplus)?;
        }
        Ok(())
    }

    fn keep_works(
        &self,
        environment: &Environment,
        name: &SnapshotName,
        events: &Events,
    ) -> Result<BTreeMap<SiteName, Work>, Failure> {
        let mut works = BTreeMap::new();
        for (site, live) in self.live_sites(environment)?.into_iter().filter(|(_, live)| checkout::exists(&live.folder)) {
            let folder = live.folder.display();
            let kept = kept::keep(&self.person_of(live.owner), &live.folder, name).map_err(|error| {
                at_checkout(&live.folder, error).hint(format!(
                    "mend it, `git -C {folder} status` tells more; or write `automatic = false` below `[snapshots]` in \
                     platform.toml, and no snapshot is taken before a deploy, a reload or a rewind"
                ))
            })?;
            if !kept.left_out.is_empty() {
                events.warn(format!("not all work in `{folder}` is in the snapshot `{name}`: {}", kept.left_out.join("; ")));
            }
            works.insert(site, kept.work);
        }
        Ok(works)
    }

    /// Brings working trees back where a way back is wished; done again, it changes nothing more.
    pub(super) fn put_works_back(&self, environment: &Environment) -> Result<(), Failure> {
        let Some(rewound) = &environment.definition.rewound else { return Ok(()) };
        let snapshot = self.find(environment, Some(&rewound.snapshot))?;
        let live = self.live_sites_of(environment, snapshot.codes.clone());
        for (site, work) in &snapshot.works {
            let Some(live) = live.get(site).filter(|live| checkout::exists(&live.folder)) else { continue };
            kept::put_back(&self.person_of(live.owner), &live.folder, work)?;
        }
        Ok(())
    }

    fn surplus(&self, environment: &Environment) -> Result<Vec<SnapshotName>, Failure> {
        let all = self.store.snapshots.list(&environment.id)?;
        let moments: Vec<_> =
            all.iter().map(|one| Moment { name: &one.name, taken: one.taken, automatic: one.reason.is_automatic() }).collect();
        let wished = environment.definition.rewound.as_ref().map(|rewound| &rewound.snapshot);
        let mut surplus = environment.definition.platform.snapshots.surplus(&moments, self.now());
        surplus.retain(|name| Some(name) != wished);
        Ok(surplus)
    }

    /// The record first: what has none is swept away by the next command.
    fn remove_snapshot(&self, environment: &Environment, name: &SnapshotName) -> Result<(), Failure> {
        self.store.snapshots.remove(&environment.id, name)?;
        for live in self.live_sites(environment)?.into_values().filter(|live| checkout::exists(&live.folder)) {
            kept::forget(&self.person_of(live.owner), &live.folder, name)?;
        }
        with_each(&self.copiers(environment)?, |copier| copier.remove(&environment.id, name))
    }

    /// Who copies the machines and data of an environment: each of its providers has its part of a snapshot.
    fn copiers(&self, environment: &Environment) -> Result<Vec<Copier<'_>>, Failure> {
        let definition = &environment.definition;
        let mut copiers = Vec::new();
        for (name, provider) in self.around_of(definition)? {
            match provider.snapshots() {
                Some(snapshots) => copiers.push((name, snapshots)),
                // Nothing stands there any more.
                None if definition.platform.machines.iter().all(|machine| definition.provider(machine) != name) => {}
                None => {
                    return Err(Failure::new(Kind::Host, format!("take snapshots of `{}`", environment.id))
                        .cause(format!("machines of `{name}` can't be copied")));
                }
            }
        }
        Ok(copiers)
    }

    /// The snapshots of which record and copies are there. Whoever is about to take one at this moment has only the one or the
    /// other.
    pub(in crate::engine) fn whole_snapshots(&self, environment: &Environment) -> Result<Vec<Snapshot>, Failure> {
        self.sorted_snapshots(environment, &self.copiers(environment)?).map(|(whole, _)| whole)
    }

    /// Those and the names of the others.
    fn sorted_snapshots(
        &self,
        environment: &Environment,
        copiers: &[Copier<'_>],
    ) -> Result<(Vec<Snapshot>, BTreeSet<SnapshotName>), Failure> {
        let id = &environment.id;
        let copied = copiers.iter().map(|(name, copier)| Ok((name, copier.names(id)?)));
        let copied = copied.collect::<Result<Vec<_>, Failure>>()?;
        // On a provider that its environment came to later, it has nothing.
        let has_part = |one: &Snapshot, name: &ProviderName| one.definition.providers.ever.contains(name);
        let is_whole = |one: &Snapshot| copied.iter().all(|(name, names)| !has_part(one, name) || names.contains(&one.name));
        let (whole, half): (Vec<_>, Vec<_>) = self.store.snapshots.list(id)?.into_iter().partition(is_whole);
        let mut others: BTreeSet<_> = copied.iter().flat_map(|(_, names)| names).cloned().collect();
        others.extend(half.into_iter().map(|one| one.name));
        others.retain(|name| whole.iter().all(|one| one.name != *name));
        Ok((whole, others))
    }

    /// The same for who holds the environment's lock: what is not whole was cut off, and goes.
    fn tidy_snapshots(&self, environment: &Environment) -> Result<Vec<Snapshot>, Failure> {
        let copiers = self.copiers(environment)?;
        with_each(&copiers, |copier| copier.sweep(&environment.id))?;
        let (whole, half) = self.sorted_snapshots(environment, &copiers)?;
        for name in &half {
            self.remove_snapshot(environment, name)?;
        }
        Ok(whole)
    }

    fn find(&self, environment: &Environment, name: Option<&SnapshotName>) -> Result<Snapshot, Failure> {
        let id = &environment.id;
        let mut all = self.whole_snapshots(environment)?;
        let names: Vec<_> = all.iter().map(|one| one.name.to_string()).collect();
        let found = match name {
            None => all.pop(),
            Some(name) => all.into_iter().find(|one| one.name == *name),
        };
        found.ok_or_else(|| {
            let what =
                name.map_or_else(|| format!("find a snapshot of `{id}`"), |name| format!("find the snapshot `{name}` of `{id}`"));
            let failure = Failure::new(Kind::NotFound, what);
            if names.is_empty() {
                failure.cause("it has none").hint(format!("take one with `adt env:snapshot {} {}`", id.platform, id.name))
            } else {
                failure.hint(format!("there are {}", names.join(", ")))
            }
        })
    }

    /// A name made of the time, which sorts as it reads.
    fn free_name(&self, known: &[Snapshot]) -> SnapshotName {
        let time = jiff::Timestamp::from_second(self.now()).unwrap_or_default().strftime("%Y%m%d-%H%M%S").to_string();
        let tries = std::iter::once(time.clone()).chain((2..).map(|number| format!("{time}-{number}")));
        let mut names = tries.map(|name| SnapshotName::new(name).expect("digits and hyphens make a label"));
        names.find(|name| known.iter().all(|one| one.name != *name)).expect("there are more numbers than snapshots")
    }

    fn next_rewind(&self, id: &EnvironmentId) -> Result<u32, Failure> {
        let applied = self.store.database.applied(Some(id))?;
        Ok(applied.iter().filter_map(|(_, spec)| spec.rewound.as_ref()).map(|rewound| rewound.number).max().unwrap_or(0) + 1)
    }

    /// What a way back loses, in words.
    fn lost(&self, environment: &Environment, snapshot: &Snapshot) -> Vec<String> {
        let since = jiff::Timestamp::from_second(snapshot.taken).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S UTC");
        let machines = environment.definition.machines_here();
        machines
            .keys()
            .map(|name| format!("what `{}` wrote since {since}, its data included", environment.id.machine(name)))
            .collect()
    }

    /// Whether a copy leaves the store something.
    fn fits(&self, id: &EnvironmentId, cost: Cost) -> Result<(), Failure> {
        let Ok(disk) = rustix::fs::statvfs(&self.store.folder) else { return Ok(()) };
        let free = disk.f_bavail * disk.f_frsize;
        if cost.bytes <= free - free / 10 {
            return Ok(());
        }
        Err(Failure::new(Kind::Host, format!("take a snapshot of `{id}`"))
            .cause(format!("it would copy {}, and {} are free", Size(cost.bytes), Size(free)))
            .hint("on a pool blocks are shared: adt host:bootstrap --pool SIZE"))
    }
}

/// The part of one provider in snapshots.
type Copier<'a> = (&'a ProviderName, &'a dyn Snapshots);

/// Does the same with all parts, at the same time where there are several.
fn with_each(copiers: &[Copier<'_>], work: impl Fn(&dyn Snapshots) -> providers::Result<()> + Sync) -> Result<(), Failure> {
    if let [(_, only)] = copiers {
        return Ok(work(*only)?);
    }
    let work = &work;
    std::thread::scope(|scope| {
        let all: Vec<_> = copiers.iter().map(|(_, copier)| scope.spawn(move || work(*copier))).collect();
        all.into_iter().try_for_each(join)
    })?;
    Ok(())
}

/// What the copies of all parts take of the disk.
fn cost(copiers: &[Copier<'_>], id: &EnvironmentId) -> Result<Option<Cost>, Failure> {
    let mut all: Option<Cost> = None;
    for (_, copier) in copiers {
        if let Some(cost) = copier.cost(id)? {
            let sum = all.get_or_insert(Cost { bytes: 0, files: 0 });
            sum.bytes += cost.bytes;
            sum.files += cost.files;
        }
    }
    Ok(all)
}

/// Until a way back is gone, machines and definition are not of one time.
pub(in crate::engine) fn unfinished(id: &EnvironmentId, what: &str) -> Failure {
    Failure::new(Kind::Conflict, what)
        .cause("a rewind is not finished")
        .hint(format!("finish it with `adt env:up {} {}`", id.platform, id.name))
}

/// The machines of an environment that ran stand still until this is dropped, whatever happens meanwhile.
struct Still<'a>(Vec<(MachineId, &'a dyn Freezer)>);

impl<'a> Still<'a> {
    fn of(engine: &'a Engine, environment: &Environment) -> Result<Self, Failure> {
        let id = &environment.id;
        let mut running = Vec::new();
        for (_, provider) in engine.around_of(&environment.definition)? {
            for (name, state) in provider.machines(id)? {
                if !matches!(state, MachineState::Running { .. }) {
                    continue;
                }
                let Some(freezer) = provider.freezer() else {
                    return Err(Failure::new(Kind::Host, format!("take a snapshot of `{id}`"))
                        .cause(format!("its machine `{name}` can't be frozen while it runs"))
                        .hint(format!("halt it first: adt env:halt {} {}", id.platform, id.name)));
                };
                running.push((id.machine(&name), freezer));
            }
        }
        // All at once: the moment is the same for all of them, but for the milliseconds in which they stop.
        let still = Self(running);
        std::thread::scope(|scope| {
            let freezing: Vec<_> =
                still.0.iter().map(|(machine, freezer)| scope.spawn(move || freezer.freeze(machine))).collect();
            freezing.into_iter().try_for_each(join)
        })?;
        Ok(still)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            for (machine, freezer) in &self.0 {
                scope.spawn(move || {
                    if let Err(error) = freezer.thaw(machine) {
                        tracing::warn!(%machine, %error, "it stays frozen; the next command thaws it");
                    }
                });
            }
        });
    }
}
