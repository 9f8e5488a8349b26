//! `host:bind-proxy` and `host:unbind-proxy`: names and certificates of adt's sites become this host's own, or another
//! server's configuration serves them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::bind::{self, Certificate, Facts, Front, Home, Scope, Server};
use crate::config;
use crate::engine::Engine;
use crate::engine::at_once::join;
use crate::engine::events::Events;
use crate::engine::host::browsers::{CERTUTIL, untold};
use crate::exec::HostPath;
use crate::model::request::Bind;
use crate::model::response::Done;
use crate::model::{Domain, EnvironmentId, Failure, Kind, Response, Routes};
use crate::resolver::{self, System};
use crate::store::Lock;
use crate::{tls, trust};

impl From<bind::Error> for Failure {
    fn from(error: bind::Error) -> Self {
        let failure = Self::new(Kind::Program, "write another server's configuration").because(&error);
        let failure = failure.tail(error.tail().iter().cloned());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<resolver::Error> for Failure {
    fn from(error: resolver::Error) -> Self {
        let failure = Self::new(Kind::Host, "point this host's resolver at adt").because(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<trust::Error> for Failure {
    fn from(error: trust::Error) -> Self {
        let failure = Self::new(Kind::Host, "install adt's authority").because(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl Engine {
    pub(in crate::engine) fn bind_proxy(&self, bind: &Bind, events: &Events) -> Result<Response, Failure> {
        let _lock = self.lock_bound(events)?;
        let routes = self.routes(events)?;
        if let Some(id) = &bind.environment {
            self.environment(id)?;
        }
        if bind.with.is_empty() {
            return self.bind_own(&routes, events);
        }
        let servers = bind.with.iter().map(|word| server(word)).collect::<Result<Vec<_>, _>>()?;
        // None of them knows of the other, and thousands of files take each a while.
        let done = std::thread::scope(|scope| {
            let working: Vec<_> = servers.iter().map(|server| scope.spawn(|| self.bind_one(*server, bind, &routes))).collect();
            working.into_iter().map(join).collect::<Vec<_>>()
        });
        let (told, changed): (Vec<_>, Vec<_>) = done.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok(Response::Done(Done { summary: told.join("; "), changed: changed.contains(&true), ..Done::default() }))
    }

    /// What became of one server's files, and whether any changed.
    fn bind_one(&self, server: Server, bind: &Bind, routes: &Routes) -> Result<(String, bool), Failure> {
        let home = Home::debian(server);
        if let Some(folder) = &bind.output {
            let place = HostPath { path: folder, person: self.hands() };
            let files = self.with_facts(routes, |facts| Ok(bind::output(&home, facts, place)?))?;
            return Ok((format!("{server}: {} files in {}", files.len(), folder.display()), false));
        }
        let scope = bind.environment.clone().map_or(Scope::All, Scope::Add);
        let outcome = self.with_facts(routes, |facts| Ok(bind::apply(&home, facts, &scope)?))?;
        let count = outcome.written.len() + outcome.removed.len();
        let told = match count {
            0 => format!("{server}: nothing to change"),
            _ => format!("{server}: {count} files changed; they follow the environments from now on"),
        };
        Ok((told, count > 0))
    }

    /// One command at a time writes other servers' configuration.
    pub(in crate::engine) fn lock_bound(&self, events: &Events) -> Result<Lock, Failure> {
        self.lock("bind", "other servers' configuration", events)
    }

    /// What other servers' files are made from.
    pub(in crate::engine) fn with_facts<T>(
        &self,
        routes: &Routes,
        work: impl FnOnce(&Facts<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let front = self.front();
        let certificates = self.certificates(routes)?;
        // Of thousands of levels, each is asked for several times.
        let known = RefCell::new(HashMap::new());
        let certificate =
            |level: &str| known.borrow_mut().entry(level.to_owned()).or_insert_with(|| leaf(&certificates, level)).clone();
        work(&Facts {
            owner: self.bound_by(),
            routes,
            front: &front,
            certificate: &certificate,
            templates: None,
            now: self.serial(),
        })
    }

    /// adt's own servers serve; this host's resolver and trust lead to them.
    fn bind_own(&self, routes: &Routes, events: &Events) -> Result<Response, Failure> {
        let (ours, others): (Vec<_>, Vec<_>) = routes.domains().into_iter().partition(|domain| self.settings.may_have(domain));
        for domain in others {
            let remedy = gift(domain);
            events.warn(format!(
                "`{domain}` is on the internet, and this host finds it there although a platform has it: {remedy}"
            ));
        }
        self.refuse_bound_by_others(&ours)?;
        let wanted = resolver::Wanted {
            domains: ours.into_iter().cloned().collect(),
            address: (self.settings.listen.value, 53).into(),
            owner: self.store.install().to_owned(),
            store: self.store.folder.clone(),
        };
        let plan = resolver::plan(Path::new("/"), System::detect(Path::new("/")), &wanted)?;
        let resolver = resolver::apply(Path::new("/"), &self.store.folder, &plan)?;
        resolver.notices.iter().for_each(|notice| events.warn(notice.clone()));
        let trusted = self.trust(routes, events)?;
        let changed = !resolver.files.is_empty() || trusted;
        let summary = if changed {
            format!("{} asks adt for {}, and its certificates are trusted", plan.system, list(&wanted.domains))
        } else {
            format!("{} asks adt for {} already", plan.system, list(&wanted.domains))
        };
        let mut next = if changed { vec!["serve them: adt host:up --detach".to_owned()] } else { Vec::new() };
        if self.without_profile().is_some() {
            next.push("Firefox trusts nothing before it has started once; after that: adt host:bind-proxy".to_owned());
        }
        Ok(Response::Done(Done { summary, changed, next, ..Done::default() }))
    }

    /// A domain's names can lead to one store only: who was first keeps them.
    fn refuse_bound_by_others(&self, domains: &[&Domain]) -> Result<(), Failure> {
        let Ok(system) = trust::System::find() else { return Ok(()) };
        let owner = self.owner(&|_, _| false);
        for domain in domains {
            if let Some((path, store)) = system.of_another(owner, domain) {
                let named = store.as_ref().map_or_else(|| "another store".to_owned(), |store| format!("the store `{store}`"));
                let store = store.unwrap_or_else(|| "FOLDER".to_owned());
                return Err(Failure::new(Kind::Conflict, format!("lead this host's programs to `{domain}`"))
                    .cause(format!("the adt of {named} has this domain here: its authority is `{}`", path.display()))
                    .hint(format!("`adt --store {store} host:unbind-proxy` gives it free; or choose another `--domain` here"))
                    .hint(format!("if that store is gone: rm {} && update-ca-certificates", path.display())));
            }
        }
        Ok(())
    }

    /// The authorities of all domains, in the system's store and in the browsers of root and of the caller.
    fn trust(&self, routes: &Routes, events: &Events) -> Result<bool, Failure> {
        let mut installed = trust::Installed::open(&self.store.folder)?;
        let mut changed = false;
        let certificates = self.certificates(routes)?;
        let is_own = |domain: &Domain, pem: &str| self.has_key_of(domain, pem);
        let owner = self.owner(&is_own);
        let homes = self.homes_to_tell(events);
        for authority in certificates.authorities().into_iter().filter(|authority| self.settings.may_have(&authority.domain)) {
            for place in places(&authority.domain, &homes) {
                installed.add(&place)?;
                match (place.install(owner, &authority.pem), &place.home) {
                    (Ok(change), _) => changed |= change == trust::Change::Made,
                    // The system's store serves curl and most programs.
                    (Err(error), Some(home)) => events.warn(untold(home, "do not trust adt's pages", &error)),
                    (Err(error), None) => return Err(error.into()),
                }
            }
        }
        Ok(changed)
    }

    /// Takes the authorities away from wherever they were put, whoever did it and whatever has become of their platforms. The
    /// domains that somebody trusted.
    fn distrust(&self, routes: &Routes, events: &Events) -> Result<Vec<Domain>, Failure> {
        let mut installed = trust::Installed::open(&self.store.folder)?;
        let mut all = installed.places().to_vec();
        // An older adt kept no record.
        let homes = if CERTUTIL.state().is_ok() { self.homes() } else { Vec::new() };
        all.extend(routes.domains().into_iter().flat_map(|domain| places(domain, &homes)));
        let is_own = |domain: &Domain, pem: &str| self.has_key_of(domain, pem);
        let owner = self.owner(&is_own);
        let mut gone = Vec::new();
        for place in all {
            match (place.remove(owner), &place.home) {
                (Ok(change), _) => {
                    installed.forget(&place)?;
                    if change == trust::Change::Made && !gone.contains(&place.domain) {
                        gone.push(place.domain);
                    }
                }
                (Err(error), Some(home)) => events.warn(untold(home, "may trust adt's authority still", &error)),
                (Err(error), None) => return Err(error.into()),
            }
        }
        Ok(gone)
    }

    /// This installation, as those know it who trust its authorities.
    pub(in crate::engine) fn owner<'a>(&'a self, is_own: &'a dyn Fn(&Domain, &str) -> bool) -> trust::Owner<'a> {
        trust::Owner { install: self.store.install(), store: &self.store.folder, is_own }
    }

    pub(in crate::engine) fn has_key_of(&self, domain: &Domain, pem: &str) -> bool {
        tls::is_of_authority(&self.store.folder, domain, pem)
    }

    pub(in crate::engine) fn certificates(&self, routes: &Routes) -> Result<tls::Certificates, Failure> {
        tls::Certificates::open(&self.store.folder, routes, tls::system_clock())
            .map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))
    }

    pub(in crate::engine) fn unbind_proxy(
        &self,
        environment: Option<&EnvironmentId>,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_bound(events)?;
        let routes = self.routes(events)?;
        let mut undone = Vec::new();
        for server in Server::ALL {
            let home = Home::debian(server);
            match bind::owner(&home)? {
                None => continue,
                // Another installation's.
                Some(owner) if !owner.is_empty() && owner != self.store.install() => continue,
                Some(_) => {}
            }
            match environment {
                None => match bind::unbind(&home, self.bound_by()) {
                    Err(bind::Error::Taken { .. }) => continue,
                    done => drop(done?),
                },
                Some(id) => {
                    self.with_facts(&routes, |facts| Ok(bind::apply(&home, facts, &Scope::Remove(id.clone()))?))?;
                }
            }
            undone.push(server.to_string());
        }
        if environment.is_none() {
            let resolver = resolver::undo(Path::new("/"), &self.store.folder)?;
            resolver.notices.iter().for_each(|notice| events.warn(notice.clone()));
            if !resolver.files.is_empty() {
                undone.push("the resolver".to_owned());
            }
            undone.extend(self.distrust(&routes, events)?.iter().map(|domain| format!("the authority of {domain}")));
        }
        let changed = !undone.is_empty();
        let summary =
            if changed { format!("as it was before: {}", undone.join(", ")) } else { "nothing of adt's was there".to_owned() };
        Ok(Response::Done(Done { summary, changed, ..Done::default() }))
    }

    /// This installation, as other servers' configuration names it.
    fn bound_by(&self) -> bind::Owner<'_> {
        bind::Owner { install: self.store.install(), store: &self.store.folder }
    }

    pub(in crate::engine) fn front(&self) -> Front {
        Front { v4: self.settings.listen.value, v6: None, http: 80, https: 443, listen: Vec::new() }
    }

    pub(in crate::engine) fn serial(&self) -> u32 {
        u32::try_from(self.now()).unwrap_or(u32::MAX)
    }
}

/// Where the authority of a domain belongs: the system's store, and browsers in these homes.
fn places(domain: &Domain, homes: &[PathBuf]) -> Vec<trust::Place> {
    let homes = std::iter::once(None).chain(homes.iter().cloned().map(Some));
    homes.map(|home| trust::Place { domain: domain.clone(), home }).collect()
}

/// A level without one is served over http alone.
fn leaf(certificates: &tls::Certificates, level: &str) -> Option<Certificate> {
    certificates.files(level).ok().map(|(chain, key)| Certificate { chain, key })
}

fn server(word: &str) -> Result<Server, Failure> {
    word.parse().map_err(|error: String| Failure::new(Kind::Usage, "choose the servers").cause(error))
}

/// How a host's owner gives a domain to the platforms that have it.
pub(in crate::engine) fn gift(domain: &Domain) -> String {
    format!("if that is meant, write `domains = [\"{domain}\"]` to {} and run `adt host:bind-proxy`", config::host::FILE)
}

fn list(domains: &[Domain]) -> String {
    domains.iter().map(|domain| format!("`{domain}`")).collect::<Vec<_>>().join(", ")
}
