//! A client's connection: TLS, which HTTP it speaks, and how long it may be silent.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::CipherSuite;
use rustls::server::ResolvesServerCert;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::gather::{Gathered, gather};
use super::headers::Client;
use super::worker::Shared;
use super::{Error, handle, pages};
use crate::model::EnvironmentRoute;
use crate::shares::{Account, Share};

/// TLS 1.2 and 1.3 with the certificates given; sessions are resumed by tickets, so no state is kept for them.
pub fn tls(certificates: Arc<dyn ResolvesServerCert>) -> Result<TlsAcceptor, Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    // Clients ask for SHA-384 first, which no processor computes by itself; it took a tenth of a handshake.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Error::Tls)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(Error::Tls)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What the sweeper and a connection tell each other.
pub struct State {
    shared: Arc<Shared>,
    /// Its place among all connections.
    share: Share,
    verdict: AtomicU8,
    /// One for the connection and one for each tunnel through it.
    wakers: Mutex<Vec<Waker>>,
    busy: AtomicU32,
    /// Requests begun.
    begun: AtomicU32,
    /// Reads and writes that moved bytes.
    moved: AtomicU32,
    /// Writes that moved bytes.
    written: AtomicU32,
    /// The client has not taken what it was sent last.
    unread: AtomicBool,
    /// Many requests at a time: it can be told to finish.
    polite: AtomicBool,
    /// Bytes go through it that are not HTTP: either side may end first.
    tunnel: AtomicBool,
    seen: AtomicU32,
    quiet: AtomicU32,
}

const FINISH: u8 = 1;
const END: u8 = 2;

thread_local! {
    static CONNECTIONS: RefCell<Vec<Weak<State>>> = const { RefCell::new(Vec::new()) };
}

impl State {
    /// Known to this thread's sweeper until it is dropped.
    pub fn new(shared: &Arc<Shared>, share: Share) -> Arc<Self> {
        let state = Arc::new(Self {
            shared: shared.clone(),
            share,
            verdict: AtomicU8::new(0),
            wakers: Mutex::default(),
            busy: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            moved: AtomicU32::new(0),
            written: AtomicU32::new(0),
            unread: AtomicBool::new(false),
            polite: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            seen: AtomicU32::new(0),
            quiet: AtomicU32::new(0),
        });
        CONNECTIONS.with_borrow_mut(|all| all.push(Arc::downgrade(&state)));
        state
    }

    fn judge(&self, verdict: u8) {
        if self.verdict.fetch_max(verdict, Ordering::Relaxed) < verdict {
            self.wakers().iter().for_each(Waker::wake_by_ref);
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts seconds in which nothing happened that should have.
    fn tick(&self) {
        let limits = &self.shared.config.limits;
        let (counter, limit) = if self.busy.load(Ordering::Relaxed) == 0 {
            // Between requests only a whole head counts: single bytes of one are what a slow loris sends.
            (&self.begun, limits.head)
        } else if self.unread.load(Ordering::Relaxed) {
            // Nor does it count what a client says that does not listen.
            (&self.written, limits.unread)
        } else {
            (&self.moved, limits.silence)
        };
        let now = counter.load(Ordering::Relaxed);
        if self.seen.swap(now, Ordering::Relaxed) != now {
            self.quiet.store(0, Ordering::Relaxed);
            return;
        }
        let quiet = u64::from(self.quiet.fetch_add(1, Ordering::Relaxed)) + 1;
        if quiet > limit.as_secs() {
            // HTTP/2 says goodbye first; if that changes nothing for a while, it is cut as well.
            let polite = self.polite.load(Ordering::Relaxed) && quiet < limit.as_secs() + 5;
            self.judge(if polite { FINISH } else { END });
        }
    }

    fn moved(&self) {
        self.moved.store(self.moved.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn wrote(&self, taken: bool) {
        self.unread.store(!taken, Ordering::Relaxed);
        if taken {
            self.moved();
            self.written.store(self.written.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Of HTTP/2 at a time: fewer for each connection of a client that has many.
    fn streams(&self) -> u32 {
        let most = self.shared.places.requests.total() / 2 / self.share.account().held().max(1);
        u32::try_from(most.clamp(16, 250)).expect("it is at most 250")
    }

    pub fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// Until the guard is dropped the connection has something to do.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Runs something to its end, or until the sweeper says that it is over. `finish` is called when it should hurry.
    pub async fn run<F: Future>(
        &self,
        mut future: Pin<&mut F>,
        mut finish: impl FnMut(Pin<&mut F>) -> bool,
    ) -> Option<F::Output> {
        let (mut registered, mut told) = (None, false);
        let output = poll_fn(|cx| {
            // A task keeps its waker for life.
            if registered.is_none() {
                registered = Some(cx.waker().clone());
                self.wakers().push(cx.waker().clone());
            }
            let verdict = self.verdict.load(Ordering::Relaxed);
            if verdict >= END {
                return Poll::Ready(None);
            }
            if verdict == FINISH && !told {
                told = true;
                if !finish(future.as_mut()) {
                    return Poll::Ready(None);
                }
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await;
        if let Some(mine) = registered {
            self.wakers().retain(|waker| !waker.will_wake(&mine));
        }
        output
    }
}

/// A request or a tunnel that is not over.
pub struct Busy(Arc<State>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
    }
}

/// Once a second.
pub fn sweep() {
    each(|state| state.tick());
}

/// Tells all connections of this thread to finish, or ends them.
pub fn drain(now: bool) {
    each(|state| state.judge(if now { END } else { FINISH }));
}

fn each(act: impl Fn(&State)) {
    CONNECTIONS.with_borrow_mut(|all| {
        all.retain(|state| state.upgrade().inspect(|state| act(state)).is_some());
        if all.capacity() > 1024 && all.len() < all.capacity() / 4 {
            all.shrink_to_fit();
        }
    });
}

/// What a client came in by.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    pub secure: bool,
    /// As the client sees it.
    pub port: u16,
    /// Of the environment whose machine the client is; `None` where everything is served.
    pub gateway: Option<Ipv4Addr>,
}

/// Everything a request's handler knows about where it came from.
pub struct Peer {
    pub shared: Arc<Shared>,
    pub state: Arc<State>,
    pub client: Client,
    pub address: std::net::IpAddr,
    pub gateway: Option<Ipv4Addr>,
    /// Of its requests to all environments.
    pub asker: Arc<Account>,
    /// Of those to the environment that was asked last.
    within: Mutex<Option<(Ipv4Addr, Arc<Account>)>>,
}

impl Peer {
    /// Of its requests to one environment.
    pub fn within(&self, environment: Ipv4Addr) -> Arc<Account> {
        let mut last = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, account)) if *known == environment => account.clone(),
            _ => last.insert((environment, self.shared.places.sites.member(environment, self.address))).1.clone(),
        }
    }
}

/// Closes a connection that its client has too many of. It hears why where saying so is cheap: TLS would take a handshake first.
pub fn refuse(shared: &Shared, mut stream: TcpStream, remote: SocketAddr, door: Door) {
    if door.secure {
        return;
    }
    let Some(place) = shared.places.told.asker(door.gateway, remote.ip()).take() else { return };
    tokio::spawn(async move {
        let told = async {
            // What is left unread would take the answer along when the connection is closed.
            let mut head = Vec::new();
            while head.len() < 8 << 10 && !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
            stream.write_all(&pages::refusal(&head)).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        drop(place);
    });
}

pub async fn serve(shared: Arc<Shared>, stream: TcpStream, remote: SocketAddr, door: Door, share: Share) {
    let Door { secure, port, gateway } = door;
    let state = State::new(&shared, share);
    let trusted = shared.config.trusted.iter().any(|net| net.contains(&remote.ip().to_canonical()));
    let client = Client::new(remote.ip(), port, secure, trusted);
    let address = remote.ip().to_canonical();
    if gateway.is_some_and(|gateway| !is_neighbour(address, gateway)) {
        return;
    }
    let peer = || {
        let (shared, state, within) = (shared.clone(), state.clone(), Mutex::default());
        let asker = shared.places.requests.asker(gateway, address);
        Arc::new(Peer { shared, state, client, address, gateway, asker, within })
    };
    let over = |_: Pin<&mut _>| false;
    if secure {
        let accept = shared.tls.accept(stream);
        let Some(Ok(stream)) = state.run(pin!(accept), |_| false).await else { return };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Box::pin(http2(peer(), stream)).await;
        } else {
            Box::pin(http1(peer(), stream)).await;
        }
        return;
    }
    // A client that says nothing yet costs no more than this.
    let Some(Ok(preface)) = state.run(pin!(speaks_http2(&stream)), over).await else { return };
    if preface {
        Box::pin(http2(peer(), stream)).await;
    } else {
        Box::pin(http1(peer(), stream)).await;
    }
}

/// Who comes to a gateway is one of its environment's machines, or this host. Who on the network knows a gateway has a way to
/// it past every bridge: a computer takes what is for any of its addresses.
fn is_neighbour(address: IpAddr, gateway: Ipv4Addr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || EnvironmentRoute::network_v4(v4) == EnvironmentRoute::network_v4(gateway),
        IpAddr::V6(_) => false,
    }
}

/// HTTP/2 without TLS begins with `PRI`, which is no method that anybody uses.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 3];
    let length = stream.peek(&mut start).await?;
    Ok(length == start.len() && &start == b"PRI")
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(peer: Arc<Peer>, stream: S) {
    let (state, limit) = (peer.state.clone(), peer.shared.config.limits.head_bytes);
    let io = Io { inner: TokioIo::new(stream), state: state.clone(), ends_by_close: !peer.client.secure };
    let service = service_fn(move |request| handle::request(peer.clone(), request));
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(limit)
        .max_buf_size(limit.max(64 << 10) + 8192)
        .serve_connection(io, service)
        .with_upgrades();
    let finish = |connection: Pin<&mut _>| {
        http1::UpgradeableConnection::graceful_shutdown(connection);
        true
    };
    // What goes wrong between a client and us is told to the client by hyper, or there is none any more.
    let _ = state.run(pin!(connection), finish).await;
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(peer: Arc<Peer>, stream: S) {
    let (state, limit) = (peer.state.clone(), peer.shared.config.limits.head_bytes);
    state.polite.store(true, Ordering::Relaxed);
    let service = service_fn(move |request| handle::request(peer.clone(), request));
    let io = Io { inner: TokioIo::new(stream), state: state.clone(), ends_by_close: false };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limit).unwrap_or(u32::MAX))
        .max_concurrent_streams(state.streams())
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 << 10)
        .enable_connect_protocol();
    let gathered = gather(io, |io| builder.serve_connection(io, service));
    let finish = |mut gathered: Pin<&mut Gathered<http2::Connection<_, _, _>, _>>| {
        gathered.connection.as_mut().graceful_shutdown();
        true
    };
    let _ = state.run(pin!(gathered), finish).await;
}

/// Notes that bytes moved.
struct Io<S> {
    inner: TokioIo<S>,
    state: Arc<State>,
    /// A plain connection that has said its last word is closed right behind it, which says so as well: to shut it down before
    /// was a twelfth of what a connection for one request took of a core, in a profile.
    ends_by_close: bool,
}

impl<S: AsyncRead + Unpin> Read for Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if done.is_ready() {
            self.state.moved();
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> Write for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.state.wrote(done.is_ready());
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ends_by_close && !self.state.tunnel.load(Ordering::Relaxed) {
            return Pin::new(&mut self.inner).poll_flush(cx);
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.state.wrote(done.is_ready());
        done
    }
}
