//! Everybody's door to the sites: `https://www.1161.shop.example.test` → port 80 of `web1` or `web2`.
//!
//! ```text
//! Server ── one thread per core, each with its own sockets (SO_REUSEPORT), runtime and pool ──┐
//!   worker      accepts, sweeps once a second, drains                                         │
//!   connection  TLS, HTTP/1.1 or HTTP/2, how long a client may be silent                      │
//!   handle      host → site, homepage or a page that says why not                             │
//!   forward     picks a backend, tries another where that is safe, streams the answer         │
//!   tunnel      WebSocket and other upgrades                                                  │
//!   pool        a thread's own connections to backends                                        │
//!   health      which backends are worth asking                                               ▼
//!   table       routes in the form that requests need; replaced as a whole, never changed in place
//! ```
//! What always holds:
//! - A request takes no lock that another thread may hold: the table is cached per thread behind a version number, pools and
//!   connections belong to one thread, counters are atomic.
//! - No body is collected, except for a small one of an idempotent request that may have to be sent again.
//! - A new table never touches a connection: requests that run keep the site they began with.
//!
//! Must never know where routes come from, how certificates are made, or that machines are containers.

mod body;
mod connection;
mod forward;
mod handle;
mod headers;
mod health;
mod host;
mod metrics;
mod pages;
mod pool;
mod table;
mod tunnel;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustls::server::ResolvesServerCert;

use crate::model::Routes;
use table::Table;
use worker::Shared;

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

/// Where to listen and how patient to be.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    /// Clients whose `X-Forwarded-…` is believed, e.g. a load balancer in front.
    pub trusted: Vec<IpNet>,
    /// As many as there are cores, at most four: more gains nothing on a developer's machine.
    pub threads: Option<usize>,
    pub limits: Limits,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// More clients than this wait in the kernel's queue.
    pub connections: usize,
    /// Of a request's head; hyper itself allows 100 headers.
    pub head_bytes: usize,
    /// Between connecting, or the end of an answer, and the end of the next head.
    pub head: Duration,
    /// Without a byte in either direction while a request or a tunnel is open. Long, because somebody may sit in a debugger.
    pub silence: Duration,
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
            head_bytes: 64 << 10,
            head: Duration::from_secs(60),
            silence: Duration::from_secs(3600),
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
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
}

impl Server {
    /// Binds every address before anything is served.
    pub fn start(config: Config, routes: Routes, certificates: Arc<dyn ResolvesServerCert>) -> Result<Self, Error> {
        raise_descriptors();
        let count = config.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(4))).max(1);
        let tls = connection::tls(certificates)?;
        let http = worker::reserve(&config.http)?;
        let https = worker::reserve(&config.https)?;
        let shared = Arc::new(Shared::new(config, Table::new(routes, None), tls, https.first().map(SocketAddr::port)));
        let mut sockets = Vec::new();
        for _ in 0..count {
            sockets.push(worker::Sockets::bind(&http, &https)?);
        }
        let mut server = Self { shared, threads: Vec::new(), http, https };
        for (index, sockets) in sockets.into_iter().enumerate() {
            let shared = server.shared.clone();
            let thread = worker::spawn(index, shared, sockets)?;
            server.threads.push(thread);
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

    /// New requests use the new routes from now on; those that run, and every connection, stay.
    pub fn update(&self, routes: Routes) {
        self.shared.replace(routes);
    }

    /// Open client connections, tunnels included.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// In Prometheus' text format.
    pub fn metrics(&self) -> String {
        metrics::text(&self.shared.table(), self.connections())
    }

    /// Takes no new connection, lets those that are busy finish until the deadline. Says whether all did.
    pub fn stop(mut self, deadline: Duration) -> bool {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Duration) -> bool {
        self.shared.stop(Instant::now() + deadline);
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to drain.
            let _ = thread.join();
        }
        self.connections() == 0
    }
}

/// Each client takes a descriptor, and its request another. Processes begin with 1024 and may ask for as many as their limit
/// says; where they can't, clients beyond it wait in the kernel's queue.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
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
