//! The descriptors that systemd kept for this process, by `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` (sd_listen_fds(3)).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first that systemd hands over.
const FIRST: RawFd = 3;

/// Each with its name. The first who asks has them all.
pub fn inherited() -> Vec<(OwnedFd, String)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let word = |name| std::env::var(name).unwrap_or_default();
    let named = named(std::process::id(), &word("LISTEN_PID"), &word("LISTEN_FDS"), &word("LISTEN_FDNAMES"));
    named.into_iter().filter_map(|(number, name)| Some((own(number)?, name))).collect()
}

/// `None` for a number behind which there is nothing. No program that is started from here has it.
fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: a number without a descriptor is an error of these two calls, and nothing else.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(there, fcntl_getfd(there).ok()? | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it was open before this process's first instruction, so nobody in here opened it; and it is taken only once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What the variables say, if it is said to this process. Without a name for each, none has one.
fn named(own: u32, pid: &str, count: &str, names: &str) -> Vec<(RawFd, String)> {
    if pid.parse() != Ok(own) {
        return Vec::new();
    }
    // As many as may be open here; more are not there.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = count.parse::<u64>().unwrap_or(0).min(most);
    let names: Vec<_> = names.split(':').collect();
    let name = |index: usize| if names.len() as u64 == count { names[index].to_owned() } else { String::new() };
    let numbers = (FIRST..RawFd::MAX).take(usize::try_from(count).unwrap_or(usize::MAX));
    numbers.enumerate().map(|(index, number)| (number, name(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_another_process_or_makes_no_sense_is_nothing() {
        let two = vec![(3, "a".to_owned()), (4, "b".to_owned())];
        assert_eq!(named(7, "7", "2", "a:b"), two);
        assert_eq!(named(7, "7", "2", "a:b:c"), [(3, String::new()), (4, String::new())]);
        for (pid, count, names) in [("8", "2", "a:b"), ("", "2", "a:b"), ("7", "", ""), ("7", "-1", "a"), ("7", "x", "a")] {
            assert_eq!(named(7, pid, count, names), [], "{pid} {count} {names}");
        }
        assert!(named(7, "7", "18446744073709551615", "").len() < 1 << 24);
        assert!(own(RawFd::MAX - 1).is_none());
    }
}
