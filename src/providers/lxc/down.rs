//! Getting a machine down, from whatever state it is in, without liblxc: signals to its init, its monitor and, where
//! these are beyond reach, to everything in its control groups.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::cgroup::{self, Hierarchies};
use crate::exec::Command;

/// How long the kernel may take to end killed processes. Only a broken disk or driver needs more.
const KILL: Duration = Duration::from_secs(20);
/// How long liblxc's monitor may take to clean up behind a dead machine.
const MONITOR: Duration = Duration::from_secs(5);
/// How often an init that shuts down is told to look around.
const POKE: Duration = Duration::from_millis(50);
/// systemd: halt. SIGRTMIN+3 as glibc counts, which is what systemd does.
const HALT: i32 = 37;

/// What became of a request to shut down.
pub enum Asked {
    Gone,
    Stays,
    Nobody,
}

/// The machine's processes as the kernel has them.
pub struct Running<'a> {
    pub hierarchies: &'a Hierarchies,
    pub group: &'a str,
}

impl Running<'_> {
    /// Asks init to shut down and waits for its end.
    pub fn ask(&self, grace: Duration) -> io::Result<Asked> {
        let until = Instant::now() + grace;
        let Some((pid, init)) = self.init() else { return Ok(Asked::Nobody) };
        self.hierarchies.set_frozen(self.group, false, Duration::from_secs(1)).ok();
        // Process 1 of a namespace never sees a signal that it has no handler for, and it needs a moment to set up its own.
        while !listens(pid, HALT) {
            if wait(&init, Duration::from_millis(5))? {
                return Ok(Asked::Gone);
            }
            if Instant::now() > until {
                return Ok(Asked::Stays);
            }
        }
        // SAFETY: 37 is a real-time signal that no libc keeps for itself.
        let halt = unsafe { Signal::from_raw_unchecked(HALT) };
        if pidfd_send_signal(&init, halt).is_err() {
            return Ok(Asked::Gone);
        }
        while !wait(&init, POKE.min(until.saturating_duration_since(Instant::now())))? {
            if Instant::now() >= until {
                return Ok(Asked::Stays);
            }
            // systemd's last step waits for everything to end and is woken by its own children only. A program that came from
            // outside, through `exec`, is nobody's child in there: without this it would be waited for although it has ended.
            let _ = pidfd_send_signal(&init, Signal::CHILD);
        }
        Ok(Asked::Gone)
    }

    /// Ends the machine by force, then its monitor, and removes the groups. False when something can't be killed.
    pub fn kill(&self) -> bool {
        self.clear_helper();
        let Some((_, init)) = self.init() else { return self.clear() };
        self.hierarchies.set_frozen(self.group, false, Duration::from_secs(1)).ok();
        // The kernel ends every process of the machine with its init.
        let _ = pidfd_send_signal(&init, Signal::KILL);
        // What the monitor would tidy up (groups, the cable) we and the kernel do faster.
        for pid in self.hierarchies.processes(&cgroup::monitor(self.group)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = wait(&init, KILL);
        self.settle()
    }

    /// After init's end: lets the monitor finish, which removes links and groups, then removes what is left.
    pub fn settle(&self) -> bool {
        let monitor = cgroup::monitor(self.group);
        for pid in self.hierarchies.processes(&monitor) {
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
                && !wait(&pidfd, MONITOR).unwrap_or(false)
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        self.clear()
    }

    pub fn has_monitor(&self) -> bool {
        self.hierarchies.has_living(&cgroup::monitor(self.group))
    }

    /// Ends whatever there is, who starts something first.
    pub fn clear(&self) -> bool {
        self.groups().iter().all(|group| self.hierarchies.clear(group, KILL))
    }

    /// Ends what is left of a start that has succeeded or been given up.
    pub fn clear_helper(&self) -> bool {
        self.hierarchies.clear(&cgroup::helper(self.group), KILL)
    }

    fn groups(&self) -> [String; 3] {
        [cgroup::helper(self.group), cgroup::monitor(self.group), self.group.to_owned()]
    }

    pub fn anything_left(&self) -> bool {
        self.groups().iter().any(|group| self.hierarchies.exists(group))
    }

    /// Init with a descriptor that can't come to mean another process.
    fn init(&self) -> Option<(Pid, OwnedFd)> {
        let pid = self.hierarchies.init(self.group)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        (self.hierarchies.init(self.group) == Some(pid)).then_some((pid, fd))
    }
}

/// Waits for the end of a process.
fn wait(pidfd: &OwnedFd, most: Duration) -> io::Result<bool> {
    let until = Instant::now() + most;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a process would notice the signal: it has a handler, or it blocks it to read it from a descriptor.
fn listens(pid: Pid, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigBlk:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Removes the host's end of a machine's cable. The kernel does it too once the machine is gone, but in its own time, and a
/// new machine of the same name would find it taken.
pub fn remove_link(name: &str) -> Result<(), crate::exec::Error> {
    if !Path::new("/sys/class/net").join(name).exists() {
        return Ok(());
    }
    match Command::new("ip").args(["link", "delete", name]).run() {
        Err(error) if Path::new("/sys/class/net").join(name).exists() => Err(error),
        _ => Ok(()),
    }
}
