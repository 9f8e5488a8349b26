//! What all threads of the proxy share: its settings, the routes as they are now, the places that are counted, the word to stop.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::password::Passwords;
use super::places::Places;
use super::rate::Rates;
use super::table::Table;
use super::{Config, metrics};
use crate::model::Routes;

/// What all threads share. Only counters and the table's version are written while requests run.
pub struct Shared {
    pub config: Config,
    pub tls: Acceptors,
    /// Where plain requests are redirected to.
    pub https_port: Option<u16>,
    pub places: Places,
    pub passwords: Passwords,
    /// How often clients ask an environment's sites, by its gateway.
    pub rates: Rates<(Ipv4Addr, IpAddr)>,
    version: AtomicU64,
    table: Mutex<Arc<Table>>,
    pub stop: watch::Sender<Option<Instant>>,
}

/// How TLS is spoken at the doors. No session of one is resumed at another.
pub struct Acceptors {
    pub host: TlsAcceptor,
    /// Where there is a door to the world.
    pub world: Option<TlsAcceptor>,
}

thread_local! {
    static TABLE: RefCell<Option<(u64, Arc<Table>)>> = const { RefCell::new(None) };
}

impl Shared {
    pub fn new(config: Config, routes: Routes, tls: Acceptors, https_port: Option<u16>) -> Self {
        let places = Places::new(&config.limits);
        let table = Mutex::new(Arc::new(Table::new(routes, None, &places.backends)));
        Self {
            config,
            tls,
            https_port,
            places,
            passwords: Passwords::new(),
            rates: Rates::default(),
            version: AtomicU64::new(0),
            table,
            stop: watch::channel(None).0,
        }
    }

    pub fn table(&self) -> Arc<Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the lock for as long as a table is built, so that two replacements don't forget each other's backends.
    pub fn replace(&self, routes: Routes) {
        let mut current = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Table::new(routes, Some(&current), &self.places.backends));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Looks into the newest table. Locks once for each thread and version.
    pub fn with_table<T>(&self, look: impl FnOnce(&Arc<Table>) -> T) -> T {
        let version = self.version.load(Ordering::Acquire);
        TABLE.with_borrow_mut(|known| match known {
            Some((seen, table)) if *seen == version => look(table),
            // A version that is too old by one only means that the next request looks again.
            _ => look(&known.insert((version, self.table())).1),
        })
    }

    /// In Prometheus' text format.
    pub fn metrics(&self, table: &Table) -> String {
        let sites = table.sites().map(|site| (site.route.host.as_str(), &*site.metrics));
        let more = self.config.metrics.as_ref().map(|more| more.0()).unwrap_or_default();
        metrics::text(sites, self.places.connections.used()) + &self.places.metrics() + &more
    }

    pub fn stop(&self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
    }
}
