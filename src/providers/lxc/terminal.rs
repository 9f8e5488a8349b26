//! Joining the caller's terminal to one inside a machine: keys in, screen out, window size, and the terminal as it was
//! afterwards, however it ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::attach;
use crate::exec::terminal::Saved;

/// Signals that the helper gets, as descriptors that can be waited for.
pub struct Signals {
    end: UnixStream,
    window: UnixStream,
    /// Ctrl-C at the caller's terminal, where that is not joined to one of the program's.
    typed: UnixStream,
}

impl Signals {
    /// `joined` says that typed keys reach the program's own terminal.
    pub fn watch(joined: bool) -> io::Result<Self> {
        let (end, sender) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGHUP] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        let (window, sender) = UnixStream::pair()?;
        window.set_nonblocking(true)?;
        pipe::register(SIGWINCH, sender)?;
        let (typed, sender) = UnixStream::pair()?;
        typed.set_nonblocking(true)?;
        // The program alone decides what they mean.
        for signal in [SIGINT, SIGQUIT] {
            if joined {
                flag::register(signal, Arc::default())?;
            } else {
                pipe::register(signal, sender.try_clone()?)?;
            }
        }
        Ok(Self { end, window, typed })
    }

    /// Waits until the child may have ended or the time is over; true when we are told to end.
    pub fn wait(&self, child: Pid, within: Option<Duration>) -> io::Result<bool> {
        let watched = pidfd_open(child, PidfdFlags::empty())?;
        let mut fds =
            [watched.as_fd(), self.end.as_fd(), self.typed.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let within = within.and_then(|within| Timespec::try_from(within).ok());
        match poll(&mut fds, within.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {
                if !fds[2].revents().is_empty() && drain(&self.typed) {
                    let _ = kill_process_group(child, Signal::INT);
                }
                Ok(!fds[1].revents().is_empty() && drain(&self.end))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn drain(stream: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    read(stream, &mut buffer).is_ok_and(|count| count > 0)
}

/// One conversation between the caller's terminal and `pty`.
pub struct Relay<'a> {
    pub pty: &'a OwnedFd,
    /// The conversation ends with this process; without one, when the other side closes.
    pub child: Option<Pid>,
    /// A key that ends it when typed twice.
    pub escape: Option<u8>,
    pub signals: &'a Signals,
}

impl Relay<'_> {
    /// Returns the child's exit code, or 0 without a child.
    pub fn run(&self) -> io::Result<i32> {
        let saved = Saved::now();
        saved.raw()?;
        self.resize();
        ioctl_fionbio(self.pty, true)?;
        let child = self.child.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose()?;
        let mut keys = Keys { pending: Vec::new(), open: true, escaped: false };
        loop {
            let turn = self.turn(child.as_ref().map(AsFd::as_fd), &mut keys)?;
            match (turn, self.child) {
                (Turn::Again, _) => {}
                (Turn::Escaped, _) | (Turn::Closed | Turn::Ended | Turn::Told, None) => return Ok(0),
                // The program closed its terminal or ended; its last words are still in the pipe.
                (Turn::Closed | Turn::Ended, Some(pid)) => {
                    self.show_rest();
                    return wait(pid);
                }
                (Turn::Told, Some(pid)) => {
                    attach::end(pid);
                    return wait(pid);
                }
            }
        }
    }

    fn turn(&self, child: Option<BorrowedFd<'_>>, keys: &mut Keys) -> io::Result<Turn> {
        let typing = keys.open && keys.pending.is_empty();
        let screen = if keys.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let input = stdin();
        let mut fds = vec![
            PollFd::new(self.pty, screen),
            PollFd::new(&self.signals.end, PollFlags::IN),
            PollFd::new(&self.signals.window, PollFlags::IN),
            PollFd::new(&input, if typing { PollFlags::IN } else { PollFlags::empty() }),
        ];
        fds.extend(child.as_ref().map(|child| PollFd::new(child, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Turn::Again),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if !ready[1].is_empty() && drain(&self.signals.end) {
            return Ok(Turn::Told);
        }
        if !ready[2].is_empty() && drain(&self.signals.window) {
            self.resize();
        }
        if ready[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !self.show()? {
            return Ok(Turn::Closed);
        }
        if typing && !ready[3].is_empty() && keys.read(self.escape)? {
            return Ok(Turn::Escaped);
        }
        keys.write(self.pty)?;
        let ended = ready.get(4).is_some_and(|flags| !flags.is_empty());
        Ok(if ended { Turn::Ended } else { Turn::Again })
    }

    /// Copies what there is to the screen; false when the other side has closed.
    fn show(&self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match read(self.pty, &mut buffer) {
            // A terminal that nobody holds any more answers EIO.
            Ok(0) | Err(Errno::IO) => Ok(false),
            Ok(count) => write_all(&buffer[..count]).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn show_rest(&self) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = read(self.pty, &mut buffer) {
            let _ = write_all(&buffer[..count]);
        }
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(stdin()) {
            let _ = tcsetwinsize(self.pty, size);
        }
    }
}

enum Turn {
    Again,
    Closed,
    Ended,
    Escaped,
    Told,
}

/// What was typed and not yet taken by the program.
struct Keys {
    pending: Vec<u8>,
    open: bool,
    escaped: bool,
}

impl Keys {
    /// True when the escape was typed twice.
    fn read(&mut self, escape: Option<u8>) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let count = match read(stdin(), &mut buffer) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
            Err(Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            // A terminal has no end of file: it is a key.
            self.open = false;
            self.pending.push(4);
            return Ok(escape.is_some());
        }
        for byte in &buffer[..count] {
            if Some(*byte) == escape && !self.escaped {
                self.escaped = true;
                continue;
            }
            match (self.escaped, escape) {
                (true, Some(escape)) if *byte == escape => return Ok(true),
                (true, Some(escape)) => self.pending.extend([escape, *byte]),
                _ => self.pending.push(*byte),
            }
            self.escaped = false;
        }
        Ok(false)
    }

    fn write(&mut self, pty: &OwnedFd) -> io::Result<()> {
        while !self.pending.is_empty() {
            match write(pty, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Nobody is there to read it; the conversation ends with the next turn.
                Err(Errno::IO) => self.pending.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn wait(child: Pid) -> io::Result<i32> {
    loop {
        if let Some(code) = attach::ended(child)? {
            return Ok(code);
        }
        let fd = pidfd_open(child, PidfdFlags::empty())?;
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None);
    }
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
