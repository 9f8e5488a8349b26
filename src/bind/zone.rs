//! Routes → zones: files for Bind, `host-record` lines for dnsmasq.
//!
//! ```text
//! adt/main.conf               Bind: every zone; dnsmasq: reads conf/*
//! adt/zones/<domain>.db       forward, one for each domain
//! adt/zones/….arpa.db         reverse, one for each /24 and /48 with machines in it
//! adt/conf/1-<environment>.conf  dnsmasq only
//! ```
//! A zone's serial number grows when, and only when, something else in its file changes; the file of before is what it is
//! compared with. It starts at the present time, so that a zone which went and came back is newer than its first life.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::material::{Material, Source};
use super::{Facts, File, Front, Home, Result, file};
use crate::model::route::EnvironmentRoute;

struct Record {
    name: String,
    kind: &'static str,
    value: String,
}

/// For each zone its pieces: what they are about, and their records.
type Zones = BTreeMap<String, Vec<(String, Vec<Record>)>>;

pub fn files(
    home: &Home,
    facts: &Facts<'_>,
    material: &Material,
    previous: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<File>> {
    let (head, piece) = (material.of_server("zone.db")?, material.of_server("records.db")?);
    let piece = piece.prepare()?;
    let zones = zones(facts);
    let mut files = Vec::with_capacity(zones.len() + 1);
    for (zone, pieces) in &zones {
        let server = if zone.ends_with(".arpa") { facts.routes.domain.as_str() } else { zone };
        let mut body = String::new();
        for (about, records) in pieces {
            body.push_str(
                &piece.render(&json!({ "about": about, "records": records.iter().map(Record::json).collect::<Vec<_>>() }))?,
            );
        }
        let path = format!("zones/{zone}.db");
        let write = |serial: u32| zone_text(&head, zone, server, serial, &body);
        let text = with_serial(previous(&path).as_deref(), facts.now, &write)?;
        files.push(file(path, text));
    }
    let names: Vec<_> = zones.keys().map(|name| json!({ "name": name })).collect();
    let main = json!({ "adt": home.adt(), "zones": names });
    files.push(file("main.conf", material.of_server("main.conf")?.render(&main)?));
    Ok(files)
}

fn zone_text(head: &Source, zone: &str, server: &str, serial: u32, body: &str) -> Result<String> {
    let mut text = head.render(&json!({ "zone": zone, "server": server, "serial": serial }))?;
    text.push_str(body);
    Ok(text)
}

/// The text with the number that it had before if nothing else changed, or else with a greater one.
fn with_serial(previous: Option<&[u8]>, now: u32, write: &dyn Fn(u32) -> Result<String>) -> Result<String> {
    let Some(previous) = previous else { return write(now) };
    let Some(serial) = serial(previous) else { return write(now) };
    let same = write(serial)?;
    if same.as_bytes() == previous { Ok(same) } else { write(now.max(serial.saturating_add(1))) }
}

/// The seventh field of the line with the SOA.
fn serial(zone: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(zone).ok()?;
    let soa = text.lines().find(|line| line.contains(" IN SOA "))?;
    soa.split_ascii_whitespace().nth(5)?.parse().ok()
}

fn zones(facts: &Facts<'_>) -> Zones {
    let domains: Vec<&str> = facts.routes.domains().iter().map(|domain| domain.as_str()).collect();
    let mut zones = Zones::new();
    for domain in &domains {
        // Named here rather than where it belongs: a zone needs the address of its own name server.
        let apex = front(domain.to_string(), facts.front);
        zones.entry(domain.to_string()).or_default().push((format!("Domain {domain}"), apex));
    }
    for platform in facts.routes.platforms.iter().filter(|platform| !domains.contains(&platform.host().as_str())) {
        let piece = (format!("Platform {}", platform.name), front(platform.host(), facts.front));
        zones.entry(zone_of(&domains, &piece.1[0].name)).or_default().push(piece);
    }
    for environment in facts.routes.environments() {
        for (zone, records) in by_zone(forward(environment, facts.front), |name| zone_of(&domains, name)) {
            zones.entry(zone).or_default().push((format!("Environment {}", environment.id), records));
        }
        for (zone, records) in by_zone(reverse(environment), reverse_zone) {
            zones.entry(zone).or_default().push((format!("Environment {}", environment.id), records));
        }
    }
    zones
}

fn by_zone(records: Vec<Record>, zone: impl Fn(&str) -> String) -> BTreeMap<String, Vec<Record>> {
    let mut zones: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in records {
        zones.entry(zone(&record.name)).or_default().push(record);
    }
    zones
}

/// The longest domain that the name is in, because a server asks its deepest zone only.
fn zone_of(domains: &[&str], name: &str) -> String {
    let inside = |domain: &&&str| name == **domain || name.strip_suffix(**domain).is_some_and(|rest| rest.ends_with('.'));
    let longest = domains.iter().filter(inside).max_by_key(|domain| domain.len());
    (*longest.expect("every route's domain is one of the routes' domains")).to_owned()
}

fn forward(environment: &EnvironmentRoute, proxy: &Front) -> Vec<Record> {
    let mut records = front(environment.host(), proxy);
    for machine in &environment.machines {
        let name = environment.machine_host(machine);
        records.push(Record { name: name.clone(), kind: "A", value: machine.v4.to_string() });
        records.extend(machine.v6.map(|v6| Record { name, kind: "AAAA", value: v6.to_string() }));
    }
    for site in &environment.sites {
        // A machine may have a site's name; then the name is the site's, or a browser would miss the proxy.
        records.retain(|record| record.name != site.host);
        records.extend(front(site.host.clone(), proxy));
        records.extend(front(format!("*.{}", site.host), proxy));
    }
    records
}

fn reverse(environment: &EnvironmentRoute) -> Vec<Record> {
    let mut records = vec![
        pointer(reverse_v4(environment.gateway_v4), &environment.host()),
        pointer(reverse_v6(environment.gateway_v6), &environment.host()),
    ];
    for machine in &environment.machines {
        let name = environment.machine_host(machine);
        records.push(pointer(reverse_v4(machine.v4), &name));
        records.extend(machine.v6.map(|v6| pointer(reverse_v6(v6), &name)));
    }
    records
}

fn pointer(name: String, host: &str) -> Record {
    Record { name, kind: "PTR", value: format!("{host}.") }
}

fn front(name: String, front: &Front) -> Vec<Record> {
    let v6 = front.v6.map(|v6| Record { name: name.clone(), kind: "AAAA", value: v6.to_string() });
    [Record { name, kind: "A", value: front.v4.to_string() }].into_iter().chain(v6).collect()
}

fn reverse_v4(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

fn reverse_v6(address: Ipv6Addr) -> String {
    let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
    nibbles.fold(String::new(), |name, nibble| format!("{name}{nibble:x}.")) + "ip6.arpa"
}

/// The /24 of an IPv4 address, the /48 of an IPv6 one: every environment of an installation shares the latter.
fn reverse_zone(name: &str) -> String {
    let skip = if name.ends_with("in-addr.arpa") { 1 } else { 20 };
    name.splitn(skip + 1, '.').last().expect("a split has a last part").to_owned()
}

impl Record {
    fn json(&self) -> Value {
        json!({ "name": self.name, "kind": self.kind, "value": self.value })
    }
}

/// dnsmasq answers an `address=` for everything below a name, which is what sites want; all others are exact.
pub fn dnsmasq(home: &Home, facts: &Facts<'_>, material: &Material) -> Result<Vec<File>> {
    let mut front = vec![facts.front.v4.to_string()];
    front.extend(facts.front.v6.map(|v6| v6.to_string()));
    let source = material.of_server("environment.conf")?;
    let source = source.prepare()?;
    let mut files = Vec::new();
    for environment in facts.routes.environments() {
        let sites: Vec<_> = environment.sites.iter().map(|site| &site.host).collect();
        let machines: Vec<_> = environment
            .machines
            .iter()
            .map(|machine| json!({ "host": environment.machine_host(machine), "v4": machine.v4, "v6": machine.v6 }))
            .filter(|machine| sites.iter().all(|site| machine["host"] != site.as_str()))
            .collect();
        let facts = json!({ "id": environment.id.to_string(), "host": environment.host(), "machines": machines, "sites": sites, "front": front });
        files.push(file(format!("conf/1-{}.conf", environment.host()), source.render(&facts)?));
    }
    let domains: Vec<&str> = facts.routes.domains().iter().map(|domain| domain.as_str()).collect();
    let mut exact: Vec<String> = facts.routes.platforms.iter().map(|platform| platform.host()).collect();
    exact.extend(domains.iter().map(|domain| (*domain).to_owned()));
    exact.sort();
    exact.dedup();
    let domain_facts = json!({ "domains": domains, "exact": exact, "front": front });
    files.push(file("conf/0-domains.conf", material.of_server("domains.conf")?.render(&domain_facts)?));
    files.push(file("main.conf", material.of_server("main.conf")?.render(&json!({ "adt": home.adt() }))?));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_backwards() {
        assert_eq!(reverse_v4(Ipv4Addr::new(10, 1, 2, 3)), "3.2.1.10.in-addr.arpa");
        assert_eq!(reverse_zone("3.2.1.10.in-addr.arpa"), "2.1.10.in-addr.arpa");
        let name = reverse_v6("fd12:3456:789a:1::2".parse().unwrap());
        assert_eq!(name, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa");
        assert_eq!(reverse_zone(&name), "a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa");
    }

    #[test]
    fn a_name_is_in_the_deepest_zone() {
        let domains = ["example.test", "shop.example.test", "test"];
        assert_eq!(zone_of(&domains, "www.1.shop.example.test"), "shop.example.test");
        assert_eq!(zone_of(&domains, "www.1.workshop.example.test"), "example.test");
        assert_eq!(zone_of(&domains, "example.test"), "example.test");
    }

    #[test]
    fn a_serial_number_grows_when_the_content_does() {
        let text = |serial: u32, body: &str| format!("$TTL 60\na. IN SOA a. h.a. {serial} 1 1 1 1\n{body}\n");
        let next = |previous: Option<&str>, now, body: &'static str| {
            with_serial(previous.map(str::as_bytes), now, &|serial| Ok(text(serial, body))).unwrap()
        };
        assert_eq!(next(None, 100, "x"), text(100, "x"));
        assert_eq!(next(Some(&text(100, "x")), 200, "x"), text(100, "x"));
        assert_eq!(next(Some(&text(100, "x")), 200, "y"), text(200, "y"));
        assert_eq!(next(Some(&text(200, "x")), 200, "y"), text(201, "y"));
        assert_eq!(next(Some(&text(300, "x")), 200, "y"), text(301, "y"), "the clock went back");
        assert_eq!(next(Some("broken"), 200, "y"), text(200, "y"));
    }
}
