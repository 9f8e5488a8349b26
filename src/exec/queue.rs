//! A channel with an end in bytes: who puts in faster than is taken out waits.

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a thing takes besides its bytes.
const EACH: usize = 64;

struct State<T> {
    things: VecDeque<(T, usize)>,
    bytes: usize,
    senders: usize,
    /// Nobody takes any more.
    closed: bool,
}

struct Queue<T> {
    most: usize,
    state: Mutex<State<T>>,
    came: Condvar,
    went: Condvar,
}

impl<T> Queue<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The things end with the last of these.
pub struct Sender<T>(Arc<Queue<T>>);

pub struct Receiver<T>(Arc<Queue<T>>);

/// So many bytes may wait; one thing that is larger waits alone.
pub fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { things: VecDeque::new(), bytes: 0, senders: 1, closed: false };
    let queue = Arc::new(Queue { most, state: Mutex::new(state), came: Condvar::new(), went: Condvar::new() });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<T> Sender<T> {
    /// False once nobody takes anything any more.
    pub fn send(&self, thing: T, bytes: usize) -> bool {
        let bytes = bytes + EACH;
        let mut state = self.0.state();
        while !state.closed && state.bytes > 0 && state.bytes + bytes > self.0.most {
            state = self.0.went.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.bytes += bytes;
        state.things.push_back((thing, bytes));
        drop(state);
        self.0.came.notify_one();
        true
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state().senders -= 1;
        self.0.came.notify_one();
    }
}

impl<T> Receiver<T> {
    /// The next thing, once there is one.
    pub fn next_within(&self, wait: Duration) -> Result<T, RecvTimeoutError> {
        let until = Instant::now() + wait;
        self.wait_for(|state| {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            Ok(self.0.came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
        })
    }

    fn wait_for<'q>(
        &'q self,
        mut wait: impl FnMut(MutexGuard<'q, State<T>>) -> Result<MutexGuard<'q, State<T>>, RecvTimeoutError>,
    ) -> Result<T, RecvTimeoutError> {
        let mut state = self.0.state();
        loop {
            if let Some((thing, bytes)) = state.things.pop_front() {
                state.bytes -= bytes;
                drop(state);
                self.0.went.notify_all();
                return Ok(thing);
            }
            if state.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            state = wait(state)?;
        }
    }
}

impl<T> Iterator for Receiver<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.wait_for(|state| Ok(self.0.came.wait(state).unwrap_or_else(PoisonError::into_inner))).ok()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.things.clear();
        drop(state);
        self.0.went.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_faster_than_is_taken_waits() {
        let (sender, receiver) = bounded(1000);
        let sending = std::thread::spawn(move || (0..1000).all(|number| sender.send(number, 300)));
        for wanted in 0..1000 {
            assert_eq!(receiver.next_within(Duration::from_secs(20)), Ok(wanted));
            assert!(receiver.0.state().bytes <= 1000);
        }
        assert_eq!(receiver.next_within(Duration::from_secs(20)), Err(RecvTimeoutError::Disconnected));
        assert!(sending.join().unwrap());
    }

    #[test]
    fn a_large_thing_goes_alone_and_nobody_waits_for_who_is_gone() {
        let (sender, mut receiver) = bounded(10);
        assert!(sender.send('a', 100));
        assert_eq!(receiver.next_within(Duration::ZERO), Ok('a'));
        assert_eq!(receiver.next_within(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        let sending = std::thread::spawn(move || (0..).take_while(|_| sender.send('b', 100)).count());
        assert_eq!(receiver.next(), Some('b'));
        drop(receiver);
        assert!(sending.join().unwrap() >= 1);
    }
}
