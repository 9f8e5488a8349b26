//! A terminal with a person's hands: what a program does when it is not read by a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

pub struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Runs a command with this terminal as its own.
    pub fn open(command: &Command, rows: u16, columns: u16) -> Self {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("the kernel has terminals");
        grantpt(&pty).and_then(|()| unlockpt(&pty)).expect("it is ours");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&pty, size).expect("it is a terminal");
        let name = ptsname(&pty, Vec::new()).expect("it has a name").into_string().expect("plain letters");
        let line = || File::options().read(true).write(true).open(&name).expect("it was unlocked");
        // `setsid` makes it the controlling terminal, so that Ctrl-C means something.
        let mut shell = Command::new("setsid");
        shell.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let child = shell.env("TERM", "xterm").stdin(line()).stdout(line()).stderr(line()).spawn().expect("it starts");
        let mut output = File::from(pty.try_clone().expect("descriptors are not short"));
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The kernel answers with an error once nobody has the other side open.
            while let Ok(count) = output.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keys: File::from(pty), screen, seen: String::new() }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keys, size).expect("it is a terminal");
    }

    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it is open");
    }

    /// Waits until the screen shows this, then forgets all that was there up to it.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        self.until(text);
    }

    /// The same, and what the screen showed before it.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(15);
        let end = loop {
            if let Some(at) = self.seen.find(text) {
                break at;
            }
            match self.screen.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("the terminal never showed {text:?}: {:?}", self.seen),
            }
        };
        let before = self.seen[..end].to_owned();
        self.seen.drain(..end + text.len());
        before
    }

    /// The exit code.
    #[track_caller]
    pub fn end(mut self) -> i32 {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > until {
                drop(self.child.kill());
                panic!("it never ended: {:?}", self.seen);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
