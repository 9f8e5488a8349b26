//! `[targets.….records]` → the zone that adt may change.

use std::path::PathBuf;

use crate::model::records::{NameServer, Zone};
use crate::model::{Domain, Edge};

use super::raw;
use crate::config::at::At;
use crate::config::check;
use crate::config::fault::Faults;

/// Short enough that a mistake is not kept for long.
const TTL: u32 = 300;

/// `edge` has the names of the target.
pub fn zone(raw: &raw::Records, edge: &Edge, faults: &mut Faults) -> Option<Zone> {
    let server = check::host_and_port(&raw.server, NameServer::PORT).map(|(host, port)| NameServer { host, port });
    if server.is_none() {
        let message = format!("`{}` is no name server", raw.server.escape_debug());
        faults.add_hint(raw.server.span(), message, "write e.g. `ns1.shop.example` or `203.0.113.53:53`");
    }
    let zone = check::name(faults, &raw.zone, Domain::new);
    let key_file = key_file(&raw.key_file, faults);
    let zone = Zone { zone: zone?, server: server?, key_file: key_file?, ttl: raw.ttl.as_ref().map_or(TTL, |ttl| **ttl) };
    if !edge.all().any(|(_, name)| zone.has(name)) {
        let message = format!("no site of this target has a name in the zone `{}`", zone.zone);
        faults.add_hint(raw.zone.span(), message, format!("give them names with `domain = \"{}\"`", zone.zone));
        return None;
    }
    Some(zone)
}

fn key_file(word: &At<String>, faults: &mut Faults) -> Option<PathBuf> {
    if word.starts_with('/') && !word.chars().any(char::is_control) {
        return Some(PathBuf::from(word.as_str()));
    }
    check::inner_path(faults, word, "the platform's folder, or an absolute one")
}
