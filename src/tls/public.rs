//! Certificates for the names that the world knows: what a team brought, else what an authority of the world gave, else what adt's
//! own authority signs, so that there is always one.
//!
//! Only these names have a certificate here. Whoever asks for another, or for none, hears of no name at all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Authority, Clock, Given, Own, Result, leaf, make_folder};
use crate::model::{Domain, Edge, EnvironmentRoute, Routes};

/// So soon a certificate is shown that somebody put there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is shown at the door to the world.
pub struct Public {
    folder: PathBuf,
    clock: Clock,
    shown: RwLock<HashMap<Box<str>, Arc<CertifiedKey>>>,
    looked: Mutex<SystemTime>,
}

impl std::fmt::Debug for Public {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Public").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Public {
    pub fn open(store: &Path, routes: &Routes, clock: Clock) -> Result<Self> {
        let folder = store.join("tls");
        make_folder(&folder)?;
        let new = Self { folder, looked: Mutex::new(clock()), clock, shown: RwLock::default() };
        new.update(routes);
        Ok(new)
    }

    /// Chooses anew for each name. One that can have none is told of and shown none; the others are not its hostages.
    pub fn update(&self, routes: &Routes) {
        let now = (self.clock)();
        let mut shown = HashMap::new();
        for environment in routes.environments() {
            for (_, name) in environment.world() {
                match self.choose(environment, name, now) {
                    Ok(certified) => drop(shown.insert(name.as_str().into(), certified)),
                    Err(error) => tracing::error!(%name, "could not {error}"),
                }
            }
        }
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = now;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// Looks again now and then: certificates are put there by people, and end.
    pub fn refresh(&self, routes: &Routes) {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if (self.clock)().duration_since(looked).map_or(true, |since| since > LOOK_AGAIN) {
            self.update(routes);
        }
    }

    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn choose(&self, environment: &EnvironmentRoute, name: &Domain, now: SystemTime) -> Result<Arc<CertifiedKey>> {
        if let Some(own) = brought(&self.folder, name, now) {
            return Ok(own.certified);
        }
        if environment.edge.acme.is_some()
            && let Some(given) = Given::below(&self.folder, &environment.id).open(now)
            && given.covers(name.as_str())
        {
            return Ok(given.certified);
        }
        let authority = Authority::open(&self.folder, environment.edge.authority_of(name), now)?;
        Ok(leaf::open(&self.folder, name.as_str(), &authority, now)?.certified)
    }
}

impl ResolvesServerCert for Public {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(&hello.server_name()?.to_ascii_lowercase())
    }
}

/// What a team brought for a name, or for a domain above it.
fn brought(folder: &Path, name: &Domain, now: SystemTime) -> Option<Own> {
    let mut domains = vec![name.clone()];
    while let Some((_, above)) = domains.last().and_then(|last| last.as_str().split_once('.')) {
        let Ok(above) = Domain::new(above) else { break };
        domains.push(above);
    }
    let open = |domain: &Domain| Own::open(folder, domain, now).inspect_err(|error| tracing::error!("could not use it: {error}"));
    domains.iter().filter_map(|domain| open(domain).ok().flatten()).find(|own| own.covers(name.as_str()))
}

/// Whether a team brought a certificate for a name.
pub fn is_brought(store: &Path, name: &Domain) -> bool {
    brought(&store.join("tls"), name, SystemTime::now()).is_some()
}

/// The certificates, in PEM, of the authorities of this store that sign for an edge's names. One that is missing is made: whoever
/// asks may be quicker than who serves these names.
pub fn authorities_of(store: &Path, edge: &Edge) -> Vec<String> {
    let domains: std::collections::BTreeSet<_> = edge.all().map(|(_, name)| edge.authority_of(name)).collect();
    let open = |domain| Authority::open(&store.join("tls"), domain, SystemTime::now());
    domains.into_iter().filter_map(|domain| Some(open(domain).ok()?.pem)).collect()
}
