//! The server as its owner sees it: start, update, stop.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::model::route::Routes;
use crate::shares;
use crate::systemd::Listeners;

use super::listen::Error;
use super::posts::{At, Posts};
use super::shared::Shared;
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
    /// What was listened at before, and what is to outlive this process.
    pub listeners: Arc<Listeners>,
}

/// What is being answered may take this long after a stop.
const GRACE: Duration = Duration::from_secs(2);

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
        let shared = Arc::new(Shared::new(Zone::new(routes, &front), config.upstreams));
        shared.forwarder.cache.follow(routes);
        let posts = Posts::open(shared.clone(), config.listeners, &config.listen, config.gateway_port)?;
        let addresses = posts.addresses();
        let posts = Arc::new(posts);
        posts.follow(routes);
        let retry = tokio::spawn(posts.clone().retry());
        Ok(Self { shared, front, addresses, posts, retry })
    }

    /// Answers connections with TLS at one more address, too, and says where: port 0 takes a free one. For clients of the host's;
    /// machines ask their gateway.
    pub fn serve_over_tls(&self, address: SocketAddr, tls: TlsAcceptor) -> Result<SocketAddr, Error> {
        self.posts.open_secure(address, tls)
    }

    /// Answers by `routes` from now on: a question that comes after this returns gets no older answer. Returns the gateways that
    /// can't be listened at; they are tried again every few seconds.
    pub fn update(&self, routes: &Routes, serial: u32) -> Vec<Error> {
        self.shared.replace(Zone::new(routes, &Front { serial, ..self.front }));
        self.shared.forwarder.cache.follow(routes);
        self.posts.follow(routes)
    }

    /// Asks these for names that aren't adt's from now on, and forgets what others said.
    pub fn forward_to(&self, upstreams: Vec<SocketAddr>) {
        self.shared.forwarder.replace(upstreams);
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
            shared.stats.metrics() + &shared.forwarder.cache.metrics() + &shares::metrics("adt_dns", &all)
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
