//! Users and groups as this system's own database has them now, wherever it keeps them: files, LDAP, whatever it is set to.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// The first of their groups.
    pub group: u32,
    pub home: PathBuf,
}

/// `None` for one whom the system does not know.
pub fn user(id: u32) -> io::Result<Option<User>> {
    with_room(|buffer| {
        // SAFETY: a `passwd` of zeros is a valid one, which is only written to.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all of it outlives the call, and the length is the buffer's.
        let code = unsafe { libc::getpwuid_r(id, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
        if code != 0 || found.is_null() {
            return (code, None);
        }
        // SAFETY: an entry that was found points to strings in the buffer, which is still there.
        let [name, home] = unsafe { [CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)] };
        let name = name.to_string_lossy().into_owned();
        (0, Some(User { name, group: entry.pw_gid, home: PathBuf::from(OsStr::from_bytes(home.to_bytes())) }))
    })
}

/// The number of a group, if there is one of this name.
pub fn group(name: &str) -> io::Result<Option<u32>> {
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

/// All groups of a user, of which the first is known.
pub fn groups(name: &str, first: u32) -> io::Result<Vec<u32>> {
    const MOST: usize = 1 << 17;
    let name = CString::new(name)?;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the name ends with a zero, and there is room for as many groups as `count` says.
        let fits = unsafe { libc::getgrouplist(name.as_ptr(), first, groups.as_mut_ptr(), &raw mut count) } >= 0;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_who_somebody_is() {
        let root = user(0).unwrap().unwrap();
        assert_eq!((root.name.as_str(), root.group, root.home.to_str()), ("root", 0, Some("/root")));
        assert!(groups("root", 0).unwrap().contains(&0));
        assert_eq!(user(4_294_000_000).unwrap(), None);
        assert_eq!(group("root").unwrap(), Some(0));
        assert_eq!(group("no-such-group").unwrap(), None);
        assert!(group("a\0b").is_err() && groups("a\0b", 0).is_err());
    }
}
