//! Other people's servers for as long as they are measured: below our folder, at loopback addresses of our own.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ::adt::exec::Command;
use rustix::process::{Pid, Signal, kill_process};

use super::Result;

/// A program that runs until this is dropped.
pub struct Process(Child);

impl Process {
    /// Starts it and waits until it takes connections; `log` is what a failure shows.
    pub fn start(command: &Command, log: &Path, at: SocketAddr) -> Result<Self> {
        let file = File::create(log)?;
        let mut spawned = command.to_std();
        std::os::unix::process::CommandExt::process_group(&mut spawned, 0);
        let child = spawned.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let mut process = Self(child.map_err(|error| format!("`{command}` did not start: {error}"))?);
        let since = Instant::now();
        while TcpStream::connect(at).is_err() {
            if process.0.try_wait()?.is_some() || since.elapsed() > Duration::from_secs(30) {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("`{command}` does not listen at {at}: {said}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn meter(&self) -> Meter {
        Meter::Group(self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM, because masters end their workers on it.
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Whose time on the cores is measured: it says more than a rate when a host has other things to do.
#[derive(Clone, Copy)]
pub enum Meter {
    /// Threads of our own, by how their names begin.
    Threads(&'static str),
    /// A program and its children, which share its process group.
    Group(u32),
}

impl Meter {
    pub fn read(self) -> Result<Duration> {
        let mut total = 0;
        match self {
            Self::Threads(name) => {
                for task in std::fs::read_dir("/proc/self/task")?.flatten() {
                    let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                    total += if comm.starts_with(name) { nanoseconds(&task.path()) } else { 0 };
                }
            }
            Self::Group(group) => {
                for entry in std::fs::read_dir("/proc")?.flatten() {
                    let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                    // Behind the name, which may hold anything: state, parent, group.
                    let own = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2)?.parse().ok());
                    let tasks = std::fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten();
                    total += if own == Some(group) { tasks.map(|task| nanoseconds(&task.path())).sum() } else { 0 };
                }
            }
        }
        Ok(Duration::from_nanos(total))
    }
}

fn nanoseconds(task: &Path) -> u64 {
    let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}
