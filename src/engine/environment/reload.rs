//! `env:reload`: a running environment takes over what its platform says now, and on request goes back to its seed.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::engine::environment::records::leaving;
use crate::engine::environment::snapshot::unfinished;
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::model::response::Done;
use crate::model::snapshot::Reason;
use crate::model::{Action, Digest, EnvironmentId, Failure, Kind, MachineId, MachineName, Plan, Response, RoleName};
use crate::plan::Goal;
use crate::store::record::Definition;
use crate::store::{Environment, Wanted};

impl Engine {
    /// `data`: machines that hold data are made anew with new volumes, from the layers that have the seed.
    pub(in crate::engine) fn env_reload(
        &self,
        id: &EnvironmentId,
        data: bool,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let platform = self.platform(&id.platform)?;
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let mut environment = self.environment(id)?;
        if environment.wanted == Wanted::Gone {
            return Err(leaving(id, "reload"));
        }
        if environment.definition.rewound.is_some() {
            return Err(unfinished(id, &format!("reload `{id}`")));
        }
        let before = environment.definition.clone();
        environment.definition = self.definition_from(&platform, &id.name, &before, dry_run, events)?;
        if !data {
            refuse_moves_of_data(id, &before, &environment.definition)?;
        }
        let codes = self.choose_code(id, &environment.definition.platform, &BTreeMap::new(), dry_run, events)?;
        let emptied = if data {
            go_back_to_seed(&mut environment)?
        } else {
            self.keep_data(&mut environment, &before, events);
            Vec::new()
        };
        let mut all = self.codes(id)?;
        all.extend(codes.clone());
        self.try_sites(&environment, &all)?;
        let changed = environment.definition != before;
        let is_up = environment.wanted == Wanted::Up;
        if !dry_run {
            for (site, code) in &codes {
                self.store.database.put_site_code(id, site, code)?;
            }
        }
        if !dry_run && (data || environment.definition.boxes != before.boxes) {
            let now = Environment { definition: before.clone(), ..environment.clone() };
            self.before(&now, Reason::BeforeReload { data }, events)?;
        }
        if !dry_run && changed {
            self.store.database.set_definition(id, &environment.definition, self.now())?;
        }
        // A halted environment takes its new definition over when it is started next.
        let plan = if is_up { self.drive_with(&environment, Goal::Up, codes, dry_run, events)? } else { Plan::default() };
        let summary = match (dry_run, changed || !plan.is_empty(), is_up) {
            (true, _, _) if data => format!("`{id}` would be reloaded, its data brought back to the seed"),
            (true, _, _) => format!("`{id}` would be reloaded"),
            (false, false, _) => format!("`{id}` is as its platform says; nothing to reload"),
            (false, true, true) if data => format!("`{id}` is reloaded, its data is the seed's again"),
            (false, true, true) => format!("`{id}` is reloaded{}", told(&plan)),
            (false, true, false) => format!("`{id}` has its new definition; it is in force at the next `env:up`"),
        };
        let changed = !dry_run && !plan.is_empty();
        let removes = emptied.into_iter().map(|machine| format!("what `{machine}` holds beyond its seed")).collect();
        Ok(Response::Done(Done { summary, changed, plan: dry_run.then_some(plan), removes, ..Done::default() }))
    }

    /// A changed box means new machines. Their volumes stay as they are, on the layers that they began from.
    fn keep_data(&self, environment: &mut Environment, before: &Definition, events: &Events) {
        let EnvironmentId { platform, name } = &environment.id;
        let definition = &mut environment.definition;
        for machine in &definition.platform.machines {
            let role = &machine.role;
            let (Some(old), Some(new)) = (before.boxes.get(role), definition.boxes.get(role)) else { continue };
            if old.layers == new.layers && !before.seeds.contains_key(role) {
                continue;
            }
            let paths = definition.platform.volumes(machine);
            if paths.is_empty() && definition.platform.holds_data(machine) {
                events.warn(format!(
                    "`{role}` has a new box or seed, but nothing says which folders its data is in, so it keeps the old one; name \
                     them in its `data`, or give the data up with `adt env:reload --data {platform} {name}`"
                ));
                definition.boxes.insert(role.clone(), old.clone());
                continue;
            }
            if !paths.is_empty() && old.layers != new.layers {
                events.note(format!(
                    "`{role}` has a new box or seed and keeps its data in {}; `adt env:reload --data {platform} {name}` begins it \
                     anew from the seed",
                    paths.join(", ")
                ));
            }
            let seeds = seeds_of(before, role, paths, &new.layers);
            if !seeds.is_empty() {
                definition.seeds.insert(role.clone(), seeds);
            }
        }
    }
}

/// The layers that the volumes of a role go on standing on, where these are no longer its box's.
pub(in crate::engine) fn seeds_of(
    before: &Definition,
    role: &RoleName,
    paths: Vec<String>,
    new: &[Digest],
) -> BTreeMap<String, Vec<Digest>> {
    let seeds = paths.into_iter().map(|path| (before.seed(role, &path).to_vec(), path));
    seeds.filter(|(seed, _)| *seed != new).map(|(seed, path)| (path, seed)).collect()
}

/// No provider hands its volumes to another yet, and what lies among a machine's own files stays behind anyway.
pub(in crate::engine) fn refuse_moves_of_data(
    id: &EnvironmentId,
    before: &Definition,
    after: &Definition,
) -> Result<(), Failure> {
    for machine in after.platform.machines.iter().filter(|machine| after.platform.holds_data(machine)) {
        let Some(from) = before.platform.machine(&machine.role).map(|machine| before.provider(machine)) else { continue };
        let to = after.provider(machine);
        if from != to {
            return Err(Failure::new(Kind::Conflict, format!("move `{}` of `{id}` from `{from}` to `{to}`", machine.role))
                .cause("it has data, which can't be moved to another provider yet")
                .hint(format!(
                    "leave the role on `{from}`, or give its data up with `adt env:reload --data {} {}`",
                    id.platform, id.name
                )));
        }
    }
    Ok(())
}

/// Another number for each role with data is in the store before anything is deleted: whatever comes between, the next `up` or
/// `reload` goes on. Returns the machines that lose what they hold.
fn go_back_to_seed(environment: &mut Environment) -> Result<Vec<MachineId>, Failure> {
    let definition = &mut environment.definition;
    let mut emptied = Vec::new();
    for machine in definition.platform.machines.iter().filter(|machine| definition.platform.holds_data(machine)) {
        *definition.seeded.entry(machine.role.clone()).or_default() += 1;
        emptied.extend(machine.names().iter().map(|name| environment.id.machine(name)));
    }
    if emptied.is_empty() {
        return Err(Failure::new(Kind::Usage, format!("bring the data of `{}` back to its seed", environment.id))
            .cause("no machine of its platform holds data")
            .hint("say what is data: `data` of a machine, or `[data.…]`, in `platform.toml`"));
    }
    Ok(emptied)
}

/// What a reload did, by machine: `: web1 restarted, web2 restarted`.
fn told(plan: &Plan) -> String {
    let mut verbs: BTreeMap<&MachineName, &str> = BTreeMap::new();
    for step in plan.steps() {
        let Some(machine) = step.action.machine() else { continue };
        let next = match (&step.action, verbs.get(machine).copied()) {
            (Action::Keep { .. }, _) => "kept",
            (Action::Delete { .. }, Some("kept")) => "kept",
            (Action::Delete { .. }, _) => "removed",
            (Action::Create { .. }, Some("kept")) => "made anew with its data",
            (Action::Create { .. }, Some("removed")) => "made anew",
            (Action::Create { .. }, None) => "changed",
            (Action::Stop { .. }, _) => "restarted",
            (Action::Start { .. }, Some("changed")) => "started",
            _ => continue,
        };
        verbs.insert(machine, next);
    }
    let words: Vec<_> = verbs.into_iter().map(|(machine, verb)| format!("{machine} {verb}")).collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) }
}
