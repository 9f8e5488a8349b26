//! A client's connection: TLS, which HTTP it speaks, and how long it may be silent.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::door::{Door, Whom};
use super::gather::{Gathered, gather};
use super::headers::Client;
use super::peer::Peer;
use super::shared::Shared;
use super::sweep::State;
use super::{handle, introduction, pages, world};
use crate::model::EnvironmentRoute;
use crate::shares::Share;

/// Serves a client that has a place left.
pub fn admit(shared: &Arc<Shared>, stream: TcpStream, remote: IpAddr, door: Door) {
    let Some(share) = shared.places.connections.asker(door.whom.gateway(), remote).take() else {
        return refuse(shared, stream, remote, door);
    };
    if door.whom == Whom::World && shared.with_table(|table| table.is_introduced_by(remote)) {
        tokio::spawn(introduced(shared.clone(), stream, remote, door, share));
    } else {
        tokio::spawn(serve(shared.clone(), stream, remote, door, share));
    }
}

/// Serves the client that another speaks for, on a place of its own: the other's was for the time until it said who that is.
async fn introduced(shared: Arc<Shared>, mut stream: TcpStream, remote: IpAddr, door: Door, share: Share) {
    let Ok(Ok(said)) = tokio::time::timeout(introduction::PATIENCE, introduction::read(&mut stream)).await else { return };
    let Some(client) = said else { return serve(shared, stream, remote, door, share).await };
    let own = shared.places.connections.asker(door.whom.gateway(), client).take();
    drop(share);
    match own {
        Some(own) => serve(shared, stream, client, door, own).await,
        None => refuse(&shared, stream, client, door),
    }
}

/// Closes a connection that its client has too many of. It hears why where saying so is cheap: TLS would take a handshake first.
fn refuse(shared: &Shared, mut stream: TcpStream, remote: IpAddr, door: Door) {
    if door.secure {
        return;
    }
    let Some(place) = shared.places.told.asker(door.whom.gateway(), remote).take() else { return };
    tokio::spawn(async move {
        let told = async {
            // What is left unread would take the answer along when the connection is closed.
            let mut head = Vec::new();
            while head.len() < 8 << 10 && !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
            stream.write_all(&refusal(&head, door.whom)).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        drop(place);
    });
}

fn refusal(head: &[u8], whom: Whom) -> Vec<u8> {
    match whom {
        Whom::Host | Whom::Machines(_) => pages::refusal(head),
        Whom::World => world::REFUSAL.to_vec(),
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, remote: IpAddr, door: Door, share: Share) {
    let Door { secure, port, whom } = door;
    let gateway = whom.gateway();
    let state = State::new(&shared, share);
    let address = remote.to_canonical();
    let trusted = shared.config.trusted.iter().any(|net| net.contains(&address));
    let client = Client::new(address, port, secure, trusted);
    if gateway.is_some_and(|gateway| !is_neighbour(address, gateway)) {
        return;
    }
    let peer = |promised| {
        let (shared, state) = (shared.clone(), state.clone());
        let (within, rate) = Default::default();
        let asker = shared.places.requests.asker(gateway, address);
        Arc::new(Peer { shared, state, client, address, whom, promised, asker, within, rate })
    };
    let over = |_: Pin<&mut _>| false;
    if secure {
        let tls = if whom == Whom::World { shared.tls.world.as_ref() } else { Some(&shared.tls.host) };
        let Some(tls) = tls else { return };
        let accept = tls.accept(stream);
        let Some(Ok(stream)) = state.run(pin!(accept), |_| false).await else { return };
        let peer = peer(stream.get_ref().1.server_name().map(Box::from));
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Box::pin(http2(peer, stream)).await;
        } else {
            Box::pin(http1(peer, stream)).await;
        }
        return;
    }
    // A client that says nothing yet costs no more than this.
    let Some(Ok(preface)) = state.run(pin!(speaks_http2(&stream)), over).await else { return };
    if preface {
        Box::pin(http2(peer(None), stream)).await;
    } else {
        Box::pin(http1(peer(None), stream)).await;
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
