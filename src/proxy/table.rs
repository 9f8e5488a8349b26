//! Routes in the form that requests need, and what is remembered about backends.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::metrics::Metrics;
use crate::model::{Backend, Edge, EnvironmentRoute, PlatformRoute, Protocol, Routes, SiteRoute};
use crate::shares::{Account, Shares};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call.
pub fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).expect("half a billion years fit")
}

/// One state of all routes.
#[derive(Debug)]
pub struct Table {
    places: HashMap<Box<str>, Place>,
    /// By the names that the world knows, which are whole names: nothing is below them.
    world: HashMap<Box<str>, Arc<Site>>,
    /// Of all edges: whom a connection is from is told before anybody knows which name it is for.
    introducers: Vec<IpNet>,
    pub routes: Routes,
    pub addresses: HashSet<SocketAddr>,
}

/// What an exact name is. Numbers are positions in the routes.
#[derive(Debug, Clone)]
enum Place {
    Site(Arc<Site>),
    Environment(usize, usize),
    Platform(usize),
    Domain,
}

/// What a name leads to.
#[derive(Debug)]
pub enum Found<'a> {
    Site(&'a Arc<Site>),
    /// The apex of a level; pages live there.
    Environment(&'a PlatformRoute, &'a EnvironmentRoute),
    Platform(&'a PlatformRoute),
    Domain,
    /// Below the apex of a level, but nothing is there.
    NoSite(&'a PlatformRoute, &'a EnvironmentRoute),
    NoEnvironment(&'a PlatformRoute),
    NoPlatform,
    /// Not below any domain of ours.
    Foreign,
}

impl Found<'_> {
    /// Whether the machines of one environment may see it: environments can't reach each other, not by way of the proxy either.
    pub fn is_within(&self, gateway: Ipv4Addr) -> bool {
        match self {
            Self::Site(site) => site.gateway == gateway,
            Self::Environment(_, environment) | Self::NoSite(_, environment) => environment.gateway_v4 == gateway,
            Self::Platform(_) | Self::Domain | Self::NoEnvironment(_) | Self::NoPlatform | Self::Foreign => false,
        }
    }
}

/// A site with everything a request to it needs.
#[derive(Debug)]
pub struct Site {
    pub route: SiteRoute,
    /// `shop`, `1161`
    pub platform: String,
    pub environment: String,
    pub gateway: Ipv4Addr,
    pub up: bool,
    /// What the world has to keep to. Its names are the environment's.
    pub edge: Arc<Edge>,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub metrics: Arc<Metrics>,
    /// Of the environment's connections to its machines.
    pub backends: Arc<Account>,
    next: AtomicUsize,
    /// When a request came last.
    pub asked: AtomicU64,
}

/// A backend and what is known about it.
#[derive(Debug)]
pub struct Endpoint {
    pub backend: Backend,
    pub protocol: Protocol,
    /// What a client that stays with it is told to call it: the machine's own name is nobody's business in the world.
    pub alias: String,
    failures: AtomicU32,
    down_until: AtomicU64,
    /// Nothing accepts connections there: requests that still wait for it wait for nothing.
    pub gone: AtomicBool,
}

impl Endpoint {
    fn new(backend: Backend, protocol: Protocol, site: &str) -> Self {
        let (failures, down_until, gone) = Default::default();
        let digest = Sha256::digest(format!("{site} {}", backend.machine));
        let alias = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { backend, protocol, alias, failures, down_until, gone }
    }

    /// Out of the rotation, for one second after the first failure, up to ten after several.
    pub fn failed(&self, unreachable: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(4);
        self.down_until.store(now() + (1000 << failures).min(10_000), Ordering::Relaxed);
        self.gone.store(unreachable, Ordering::Relaxed);
    }

    pub fn worked(&self) {
        // Written only when it changes, so that good backends' state stays shared between the cores' caches.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.down_until.store(0, Ordering::Relaxed);
            self.gone.store(false, Ordering::Relaxed);
        }
    }

    pub fn is_marked(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
    }

    fn is_down(&self) -> bool {
        let until = self.down_until.load(Ordering::Relaxed);
        until != 0 && now() < until
    }
}

impl Site {
    /// `1161.shop.example.test`
    pub fn environment_host(&self) -> &str {
        self.route.host.split_once('.').map_or("", |(_, host)| host)
    }

    /// The next backend in turn that was not tried yet; one that is marked down only if no other is left.
    pub fn pick(&self, tried: &[Arc<Endpoint>], preferred: Option<&str>) -> Option<Arc<Endpoint>> {
        let fresh = |endpoint: &&Arc<Endpoint>| !tried.iter().any(|one| Arc::ptr_eq(one, endpoint));
        if let Some(name) = preferred {
            let mut wanted = self.endpoints.iter().filter(|endpoint| endpoint.alias == name);
            if let Some(endpoint) = wanted.find(|endpoint| fresh(endpoint) && !endpoint.is_down()) {
                return Some(endpoint.clone());
            }
        }
        let start = if self.endpoints.len() > 1 { self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len() } else { 0 };
        let turn = || self.endpoints[start..].iter().chain(&self.endpoints[..start]).filter(fresh);
        turn().find(|endpoint| !endpoint.is_down()).or_else(|| turn().next()).cloned()
    }

    pub fn touch(&self) {
        let (now, asked) = (now(), self.asked.load(Ordering::Relaxed));
        if asked == 0 || now.saturating_sub(asked) > 1000 {
            // 0 says never, also in the first millisecond.
            self.asked.store(now.max(1), Ordering::Relaxed);
        }
    }
}

impl Table {
    /// What was learned and counted under the table before stays with the sites and backends that stay.
    pub fn new(routes: Routes, before: Option<&Self>, backends: &Arc<Shares>) -> Self {
        let mut places = HashMap::new();
        for domain in routes.domains() {
            places.insert(domain.as_str().into(), Place::Domain);
        }
        let (mut world, mut introducers, mut addresses) = (HashMap::new(), Vec::new(), HashSet::new());
        for (p, platform) in routes.platforms.iter().enumerate() {
            places.insert(platform.host().into(), Place::Platform(p));
            for (e, environment) in platform.environments.iter().enumerate() {
                places.insert(environment.host().into(), Place::Environment(p, e));
                let backends = backends.environment(environment.gateway_v4);
                let edge = Arc::new(environment.edge.clone());
                introducers.extend(&edge.proxy_protocol);
                for route in &environment.sites {
                    let before = before.and_then(|table| table.site(&route.host));
                    let site = site(environment, route, before, (backends.clone(), edge.clone()));
                    addresses.extend(site.endpoints.iter().map(|endpoint| endpoint.backend.address));
                    let site = Arc::new(site);
                    for name in environment.edge.names.get(&route.name).into_iter().flatten() {
                        world.insert(name.as_str().into(), site.clone());
                    }
                    places.insert(route.host.as_str().into(), Place::Site(site));
                }
            }
        }
        Self { places, world, introducers, routes, addresses }
    }

    fn site(&self, host: &str) -> Option<&Arc<Site>> {
        match self.places.get(host) {
            Some(Place::Site(site)) => Some(site),
            _ => None,
        }
    }

    pub fn sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.places.values().filter_map(|place| match place {
            Place::Site(site) => Some(site),
            Place::Environment(..) | Place::Platform(_) | Place::Domain => None,
        })
    }

    /// What the world means by a name.
    pub fn in_world(&self, name: &str) -> Option<&Arc<Site>> {
        self.world.get(name)
    }

    /// Whether connections from here begin with a header of the PROXY protocol.
    pub fn is_introduced_by(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.introducers.iter().any(|network| network.contains(&address))
    }

    /// Names below a site are the site; other names belong to the nearest level above.
    pub fn find(&self, name: &str) -> Found<'_> {
        if let Some(place) = self.places.get(name) {
            return match place {
                Place::Site(site) => Found::Site(site),
                Place::Environment(p, e) => {
                    let platform = &self.routes.platforms[*p];
                    Found::Environment(platform, &platform.environments[*e])
                }
                Place::Platform(p) => Found::Platform(&self.routes.platforms[*p]),
                Place::Domain => Found::Domain,
            };
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            rest = parent;
            match self.places.get(rest) {
                None => {}
                Some(Place::Site(site)) => return Found::Site(site),
                Some(Place::Environment(p, e)) => {
                    let platform = &self.routes.platforms[*p];
                    return Found::NoSite(platform, &platform.environments[*e]);
                }
                Some(Place::Platform(p)) => return Found::NoEnvironment(&self.routes.platforms[*p]),
                Some(Place::Domain) => return Found::NoPlatform,
            }
        }
        Found::Foreign
    }
}

fn site(
    environment: &EnvironmentRoute,
    route: &SiteRoute,
    before: Option<&Arc<Site>>,
    (backends, edge): (Arc<Account>, Arc<Edge>),
) -> Site {
    let endpoint = |backend: &Backend| {
        let mut known = before.into_iter().flat_map(|site| &site.endpoints);
        let same = known.find(|endpoint| &endpoint.backend == backend && endpoint.protocol == route.protocol);
        same.cloned().unwrap_or_else(|| Arc::new(Endpoint::new(backend.clone(), route.protocol, &route.host)))
    };
    Site {
        platform: environment.id.platform.to_string(),
        environment: environment.id.name.to_string(),
        gateway: environment.gateway_v4,
        up: environment.up,
        edge,
        endpoints: route.backends.iter().map(endpoint).collect(),
        metrics: before.map_or_else(Arc::default, |site| site.metrics.clone()),
        backends,
        next: AtomicUsize::new(0),
        asked: AtomicU64::new(before.map_or(0, |site| site.asked.load(Ordering::Relaxed))),
        route: route.clone(),
    }
}
