//! The daemon as a process: started so that it outlives its starter, found by its lock, asked to end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::running::DRAIN;
use crate::exec;
use crate::model::{Failure, Kind};
use crate::network::detour;
use crate::store::{Holder, Store, lock};
use crate::systemd::notify::{self, Ear};

/// The lock that says whether a daemon of this store runs, and which process it is.
pub(super) const LOCK: &str = crate::store::SERVING;
/// How long a daemon may take to serve, and to end after it drained: each part of that end has a bound of its own, and all of them
/// together are shorter than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process that serves this store's names and pages. Who has just taken the lock is about to write who it is.
fn holder(store: &Store) -> Option<Holder> {
    let until = Instant::now() + PATIENCE;
    loop {
        match lock::held::<Holder>(&lock_path(store))? {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            told => return told,
        }
    }
}

fn lock_path(store: &Store) -> PathBuf {
    store.folder.join("locks").join(format!("{LOCK}.lock"))
}

/// As [`holder`]. One that was killed holds its lock for the moments in which the kernel takes it down; it is waited for, because
/// whoever asks is about to start its successor.
pub fn living(store: &Store) -> Option<Holder> {
    let until = Instant::now() + PATIENCE;
    loop {
        let holder = holder(store)?;
        if is_well(holder.pid) || Instant::now() > until {
            return Some(holder);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_well(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| tells_of_rest(&stat))
}

/// `stat` as proc(5) describes it: a name in brackets, which may hold anything, and numbered fields. A signal that kills wakes who
/// rests, and it rests never again; who runs may be on the way to its end without a mark that shows it.
fn tells_of_rest(stat: &str) -> bool {
    const FIRST: usize = 3;
    const EXITING: u64 = 4;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| fields.get(number - FIRST).copied().unwrap_or_default();
    let bits = |number| field(number).parse::<u64>().unwrap_or_default();
    let (state, flags, pending) = (field(3), bits(9), bits(31));
    ["S", "D", "T", "t"].contains(&state) && flags & EXITING == 0 && pending & (1 << (Signal::KILL.as_raw() - 1)) == 0
}

/// What became of a start.
pub enum Started {
    /// It serves, and has this to say.
    Now(Vec<String>),
    Already,
}

/// Starts the daemon as a process of its own and returns when it serves.
pub fn detach(store: &Store, command: &exec::Command) -> Result<Started, Failure> {
    if living(store).is_some() {
        return Ok(Started::Already);
    }
    let failure = || Failure::new(Kind::Host, "serve names and pages");
    let ear = Ear::new().map_err(|error| failure().because(&error))?;
    let log = store.folder.join("daemon.log");
    let mut child = command.clone().env(notify::VARIABLE, ear.name.as_str()).detach(&log)?;
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(notices) = ear.ready(Duration::from_millis(50)).map_err(|error| failure().because(&error))? {
            return Ok(Started::Now(notices));
        }
        if child.try_wait().ok().flatten().is_some() {
            return Err(failure().cause("the process ended at once").tail(last_lines(&log)));
        }
        if Instant::now() > until {
            return Err(failure().cause("it does not serve in time").tail(last_lines(&log)));
        }
    }
}

fn last_lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(10)..].to_vec()
}

/// Asks the daemon to drain and end, and waits for it. False when none runs; what a killed one left goes all the same.
pub fn halt(store: &Store) -> Result<bool, Failure> {
    let Some(holder) = holder(store) else {
        detour::remove(store.install())?;
        return Ok(false);
    };
    ask_to_end(store, &holder)?;
    let until = Instant::now() + DRAIN + PATIENCE;
    while self::holder(store).is_some_and(|now| now.pid == holder.pid) {
        if Instant::now() > until {
            return Err(Failure::new(Kind::Deadline, "stop the daemon")
                .cause(format!("process {} does not end", holder.pid))
                .hint(format!("end it with `kill -9 {}`; nothing is lost by that", holder.pid)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    detour::remove(store.install())?;
    Ok(true)
}

/// One that has ended meanwhile needs no asking, and whoever has its number by now is not asked.
fn ask_to_end(store: &Store, asked: &Holder) -> Result<(), Failure> {
    let pid = i32::try_from(asked.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new(Kind::Store, "stop the daemon").cause("its lock names no process"))?;
    let sent = pidfd_open(pid, PidfdFlags::empty()).and_then(|process| {
        // Still the holder after this was opened: it is that process, and stays it.
        if holder(store).as_ref() == Some(asked) { pidfd_send_signal(process, Signal::TERM) } else { Ok(()) }
    });
    match sent {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(Failure::new(Kind::Host, "stop the daemon").because(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ended_meanwhile_needs_no_asking_and_nobody_is_asked_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let holder = Holder { user: "ada".into(), command: "host:up".into(), pid: child.id(), since: 0 };
        // It does not hold the lock any more; another process may have its number.
        ask_to_end(&store, &holder).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        let _lock = store.lock(LOCK, &holder).attempt().unwrap().unwrap();
        ask_to_end(&store, &holder).unwrap();
        child.wait().unwrap();
        ask_to_end(&store, &holder).unwrap();
    }

    #[test]
    fn a_process_that_is_killed_is_unwell_at_once() {
        for _ in 0..50 {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            while !is_well(child.id()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            assert!(!is_well(child.id()));
            child.wait().unwrap();
            assert!(!is_well(child.id()));
        }
    }

    #[test]
    fn the_name_of_a_program_is_no_field() {
        let stat = |state: &str, flags: u64, pending: u64| {
            format!("7 (a Z) {state} 1 7 7 0 -1 {flags} {}{pending} 0 0", "0 ".repeat(21))
        };
        assert!(tells_of_rest(&stat("S", 0x40_0000, 1 << 14)));
        assert!(!tells_of_rest(&stat("Z", 0, 0)));
        assert!(!tells_of_rest(&stat("R", 0x40_0000, 0)));
        assert!(!tells_of_rest(&stat("D", 0x40_0004, 0)));
        assert!(!tells_of_rest(&stat("S", 0, 1 << 8)));
    }
}
