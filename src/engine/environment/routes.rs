//! From the store to what can be reached by name: one query, no look at any machine, so it is the same for every reader.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::engine::Engine;
use crate::engine::environment::records::WORKSHOP;
use crate::engine::environment::wanted;
use crate::engine::events::Events;
use crate::model::route::{Backend, EnvironmentRoute, MachineRoute, PlatformRoute, Routes, SiteRoute};
use crate::model::{Domain, Failure, Machine, PlatformName, Site};
use crate::store::{Damaged, Environment, Readable, Store, Wanted};

/// What the store says can be reached, and whose record can't be read, so that nobody reaches them. `domain` is the host's own.
pub fn routes(store: &Store, domain: &Domain) -> Result<(Routes, Vec<Damaged>), Failure> {
    let mut platforms: BTreeMap<PlatformName, PlatformRoute> = BTreeMap::new();
    for record in store.database.platforms()? {
        platforms.insert(record.name.clone(), empty(record.name, domain));
    }
    let Readable { sound, damaged } = store.database.readable_environments(None)?;
    for environment in sound {
        // An environment that is being destroyed is reached by nobody any more.
        if environment.id.platform.as_str() == WORKSHOP || environment.wanted == Wanted::Gone {
            continue;
        }
        let name = environment.id.platform.clone();
        let platform = platforms.entry(name.clone()).or_insert_with(|| empty(name, domain));
        let definition = &environment.definition;
        platform.summary.clone_from(&definition.platform.summary);
        platform.domain.clone_from(&definition.domain);
        platform.environments.push(self::environment(store.install(), &environment));
    }
    let routes = Routes { domain: domain.clone(), platforms: platforms.into_values().collect() };
    Ok((routes, damaged))
}

/// What a person should know of one whose record can't be read.
pub fn unreachable(record: &Damaged) -> String {
    let Damaged { platform, name, .. } = record;
    format!("the record of `{platform}/{name}` can't be read, its names lead nowhere; `{}` removes it", record.removal())
}

impl Engine {
    pub(in crate::engine) fn routes(&self, events: &Events) -> Result<Routes, Failure> {
        let (routes, damaged) = routes(&self.store, &self.settings.domain.value)?;
        damaged.iter().for_each(|record| events.warn(unreachable(record)));
        Ok(routes)
    }
}

fn empty(name: PlatformName, domain: &Domain) -> PlatformRoute {
    PlatformRoute { name, summary: String::new(), domain: domain.clone(), environments: Vec::new() }
}

/// What of one environment can be reached.
pub fn environment(install: &str, environment: &Environment) -> EnvironmentRoute {
    let definition = &environment.definition;
    let network = wanted::network(install, environment);
    let machines = definition.numbers.iter().map(|(name, number)| {
        let attachment = network.attach(*number);
        MachineRoute { name: name.clone(), v4: attachment.v4, v6: definition.is_here(name).then_some(attachment.v6) }
    });
    let mut machines: Vec<_> = machines.collect();
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    let host = environment.id.fqdn(&definition.domain);
    let mut sites: Vec<_> =
        definition.platform.sites.iter().map(|site| site_route(environment, site, &machines, &host)).collect();
    sites.sort_by(|a, b| a.name.cmp(&b.name));
    EnvironmentRoute {
        id: environment.id.clone(),
        domain: definition.domain.clone(),
        up: environment.wanted == Wanted::Up,
        owner: environment.owner.name.clone(),
        created: environment.created,
        gateway_v4: network.gateway_v4(),
        gateway_v6: network.gateway_v6(),
        machines,
        sites,
        edge: definition.edge.clone(),
    }
}

fn site_route(environment: &Environment, site: &Site, machines: &[MachineRoute], host: &str) -> SiteRoute {
    let serving = environment.definition.platform.machine(&site.on).map(Machine::names).unwrap_or_default();
    let backends = machines.iter().filter(|machine| serving.contains(&machine.name));
    SiteRoute {
        name: site.name.clone(),
        host: format!("{}.{host}", site.name),
        aliases: site.aliases.clone(),
        backends: backends
            .map(|machine| Backend { machine: machine.name.clone(), address: SocketAddr::from((machine.v4, site.port)) })
            .collect(),
        health: site.health.clone(),
        protocol: site.traffic.protocol,
        sticky: site.traffic.sticky,
        https_only: site.traffic.https_only,
    }
}
