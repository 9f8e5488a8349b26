//! `[targets.…]` → targets.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::model::EnvironmentName;
use crate::model::access::network;
use crate::model::target::{Address, Fingerprint, Server, Target};

use super::edge::edge;
use super::records::zone;
use super::{once, raw};
use crate::config::at::{At, in_order};
use crate::config::check;
use crate::config::fault::Faults;

pub fn settle(raw: &raw::Document, faults: &mut Faults) -> Vec<Target> {
    in_order(&raw.targets).into_iter().filter_map(|(name, each)| target(name, each, raw, faults)).collect()
}

fn target(name: &At<String>, raw: &raw::Target, document: &raw::Document, faults: &mut Faults) -> Option<Target> {
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
    if let Some(second) = raw.servers.get(1) {
        let message = "a target stands on one server so far";
        faults.add_hint(second.span(), message, "keep one of them, which then has all machines");
    }
    let host_key = raw.host_key.as_ref().map(|word| fingerprint(word, faults));
    let edge = edge(raw, &document.sites, faults);
    let records = raw.records.as_ref().map(|raw| zone(raw, &edge, faults));
    let servers: Option<Vec<_>> = raw.servers.iter().map(|word| address(word, faults)).collect();
    let host_key = host_key.map_or(Some(None), |key| key.map(Some))?;
    let servers = servers?.into_iter().map(|address| Server { address, host_key: host_key.clone() }).collect();
    let records = records.map_or(Some(None), |zone| zone.map(Some))?;
    Some(Target { name: label?.to_string(), servers, admin: admin(&raw.admin, faults)?, edge, records })
}

fn admin(words: &[At<String>], faults: &mut Faults) -> Option<BTreeSet<IpNet>> {
    once(words, "network", faults);
    let read = words.iter().map(|word| {
        let read = network(word);
        if let Err(reason) = &read {
            let message = format!("`{}` is no network of administrators: {reason}", word.escape_debug());
            faults.add_hint(word.span(), message, "write an address, as `203.0.113.7`, or a network, as `203.0.113.0/24`");
        }
        read.ok()
    });
    read.collect::<Vec<_>>().into_iter().collect()
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
