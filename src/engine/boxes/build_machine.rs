//! Machines to build boxes in: environments of the reserved platform `box`, one machine each, gone when the build ends.
//!
//! They are environments like any other, so addresses, isolation, locks and the cleaning-up after a kill are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::boxes::workshop::{Bench, BenchSpec, Result, Workshop};
use crate::engine::Engine;
use crate::engine::environment::perform::Scene;
use crate::engine::environment::records::WORKSHOP;
use crate::engine::environment::wanted;
use crate::engine::permission::Right;
use crate::engine::site::code::LiveSites;
use crate::exec::{Follow, HostPath};
use crate::model::snapshot::Keep;
use crate::model::{
    BoxName, BoxRef, Edge, EnvironmentId, EnvironmentName, Exec, Failure, Health, Kind, Limits, Machine, MachineId, MachineName,
    MachineSpec, Platform, PlatformName, ProviderName, RoleName, Stream,
};
use crate::network::address;
use crate::plan::{Goal, Wanted, plan};
use crate::providers::{Layers, Provider, Stdio, copies, half_of_memory};
use crate::store::record::{BoxInUse, Definition, Providers};
use crate::store::{Environment, Lock};

pub(in crate::engine) struct MachineShop<'a> {
    pub engine: &'a Engine,
}

struct MachineBench<'a> {
    engine: &'a Engine,
    provider: &'a dyn Provider,
    environment: Environment,
    id: MachineId,
    open: bool,
    _lock: Lock,
}

/// The role, and so the name, of the machine in a build's environment.
const BENCH: &str = "bench";

impl Workshop for MachineShop<'_> {
    fn open(&self, spec: &BenchSpec) -> Result<Box<dyn Bench + '_>> {
        let engine = self.engine;
        let (on, provider) = engine.builder()?;
        let id = EnvironmentId {
            platform: PlatformName::new(WORKSHOP).expect("a constant that is a label"),
            name: EnvironmentName::new(spec.digest.short()).expect("hexadecimal digits are a label"),
        };
        let events = crate::engine::Events::unread();
        let lock = engine.lock_environment(&id, Right::Run, &events)?;
        if let Some(left) = engine.store.database.environment(&id)? {
            engine.drive(&left, Goal::Gone, false, &events)?;
        }
        let routes = engine.network.routes()?;
        let choose =
            |taken: &[ipnet::Ipv4Net]| Ok::<_, Failure>(address::allocate(engine.settings.pool_v4.value, taken, &routes)?);
        let environment =
            engine.store.database.add_environment(choose, |network| record(engine, &id, on, network, spec), &BTreeMap::new())?;
        let machine = MachineName::new(BENCH).expect("a constant that is a label");
        let bench = MachineBench { engine, provider, id: id.machine(&machine), environment, open: true, _lock: lock };
        // From here on the bench's own end cleans up whatever this start leaves.
        bench.start(spec)?;
        Ok(Box::new(bench))
    }
}

/// A build's environment, so that whoever comes after a kill knows all about it.
fn record(engine: &Engine, id: &EnvironmentId, on: &ProviderName, network: ipnet::Ipv4Net, spec: &BenchSpec) -> Environment {
    let role = RoleName::new(BENCH).expect("a constant that is a label");
    let machine = Machine {
        role: role.clone(),
        summary: String::new(),
        boxed: BoxRef::new(BoxName::new(BENCH).expect("a constant that is a label")),
        count: None,
        // A build takes what it needs of a host, as long as others can live on the rest.
        limits: Limits { memory_bytes: Some(half_of_memory()), ..Limits::default() },
        after: Vec::new(),
        data: Vec::new(),
        logs: Vec::new(),
        provision: Vec::new(),
        provider: None,
        host: false,
    };
    let names = machine.names();
    let health = Health { checks: Vec::new(), deadline_seconds: 60 };
    let now = engine.now();
    Environment {
        id: id.clone(),
        wanted: crate::store::Wanted::Gone,
        created: now,
        updated: now,
        owner: engine.owner_to_be(),
        shared: false,
        network,
        definition: Definition {
            placed: BTreeMap::new(),
            seat: None,
            platform: Platform {
                name: id.platform.clone(),
                summary: String::new(),
                domain: None,
                machines: vec![machine],
                sites: Vec::new(),
                data: Vec::new(),
                targets: Vec::new(),
                snapshots: Keep::default(),
                folder: PathBuf::new(),
            },
            domain: engine.settings.domain.value.clone(),
            providers: Providers::new(on.clone(), true),
            boxes: [(role, BoxInUse { layers: spec.layers.clone(), health, logs: Vec::new(), services: Vec::new() })].into(),
            left_out: BTreeSet::new(),
            edge: Edge::default(),
            seeded: BTreeMap::new(),
            seeds: BTreeMap::new(),
            rewound: None,
            promoted: BTreeMap::new(),
            files: BTreeMap::new(),
            numbers: address::host_numbers(&BTreeMap::new(), &names),
        },
        disk: None,
    }
}

impl Engine {
    /// Boxes are layers, so only a provider that stacks can build them: the usual one where it does, else the first that does.
    pub(in crate::engine) fn builder(&self) -> Result<(&ProviderName, &dyn Provider)> {
        let usual = self.providers.named(&self.settings.provider.value);
        let mut all = usual.into_iter().chain(self.providers.here());
        all.find(|(_, provider)| provider.layers().is_some()).ok_or_else(|| {
            Failure::new(Kind::Host, "build boxes").cause("no provider that this host has builds machines from layers")
        })
    }
}

impl MachineBench<'_> {
    fn start(&self, spec: &BenchSpec) -> Result<()> {
        let network = wanted::network(self.engine.store.install(), &self.environment);
        self.engine.network.connect(&network)?;
        self.engine.network.open(&network)?;
        let mut machine = self.spec();
        machine.mounts.clone_from(&spec.mounts);
        machine.spare = true;
        self.provider.create(&machine)?;
        if let Some(warning) = self.provider.start(&self.id)?.warning {
            tracing::warn!(%warning, "a build's machine");
        }
        Ok(())
    }

    fn stacker(&self) -> &dyn Layers {
        self.provider.layers().expect("only a provider with layers builds")
    }

    fn spec(&self) -> MachineSpec {
        // What is built must not know this host: no authority and no name server of adt's.
        let around = wanted::Around { nameservers: self.engine.nameservers(), ..wanted::Around::default() };
        let mut wanted = wanted::wanted(self.engine.store.install(), &around, &self.environment, &LiveSites::new());
        wanted.machines.remove(&self.id.machine).expect("a build's environment has this one machine").spec
    }

    /// Removes machine, network and record; what is gone already is fine.
    fn clear(&mut self) -> Result<()> {
        self.open = false;
        let wanted = Wanted { id: self.environment.id.clone(), machines: BTreeMap::new(), checkouts: BTreeMap::new() };
        let seen = self.engine.seen(Goal::Gone, &self.environment.id, &wanted, true)?;
        let plan = plan(Goal::Gone, &wanted, &seen);
        let network = wanted::network(self.engine.store.install(), &self.environment);
        let events = crate::engine::Events::unread();
        let sites = LiveSites::new();
        let scene = Scene { on: seen.places(), ..Scene::of(&network, &sites) };
        self.engine.perform_uncancelled(&plan, &scene, &events)
    }
}

impl Drop for MachineBench<'_> {
    fn drop(&mut self) {
        if self.open {
            // Whoever dropped it is failing already; what stays is removed by the next build of the same box or by a prune.
            if let Err(failure) = self.clear() {
                tracing::warn!(%failure, "a build's machine was not removed");
            }
        }
    }
}

impl Bench for MachineBench<'_> {
    fn follow(&self, exec: &Exec, each: &mut Follow<'_>) -> Result<i32> {
        let mut each = |line: Option<(Stream, &str)>| each(line);
        Ok(self.provider.exec(&self.id, exec, Stdio::Follow { each: &mut each })?.code)
    }

    fn feed(&self, exec: &Exec, input: &mut (dyn Read + Send), each: &mut dyn FnMut(Stream, &str)) -> Result<i32> {
        Ok(self.provider.exec(&self.id, &exec.as_one_stream(), Stdio::Fed { input, each })?.code)
    }

    fn copy_in(&self, source: HostPath<'_>, target: &str) -> Result<()> {
        Ok(copies::copy_in(self.provider, &self.id, source, target, &self.engine.cancel())?)
    }

    fn copy_out(&self, source: &str, target: &Path) -> Result<()> {
        Ok(copies::copy_out(self.provider, &self.id, source, target.into(), &self.engine.cancel())?)
    }

    fn halt(&self) -> Result<()> {
        Ok(self.provider.stop(&self.id, self.engine.grace())?)
    }

    fn harvest(&self, target: &str) -> Result<PathBuf> {
        Ok(self.stacker().written(&self.id, target)?)
    }

    fn commit(mut self: Box<Self>, target: &Path) -> Result<()> {
        self.stacker().commit(&self.id, target)?;
        self.clear()
    }

    fn discard(mut self: Box<Self>) -> Result<()> {
        self.clear()
    }
}
