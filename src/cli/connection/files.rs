//! `env:cp` at this end of a wire: the person's files are packed and unpacked by the person, the machine's by its `tar`. Nobody else
//! opens a path that the person named.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Io;
use super::program;
use super::service::{Service, end_of, unexpected};
use crate::exec::watched::Watched;
use crate::model::request::Copy;
use crate::model::response::Done;
use crate::model::{Exec, Failure, Kind, MachineId, Response, Tail};
use crate::providers::{self, copies};
use crate::wire::channel::WINDOW;
use crate::wire::message::Program;
use crate::wire::{Channel, Control, End, Open, Signal, Stream};

pub fn copy(service: &Service, machine: &MachineId, copy: &Copy, cancel: &AtomicBool) -> Result<Response, Failure> {
    match copy {
        Copy::In { source, target } => inwards(service, machine, source, target, cancel)?,
        Copy::Out { source, target } => outwards(service, machine, source, target, cancel)?,
    }
    Ok(Response::Done(Done { summary: copy.summary(machine), ..Done::default() }))
}

/// `joined`: it says on one stream what it has to say.
fn tar(service: &Service, machine: &MachineId, argv: Vec<String>, joined: bool) -> Result<std::sync::Arc<Channel>, Failure> {
    let exec = Exec { cwd: Some("/".into()), ..Exec::new(argv) };
    let program = Program { machine: machine.clone(), exec, terminal: None, joined };
    service.channel(&Open::Run(program), &[(Stream::Out, WINDOW), (Stream::Err, WINDOW)])
}

/// What it said last, and whether it did its work.
fn finish(channel: &Channel, verb: &'static str, machine: &MachineId, tail: Vec<String>) -> Result<(), Failure> {
    match end_of(channel)? {
        End::Ended { code: 0, .. } => Ok(()),
        End::Ended { code, .. } => Err(copies::failed(verb, machine, code, tail).into()),
        End::Answered(_) | End::Found(_) | End::Failed(_) => Err(unexpected()),
    }
}

fn failed(what: &'static str, path: &std::path::Path, source: io::Error) -> Failure {
    providers::Error::Io { what, path: path.to_owned(), source }.into()
}

fn cancelled() -> Failure {
    Failure::new(Kind::Cancelled, "finish the copy").cause("cancelled")
}

fn inwards(
    service: &Service,
    machine: &MachineId,
    source: &std::path::Path,
    target: &str,
    cancel: &AtomicBool,
) -> Result<(), Failure> {
    if !source.exists() {
        return Err(Failure::new(Kind::NotFound, format!("find `{}` on this host", source.display())));
    }
    let is_folder = program::run(service, machine, &copies::is_folder(target), Io::Lines(&|_, _| ()))? == 0;
    let (argv, name) = copies::inwards(source, target, is_folder);
    let channel = tar(service, machine, argv, true)?;
    let (packed, tail) = std::thread::scope(|scope| {
        let tail = scope.spawn(|| words(&channel, Stream::Out));
        let to = Watched { inner: channel.outgoing(Stream::In), cancel };
        let packed = copies::pack(source, &name, to);
        // Half an archive must not look like a whole one: who fails to pack goes away without an end.
        if packed.is_ok() {
            let _ = channel.finish(Stream::In);
        } else {
            let _ = channel.control(&Control::Signal(Signal::HangUp));
        }
        (packed, tail.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let ended = finish(&channel, "copy to", machine, tail);
    match packed {
        Ok(()) => ended,
        Err(_) if cancel.load(Ordering::Relaxed) => Err(cancelled()),
        // A `tar` inside that fails takes nothing more; its own words say more than that.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ended.and(Err(failed("copy", source, error))),
        Err(error) => Err(failed("copy", source, error)),
    }
}

fn outwards(
    service: &Service,
    machine: &MachineId,
    source: &str,
    target: &std::path::Path,
    cancel: &AtomicBool,
) -> Result<(), Failure> {
    let copies::Outwards { argv, name, folder, new_name } = copies::outwards(source, target);
    let channel = tar(service, machine, argv, false)?;
    let _ = channel.finish(Stream::In);
    let (unpacked, tail) = std::thread::scope(|scope| {
        let tail = scope.spawn(|| words(&channel, Stream::Err));
        let from = Watched { inner: channel.incoming(Stream::Out), cancel };
        let unpacked = copies::unpack(from, &name, &folder, &new_name);
        if unpacked.is_err() {
            let _ = channel.finish(Stream::Out);
        }
        (unpacked, tail.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    match unpacked {
        Ok(()) => finish(&channel, "copy from", machine, tail),
        Err(_) if cancel.load(Ordering::Relaxed) => Err(cancelled()),
        // Ours first when it refused something: `tar` inside then only tells of a closed pipe.
        Err(error) => Err(failed("copy to", target, error)),
    }
}

/// What is said last on a stream, until its end.
fn words(channel: &Channel, stream: Stream) -> Vec<String> {
    let mut tail = Tail::default();
    program::each_line(channel, stream, &mut |line| tail.push(line));
    tail.lines()
}
