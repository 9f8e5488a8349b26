//! One thread: its sockets, its runtime, its share of the connections.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;

use super::door::{Door, Whom};
use super::shared::Shared;
use super::sweep::Drain;
use super::{Error, connection, health, log, pool, sweep};
use crate::systemd::{Listeners, Place};

/// Who came just before a stop may take this long to ask, handshake and all. Nobody who comes meanwhile is let in, so it is short.
const FIRST: Duration = Duration::from_secs(1);

/// A thread's sockets, bound; those that outlived a process listen already.
pub struct Sockets {
    http: Vec<TcpSocket>,
    https: Vec<TcpSocket>,
}

impl Sockets {
    /// For one of as many threads as are still without.
    pub fn bind(listeners: &Listeners, http: &[SocketAddr], https: &[SocketAddr], threads: usize) -> Result<Self, Error> {
        let all = |addresses: &[SocketAddr]| -> Result<Vec<_>, Error> {
            let each = addresses.iter().map(|address| bound(listeners, *address, threads)).collect::<Result<Vec<_>, _>>()?;
            Ok(each.into_iter().flatten().collect())
        };
        Ok(Self { http: all(http)?, https: all(https)? })
    }
}

/// Sockets with SO_REUSEPORT join whoever listens already, even another adt. One without it can't: it finds out first, and
/// chooses the port where none is given. Where the process before listened, nobody else does.
pub fn reserve(listeners: &Listeners, addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>, Error> {
    let one = |address: &SocketAddr| match listeners.has(Place::Tcp(*address)) {
        true => Ok(*address),
        false => bind(*address, false)?.local_addr().map_err(|source| Error::Listen { address: *address, source }),
    };
    addresses.iter().map(one).collect()
}

/// What one of as many threads as are still without has at an address: its share of those that outlived a process, else a new one.
fn bound(listeners: &Listeners, address: SocketAddr, threads: usize) -> Result<Vec<TcpSocket>, Error> {
    let kept = listeners.take(Place::Tcp(address), threads);
    if kept.is_empty() {
        return Ok(vec![bind(address, true)?]);
    }
    Ok(kept.into_iter().map(|socket| TcpSocket::from_std_stream(TcpStream::from(socket))).collect())
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

/// Listeners for one of as many threads as are still without, also at an address that no interface has yet: bridges come after their
/// environment's record. They and the door to the world, which is at every address, bear each other; the kernel takes the one that
/// says its address. Inside of a runtime only.
pub fn listen_at(listeners: &Listeners, address: SocketAddr, threads: usize) -> Result<Vec<TcpListener>, Error> {
    bound(listeners, address, threads)?.into_iter().map(|socket| listen(listeners, socket)).collect()
}

pub fn spawn(index: usize, shared: Arc<Shared>, sockets: Sockets) -> Result<(JoinHandle<()>, Handle), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let handle = runtime.handle().clone();
    let all = |sockets: Vec<TcpSocket>| -> Result<Vec<TcpListener>, Error> {
        let _inside = runtime.enter();
        sockets.into_iter().map(|socket| listen(&shared.config.listeners, socket)).collect()
    };
    let (http, https) = (all(sockets.http)?, all(sockets.https)?);
    let work = move || {
        runtime.block_on(async {
            for (listener, secure) in http.into_iter().map(|one| (one, false)).chain(https.into_iter().map(|one| (one, true))) {
                if let Some(door) = door(&shared, &listener, secure) {
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

/// One that listens already keeps who waits there.
fn listen(listeners: &Listeners, socket: TcpSocket) -> Result<TcpListener, Error> {
    let address = socket.local_addr().map_err(Error::Start)?;
    let listener = socket.listen(4096).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::InUse { address },
        _ => Error::Listen { address, source },
    })?;
    listeners.keep(&listener);
    Ok(listener)
}

/// Sweeps until it is told to stop, then drains.
async fn run(shared: &Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => {
                sweep::sweep();
                shared.with_table(|table| pool::sweep(&table.addresses));
                log::flush(&shared.config);
            }
            _ = stop.wait_for(Option::is_some) => break,
        }
    }
    let deadline = stop.borrow().unwrap_or_else(Instant::now);
    // Clients that the kernel accepted already get an answer.
    tokio::time::sleep_until(deadline.min(Instant::now() + Duration::from_millis(20)).into()).await;
    let first = Instant::now() + FIRST;
    while Instant::now() < deadline && shared.places.connections.used() > 0 {
        sweep::drain(if Instant::now() < first { Drain::Asked } else { Drain::All });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sweep::drain(Drain::Now);
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
            Ok((stream, remote)) => connection::admit(&shared, stream, remote.ip(), door),
            // Out of descriptors: others have to end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `None` for a socket that the kernel has closed.
fn door(shared: &Shared, listener: &TcpListener, secure: bool) -> Option<Door> {
    let port = shared.config.ports.map(|ports| ports.of(secure));
    let port = port.or_else(|| listener.local_addr().ok().map(|address| address.port()))?;
    Some(Door { secure, port, whom: Whom::Host })
}
