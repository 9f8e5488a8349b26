//! Bodies on their way through: nothing is collected, what the reader does not take is not read.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::connection::Busy;
use super::log;
use super::metrics::Metrics;
use super::pace::Pace;
use super::pool::Lease;
use super::table::Site;
use crate::shares::Share;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a backend is sent.
pub enum Upload {
    Empty,
    /// Small enough to be sent again.
    Whole(Option<Bytes>),
    Stream {
        incoming: Incoming,
        metrics: Arc<Metrics>,
        gate: Option<Pin<Box<Gate>>>,
        pace: Option<Pace>,
    },
}

/// Holds a body back until the backend said `100 Continue`: reading it makes hyper tell the client to send it.
pub struct Gate {
    latch: Arc<Latch>,
    /// RFC 9110 10.1.1: a client does not wait for ever, for the backend may never have heard of it.
    patience: Pin<Box<Sleep>>,
}

/// ```text
/// CLOSED ── 100 Continue, or a second ──▶ OPEN
///    └───── an answer without it ──▶ HELD ── the answer is read ──▶ BROKEN
/// ```
#[derive(Default)]
pub struct Latch {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HELD: u8 = 2;
const BROKEN: u8 = 3;

impl Latch {
    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if changed && let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
        changed
    }

    pub fn open(&self) {
        self.change(CLOSED, OPEN);
    }

    /// The answer came first: an error in the body now would take the answer along.
    pub fn hold(&self) {
        self.change(CLOSED, HELD);
    }

    /// Whether the body was held to the end, which leaves a connection that can't be used again.
    pub fn end(&self) -> bool {
        self.change(HELD, BROKEN)
    }
}

impl Gate {
    pub fn new(latch: Arc<Latch>) -> Self {
        Self { latch, patience: Box::pin(tokio::time::sleep(Duration::from_secs(1))) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        *self.latch.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        match self.latch.state.load(Ordering::Acquire) {
            OPEN => return Poll::Ready(true),
            BROKEN => return Poll::Ready(false),
            HELD => return Poll::Pending,
            _ => {}
        }
        ready!(self.patience.as_mut().poll(cx));
        self.latch.open();
        Poll::Ready(true)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { incoming, metrics, gate, pace } => {
                if let Some(closed) = gate {
                    if !ready!(closed.poll(cx)) {
                        return Poll::Ready(Some(Err("the backend answered without the body".into())));
                    }
                    *gate = None;
                }
                let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
                    let Some(pace) = pace else { return Poll::Pending };
                    return pace.wait(cx).map(|slow| Some(Err(slow.into())));
                };
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    metrics.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                    pace.iter_mut().for_each(|pace| pace.came(data.len()));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Whole(Some(_)) => false,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// What a client is sent.
pub enum Download {
    Whole {
        bytes: Option<Bytes>,
        /// Of the client's requests, where there is no [`Record`] that has it.
        _share: Option<Share>,
    },
    Stream(Pin<Box<Stream>>),
}

impl Download {
    pub fn whole(bytes: Option<Bytes>) -> Self {
        Self::Whole { bytes, _share: None }
    }

    /// The share is given back with the last byte.
    pub fn held(self, share: Share) -> Self {
        match self {
            Self::Whole { bytes, .. } => Self::Whole { bytes, _share: Some(share) },
            Self::Stream(stream) => Self::Stream(stream),
        }
    }
}

/// A backend's answer. It moves the backend's connection along while it is read, and gives it back at the end.
pub struct Stream {
    pub incoming: Incoming,
    pub lease: Option<Lease>,
    pub record: Record,
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole { bytes, .. } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes, .. } => bytes.is_none(),
            Self::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Some(lease) = &mut self.lease
        {
            lease.drive(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => self.record.failed = true,
            None => {}
        }
        Poll::Ready(frame)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A connection with an unread rest can't be used again; the pool notices.
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

/// Counts a request when its answer is over, however it ends.
pub struct Record {
    pub site: Arc<Site>,
    pub began: Instant,
    pub status: u16,
    pub bytes: u64,
    /// The answer broke off.
    pub failed: bool,
    pub line: Option<Box<Line>>,
    /// Keeps the client's connection from being taken for an idle one.
    _busy: Busy,
    /// Of the client's requests, and of those to the site's environment.
    _shares: [Share; 2],
}

/// What the access log says; collected only where somebody reads it.
pub struct Line {
    pub method: hyper::Method,
    pub target: String,
    pub client: std::net::IpAddr,
    pub secure: bool,
    pub backend: String,
    pub attempts: usize,
}

impl Record {
    pub fn new(site: Arc<Site>, busy: Busy, shares: [Share; 2]) -> Self {
        site.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { site, began: Instant::now(), status: 0, bytes: 0, failed: false, line: None, _busy: busy, _shares: shares }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let metrics = &self.site.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        // 499 is what nginx calls a client that left before there was an answer.
        let status = if self.status == 0 { 499 } else { self.status };
        let took = self.began.elapsed();
        metrics.finished(status, took, self.bytes);
        if let Some(line) = &self.line {
            log::add(|out| line.write(out, self, status, took));
        }
    }
}

impl Line {
    /// What a person looks for first comes first; `-` stands for what there was not.
    fn write(&self, out: &mut String, record: &Record, status: u16, took: Duration) {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let scheme = if self.secure { "https" } else { "http" };
        let Self { method, target, client, attempts, .. } = self;
        let (host, bytes, milliseconds) = (&record.site.route.host, record.bytes, took.as_micros() as f64 / 1000.0);
        let backend = if self.backend.is_empty() { "-" } else { &self.backend };
        let broken = if record.failed { " broken" } else { "" };
        writeln!(
            out,
            "{time} {client} {method} {scheme}://{host}{target} {status} {bytes} {milliseconds:.1}ms {backend} {attempts}{broken}"
        )
        .expect("a string takes any text");
    }
}
