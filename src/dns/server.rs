//! The server as its owner sees it: start, update, stop.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_proto::op::{Header, Message, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::task::JoinHandle;

use crate::model::route::Routes;
use crate::shares::{self, Account, Share, Shares};

use super::forward::Forwarder;
use super::front::{Asker, Transport};
use super::posts::{At, Posts};
use super::stats::Stats;
use super::zone::{Front, Zone};

#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses of adt's own. Port 0 takes a free one; see [`Server::addresses`].
    pub listen: Vec<SocketAddr>,
    /// The port at each environment's gateway; 0 is that of the first address in `listen`.
    pub gateway_port: u16,
    pub proxy_v4: Ipv4Addr,
    pub proxy_v6: Option<Ipv6Addr>,
    /// Who is asked for names that aren't adt's, by machines only. Without any, machines are refused these names.
    pub upstreams: Vec<SocketAddr>,
    pub serial: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another program already answers at `{address}`")]
    InUse { address: SocketAddr },
    #[error("could not listen at `{address}`")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn at(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            _ => Self::Listen { address, source },
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::InUse { address } | Self::Listen { address, .. } => *address,
        }
    }
}

/// What is being answered may take this long after a stop.
const GRACE: Duration = Duration::from_secs(2);

/// TCP connections, of which one environment or one client of the host's has at most half.
const CONNECTIONS: usize = 4096;

/// What every socket's task works with.
pub(super) struct Shared {
    zone: RwLock<Arc<Zone>>,
    version: AtomicU64,
    pub(super) stats: Arc<Stats>,
    pub(super) forwarder: Forwarder,
    pub(super) connections: Arc<Shares>,
}

/// One task's hold on the zone, renewed when there is another. Costs one load for a question.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    zone: Arc<Zone>,
    version: u64,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let version = shared.version.load(Ordering::Acquire);
        let zone = shared.zone.read().expect("no holder panics").clone();
        Self { shared, zone, version }
    }

    fn renew(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.version {
            self.zone = self.shared.zone.read().expect("no holder panics").clone();
            self.version = version;
        }
    }

    /// Looks for a newer zone first, so an answer is never older than its question.
    pub(super) fn asker(&mut self, from: SocketAddr, transport: Transport, turn: usize) -> Asker {
        self.renew();
        Asker { view: self.zone.view(from.ip()), transport, forwards: self.shared.forwarder.any(), turn }
    }

    /// Whose connections are counted together.
    pub(super) fn account(&mut self, from: IpAddr) -> Arc<Account> {
        self.renew();
        let gateway = self.zone.gateway(self.zone.view(from));
        self.shared.connections.asker(gateway, from)
    }

    /// What it takes to forward a question from there.
    pub(super) fn place(&self, from: IpAddr) -> Option<Share> {
        let gateway = self.zone.gateway(self.zone.view(from))?;
        self.shared.forwarder.place(gateway, from)
    }

    /// See [`Zone::keeps_out`].
    pub(super) fn keeps_out(&self, own: IpAddr, from: IpAddr) -> bool {
        self.zone.keeps_out(own, from)
    }

    pub(super) fn zone(&self) -> &Zone {
        &self.zone
    }
}

/// The answer when no name server gave one.
pub(super) fn servfail(packet: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
    let queries = Message::from_vec(packet).map(|message| message.queries).unwrap_or_default();
    let mut message = Message::error_msg(header.id, header.op_code, ResponseCode::ServFail);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(queries);
    message.to_vec().ok()
}

/// A running name server. Dropping it stops it without grace.
pub struct Server {
    shared: Arc<Shared>,
    front: Front,
    addresses: Vec<SocketAddr>,
    posts: Arc<Posts>,
    retry: JoinHandle<()>,
}

impl Server {
    /// Listens, then serves on the current tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, routes: &Routes) -> Result<Self, Error> {
        let front = Front { proxy_v4: config.proxy_v4, proxy_v6: config.proxy_v6, serial: config.serial };
        let shared = Arc::new(Shared {
            zone: RwLock::new(Arc::new(Zone::new(routes, &front))),
            version: AtomicU64::new(0),
            stats: Arc::default(),
            forwarder: Forwarder::new(config.upstreams),
            connections: Shares::new(CONNECTIONS.min(shares::files() / 8)),
        });
        let posts = Posts::open(shared.clone(), &config.listen, config.gateway_port)?;
        let addresses = posts.addresses();
        let posts = Arc::new(posts);
        posts.follow(routes);
        let retry = tokio::spawn(posts.clone().retry());
        Ok(Self { shared, front, addresses, posts, retry })
    }

    /// Answers by `routes` from now on: a question that comes after this returns gets no older answer. Returns the gateways that
    /// can't be listened at; they are tried again every few seconds.
    pub fn update(&self, routes: &Routes, serial: u32) -> Vec<Error> {
        let zone = Arc::new(Zone::new(routes, &Front { serial, ..self.front }));
        *self.shared.zone.write().expect("no holder panics") = zone;
        self.shared.version.fetch_add(1, Ordering::Release);
        self.posts.follow(routes)
    }

    /// Tries the gateways that aren't listened at, and returns those where it still fails.
    pub fn open_gateways(&self, at: At) -> Vec<Error> {
        self.posts.open_missing(at)
    }

    /// Where gateways are listened at, each with the port that machines ask.
    pub fn gateways(&self) -> Vec<(SocketAddr, u16)> {
        self.posts.gateways()
    }

    /// Where `listen` ended up, in its order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }

    /// In Prometheus' text format, whenever it is asked.
    pub fn metrics(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || {
            let all = [("questions", &*shared.forwarder.places), ("connections", &*shared.connections)];
            shared.stats.metrics() + &shares::metrics("adt_dns", &all)
        }
    }

    /// Answers what has already arrived, then ends. Connections are closed between two questions.
    pub async fn stop(self) {
        self.retry.abort();
        let all = async {
            for task in self.posts.close() {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(GRACE, all).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.retry.abort();
        drop(self.posts.close());
    }
}
