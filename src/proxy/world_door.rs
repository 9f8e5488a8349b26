//! Where the door to the world is listened at: each thread of the proxy at every address of the host, old and new, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::door::{Door, Whom};
use super::shared::Shared;
use super::{Error, Ports, worker};
use crate::systemd::Place;

/// Every address, with TLS and without.
const PARTS: [(IpAddr, bool); 4] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), false),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), false),
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), true),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), true),
];

/// A thread's way to accept; gone with its task.
struct Post(JoinHandle<()>);

impl Drop for Post {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct WorldDoor {
    shared: Arc<Shared>,
    ports: Ports,
    /// Of the worker threads.
    runtimes: Vec<Handle>,
    open: Mutex<Vec<Post>>,
}

impl WorldDoor {
    pub fn new(shared: Arc<Shared>, ports: Ports, runtimes: Vec<Handle>) -> Self {
        Self { shared, ports, runtimes, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Post>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_open(&self) -> bool {
        !self.open().is_empty()
    }

    /// All of it or nothing: half a door would serve some and not others.
    pub fn open_all(&self) -> Result<(), Error> {
        let mut posts = self.open();
        if !posts.is_empty() {
            return Ok(());
        }
        *posts = self.posts().inspect_err(|_| self.end())?;
        Ok(())
    }

    fn posts(&self) -> Result<Vec<Post>, Error> {
        let mut posts = Vec::new();
        for index in 0..self.runtimes.len() {
            for (ip, secure) in PARTS {
                posts.extend(self.post(index, ip, secure)?);
            }
        }
        Ok(posts)
    }

    /// Connections that are there live on, and find no site.
    pub fn close(&self) {
        let mut posts = self.open();
        if !posts.is_empty() {
            posts.clear();
            self.end();
        }
    }

    /// Nobody comes in any more.
    fn end(&self) {
        PARTS.iter().for_each(|part| self.shared.config.listeners.close(self.place(*part)));
    }

    /// Whether a process before this one had it open.
    pub fn was_open(&self) -> bool {
        PARTS.iter().any(|part| self.shared.config.listeners.has(self.place(*part)))
    }

    fn place(&self, (ip, secure): (IpAddr, bool)) -> Place {
        Place::Tcp(SocketAddr::new(ip, self.ports.of(secure)))
    }

    /// One thread's; none on a host that does not speak IPv6.
    fn post(&self, index: usize, ip: IpAddr, secure: bool) -> Result<Vec<Post>, Error> {
        let runtime = &self.runtimes[index];
        let _inside = runtime.enter();
        let port = self.ports.of(secure);
        let threads = self.runtimes.len() - index;
        let listeners = match worker::listen_at(&self.shared.config.listeners, SocketAddr::new(ip, port), threads) {
            Ok(listeners) => listeners,
            Err(Error::Listen { .. }) if ip.is_ipv6() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let door = Door { secure, port, whom: Whom::World };
        let post = |listener| Post(runtime.spawn(worker::accept(self.shared.clone(), listener, door)));
        Ok(listeners.into_iter().map(post).collect())
    }
}
