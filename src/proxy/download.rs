//! What a client is sent: nothing is collected, what it does not take is not read of the backend; and what is noted at its end.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::pool::{self, Lease};
use super::sweep::Busy;
use super::table::Site;
use super::{bodyless, headers, log};
use crate::shares::Share;

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

    /// An answer of our own in other words.
    pub fn instead(self, words: &'static str) -> Self {
        match self {
            Self::Whole { _share, .. } => {
                let bytes = (!words.is_empty()).then(|| Bytes::from_static(words.as_bytes()));
                Self::Whole { bytes, _share }
            }
            Self::Stream(stream) => Self::Stream(stream),
        }
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
    pub source: Source,
    pub record: Record,
}

pub enum Source {
    Bodyless(bodyless::Body),
    Hyper {
        incoming: Incoming,
        /// Given back when this is dropped.
        lease: Option<Lease>,
    },
}

/// Why an answer broke off.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole { bytes, .. } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes, .. } => bytes.is_none(),
            Self::Stream(stream) => stream.source.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => stream.source.size(),
        }
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(self.source.poll(cx));
        match &frame {
            Some(Ok(frame)) => self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => self.record.failed = true,
            None => {}
        }
        Poll::Ready(frame)
    }
}

impl Source {
    pub fn hyper(incoming: Incoming, lease: Lease) -> Self {
        Self::Hyper { incoming, lease: Some(lease) }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Bodyless(body) => body.is_over(),
            Self::Hyper { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size(&self) -> SizeHint {
        match self {
            Self::Bodyless(body) => body.size(),
            Self::Hyper { incoming, .. } => incoming.size_hint(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Bodyless(body) => body.poll(cx).map_err(Broken::from),
            Self::Hyper { incoming, lease } => {
                let mut frame = Pin::new(&mut *incoming).poll_frame(cx);
                if frame.is_pending()
                    && let Some(lease) = lease
                {
                    lease.drive(cx);
                    frame = Pin::new(incoming).poll_frame(cx);
                }
                frame.map_err(Broken::from)
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        match self {
            Self::Bodyless(body) => body.take_connection().into_iter().for_each(pool::keep),
            // One with an unread rest can't be used again; the pool notices.
            Self::Hyper { lease, .. } => lease.take().into_iter().for_each(Lease::give_back),
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
    /// Whether cookies stay within the environment's own name; names in the world are whole.
    pub confines: bool,
    /// Keeps the client's connection from being taken for an idle one.
    _busy: Busy,
    /// Of the client's requests, and of those to the site's environment.
    _shares: [Share; 2],
}

/// What the access log says; collected only where somebody reads it.
pub struct Line {
    pub method: hyper::Method,
    /// In the world, the name that was asked for; everywhere else it is the site's own.
    pub host: Option<String>,
    pub target: String,
    pub client: std::net::IpAddr,
    pub secure: bool,
    pub backend: String,
    pub attempts: usize,
}

impl Record {
    pub fn new(site: Arc<Site>, confines: bool, busy: Busy, shares: [Share; 2]) -> Self {
        site.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let (began, line) = (Instant::now(), None);
        Self { site, began, status: 0, bytes: 0, failed: false, line, confines, _busy: busy, _shares: shares }
    }
}

impl Record {
    pub fn confine(&self, headers: &mut hyper::HeaderMap) {
        if self.confines {
            headers::confine_cookies(headers, self.site.environment_host());
        }
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
        let Self { method, host, target, client, attempts, .. } = self;
        let host = host.as_ref().unwrap_or(&record.site.route.host);
        let (bytes, milliseconds) = (record.bytes, took.as_micros() as f64 / 1000.0);
        let backend = if self.backend.is_empty() { "-" } else { &self.backend };
        let broken = if record.failed { " broken" } else { "" };
        writeln!(
            out,
            "{time} {client} {method} {scheme}://{host}{target} {status} {bytes} {milliseconds:.1}ms {backend} {attempts}{broken}"
        )
        .expect("a string takes any text");
    }
}
