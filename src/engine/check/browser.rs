//! The way of a browser to a site, step by step: name → address → certificate → proxy → application. Each step has its own
//! verdict and remedy, and none is left out because one before it failed, as long as it can be judged at all.
//!
//! Machines, which lie between proxy and application, are judged one by one by [`crate::engine::check::verbs`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::engine::check::certificate::{Judge, Judged, Secure, greet, last_day};
use crate::engine::check::head::{Head, PATIENCE};
use crate::engine::check::probe;
use crate::engine::host::serving::{Held, Serving, held, make_way};
use crate::model::Domain;
use crate::model::response::{CheckItem, CheckStep};
use crate::model::route::{EnvironmentRoute, SiteRoute};
use crate::resolver::{self, System, Verdict};

/// adt renews its certificates long before; one this close to its end is renewed by nobody.
const SOON: Duration = Duration::from_secs(3 * 86_400);

/// What the ways to all sites have in common.
pub struct Path {
    pub listen: Ipv4Addr,
    pub system: System,
    pub pages: Serving,
    pub names: Serving,
    /// What a program of this host believes.
    pub trusted: Judge,
    /// What was signed here.
    pub ours: Judge,
    /// Domains whose authorities this host does not trust.
    pub untrusted: Vec<Domain>,
}

impl Path {
    /// Walks the way to one site.
    pub fn walk(&self, environment: &EnvironmentRoute, site: &SiteRoute) -> Vec<CheckItem> {
        let host = site.host.as_str();
        let connected = self.connect();
        let handshake = connected
            .as_ref()
            .ok()
            .and_then(|stream| stream.try_clone().ok())
            .map(|stream| greet(host, stream, &self.trusted, &self.ours));
        let greeted = handshake.as_ref().and_then(|done| done.as_ref().ok());
        let is_ours = greeted.is_some_and(|(_, judged)| judged.ours.is_ok());
        let address = self.address(host, connected.as_ref().err(), is_ours);
        let foreign = address.remedy.is_some();
        let mut items = vec![self.name(host), address];
        match handshake {
            Some(done) if !foreign => {
                items.push(self.certificate(host, done.as_ref().map(|(_, judged)| judged)));
                if let Ok((secure, _)) = done {
                    items.extend(self.request(environment, site, secure));
                }
            }
            // The certificate of a stranger says nothing about adt's.
            _ => items.push(self.authority(host, &environment.domain)),
        }
        items
    }

    /// Asks the system's own resolver, as every program of this host does, and where that fails adt's server itself.
    fn name(&self, host: &str) -> CheckItem {
        let item = match resolver::check(host, IpAddr::V4(self.listen)) {
            Verdict::Works => CheckItem::ok(host, format!("{}, says {}", self.listen, self.system)),
            Verdict::Fails(found) if !found.is_empty() => {
                let by_file = std::fs::read_to_string("/etc/hosts").is_ok_and(|text| names(&text, host));
                let (who, remedy) = if by_file {
                    ("/etc/hosts".to_owned(), "sudoedit /etc/hosts")
                } else {
                    (self.system.to_string(), self.names.ask())
                };
                CheckItem::fault(host, format!("leads to {}, not to {}, says {who}", found.join(", "), self.listen), remedy)
            }
            Verdict::Fails(_) => self.unknown(host),
        };
        item.at(CheckStep::Name)
    }

    /// The resolver finds nothing: because of whom it asks, or because of adt's server?
    fn unknown(&self, host: &str) -> CheckItem {
        let server = self.names.name_server(self.listen);
        match resolver::ask(server, host) {
            Ok(known) if known.contains(&self.listen) => {
                let seen = format!("does not resolve: {} does not ask {server}, which knows it", self.system);
                CheckItem::fault(host, seen, self.names.ask())
            }
            Ok(_) => {
                let seen = format!("does not resolve: the name server at {server} does not know it");
                CheckItem::fault(host, seen, make_way(&self.names, self.listen, 53))
            }
            Err(_) => CheckItem::fault(host, format!("does not resolve: no name server answers at {server}"), self.names.start()),
        }
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((self.listen, 443)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// `is_ours`: who answers has a certificate that was signed here, whatever its process is called.
    fn address(&self, host: &str, refused: Option<&std::io::Error>, is_ours: bool) -> CheckItem {
        let place = format!("{}:443", self.listen);
        // Its kind says it without the number that the kernel calls it by.
        let refused = refused.map(std::io::Error::kind);
        let item = match (refused, held(&self.pages, self.listen, 443)) {
            (Some(error), Held::Nobody) => {
                CheckItem::fault(host, format!("nobody listens at {place}: {error}"), self.pages.start())
            }
            (Some(error), Held::Right(who)) => {
                CheckItem::fault(host, format!("{who} does not answer at {place}: {error}"), self.pages.start())
            }
            (None, Held::Right(who)) => CheckItem::ok(host, format!("{who}, port 443")),
            (None, _) if is_ours => CheckItem::ok(host, place),
            (_, Held::Foreign(who)) => {
                let seen = format!("{} listens at {place}, not adt", who.join(", "));
                CheckItem::fault(host, seen, make_way(&self.pages, self.listen, 443))
            }
            (None, Held::Nobody) => {
                let seen = format!("something else than adt answers at {place}");
                CheckItem::fault(host, seen, self.pages.start())
            }
        };
        item.at(CheckStep::Address)
    }

    fn certificate(&self, host: &str, judged: Result<&Judged, &String>) -> CheckItem {
        let item = match judged {
            Err(error) => CheckItem::fault(host, format!("no secure connection: {error}"), self.pages.start()),
            Ok(judged) => match &judged.trusted {
                Ok(()) => until(host, &judged.leaf),
                Err(reason) if judged.ours.is_ok() => {
                    CheckItem::fault(host, format!("this host does not trust adt's authority: {reason}"), "adt host:bind-proxy")
                }
                Err(reason) => CheckItem::fault(host, reason.clone(), self.pages.start()),
            },
        };
        item.at(CheckStep::Certificate)
    }

    /// Nobody shows a certificate; whether this host would believe it can be said all the same.
    fn authority(&self, host: &str, domain: &Domain) -> CheckItem {
        let item = if self.untrusted.contains(domain) {
            CheckItem::fault(host, "this host does not trust adt's authority", "adt host:bind-proxy")
        } else {
            CheckItem::ok(host, "its authority is trusted")
        };
        item.at(CheckStep::Certificate)
    }

    /// One request for the page that tells whether the site works. Its answer tells of the proxy and of the application.
    fn request(&self, environment: &EnvironmentRoute, site: &SiteRoute, secure: Secure) -> Vec<CheckItem> {
        let (host, path, id) = (site.host.as_str(), site.health.as_str(), &environment.id);
        if !self.pages.is_bound_to(id) {
            let seen = format!("is not configured for {id}");
            return vec![CheckItem::fault(host, seen, self.pages.follow(id)).at(CheckStep::Proxy)];
        }
        let head = match Head::get(host, path, secure) {
            Ok(head) => head,
            Err(error) => {
                let seen = format!("closes without an answer: {error}");
                return vec![CheckItem::fault(host, seen, self.pages.start()).at(CheckStep::Proxy)];
            }
        };
        let answer = probe::judge(&head.status);
        if head.own_page && matches!(head.code(), Some(400..=499)) {
            let seen = "does not know the site, though the store does";
            return vec![CheckItem::fault(host, seen, self.pages.follow(id)).at(CheckStep::Proxy)];
        }
        let machines: Vec<_> = site.backends.iter().map(|backend| backend.machine.as_str()).collect();
        let proxy = CheckItem::ok(host, format!("leads to {}", machines.join(", "))).at(CheckStep::Proxy);
        let application = match answer {
            Ok(code) => CheckItem::ok(host, format!("GET {path} answers {code}")),
            Err(_) if head.own_page => {
                CheckItem::fault(host, "none of its machines answers", format!("adt env:up {} {}", id.platform, id.name))
            }
            Err(reason) => {
                let machine = machines.first().copied().unwrap_or_default();
                let remedy = format!("adt env:ssh {} {} {machine}", id.platform, id.name);
                CheckItem::fault(host, format!("GET {path} {reason}"), remedy)
            }
        };
        vec![proxy, application.at(CheckStep::Application)]
    }
}

/// Whether a hosts file has a line for the name.
fn names(hosts: &str, name: &str) -> bool {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split_whitespace().skip(1)).any(|word| word.eq_ignore_ascii_case(name))
}

fn until(host: &str, der: &[u8]) -> CheckItem {
    let Ok((_, leaf)) = X509Certificate::from_der(der) else { return CheckItem::ok(host, "trusted") };
    let (end, day) = (leaf.validity().not_after.timestamp(), last_day(der));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if i64::try_from((now + SOON).as_secs()).is_ok_and(|soon| end < soon) {
        let remedy = "adt host:halt; adt host:up --detach; adt host:bind-proxy".to_owned();
        return CheckItem::notice(host, format!("trusted, but only until {day}"), Some(remedy));
    }
    CheckItem::ok(host, format!("trusted, until {day}"))
}
