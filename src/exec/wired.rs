//! A program between two pipes of ours that speaks a protocol. What it says beside that is kept: it tells why it ended.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Command, Error, Status};
use crate::model::Tail;

/// So long it may take to end once nobody speaks to it any more.
const REST: Duration = Duration::from_secs(5);
/// So long after its end its last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Of a line that it says; one that is longer is cut there.
const LONGEST: u64 = 4 << 10;

/// It ends when this is dropped, at the latest.
pub struct Wired {
    child: Child,
    said: Arc<Mutex<Tail>>,
    /// It reads what is said until nobody can say more.
    hearing: JoinHandle<()>,
}

/// Its input and its output.
pub type Pipes = (ChildStdin, ChildStdout);

impl Command {
    /// Starts it, tied to this process.
    pub fn wired(&self) -> Result<(Wired, Pipes), Error> {
        let mut command = self.clone().tied().to_std();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let said = Arc::new(Mutex::new(Tail::default()));
        let kept = Arc::clone(&said);
        let (sender, receiver) = sync_channel(1);
        // The kernel ties a child to the thread that starts it. This one stays as long as there is somebody to hear; ours may only
        // have come to open the connection.
        let hearing = std::thread::spawn(move || {
            let started = command.spawn().map(|mut child| (child.stderr.take(), child));
            let Ok((errors, child)) = started.map_err(|error| drop(sender.send(Err(error)))) else { return };
            let mut errors = BufReader::new(errors.expect("stderr was piped"));
            let _ = sender.send(Ok(child));
            let mut line = Vec::new();
            while std::io::Read::take(&mut errors, LONGEST).read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line);
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(text.trim_end());
                line.clear();
            }
        });
        let started = receiver.recv().expect("it says how it went before it ends");
        let mut child = started.map_err(|source| self.not_started(source))?;
        let input = child.stdin.take().expect("stdin was piped");
        let output = child.stdout.take().expect("stdout was piped");
        Ok((Wired { child, said, hearing }, (input, output)))
    }
}

impl Wired {
    /// Waits until it has ended by itself, but not for long.
    pub fn rest(&mut self) -> Option<Status> {
        let since = Instant::now();
        loop {
            let status = self.child.try_wait().ok().flatten().map(Status);
            if status.is_some() || since.elapsed() > REST {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How it ended, if it did so soon, and what it said last. Its pipes were closed before.
    pub fn ended(mut self) -> (Option<Status>, Vec<String>) {
        let status = self.rest();
        let since = Instant::now();
        // Whom it gave its output to may hold that for long.
        while !self.hearing.is_finished() && since.elapsed() < LAST_WORDS {
            std::thread::sleep(Duration::from_millis(5));
        }
        (status, self.said.lock().unwrap_or_else(PoisonError::into_inner).clone().lines())
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn it_outlives_the_thread_that_asked_for_it() {
        let started = std::thread::spawn(|| Command::new("cat").wired().unwrap()).join().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let (wired, (mut input, mut output)) = started;
        input.write_all(b"still there").unwrap();
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still there");
        assert!(wired.ended().0.is_some());
    }
}
