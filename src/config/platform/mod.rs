//! `platform.toml` → [`Platform`].

mod data;
mod edge;
mod machines;
pub mod raw;
mod records;
mod sites;
mod targets;
#[cfg(test)]
pub mod tests;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ipnet::IpNet;

use crate::model::access::network;
use crate::model::names::{Domain, EnvironmentId, PlatformName};
use crate::model::snapshot::Keep;
use crate::model::{Failure, Fault, Machine, MachineName, Platform, RoleName};

use super::at::{At, in_order};
use super::check;
use super::document;
use super::fault::Faults;

/// The machines that fit into an environment's /26: 64 addresses without the network's, the bridge's and the broadcast's.
pub const MOST_MACHINES: usize = 61;

/// Reads `platform.toml`.
pub fn read(file: &Path) -> Result<Platform, Failure> {
    document::read(file, |text| parse(file, text))
}

/// `file` is for messages and for the platform's folder; only `text` is looked at.
pub fn parse(file: &Path, text: &str) -> Result<Platform, Vec<Fault>> {
    let mut faults = Faults::new(file, text);
    let raw = document::parse::<raw::Document>(&super::schema(super::Document::Platform), &mut faults);
    let platform = raw.and_then(|raw| settle(&raw, file, &mut faults));
    match platform {
        Some(platform) if faults.is_empty() => Ok(platform),
        _ => Err(faults.into_list()),
    }
}

fn settle(raw: &raw::Document, file: &Path, faults: &mut Faults) -> Option<Platform> {
    let name = check::name(faults, &raw.platform.name, PlatformName::new);
    if name.as_ref().is_some_and(|name| name.as_str() == "box") {
        // Layers of boxes are built in environments of a platform of this name.
        faults.add_hint(
            raw.platform.name.span(),
            "the platform name `box` is reserved for building boxes",
            "choose another name",
        );
    }
    let domain = raw.platform.domain.as_ref().map(|domain| check::name(faults, domain, Domain::new));
    let roles = machines::Roles::new(&raw.machines);
    let machines = machines::settle(raw, &roles, faults);
    let sites = sites::settle(raw, &roles, faults);
    let place = |role: &RoleName| raw.machines.keys().find(|key| key.as_str() == role.as_str()).map_or(0..0, At::span);
    names_apart(raw, &machines, place, faults);
    let data = data::settle(raw, &roles, faults);
    let targets = targets::settle(raw, &machines, faults);
    let platform = Platform {
        name: name?,
        summary: check::summary(faults, raw.platform.summary.as_ref()),
        domain: domain.map_or(Some(None), |domain| domain.map(Some))?,
        machines,
        sites,
        data,
        targets,
        snapshots: keep(raw.snapshots.as_ref(), faults),
        folder: file.parent().unwrap_or(Path::new("")).to_owned(),
    };
    if let Some(domain) = &platform.domain
        && let Err(message) = names_fit(&platform, domain, MOST_LABEL)
    {
        faults.add_hint(
            raw.platform.name.span(),
            message,
            "shorten the platform's name, its domain, or that machine's or site's name",
        );
    }
    Some(platform)
}

fn keep(raw: Option<&raw::Snapshots>, faults: &mut Faults) -> Keep {
    let Some(raw) = raw else { return Keep::default() };
    let mut within = |key: &str, number: Option<&At<u32>>, most: u32, default: u32| match number {
        Some(number) if !(1..=most).contains(&**number) => {
            let hint = "with `automatic = false`, none are taken";
            faults.add_hint(number.span(), format!("`{key}` of `[snapshots]` must be from 1 to {most}, not {}", **number), hint);
            default
        }
        Some(number) => **number,
        None => default,
    };
    let default = Keep::default();
    Keep {
        newest: within("keep", raw.keep.as_ref(), 1000, default.newest),
        days: within("days", raw.days.as_ref(), 3650, default.days),
        automatic: raw.automatic.unwrap_or(default.automatic),
    }
}

/// DNS allows a label this many characters.
const MOST_LABEL: usize = 63;

/// DNS allows a whole name 253 characters. Asked here for a platform with its own domain, leaving room for any environment's
/// name; where the domain is the host's, [`fits`] is asked once that and the environment are known.
fn names_fit(platform: &Platform, domain: &Domain, environment: usize) -> Result<(), String> {
    let machines = platform.machines.iter().flat_map(Machine::names).map(|name| name.to_string());
    let sites = platform.sites.iter().map(|site| site.name.to_string());
    let rest = environment + platform.name.as_str().len() + domain.as_str().len() + 3;
    match machines.chain(sites).max_by_key(String::len) {
        Some(longest) if longest.len() + rest > 253 => Err(format!(
            "the host name of `{longest}` in platform `{}` under `{domain}` has {} characters, but DNS allows 253",
            platform.name,
            longest.len() + rest,
        )),
        _ => Ok(()),
    }
}

/// Does every host name of this environment fit into DNS?
pub fn fits(platform: &Platform, environment: &EnvironmentId, domain: &Domain) -> Result<(), Fault> {
    names_fit(platform, platform.domain_or(domain), environment.name.as_str().len()).map_err(|message| Fault {
        message,
        place: None,
        hint: Some("choose a shorter name for the environment".into()),
    })
}

/// Machines and sites of an environment share one level of DNS, and their names must differ.
fn names_apart(
    raw: &raw::Document,
    machines: &[Machine],
    place: impl Fn(&RoleName) -> std::ops::Range<usize>,
    faults: &mut Faults,
) {
    let mut seen: BTreeMap<MachineName, &RoleName> = BTreeMap::new();
    for machine in machines {
        for name in machine.names() {
            match seen.get(&name) {
                Some(other) => faults.add_hint(
                    place(&machine.role),
                    format!("roles `{other}` and `{}` would both have a machine `{name}`", machine.role),
                    "rename one of the two roles",
                ),
                None => {
                    seen.insert(name, &machine.role);
                }
            }
        }
    }
    for (site, _) in in_order(&raw.sites) {
        if MachineName::new(site.as_str()).is_ok_and(|name| seen.contains_key(&name)) {
            faults.add_hint(
                site.span(),
                format!("site `{}` would share its DNS name with machine `{}`", **site, **site),
                "rename the site or the role",
            );
        }
    }
}

/// Names of data become parts of paths and commands, so they are as strict as the others.
fn label(name: &At<String>, noun: &str, faults: &mut Faults) -> Option<String> {
    match MachineName::new(name.as_str()) {
        Ok(name) => Some(name.to_string()),
        Err(error) => {
            faults.add(name.span(), format!("`{}` is not a {noun} name: {}", name.escape_debug(), error.reason));
            None
        }
    }
}

/// An optional value whose check may have failed: `None` only if it did.
fn all<T>(checked: Option<Option<T>>) -> Option<Option<T>> {
    match checked {
        None => Some(None),
        Some(result) => result.map(Some),
    }
}

/// One fault for each word that stands twice in a list.
fn once<'a>(words: impl IntoIterator<Item = &'a At<String>>, noun: &str, faults: &mut Faults) {
    let mut seen = std::collections::BTreeSet::new();
    for word in words {
        if !seen.insert(word.as_str()) {
            faults.add_hint(word.span(), format!("{noun} `{}` is named twice", word.escape_debug()), "keep one of the two");
        }
    }
}

/// `whose` completes "no network …".
fn networks(words: &[At<String>], whose: &str, faults: &mut Faults) -> BTreeSet<IpNet> {
    once(words, "network", faults);
    let read = words.iter().filter_map(|word| match network(word) {
        Ok(network) => Some(network),
        Err(reason) => {
            let message = format!("`{}` is no network {whose}: {reason}", word.escape_debug());
            faults.add_hint(word.span(), message, "write an address, as `203.0.113.7`, or a network, as `203.0.113.0/24`");
            None
        }
    });
    read.collect()
}
