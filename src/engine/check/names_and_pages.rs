//! The part of `host:check` about names and pages: who serves them, who asks, and who trusts.

use std::net::{IpAddr, SocketAddrV4};
use std::path::Path;

use crate::bind::{self, Home, Server};
use crate::engine::Engine;
use crate::engine::environment::routes;
use crate::engine::host::serving::{Held, Serving, held, make_way};
use crate::model::response::CheckItem;
use crate::model::{Domain, Failure, Routes};
use crate::network::detour;
use crate::resolver::{self, System, Verdict};
use crate::trust;

impl Engine {
    pub(in crate::engine) fn check_entrance(&self) -> Result<Vec<CheckItem>, Failure> {
        let (routes, _) = routes::routes(&self.store, &self.settings.domain.value)?;
        let needed = routes.environments().any(|environment| environment.up && !environment.sites.is_empty());
        let mut items = vec![self.check_server()];
        items.extend(self.check_ports());
        for domain in routes.domains() {
            if !self.settings.may_have(domain) {
                let seen = "on the internet, and this host finds it there although a platform has it".to_owned();
                items.push(CheckItem::notice(
                    format!("domain {domain}"),
                    seen,
                    Some(crate::engine::host::bind_proxy::gift(domain)),
                ));
                continue;
            }
            let server = self.check_name_server(domain);
            // Whom the resolver asks shows only while somebody answers.
            let resolver = server.remedy.is_none().then(|| self.check_resolver(&routes, domain));
            items.push(server);
            items.extend(resolver);
            items.push(self.check_trust(domain));
            items.extend(self.check_every_browser(domain));
        }
        items.extend(self.check_firefox());
        items.extend(self.check_bound(&routes));
        Ok(if needed { items } else { items.into_iter().map(unneeded).collect() })
    }

    fn check_server(&self) -> CheckItem {
        let subject = "names and pages";
        match (self.pages_served(), self.names_served()) {
            (Serving::Own(Some(own)), _) => {
                CheckItem::ok(subject, format!("process {}, for {}", own.pid, elapsed(self.now() - own.since)))
            }
            (Serving::Other(pages, _), Serving::Other(names, _)) => {
                CheckItem::ok(subject, format!("served by {pages} and {names}"))
            }
            (Serving::Other(pages, _), Serving::Own(_)) => {
                let remedy = "adt host:up --detach".to_owned();
                CheckItem::notice(subject, format!("pages are served by {pages}, names by nobody"), Some(remedy))
            }
            (Serving::Own(None), _) => CheckItem::fault(subject, "served by nobody", "adt host:up --detach"),
        }
    }

    fn check_ports(&self) -> Vec<CheckItem> {
        let listen = self.settings.listen.value;
        let (pages, names) = (self.pages_served(), self.names_served());
        let check = |(port, serving): (u16, &Serving)| {
            let subject = format!("port {listen}:{port}");
            match held(serving, listen, port) {
                Held::Right(who) => Some(CheckItem::ok(subject, who)),
                Held::Foreign(who) if self.is_led_around(serving, port) => {
                    Some(CheckItem::ok(subject, format!("adt, led around {}", who.join(", "))))
                }
                Held::Foreign(who) => {
                    Some(CheckItem::fault(subject, format!("taken by {}", who.join(", ")), make_way(serving, listen, port)))
                }
                // Free, for whoever shall listen; that nobody does is said of the server.
                Held::Nobody => None,
            }
        };
        [(53, &names), (80, &pages), (443, &pages)].into_iter().filter_map(check).collect()
    }

    /// Whether adt's own process gets what comes for a port that somebody else holds at every address.
    fn is_led_around(&self, serving: &Serving, port: u16) -> bool {
        let listen = self.settings.listen.value;
        let led = detour::led(self.store.install(), SocketAddrV4::new(listen, port));
        // A firewall that can't be read is no proof.
        led.ok().flatten().is_some_and(|port| matches!(held(serving, listen, port), Held::Right(_)))
    }

    /// Asked itself, past the host's resolver.
    fn check_name_server(&self, domain: &Domain) -> CheckItem {
        let (listen, serving) = (self.settings.listen.value, self.names_served());
        let server = serving.name_server(listen);
        let subject = format!("name server for {domain}");
        match resolver::ask(server, domain.as_str()) {
            Ok(known) if known.contains(&listen) => CheckItem::ok(subject, format!("{server} answers")),
            Ok(_) => CheckItem::fault(subject, format!("{server} does not know it"), make_way(&serving, listen, 53)),
            Err(error) => CheckItem::fault(subject, format!("{server} does not answer: {}", error.kind()), serving.start()),
        }
    }

    /// Asks for the domain as every program does.
    fn check_resolver(&self, routes: &Routes, domain: &Domain) -> CheckItem {
        let system = System::detect(Path::new("/"));
        let subject = format!("resolver for {domain}");
        let own = routes.environments().find(|environment| &environment.domain == domain);
        let name = own.and_then(|environment| environment.sites.first()).map_or(domain.as_str(), |site| &site.host);
        match resolver::check(name, IpAddr::V4(self.settings.listen.value)) {
            Verdict::Works => CheckItem::ok(subject, format!("{system} asks adt's name server")),
            Verdict::Fails(found) => {
                let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
                CheckItem::fault(subject, format!("{system} finds {found} for {name}"), self.names_served().ask())
            }
        }
    }

    fn check_trust(&self, domain: &Domain) -> CheckItem {
        let subject = format!("authority of {domain}");
        if let Err(error) = trust::System::find() {
            return CheckItem::fault(subject, error.to_string(), "adt host:bootstrap");
        }
        if self.is_trusted(domain) {
            return CheckItem::ok(subject, format!("trusted by this host, for names of {domain} only"));
        }
        let seen = if self.authority(domain).is_some() { "not trusted by this host" } else { "not made yet" };
        CheckItem::fault(subject, seen, "adt host:bind-proxy")
    }

    /// Files that other servers read, against what they would be now.
    fn check_bound(&self, routes: &Routes) -> Vec<CheckItem> {
        let check = |server: Server| {
            let home = Home::debian(server);
            let again = format!("adt host:bind-proxy --with {server}");
            let subject = format!("files of {server}");
            match bind::owner(&home) {
                Ok(None) => None,
                Ok(Some(owner)) if !owner.is_empty() && owner != self.store.install() => None,
                Ok(Some(_)) => Some(match self.outdated(&home, routes) {
                    Ok(files) if files.is_empty() => CheckItem::ok(subject, "as the environments are"),
                    Ok(files) => CheckItem::fault(subject, format!("out of date: {}", files.join(", ")), again),
                    Err(failure) => CheckItem::fault(subject, failure.to_string(), again),
                }),
                Err(error) => Some(CheckItem::fault(subject, error.to_string(), "adt host:unbind-proxy")),
            }
        };
        Server::ALL.into_iter().filter_map(check).collect()
    }

    fn outdated(&self, home: &Home, routes: &Routes) -> Result<Vec<String>, Failure> {
        self.with_facts(routes, |facts| Ok(bind::outdated(home, facts)?))
    }
}

/// While no environment needs names, that they are missing is nobody's fault.
fn unneeded(item: CheckItem) -> CheckItem {
    match item.remedy {
        Some(_) => CheckItem::notice(item.subject, item.seen, item.remedy),
        None => item,
    }
}

fn elapsed(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
