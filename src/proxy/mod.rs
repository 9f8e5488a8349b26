//! Everybody's door to the sites: `https://www.1161.shop.example.test` → port 80 of `web1` or `web2`.
//!
//! ```text
//! Server ── one thread per core, each with its own sockets (SO_REUSEPORT), runtime and pool ──┐
//!   worker      accepts, sweeps once a second, drains                                         │
//!   world_door  listens for everybody, at every address; what is answered there is `world`'s: public names and nothing else
//!   gateways    listens for machines, where each environment's own sites are all there is     │
//!   introduction  whom a load balancer in front speaks for (PROXY protocol)
//!   connection  TLS, HTTP/1.1 or HTTP/2                                                       │
//!   sweep       how long a client may be silent                                               │
//!   handle      host → site, homepage or a page that says why not                             │
//!   forward     picks a backend, tries another where that is safe                             │
//!   upload      what a backend is sent of a request                                           │
//!   download    what a client is sent of an answer                                            │
//!   tunnel      WebSocket and other upgrades                                                  │
//!   bodyless    requests without a body, over connections of our own; hyper has the others
//!   pool        a thread's own connections to backends                                        │
//!   log         a line for each request, gathered per thread and written once a second        │
//!   health      which backends are worth asking                                               │
//!   places      what clients and environments share, and who has how much of it               │
//!   pace        how slowly a client may send a body
//!   rate        how often a client may do something
//!   password    who may see a site of the world                                               ▼
//!   table       routes in the form that requests need; replaced as a whole, never changed in place
//! ```
//! What always holds:
//! - A request takes no lock that another thread may hold: the table is cached per thread behind a version number, pools and
//!   connections belong to one thread, counters are atomic, and a connection keeps the accounts that its requests are counted in.
//!   A password that its thread does not know yet is the exception, and takes far longer than any lock.
//! - Nobody waits for a place: who has taken its share is refused at once, and the others find theirs.
//! - No body is collected, except for a small one of an idempotent request that may have to be sent again.
//! - A new table never touches a connection: requests that run keep the site they began with.
//!
//! Must never know where routes come from, how certificates are made, or that machines are containers.

mod bodyless;
mod connection;
mod door;
mod download;
mod failure;
mod forward;
mod gateways;
mod gather;
mod handle;
mod headers;
mod health;
mod host;
mod introduction;
mod log;
mod metrics;
mod next;
mod pace;
mod pages;
mod password;
mod peer;
mod places;
mod pool;
mod rate;
mod shared;
mod sweep;
mod table;
mod tunnel;
mod upload;
mod worker;
mod world;
mod world_door;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustls::server::ResolvesServerCert;

use crate::model::Routes;
use crate::systemd::Listeners;
use crate::tls;
pub use gateways::At;
use gateways::Gateways;
pub use log::Log;
pub use metrics::MoreMetrics;
use shared::{Acceptors, Shared};
use world_door::WorldDoor;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}: something else does already")]
    InUse { address: SocketAddr },
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("start the proxy")]
    Start(#[source] std::io::Error),
    #[error("prepare TLS")]
    Tls(#[source] rustls::Error),
}

impl Error {
    /// The address that could not be had.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::InUse { address } | Self::Listen { address, .. } => Some(*address),
            Self::Start(_) | Self::Tls(_) => None,
        }
    }
}

/// The ports that clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub http: u16,
    pub https: u16,
}

impl Ports {
    fn of(self, secure: bool) -> u16 {
        if secure { self.https } else { self.http }
    }
}

/// Where to listen and how patient to be.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    /// What clients see, where the addresses above are only reached by a detour.
    pub ports: Option<Ports>,
    /// Listen at each environment's gateway too, at these ports, for its machines.
    pub gateways: Option<Ports>,
    /// The door to the world, which is closed until [`Server::open_to_world`].
    pub world: Option<World>,
    /// Where each request leaves a line.
    pub log: Option<Log>,
    /// What `/metrics` tells besides.
    pub metrics: Option<MoreMetrics>,
    /// Clients whose `X-Forwarded-…` is believed, e.g. a load balancer in front.
    pub trusted: Vec<IpNet>,
    /// As many as there are cores, at most four: more gains nothing on a developer's machine.
    pub threads: Option<usize>,
    pub limits: Limits,
    /// What was listened at before, and what is to outlive this process.
    pub listeners: Arc<Listeners>,
}

/// What the door to the world needs.
#[derive(Debug, Clone)]
pub struct World {
    pub ports: Ports,
    /// Of public names only.
    pub certificates: Arc<dyn ResolvesServerCert>,
    /// What authorities look for at these names.
    pub challenges: Arc<tls::Challenges>,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Of all clients. One alone has at most half of these, here and below.
    pub connections: usize,
    /// That are not over.
    pub requests: usize,
    /// Connections to machines.
    pub backends: usize,
    /// Of a request's head; hyper itself allows 100 headers.
    pub head_bytes: usize,
    /// Between connecting, or the end of an answer, and the end of the next head.
    pub head: Duration,
    /// Without a byte in either direction while a request or a tunnel is open. Long, because somebody may sit in a debugger.
    pub silence: Duration,
    /// For a body of a declared length that does not come, and comes at less than a hundred bytes a second.
    pub body: Duration,
    /// For a client that takes nothing of what is ready for it.
    pub unread: Duration,
    pub connect: Duration,
    /// Until a backend's headers.
    pub response: Duration,
    /// A body up to this size may be kept to be sent again.
    pub replay_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            requests: 16_384,
            backends: 16_384,
            head_bytes: 64 << 10,
            head: Duration::from_secs(60),
            silence: Duration::from_secs(3600),
            body: Duration::from_secs(60),
            unread: Duration::from_secs(600),
            connect: Duration::from_secs(2),
            response: Duration::from_secs(600),
            replay_bytes: 64 << 10,
        }
    }
}

/// A running proxy. Dropping it stops it at once.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    gateways: Option<Gateways>,
    world: Option<WorldDoor>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
}

impl Server {
    /// Binds every address before anything is served.
    pub fn start(config: Config, routes: Routes, certificates: Arc<dyn ResolvesServerCert>) -> Result<Self, Error> {
        let count = config.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(4))).max(1);
        let acceptor = |certificates| tls::acceptor(certificates, &[b"h2", b"http/1.1"]).map_err(Error::Tls);
        let world = config.world.as_ref().map(|world| acceptor(world.certificates.clone())).transpose()?;
        let tls = Acceptors { host: acceptor(certificates)?, world };
        let listeners = config.listeners.clone();
        let http = worker::reserve(&listeners, &config.http)?;
        let https = worker::reserve(&listeners, &config.https)?;
        let https_port = config.ports.map(|ports| ports.https).or(https.first().map(SocketAddr::port));
        let (gateways, world) = (config.gateways, config.world.as_ref().map(|world| world.ports));
        let shared = Arc::new(Shared::new(config, routes.clone(), tls, https_port));
        let mut sockets = Vec::new();
        for index in 0..count {
            sockets.push(worker::Sockets::bind(&listeners, &http, &https, count - index)?);
        }
        let mut server = Self { shared, threads: Vec::new(), gateways: None, world: None, http, https };
        let mut runtimes = Vec::new();
        for (index, sockets) in sockets.into_iter().enumerate() {
            let (thread, runtime) = worker::spawn(index, server.shared.clone(), sockets)?;
            server.threads.push(thread);
            runtimes.push(runtime);
        }
        server.world = world.map(|ports| WorldDoor::new(server.shared.clone(), ports, runtimes.clone()));
        if let Some(ports) = gateways {
            let gateways = Gateways::new(server.shared.clone(), ports, runtimes);
            // What can't be listened at yet is tried again by `gateways`.
            gateways.follow(gateways_of(&routes));
            server.gateways = Some(gateways);
        }
        Ok(server)
    }

    /// Where it listens; tells the port that port 0 became.
    pub fn http(&self) -> &[SocketAddr] {
        &self.http
    }

    pub fn https(&self) -> &[SocketAddr] {
        &self.https
    }

    /// New requests use the new routes from now on; those that run, and every connection, stay. Returns the gateways that
    /// can't be listened at.
    pub fn update(&self, routes: Routes) -> Vec<Error> {
        let wanted = gateways_of(&routes);
        self.shared.replace(routes);
        self.gateways.as_ref().map(|gateways| gateways.follow(wanted)).unwrap_or_default()
    }

    /// Tries the gateways that aren't listened at, and returns those where it still fails.
    pub fn open_gateways(&self, at: At) -> Vec<Error> {
        self.gateways.as_ref().map(|gateways| gateways.open_missing(at)).unwrap_or_default()
    }

    /// Where gateways are listened at, each with the port that machines ask for.
    pub fn gateways(&self) -> Vec<(SocketAddr, u16)> {
        self.gateways.as_ref().map(Gateways::addresses).unwrap_or_default()
    }

    /// Opens the door to the world.
    pub fn open_to_world(&self) -> Result<(), Error> {
        self.world.as_ref().map_or(Ok(()), WorldDoor::open_all)
    }

    pub fn close_to_world(&self) {
        self.world.iter().for_each(WorldDoor::close);
    }

    pub fn is_open_to_world(&self) -> bool {
        self.world.as_ref().is_some_and(WorldDoor::is_open)
    }

    /// Whether the door was open in a process before this one, so that its ports are still ours.
    pub fn was_open_to_world(&self) -> bool {
        self.world.as_ref().is_some_and(WorldDoor::was_open)
    }

    /// Open client connections, tunnels included.
    pub fn connections(&self) -> usize {
        self.shared.places.connections.used()
    }

    /// In Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.shared.metrics(&self.shared.table())
    }

    /// Takes no new connection, lets those that are busy finish until the deadline. Says whether all did.
    pub fn stop(mut self, deadline: Duration) -> bool {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.shared.stop(until);
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until + GRACE {
            std::thread::sleep(Duration::from_millis(1));
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to drain, and one that waits for a disk ends with the process.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        self.connections() == 0
    }
}

/// So long after the deadline a worker may be busy with what it can't be called away from.
const GRACE: Duration = Duration::from_secs(2);

fn gateways_of(routes: &Routes) -> BTreeSet<Ipv4Addr> {
    routes.environments().map(|environment| environment.gateway_v4).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("http", &self.http).field("https", &self.https).finish_non_exhaustive()
    }
}
