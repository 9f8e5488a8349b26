//! The socket of the service, where root works for members of the group `adt`: the greeting, and what is under way over it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::local::command;
use crate::model::{Failure, Kind};
use crate::session::{GROUP, accept};
use crate::wire::frame::{self, Broken, Patient, Reader};
use crate::wire::link::Gone;
use crate::wire::{Channel, Control, End, Hello, Link, Open, Stream};

/// How long a Ctrl-C may go unnoticed.
const NAP: Duration = Duration::from_millis(50);

/// What is under way, each told once of a first Ctrl-C.
#[derive(Default)]
struct Underway {
    channels: Vec<Weak<Channel>>,
    is_cancelled: bool,
}

/// The other end of the socket, greeted.
pub struct Service {
    link: Link,
    underway: Arc<Mutex<Underway>>,
    pub cancel: Arc<AtomicBool>,
}

/// What everybody hears who is neither root nor let in.
pub fn need_root() -> Failure {
    Failure::new(Kind::Privilege, "work with machines")
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Self::new(Kind::Program, "hear how it ended")
            .cause("the session that worked for you was ended")
            .hint("run the same command again: it goes on from where it was left")
    }
}

impl Service {
    pub fn open(store: &Path, cancel: &Arc<AtomicBool>) -> Result<Self, Failure> {
        let path = accept::socket(store);
        let stream = UnixStream::connect(&path).map_err(|error| not_let_in(&path, &error))?;
        let broken =
            |error: &(dyn std::error::Error + 'static)| Failure::new(Kind::Program, "talk to the service").because(error);
        let input = stream.try_clone().map_err(|error| broken(&error))?;
        let mut reader = Reader::new(Patient::from(std::os::fd::OwnedFd::from(input)), frame::ANSWERED);
        let mut out = stream;
        // One that refuses at once may be gone by now, and what it said is there to read.
        let _ = Hello { command: command(), ..Hello::ours() }.send(&mut out);
        Hello::receive(&mut reader).map_err(|error| broken(&error))?.suits_who_asks()?;
        let link = Link::new(out);
        let ear = link.clone();
        std::thread::spawn(move || {
            let heard = ear.hear(&mut reader, &mut |_, _| Err(Broken::Wrong("it asked for something".into())));
            if let Err(error) = heard {
                tracing::error!(%error, "the session");
            }
        });
        let service = Self { link, underway: Arc::default(), cancel: Arc::clone(cancel) };
        service.watch();
        Ok(service)
    }

    /// Tells every channel of a first Ctrl-C; a second ends this process, which the other side takes for one.
    fn watch(&self) {
        let (underway, cancel) = (Arc::clone(&self.underway), Arc::clone(&self.cancel));
        std::thread::spawn(move || {
            while !cancel.load(Ordering::Relaxed) {
                std::thread::sleep(NAP);
            }
            let mut underway = underway.lock().unwrap_or_else(PoisonError::into_inner);
            underway.is_cancelled = true;
            for channel in underway.channels.iter().filter_map(Weak::upgrade) {
                let _ = channel.control(&Control::Cancel);
            }
        });
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

fn not_let_in(path: &Path, error: &io::Error) -> Failure {
    let failure = need_root();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.cause(format!("`{}` is open to members of the group `{GROUP}` only", path.display())).hint(format!(
                "become one with `sudo usermod -aG {GROUP} $USER`, which counts from your next login on; or run the same command \
                 with `sudo`"
            ))
        }
        io::ErrorKind::ConnectionRefused => failure
            .cause(format!("nobody listens at `{}`", path.display()))
            .hint("start the service with `sudo adt host:up --detach`, or run the same command with `sudo`"),
        _ => failure
            .cause(format!("adt needs root for namespaces, mounts and bridges, and nobody works for you at `{}`", path.display()))
            .hint("run the same command with `sudo`")
            .hint(format!(
                "to do without: `sudo adt host:bootstrap`, `sudo adt host:up --detach`, and be a member of the group `{GROUP}`"
            )),
    }
}
