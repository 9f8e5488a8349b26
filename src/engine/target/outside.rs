//! The sites of a target as the world sees them: each public name is asked for at the server's address, from where the operator
//! sits, and it is said whether the world's name servers lead there.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::engine::check::certificate::{Judge, Judged, greet, last_day};
use crate::engine::check::head::{Head, PATIENCE};
use crate::engine::check::probe;
use crate::engine::target::fleet::addresses_of;
use crate::model::response::{CheckItem, CheckStep, Standing};
use crate::model::target::Server;
use crate::model::{Domain, EnvironmentId, SiteName};
use crate::trust;

const HTTPS: u16 = 443;
const HTTP: u16 = 80;
/// What was promoted this instant is listened at a moment later.
const SETTLED: Duration = Duration::from_secs(10);
/// An authority that finds the names gives a certificate within seconds.
const GIVEN: Duration = Duration::from_secs(20);
/// Of a record that somebody is told to make, in seconds.
const LIFE: u32 = 300;

/// A server and what it says of itself.
pub struct Outside<'a> {
    pub id: &'a EnvironmentId,
    pub server: &'a Server,
    pub standing: &'a Standing,
    /// Nobody but this host reaches it, so that nobody else's word on names and certificates counts.
    pub is_rehearsal: bool,
    /// It was changed this instant.
    pub is_new: bool,
}

/// Who is believed how far.
struct Judges {
    world: Judge,
    server: Judge,
}

impl Outside<'_> {
    /// One item for each name, and one for where the world looks for it.
    pub fn look(&self) -> Vec<CheckItem> {
        let names: Vec<_> = self.standing.edge.all().collect();
        if names.is_empty() {
            return Vec::new();
        }
        let host = &self.server.address.host;
        let addresses = addresses_of(self.server);
        if addresses.is_empty() {
            let seen = format!("`{host}` is known to your ssh only, so nobody can ask it for its sites");
            let remedy = "write the server's address in `servers` of the target".to_owned();
            return vec![CheckItem::notice(host, seen, Some(remedy)).at(CheckStep::World)];
        }
        let judges = self.judges();
        if !self.standing.edge.limits.is_empty() {
            // What one client may have counts for us, too.
            return names.iter().flat_map(|(site, name)| self.look_at(site, name, &addresses, &judges)).collect();
        }
        std::thread::scope(|scope| {
            let (addresses, judges) = (&addresses, &judges);
            let each = names.iter().map(|(site, name)| scope.spawn(move || self.look_at(site, name, addresses, judges)));
            let each: Vec<_> = each.collect();
            each.into_iter().flat_map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn judges(&self) -> Judges {
        let mut world = trust::System::believed();
        let private = self.standing.edge.acme.as_ref().and_then(|acme| acme.ca.as_deref());
        world.extend(private.unwrap_or_default().as_bytes());
        Judges { world: Judge::of(&world), server: Judge::of(self.standing.authorities.concat().as_bytes()) }
    }

    fn look_at(&self, site: &SiteName, name: &Domain, addresses: &[IpAddr], judges: &Judges) -> Vec<CheckItem> {
        let health = self.standing.health.get(site).map_or("/", String::as_str);
        let asks = self.standing.edge.users.contains_key(site);
        let (since, is_asked) = (Instant::now(), self.standing.edge.acme.is_some());
        let answered = loop {
            let answered = answer(name, health, addresses, judges, asks);
            let patience = match &answered {
                Err(_) => SETTLED,
                Ok((_, judged)) if is_asked && judged.trusted.is_err() => GIVEN,
                Ok(_) => Duration::ZERO,
            };
            if !self.is_new || since.elapsed() >= patience {
                break answered;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let item = match answered {
            Ok((code, judged)) => self.judge(name, &format!("GET {health} answers {code}"), &judged),
            Err(reason) => {
                CheckItem::fault(name.to_string(), reason, format!("adt env:check -p {} -t {}", self.id.platform, self.id.name))
            }
        };
        let mut items = vec![item.at(CheckStep::World)];
        if !self.is_rehearsal {
            items.push(leads(name, addresses).at(CheckStep::Name));
        }
        items
    }

    fn judge(&self, name: &Domain, answer: &str, judged: &Judged) -> CheckItem {
        let day = last_day(&judged.leaf);
        match (&judged.trusted, &judged.ours) {
            (Ok(()), _) => CheckItem::ok(name.to_string(), format!("{answer}; its certificate is trusted until {day}")),
            (Err(_), Ok(())) => {
                let seen = format!("{answer}; adt's own authority on the server signed its certificate, until {day}");
                match &self.standing.edge.acme {
                    _ if self.is_rehearsal => CheckItem::ok(name.to_string(), seen),
                    None => {
                        let remedy =
                            "browsers want another: give the target an `email`, or the server a certificate in `tls/own`";
                        CheckItem::notice(name.to_string(), seen, Some(remedy.to_owned()))
                    }
                    Some(acme) => {
                        let remedy = format!(
                            "browsers want another: it is asked of {}, as `env:check` of the environment tells",
                            acme.directory
                        );
                        CheckItem::notice(name.to_string(), seen, Some(remedy))
                    }
                }
            }
            (Err(reason), Err(_)) => {
                let seen = format!("{answer}, but nobody here trusts its certificate: {reason}");
                CheckItem::fault(name.to_string(), seen, "look who answers at the server's port 443")
            }
        }
    }
}

/// What one name answers at the first of these addresses that takes a connection, over https; and http must lead there.
/// One that `asks` for a password does so of us, too.
fn answer(name: &Domain, health: &str, addresses: &[IpAddr], judges: &Judges, asks: bool) -> Result<(u16, Judged), String> {
    let stream = connect(addresses, HTTPS)?;
    let (secure, judged) = greet(name.as_str(), stream, &judges.world, &judges.server)
        .map_err(|reason| format!("port {HTTPS} makes no secure connection: {reason}"))?;
    let head = Head::get(name.as_str(), health, secure).map_err(|error| format!("closes without an answer: {error}"))?;
    let code = match head.code() {
        Some(401) if asks => 401,
        Some(code @ 200..=399) if asks => return Err(format!("GET {health} answers {code} and asks for no password")),
        _ => probe::judge(&head.status).map_err(|reason| format!("GET {health} {reason}"))?,
    };
    let plain = Head::get(name.as_str(), "/", connect(addresses, HTTP)?).map_err(|error| format!("port {HTTP}: {error}"))?;
    match plain.code() {
        Some(200..=399) => Ok((code, judged)),
        _ => Err(format!("port {HTTP} answers `{}`", plain.status)),
    }
}

fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, String> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), PATIENCE) {
            Ok(stream) => {
                let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                return set.map(|()| stream).map_err(|error| error.to_string());
            }
            Err(error) => last = Some(format!("port {port} of {address} takes no connection: {}", error.kind())),
        }
    }
    Err(last.unwrap_or_else(|| "the server has no address".to_owned()))
}

/// Whether this host's name servers lead a name to the server; they say what the world's say, sooner or later.
fn leads(name: &Domain, addresses: &[IpAddr]) -> CheckItem {
    let found: BTreeSet<_> = match (name.as_str(), HTTPS).to_socket_addrs() {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(_) => BTreeSet::new(),
    };
    let words = |all: &mut dyn Iterator<Item = &IpAddr>| all.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let there = words(&mut addresses.iter());
    if !found.is_empty() && found.iter().all(|address| addresses.contains(address)) {
        return CheckItem::ok(name.to_string(), format!("leads to {}", words(&mut found.iter())));
    }
    let seen = match found.is_empty() {
        true => format!("leads nowhere yet, not to {there}"),
        false => format!("leads to {}, not to {there}", words(&mut found.iter())),
    };
    let records: Vec<_> = addresses.iter().map(|address| record(name, *address)).collect();
    CheckItem::notice(name.to_string(), seen, Some(records.join("; ")))
}

/// A line of a zone.
fn record(name: &Domain, address: IpAddr) -> String {
    let kind = if address.is_ipv4() { "A" } else { "AAAA" };
    format!("{name}. {LIFE} IN {kind} {address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_of_a_zone() {
        let name = "www.shop.example".parse().unwrap();
        assert_eq!(record(&name, "203.0.113.7".parse().unwrap()), "www.shop.example. 300 IN A 203.0.113.7");
        assert_eq!(record(&name, "2001:db8::7".parse().unwrap()), "www.shop.example. 300 IN AAAA 2001:db8::7");
    }
}
