//! The engine in a session: the other end of the store's socket, where root works for members of the group `adt`.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{Connection, EachSaid, Io, command, files, program};
use crate::engine::Engine;
use crate::engine::logs::{Query, Said};
use crate::logs::{Origin, Record};
use crate::model::{
    EnvironmentId, Event, Exec, Failure, Kind, MachineId, MachineName, PlatformName, Request, Response, SiteName,
};
use crate::session::{GROUP, accept};
use crate::wire::channel::WINDOW;
use crate::wire::frame::{self, Broken, Patient, Reader};
use crate::wire::link::Gone;
use crate::wire::message::{Logs, Platform};
use crate::wire::{Channel, Control, End, Found, Hello, Link, Look, Open, Stream, Told};

/// How long a Ctrl-C may go unnoticed.
const NAP: Duration = Duration::from_millis(50);

/// What is under way, each told once of a first Ctrl-C.
#[derive(Default)]
struct Underway {
    channels: Vec<Weak<Channel>>,
    is_cancelled: bool,
}

pub struct Remote {
    link: Link,
    underway: Arc<Mutex<Underway>>,
    cancel: Arc<AtomicBool>,
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

impl Remote {
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
        let remote = Self { link, underway: Arc::default(), cancel: Arc::clone(cancel) };
        remote.watch();
        Ok(remote)
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

    pub(super) fn channel(&self, open: &Open, granted: &[(Stream, u32)]) -> Result<Arc<Channel>, Failure> {
        let channel = Arc::new(self.link.open(open, granted)?);
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        underway.channels.retain(|known| known.strong_count() > 0);
        underway.channels.push(Arc::downgrade(&channel));
        if underway.is_cancelled {
            channel.control(&Control::Cancel)?;
        }
        Ok(channel)
    }

    fn look(&self, look: Look) -> Result<Found, Failure> {
        match end_of(&*self.channel(&Open::Look(look), &[])?)? {
            End::Found(found) => Ok(found),
            End::Answered(_) | End::Ended { .. } | End::Failed(_) => Err(unexpected()),
        }
    }

    /// Everything that is told until the end.
    fn listen(&self, open: &Open, each: &mut dyn FnMut(Told) -> bool) -> Result<End, Failure> {
        let channel = self.channel(open, &[(Stream::Told, WINDOW)])?;
        while let Some(told) = channel.told() {
            let told = told.map_err(|error| Failure::new(Kind::Program, "understand the service").because(&error))?;
            if !each(told) {
                return Ok(End::Found(Found::Nothing));
            }
        }
        end_of(&channel)
    }
}

/// The last word on a channel, if it is no failure.
pub(super) fn end_of(channel: &Channel) -> Result<End, Failure> {
    match channel.ended()? {
        End::Failed(failure) => Err(*failure),
        other => Ok(other),
    }
}

pub(super) fn unexpected() -> Failure {
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

impl Connection for Remote {
    fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        match self.look(Look::Platforms)? {
            Found::Platforms(platforms) => Ok(platforms),
            _ => Err(unexpected()),
        }
    }

    fn machine_names(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure> {
        match self.look(Look::Machines(id.clone()))? {
            Found::Machines(names) => Ok(names),
            _ => Err(unexpected()),
        }
    }

    fn machine(&self, id: &EnvironmentId, name: &MachineName) -> Result<MachineId, Failure> {
        self.look(Look::Machine(id.machine(name)))?;
        Ok(id.machine(name))
    }

    fn site_names(&self, platform: &PlatformName) -> Vec<SiteName> {
        match self.look(Look::Sites(platform.clone())) {
            Ok(Found::Sites(sites)) => sites,
            _ => Vec::new(),
        }
    }

    fn run(&self, request: &Request, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        if let Request::EnvCopy { id, machine, copy } = request {
            return files::copy(self, &self.machine(id, machine)?, copy, &self.cancel);
        }
        let end = self.listen(&Open::Ask(request.clone()), &mut |told| {
            if let Told::Event(event) = told {
                each(event);
            }
            true
        });
        match end? {
            End::Answered(answer) => Ok(answer.0),
            End::Found(_) | End::Ended { .. } | End::Failed(_) => Err(unexpected()),
        }
    }

    /// The session sees to it.
    fn refresh_behind(&self, _: &Request) -> Result<(), Failure> {
        Ok(())
    }

    fn exec(&self, machine: &MachineId, exec: &Exec, io: Io<'_>) -> Result<i32, Failure> {
        program::run(self, machine, exec, io)
    }

    fn console(&self, machine: &MachineId) -> Result<(), Failure> {
        program::console(self, machine)
    }

    fn logs(&self, query: &Query, each: &mut EachSaid<'_>) -> Result<(), Failure> {
        let open = Open::Logs(Logs {
            id: query.id.clone(),
            machines: query.machines.clone(),
            site: query.site.clone(),
            since: query.since,
            until: query.until,
            grep: query.grep.as_ref().map(|grep| grep.as_str().to_owned()),
            lines: query.lines,
            follow: query.follow,
        });
        let end = self.listen(&open, &mut |told| {
            let said = match told {
                Told::Note(note) => Said::Note(note),
                Told::Record(record) => Said::Record(Record {
                    time: record.time,
                    origin: Arc::new(Origin { id: record.machine, fqdn: record.fqdn }),
                    unit: record.unit,
                    severity: record.severity,
                    message: record.message,
                    mark: None,
                }),
                Told::Event(_) => return true,
            };
            each(said).is_continue()
        });
        end.map(drop)
    }

    fn engine(&self) -> Result<&Engine, Failure> {
        Err(crate::session::only_root())
    }

    /// The session tidies up when it sees that we went.
    fn leave(&self) {}
}
