//! Where the door to the world is listened at: each thread of the proxy at every address of the host, old and new, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::door::{Door, Whom};
use super::shared::Shared;
use super::{Error, Ports, worker};

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
        let mut new = Vec::new();
        for runtime in &self.runtimes {
            for secure in [false, true] {
                new.extend(self.post(runtime, Ipv4Addr::UNSPECIFIED.into(), secure)?);
                new.extend(self.post(runtime, Ipv6Addr::UNSPECIFIED.into(), secure)?);
            }
        }
        *posts = new;
        Ok(())
    }

    /// Connections that are there live on, and find no site.
    pub fn close(&self) {
        self.open().clear();
    }

    /// `None` on a host that does not speak IPv6.
    fn post(&self, runtime: &Handle, ip: IpAddr, secure: bool) -> Result<Option<Post>, Error> {
        let _inside = runtime.enter();
        let port = self.ports.of(secure);
        let listener = match worker::listen_at(SocketAddr::new(ip, port)) {
            Ok(listener) => listener,
            Err(Error::Listen { .. }) if ip.is_ipv6() => return Ok(None),
            Err(error) => return Err(error),
        };
        let door = Door { secure, port, whom: Whom::World };
        Ok(Some(Post(runtime.spawn(worker::accept(self.shared.clone(), listener, door)))))
    }
}
