//! The addresses that are listened at: adt's own, which stay, and the environments' gateways, which come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::model::route::Routes;
use crate::systemd::Listeners;

use super::listen::{self, Error, Sockets};
use super::shared::{Shared, Stop};
use super::{tcp, udp};

/// A gateway that could not be listened at is tried again this often.
const RETRY: Duration = Duration::from_secs(5);

/// Which port of a gateway to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    ItsPort,
    /// Somebody else holds it at every address; a detour will lead there.
    AnyPort,
}

/// One address with the tasks that serve it.
struct Post {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Post {
    fn open(listeners: &Listeners, address: SocketAddr, udp: usize, shared: &Arc<Shared>) -> Result<Self, Error> {
        Self::serve(listeners, address, udp, shared).map_err(|source| Error::at(address, source))
    }

    fn serve(listeners: &Listeners, address: SocketAddr, udp: usize, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let sockets = Sockets::open(listeners, address, udp)?;
        let (stop, stopped) = watch::channel(false);
        let stopped = Stop(stopped);
        let tcp = TcpListener::from_std(sockets.tcp)?;
        let udp = sockets.udp.into_iter().map(UdpSocket::from_std).collect::<Result<Vec<_>, _>>()?;
        let mut tasks = vec![tokio::spawn(tcp::serve(tcp, None, shared.clone(), stopped.clone()))];
        tasks.extend(udp.into_iter().map(|socket| tokio::spawn(udp::serve(socket, shared.clone(), stopped.clone()))));
        Ok(Self { address: sockets.address, stop, tasks })
    }

    /// For connections with TLS, and nothing else.
    fn secure(listeners: &Listeners, address: SocketAddr, tls: TlsAcceptor, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let listener = listen::connections(listeners, address)?;
        listeners.keep(&listener);
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let tasks = vec![tokio::spawn(tcp::serve(listener, Some(tls), shared.clone(), Stop(stopped)))];
        Ok(Self { address, stop, tasks })
    }
}

pub(super) struct Posts {
    shared: Arc<Shared>,
    listeners: Arc<Listeners>,
    /// Routes change on threads that aren't the runtime's.
    runtime: Handle,
    gateway_port: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    own: Vec<Post>,
    secure: Option<Post>,
    wanted: BTreeSet<Ipv4Addr>,
    gateways: BTreeMap<Ipv4Addr, Post>,
    closed: bool,
}

impl Posts {
    /// One UDP socket per core for our own addresses: the kernel spreads askers over them.
    pub(super) fn open(
        shared: Arc<Shared>,
        listeners: Arc<Listeners>,
        listen: &[SocketAddr],
        gateway_port: u16,
    ) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let own = listen.iter().map(|address| Post::open(&listeners, *address, cores, &shared)).collect::<Result<Vec<_>, _>>()?;
        let first = own.first().map_or(53, |post| post.address.port());
        let gateway_port = if gateway_port == 0 { first } else { gateway_port };
        let state = Mutex::new(State { own, ..State::default() });
        Ok(Self { shared, listeners, runtime: Handle::current(), gateway_port, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.state().own.iter().map(|post| post.address).collect()
    }

    /// Where it ended up.
    pub(super) fn open_secure(&self, address: SocketAddr, tls: TlsAcceptor) -> Result<SocketAddr, Error> {
        let _runtime = self.runtime.enter();
        let post = Post::secure(&self.listeners, address, tls, &self.shared).map_err(|source| Error::at(address, source))?;
        let address = post.address;
        self.state().secure = Some(post);
        Ok(address)
    }

    /// Where gateways are listened at, each with the port that machines ask.
    pub(super) fn gateways(&self) -> Vec<(SocketAddr, u16)> {
        self.state().gateways.values().map(|post| (post.address, self.gateway_port)).collect()
    }

    /// Listens at the gateways of `routes` and no others.
    pub(super) fn follow(&self, routes: &Routes) -> Vec<Error> {
        let mut state = self.state();
        state.wanted = routes.environments().map(|environment| environment.gateway_v4).collect();
        let State { wanted, gateways, .. } = &mut *state;
        for (_, post) in gateways.extract_if(.., |address, _| !wanted.contains(address)) {
            listen::close(&self.listeners, post.address);
        }
        drop(state);
        self.open_missing(At::ItsPort)
    }

    pub(super) fn open_missing(&self, at: At) -> Vec<Error> {
        let _runtime = self.runtime.enter();
        let mut state = self.state();
        if state.closed {
            return Vec::new();
        }
        let missing: Vec<_> = state.wanted.iter().filter(|address| !state.gateways.contains_key(address)).copied().collect();
        let mut errors = Vec::new();
        let port = match at {
            At::ItsPort => self.gateway_port,
            At::AnyPort => 0,
        };
        for address in missing {
            match Post::open(&self.listeners, (address, port).into(), 1, &self.shared) {
                Ok(post) => drop(state.gateways.insert(address, post)),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    pub(super) async fn retry(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RETRY).await;
            self.open_missing(At::ItsPort);
        }
    }

    /// Tells all tasks to end, and returns them.
    pub(super) fn close(&self) -> Vec<JoinHandle<()>> {
        let mut state = self.state();
        state.closed = true;
        let own = std::mem::take(&mut state.own).into_iter().chain(state.secure.take());
        let posts = own.chain(std::mem::take(&mut state.gateways).into_values());
        posts
            .flat_map(|post| {
                post.stop.send_replace(true);
                post.tasks
            })
            .collect()
    }
}
