//! The doors at the environments' gateways, which come and go with them: through each, its machines reach the sites of their
//! own environment and no others.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::door::{Door, Whom};
use super::shared::Shared;
use super::{Error, Ports, worker};
use crate::systemd::Place;

/// One address that is listened at; a single thread is enough for what machines ask. Several sockets are there only if a process
/// before this one opened several.
struct Post {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Post {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Which port of a gateway to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    ItsPort,
    /// Somebody else holds it at every address; a detour will lead there.
    AnyPort,
}

pub struct Gateways {
    shared: Arc<Shared>,
    ports: Ports,
    /// Of the worker threads.
    runtimes: Vec<Handle>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: BTreeSet<Ipv4Addr>,
    posts: BTreeMap<(Ipv4Addr, bool), Post>,
}

impl Gateways {
    pub fn new(shared: Arc<Shared>, ports: Ports, runtimes: Vec<Handle>) -> Self {
        Self { shared, ports, runtimes, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens at the gateways of `routes` and no others. Connections through one that is gone live on, and find no site.
    pub fn follow(&self, wanted: BTreeSet<Ipv4Addr>) -> Vec<Error> {
        let mut state = self.state();
        state.wanted = wanted;
        let State { wanted, posts } = &mut *state;
        for (_, post) in posts.extract_if(.., |(gateway, _), _| !wanted.contains(gateway)) {
            self.shared.config.listeners.close(Place::Tcp(post.address));
        }
        drop(state);
        self.open_missing(At::ItsPort)
    }

    pub fn open_missing(&self, at: At) -> Vec<Error> {
        let mut state = self.state();
        let State { wanted, posts } = &mut *state;
        let mut errors = Vec::new();
        for (turn, gateway) in wanted.iter().enumerate() {
            for secure in [false, true] {
                if let Entry::Vacant(place) = posts.entry((*gateway, secure)) {
                    match self.open(*gateway, secure, turn, at) {
                        Ok(post) => drop(place.insert(post)),
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
        errors
    }

    fn open(&self, gateway: Ipv4Addr, secure: bool, turn: usize, at: At) -> Result<Post, Error> {
        let runtime = &self.runtimes[turn % self.runtimes.len()];
        let _inside = runtime.enter();
        let port = self.ports.of(secure);
        let address = match at {
            At::ItsPort => (gateway, port).into(),
            At::AnyPort => (gateway, 0).into(),
        };
        let listeners = worker::listen_at(&self.shared.config.listeners, address, 1)?;
        let address = listeners[0].local_addr().map_err(Error::Start)?;
        let door = Door { secure, port, whom: Whom::Machines(gateway) };
        let accept = |listener| runtime.spawn(worker::accept(self.shared.clone(), listener, door));
        Ok(Post { address, tasks: listeners.into_iter().map(accept).collect() })
    }

    /// Where it is listened, each with the port that machines ask for.
    pub fn addresses(&self) -> Vec<(SocketAddr, u16)> {
        self.state().posts.iter().map(|((_, secure), post)| (post.address, self.ports.of(*secure))).collect()
    }
}
