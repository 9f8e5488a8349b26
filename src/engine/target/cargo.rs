//! What a promotion carries: a ticket's layers, releases and definition, as its target wants them, and each server's share of it.

use std::collections::BTreeSet;

use crate::engine::environment::records::leaving;
use crate::engine::environment::snapshot::unfinished;
use crate::engine::events::Events;
use crate::engine::target::fleet::{self, Stand};
use crate::engine::target::receive::digest;
use crate::engine::target::releases::Load;
use crate::engine::{Engine, program};
use crate::model::target::TargetSummary;
use crate::model::{Edge, EnvironmentId, Failure, Kind, Machine, MachineName, Site};
use crate::network::address;
use crate::plan::promotion::{Brought, Going};
use crate::servers::Program;
use crate::store::record::{Definition, Providers};
use crate::store::{Environment, Wanted};

/// All that goes to the servers of a target.
pub(super) struct Cargo {
    /// Of all of them together.
    pub brought: Brought,
    pub program: Program,
    pub definition: Definition,
    /// The same as JSON.
    pub text: Vec<u8>,
    /// Keeps the releases on the shelf.
    _load: Load,
}

impl Cargo {
    /// What one of the servers is to have of it.
    pub fn share(&self, own: &Stand, stands: &[Stand]) -> Brought {
        let Self { brought, definition, .. } = self;
        if definition.placed.is_empty() {
            return brought.clone();
        }
        let is_here = |name: &MachineName| definition.placed.get(name) == Some(&own.name);
        let machines = definition.platform.machines.iter();
        let roles: BTreeSet<_> =
            machines.filter(|machine| machine.names().iter().any(is_here)).map(|machine| &machine.role).collect();
        let boxes = definition.boxes.iter().filter(|(role, _)| roles.contains(role));
        let layers: BTreeSet<_> = boxes.flat_map(|(_, boxed)| &boxed.layers).collect();
        let serves = |site: &Site| roles.contains(&site.on);
        let goes = |going: &&Going| definition.platform.sites.iter().any(|site| site.name == going.site && serves(site));
        let is_edge = stands.first().is_some_and(|first| first.name == own.name);
        Brought {
            layers: brought.layers.iter().filter(|layer| layers.contains(&layer.digest)).cloned().collect(),
            releases: brought.releases.iter().filter(goes).cloned().collect(),
            machines: brought.machines.iter().filter(|name| is_here(name)).cloned().collect(),
            edge: if is_edge { brought.edge.clone() } else { Edge::default() },
            others: stands.iter().map(|stand| stand.name.clone()).filter(|name| *name != own.name).collect(),
            ..brought.clone()
        }
    }
}

impl Engine {
    /// What a ticket has that a target can get.
    pub(super) fn cargo(
        &self,
        id: &EnvironmentId,
        target: &TargetSummary,
        dry_run: bool,
        events: &Events,
    ) -> Result<Cargo, Failure> {
        let environment = self.environment(id)?;
        self.can_go(&environment)?;
        let load = self.load(&environment, dry_run, events)?;
        let mut definition = for_a_target(&environment.definition, target);
        load.write_into(&mut definition);
        let text = serde_json::to_vec(&definition).expect("definitions have string keys only, so they become JSON");
        let mut seen = BTreeSet::new();
        let digests: Vec<_> = definition.layers().filter(|digest| seen.insert((*digest).clone())).cloned().collect();
        let path = program()?;
        let program = Program::read(&path)
            .map_err(|error| Failure::new(Kind::Host, format!("read `{}`", path.display())).because(&error))?;
        let brought = Brought {
            id: EnvironmentId { platform: target.platform.clone(), name: target.name.clone() },
            from: id.clone(),
            program: program.sha256.clone(),
            program_bytes: program.bytes,
            definition: digest(&text),
            layers: self.contents(&digests, events)?,
            releases: load.going.clone(),
            machines: definition.platform.machines_by_name().into_keys().collect(),
            admin: target.admin.clone(),
            edge: definition.edge.clone(),
            others: Vec::new(),
            seat: None,
        };
        Ok(Cargo { brought, program, definition, text, _load: load })
    }

    /// What isn't carried yet is refused, so that nobody takes a part for the whole.
    fn can_go(&self, environment: &Environment) -> Result<(), Failure> {
        let id = &environment.id;
        if environment.wanted == Wanted::Gone {
            return Err(leaving(id, "promote"));
        }
        if environment.definition.rewound.is_some() {
            return Err(unfinished(id, &format!("promote `{id}`")));
        }
        let refused = |cause: String| Err(Failure::new(Kind::Conflict, format!("promote `{id}`")).cause(cause));
        let platform = &environment.definition.platform;
        if let Some(machine) = platform.machines.iter().find(|machine| machine.host) {
            return refused(format!("`{}` is a host itself, and the machines of a server can't be", machine.role));
        }
        Ok(())
    }
}

/// A ticket's definition as the target wants it, without what is only this host's, or only the ticket's.
fn for_a_target(definition: &Definition, target: &TargetSummary) -> Definition {
    let mut definition = definition.clone();
    definition.platform.machines = fleet::settled(target, &definition.platform.machines);
    definition.placed = fleet::placed(target, &definition.platform.machines);
    let names: Vec<_> = definition.platform.machines.iter().flat_map(Machine::names).collect();
    definition.numbers = address::host_numbers(&definition.numbers, &names);
    definition.edge = target.edge.of_sites(|name| definition.platform.sites.iter().any(|site| site.name == *name));
    definition.platform.folder = std::path::PathBuf::new();
    definition.platform.targets = Vec::new();
    // Data begins from the boxes that go there: what the ticket's volumes stand on is the ticket's.
    definition.seeded.clear();
    definition.seeds.clear();
    let ever = definition.platform.machines.iter().map(|machine| definition.provider(machine).clone()).collect();
    definition.providers = Providers { ever, ..definition.providers.clone() };
    definition
}
