//! A thread's own connections to backends. No other thread sees them, so taking one costs no lock.
//!
//! There are three kinds: [`super::bodyless`] for requests that have no body, hyper's HTTP/1.1 for those that have one, and one HTTP/2
//! connection for all requests to a backend that speaks it. hyper's HTTP/1.1 is moved along by whoever waits for its answer until
//! there is a body: then both directions must move on their own, so the connection becomes a task.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::bodyless;
use super::table::now;
use super::upload::{Latch, Upload};
use crate::shares::Share;

type Driver = http1::Connection<TokioIo<TcpStream>, Upload>;

/// For each backend and thread.
const IDLE: usize = 256;
/// Shorter than most servers' own patience, so that they seldom close under a request.
const IDLE_MILLISECONDS: u64 = 30_000;

#[derive(Default)]
struct Pool {
    bodyless: HashMap<SocketAddr, Vec<bodyless::Connection>>,
    http1: HashMap<SocketAddr, Vec<Http1>>,
    http2: HashMap<SocketAddr, http2::SendRequest<Upload>>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// A connection that one request has to itself.
pub struct Http1 {
    pub sender: http1::SendRequest<Upload>,
    driver: Option<Pin<Box<Driver>>>,
    address: SocketAddr,
    /// Since when it is idle.
    since: u64,
    /// Of its environment's connections.
    _place: Share,
    /// Of a request that expects `100 Continue`.
    pub latch: Option<Arc<Latch>>,
}

/// What an answer holds on to.
pub enum Lease {
    Http1(Http1),
    /// Shared by many requests; kept by the pool.
    Http2,
}

/// The youngest idle connection for a request without a body.
pub fn take_bodyless(address: SocketAddr) -> Option<bodyless::Connection> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.bodyless.get_mut(&address)?;
        std::iter::from_fn(|| idle.pop()).find(bodyless::Connection::is_alive)
    })
}

/// For the next request.
pub fn keep(connection: bodyless::Connection) {
    with(|pool| put(pool.bodyless.entry(connection.address).or_default(), connection));
}

fn put<T>(idle: &mut Vec<T>, connection: T) {
    if idle.len() < IDLE {
        idle.push(connection);
    }
}

/// The thread may be ending, or closing connections that give themselves back.
fn with(work: impl FnOnce(&mut Pool)) {
    let _ = POOL.try_with(|pool| pool.try_borrow_mut().map(|mut pool| work(&mut pool)));
}

/// The youngest idle connection of at most this age.
pub fn take(address: SocketAddr, age: u64) -> Option<Http1> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.http1.get_mut(&address)?;
        while let Some(mut connection) = idle.pop() {
            if now().saturating_sub(connection.since) > age {
                // Those below it are older still.
                idle.clear();
                return None;
            }
            if connection.is_alive() {
                return Some(connection);
            }
        }
        None
    })
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A new connection for requests without a body.
pub async fn dial_bodyless(address: SocketAddr, place: Share) -> std::io::Result<bodyless::Connection> {
    Ok(bodyless::Connection::new(connect(address).await?, address, place))
}

/// A new connection.
pub async fn dial(address: SocketAddr, place: Share) -> std::io::Result<Http1> {
    let stream = connect(address).await?;
    let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    Ok(Http1 { sender, driver: Some(Box::pin(driver)), address, since: now(), _place: place, latch: None })
}

/// The thread's one HTTP/2 connection to the backend.
pub fn http2(address: SocketAddr) -> Option<http2::SendRequest<Upload>> {
    POOL.with_borrow_mut(|pool| pool.http2.get(&address).filter(|sender| !sender.is_closed()).cloned())
}

/// A new one, for the requests to come too.
pub async fn dial_http2(address: SocketAddr, place: Share) -> std::io::Result<http2::SendRequest<Upload>> {
    let stream = connect(address).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
    let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move { drop((driver.await, place)) });
    POOL.with_borrow_mut(|pool| pool.http2.insert(address, sender.clone()));
    Ok(sender)
}

/// Forgets a shared connection that broke.
pub fn forget(address: SocketAddr) {
    POOL.with_borrow_mut(|pool| pool.http2.remove(&address));
}

/// Closes what is idle for too long and what leads to backends that no route names any more.
pub fn sweep(wanted: &HashSet<SocketAddr>) {
    let oldest = now().saturating_sub(IDLE_MILLISECONDS);
    POOL.with_borrow_mut(|pool| {
        pool.bodyless.retain(|address, idle| {
            idle.retain(|connection| connection.since >= oldest && connection.is_alive());
            wanted.contains(address) && !idle.is_empty()
        });
        pool.http1.retain(|address, idle| {
            idle.retain_mut(|connection| connection.since >= oldest && connection.is_alive());
            wanted.contains(address) && !idle.is_empty()
        });
        // Requests that run hold a sender of their own; the connection ends with the last.
        pool.http2.retain(|address, sender| wanted.contains(address) && !sender.is_closed());
    });
}

impl Http1 {
    /// Moves the connection along, if nobody else does.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Makes it a task of its own.
    pub fn spawn(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move { drop(driver.await) });
        }
    }

    /// Like `spawn`, for a connection that may turn into something other than HTTP.
    pub fn spawn_upgradeable(&mut self) {
        if let Some(driver) = self.driver.take() {
            let driver = *Pin::into_inner(driver);
            tokio::spawn(async move { drop(driver.with_upgrades().await) });
        }
    }

    fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    fn keep(mut self) {
        self.since = now();
        with(|pool| put(pool.http1.entry(self.address).or_default(), self));
    }
}

impl Lease {
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(connection) => connection.drive(cx),
            Self::Http2 => {}
        }
    }

    /// Back to the pool, if the answer was read to its end.
    pub fn give_back(self) {
        let Self::Http1(mut connection) = self else { return };
        if connection.latch.take().is_some_and(|latch| latch.end()) {
            return;
        }
        let inline = connection.driver.is_some();
        if connection.is_alive() {
            connection.keep();
        } else if !inline && !connection.sender.is_closed() && tokio::runtime::Handle::try_current().is_ok() {
            // Its own task has not seen the end yet.
            tokio::spawn(async move {
                if connection.sender.ready().await.is_ok() {
                    connection.keep();
                }
            });
        }
    }
}
