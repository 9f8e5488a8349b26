//! How long a connection may be silent: what it notes of itself, the look at all of them once a second, and the word to end.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use super::shared::Shared;
use crate::shares::Share;

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
    pub polite: AtomicBool,
    /// Bytes go through it that are not HTTP: either side may end first.
    pub tunnel: AtomicBool,
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

    pub fn moved(&self) {
        self.moved.store(self.moved.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub fn wrote(&self, taken: bool) {
        self.unread.store(!taken, Ordering::Relaxed);
        if taken {
            self.moved();
            self.written.store(self.written.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Of HTTP/2 at a time: fewer for each connection of a client that has many.
    pub fn streams(&self) -> u32 {
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

/// How much of this thread's connections has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Those that have asked something finish that.
    Asked,
    /// All finish what they asked.
    All,
    /// All end, whatever they asked.
    Now,
}

pub fn drain(what: Drain) {
    each(|state| match what {
        Drain::Asked if state.begun.load(Ordering::Relaxed) == 0 => {}
        Drain::Asked | Drain::All => state.judge(FINISH),
        Drain::Now => state.judge(END),
    });
}

fn each(act: impl Fn(&State)) {
    CONNECTIONS.with_borrow_mut(|all| {
        all.retain(|state| state.upgrade().inspect(|state| act(state)).is_some());
        if all.capacity() > 1024 && all.len() < all.capacity() / 4 {
            all.shrink_to_fit();
        }
    });
}
