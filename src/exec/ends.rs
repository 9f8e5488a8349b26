//! A program between descriptors that somebody made for it alone, with somebody who sends it signals.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Command, Error};

pub struct Ends {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// A pipe: each byte is the number of a signal for the program, and its end is a hangup.
    pub signals: OwnedFd,
}

impl Command {
    /// Runs it to its end. Nobody else keeps the program's ends open after it.
    pub fn run_between(&self, ends: Ends) -> Result<ExitStatus, Error> {
        let mut command = self.to_std();
        command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
        let child = command.spawn().map_err(|source| self.not_started(source))?;
        // Our copies of the ends.
        drop(command);
        pass_on(child, &ends.signals).map_err(|source| self.not_started(source))
    }
}

fn pass_on(mut child: Child, signals: &OwnedFd) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut told = true;
    loop {
        let wanted = if told { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(&process, PollFlags::IN), PollFd::new(signals, wanted)];
        // A pipe whose other end is closed is ready for ever.
        match poll(&mut fds[..if told { 2 } else { 1 }], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if told && !fds[1].revents().is_empty() {
            let mut byte = [0];
            let signal = match read(signals, &mut byte) {
                Ok(1) => Signal::from_named_raw(byte[0].into()),
                Err(Errno::INTR | Errno::AGAIN) => None,
                _ => {
                    told = false;
                    Some(Signal::HUP)
                }
            };
            if let Some(signal) = signal {
                let _ = pidfd_send_signal(&process, signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn signals_go_to_the_program_and_their_end_is_a_hangup() {
        let script = "trap 'echo heard' USR1; echo ready; while :; do sleep 0.01; done";
        let (mut read, write) = io::pipe().unwrap();
        let (signals, mut tell) = io::pipe().unwrap();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let ends = Ends { stdin: null(), stdout: write.into(), stderr: null(), signals: signals.into() };
        let command = Command::new("sh").args(["-c", script]);
        let run = std::thread::spawn(move || command.run_between(ends).unwrap());
        let mut line = [0; 6];
        read.read_exact(&mut line).unwrap();
        tell.write_all(&[Signal::USR1.as_raw() as u8]).unwrap();
        read.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"heard\n");
        drop(tell);
        assert_eq!(run.join().unwrap().signal(), Some(Signal::HUP.as_raw()));
    }
}
