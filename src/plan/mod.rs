//! From what is wanted and what is seen to what is to be done. Pure: the same function plans a first start, a repair
//! after a crash and a dry run.

pub mod promotion;
pub mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::machine::{Mount, MountMode};
use crate::model::{Action, Digest, EnvironmentId, MachineName, MachineSpec, MachineState, Plan, ProviderName, SiteName, Step};

/// Where an environment is meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Up,
    Halted,
    Gone,
}

/// What the definition says of an environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub id: EnvironmentId,
    pub machines: BTreeMap<MachineName, WantedMachine>,
    /// Sites whose code is a working tree in the platform's folder.
    pub checkouts: BTreeMap<SiteName, PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WantedMachine {
    pub spec: MachineSpec,
    /// Machines that must answer before this one starts; acyclic.
    pub after: Vec<MachineName>,
    /// The releases that its sites serve.
    pub releases: BTreeMap<SiteName, Digest>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub network: SeenNetwork,
    pub machines: BTreeMap<MachineName, SeenMachine>,
    /// Sites whose working tree is there.
    pub checkouts: BTreeSet<SiteName>,
    /// Those of them that lack what their templates become.
    pub stale: BTreeSet<SiteName>,
    /// Something of its volumes is there.
    pub volumes: bool,
    /// The store has a row for it.
    pub remembered: bool,
}

impl Seen {
    /// Where each machine is.
    pub fn places(&self) -> BTreeMap<MachineName, BTreeSet<ProviderName>> {
        self.machines.iter().map(|(name, machine)| (name.clone(), machine.on.clone())).collect()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SeenNetwork {
    #[default]
    Nothing,
    /// Something of it is there. Machines' cables survive only as long as the bridge does.
    Partly {
        bridge: bool,
    },
    Complete,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SeenMachine {
    pub state: MachineState,
    /// The providers that have something of it, or where it is absent, had.
    pub on: BTreeSet<ProviderName>,
    /// The specification that it was created with; unknown for what was made by an interrupted or foreign hand.
    pub applied: Option<MachineSpec>,
    /// Whether its health checks hold; only asked of running machines.
    pub answers: bool,
    /// The releases that its sites serve; only asked of running machines.
    pub releases: BTreeMap<SiteName, Digest>,
}

/// What a difference between two specifications costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    None,
    /// Files that a running machine sees change.
    Live,
    Restart,
    /// Other layers, another provider, or data that goes back to its seed: its own files no longer fit. Its volumes stay.
    Recreate,
    /// Its files and volumes become those of a snapshot.
    Restore,
}

impl Change {
    pub fn between(applied: &MachineSpec, wanted: &MachineSpec) -> Self {
        if wanted.rewound.is_some() && applied.rewound != wanted.rewound {
            return Self::Restore;
        }
        // Where nothing is wished, it does not matter which way back was the last.
        let applied = &MachineSpec { rewound: wanted.rewound.clone(), ..applied.clone() };
        if applied == wanted {
            Self::None
        } else if applied.layers != wanted.layers || applied.seeded != wanted.seeded || applied.provider != wanted.provider {
            Self::Recreate
        } else {
            let mut live = applied.clone();
            live.hosts.clone_from(&wanted.hosts);
            live.nameservers.clone_from(&wanted.nameservers);
            live.search.clone_from(&wanted.search);
            live.trusted.clone_from(&wanted.trusted);
            live.health.clone_from(&wanted.health);
            if applied.volumes.is_none() {
                // Made before there were volumes: it goes on as it is, and has them from its next start on.
                live.volumes.clone_from(&wanted.volumes);
            }
            if are_live(&applied.mounts, &wanted.mounts) {
                live.mounts.clone_from(&wanted.mounts);
            }
            if live == *wanted { Self::Live } else { Self::Restart }
        }
    }
}

/// Whether a running machine can go from the one to the other: shared folders come and go, but none changes into another.
fn are_live(applied: &[Mount], wanted: &[Mount]) -> bool {
    let gone = applied.iter().filter(|mount| !wanted.contains(mount));
    let new: Vec<_> = wanted.iter().filter(|mount| !applied.contains(mount)).collect();
    let is_shared = |mount: &Mount| matches!(mount.mode, MountMode::Shared { .. });
    new.iter().all(|mount| is_shared(mount))
        && gone.into_iter().all(|mount| is_shared(mount) && !new.iter().any(|other| other.target == mount.target))
}

/// What leads from `seen` to `goal`; empty when it is reached.
pub fn plan(goal: Goal, wanted: &Wanted, seen: &Seen) -> Plan {
    let steps = Steps { wanted, seen };
    match goal {
        Goal::Up => steps.up(),
        Goal::Halted => steps.halted(),
        Goal::Gone => steps.gone(),
    }
}

/// How many wait for each other before one can start; `all` is each with those that it waits for.
pub fn depths<'a, K: Ord + 'a>(all: impl Iterator<Item = (&'a K, &'a [K])> + Clone) -> BTreeMap<&'a K, usize> {
    let mut depth: BTreeMap<&K, usize> = BTreeMap::new();
    // As many rounds as there are are enough for the longest chain; a cycle would only be cut short, never endless.
    for _ in all.clone() {
        for (name, after) in all.clone() {
            let below = after.iter().filter_map(|other| depth.get(other).map(|depth| depth + 1)).max();
            depth.insert(name, below.unwrap_or(0));
        }
    }
    depth
}

/// The machines in waves: each wave needs only machines of the waves before it.
pub fn waves(wanted: &Wanted) -> Vec<Vec<MachineName>> {
    let mut waves: Vec<Vec<MachineName>> = Vec::new();
    for (name, depth) in depths(wanted.machines.iter().map(|(name, machine)| (name, &machine.after[..]))) {
        while waves.len() <= depth {
            waves.push(Vec::new());
        }
        waves[depth].push(name.clone());
    }
    waves
}

struct Steps<'a> {
    wanted: &'a Wanted,
    seen: &'a Seen,
}

impl Steps<'_> {
    fn step(&self, action: Action) -> Step {
        Step { environment: self.wanted.id.clone(), action }
    }

    fn chain(&self, actions: impl IntoIterator<Item = Action>) -> Vec<Step> {
        actions.into_iter().map(|action| self.step(action)).collect()
    }

    fn up(&self) -> Plan {
        let mut plan = Plan::default();
        let surplus = self.seen.machines.keys().filter(|name| !self.wanted.machines.contains_key(*name));
        plan.then(surplus.map(|machine| self.chain([Action::Delete { machine: machine.clone() }])));
        // Nothing here needs another: a machine needs them all, but only once it starts.
        let is_closed = self.seen.network != SeenNetwork::Complete;
        let connect = is_closed.then(|| self.chain([Action::Connect]));
        let creates = self.wanted.machines.keys().filter(|name| self.is_absent(name) && !self.is_restored(name));
        let creates = creates.map(|machine| self.chain([Action::Create { machine: machine.clone() }]));
        let restores = self.wanted.machines.keys().filter(|name| self.is_restored(name));
        let restores = restores.map(|machine| self.chain(self.restore(machine)));
        let checkouts = self.missing().map(|(site, _)| self.chain([Action::Checkout { site: site.clone() }]));
        let stale = self.seen.stale.iter().filter(|site| self.wanted.checkouts.contains_key(*site));
        let renders = stale.map(|site| self.chain([Action::Render { site: site.clone() }]));
        plan.then(connect.into_iter().chain(creates).chain(restores).chain(checkouts).chain(renders));
        // Machines start on a network that is being opened; only who talks to them has to wait for it.
        let mut open = is_closed.then(|| self.chain([Action::Open]));
        for wave in waves(self.wanted) {
            plan.then(open.take().into_iter().chain(wave.iter().map(|name| self.chain(self.raise(name)))));
        }
        // Where all machines stand on other servers, it only leads to them.
        plan.then(open);
        plan.then(self.discards(self.seen.checkouts.iter().filter(|site| !self.wanted.checkouts.contains_key(*site))));
        plan
    }

    fn is_absent(&self, name: &MachineName) -> bool {
        self.seen.machines.get(name).is_none_or(|seen| seen.state == MachineState::Absent)
    }

    /// Whether a machine is to become what it was in a snapshot, and is not yet.
    fn is_restored(&self, name: &MachineName) -> bool {
        let Some(wanted) = &self.wanted.machines[name].spec.rewound else { return false };
        let applied = self.seen.machines.get(name).and_then(|seen| seen.applied.as_ref());
        applied.and_then(|applied| applied.rewound.as_ref()) != Some(wanted)
    }

    /// Files and data are both in the snapshot: what the machine holds now is not kept. It starts when its turn comes.
    fn restore(&self, name: &MachineName) -> Vec<Action> {
        let machine = || name.clone();
        let rewound = self.wanted.machines[name].spec.rewound.as_ref().expect("only what is rewound is restored");
        let restore = Action::Restore { machine: machine(), snapshot: rewound.snapshot.clone() };
        let seen = self.seen.machines.get(name);
        let first = match seen.map(|seen| &seen.state) {
            Some(MachineState::Halted) if seen.is_some_and(|seen| self.moves(name, seen)) => {
                Some(Action::Delete { machine: machine() })
            }
            None | Some(MachineState::Absent | MachineState::Halted) => None,
            // What it would write on its way down goes anyway.
            Some(MachineState::Running { .. } | MachineState::Frozen { .. } | MachineState::Broken { .. }) => {
                Some(Action::Delete { machine: machine() })
            }
        };
        first.into_iter().chain([restore, Action::Create { machine: machine() }]).collect()
    }

    /// What brings one machine up from wherever it is; one that is absent was created before.
    fn raise(&self, name: &MachineName) -> Vec<Action> {
        let machine = || name.clone();
        let create = Action::Create { machine: machine() };
        let start = Action::Start { machine: machine() };
        let stop = Action::Stop { machine: machine() };
        let delete = Action::Delete { machine: machine() };
        let keep = Action::Keep { machine: machine() };
        if self.is_restored(name) {
            return self.until_it_answers(name, vec![start]);
        }
        let Some(seen) = self.seen.machines.get(name) else {
            return self.until_it_answers(name, vec![start]);
        };
        let change = match &seen.applied {
            Some(applied) => {
                let change = Change::between(applied, &self.wanted.machines[name].spec);
                if self.shows_missing(applied) { change.max(Change::Restart) } else { change }
            }
            None => Change::Restart,
        };
        let change = if self.moves(name, seen) { change.max(Change::Recreate) } else { change };
        let begin = match (&seen.state, change) {
            (MachineState::Absent, _) => vec![start],
            (MachineState::Broken { .. }, _) | (MachineState::Halted, Change::Recreate | Change::Restore)
                if self.keeps(name, seen) =>
            {
                vec![keep, delete, create, start]
            }
            (MachineState::Broken { .. }, _) | (MachineState::Halted, Change::Recreate | Change::Restore) => {
                vec![delete, create, start]
            }
            (MachineState::Halted, Change::None | Change::Live | Change::Restart) => vec![create, start],
            (MachineState::Running { .. } | MachineState::Frozen { .. }, Change::Recreate | Change::Restore)
                if self.keeps(name, seen) =>
            {
                vec![stop, keep, delete, create, start]
            }
            (MachineState::Running { .. } | MachineState::Frozen { .. }, Change::Recreate | Change::Restore) => {
                vec![delete, create, start]
            }
            (MachineState::Running { .. } | MachineState::Frozen { .. }, Change::Restart) => vec![stop, create, start],
            // Cables hang on the bridge: where it went, they went with it.
            (MachineState::Running { .. } | MachineState::Frozen { .. }, Change::None | Change::Live)
                if !self.bridge_is_there() =>
            {
                vec![stop, create, start]
            }
            (MachineState::Frozen { .. }, Change::None) => vec![Action::Thaw { machine: machine() }],
            (MachineState::Frozen { .. }, Change::Live) => vec![create, Action::Thaw { machine: machine() }],
            (MachineState::Running { .. }, Change::Live) => vec![create],
            (MachineState::Running { .. }, Change::None)
                if seen.answers && seen.releases == self.wanted.machines[name].releases =>
            {
                return Vec::new();
            }
            (MachineState::Running { .. }, Change::None) => Vec::new(),
        };
        self.until_it_answers(name, begin)
    }

    /// Its sites' releases come before the question whether they answer. What a machine that was not running serves is not
    /// known yet; the step looks by itself.
    fn until_it_answers(&self, name: &MachineName, mut actions: Vec<Action>) -> Vec<Action> {
        let is_new = self.is_restored(name) || actions.iter().any(|action| matches!(action, Action::Delete { .. }));
        let seen = self.seen.machines.get(name).filter(|_| !is_new);
        let served = |site, release| seen.is_some_and(|seen| seen.releases.get(site) == Some(release));
        let missing = self.wanted.machines[name].releases.iter().filter(|(site, release)| !served(*site, *release));
        actions.extend(missing.map(|(site, release)| Action::Deploy {
            machine: name.clone(),
            site: site.clone(),
            release: release.clone(),
        }));
        actions.push(Action::Await { machine: name.clone() });
        actions
    }

    /// Whether something of a machine is where it is not wanted.
    fn moves(&self, name: &MachineName, seen: &SeenMachine) -> bool {
        let wanted = &self.wanted.machines[name].spec.provider;
        seen.on.iter().any(|provider| provider != wanted)
    }

    /// Whether what a machine holds must be safe in its volumes before it is deleted; not where it goes back to its seed. Asked
    /// of the definition, not of what was applied: that may have changed while the machine ran.
    fn keeps(&self, name: &MachineName, seen: &SeenMachine) -> bool {
        let wanted = &self.wanted.machines[name].spec;
        let holds = wanted.volumes.as_ref().is_some_and(|volumes| !volumes.is_empty());
        holds && seen.applied.as_ref().is_none_or(|applied| applied.seeded == wanted.seeded)
    }

    fn missing(&self) -> impl Iterator<Item = (&SiteName, &PathBuf)> {
        self.wanted.checkouts.iter().filter(|(site, _)| !self.seen.checkouts.contains(*site))
    }

    /// What a machine shows of a folder that was removed stays removed, whatever is put in its place.
    fn shows_missing(&self, applied: &MachineSpec) -> bool {
        self.missing().any(|(_, folder)| applied.mounts.iter().any(|mount| mount.source == *folder))
    }

    fn discards<'s>(&self, sites: impl Iterator<Item = &'s SiteName>) -> Vec<Vec<Step>> {
        sites.map(|site| self.chain([Action::Discard { site: site.clone() }])).collect()
    }

    fn bridge_is_there(&self) -> bool {
        match self.seen.network {
            SeenNetwork::Nothing => false,
            SeenNetwork::Partly { bridge } => bridge,
            SeenNetwork::Complete => true,
        }
    }

    fn halted(&self) -> Plan {
        let mut plan = Plan::default();
        let runs = |name: &MachineName| match self.seen.machines.get(name).map(|seen| &seen.state) {
            Some(MachineState::Running { .. } | MachineState::Frozen { .. } | MachineState::Broken { .. }) => true,
            Some(MachineState::Absent | MachineState::Halted) | None => false,
        };
        let mut order = waves(self.wanted);
        order.push(self.seen.machines.keys().filter(|name| !self.wanted.machines.contains_key(*name)).cloned().collect());
        for wave in order.iter().rev() {
            let running = wave.iter().filter(|name| runs(name));
            plan.then(running.map(|machine| self.chain([Action::Stop { machine: machine.clone() }])));
        }
        if self.seen.network != SeenNetwork::Nothing {
            plan.then([self.chain([Action::Disconnect])]);
        }
        plan
    }

    fn gone(&self) -> Plan {
        let mut plan = Plan::default();
        let there = self.seen.machines.iter().filter(|(_, seen)| seen.state != MachineState::Absent);
        let mut chains: Vec<_> = there.map(|(machine, _)| self.chain([Action::Delete { machine: machine.clone() }])).collect();
        // Machines that are killed need no network any more, and the kernel takes as long for a bridge as for a machine.
        if self.seen.network != SeenNetwork::Nothing {
            chains.push(self.chain([Action::Disconnect]));
        }
        plan.then(chains);
        if self.seen.volumes {
            plan.then([self.chain([Action::Erase])]);
        }
        // Only now does nobody write into them any more.
        plan.then(self.discards(self.seen.checkouts.iter()));
        if self.seen.remembered {
            plan.then([self.chain([Action::Forget])]);
        }
        plan
    }
}

#[cfg(test)]
mod tests;
