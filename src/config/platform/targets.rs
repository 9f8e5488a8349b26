//! `[targets.…]` → targets.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::target::{Address, Fingerprint, Server, Target, Terms};
use crate::model::{EnvironmentName, Limits, Machine, RoleName};

use super::edge::edge;
use super::machines::{have_names, memory_bytes};
use super::records::zone;
use super::{MOST_MACHINES, names_apart, networks, once, raw};
use crate::config::at::{At, in_order};
use crate::config::check;
use crate::config::fault::Faults;

pub fn settle(raw: &raw::Document, machines: &[Machine], faults: &mut Faults) -> Vec<Target> {
    in_order(&raw.targets).into_iter().filter_map(|(name, each)| target(name, each, (raw, machines), faults)).collect()
}

fn target(
    name: &At<String>,
    raw: &raw::Target,
    (document, machines): (&raw::Document, &[Machine]),
    faults: &mut Faults,
) -> Option<Target> {
    if name.as_str() == "local" {
        faults.add_hint(
            name.span(),
            "the target `local` is always the developer's own host",
            "name the target after its purpose, e.g. `production`",
        );
    }
    // The environment on its server has its name.
    let label = check::name(faults, name, EnvironmentName::new);
    once(&raw.servers, "server", faults);
    if raw.servers.is_empty() {
        faults.add_hint(name.span(), "the target has no server", "name it, e.g. `servers = [\"root@a.example\"]`");
    }
    let edge = edge(raw, &document.sites, faults);
    let records = raw.records.as_ref().map(|raw| zone(raw, &edge, faults));
    let servers = servers(raw, faults);
    let admin = networks(&raw.admin, "of administrators", faults);
    let servers = servers?;
    let machines = terms(name, raw, &servers, (document, machines), faults);
    let records = records.map_or(Some(None), |zone| zone.map(Some))?;
    Some(Target { name: label?.to_string(), servers, admin, edge, records, machines: machines? })
}

fn servers(raw: &raw::Target, faults: &mut Faults) -> Option<Vec<Server>> {
    let addresses: Option<Vec<_>> = raw.servers.iter().map(|word| address(word, faults)).collect();
    let only = raw.host_key.as_ref().map(|word| fingerprint(word, faults));
    let only = only.map_or(Some(None), |key| key.map(Some));
    let mut keys = BTreeMap::new();
    for (server, word) in in_order(&raw.host_keys) {
        keys.insert(server.as_str(), fingerprint(word, faults)?);
    }
    let (addresses, only) = (addresses?, only?);
    if let (Some(key), true) = (&raw.host_key, addresses.len() > 1) {
        faults.add_hint(key.span(), "each of several servers has a host key of its own", "name them in `host_keys`, by server");
    }
    let mut names = BTreeSet::new();
    for (word, address) in raw.servers.iter().zip(&addresses) {
        if !names.insert(address.host.as_str()) {
            let message = format!("two servers are called `{}`", address.host);
            faults.add_hint(word.span(), message, "give one of them another name, e.g. in your `~/.ssh/config`");
        }
    }
    for (server, _) in in_order(&raw.host_keys) {
        known(server, &names, faults);
    }
    let key = |address: &Address| keys.get(address.host.as_str()).or(only.as_ref()).cloned();
    Some(addresses.iter().map(|address| Server { host_key: key(address), address: address.clone() }).collect())
}

/// Whether the target has a server of this name.
fn known(word: &At<String>, names: &BTreeSet<&str>, faults: &mut Faults) -> bool {
    let is_known = names.contains(word.as_str());
    if !is_known {
        let message = format!("the target has no server `{}`", word.escape_debug());
        faults.add_hint(word.span(), message, check::meant(word, names.iter().copied(), "name it in `servers`"));
    }
    is_known
}

/// What the target says of roles.
fn terms(
    name: &At<String>,
    raw: &raw::Target,
    servers: &[Server],
    (document, machines): (&raw::Document, &[Machine]),
    faults: &mut Faults,
) -> Option<BTreeMap<RoleName, Terms>> {
    let names: BTreeSet<_> = servers.iter().map(Server::name).collect();
    let mut all = BTreeMap::new();
    for (role, each) in in_order(&raw.machines) {
        let Some(machine) = machines.iter().find(|machine| machine.role.as_str() == role.as_str()) else {
            let known = machines.iter().map(|machine| machine.role.as_str());
            let message = format!("there is no machine `{}`", role.escape_debug());
            faults.add_hint(role.span(), message, check::meant(role, known, "add it as `[machines.…]`"));
            continue;
        };
        once(&each.on, "server", faults);
        let on = each.on.iter().filter(|word| known(word, &names, faults)).map(|word| word.to_string()).collect();
        if let (Some(count), None) = (&each.count, machine.count) {
            let message = format!("`{}` is a single machine, which has no number in its name", machine.role);
            faults.add_hint(count.span(), message, format!("write `count = 1` below `[machines.{}]` first", machine.role));
        }
        let memory_bytes = each.memory.as_ref().and_then(|memory| memory_bytes(memory, faults));
        let limits = Limits { memory_bytes, cpus: each.cpus, processes: each.processes };
        all.insert(machine.role.clone(), Terms { on, count: each.count.as_ref().map(|count| **count), limits });
    }
    let there = |machine: &Machine| {
        let count = all.get(&machine.role).and_then(|terms: &Terms| terms.count).or(machine.count);
        Machine { count, ..machine.clone() }
    };
    let there: Vec<_> = machines.iter().map(there).collect();
    let sum = there.iter().map(|machine| machine.count.unwrap_or(1)).fold(0, u32::saturating_add);
    // Each server has an address of its own among them.
    let others = if servers.len() > 1 { servers.len() } else { 0 };
    if sum as usize + others > MOST_MACHINES {
        let message =
            format!("the target would have {sum} machines on {} servers, of which {MOST_MACHINES} fit together", servers.len());
        faults.add_hint(name.span(), message, "lower the counts");
        return None;
    }
    let counts: BTreeMap<_, _> =
        raw.machines.iter().filter_map(|(role, each)| Some((role.as_str(), each.count.as_ref()?))).collect();
    let place = |role: &RoleName| counts.get(role.as_str()).map_or(name.span(), |count| count.span());
    let is_named = |machine: &Machine, faults: &mut Faults| {
        machine.count.is_none_or(|count| have_names(&machine.role, count, place(&machine.role), faults))
    };
    // Those at home were looked at there.
    if !counts.is_empty() && there.iter().all(|machine| is_named(machine, faults)) {
        names_apart(document, &there, place, faults);
    }
    Some(all)
}

fn address(word: &At<String>, faults: &mut Faults) -> Option<Address> {
    let read = Address::parse(word);
    if let Err(error) = &read {
        faults.add_hint(word.span(), error.to_string(), "write `root@HOST` or `root@HOST:PORT`");
    }
    read.ok()
}

fn fingerprint(word: &At<String>, faults: &mut Faults) -> Option<Fingerprint> {
    let read = Fingerprint::new(word.as_str());
    if let Err(reason) = &read {
        let message = format!("`{}` is no fingerprint of a host key: {reason}", word.escape_debug());
        let hint = "on the server's console, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows it";
        faults.add_hint(word.span(), message, hint);
    }
    read.ok()
}
