//! Who is at the other end: the kernel says which user, the system's own database (files, LDAP, whatever it has) says the rest, now.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, fstat};
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_domain, socket_peercred};

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
        let Some((name, gid, home)) = passwd(uid)? else { return Ok(None) };
        let groups = groups(&name, gid)?;
        let home = PathBuf::from(home.to_string_lossy().into_owned());
        Ok(Some(Self { uid, gid, name: name.to_string_lossy().into_owned(), home, groups }))
    }
}

/// The number of a group, if there is one of this name.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    with_room(|buffer| {
        // SAFETY: a `group` of zeros is a valid one, which is only written to.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all of it outlives the call, and the length is the buffer's.
        let code = unsafe { libc::getgrnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
        (code, (code == 0 && !found.is_null()).then_some(entry.gr_gid))
    })
}

fn passwd(uid: u32) -> io::Result<Option<(CString, u32, CString)>> {
    with_room(|buffer| {
        // SAFETY: a `passwd` of zeros is a valid one, which is only written to.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all of it outlives the call, and the length is the buffer's.
        let code = unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
        if code != 0 || found.is_null() {
            return (code, None);
        }
        // SAFETY: an entry that was found points to strings in the buffer, which is still there.
        let text = |pointer| unsafe { CStr::from_ptr(pointer) }.to_owned();
        (0, Some((text(entry.pw_name), entry.pw_gid, text(entry.pw_dir))))
    })
}

/// Asks with more and more room, until the answer fits.
fn with_room<T>(mut ask: impl FnMut(&mut [libc::c_char]) -> (libc::c_int, Option<T>)) -> io::Result<Option<T>> {
    const MOST: usize = 16 << 20;
    let mut buffer = vec![0; 16 << 10];
    loop {
        match ask(&mut buffer) {
            (0, found) => return Ok(found),
            (libc::ERANGE, _) if buffer.len() < MOST => buffer.resize(buffer.len() * 4, 0),
            (libc::EINTR, _) => {}
            // What some of the database's parts say instead of nothing.
            (libc::ENOENT | libc::ESRCH, _) => return Ok(None),
            (code, _) => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

fn groups(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    const MOST: usize = 1 << 17;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the name ends with a zero, and there is room for as many groups as `count` says.
        let fits = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) } >= 0;
        let count = usize::try_from(count).unwrap_or(0);
        if fits {
            groups.truncate(count);
            return Ok(groups);
        }
        if groups.len() >= MOST {
            return Err(io::Error::other("the user is in too many groups"));
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_who_somebody_is() {
        let root = Peer::look_up(0).unwrap().unwrap();
        assert_eq!((root.name.as_str(), root.gid, root.home.to_str()), ("root", 0, Some("/root")));
        assert!(root.groups.contains(&0));
        assert_eq!(Peer::look_up(4_294_000_000).unwrap(), None);
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("no-such-group").unwrap(), None);
        assert!(group_id("a\0b").is_err());
    }

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
