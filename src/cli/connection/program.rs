//! A program in a machine, at this end of a wire: the caller's terminal, pipes and files, by the rules of [`crate::exec::apart`].

use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::SIGWINCH;
use signal_hook::low_level;

use super::Io;
use super::service::{Service, end_of, unexpected};
use crate::exec::apart::{self, PIECE, Source, Taker, is_same};
use crate::exec::terminal::Saved;
use crate::model::{self, Exec, Failure, Kind, MachineId};
use crate::providers;
use crate::wire::channel::WINDOW;
use crate::wire::message::{Program, Window};
use crate::wire::{Channel, Control, End, Open, Stream};

const OUTPUTS: [(Stream, u32); 2] = [(Stream::Out, WINDOW), (Stream::Err, WINDOW)];
/// Of a line; one that is longer comes in pieces.
const LONGEST: u64 = 64 << 10;

pub fn run(service: &Service, machine: &MachineId, exec: &Exec, io: Io<'_>) -> Result<i32, Failure> {
    let program = |terminal, joined| Open::Run(Program { machine: machine.clone(), exec: exec.clone(), terminal, joined });
    match io {
        Io::Terminal => at_terminal(service, &program(Some(window()), false)),
        Io::Lines(print) => lines(&*service.channel(&program(None, false), &OUTPUTS)?, print),
        Io::Caller => {
            let channel = service.channel(&program(None, is_same(stdout(), stderr())), &OUTPUTS)?;
            between_pipes(&channel, machine)
        }
    }
}

pub fn console(service: &Service, machine: &MachineId) -> Result<(), Failure> {
    at_terminal(service, &Open::Console(machine.clone(), window())).map(drop)
}

fn code(channel: &Channel) -> Result<i32, Failure> {
    match end_of(channel)? {
        End::Ended { code, .. } => Ok(code),
        End::Answered(_) | End::Found(_) | End::Failed(_) => Err(unexpected()),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Kind::Host, "run a program in the machine").because(error)
}

/// Both outputs, line by line as they come.
fn lines(channel: &Channel, print: &(dyn Fn(model::Stream, &str) + Sync)) -> Result<i32, Failure> {
    let _ = channel.finish(Stream::In);
    let read = |from, stream: model::Stream| each_line(channel, from, &mut |line| print(stream.clone(), line));
    std::thread::scope(|scope| {
        scope.spawn(|| read(Stream::Err, model::Stream::Err));
        read(Stream::Out, model::Stream::Out);
    });
    code(channel)
}

pub fn each_line(channel: &Channel, stream: Stream, each: &mut dyn FnMut(&str)) {
    let mut lines = BufReader::new(channel.incoming(stream));
    let mut line = Vec::new();
    while matches!((&mut lines).take(LONGEST).read_until(b'\n', &mut line), Ok(1..)) {
        each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
}

fn between_pipes(channel: &Channel, machine: &MachineId) -> Result<i32, Failure> {
    let source = Source::of(stdin()).map_err(|error| failed(&error))?;
    let (stop, running) = io::pipe().map_err(|error| failed(&error))?;
    let (ended, written) = std::thread::scope(|scope| {
        scope.spawn(|| apart::feed(source, Far { channel, given: 0, is_wide: false }, &stop));
        let errors = scope.spawn(|| show(channel, Stream::Err));
        let output = show(channel, Stream::Out);
        let errors = errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let ended = channel.ended();
        drop(running);
        (ended, output.and(errors))
    });
    ended?;
    written.map_err(|source| {
        let what = "hand on the output of";
        Failure::from(providers::Error::Io { what, path: machine.to_string().into(), source })
    })?;
    code(channel)
}

/// Hands on what comes. A reader who went away is no fault: the program hears of it from its own pipe.
fn show(channel: &Channel, stream: Stream) -> io::Result<()> {
    let target = if stream == Stream::Err { stderr() } else { stdout() };
    while let Some(bytes) = channel.take(stream) {
        if let Err(error) = apart::write_all(target, &bytes) {
            let _ = channel.finish(stream);
            return if error == Errno::PIPE { Ok(()) } else { Err(error.into()) };
        }
        let _ = channel.grant(stream, bytes.len());
    }
    Ok(())
}

/// A program at the other end, which gives credit as it reads.
struct Far<'a> {
    channel: &'a Channel,
    given: u64,
    is_wide: bool,
}

impl Taker for Far<'_> {
    fn is_ready(&mut self) -> bool {
        // All of the first credit is back once nothing is left of the piece before.
        self.channel.room_for(Stream::In, if self.is_wide { 1 } else { PIECE }).is_ok()
    }

    fn give(&mut self, piece: &[u8]) -> Option<usize> {
        let count = self.channel.room(Stream::In).ok()?.min(piece.len());
        self.channel.give(Stream::In, &piece[..count]).ok()?;
        self.given += count as u64;
        Some(count)
    }

    fn widen(&mut self) {
        self.is_wide = true;
    }

    fn unread(self, given: usize) -> usize {
        let _ = self.channel.finish(Stream::In);
        match self.channel.ended() {
            Ok(End::Ended { read, .. }) => usize::try_from(self.given.saturating_sub(read)).unwrap_or(usize::MAX).min(given),
            _ => 0,
        }
    }
}

fn window() -> Window {
    let kind = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".into());
    let (rows, columns) = size();
    Window { kind, rows, columns }
}

fn size() -> (u16, u16) {
    tcgetwinsize(stdin()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

fn at_terminal(service: &Service, open: &Open) -> Result<i32, Failure> {
    let prepared = || -> io::Result<_> {
        let (resized, sender) = UnixStream::pair()?;
        resized.set_nonblocking(true)?;
        low_level::pipe::register(SIGWINCH, sender)?;
        Ok((resized, io::pipe()?, Saved::now()))
    };
    let (resized, (stop, running), saved) = prepared().map_err(|error| failed(&error))?;
    let channel = service.channel(open, &[(Stream::Out, WINDOW)])?;
    saved.raw().map_err(|error| failed(&error))?;
    std::thread::scope(|scope| {
        scope.spawn(|| keys(&channel, &resized, &stop));
        let shown = show(&channel, Stream::Out);
        let ended = channel.ended();
        drop(running);
        ended.map_err(Failure::from).and_then(|_| shown.map_err(|error| failed(&error)))
    })?;
    drop(saved);
    code(&channel)
}

/// What is typed, and each new size of the window, until the program has ended.
fn keys(channel: &Channel, resized: &UnixStream, stop: &PipeReader) {
    let mut buffer = [0; 4096];
    let mut is_open = true;
    loop {
        let input = stdin();
        let wanted = if is_open { PollFlags::IN } else { PollFlags::empty() };
        let fds = [(stop.as_fd(), PollFlags::IN), (resized.as_fd(), PollFlags::IN), (input, wanted)];
        let mut fds = fds.map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted));
        match poll(&mut fds[..if is_open { 3 } else { 2 }], None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        if !fds[1].revents().is_empty() && read(resized, &mut buffer).is_ok_and(|count| count > 0) {
            let (rows, columns) = size();
            let _ = channel.control(&Control::Resize { rows, columns });
        }
        if is_open && !fds[2].revents().is_empty() {
            let sent = match read(input, &mut buffer) {
                Ok(count @ 1..) => channel.send(Stream::In, &buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => Ok(()),
                // A terminal has no end of file: it is a key.
                Ok(_) | Err(_) => {
                    is_open = false;
                    channel.send(Stream::In, &[4])
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
