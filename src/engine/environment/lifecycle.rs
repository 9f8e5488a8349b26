//! `env:init`, `env:up`, `env:halt`, `env:destroy`: each is a goal for one environment, reached from wherever it is.

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::engine::Engine;
use crate::engine::environment::perform::{Raising, Scene, done};
use crate::engine::environment::records::leaving;
use crate::engine::environment::standing::with_volumes;
use crate::engine::environment::wanted;
use crate::engine::events::Events;
use crate::engine::permission::{Authority, Right};
use crate::engine::site::code::{Codes, LiveSite, LiveSites, workspace_of};
use crate::engine::site::deploy::add_releases;
use crate::exec::HostPath;
use crate::model::request::{Copy, SiteWish};
use crate::model::response::Done;
use crate::model::{
    Action, Backend, EnvironmentId, Event, Failure, Kind, MachineName, MachineSpec, Plan, ProviderName, Response, SiteName,
};
use crate::network::address;
use crate::plan::{Goal, Wanted as WantedMachines, plan};
use crate::providers::copies;
use crate::sources::checkout;
use crate::store::history::Entry;
use crate::store::record::Definition;
use crate::store::{self, Environment, Wanted};

impl Engine {
    pub(in crate::engine) fn env_init(
        &self,
        id: &EnvironmentId,
        sites: &[SiteWish],
        on: Option<&ProviderName>,
        shared: bool,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let platform = self.platform(&id.platform)?;
        on.map_or(Ok(()), |on| self.providers.knows(on))?;
        let _lock = self.lock_environment(id, Right::Run, events)?;
        match self.store.database.environment(id)? {
            Some(environment) if environment.wanted == Wanted::Gone => {
                events.note(format!("finishing the interrupted destroy of `{id}` first"));
                if !dry_run {
                    self.drive(&environment, Goal::Gone, false, events)?;
                }
            }
            Some(environment) => {
                events.note(format!("`{id}` exists already"));
                self.say_what_stays(&environment, sites, on, events)?;
                if shared && !environment.shared {
                    events.warn(format!("`{id}` is not shared; `adt env:share {} {}` shares it", id.platform, id.name));
                }
                return self.raise(&environment, dry_run, events);
            }
            None => self.nothing_is_left(id)?,
        }
        let definition = self.definition(&platform, &id.name, sites, on, dry_run, events)?;
        let chosen = sites.iter().filter_map(|wish| Some((wish.site.clone(), wish.branch.clone()?))).collect();
        let mut codes = self.choose_code(id, &definition.platform, &chosen, dry_run, events)?;
        if !dry_run {
            // Before there is anything: a release that can't be built leaves no half environment.
            self.build_first_releases(id, &definition, &mut codes, events)?;
            self.try_sites(&self.rehearsal(id, &definition), &codes)?;
        }
        let environment = self.add(id, definition, &codes, shared, dry_run)?;
        // The other half of `platform:destroy`'s care: either it sees this row, or this sees that the platform is gone.
        if !dry_run && let Err(failure) = self.platform(&id.platform) {
            self.store.database.forget_environment(id)?;
            return Err(failure);
        }
        if !dry_run {
            self.remember("created", &id.to_string());
        }
        self.climb(&environment, codes, dry_run, events)
    }

    /// A lost or replaced store leaves machines and data whose owner nobody knows any more: a new environment of their name
    /// would take them over, so a member's may not begin there.
    pub(in crate::engine) fn nothing_is_left(&self, id: &EnvironmentId) -> Result<(), Failure> {
        if self.caller.authority == Authority::Root {
            return Ok(());
        }
        let machines = self.found(id, &self.around(id)?)?;
        let mut left: Vec<_> = machines.keys().map(|machine| format!("the machine `{}`", id.machine(machine))).collect();
        left.extend(self.data_of(id)?);
        if self.store.keys.exists(id) {
            left.push("the key of its machines".to_owned());
        }
        left.extend(self.store.snapshots.list(id)?.into_iter().map(|snapshot| format!("the snapshot `{}`", snapshot.name)));
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Kind::Privilege, format!("make `{id}`"))
            .cause(format!("the store has no record of it, but there is still {}", left.join(", ")))
            .hint(format!("ask root to end it with `sudo adt env:destroy {} {}`, or choose another name", id.platform, id.name)))
    }

    pub(in crate::engine) fn add(
        &self,
        id: &EnvironmentId,
        definition: Definition,
        codes: &Codes,
        shared: bool,
        dry_run: bool,
    ) -> Result<Environment, Failure> {
        let routes = self.network.routes()?;
        let pool = self.settings.pool_v4.value;
        // Where other servers carry a part of it, they have agreed on one.
        let agreed = definition.seat.as_ref().map(|seat| seat.network);
        let choose = |taken: &[Ipv4Net]| {
            Ok::<_, Failure>(match agreed {
                Some(network) => address::claim(network, taken, &routes)?,
                None => address::allocate(pool, taken, &routes)?,
            })
        };
        let now = self.now();
        let make = |network| Environment {
            id: id.clone(),
            wanted: Wanted::Up,
            created: now,
            updated: now,
            owner: self.owner_to_be(),
            shared,
            network,
            definition,
            disk: None,
        };
        if dry_run {
            return Ok(make(choose(&[])?));
        }
        self.store.database.add_environment(choose, make, codes)
    }

    pub(in crate::engine) fn env_up(&self, id: &EnvironmentId, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Run, events)?;
        let environment = self.environment(id)?;
        if environment.wanted == Wanted::Gone {
            return Err(leaving(id, "bring up"));
        }
        self.raise(&environment, dry_run, events)
    }

    /// Brings an environment up from wherever it is.
    fn raise(&self, environment: &Environment, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        let id = &environment.id;
        let codes = self.choose_code(id, &environment.definition.platform, &BTreeMap::new(), dry_run, events)?;
        if !dry_run {
            // Sites that came with a reload, or after a damaged store was replaced.
            for (site, code) in &codes {
                self.store.database.put_site_code(id, site, code)?;
            }
            // First what is wanted, then the deed: whatever comes between, the next `up` knows where to go.
            self.store.database.set_wanted(id, Wanted::Up, self.now())?;
        }
        self.say_what_loses_its_data(environment, events)?;
        self.climb(environment, codes, dry_run, events)
    }

    /// A way back to the seed that was cut off, or waits for a start, goes on; who brings the environment up must not have to
    /// read that from the plan.
    fn say_what_loses_its_data(&self, environment: &Environment, events: &Events) -> Result<(), Failure> {
        let (id, definition) = (&environment.id, &environment.definition);
        let applied: BTreeMap<_, _> = self.store.database.applied(Some(id))?.into_iter().collect();
        for (name, machine) in definition.machines_here() {
            let Some(seeded) = definition.seeded.get(&machine.role) else { continue };
            if applied.get(&name).is_none_or(|spec| spec.seeded != *seeded) {
                events.note(format!("`{name}` goes back to its seed, as the last `env:reload --data` wants it"));
            }
        }
        Ok(())
    }

    /// The same for one that the store has as wanted up: each write to the store waits for the disk.
    fn climb(&self, environment: &Environment, new: Codes, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        let id = &environment.id;
        let plan = self.drive_with(environment, Goal::Up, new, dry_run, events)?;
        let summary = if dry_run {
            format!("`{id}` would be brought up")
        } else if plan.is_empty() {
            format!("`{id}` is up already")
        } else {
            format!("`{id}` is up")
        };
        let next = if plan.is_empty() { Vec::new() } else { self.next_steps(environment) };
        Ok(done(summary, plan, dry_run, next))
    }

    /// Names where somebody serves them, else the machines' addresses.
    fn next_steps(&self, environment: &Environment) -> Vec<String> {
        let id = &environment.id;
        let route = crate::engine::environment::routes::environment(self.store.install(), environment);
        let mut next = Vec::new();
        if self.is_served(id) {
            next.extend(route.sites.iter().map(|site| format!("{}: https://{}/", site.name, site.host)));
        } else {
            for site in &route.sites {
                let port = |port| if port == 80 { String::new() } else { format!(":{port}") };
                let at = |backend: &Backend| format!("http://{}{}/", backend.address.ip(), port(backend.address.port()));
                next.extend(site.backends.iter().map(|backend| format!("{} on {}: {}", site.name, backend.machine, at(backend))));
            }
            if !route.sites.is_empty() {
                next.push("by name: adt host:bind-proxy; adt host:up --detach".to_owned());
            }
        }
        if let Some(machine) = route.machines.first() {
            next.push(format!("a shell: adt env:ssh {} {} {}", id.platform, id.name, machine.name));
        }
        next
    }

    pub(in crate::engine) fn env_halt(&self, id: &EnvironmentId, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Run, events)?;
        let environment = self.environment(id)?;
        let plan = self.lower(&environment, Wanted::Halted, dry_run, events)?;
        let summary = if dry_run {
            format!("`{id}` would be halted")
        } else if plan.is_empty() {
            format!("`{id}` is halted already")
        } else {
            format!("`{id}` is halted")
        };
        Ok(done(summary, plan, dry_run, Vec::new()))
    }

    /// Halts an environment for the user or with its platform; the caller holds its lock.
    pub(in crate::engine) fn lower(
        &self,
        environment: &Environment,
        becomes: Wanted,
        dry_run: bool,
        events: &Events,
    ) -> Result<Plan, Failure> {
        let id = &environment.id;
        // An interrupted destroy stays one: halting it must not turn it into an environment again.
        if !dry_run && environment.wanted != Wanted::Gone {
            self.store.database.set_wanted(id, becomes, self.now())?;
        }
        let plan = self.drive(environment, Goal::Halted, dry_run, events)?;
        if !dry_run && !plan.is_empty() {
            self.store.database.set_disk(id, self.disk(environment))?;
        }
        Ok(plan)
    }

    pub(in crate::engine) fn env_destroy(&self, id: &EnvironmentId, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let row = match self.store.database.environment(id) {
            // What can't be read can be removed: machines and network are found by name.
            Err(store::Error::BadEnvironment { .. }) => return self.destroy_by_name(id, true, dry_run, events),
            row => row?,
        };
        match row {
            Some(environment) => {
                if !dry_run {
                    self.store.database.set_wanted(id, Wanted::Gone, self.now())?;
                    // Before the row goes: afterwards only this line tells a destroy that was killed at its very end from a
                    // name that never was.
                    self.remember("destroyed", &id.to_string());
                }
                let data = self.data_of(id)?;
                let plan = self.drive(&environment, Goal::Gone, dry_run, events)?;
                let verb = if dry_run { "would be" } else { "is" };
                Ok(gone(format!("`{id}` {verb} destroyed"), plan, data, dry_run))
            }
            None => self.destroy_by_name(id, false, dry_run, events),
        }
    }

    /// No record, or none that can be read: perhaps a damaged store was replaced and machines are still there, perhaps nothing ever was.
    fn destroy_by_name(&self, id: &EnvironmentId, remembered: bool, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        let wanted = WantedMachines { id: id.clone(), machines: BTreeMap::new(), checkouts: BTreeMap::new() };
        let (live, workspace) = self.checkouts_without_record(id)?;
        let mut seen = self.seen(Goal::Gone, id, &wanted, remembered)?;
        seen.checkouts = live.keys().cloned().collect();
        let plan = plan(Goal::Gone, &wanted, &seen);
        let data = self.data_of(id)?;
        let keeps = self.store.keys.exists(id) || !self.store.snapshots.list(id)?.is_empty();
        if plan.is_empty() && !keeps {
            if self.remembers("destroyed", &id.to_string()) {
                return Ok(gone(format!("`{id}` is destroyed already"), plan, data, dry_run));
            }
            return Err(self.no_environment(id));
        }
        // Whose it was is not known any more.
        if self.caller.authority != Authority::Root {
            return Err(self.only_root(&format!("destroy what is left of `{id}`")));
        }
        events.emit(Event::Planned { plan: plan.clone() });
        if !dry_run {
            // Deleting and disconnecting need the name only; addresses are not looked at.
            let nowhere = Ipv4Net::new(self.settings.pool_v4.value.network(), 26).expect("26 is a prefix length");
            let network = crate::model::NetworkSpec {
                id: id.clone(),
                tag: wanted::tag(self.store.install(), id),
                v4: nowhere,
                v6: address::ula_subnet(self.store.install(), &nowhere),
                tie: None,
            };
            self.remember("destroyed", &id.to_string());
            self.perform(&plan, &Scene { workspace, on: seen.places(), ..Scene::of(&network, &live) }, events)?;
            self.store.keys.forget(id)?;
            self.store.snapshots.forget(id)?;
            self.store.promotions.forget(id)?;
        }
        let summary = match (dry_run, remembered) {
            (true, _) => format!("`{id}` would be destroyed"),
            (false, true) => format!("`{id}` is destroyed; its record was damaged"),
            (false, false) => format!("`{id}` is destroyed; the store had no record of it"),
        };
        Ok(gone(summary, plan, data, dry_run))
    }

    /// The data of an environment in words, for who is about to end it.
    fn data_of(&self, id: &EnvironmentId) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        for (_, volumes) in with_volumes(&self.around(id)?) {
            all.extend(volumes.seen(id)?);
        }
        Ok(all.into_iter().map(|volume| format!("the data of {} in {}", id.machine(&volume.machine), volume.path)).collect())
    }

    /// Inspects, plans, shows, runs. Returns what was (or would be) done.
    pub(in crate::engine) fn drive(
        &self,
        environment: &Environment,
        goal: Goal,
        dry_run: bool,
        events: &Events,
    ) -> Result<Plan, Failure> {
        self.drive_with(environment, goal, Codes::new(), dry_run, events)
    }

    /// The same with code that was chosen just now; a dry run has it in no store.
    pub(in crate::engine) fn drive_with(
        &self,
        environment: &Environment,
        goal: Goal,
        new: Codes,
        dry_run: bool,
        events: &Events,
    ) -> Result<Plan, Failure> {
        let mut codes = self.codes(&environment.id)?;
        codes.extend(new);
        if goal == Goal::Up && !dry_run {
            for name in self.build_first_releases(&environment.id, &environment.definition, &mut codes, events)? {
                self.store.database.put_site_code(&environment.id, &name, &codes[&name])?;
            }
        }
        let live = self.live_sites_of(environment, codes.clone());
        let mut wanted = self.wanted(environment, &live)?;
        add_releases(environment, &codes, &mut wanted);
        if goal == Goal::Up {
            if !dry_run {
                self.store.keys.ensure(&environment.id)?;
            }
            self.add_files(environment, &mut wanted)?;
            if !dry_run {
                self.put_works_back(environment)?;
            }
        }
        let mut seen = self.seen(goal, &environment.id, &wanted, true)?;
        if goal == Goal::Up {
            self.add_served(environment, &codes, &wanted, &mut seen)?;
            seen.stale = self.stale_checkouts(environment, &live)?;
        }
        // A site that went leaves at least its row.
        let is_there = |name: &SiteName, site: &LiveSite| checkout::exists(&site.folder) || !wanted.checkouts.contains_key(name);
        seen.checkouts = live.iter().filter(|(name, site)| is_there(name, site)).map(|(name, _)| name.clone()).collect();
        let plan = plan(goal, &wanted, &seen);
        if !plan.is_empty() {
            events.emit(Event::Planned { plan: plan.clone() });
        }
        if !plan.is_empty() && !dry_run {
            let network = wanted::network(self.store.install(), environment);
            let specs: BTreeMap<&MachineName, &MachineSpec> =
                wanted.machines.iter().map(|(name, machine)| (name, &machine.spec)).collect();
            let (raising, workspace) = (Some(Raising { environment, wanted: &wanted }), Some(workspace_of(environment)));
            let environment = Some(environment);
            let on = seen.places();
            let scene = Scene { environment, raising, network: &network, specs, on, sites: &live, workspace };
            self.perform(&plan, &scene, events)?;
        }
        if goal == Goal::Up && !dry_run {
            self.settle_rewind(environment)?;
        }
        Ok(plan)
    }

    /// Runs steps that concern no machine.
    pub(in crate::engine) fn perform_on_sites(
        &self,
        environment: &Environment,
        plan: &Plan,
        sites: LiveSites,
        events: &Events,
    ) -> Result<(), Failure> {
        let network = wanted::network(self.store.install(), environment);
        let scene = Scene { environment: Some(environment), ..Scene::of(&network, &sites) };
        self.perform(plan, &scene, events)
    }

    /// Words for sites and providers have no effect on an environment that exists; who typed them should know.
    fn say_what_stays(
        &self,
        environment: &Environment,
        sites: &[SiteWish],
        on: Option<&ProviderName>,
        events: &Events,
    ) -> Result<(), Failure> {
        let codes = self.codes(&environment.id)?;
        let EnvironmentId { platform, name } = &environment.id;
        let definition = &environment.definition;
        let is_elsewhere =
            |on: &ProviderName| definition.platform.machines.iter().any(|machine| definition.provider(machine) != on);
        if let Some(on) = on.filter(|on| is_elsewhere(on)) {
            events.warn(format!("its machines stay where they are; an environment on `{on}` alone is made under another name"));
        }
        for SiteWish { site, branch } in sites {
            match (branch, codes.get(site)) {
                (Some(branch), Some(code)) if code.branch != branch.as_str() => events.warn(format!(
                    "`{site}` stays at `{}`; `adt site:branch {platform} {name} {site} {branch}` brings it to `{branch}`",
                    code.branch
                )),
                (_, None) if !environment.definition.platform.sites.iter().any(|known| known.name == *site) => {
                    events.warn(format!("`{site}` is not in it; `adt site:add {platform} {name} {site}` adds it"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(in crate::engine) fn env_copy(
        &self,
        id: &EnvironmentId,
        machine: &MachineName,
        copy: &Copy,
    ) -> Result<Response, Failure> {
        let machine = self.enter(id, machine)?;
        let provider = self.provider_of(&machine)?;
        let here = |path| HostPath { path, person: self.hands() };
        match copy {
            Copy::In { source, target } => {
                if !here(source).with_rights(Path::exists) {
                    return Err(Failure::new(Kind::NotFound, format!("find `{}` on this host", source.display())));
                }
                copies::copy_in(provider, &machine, here(source), target, &self.cancel())?;
            }
            Copy::Out { source, target } => copies::copy_out(provider, &machine, source, here(target), &self.cancel())?,
        }
        Ok(done(copy.summary(&machine), Plan::default(), false, Vec::new()))
    }

    /// The log is for people; an environment does not fail because its line could not be written.
    pub(in crate::engine) fn remember(&self, what: &str, subject: &str) {
        // A verb that goes on where it was killed did it once.
        if self.remembers(what, subject) {
            return;
        }
        let entry = Entry { time: self.now(), user: self.caller.user.clone(), what: what.into(), subject: subject.into() };
        if let Err(error) = self.store.history.add(&entry) {
            tracing::warn!(%error, "history was not written");
        }
    }

    pub(in crate::engine) fn remembers(&self, what: &str, subject: &str) -> bool {
        self.store.history.last(subject).is_some_and(|entry| entry.what == what)
    }

    /// The machines of an environment, in order.
    pub fn machine_names(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure> {
        Ok(self.environment(id)?.definition.machines_here().into_keys().collect())
    }
}

fn gone(summary: String, plan: Plan, data: Vec<String>, dry_run: bool) -> Response {
    let machines = plan.steps().filter_map(|step| match &step.action {
        Action::Discard { site } => Some(format!("the checkout of {site}, unless it holds work")),
        action => action.machine().map(|machine| step.environment.machine(machine).to_string()),
    });
    let removes = machines.chain(data).collect();
    let changed = !dry_run && !plan.is_empty();
    Response::Done(Done { summary, changed, plan: dry_run.then_some(plan), removes, ..Done::default() })
}
