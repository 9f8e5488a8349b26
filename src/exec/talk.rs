//! A program that is asked again and again, by its input and its output.

use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::{Command, Error, Status};

/// It ends by itself once its input does.
pub struct Talk {
    child: Child,
    pub input: ChildStdin,
    pub output: BufReader<ChildStdout>,
}

impl Command {
    /// Starts it, and leaves it to the caller when it ends.
    pub fn talk(&self) -> Result<Talk, Error> {
        let mut command = self.to_std();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|source| self.not_started(source))?;
        let input = child.stdin.take().expect("stdin was piped");
        let output = BufReader::new(child.stdout.take().expect("stdout was piped"));
        Ok(Talk { child, input, output })
    }
}

impl Talk {
    /// Itself, unless it has ended meanwhile.
    pub fn that_runs(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    /// How it ended, of one whose output has.
    pub fn ended(mut self) -> Option<Status> {
        drop((self.input, self.output));
        self.child.wait().ok().map(Status)
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
