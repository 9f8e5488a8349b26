//! What a backend is sent: nothing is collected, what it does not take is not read of the client.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::metrics::Metrics;
use super::pace::Pace;

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
