//! The side that asks: a greeting, then channels, each of which hears of a first Ctrl-C.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::Stream;
use super::channel::Channel;
use super::frame::{Broken, Reader, Source};
use super::hello::Hello;
use super::link::{Gone, Link};
use super::message::{Control, End, Open};
use crate::model::{Failure, Kind};

/// How long a Ctrl-C may go unnoticed.
const NAP: Duration = Duration::from_millis(50);

/// What is under way, each told once of a first Ctrl-C.
#[derive(Default)]
struct Underway {
    channels: Vec<Weak<Channel>>,
    is_cancelled: bool,
}

/// The other end, greeted.
pub struct Asker {
    link: Link,
    underway: Arc<Mutex<Underway>>,
    pub cancel: Arc<AtomicBool>,
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Self::new(Kind::Program, "hear how it ended")
            .cause("the session that worked for you was ended")
            .hint("run the same command again: it goes on from where it was left")
    }
}

impl Asker {
    /// Greets who answers; `command` is what others read while they wait for it.
    pub fn greet<S: Source + Send + 'static>(
        mut reader: Reader<S>,
        mut out: impl Write + Send + 'static,
        command: String,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        let broken =
            |error: &(dyn std::error::Error + 'static)| Failure::new(Kind::Program, "talk to the service").because(error);
        // One that refuses at once may be gone by now, and what it said is there to read.
        let _ = Hello { command, ..Hello::ours() }.send(&mut out);
        Hello::receive(&mut reader).map_err(|error| broken(&error))?.suits_who_asks()?;
        let link = Link::new(out);
        let ear = link.clone();
        std::thread::spawn(move || {
            let heard = ear.hear(&mut reader, &mut |_, _| Err(Broken::Wrong("it asked for something".into())));
            if let Err(error) = heard {
                tracing::error!(%error, "the session");
            }
        });
        let asker = Self { link, underway: Arc::default(), cancel: Arc::clone(cancel) };
        asker.watch();
        Ok(asker)
    }

    /// Tells every channel of a first Ctrl-C; a second ends this process, which the other side takes for one.
    fn watch(&self) {
        let (underway, cancel) = (Arc::downgrade(&self.underway), Arc::clone(&self.cancel));
        std::thread::spawn(move || {
            while !cancel.load(Ordering::Relaxed) {
                std::thread::sleep(NAP);
                if underway.strong_count() == 0 {
                    return;
                }
            }
            let Some(underway) = underway.upgrade() else { return };
            let mut underway = underway.lock().unwrap_or_else(PoisonError::into_inner);
            underway.is_cancelled = true;
            for channel in underway.channels.iter().filter_map(Weak::upgrade) {
                let _ = channel.control(&Control::Cancel);
            }
        });
    }

    /// Says nothing more: the other side sees the end.
    pub fn leave(&self) {
        self.link.close();
    }

    pub fn channel(&self, open: &Open, granted: &[(Stream, u32)]) -> Result<Arc<Channel>, Failure> {
        let channel = Arc::new(self.link.open(open, granted)?);
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        underway.channels.retain(|known| known.strong_count() > 0);
        underway.channels.push(Arc::downgrade(&channel));
        if underway.is_cancelled {
            channel.control(&Control::Cancel)?;
        }
        Ok(channel)
    }
}

/// The last word on a channel, if it is no failure.
pub fn end_of(channel: &Channel) -> Result<End, Failure> {
    match channel.ended()? {
        End::Failed(failure) => Err(*failure),
        other => Ok(other),
    }
}

pub fn unexpected() -> Failure {
    Failure::new(Kind::Internal, "understand the service").cause("it answered something else than was asked")
}
