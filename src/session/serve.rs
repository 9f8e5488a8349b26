//! One session: from the greeting of somebody unknown to the end of what he asked for.
//!
//! ```text
//! descriptor 0 ─ who? ─ may he? ─ Hello ─┬─ Open {request}  one after the other, by the engine
//!                                        ├─ Open {serve}    the same, of who came over `ssh` as root: see [`crate::servers`]
//!                                        ├─ Open {program}  several at a time
//!                                        ├─ at each Open: who? may he still?
//!                                        └─ the other side goes: a first Ctrl-C to all of it, then the end
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex::Regex;
use rustix::fs::{Mode, OFlags};
use rustix::stdio;

use super::patience::{self, Patience};
use super::peer::{self, Peer};
use super::{check, program};
use crate::config::HostSettings;
use crate::disk;
use crate::engine::Engine;
use crate::engine::logs::{Query, Said};
use crate::engine::target::Brought;
use crate::model::seat::Key;
use crate::model::{EnvironmentId, Event, Failure, Kind, Request, Response};
use crate::servers;
use crate::servers::session::whole;
use crate::store::Lock;
use crate::wire::channel::{Heard, Incoming, WINDOW};
use crate::wire::frame::{self, Broken, Patient, Reader};
use crate::wire::message::{Answer, Logs, Platform, Record};
use crate::wire::{Channel, Control, End, Found, Hello, Link, Look, Open, Serve, Stream, Told};

/// How somebody came to descriptors 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through the service's socket: the kernel says who it is.
    Socket,
    /// Over `ssh`, which runs this program: they are whoever it runs as, and sshd has seen to that.
    Program,
}

/// Serves whoever is at descriptors 0 and 1, until they go. `cancel` is set by signals as well.
pub fn run(way: Way, settings: impl FnOnce() -> Result<HostSettings, Failure>, cancel: Arc<AtomicBool>) -> Result<(), Failure> {
    let told = |error: &(dyn std::error::Error + 'static)| Failure::new(Kind::Host, "serve a session").because(error);
    let (input, output) = take_ends().map_err(|error| told(&error))?;
    let uid = match way {
        Way::Socket => peer::user_of(input.as_fd()).map_err(|error| told(&error))?,
        Way::Program => rustix::process::geteuid().as_raw(),
    };
    let mut out = std::fs::File::from(output);
    let mut reader = Reader::new(Patient::from(input), frame::ASKED);
    let hello = Hello::receive(&mut reader).map_err(|error| told(&error))?;
    let opened = open(uid, &hello, settings, cancel);
    let greeting = Hello { refused: opened.as_ref().err().cloned(), ..Hello::ours() };
    greeting.send(&mut out).map_err(|error| told(&error))?;
    let Ok((peer, engine)) = opened else { return Ok(()) };
    let connection = OwnedFd::from(out.try_clone().map_err(|error| told(&error))?);
    let is_operator = way == Way::Program && uid == 0;
    let session = Session { peer, connection, engine, asking: Mutex::default(), is_operator, held: Mutex::default() };
    let ended = session.serve(&Link::new(out), &mut reader);
    session.engine.remove_behind();
    ended.map_err(|broken| told(&broken))
}

/// The connection leaves 0 and 1 to those who expect something harmless there.
fn take_ends() -> io::Result<(OwnedFd, OwnedFd)> {
    let ends = (stdio::stdin().try_clone_to_owned()?, stdio::stdout().try_clone_to_owned()?);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    Ok(ends)
}

/// Everything that may be refused, before anything is done.
fn open(
    uid: u32,
    hello: &Hello,
    settings: impl FnOnce() -> Result<HostSettings, Failure>,
    cancel: Arc<AtomicBool>,
) -> Result<(Peer, Engine), Failure> {
    hello.suits_who_answers()?;
    let peer = check::look_up(uid)?;
    // What whoever started the service had there is nobody's choice here.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    std::env::set_current_dir("/").map_err(|error| Failure::new(Kind::Host, "serve a session").because(&error))?;
    let engine = Engine::open(settings()?, check::caller(&peer, &hello.command), cancel)?;
    Ok((peer, engine))
}

/// The longest definition: its files may have a megabyte, and JSON can make six letters of one.
const MOST_DEFINITION: u64 = 16 << 20;

/// Work that takes where its events go.
type Work<'a> = dyn FnMut(&mut dyn FnMut(Event)) -> Result<Response, Failure> + 'a;

/// The program that was put here answers, so the one before it goes; see [`crate::servers`].
fn settle() -> Result<(), Failure> {
    let before = crate::engine::program()?.with_file_name(servers::BEFORE);
    disk::remove(&before).map_err(|error| Failure::new(Kind::Host, format!("remove `{}`", before.display())).because(&error))
}

struct Session {
    /// As the system knew them when they came.
    peer: Peer,
    connection: OwnedFd,
    engine: Engine,
    /// One request at a time: they share the flag that stops them.
    asking: Mutex<()>,
    /// Root, of a target's server.
    is_operator: bool,
    /// What nobody else may change until this session ends.
    held: Mutex<BTreeMap<EnvironmentId, Lock>>,
}

impl Session {
    fn serve(&self, link: &Link, reader: &mut Reader<Patient>) -> Result<(), Broken> {
        std::thread::scope(|scope| {
            link.hear(reader, &mut |channel, open| {
                // A connection may stay for days, and who left the group meanwhile asks nothing more; what still runs for them is
                // cancelled with the connection.
                if let Err(failure) = check::look_again(&self.peer) {
                    let why = failure.to_string();
                    let _ = channel.end(&End::Failed(Box::new(failure)));
                    return Err(Broken::Wrong(why));
                }
                let serve = move || {
                    let end = self.answer(&channel, open).unwrap_or_else(|failure| End::Failed(Box::new(failure)));
                    // Whoever went away hears no more of it.
                    let _ = channel.end(&end);
                };
                std::thread::Builder::new().spawn_scoped(scope, serve)?;
                Ok(())
            })
        })
    }

    fn answer(&self, channel: &Channel, open: Open) -> Result<End, Failure> {
        match open {
            Open::Ask(request) => self.ask(channel, request),
            Open::Look(look) => self.look(look).map(End::Found),
            Open::Logs(logs) => self.logs(channel, logs),
            Open::Serve(serve) if self.is_operator => self.operate(channel, serve),
            Open::Serve(_) => Err(check::only_root()),
            Open::Run(run) => {
                let machine = self.engine.enter(&run.machine.environment, &run.machine.machine)?;
                program::run(&self.engine, channel, &machine, &run)
            }
            Open::Console(machine, window) => {
                let machine = self.engine.enter(&machine.environment, &machine.machine)?;
                program::console(&self.engine, channel, &machine, window)
            }
        }
    }

    fn ask(&self, channel: &Channel, request: Request) -> Result<End, Failure> {
        check::may_ask(&request)?;
        let response = self.cancellable(channel, || {
            // Nobody who hears it: the flag is set, and the work ends at its next step.
            Patience::with(self.connection.as_fd(), patience::MOST, |patience| {
                self.engine.run(request.clone(), &mut |event| _ = patience.give(|| channel.tell(&Told::Event(event))))
            })
        })?;
        if let Err(failure) = self.engine.refresh_behind(&request) {
            tracing::warn!(%failure, "the next command tries again");
        }
        Ok(End::Answered(Answer(response)))
    }

    /// What the operator of a target asks of this server.
    fn operate(&self, channel: &Channel, serve: Serve) -> Result<End, Failure> {
        match serve {
            Serve::Settle => settle().map(|()| End::Found(Found::Nothing)),
            Serve::Hold { id, by } => {
                if let Entry::Vacant(place) = self.held().entry(id.clone()) {
                    place.insert(self.engine.hold_target(&id, &by)?);
                }
                Ok(End::Found(Found::Nothing))
            }
            Serve::Standing { id, read } => {
                let standing = self.cancellable(channel, || self.engine.standing(&id, &read))?;
                Ok(End::Found(Found::Standing(Box::new(standing))))
            }
            Serve::Access => Ok(End::Found(Found::Access(Box::new(self.engine.access()?)))),
            Serve::TryAccess { change, by } => {
                let number = self.cancellable(channel, || self.engine.try_access(&change, &by))?;
                Ok(End::Found(Found::Trial(number)))
            }
            Serve::KeepAccess { number } => self.engine.keep_access(number).map(|()| End::Found(Found::Nothing)),
            Serve::Layers => self.change(channel, &mut |each| {
                let mut from = self.input(channel)?;
                self.engine.box_import(&mut from, Path::new("the connection"), each)
            }),
            Serve::Releases => self.change(channel, &mut |each| self.engine.take_releases(&mut self.input(channel)?, each)),
            Serve::Joining { id, make } => {
                let joining = self.cancellable(channel, || self.engine.joining(&id, make))?;
                Ok(End::Found(Found::Joining(Box::new(joining))))
            }
            Serve::Key { id } => {
                self.must_hold(&id, false)?;
                Ok(End::Found(Found::Key(Key(self.engine.store.keys.share(&id)?))))
            }
            Serve::TakeKey { id, key } => {
                self.must_hold(&id, false)?;
                self.engine.take_key(&id, &key).map(|()| End::Found(Found::Nothing))
            }
            Serve::Tie { id, toward } => {
                self.must_hold(&id, false)?;
                self.cancellable(channel, || self.engine.tie_ahead(&id, &toward))?;
                Ok(End::Found(Found::Nothing))
            }
            Serve::Define { id, by, from, seat, dry_run } => self.change(channel, &mut |each| {
                self.must_hold(&id, dry_run)?;
                let read = whole(self.input(channel)?, MOST_DEFINITION);
                let text = read.map_err(|error| Failure::new(Kind::Conflict, "take the definition").because(&error))?;
                let brought = Brought { id: &id, by: &by, from: &from, text: &text, seat: seat.as_ref() };
                self.engine.define_target(&brought, dry_run, each)
            }),
            Serve::Rollback { id, by, back, dry_run } => self.change(channel, &mut |each| {
                self.must_hold(&id, dry_run)?;
                self.engine.undo_promotion(&id, &by, &back, dry_run, each)
            }),
        }
    }

    /// Work that tells events, and ends with its operator.
    fn change(&self, channel: &Channel, work: &mut Work<'_>) -> Result<End, Failure> {
        let response = self.cancellable(channel, || {
            Patience::with(self.connection.as_fd(), patience::MOST, |patience| {
                work(&mut |event| _ = patience.give(|| channel.tell(&Told::Event(event))))
            })
        })?;
        Ok(End::Answered(Answer(response)))
    }

    fn input<'c>(&self, channel: &'c Channel) -> Result<Incoming<'c>, Failure> {
        channel.grant(Stream::In, WINDOW as usize)?;
        Ok(channel.incoming(Stream::In))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<EnvironmentId, Lock>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn must_hold(&self, id: &EnvironmentId, dry_run: bool) -> Result<(), Failure> {
        if dry_run || self.held().contains_key(id) {
            return Ok(());
        }
        Err(Failure::new(Kind::Conflict, format!("change `{id}`")).cause("this connection has not said that it is at it"))
    }

    /// Runs what looks at the engine's flag, one at a time, while the other side's words and its going away set it.
    fn cancellable<T>(&self, channel: &Channel, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let cancel = &self.engine.cancel;
        cancel.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    match channel.heard() {
                        Heard::Done => return,
                        Heard::Control(Control::Cancel) | Heard::Gone if cancel.swap(true, Ordering::SeqCst) => {
                            // As a second Ctrl-C: the next command converges.
                            std::process::exit(Kind::Cancelled.exit_code().into());
                        }
                        Heard::Gone => return,
                        Heard::Control(_) => {}
                    }
                }
            });
            let done = work();
            channel.done();
            done
        })
    }

    fn look(&self, look: Look) -> Result<Found, Failure> {
        Ok(match look {
            Look::Platforms => {
                let records = self.engine.store.database.platforms()?;
                Found::Platforms(
                    records.into_iter().map(|record| Platform { name: record.name, folder: record.folder }).collect(),
                )
            }
            Look::Machines(id) => Found::Machines(self.engine.machine_names(&id)?),
            Look::Machine(id) => {
                self.engine.enter(&id.environment, &id.machine)?;
                Found::Nothing
            }
            Look::Sites(platform) => Found::Sites(self.engine.site_names(&platform)),
        })
    }

    fn logs(&self, channel: &Channel, logs: Logs) -> Result<End, Failure> {
        let Logs { id, machines, site, since, until, grep, lines, follow } = logs;
        let wrong = |error: regex::Error| Failure::new(Kind::Usage, "read the command line").because(&error);
        let grep = grep.map(|text| Regex::new(&text)).transpose().map_err(wrong)?;
        let query = Query { id, machines, site, since, until, grep, lines, follow };
        self.cancellable(channel, || {
            self.engine.logs(&query, &mut |said| {
                let told = match said {
                    Said::Note(note) => Told::Note(note),
                    Said::Record(record) => Told::Record(Record {
                        time: record.time,
                        machine: record.origin.id.clone(),
                        fqdn: record.origin.fqdn.clone(),
                        unit: record.unit,
                        severity: record.severity,
                        message: record.message,
                    }),
                };
                channel.tell(&told).map_or(std::ops::ControlFlow::Break(()), std::ops::ControlFlow::Continue)
            })
        })?;
        Ok(End::Found(Found::Nothing))
    }
}
