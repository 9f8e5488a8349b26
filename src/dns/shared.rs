//! What every socket's task works with: the zone as it is now, the counters, whom it forwards to, and the word to stop.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

use crate::shares::{self, Account, Shares};

use super::cache::Machine;
use super::forward::{Errand, Forwarder};
use super::front::{Asker, Transport};
use super::stats::Stats;
use super::zone::Zone;

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

impl Shared {
    pub(super) fn new(zone: Zone, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            zone: RwLock::new(Arc::new(zone)),
            version: AtomicU64::new(0),
            stats: Arc::default(),
            forwarder: Forwarder::new(upstreams),
            connections: Shares::new(CONNECTIONS.min(shares::files() / 8)),
        }
    }

    /// A question that comes after this returns gets no older answer.
    pub(super) fn replace(&self, zone: Zone) {
        *self.zone.write().expect("no holder panics") = Arc::new(zone);
        self.version.fetch_add(1, Ordering::Release);
    }
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

    /// Writes an answer of the host's name servers into `out`, where one is known.
    pub(super) fn known(&self, packet: &[u8], transport: Transport, from: IpAddr, out: &mut Vec<u8>) -> bool {
        let Shared { forwarder, stats, .. } = &*self.shared;
        self.machine(from).is_some_and(|machine| forwarder.known(packet, transport, machine, stats, out))
    }

    /// What it takes to forward a question from there.
    pub(super) fn place(&self, from: IpAddr) -> Option<Errand> {
        self.shared.forwarder.place(self.machine(from)?)
    }

    fn machine(&self, from: IpAddr) -> Option<Machine> {
        let gateway = self.zone.gateway(self.zone.view(from))?;
        Some(Machine { gateway, address: from.to_canonical() })
    }

    /// See [`Zone::keeps_out`].
    pub(super) fn keeps_out(&self, own: IpAddr, from: IpAddr) -> bool {
        self.zone.keeps_out(own, from)
    }

    pub(super) fn zone(&self) -> &Zone {
        &self.zone
    }
}

/// Ends when its post is closed or dropped.
#[derive(Clone)]
pub(super) struct Stop(pub(super) watch::Receiver<bool>);

impl Stop {
    pub(super) async fn stopped(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
