//! How long work waits for who asked for it to take what it tells. It holds locks that others wait for, so whoever takes nothing for so
//! long is as good as gone. (Programs and logs hold none: a terminal may be stopped for as long as its person likes.)

use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use crate::model::Kind;

/// So long one event may take to go.
pub const MOST: Duration = Duration::from_secs(60);

/// Watches over what goes to the other end of a connection.
pub struct Patience<'a> {
    connection: BorrowedFd<'a>,
    most: Duration,
    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Default)]
struct Watched {
    /// Since when something waits to be taken.
    since: Option<Instant>,
    is_over: bool,
}

impl<'a> Patience<'a> {
    /// Runs something that gives by [`Self::give`].
    pub fn with<T>(connection: BorrowedFd<'a>, most: Duration, work: impl FnOnce(&Self) -> T) -> T {
        let patience = Self { connection, most, watched: Mutex::default(), changed: Condvar::new() };
        std::thread::scope(|scope| {
            scope.spawn(|| patience.watch());
            let _over = Over(&patience);
            work(&patience)
        })
    }

    /// Does what waits for the other side. The connection is ended where that takes too long, and with it the waiting.
    pub fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        self.watched().since = Some(Instant::now());
        let given = give();
        self.watched().since = None;
        given
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut watched = self.watched();
        while !watched.is_over {
            let left = watched.since.map_or(self.most, |since| self.most.saturating_sub(since.elapsed()));
            if left.is_zero() {
                return self.hang_up();
            }
            watched = self.changed.wait_timeout(watched, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Who writes or reads there is woken, and whoever waits on a channel hears of it.
    fn hang_up(&self) {
        tracing::warn!("nobody takes what a request tells, so it is cancelled");
        if shutdown(self.connection, Shutdown::Both).is_err() {
            // Pipes have no such end. As a second Ctrl-C: the next command converges.
            std::process::exit(Kind::Cancelled.exit_code().into());
        }
    }
}

/// The watching ends, also where the work panics.
struct Over<'a>(&'a Patience<'a>);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.watched().is_over = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::model::Event;
    use crate::wire::frame::{self, Frame, Patient, Reader};
    use crate::wire::{Broken, Link, Look, Open, Stream, Told};

    /// How many events went to somebody who gives this credit and never reads, until the work was let go.
    fn told_to_who_takes_nothing(credit: u32) -> usize {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let link = Link::new(ours.try_clone().unwrap());
        let channel = link.open(&Open::Look(Look::Platforms), &[]).unwrap();
        let mut reader = Reader::new(Patient::from(OwnedFd::from(ours.try_clone().unwrap())), frame::ASKED);
        let ear = std::thread::spawn(move || link.hear(&mut reader, &mut |_, _| Err(Broken::CutShort)));
        let mut body = vec![Stream::Told as u8];
        body.extend(credit.to_be_bytes());
        frame::write(&mut theirs, &Frame { kind: frame::Kind::Credit, channel: 0, body }).unwrap();
        let told = Told::Event(Event::Note { text: "x".repeat(1000) });
        let count = Patience::with(ours.as_fd(), Duration::from_millis(300), |patience| {
            (0..).take_while(|_| patience.give(|| channel.tell(&told)).is_ok()).count()
        });
        ear.join().unwrap().unwrap();
        assert!(channel.is_gone());
        count
    }

    #[test]
    fn who_takes_nothing_holds_no_work_up() {
        assert_eq!(told_to_who_takes_nothing(0), 0);
        // One message may be longer than the credit.
        assert!(told_to_who_takes_nothing(1) <= 1);
        // Credit for everything, and nobody who reads: now the kernel's buffer is what is full.
        told_to_who_takes_nothing(u32::MAX);
    }
}
