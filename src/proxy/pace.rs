//! How slowly a client may send a body: waiting for it costs patience, what it sends earns some of it back.
//!
//! Only bodies of a declared length have to keep the pace. One without may be a stream that has nothing to say for hours, as
//! gRPC's and event sources' are; whoever opens many of these holds them from its own share.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Bytes a second that are enough. A phone at the edge of its network is faster.
const RATE: u32 = 128;

#[derive(Debug, thiserror::Error)]
#[error("the request's body comes too slowly")]
pub struct TooSlow;

pub struct Pace {
    most: Duration,
    left: Duration,
    /// Since when nothing came, and when that is too long.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    pub fn new(patience: Duration) -> Self {
        Self { most: patience, left: patience, waiting: None }
    }

    /// The client is waited for.
    pub fn wait(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let left = self.left;
        let (_, timer) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        timer.as_mut().poll(cx).map(|()| TooSlow)
    }

    /// So many bytes came.
    pub fn came(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            let earned = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / RATE;
            self.left = self.left.saturating_sub(since.elapsed()).saturating_add(earned).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn what_comes_earns_time_and_never_more_than_all_of_it() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut pace = Pace::new(Duration::from_secs(10));
        assert!(pace.wait(&mut cx).is_pending());
        pace.came(1 << 20);
        assert_eq!(pace.left, Duration::from_secs(10));
        pace.left = Duration::from_secs(1);
        assert!(pace.wait(&mut cx).is_pending());
        pace.came(128);
        assert!(pace.left > Duration::from_secs(1) && pace.left <= Duration::from_secs(2), "{:?}", pace.left);
    }

    #[tokio::test]
    async fn who_sends_too_little_is_out_of_time() {
        let mut pace = Pace::new(Duration::ZERO);
        std::future::poll_fn(|cx| pace.wait(cx)).await;
        pace.came(1);
        std::future::poll_fn(|cx| pace.wait(cx)).await;
    }
}
