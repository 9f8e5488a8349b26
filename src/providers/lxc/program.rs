//! Programs inside a machine, seen from the caller: what goes in and out, and what their end means.

use std::io::{self, Read, Write};
use std::process::{ChildStdout, Stdio as Pipe};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::exec::apart::{self, Fault};
use crate::exec::terminal::Saved;
use crate::exec::{self, Broken, Cancel, Ends, Limits, Output, Reading};
use crate::model::{Exec, Stream};

use super::helper::{Call, Reply, Request, Terminal};
use super::{Ended, Machine, Result, Stdio, failed_io};
use crate::providers::{Given, copies};

/// How often one who waits for bytes looks whether they are still wanted.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

impl Machine<'_> {
    pub fn exec(&self, exec: &Exec, stdio: Stdio<'_>) -> Result<Ended> {
        match stdio {
            Stdio::Pipes { stdin, each } => self.exec_piped(exec, stdin, each),
            Stdio::Fed { input, each } => {
                let call = self.exec_call(exec, None)?;
                let (_, output) = call.command.clone().shown().run_fed(input, each)?;
                self.ended(call, "exec", output)
            }
            Stdio::Follow { each } => {
                let call = self.exec_call(exec, None)?;
                call.command.follow(each)?;
                self.ended(call, "exec", Output::default())
            }
            Stdio::Caller => {
                let call = self.exec_call(exec, None)?;
                apart::run(&call.command).map_err(|fault| match fault {
                    Fault::Start(source) => failed_io("exec", &self.home.exe)(source),
                    Fault::Write(source) => failed_io("hand on the output of", self.id.to_string().as_ref())(source),
                })?;
                self.ended(call, "exec", Output::default())
            }
            Stdio::Ends(ends) => self.exec_between(exec, ends),
            Stdio::Terminal => {
                let kind = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".into());
                // Should the helper be killed, the terminal is still put back.
                let _saved = Saved::now();
                self.exec_direct(self.exec_call(exec, Some(Terminal { kind }))?, "exec")
            }
        }
    }

    fn exec_between(&self, exec: &Exec, ends: Given) -> Result<Ended> {
        let call = self.exec_call(exec, ends.terminal.map(|kind| Terminal { kind }))?;
        call.command.run_between(ends.ends)?;
        self.ended(call, "exec", Output::default())
    }

    pub fn join_console(&self, ends: Option<Ends>) -> Result<()> {
        let request = Request::Console { target: self.target(self.running_spec()?) };
        let call = self.call(&request)?;
        match ends {
            Some(ends) => drop(call.command.run_between(ends)?),
            None => {
                let _saved = Saved::now();
                self.wait_direct(&call, "console")?;
            }
        }
        match call.reply() {
            Some(Reply::Done) => Ok(()),
            other => Err(self.failed("console", other, Vec::new())),
        }
    }

    fn exec_call(&self, exec: &Exec, terminal: Option<Terminal>) -> Result<Call> {
        let target = self.target(self.running_spec()?);
        self.call(&Request::Exec { target, exec: exec.clone(), terminal })
    }

    fn exec_piped(&self, exec: &Exec, stdin: Option<&[u8]>, each: &mut dyn FnMut(Stream, &str)) -> Result<Ended> {
        let mut call = self.exec_call(exec, None)?;
        call.command = call.command.shown();
        call.command.stdin = stdin.map(<[u8]>::to_vec);
        let (_, output) = call.command.run_any(each)?;
        self.ended(call, "exec", output)
    }

    fn exec_direct(&self, call: Call, verb: &'static str) -> Result<Ended> {
        self.wait_direct(&call, verb)?;
        self.ended(call, verb, Output::default())
    }

    /// The helper gets our own descriptors and stays in our process group: on a terminal only that may read keys.
    fn wait_direct(&self, call: &Call, verb: &'static str) -> Result<()> {
        let started = call.command.to_std().status();
        started.map(drop).map_err(failed_io(verb, &self.home.exe))
    }

    fn ended(&self, call: Call, verb: &'static str, output: Output) -> Result<Ended> {
        match call.reply() {
            Some(Reply::Ended { code }) => Ok(Ended { code, output }),
            other => Err(self.failed(verb, other, output.tail.lines())),
        }
    }

    pub fn unpack(&self, tar: &mut (dyn Read + Send), folder: &str, user: &str, cancel: &Cancel) -> Result<()> {
        let exec = Exec { cwd: Some("/".into()), user: Some(user.into()), ..Exec::new(copies::unpacking(folder)) };
        self.feed_tar("unpack on", &exec, tar, cancel)
    }

    fn feed_tar(&self, verb: &'static str, exec: &Exec, tar: &mut (dyn Read + Send), cancel: &Cancel) -> Result<()> {
        let call = self.exec_call(exec, None)?;
        let limits = Limits { cancel: Some(cancel.clone()), ..Limits::default() };
        let (_, output) = call.command.clone().shown().limits(limits).run_fed(tar, &mut |_, _| {})?;
        self.finish_tar(verb, call, output.tail.lines())
    }

    pub fn pack(&self, path: &str, tar: &mut (dyn Write + Send), cancel: &Cancel) -> Result<()> {
        let (argv, _) = copies::packing(path);
        let call = self.exec_call(&Exec { cwd: Some("/".into()), ..Exec::new(argv) }, None)?;
        let mut command = call.command.to_std();
        command.stdin(Pipe::null()).stdout(Pipe::piped()).stderr(Pipe::piped());
        let mut child = command.spawn().map_err(failed_io("run", &self.home.exe))?;
        let mut stdout = Watched { pipe: child.stdout.take().expect("stdout was piped"), cancel };
        // Read all the time: with a full pipe it would wait for us, and we for it.
        let told = Reading::of(child.stderr.take().expect("stderr was piped"));
        let packed = hand_on(&mut stdout, tar);
        if packed.is_err() {
            let _ = child.kill();
        }
        child.wait().map_err(failed_io("run", &self.home.exe))?;
        match packed {
            Ok(()) => self.finish_tar("copy from", call, told.end().lines()),
            Err(_) if cancel.is_set() => {
                Err(exec::Error::CutShort { command: format!("tar --create {path}"), why: Broken::Cancelled }.into())
            }
            Err(error) => Err(failed_io("hand on the files of", self.id.to_string().as_ref())(error)),
        }
    }

    fn finish_tar(&self, verb: &'static str, call: Call, tail: Vec<String>) -> Result<()> {
        match call.reply() {
            Some(Reply::Ended { code: 0 }) => Ok(()),
            Some(Reply::Ended { code }) => Err(copies::failed(verb, self.id, code, tail)),
            other => Err(self.failed(verb, other, tail)),
        }
    }
}

/// All of one to the other, in pieces that are worth a call.
fn hand_on(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut piece = vec![0; 128 * 1024];
    loop {
        match from.read(&mut piece)? {
            0 => return to.flush(),
            count => to.write_all(&piece[..count])?,
        }
    }
}

/// A pipe that nobody waits for once it is cancelled.
struct Watched<'a> {
    pipe: ChildStdout,
    cancel: &'a Cancel,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_set() {
                return Err(io::Error::other("cancelled"));
            }
            match poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&PAUSE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.pipe.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
