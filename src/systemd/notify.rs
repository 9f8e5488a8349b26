//! How a daemon tells its starter that it serves: systemd's protocol, which `host:up --detach` understands too.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};

/// Where the starter listens.
pub const VARIABLE: &str = "NOTIFY_SOCKET";
/// Lines that systemd skips and `host:up --detach` shows.
const NOTICE: &str = "X_ADT_NOTICE=";
/// How long a starter that is busy is waited for, where it is about sockets.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves; `status` is what `systemctl status` shows.
pub fn ready(status: &str, notices: &[String]) {
    let status = [status].into_iter().chain(notices.iter().map(String::as_str)).collect::<Vec<_>>().join("; ");
    let notices: String = notices.iter().map(|notice| format!("{NOTICE}{notice}\n")).collect();
    say(&format!("READY=1\nSTATUS={status}\n{notices}"));
}

pub fn stopping() {
    say("STOPPING=1\nSTATUS=finishing the requests that run\n");
}

/// A starter that went away, or none at all, is no reason not to serve.
fn say(text: &str) {
    let Some(starter) = Starter::of_environment() else { return };
    // Nor is one that does not listen: its queue would fill up.
    if let Err(error) = starter.send(text, None, SendFlags::DONTWAIT) {
        tracing::warn!(%error, "whoever started adt was not told that it serves");
    }
}

/// Whoever started this process and wants to hear of it.
#[derive(Debug)]
pub(super) struct Starter {
    address: SocketAddrUnix,
}

impl Starter {
    pub fn of_environment() -> Option<Self> {
        Self::at(&std::env::var_os(VARIABLE)?)
    }

    pub fn at(name: &OsStr) -> Option<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(name),
        };
        Some(Self { address: address.ok()? })
    }

    /// systemd's own is a file; an [`Ear`] has no place for sockets.
    pub fn is_systemd(&self) -> bool {
        self.address.path().is_some()
    }

    /// Something that must not get lost, with a socket to keep.
    pub fn tell(&self, text: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(text, socket, SendFlags::empty())
    }

    fn send(&self, text: &str, socket: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
        let mouth = UnixDatagram::unbound()?;
        mouth.set_write_timeout(Some(PATIENCE))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets: Vec<_> = socket.into_iter().collect();
        if !sockets.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&sockets));
        }
        sendmsg_addr(&mouth, &self.address, &[IoSlice::new(text.as_bytes())], &mut control, flags | SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// The starter's side. The kernel chooses the name, and takes it away with the socket.
pub struct Ear {
    socket: UnixDatagram,
    pub name: String,
}

impl Ear {
    pub fn new() -> std::io::Result<Self> {
        // Bound to an empty name, a socket gets one that nobody has.
        let unnamed = rustix::net::SocketAddrUnix::new_unnamed();
        let socket = UnixDatagram::unbound()?;
        rustix::net::bind(&socket, &unnamed)?;
        let name = socket.local_addr()?;
        let name = name.as_abstract_name().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let name = format!("@{}", String::from_utf8_lossy(name));
        Ok(Self { socket, name })
    }

    /// What a daemon that serves now has to say; `None` when it said nothing for this long.
    pub fn ready(&self, patience: Duration) -> std::io::Result<Option<Vec<String>>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 16 << 10];
        let length = match self.socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let notices = text.lines().filter_map(|line| line.strip_prefix(NOTICE)).map(str::to_owned).collect();
        Ok(text.lines().any(|line| line == "READY=1").then_some(notices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ears_have_two_names_and_hear_what_is_sent() {
        let (one, other) = (Ear::new().unwrap(), Ear::new().unwrap());
        assert_ne!(one.name, other.name);
        let starter = Starter::at(OsStr::new(&one.name)).unwrap();
        assert!(!starter.is_systemd());
        starter.tell("STATUS=soon", None).unwrap();
        assert_eq!(one.ready(Duration::from_secs(5)).unwrap(), None);
        starter.tell("READY=1\nX_ADT_NOTICE=a b\n", None).unwrap();
        assert_eq!(one.ready(Duration::from_secs(5)).unwrap(), Some(vec!["a b".to_owned()]));
        assert_eq!(other.ready(Duration::from_millis(1)).unwrap(), None);
    }
}
