//! Picks the certificate for a handshake.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::leaf::{self, Leaf};
use super::{Authority, Clock, Own, Result, make_folder, seconds};
use crate::model::{Domain, Routes};

/// All certificates of a store. Cheap to ask in a handshake: a leaf that is there costs one shared lock.
pub struct Certificates {
    folder: PathBuf,
    clock: Clock,
    known: RwLock<Known>,
    leaves: RwLock<HashMap<String, Arc<Leaf>>>,
    /// Held while a leaf is made, so that a hundred first handshakes make one.
    making: Mutex<()>,
}

/// What the routes say, in the form that a handshake asks for.
#[derive(Default)]
struct Known {
    authorities: Vec<Arc<Authority>>,
    own: Vec<(Domain, Own)>,
    /// Names that have names below them.
    levels: HashSet<String>,
    default: String,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Opens `<store>/tls`, making the authorities of the routes' domains.
    pub fn open(store: &Path, routes: &Routes, clock: Clock) -> Result<Self> {
        let folder = store.join("tls");
        make_folder(&folder)?;
        let new = Self { folder, clock, known: RwLock::default(), leaves: RwLock::default(), making: Mutex::default() };
        new.update(routes)?;
        Ok(new)
    }

    /// Takes over new routes and looks again at the certificates that people brought. Nothing changes on an error.
    pub fn update(&self, routes: &Routes) -> Result<()> {
        let now = (self.clock)();
        let mut next = Known { default: routes.domain.to_string(), levels: levels(routes), ..Known::default() };
        for domain in routes.domains() {
            let known = self.authorities().into_iter().find(|authority| &authority.domain == domain);
            let authority = known.map_or_else(|| Authority::open(&self.folder, domain, now).map(Arc::new), Ok)?;
            next.authorities.push(authority);
            if let Some(own) = Own::open(&self.folder, domain, now)? {
                next.own.push((domain.clone(), own));
            }
        }
        let mut leaves = self.leaves.write().unwrap_or_else(PoisonError::into_inner);
        leaves.retain(|level, _| next.levels.contains(level));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// The authority of one domain in `<store>/tls`, made where there is none yet.
    pub fn authority(store: &Path, domain: &Domain, now: SystemTime) -> Result<Authority> {
        let folder = store.join("tls");
        make_folder(&folder)?;
        Authority::open(&folder, domain, now)
    }

    /// What has to be trusted, one for each domain.
    pub fn authorities(&self) -> Vec<Arc<Authority>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).authorities.clone()
    }

    /// The certificate for a name that a client asks for.
    pub fn certificate(&self, name: Option<&str>) -> Result<Arc<CertifiedKey>> {
        let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let (level, authority) = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = name.as_deref().and_then(|name| known.own.iter().find(|(_, own)| own.covers(name))) {
                return Ok(own.1.certified.clone());
            }
            let level = known.level(name.as_deref()).to_owned();
            let authority = known.authority(&level).clone();
            (level, authority)
        };
        let now = (self.clock)();
        if let Some(certified) = self.cached(&level, seconds(now)) {
            return Ok(certified);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(certified) = self.cached(&level, seconds(now)) {
            return Ok(certified);
        }
        let leaf = Arc::new(leaf::open(&self.folder, &level, &authority, now)?);
        let certified = leaf.certified.clone();
        self.leaves.write().unwrap_or_else(PoisonError::into_inner).insert(level, leaf);
        Ok(certified)
    }

    /// The files with the certificate and with the key for `level` and every name one label below it, for servers that read
    /// files. Both may be the same. Thousands are asked for at once, so one that is there is not verified as for a handshake.
    pub fn files(&self, level: &str) -> Result<(PathBuf, PathBuf)> {
        let below = format!("any.{level}");
        let authority = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((domain, _)) = known.own.iter().find(|(_, own)| own.covers(&below)) {
                return Ok(Own::files(&self.folder, domain));
            }
            known.authority(level).clone()
        };
        let file = leaf::path(&self.folder, level);
        if !leaf::is_good(&file, &authority, (self.clock)())? {
            self.certificate(Some(&below))?;
        }
        Ok((file.clone(), file))
    }

    fn cached(&self, level: &str, now: i64) -> Option<Arc<CertifiedKey>> {
        let leaves = self.leaves.read().unwrap_or_else(PoisonError::into_inner);
        leaves.get(level).filter(|leaf| now < leaf.renew_at).map(|leaf| leaf.certified.clone())
    }
}

impl Known {
    /// The level whose wildcard covers the name; else the domain that the name would belong to.
    fn level<'a>(&'a self, name: Option<&'a str>) -> &'a str {
        let Some(name) = name else { return &self.default };
        if let Some((_, parent)) = name.split_once('.')
            && self.levels.contains(parent)
        {
            return parent;
        }
        if self.levels.contains(name) {
            return name;
        }
        let domains = self.authorities.iter().map(|authority| authority.domain.as_str());
        domains.filter(|domain| below(name, domain)).max_by_key(|domain| domain.len()).unwrap_or(&self.default)
    }

    fn authority(&self, level: &str) -> &Arc<Authority> {
        let fitting = self.authorities.iter().filter(|authority| below(level, authority.domain.as_str()));
        fitting.max_by_key(|authority| authority.domain.as_str().len()).expect("levels come from domains with authorities")
    }
}

fn below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn levels(routes: &Routes) -> HashSet<String> {
    let mut levels: HashSet<_> = routes.domains().into_iter().map(ToString::to_string).collect();
    levels.extend(routes.platforms.iter().map(|platform| platform.host()));
    for environment in routes.environments() {
        levels.insert(environment.host());
        levels.extend(environment.sites.iter().map(|site| site.host.clone()));
    }
    levels
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        self.certificate(name)
            .inspect_err(|error| {
                let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(name, cause, "could not {error}");
            })
            .ok()
    }
}
