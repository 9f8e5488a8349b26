//! `[machines.…]` → roles.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::names::BoxName;
use crate::model::{BoxRef, Limits, Machine, ProviderName, ProviderRef, RoleName, Size};

use super::raw;
use super::{MOST_MACHINES, once};
use crate::config::at::{At, in_order};
use crate::config::check::{self, Node};
use crate::config::fault::Faults;

/// A machine with less can't even start its init.
const LEAST_MEMORY: Size = Size(16 << 20);

/// The roles of the file, for words that refer to one.
pub struct Roles<'a>(Vec<&'a str>);

impl<'a> Roles<'a> {
    pub fn new(machines: &'a BTreeMap<At<String>, raw::Machine>) -> Self {
        Self(in_order(machines).into_iter().map(|(name, _)| name.as_str()).collect())
    }

    /// The role of this name, or a fault.
    pub fn named(&self, word: &At<String>, faults: &mut Faults) -> Option<RoleName> {
        self.known(word, word.span(), faults)
    }

    /// The same for a role that is only a part of what stands there.
    pub fn known(&self, word: &str, span: Range<usize>, faults: &mut Faults) -> Option<RoleName> {
        if self.0.contains(&word) {
            // A role whose own name is bad has its fault where it is defined.
            return RoleName::new(word).ok();
        }
        let hint = check::meant(word, self.0.iter().copied(), "add it as `[machines.…]`");
        faults.add_hint(span, format!("there is no machine `{}`", word.escape_debug()), hint);
        None
    }
}

pub fn settle(raw: &raw::Document, roles: &Roles, faults: &mut Faults) -> Vec<Machine> {
    let entries = in_order(&raw.machines);
    if entries.is_empty() {
        faults.add_hint(
            raw.platform.name.span(),
            "the platform has no machine",
            "add one, e.g. `[machines.web]` with `box = \"debian\"`",
        );
    }
    too_many(&entries, faults);
    let nodes: Vec<Node> = entries.iter().map(|(name, raw)| Node { name: name.as_str(), to: &raw.after }).collect();
    if let Some((cycle, span)) = check::cycle(&nodes) {
        faults.add_hint(
            span,
            format!("machines wait for each other: {}", cycle.join(" -> ")),
            "remove one of these from `after`",
        );
    }
    entries.into_iter().filter_map(|(name, raw)| machine(name, raw, roles, faults)).collect()
}

fn too_many(entries: &[(&At<String>, &raw::Machine)], faults: &mut Faults) {
    let mut sum = 0;
    for (name, raw) in entries {
        let count = raw.count.as_ref();
        sum += count.map_or(1, |count| **count as usize);
        if sum > MOST_MACHINES {
            let span = count.map_or(name.span(), At::span);
            let message = format!("with `{}` the platform has {sum} machines, but an environment holds {MOST_MACHINES}", ***name);
            faults.add_hint(span, message, "lower the counts");
            return;
        }
    }
}

/// Whether so many machines of a role can be named.
pub(super) fn have_names(role: &RoleName, count: u32, span: Range<usize>, faults: &mut Faults) -> bool {
    let named = role.machine(Some(count));
    if let Err(error) = &named {
        faults.add_hint(span, error.to_string(), "shorten the role's name: its machines carry their number after it");
    }
    named.is_ok()
}

fn machine(name: &At<String>, raw: &raw::Machine, roles: &Roles, faults: &mut Faults) -> Option<Machine> {
    let role = check::name(faults, name, RoleName::new);
    let count = raw.count.as_ref().map(|count| **count);
    if let (Some(role), Some(count)) = (&role, count)
        && !have_names(role, count, name.span(), faults)
    {
        return None;
    }
    let boxed = check::name(faults, &raw.boxed, BoxName::new);
    let memory_bytes = raw.memory.as_ref().and_then(|memory| memory_bytes(memory, faults));
    once(&raw.after, "machine", faults);
    once(&raw.data, "folder", faults);
    once(&raw.logs, "log file", faults);
    let after = raw.after.iter().filter_map(|role| roles.named(role, faults)).collect();
    let data = raw.data.iter().filter_map(|folder| check::machine_path(faults, folder)).collect();
    let provision =
        raw.provision.iter().filter_map(|script| check::inner_path(faults, script, "the platform's folder")).collect();
    let logs = raw.logs.iter().filter_map(|path| check::log_path(faults, path)).collect();
    let provider = raw.provider.as_ref().and_then(|word| {
        let name = check::name(faults, word, ProviderName::new)?;
        Some(ProviderRef { name, place: Some(faults.place(word.span())) })
    });
    Some(Machine {
        role: role?,
        summary: check::summary(faults, raw.summary.as_ref()),
        boxed: BoxRef { name: boxed?, place: Some(faults.place(raw.boxed.span())) },
        count,
        limits: Limits { memory_bytes, cpus: raw.cpus, processes: raw.processes },
        after,
        data,
        provision,
        logs,
        provider,
        host: raw.host,
    })
}

pub(super) fn memory_bytes(text: &At<String>, faults: &mut Faults) -> Option<u64> {
    if text.as_str() == "unlimited" {
        return Some(Limits::ALL_MEMORY);
    }
    match Size::parse(text) {
        None => {
            let message = format!("`{}` is no amount of memory", text.escape_debug());
            faults.add_hint(
                text.span(),
                message,
                "write a whole number and K, M, G or T, e.g. \"512M\" or \"2G\", or \"unlimited\"",
            );
            None
        }
        Some(size) if size < LEAST_MEMORY => {
            let message = format!("`{}` is too little memory for a machine to start", text.escape_debug());
            faults.add_hint(text.span(), message, "give it \"16M\" or more");
            None
        }
        Some(size) => Some(size.0),
    }
}
