//! One thread: its sockets, its runtime, its share of the connections.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::connection::Door;
use super::places::Places;
use super::table::Table;
use super::{Config, Error, connection, health, log, metrics, pool};
use crate::model::Routes;

/// What all threads share. Only counters and the table's version are written while requests run.
pub struct Shared {
    pub config: Config,
    pub tls: TlsAcceptor,
    /// Where plain requests are redirected to.
    pub https_port: Option<u16>,
    pub places: Places,
    version: AtomicU64,
    table: Mutex<Arc<Table>>,
    stop: watch::Sender<Option<Instant>>,
}

thread_local! {
    static TABLE: RefCell<Option<(u64, Arc<Table>)>> = const { RefCell::new(None) };
}

impl Shared {
    pub fn new(config: Config, routes: Routes, tls: TlsAcceptor, https_port: Option<u16>) -> Self {
        let places = Places::new(&config.limits);
        let table = Mutex::new(Arc::new(Table::new(routes, None, &places.backends)));
        Self { config, tls, https_port, places, version: AtomicU64::new(0), table, stop: watch::channel(None).0 }
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
        let more = self.config.metrics.as_ref().map(|more| more.0()).unwrap_or_default();
        metrics::text(table, self.places.connections.used()) + &self.places.metrics() + &more
    }

    /// `None` for a socket that the kernel has closed.
    fn door(&self, listener: &TcpListener, secure: bool) -> Option<Door> {
        let port = self.config.ports.map(|ports| ports.of(secure));
        let port = port.or_else(|| listener.local_addr().ok().map(|address| address.port()))?;
        Some(Door { secure, port, gateway: None })
    }

    pub fn stop(&self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
    }
}

/// A thread's sockets, bound but not listening.
pub struct Sockets {
    http: Vec<TcpSocket>,
    https: Vec<TcpSocket>,
}

impl Sockets {
    pub fn bind(http: &[SocketAddr], https: &[SocketAddr]) -> Result<Self, Error> {
        let all = |addresses: &[SocketAddr]| addresses.iter().map(|address| bind(*address, true)).collect::<Result<_, _>>();
        Ok(Self { http: all(http)?, https: all(https)? })
    }
}

/// Sockets with SO_REUSEPORT join whoever listens already, even another adt. One without it can't: it finds out first, and
/// chooses the port where none is given.
pub fn reserve(addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>, Error> {
    let one =
        |address: &SocketAddr| bind(*address, false)?.local_addr().map_err(|source| Error::Listen { address: *address, source });
    addresses.iter().map(one).collect()
}

fn bind(address: SocketAddr, shared: bool) -> Result<TcpSocket, Error> {
    let new = || -> std::io::Result<TcpSocket> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if address.is_ipv6() {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        } else {
            rustix::net::sockopt::set_ip_freebind(&socket, true)?;
        }
        socket.set_reuseaddr(true)?;
        // Accepted connections have it from here: the last packet of an answer waits for nothing.
        socket.set_nodelay(true)?;
        socket.set_reuseport(shared)?;
        socket.bind(address)?;
        Ok(socket)
    };
    new().map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::InUse { address },
        _ => Error::Listen { address, source },
    })
}

/// A listener of its own, also at an address that no interface has yet: bridges come after their environment's record. Inside
/// of a runtime only.
pub fn listen_once(address: SocketAddr) -> Result<TcpListener, Error> {
    listen(bind(address, false)?)
}

pub fn spawn(index: usize, shared: Arc<Shared>, sockets: Sockets) -> Result<(JoinHandle<()>, Handle), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let handle = runtime.handle().clone();
    let all = |sockets: Vec<TcpSocket>| -> Result<Vec<TcpListener>, Error> {
        let _inside = runtime.enter();
        sockets.into_iter().map(listen).collect()
    };
    let (http, https) = (all(sockets.http)?, all(sockets.https)?);
    let work = move || {
        runtime.block_on(async {
            for (listener, secure) in http.into_iter().map(|one| (one, false)).chain(https.into_iter().map(|one| (one, true))) {
                if let Some(door) = shared.door(&listener, secure) {
                    tokio::spawn(accept(shared.clone(), listener, door));
                }
            }
            if index == 0 {
                tokio::spawn(health::watch(shared.clone()));
            }
            run(&shared).await;
        });
        // What is left is not waited for.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(work).map_err(Error::Start)?;
    Ok((thread, handle))
}

fn listen(socket: TcpSocket) -> Result<TcpListener, Error> {
    let address = socket.local_addr().map_err(Error::Start)?;
    socket.listen(4096).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::InUse { address },
        _ => Error::Listen { address, source },
    })
}

/// Sweeps until it is told to stop, then drains.
async fn run(shared: &Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => {
                connection::sweep();
                shared.with_table(|table| pool::sweep(&table.addresses));
                log::flush(&shared.config);
            }
            _ = stop.wait_for(Option::is_some) => break,
        }
    }
    let deadline = stop.borrow().unwrap_or_else(Instant::now);
    // Clients that the kernel accepted already get an answer.
    tokio::time::sleep_until(deadline.min(Instant::now() + Duration::from_millis(20)).into()).await;
    while Instant::now() < deadline && shared.places.connections.used() > 0 {
        connection::drain(false);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connection::drain(true);
    tokio::task::yield_now().await;
    log::flush(&shared.config);
}

pub async fn accept(shared: Arc<Shared>, listener: TcpListener, door: Door) {
    let mut stop = shared.stop.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(Option::is_some) => return,
        };
        match accepted {
            Ok((stream, remote)) => match shared.places.connections.asker(door.gateway, remote.ip()).take() {
                Some(share) => drop(tokio::spawn(connection::serve(shared.clone(), stream, remote, door, share))),
                None => connection::refuse(&shared, stream, remote, door),
            },
            // Out of descriptors: others have to end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
