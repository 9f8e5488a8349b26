//! The door of a server: what its script says, and how this adt's program gets in.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::complaint::{failure, why};
use super::script::{self, DONE, Found, MARK};
use super::session::Session;
use super::way::Way;
use crate::exec::Wired;
use crate::model::target::Server;
use crate::model::{Digest, Failure, Kind, Size};
use crate::wire::frame::{Patient, Source};

/// So long a login may take until the script speaks, and a program until it lies on the disk.
const WITHIN: Duration = Duration::from_secs(60);
/// So many bytes a login may say before that.
const GREETINGS: usize = 64 << 10;
/// How much of a program goes at a time.
const PIECE: usize = 256 << 10;

/// This adt's program, as it goes to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub sha256: Digest,
    pub bytes: u64,
}

impl Program {
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut file = std::fs::File::open(path)?;
        let mut buffer = vec![0; PIECE];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => {
                    hash.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
        Ok(Self { path: path.to_owned(), sha256: Digest::from_bytes(&hash.finalize()), bytes })
    }
}

/// An open connection whose script waits for a word.
pub struct Door {
    server: Server,
    pub(super) ssh: Wired,
    pub(super) input: ChildStdin,
    pub(super) output: Patient,
    pub found: Found,
}

/// Connects, and reads what is there.
pub fn knock(way: &Way, server: &Server) -> Result<Door, Failure> {
    let started = way.to(server).wired();
    let (ssh, (input, output)) = started.map_err(|error| failure(server).because(&error).hint("install `openssh-client`"))?;
    let mut output = Patient::from(std::os::fd::OwnedFd::from(output));
    let found = match said(&mut output) {
        Ok(words) => script::found(&words),
        Err(error) => {
            drop((input, output));
            return Err(why(server, ssh, &error));
        }
    };
    let Some(found) = found else {
        return Err(failure(server).cause("what its shell says is not what the script there prints"));
    };
    if found.user != 0 {
        return Err(failure(server).cause(format!("`{}` is not root there", server.address.user)));
    }
    if (found.system.as_str(), found.processor.as_str()) != ("Linux", std::env::consts::ARCH) {
        let (system, processor) = (found.system.escape_debug(), found.processor.escape_debug());
        return Err(
            failure(server).cause(format!("it is {system} on {processor}, and this adt is Linux on {}", std::env::consts::ARCH))
        );
    }
    Ok(Door { server: server.clone(), ssh, input, output, found })
}

/// A session with the adt that is there, whichever it is.
pub fn enter(way: &Way, server: &Server, command: &str, cancel: &Arc<AtomicBool>) -> Result<Session, Failure> {
    let door = knock(way, server)?;
    if door.found.program.is_none() {
        return Err(Failure::new(Kind::NotFound, format!("find adt on `{server}`"))
            .cause("nothing was promoted there")
            .hint("`adt env:promote` brings it, and a ticket's environment"));
    }
    door.enter(false, command, cancel)
}

impl Door {
    /// Puts this program in the place of the one there, which stays beside it. The connection then goes on with the new one.
    pub fn put(mut self, program: &Program, cancel: &AtomicBool) -> Result<Self, Failure> {
        if self.found.room < 2 * program.bytes {
            return Err(Failure::new(Kind::Exhausted, format!("put adt on `{}`", self.server))
                .cause(format!("`/usr/local/bin` has {} left, and {} are needed", Size(self.found.room), Size(2 * program.bytes)))
                .hint("free some space there"));
        }
        let sent = send(&mut self.input, program, cancel);
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::new(Kind::Cancelled, format!("put adt on `{}`", self.server)).cause("cancelled"));
        }
        match sent.and_then(|()| said(&mut self.output)) {
            Ok(word) if word == DONE => Ok(self),
            Ok(_) => Err(failure(&self.server).cause("it does not say that the program is there")),
            Err(error) => {
                drop((self.input, self.output));
                let told = why(&self.server, self.ssh, &error);
                Err(Failure { sentence: format!("put adt on `{}`", self.server), ..told })
            }
        }
    }

    /// Puts the program back that was there before.
    pub fn put_back(mut self) -> Result<(), Failure> {
        let asked = self.input.write_all(b"back\n").and_then(|()| said(&mut self.output));
        match asked {
            Ok(word) if word == DONE => Ok(()),
            Ok(_) => Err(failure(&self.server).cause("it does not say that the program is back")),
            Err(error) => {
                drop((self.input, self.output));
                Err(why(&self.server, self.ssh, &error))
            }
        }
    }

    /// Speaks with the adt there. After [`Self::put`] it is the new one already.
    pub fn enter(mut self, has_put: bool, command: &str, cancel: &Arc<AtomicBool>) -> Result<Session, Failure> {
        if !has_put && let Err(error) = self.input.write_all(b"go\n") {
            drop((self.input, self.output));
            return Err(why(&self.server, self.ssh, &error));
        }
        Session::open(self.server, self.ssh, self.input, self.output, command, cancel)
    }
}

fn send(input: &mut ChildStdin, program: &Program, cancel: &AtomicBool) -> io::Result<()> {
    let mut file = std::fs::File::open(&program.path)?.take(program.bytes);
    writeln!(input, "put {} {}", program.bytes, program.sha256)?;
    let mut buffer = vec![0; PIECE];
    while !cancel.load(Ordering::Relaxed) {
        match file.read(&mut buffer)? {
            0 => break,
            count => input.write_all(&buffer[..count])?,
        }
    }
    Ok(())
}

/// The words behind the next mark. Byte by byte: what follows a line may be frames.
fn said(output: &mut Patient) -> io::Result<String> {
    output.hurry(Some(WITHIN));
    let (mut line, mut last) = (Vec::new(), String::new());
    for _ in 0..GREETINGS {
        let mut byte = [0];
        match output.read(&mut byte) {
            Ok(0) if last.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            // As images do that want another user than root.
            Ok(0) => return Err(io::Error::other(format!("it ended with `{}`", last.escape_debug()))),
            Ok(_) if byte == *b"\n" => {
                let text = String::from_utf8_lossy(&line);
                if let Some(words) = text.trim_end().strip_prefix(MARK) {
                    return Ok(words.to_owned());
                }
                last = text.trim().chars().take(200).collect();
                line.clear();
            }
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("it says more than a login would"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(text: &[u8]) -> io::Result<String> {
        let (reader, mut writer) = io::pipe().unwrap();
        let text = text.to_vec();
        let writing = std::thread::spawn(move || drop(writer.write_all(&text)));
        let mut output = Patient::from(std::os::fd::OwnedFd::from(reader));
        let heard = said(&mut output);
        drop(output);
        writing.join().unwrap();
        heard
    }

    #[test]
    fn a_logins_greetings_are_passed_over_and_an_endless_one_is_not_read() {
        assert_eq!(hear(b"Welcome!\r\nlast login: now\nadt-door done\nrest").unwrap(), "done");
        assert_eq!(hear(b"adt-door done").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(hear(b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let told = hear(b"Please login as the user \"debian\".\n").unwrap_err().to_string();
        assert!(told.contains("login as the user"), "{told}");
        assert!(hear(&vec![b'x'; 1 << 20]).unwrap_err().to_string().contains("more than a login"));
        assert!(hear(&b"hello\n".repeat(100_000)).is_err());
    }
}
