//! From an environment's record to its machines' specifications. Pure: the same record gives the same machines, so what a
//! crashed command was about to create is known to the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::engine::environment::login;
use crate::engine::site::code::LiveSites;
use crate::model::machine::{Mount, MountMode, Volume};
use crate::model::network::numbered;
use crate::model::tie::End;
use crate::model::{Check, EnvironmentId, Health, Limits, Machine, MachineName, MachineSpec, NetworkSpec, Tag, Tie};
use crate::network::address;
use crate::plan::{Wanted, WantedMachine};
use crate::store::Environment;
use crate::store::record::Definition;

pub fn network(install: &str, environment: &Environment) -> NetworkSpec {
    NetworkSpec {
        id: environment.id.clone(),
        tag: Tag::of(install, &environment.id),
        v4: environment.network,
        v6: address::ula_subnet(install, &environment.network),
        tie: tie(environment),
    }
}

/// Where a machine is found, on whichever server it stands.
pub fn address_of(environment: &Environment, machine: &MachineName) -> Option<Ipv4Addr> {
    environment.definition.numbers.get(machine).map(|number| numbered(environment.network, *number))
}

/// How its network goes on to the other servers that carry it.
pub fn tie(environment: &Environment) -> Option<Tie> {
    let definition = &environment.definition;
    let seat = definition.seat.as_ref()?;
    let own = seat.servers.get(&seat.own)?;
    let others = seat.servers.iter().filter(|(name, _)| **name != seat.own);
    let ends = others.map(|(name, peer)| {
        let behind = definition.placed.iter().filter(|(_, server)| *server == name);
        let machines = behind.filter_map(|(machine, _)| address_of(environment, machine));
        let addresses = std::iter::once(numbered(environment.network, peer.number)).chain(machines).collect();
        End { key: peer.key.clone(), endpoint: peer.endpoint, addresses }
    });
    Some(Tie { own: numbered(environment.network, own.number), port: own.endpoint.port(), ends: ends.collect() })
}

/// What machines get of their host.
#[derive(Debug, Clone, Default)]
pub struct Around {
    pub nameservers: Vec<IpAddr>,
    /// Authorities to trust: PEM by name.
    pub trusted: BTreeMap<String, String>,
}

pub fn wanted(install: &str, around: &Around, environment: &Environment, live: &LiveSites) -> Wanted {
    let network = network(install, environment);
    let definition = &environment.definition;
    let hosts = Hosts { environment, network: &network };
    let machines = definition
        .machines_here()
        .into_iter()
        .map(|(name, machine)| {
            let number = definition.numbers[&name];
            let id = environment.id.machine(&name);
            let boxed = &definition.boxes[&machine.role];
            let spec = MachineSpec {
                provider: definition.provider(machine).clone(),
                hostname: name.to_string(),
                fqdn: id.fqdn(&definition.domain),
                layers: boxed.layers.clone(),
                seeded: definition.seeded.get(&machine.role).copied().unwrap_or_default(),
                limits: limits(machine),
                network: network.attach(number),
                hosts: hosts.text(&name),
                nameservers: around.nameservers.clone(),
                search: vec![environment.id.fqdn(&definition.domain)],
                trusted: around.trusted.clone(),
                mounts: mounts(environment, machine, live),
                volumes: Some(volumes(definition, machine)),
                rewound: definition.rewound.clone(),
                files: BTreeMap::new(),
                health: health(environment, machine, &boxed.health),
                host: machine.host,
                spare: false,
                id,
            };
            (name, WantedMachine { spec, after: after(environment, machine), releases: BTreeMap::new() })
        })
        .collect();
    // One that its environment no longer has, or that no longer has a source, comes from nowhere.
    let checkouts =
        live.iter().filter(|(_, site)| site.mirror.is_some()).map(|(name, site)| (name.clone(), site.folder.clone())).collect();
    Wanted { id: environment.id.clone(), machines, checkouts }
}

fn volumes(definition: &Definition, machine: &Machine) -> Vec<Volume> {
    let paths = definition.platform.volumes(machine).into_iter();
    paths.map(|path| Volume { seed: definition.seed(&machine.role, &path).to_vec(), path }).collect()
}

/// The working trees of the sites that a machine serves.
fn mounts(environment: &Environment, machine: &Machine, live: &LiveSites) -> Vec<Mount> {
    let sites = environment.definition.platform.sites.iter().filter(|site| site.on == machine.role);
    let mounts = sites.filter_map(|site| {
        let source = live.get(&site.name).filter(|live| live.mirror.is_some())?.folder.clone();
        let mode = MountMode::Shared { user: site.code.user.clone(), owner: environment.owner.user };
        Some(Mount { source, target: site.code_path(), mode })
    });
    mounts.collect()
}

/// A machine that forks without end must not take its host along, whatever its definition forgot to say.
const PROCESSES: u32 = 4096;

fn limits(machine: &Machine) -> Limits {
    Limits { processes: machine.limits.processes.or(Some(PROCESSES)), ..machine.limits.clone() }
}

/// The machines here of the roles that this one waits for.
fn after(environment: &Environment, machine: &Machine) -> Vec<MachineName> {
    let definition = &environment.definition;
    let roles = definition.platform.machines.iter().filter(|other| machine.after.contains(&other.role));
    roles.flat_map(Machine::names).filter(|name| definition.is_here(name)).collect()
}

/// What its box promises, and each of its sites; where neither says anything, that its init is through.
fn health(environment: &Environment, machine: &Machine, boxed: &Health) -> Health {
    let mut checks = boxed.checks.clone();
    let sites = environment.definition.platform.sites.iter().filter(|site| site.on == machine.role);
    for site in sites {
        // A site's own check asks more than the box's check of the same port.
        checks.retain(|check| !matches!(check, Check::Tcp { port } | Check::Http { port, .. } if *port == site.port));
        checks.push(Check::Http {
            port: site.port,
            path: site.health.clone(),
            host: Some(format!("{}.{}", site.name, environment.id.fqdn(&environment.definition.domain))),
        });
    }
    checks.extend(login::check(&environment.definition.platform, machine));
    if checks.is_empty() {
        checks.push(Check::Booted);
    }
    Health { checks, deadline_seconds: boxed.deadline_seconds }
}

/// Names inside an environment, as a file: they hold while every daemon is down.
///
/// A site's own name has two lines: the gateway's, where the proxy speaks http and https with a trusted certificate, balances and
/// tells what is wrong; and that of a machine which serves it. While the proxy is down its ports refuse at once, and programs go
/// on to the next address by themselves, as they do to the next one when https finds nobody on a machine. So either order works,
/// and resolvers sort as they like. Not chosen: the gateway alone (nothing works without the daemon), machines alone (https never
/// works), rewriting the file with each start and stop of the daemon (a killed one can't).
///
/// Production's names lead to the machine alone: adt's authority may not sign them.
struct Hosts<'a> {
    environment: &'a Environment,
    network: &'a NetworkSpec,
}

impl Hosts<'_> {
    fn text(&self, own: &MachineName) -> String {
        let definition = &self.environment.definition;
        let id = &self.environment.id;
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        let machines = definition.platform.machines_by_name();
        for name in machines.keys() {
            let attachment = self.network.attach(definition.numbers[name]);
            let long = id.machine(name).fqdn(&definition.domain);
            writeln!(text, "{} {long} {name}", attachment.v4).expect("a string takes any text");
            // The long name only: a new machine's IPv6 address is "tentative" for a second or two, and a service that tries
            // it first while everything starts would wait that long for its database. What ties servers carries IPv4 alone.
            if !definition.is_here(name) {
                continue;
            }
            writeln!(text, "{} {long}", attachment.v6).expect("a string takes any text");
        }
        let sites = &definition.platform.sites;
        let hosts: BTreeSet<_> = sites.iter().map(|site| format!("{}.{}", site.name, id.fqdn(&definition.domain))).collect();
        if !hosts.is_empty() {
            let hosts: Vec<_> = hosts.into_iter().collect();
            writeln!(text, "{} {}", self.network.gateway_v4(), hosts.join(" ")).expect("a string takes any text");
        }
        for (address, names) in self.sites(own) {
            let names: Vec<_> = names.into_iter().collect();
            writeln!(text, "{address} {}", names.join(" ")).expect("a string takes any text");
        }
        let home = id.fqdn(&definition.domain);
        writeln!(text, "{} gateway.{home} {home}", self.network.gateway_v4()).expect("a string takes any text");
        text
    }

    /// A site's names lead to the asking machine itself where it serves the site, else to the first that does.
    fn sites(&self, own: &MachineName) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let definition = &self.environment.definition;
        let mut lines: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for site in &definition.platform.sites {
            let role = definition.platform.machines.iter().find(|machine| machine.role == site.on);
            let names = role.map(Machine::names).unwrap_or_default();
            let Some(server) = names.iter().find(|name| *name == own).or(names.first()) else { continue };
            let entry = lines.entry(self.network.attach(definition.numbers[server]).v4.into()).or_default();
            entry.insert(format!("{}.{}", site.name, self.environment.id.fqdn(&definition.domain)));
            entry.extend(site.aliases.iter().cloned());
        }
        lines
    }
}

/// The name that locks, files and messages use for an environment's kernel objects.
pub fn tag(install: &str, id: &EnvironmentId) -> Tag {
    Tag::of(install, id)
}
