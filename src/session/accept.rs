//! The socket of a store's commands, and a session of its own for each who comes.
//!
//! It lies in the store's folder, so whoever names a store finds its socket and no other's, and is open to the group alone. Who comes
//! is looked at by the session; here it only counts how many one person and all together have, see [`crate::shares`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::check::GROUP;
use super::peer;
use crate::exec::{Command, people};
use crate::model::{Failure, Kind};
use crate::shares::Shares;
use crate::store::{Holder, Lock, Store};
use crate::wire::Hello;

/// So many sessions there may be at a time.
const SESSIONS: usize = 128;
/// How long a Ctrl-C may go unnoticed.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Where the socket of a store is.
pub fn socket(store: &Path) -> PathBuf {
    store.join("commands.socket")
}

/// A socket that is listened at; it goes with this.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    _lock: Lock,
}

impl Door {
    /// `None` where another process has it, or where there is no group to open it to.
    pub fn open(store: &Store, holder: &Holder) -> Result<Option<Self>, Failure> {
        let path = socket(&store.folder);
        let told = |error: io::Error| Failure::new(Kind::Host, format!("listen at `{}`", path.display())).because(&error);
        let Some(group) = people::group(GROUP).map_err(told)? else { return Ok(None) };
        let Ok(lock) = store.lock("commands", holder).attempt()? else { return Ok(None) };
        // One that was killed left it, and nobody listens there: the lock says so.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(told)?;
        // Who comes in before this is asked who he is all the same.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(told)?;
        chown(&path, Some(0), Some(group)).map_err(told)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o660)).map_err(told)?;
        listener.set_nonblocking(true).map_err(told)?;
        Ok(Some(Self { listener, path, _lock: lock }))
    }

    /// Lets people in until cancelled. `session` is the program that serves one; those that run go on.
    pub fn serve(&self, session: &Command, cancel: &AtomicBool) {
        let shares = Shares::new(SESSIONS);
        while !cancel.load(Ordering::Relaxed) {
            let there = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&NAP));
            if !matches!(there, Ok(1..)) {
                continue;
            }
            match self.listener.accept() {
                Ok((stream, _)) => welcome(stream, session, &shares),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::warn!(%error, "somebody who came could not be let in");
                    // Descriptors or memory are short: who has some gives them back.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

fn welcome(stream: UnixStream, session: &Command, shares: &Arc<Shares>) {
    let Ok(uid) = peer::user_of(stream.as_fd()) else { return };
    let account = shares.person(uid);
    let Some(share) = account.take() else {
        return refuse(stream, &format!("you have {} already, and {} are under way in all", account.held(), shares.used()));
    };
    let _ = stream.set_nonblocking(false);
    let again = stream.try_clone();
    let started = session.answer(OwnedFd::from(stream)).map_err(|error| error.to_string());
    let waiting = started.and_then(|mut child| {
        let wait = move || {
            let _share = share;
            let _ = child.wait();
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(wait).map_err(|error| error.to_string())
    });
    if let (Err(error), Ok(stream)) = (waiting, again) {
        tracing::error!(%error, "no session");
        refuse(stream, &error);
    }
}

/// It is told before it said a word, and may be gone.
fn refuse(mut stream: UnixStream, why: &str) {
    let failure = Failure::new(Kind::Exhausted, "open a session").cause(why).hint("end commands that still run, then try again");
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    let _ = Hello { refused: Some(failure), ..Hello::ours() }.send(&mut stream);
}
