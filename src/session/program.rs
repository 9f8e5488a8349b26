//! A program in a machine for somebody at the other end of a wire: between pipes, or at a terminal made for it.
//!
//! Its input is taken no faster than it reads, so that whoever gives it knows how much that was; its output goes no faster than it is
//! taken. Once nobody is there any more it gets a hangup.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, read};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::engine::Engine;
use crate::exec::Ends;
use crate::exec::apart::{BUFFER, PIECE, PIECES, deliver, look};
use crate::model::{Failure, Kind, MachineId};
use crate::providers::{Given, Stdio};
use crate::wire::channel::{Heard, WINDOW};
use crate::wire::frame;
use crate::wire::message::{self, Window};
use crate::wire::{Channel, Control, End, Program, Stream};

pub fn run(engine: &Engine, channel: &Channel, machine: &MachineId, program: &Program) -> Result<End, Failure> {
    let provider = engine.provider_of(machine)?;
    let exec = |given| provider.exec(machine, &program.exec, Stdio::Ends(given));
    match &program.terminal {
        None => between_pipes(channel, program.joined, |ends| Ok(exec(Given { ends, terminal: None })?.code)),
        Some(window) => {
            let terminal = Some(window.kind.clone());
            at_terminal(channel, window, |ends| Ok(exec(Given { ends, terminal })?.code))
        }
    }
}

pub fn console(engine: &Engine, channel: &Channel, machine: &MachineId, window: Window) -> Result<End, Failure> {
    let Some(console) = engine.provider_of(machine)?.console() else {
        return Err(Failure::new(Kind::Usage, "join the console").cause(format!("`{machine}` has none")));
    };
    at_terminal(channel, &window, |ends| Ok(console.attach(machine, Some(ends)).map(|()| 0)?))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Kind::Host, "run a program in the machine").because(error)
}

/// `joined`: both outputs are one.
fn between_pipes(channel: &Channel, joined: bool, program: impl FnOnce(Ends) -> Result<i32, Failure>) -> Result<End, Failure> {
    let pipes = || -> io::Result<_> { Ok((io::pipe()?, io::pipe()?, io::pipe()?, io::pipe()?, io::pipe()?)) };
    let ((theirs, ours), out, err, signals, (stop, running)) = pipes().map_err(|error| failed(&error))?;
    let prepared = fcntl_setpipe_size(&ours, PIECE).and_then(|_| ioctl_fionbio(&ours, true));
    prepared.map_err(|error| failed(&error))?;
    let unread = theirs.try_clone().map_err(|error| failed(&error))?;
    let stderr = if joined { out.1.try_clone().map_err(|error| failed(&error))? } else { err.1 };
    let ends = Ends { stdin: theirs.into(), stdout: out.1.into(), stderr: stderr.into(), signals: signals.0.into() };
    let stop = &stop;
    std::thread::scope(|scope| {
        let feeding = scope.spawn(move || feed(channel, ours, stop));
        let hand_on = |pipe: PipeReader, stream: Stream| {
            scope.spawn(move || {
                // Who does not want it any more ends the program by its broken pipe, as a shell's would.
                let _ = deliver(pipe, stop, &mut |bytes| channel.send(stream, bytes).map_err(|_| Errno::PIPE));
                let _ = channel.finish(stream);
            })
        };
        let copies = [hand_on(out.0, Stream::Out), hand_on(err.0, Stream::Err)];
        scope.spawn(move || pass_words(channel, signals.1, Signal::INT, &|_| ()));
        let ended = program(ends);
        drop(running);
        for copy in copies {
            copy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        channel.done();
        let written = feeding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let left = ioctl_fionread(&unread).unwrap_or(0);
        Ok(End::Ended { code: ended?, read: written.saturating_sub(left) })
    })
}

/// Gives the program what comes, and says by its credit how far that was read. Returns how much was written to it.
fn feed(channel: &Channel, program: PipeWriter, stop: &PipeReader) -> u64 {
    let mut written = 0;
    let mut pieces = 0;
    if channel.grant(Stream::In, PIECE).is_err() {
        return written;
    }
    while let Some(bytes) = channel.take(Stream::In) {
        let count = give(&program, stop, &bytes);
        written += count as u64;
        if count < bytes.len() {
            return written;
        }
        pieces += 1;
        // Who has read so much reads all there is; until then a piece is given when the one before is read.
        let more = if pieces == PIECES { fcntl_setpipe_size(&program, BUFFER).map_or(0, |_| WINDOW as usize - PIECE) } else { 0 };
        if pieces < PIECES && !is_writable(&program, stop) || channel.grant(Stream::In, bytes.len() + more).is_err() {
            return written;
        }
    }
    // Who went away has not said that this was all: the hangup comes before an end that a program would take for one.
    if channel.is_gone() {
        let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], None);
    }
    written
}

/// Writes all of it, unless the other side ends.
fn give(to: &impl AsFd, stop: &PipeReader, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(to, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if is_writable(to, stop) => {}
            Err(_) => break,
        }
    }
    written
}

/// Waits until there is room, which in the smallest of pipes is an empty one; false once the program has ended.
fn is_writable(to: &impl AsFd, stop: &PipeReader) -> bool {
    loop {
        match look([(to.as_fd(), PollFlags::OUT), (stop.as_fd(), PollFlags::IN)], None) {
            Ok([_, stopped]) if !stopped.is_empty() => return false,
            Ok([room, _]) if room.contains(PollFlags::OUT) => return true,
            Ok([room, _]) if !room.is_empty() => return false,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// What the other side says to the program, until either has ended; a Ctrl-C at a terminal is a key, so who cancels one means more.
/// Who goes away hangs up: that is what the end of `signals` means.
fn pass_words(channel: &Channel, mut signals: PipeWriter, cancel: Signal, resize: &dyn Fn(Winsize)) {
    loop {
        let signal = match channel.heard() {
            Heard::Control(Control::Cancel) => cancel,
            Heard::Control(Control::Signal(message::Signal::Interrupt)) => Signal::INT,
            Heard::Control(Control::Signal(message::Signal::Terminate)) => Signal::TERM,
            Heard::Control(Control::Signal(message::Signal::HangUp)) => Signal::HUP,
            Heard::Control(Control::Resize { rows, columns }) => {
                resize(size(rows, columns));
                Signal::WINCH
            }
            Heard::Gone | Heard::Done => return,
        };
        let number = u8::try_from(signal.as_raw()).expect("these are small numbers");
        // One that has ended hears no more.
        if signals.write_all(&[number]).is_err() {
            return;
        }
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Two ends of a new terminal that changes nothing of what goes through: the one inside the machine does that.
fn terminal(window: &Window) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags)?;
    grantpt(&screen)?;
    unlockpt(&screen)?;
    let end = ioctl_tiocgptpeer(&screen, flags)?;
    let mut settings = tcgetattr(&end)?;
    settings.make_raw();
    tcsetattr(&end, OptionalActions::Now, &settings)?;
    tcsetwinsize(&screen, size(window.rows, window.columns))?;
    ioctl_fionbio(&screen, true)?;
    Ok((screen, end))
}

fn at_terminal(channel: &Channel, window: &Window, program: impl FnOnce(Ends) -> Result<i32, Failure>) -> Result<End, Failure> {
    let (screen, end) = terminal(window).map_err(|error| failed(&error))?;
    let pipes = || -> io::Result<_> { Ok((end.try_clone()?, end.try_clone()?, io::pipe()?, io::pipe()?)) };
    let (stdout, stderr, (signals, words), (stop, running)) = pipes().map_err(|error| failed(&error))?;
    let (screen, stop) = (&screen, &stop);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = channel.grant(Stream::In, WINDOW as usize);
            while let Some(bytes) = channel.take(Stream::In) {
                if give(screen, stop, &bytes) < bytes.len() || channel.grant(Stream::In, bytes.len()).is_err() {
                    return;
                }
            }
        });
        let showing = scope.spawn(move || {
            show(channel, screen);
            let _ = channel.finish(Stream::Out);
        });
        scope.spawn(move || pass_words(channel, words, Signal::HUP, &|size| _ = tcsetwinsize(screen, size)));
        let ended = program(Ends { stdin: end, stdout, stderr, signals: signals.into() });
        drop(running);
        showing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        channel.done();
        Ok(End::Ended { code: ended?, read: 0 })
    })
}

/// What the terminal shows, until nobody holds its other end; then it answers with an error. With nobody to show it to, it is read all
/// the same: whoever writes there must come to his end.
fn show(channel: &Channel, screen: &OwnedFd) {
    let mut buffer = [0; frame::PIECE];
    loop {
        let room = channel.room(Stream::Out);
        match read(screen, &mut buffer[..room.unwrap_or(frame::PIECE)]) {
            Ok(0) => return,
            Ok(count) if room.is_ok() => drop(channel.send(Stream::Out, &buffer[..count])),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(screen, PollFlags::IN)], None)),
            Err(_) => return,
        }
    }
}
