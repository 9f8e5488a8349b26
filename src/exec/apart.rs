//! The caller's terminal, files and pipes stay the caller's: a program in a machine gets pipes, and we copy. One that held the
//! terminal could type into it or read its keys; one that held a file could read it, cut it off or go on writing to it long after
//! its command has ended.
//!
//! Of the caller's input no more is taken than the program reads, so that `while read name; do adt env:exec …; done <list` goes
//! through the whole list: what is still in the pipe to the program at its end was never taken. A file is read at its places, and its
//! offset moved by what was read. Of another pipe only the next piece can be seen, so the program's has room for one piece and gets
//! it when it is empty; that takes time, and who has read a quarter of a megabyte reads all there is. What was typed at a terminal
//! can't be left there.
//!
//! The program may also be at the other end of a wire: then the same input goes to a [`Taker`] that says how far it is there.
//!
//! Not chosen: a terminal of the machine's for all of it. Where only some of the three are terminals, somebody reads the others
//! byte by byte, and a terminal changes bytes.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, SeekFrom, fstat, seek};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, pread};
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, tee};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::isatty;

use super::Command;

/// The smallest pipe that there is: one that can be written to is empty.
pub const PIECE: usize = 4096;
/// Who has read so many of them reads all there is.
pub const PIECES: usize = 64;
/// What is copied at a time where nothing is to be left.
pub const BUFFER: usize = 256 << 10;
/// Who is not in front of the terminal looks so often whether it is now.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What kept a program from being run as the caller wanted it.
#[derive(Debug)]
pub enum Fault {
    Start(io::Error),
    /// Its output was not taken, e.g. by a full disk.
    Write(io::Error),
}

/// Runs a program to its end, between pipes of its own. It stays in our process group.
pub fn run(command: &Command) -> Result<(), Fault> {
    let mut command = command.to_std();
    let (stop, running) = io::pipe().map_err(Fault::Start)?;
    let stop = &stop;
    std::thread::scope(|scope| {
        let started = (|| {
            let (theirs, ours) = io::pipe()?;
            fcntl_setpipe_size(&ours, PIECE)?;
            ioctl_fionbio(&ours, true)?;
            command.stdin(theirs.try_clone()?);
            let source = Source::of(stdin())?;
            scope.spawn(move || feed(source, Pipe { ours, theirs, stop }, stop));
            let (ours, theirs) = io::pipe()?;
            let mut copies = vec![scope.spawn(move || deliver(ours, stop, &mut |bytes| write_all(stdout(), bytes)))];
            // Lines that go to one place keep their order by going through one pipe.
            if is_same(stdout(), stderr()) {
                command.stderr(theirs.try_clone()?);
            } else {
                let (ours, theirs) = io::pipe()?;
                command.stderr(theirs);
                copies.push(scope.spawn(move || deliver(ours, stop, &mut |bytes| write_all(stderr(), bytes))));
            }
            command.stdout(theirs);
            let child = command.spawn();
            // Our copies of the program's ends.
            drop(command);
            Ok((child?, copies))
        })();
        let (mut child, copies) = started.map_err(Fault::Start)?;
        let ended = child.wait();
        // The copies see it, also where somebody whom the program left behind still has its pipes.
        drop(running);
        for copy in copies {
            copy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(Fault::Write)?;
        }
        ended.map(drop).map_err(Fault::Start)
    })
}

pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    matches!((fstat(one), fstat(other)), (Ok(one), Ok(other)) if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// How the caller's input can be looked at without taking it.
pub enum Source {
    /// A file, and whatever else has places.
    Places,
    /// Its contents go through another pipe of ours, so that no page of the caller's gets into the machine.
    Pipe(PipeReader, PipeWriter),
    Socket,
    /// A terminal; what is read of it is taken.
    Other {
        terminal: bool,
    },
}

impl Source {
    pub fn of(input: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(match FileType::from_raw_mode(fstat(input)?.st_mode) {
            FileType::Fifo => {
                let (reader, writer) = io::pipe()?;
                Self::Pipe(reader, writer)
            }
            FileType::Socket => Self::Socket,
            _ if seek(input, SeekFrom::Current(0)).is_ok() => Self::Places,
            _ => Self::Other { terminal: isatty(input) },
        })
    }

    /// What comes next; nothing is the end.
    fn peek<'b>(&mut self, input: BorrowedFd<'_>, buffer: &'b mut [u8; PIECE]) -> rustix::io::Result<&'b [u8]> {
        let count = match self {
            Self::Pipe(reader, writer) => {
                let count = tee(input, writer, PIECE, SpliceFlags::NONBLOCK)?;
                reader.read_exact(&mut buffer[..count]).map_err(|_| Errno::IO)?;
                count
            }
            Self::Socket => recv(input, &mut buffer[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0,
            Self::Places | Self::Other { .. } => rustix::io::read(input, &mut buffer[..])?,
        };
        Ok(&buffer[..count])
    }

    /// Takes so much of what was seen.
    fn take(&self, input: BorrowedFd<'_>, mut count: usize) {
        let mut buffer = [0; PIECE];
        match self {
            Self::Places => drop(seek(input, SeekFrom::Current(i64::try_from(count).unwrap_or(i64::MAX)))),
            // Somebody else who reads there too may have been quicker.
            Self::Pipe(..) | Self::Socket => {
                while count > 0 && poll(&mut [PollFd::from_borrowed_fd(input, PollFlags::IN)], Some(&NOW)) == Ok(1) {
                    match rustix::io::read(input, &mut buffer[..count.min(PIECE)]) {
                        Ok(taken @ 1..) => count -= taken,
                        Err(Errno::INTR) => {}
                        _ => return,
                    }
                }
            }
            Self::Other { .. } => {}
        }
    }

    /// Behind a shell's `&` the kernel would stop us for reading a terminal.
    fn may_be_read(&self) -> bool {
        !matches!(self, Self::Other { terminal: true }) || in_front(stdin())
    }
}

/// Whether we are the job that the terminal is with. rustix's own calls take for granted that every group has an id; those
/// outside of our process namespace, as a container's runtime may be, have 0, on both sides.
fn in_front(terminal: BorrowedFd<'_>) -> bool {
    // SAFETY: they take no memory, and the descriptor is borrowed.
    unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() }
}

/// What takes the caller's input. Dropped, it tells the program that there is no more.
pub trait Taker {
    /// Waits until everything was read that was given, or, once it is widened, until more goes in; false once the program has ended.
    fn is_ready(&mut self) -> bool;

    /// Says how much went in; `None` once nobody reads any more.
    fn give(&mut self, piece: &[u8]) -> Option<usize>;

    /// From here on nothing is to be left.
    fn widen(&mut self);

    /// The end of what is given. After it, and once the program has ended: how much of `given` was not read.
    fn unread(self, given: usize) -> usize;
}

/// The input of a program on this host.
struct Pipe<'a> {
    ours: PipeWriter,
    theirs: PipeReader,
    stop: &'a PipeReader,
}

impl Taker for Pipe<'_> {
    fn is_ready(&mut self) -> bool {
        loop {
            match look([(self.ours.as_fd(), PollFlags::OUT), (self.stop.as_fd(), PollFlags::IN)], None) {
                Ok([_, stopped]) if !stopped.is_empty() => return false,
                Ok([writable, _]) if writable.contains(PollFlags::OUT) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn give(&mut self, piece: &[u8]) -> Option<usize> {
        match rustix::io::write(&self.ours, piece) {
            Ok(count) => Some(count),
            Err(Errno::INTR | Errno::AGAIN) => Some(0),
            Err(_) => None,
        }
    }

    fn widen(&mut self) {
        let _ = fcntl_setpipe_size(&self.ours, BUFFER);
    }

    fn unread(self, given: usize) -> usize {
        drop(self.ours);
        if given == 0 {
            return 0;
        }
        while matches!(poll(&mut [PollFd::new(self.stop, PollFlags::IN)], None), Err(Errno::INTR)) {}
        ioctl_fionread(&self.theirs).map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// Gives the program the caller's input for as long as it reads it, and takes from the caller what was read.
pub fn feed(mut source: Source, mut program: impl Taker, stop: &PipeReader) {
    let given = match source {
        Source::Places => pour(&source, &mut program, stop),
        _ => hand(&mut source, &mut program, stop),
    };
    // After the last of it comes the end.
    let unread = program.unread(given);
    if given > 0 {
        source.take(stdin(), given.saturating_sub(unread));
    }
}

/// Piece by piece, until the input or the program ends; what was given last may not be read yet.
fn hand(source: &mut Source, program: &mut impl Taker, stop: &PipeReader) -> usize {
    let mut given = 0;
    let mut pieces = 0;
    let is_terminal = matches!(source, Source::Other { terminal: true });
    let wait = is_terminal.then_some(&PAUSE);
    let mut buffer = [0; PIECE];
    while pieces < PIECES || is_terminal {
        if !program.is_ready() {
            return given;
        }
        source.take(stdin(), std::mem::take(&mut given));
        let wanted = if source.may_be_read() { PollFlags::IN } else { PollFlags::empty() };
        let Ok([there, stopped]) = look([(stdin(), wanted), (stop.as_fd(), PollFlags::IN)], wait) else { return given };
        if !stopped.is_empty() {
            return given;
        }
        if there.is_empty() {
            continue;
        }
        match source.peek(stdin(), &mut buffer) {
            Ok(piece @ [_, ..]) => match program.give(piece) {
                Some(count) => (given, pieces) = (count, pieces + 1),
                None => return given,
            },
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok([]) | Err(_) => return given,
        }
    }
    // The last piece is still there, and more than a piece is to be.
    if program.is_ready() {
        source.take(stdin(), given);
        pour(source, program, stop);
        return 0;
    }
    given
}

/// As much as goes in, until the input or the program ends; says how much that was.
fn pour(source: &Source, program: &mut impl Taker, stop: &PipeReader) -> usize {
    program.widen();
    let mut given = 0;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match source {
            Source::Places => {
                seek(stdin(), SeekFrom::Current(0)).and_then(|start| pread(stdin(), &mut buffer[..], start + given as u64))
            }
            _ => match look([(stdin(), PollFlags::IN), (stop.as_fd(), PollFlags::IN)], None) {
                Ok([_, stopped]) if !stopped.is_empty() => return given,
                Ok([there, _]) if there.is_empty() => continue,
                _ => rustix::io::read(stdin(), &mut buffer[..]),
            },
        };
        let mut piece = match read {
            Ok(count @ 1..) => &buffer[..count],
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Ok(0) | Err(_) => return given,
        };
        while !piece.is_empty() {
            match program.give(piece) {
                Some(0) if !program.is_ready() => return given,
                Some(count) => {
                    given += count;
                    piece = &piece[count..];
                }
                None => return given,
            }
        }
    }
}

/// What there is of each, once there is something.
pub fn look(fds: [(BorrowedFd<'_>, PollFlags); 2], wait: Option<&Timespec>) -> rustix::io::Result<[PollFlags; 2]> {
    let mut fds = fds.map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted));
    match poll(&mut fds, wait) {
        Ok(_) => Ok(fds.map(|fd| fd.revents())),
        Err(Errno::INTR) => Ok([PollFlags::empty(); 2]),
        Err(error) => Err(error),
    }
}

/// Hands on what the program prints until it ends; what was printed by then goes on whole. A reader who went away is no fault: the
/// program hears of it from its own pipe.
pub fn deliver(
    mut program: PipeReader,
    stop: &PipeReader,
    target: &mut dyn FnMut(&[u8]) -> rustix::io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut rest = None;
    while rest != Some(0) {
        if rest.is_none() {
            let [printed, stopped] = look([(program.as_fd(), PollFlags::IN), (stop.as_fd(), PollFlags::IN)], None)?;
            if !stopped.is_empty() {
                // Nobody waits for who has its pipe still.
                rest = Some(ioctl_fionread(&program)?);
            }
            if printed.is_empty() {
                continue;
            }
        }
        let most = rest.map_or(BUFFER, |rest| BUFFER.min(usize::try_from(rest).unwrap_or(BUFFER)));
        match program.read(&mut buffer[..most]) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                rest = rest.map(|rest| rest.saturating_sub(count as u64));
                match target(&buffer[..count]) {
                    Err(Errno::PIPE) => return Ok(()),
                    written => written?,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody else who has it made it so.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(target, PollFlags::OUT)], None)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
