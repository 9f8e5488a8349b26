//! Who is at the other end: the kernel says which user, the system's own database (files, LDAP, whatever it has) says the rest, now.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, fstat};
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_domain, socket_peercred};

use crate::exec::people::{self, User};

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    pub home: PathBuf,
    /// Primary and supplementary.
    pub groups: Vec<u32>,
}

/// Whose end it is: a local socket's other side when it connected, else who started us, as `ssh` does.
pub fn user_of(end: BorrowedFd<'_>) -> io::Result<u32> {
    if FileType::from_raw_mode(fstat(end)?.st_mode) != FileType::Socket {
        return Ok(rustix::process::getuid().as_raw());
    }
    if socket_domain(end)? != AddressFamily::UNIX {
        return Err(io::Error::other("a connection over the network names no user of this host"));
    }
    Ok(socket_peercred(end.as_fd())?.uid.as_raw())
}

impl Peer {
    /// `None` for a user that the system does not know.
    pub fn look_up(uid: u32) -> io::Result<Option<Self>> {
        let Some(User { name, group: gid, home }) = people::user(uid)? else { return Ok(None) };
        let groups = people::groups(&name, gid)?;
        Ok(Some(Self { uid, gid, name, home, groups }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sockets_other_side_is_told_by_the_kernel_and_the_network_names_nobody() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let us = rustix::process::getuid().as_raw();
        assert_eq!(user_of(one.as_fd()).unwrap(), us);
        let (pipe, _writer) = io::pipe().unwrap();
        assert_eq!(user_of(pipe.as_fd()).unwrap(), us);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(user_of(listener.as_fd()).is_err());
    }
}
