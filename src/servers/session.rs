//! A session of adt on a server: requests and what else its operator asks, over the connection that is open.

use std::io::{self, Read, Write};
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::complaint::why;
use crate::exec::Wired;
use crate::model::access::{AccessChange, AccessReport};
use crate::model::response::Standing;
use crate::model::seat::{Joining, Key, Toward};
use crate::model::target::Server;
use crate::model::{Digest, EnvironmentId, Event, Failure, Kind, Request, Response};
use crate::wire::asker::unexpected;
use crate::wire::channel::WINDOW;
use crate::wire::frame::{self, Patient, Reader};
use crate::wire::link::Gone;
use crate::wire::{Asker, Channel, Control, End, Found, Open, Serve, Stream, Told};

/// It ends, and with it what it holds there, when this is dropped.
pub struct Session {
    pub server: Server,
    asker: Asker,
    ssh: Wired,
}

impl Drop for Session {
    /// Who is next must find nothing held: the other side sees the end of its input, lets go and ends, and `ssh` with it.
    fn drop(&mut self) {
        self.asker.leave();
        self.ssh.rest();
    }
}

/// Takes what is told from there.
pub type Each<'a> = dyn FnMut(Event) + Send + 'a;

impl Session {
    pub(super) fn open(
        server: Server,
        ssh: Wired,
        input: ChildStdin,
        output: Patient,
        command: &str,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        let reader = Reader::new(output, frame::ANSWERED);
        match Asker::greet(reader, input, command.to_owned(), cancel) {
            Ok(asker) => Ok(Self { server, asker, ssh }),
            // Understood, and refused: no more is wrong with the connection.
            Err(failure) if failure.kind != Kind::Program => Err(failure),
            Err(failure) => {
                let told = why(&server, ssh, &io::Error::other(failure.to_string()));
                Err(Failure { sentence: format!("talk to the adt on `{server}`"), ..told })
            }
        }
    }

    /// For those who ask more than a promotion does.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Opens a channel, and hands over what is told on it until its end.
    fn ask(&self, open: &Open, each: &mut Each<'_>) -> Result<End, Failure> {
        let channel = self.asker.channel(open, &[(Stream::Told, WINDOW)])?;
        listen(&channel, each).and_then(|()| self.end_of(&channel))
    }

    /// The last word, if it is no failure. Whoever has several servers wants to know which one went away.
    fn end_of(&self, channel: &Channel) -> Result<End, Failure> {
        let gone = |_: Gone| {
            let failure = Failure::new(Kind::Program, format!("hear from `{}` how it ended", self.server));
            failure.cause("the connection to it broke").hint("run the same command again: it goes on from where it was left")
        };
        match channel.ended().map_err(gone)? {
            End::Failed(failure) => Err(*failure),
            other => Ok(other),
        }
    }

    pub fn run(&self, request: &Request, each: &mut Each<'_>) -> Result<Response, Failure> {
        response(self.ask(&Open::Ask(request.clone()), each)?)
    }

    pub fn settle(&self) -> Result<(), Failure> {
        self.ask(&Open::Serve(Serve::Settle), &mut |_| ()).map(drop)
    }

    pub fn hold(&self, id: &EnvironmentId, by: &str) -> Result<(), Failure> {
        self.ask(&Open::Serve(Serve::Hold { id: id.clone(), by: by.to_owned() }), &mut |_| ()).map(drop)
    }

    pub fn standing(&self, id: &EnvironmentId, read: Vec<Digest>) -> Result<Standing, Failure> {
        match self.ask(&Open::Serve(Serve::Standing { id: id.clone(), read }), &mut |_| ())? {
            End::Found(Found::Standing(standing)) => Ok(*standing),
            _ => Err(unexpected()),
        }
    }

    pub fn access(&self) -> Result<AccessReport, Failure> {
        match self.ask(&Open::Serve(Serve::Access), &mut |_| ())? {
            End::Found(Found::Access(report)) => Ok(*report),
            _ => Err(unexpected()),
        }
    }

    pub fn joining(&self, id: &EnvironmentId, make: bool) -> Result<Joining, Failure> {
        match self.ask(&Open::Serve(Serve::Joining { id: id.clone(), make }), &mut |_| ())? {
            End::Found(Found::Joining(joining)) => Ok(*joining),
            _ => Err(unexpected()),
        }
    }

    pub fn key(&self, id: &EnvironmentId) -> Result<Key, Failure> {
        match self.ask(&Open::Serve(Serve::Key { id: id.clone() }), &mut |_| ())? {
            End::Found(Found::Key(key)) => Ok(key),
            _ => Err(unexpected()),
        }
    }

    pub fn take_key(&self, id: &EnvironmentId, key: &Key) -> Result<(), Failure> {
        self.ask(&Open::Serve(Serve::TakeKey { id: id.clone(), key: key.clone() }), &mut |_| ()).map(drop)
    }

    pub fn tie(&self, id: &EnvironmentId, toward: &Toward) -> Result<(), Failure> {
        self.ask(&Open::Serve(Serve::Tie { id: id.clone(), toward: toward.clone() }), &mut |_| ()).map(drop)
    }

    /// A change on trial, and its number.
    pub fn try_access(&self, change: &AccessChange, by: &str) -> Result<u64, Failure> {
        let serve = Serve::TryAccess { change: change.clone(), by: by.to_owned() };
        match self.ask(&Open::Serve(serve), &mut |_| ())? {
            End::Found(Found::Trial(number)) => Ok(number),
            _ => Err(unexpected()),
        }
    }

    pub fn keep_access(&self, number: u64) -> Result<(), Failure> {
        self.ask(&Open::Serve(Serve::KeepAccess { number }), &mut |_| ()).map(drop)
    }

    pub fn serve(&self, serve: Serve, each: &mut Each<'_>) -> Result<Response, Failure> {
        response(self.ask(&Open::Serve(serve), each)?)
    }

    /// The same with input, which `write` writes as it is taken.
    pub fn feed(
        &self,
        serve: Serve,
        each: &mut Each<'_>,
        write: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), Failure>,
    ) -> Result<Response, Failure> {
        let channel = self.asker.channel(&Open::Serve(serve), &[(Stream::Told, WINDOW)])?;
        let (written, heard) = std::thread::scope(|scope| {
            let hearing = scope.spawn(|| listen(&channel, each));
            let written = write(&mut channel.outgoing(Stream::In));
            // Half an input must not look like a whole one.
            if written.is_err() {
                let _ = channel.control(&Control::Cancel);
            }
            let _ = channel.finish(Stream::In);
            (written, hearing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let ended = heard.and_then(|()| self.end_of(&channel));
        match (written, ended) {
            (Ok(()), ended) => response(ended?),
            // Who takes no more says why, which tells more than that it broke.
            (Err(_), Err(there)) if there.kind != Kind::Cancelled => Err(there),
            (Err(here), _) => Err(here),
        }
    }
}

fn listen(channel: &Channel, each: &mut Each<'_>) -> Result<(), Failure> {
    while let Some(told) = channel.told() {
        match told.map_err(|error| Failure::new(Kind::Program, "understand the server").because(&error))? {
            Told::Event(event) => each(event),
            Told::Record(_) | Told::Note(_) => {}
        }
    }
    Ok(())
}

fn response(end: End) -> Result<Response, Failure> {
    match end {
        End::Answered(answer) => Ok(answer.0),
        End::Found(_) | End::Ended { .. } | End::Failed(_) => Err(unexpected()),
    }
}

/// An input that is read as a whole, of at most so many bytes.
pub fn whole(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}
