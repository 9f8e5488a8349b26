//! What a client is sent: nothing is collected, what it does not take is not read of the backend; and what is noted at its end.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::log;
use super::pool::Lease;
use super::sweep::Busy;
use super::table::Site;
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
