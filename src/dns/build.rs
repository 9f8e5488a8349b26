//! From routes to a zone.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::model::route::{EnvironmentRoute, MachineRoute, Routes, SiteRoute};

use super::ready::{self, Body, Key, Set};
use super::zone::{Front, Inside, Names, Node, Sets, Zone, network_v4, network_v6};

impl Zone {
    pub fn new(routes: &Routes, front: &Front) -> Self {
        let mut build = Build::new(front);
        let domains: Vec<_> = routes.domains().into_iter().filter_map(|domain| Key::read(domain.as_str())).collect();
        domains.iter().for_each(|domain| build.origin(domain));
        routes.environments().flat_map(reverse_origins).for_each(|origin| build.origin(&origin));
        let platforms: Vec<_> = routes.platforms.iter().filter_map(|platform| Key::read(&platform.host())).collect();
        for name in domains.iter().chain(&platforms) {
            build.name(name, Vec::new()).proxied = true;
        }
        for environment in routes.environments() {
            build.environment(environment);
        }
        if let Some(home) = Key::read(routes.domain.as_str()) {
            build.proxy_pointers(&home);
        }
        for (place, environment) in routes.environments().enumerate() {
            build.inside(place, environment);
        }
        build.zone
    }
}

struct Build<'a> {
    front: &'a Front,
    /// Where each zone starts, with the place of its negative answer.
    origins: HashMap<Box<[u8]>, usize>,
    /// The same of zones of one name.
    alone: HashMap<Box<[u8]>, usize>,
    zone: Zone,
}

impl<'a> Build<'a> {
    fn new(front: &'a Front) -> Self {
        let zone = Zone {
            names: HashMap::new(),
            inside: Vec::new(),
            networks: HashMap::new(),
            proxy: Set::addresses(&front.addresses()),
            negatives: Vec::new(),
        };
        Self { front, origins: HashMap::new(), alone: HashMap::new(), zone }
    }

    fn negative(&mut self, origin: &Key) -> usize {
        self.zone.negatives.push(Body::negative(origin, self.front.serial));
        self.zone.negatives.len() - 1
    }

    fn origin(&mut self, name: &Key) {
        if self.origins.contains_key(name.bytes()) {
            return;
        }
        let place = self.negative(name);
        self.origins.insert(name.bytes().into(), place);
        // Until now it may have been one of another zone's names in between.
        self.zone.names.entry(name.bytes().into()).or_insert_with(|| Node::bare(place)).zone = place;
        self.way_to(name.above(1).bytes());
        self.name(name, Set::origin(self.front.serial));
    }

    /// The zone that a name is in, if it is in any.
    fn zone_of(&self, key: &[u8]) -> Option<usize> {
        ready::ladder(key).find_map(|step| self.origins.get(step).copied())
    }

    /// A name and those between it and its zone exist, without records (RFC 4592).
    fn way_to(&mut self, name: &[u8]) {
        let Some(zone) = self.zone_of(name) else { return };
        for step in ready::ladder(name) {
            // At the latest the zone's own name is there.
            if self.zone.names.contains_key(step) {
                break;
            }
            self.zone.names.insert(step.into(), Node::bare(zone));
        }
    }

    /// Adds a name to its zone.
    fn name(&mut self, name: &Key, sets: Sets) -> &mut Node {
        self.way_to(name.bytes());
        let node = self.zone.names.get_mut(name.bytes()).expect("a name is added after its zone");
        for set in sets {
            if !node.sets.iter().any(|(kind, _)| *kind == set.0) {
                node.sets.push(set);
            }
        }
        node
    }

    fn environment(&mut self, environment: &EnvironmentRoute) {
        for machine in &environment.machines {
            let addresses: Vec<_> = machine.addresses().collect();
            self.host(&environment.machine_host(machine), &addresses);
        }
        // A machine of that name comes before it, because its records are there already.
        self.host(&gateway_host(environment), &[environment.gateway_v4.into(), environment.gateway_v6.into()]);
        if let Some(name) = Key::read(&environment.host()) {
            self.name(&name, Vec::new()).proxied = true;
        }
        for name in environment.sites.iter().filter_map(|site| Key::read(&site.host)) {
            let node = self.name(&name, Vec::new());
            node.proxied = true;
            node.wildcard = true;
        }
    }

    /// A name with addresses of its own, and the way back from these.
    fn host(&mut self, host: &str, all: &[IpAddr]) {
        let Some(name) = Key::read(host) else { return };
        self.name(&name, Set::addresses(all));
        for address in all {
            let reverse = Key::reverse(*address);
            // A machine outside of its gateway's network has no reverse zone to be in.
            if self.zone_of(reverse.bytes()).is_some() {
                self.name(&reverse, vec![Set::pointer(&name)]);
            }
        }
    }

    /// The proxy's addresses may be the host's own: nothing but they are claimed, not the network that they are in.
    fn proxy_pointers(&mut self, home: &Key) {
        for address in self.front.addresses() {
            let reverse = Key::reverse(address);
            let sets = vec![Set::pointer(home)];
            if self.zone_of(reverse.bytes()).is_some() {
                self.name(&reverse, sets);
            } else {
                let zone = self.negative(&reverse);
                self.zone.names.insert(reverse.bytes().into(), Node { alone: true, sets, ..Node::bare(zone) });
            }
        }
    }

    fn inside(&mut self, place: usize, environment: &EnvironmentRoute) {
        let gateways = [IpAddr::V4(environment.gateway_v4), IpAddr::V6(environment.gateway_v6)];
        self.zone.networks.insert(network_v4(environment.gateway_v4).into(), place);
        self.zone.networks.insert(network_v6(environment.gateway_v6).into(), place);
        let mut names = HashMap::new();
        for machine in &environment.machines {
            self.lone(&mut names, machine.name.as_str(), &machine.addresses().collect::<Vec<_>>());
        }
        for site in &environment.sites {
            self.aliases_inside(&mut names, environment, site);
        }
        // The proxy listens at the gateway too, and shows a machine its own environment there. The host's addresses are closed
        // to machines, and a loopback address would lead a machine to itself.
        self.zone.inside.push(Inside { names, proxy: Set::addresses(&gateways[..1]), gateway: environment.gateway_v4, gateways });
    }

    /// Production's names for a site lead to the machines that serve it, as in /etc/hosts: no authority of ours may sign them, so
    /// the proxy has nothing to add.
    fn aliases_inside(&mut self, names: &mut Names, environment: &EnvironmentRoute, site: &SiteRoute) {
        let serves = |name| site.backends.iter().any(|backend| backend.machine == name);
        let machines = environment.machines.iter().filter(|machine| serves(machine.name.clone()));
        let all: Vec<IpAddr> = machines.flat_map(MachineRoute::addresses).collect();
        if all.is_empty() {
            return;
        }
        for alias in &site.aliases {
            self.lone(names, alias, &all);
        }
    }

    /// A name that stands for itself, with nothing of adt's above or below it.
    fn lone(&mut self, names: &mut Names, text: &str, all: &[IpAddr]) {
        let Some(key) = Key::read(text) else { return };
        let known = self.zone_of(key.bytes()).or_else(|| self.alone.get(key.bytes()).copied());
        let zone = known.unwrap_or_else(|| self.negative(&key));
        if known.is_none() {
            self.alone.insert(key.bytes().into(), zone);
        }
        let sets = Set::addresses(all);
        names.entry(key.bytes().into()).or_insert(Node { alone: true, sets, ..Node::bare(zone) });
    }
}

impl Front {
    fn addresses(&self) -> Vec<IpAddr> {
        let v6 = self.proxy_v6.map(IpAddr::V6);
        std::iter::once(IpAddr::V4(self.proxy_v4)).chain(v6).collect()
    }
}

impl Node {
    fn bare(zone: usize) -> Self {
        Self { zone, proxied: false, wildcard: false, alone: false, sets: Vec::new() }
    }
}

fn gateway_host(environment: &EnvironmentRoute) -> String {
    format!("gateway.{}", environment.host())
}

/// Reverse zones end at whole labels: of v4 the /24 around the network, of v6 its /64.
fn reverse_origins(environment: &EnvironmentRoute) -> [Key; 2] {
    let v6 = network_v6(environment.gateway_v6);
    [Key::reverse(environment.gateway_v4.into()).above(1), Key::reverse(v6.into()).above(16)]
}
