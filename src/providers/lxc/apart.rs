//! The caller's terminal stays the caller's: a program in a machine that held it could type into it, read its keys, or write
//! to it long after its command has ended. What is a terminal reaches the program as a pipe; files and pipes as they are.
//!
//! Not chosen: a terminal of the machine's for these cases too. Where only some of the three are terminals, somebody reads
//! the others byte by byte, and a terminal changes bytes.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{isatty, tcgetpgrp};

/// What a pipe of the kernel's holds.
const PIPE: usize = 64 << 10;
/// So much fits into a pipe that says it can be written to.
const KEYS: usize = 4096;
/// Who is not in front of the terminal looks so often whether it is now.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Runs a program with the caller's descriptors to its end. It stays in our process group.
pub fn status(mut command: Command) -> io::Result<ExitStatus> {
    let (stop, running) = io::pipe()?;
    let stop = &stop;
    std::thread::scope(|scope| {
        let ended = (|| {
            if isatty(stdin()) {
                let (theirs, ours) = io::pipe()?;
                command.stdin(theirs);
                scope.spawn(move || keys(ours, stop));
            }
            if isatty(stdout()) {
                let (ours, theirs) = io::pipe()?;
                command.stdout(theirs);
                scope.spawn(move || screen(ours, stdout(), stop));
            }
            if isatty(stderr()) {
                let (ours, theirs) = io::pipe()?;
                command.stderr(theirs);
                scope.spawn(move || screen(ours, stderr(), stop));
            }
            let mut child = command.spawn()?;
            // Our copies of the program's ends.
            drop(command);
            child.wait()
        })();
        // The others see it, also where somebody whom the program left behind still has its pipes.
        drop(running);
        ended
    })
}

/// Typed lines go to the program, for as long as the terminal would give them to it.
fn keys(mut program: PipeWriter, stop: &PipeReader) {
    let mut buffer = [0; KEYS];
    loop {
        // Behind a shell's `&` the kernel would stop us for reading.
        let is_in_front = tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp());
        let wanted = if is_in_front { PollFlags::IN } else { PollFlags::empty() };
        let [typed, stopped] = match look([(stdin(), wanted), (stop.as_fd(), PollFlags::IN)]) {
            Ok(found) => found,
            Err(_) => return,
        };
        if !stopped.is_empty() {
            return;
        }
        if typed.is_empty() {
            continue;
        }
        match look([(program.as_fd(), PollFlags::OUT), (stop.as_fd(), PollFlags::IN)]) {
            Ok([writable, stopped]) if stopped.is_empty() && !writable.contains(PollFlags::ERR) => {
                if !writable.contains(PollFlags::OUT) {
                    continue;
                }
            }
            _ => return,
        }
        match rustix::io::read(stdin(), &mut buffer) {
            Ok(count) if count > 0 && program.write_all(&buffer[..count]).is_ok() => {}
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// What is there of each within a moment.
fn look(fds: [(BorrowedFd<'_>, PollFlags); 2]) -> rustix::io::Result<[PollFlags; 2]> {
    let mut fds = fds.map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted));
    match poll(&mut fds, Some(&PAUSE)) {
        Ok(_) => Ok(fds.map(|fd| fd.revents())),
        Err(Errno::INTR) => Ok([PollFlags::empty(); 2]),
        Err(error) => Err(error),
    }
}

/// What the program prints goes to the terminal until it ends; what was printed by then is shown whole.
fn screen(mut program: PipeReader, terminal: BorrowedFd<'_>, stop: &PipeReader) {
    let mut buffer = [0; KEYS];
    let mut rest = None;
    while rest != Some(0) {
        let mut fds = [PollFd::from_borrowed_fd(program.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        // Once the program has ended nobody waits for who has its pipe still.
        let wait = rest.map(|_| &Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut fds[..if rest.is_some() { 1 } else { 2 }], wait) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        let [printed, stopped] = fds.map(|fd| fd.revents());
        if printed.is_empty() && rest.is_some() {
            return;
        }
        if rest.is_none() && !stopped.is_empty() {
            rest = Some(PIPE);
        }
        if printed.is_empty() {
            continue;
        }
        match program.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                rest = rest.map(|rest| rest.saturating_sub(count));
                if write_all(terminal, &buffer[..count]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn write_all(terminal: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(terminal, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
