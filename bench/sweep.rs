//! Takes away all that this program makes, also what an earlier run that was killed left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ::adt::exec::Command;
use ::adt::store::Store;
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::{HOME, NAME, Result};

/// The peers' bridges.
pub mod bridge {
    pub const LXC: &str = "benchbr0";
    pub const LXD: &str = "benchlxd0";
    pub const DOCKER: &str = "benchdocker0";
    pub const ALL: [&str; 3] = [LXC, LXD, DOCKER];
}

/// Starts a daemon. It is ended by [`all`], which finds it by our folder in its command line.
pub fn spawn(command: &Command, log: &Path) -> Result<()> {
    let log = File::create(log)?;
    let mut command = command.to_std();
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    // Waited for, so that it is gone from the list of processes when it has ended.
    std::thread::spawn(move || child.wait_with_output());
    Ok(())
}

pub fn until(what: &str, most: Duration, holds: impl Fn() -> bool) -> Result<()> {
    let since = Instant::now();
    while !holds() {
        if since.elapsed() > most {
            return Err(format!("waited {} s in vain until {what}", most.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A folder that is there and empty.
pub fn folder(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_dir_all(path)?;
    }
    Ok(std::fs::create_dir_all(path)?)
}

/// Two runs would disturb each other's numbers and sweep each other away.
pub fn alone() -> Result<File> {
    let file = File::create(format!("/run/lock/{NAME}.lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| "the benchmarks run already")?;
    Ok(file)
}

pub fn all() -> Result<()> {
    if Path::new(HOME).exists() {
        for store in ["store", "full", "serving", "bound", "data/store", "snapshots/store"] {
            destroy(&Path::new(HOME).join(store));
        }
    }
    // Daemons are asked first, since they clean up behind themselves; machines' inits don't listen.
    for (signal, patience) in [(Signal::TERM, 10), (Signal::KILL, 20)] {
        for pid in ours()? {
            let _ = kill_process(pid, signal);
        }
        let _ = until("our processes are gone", Duration::from_secs(patience), || ours().is_ok_and(|left| left.is_empty()));
    }
    for path in mounts()? {
        let _ = unmount(path, UnmountFlags::DETACH);
    }
    for device in links()? {
        let _ = Command::new("ip").args(["link", "delete", &device]).run();
    }
    groups();
    if Path::new(HOME).exists() {
        // Detached mounts are let go a little later.
        let remove = || Command::new("rm").args(["-rf", "--one-file-system", HOME]).run().is_ok() && !Path::new(HOME).exists();
        until("our folder is gone", Duration::from_secs(20), remove)?;
    }
    let mut left: Vec<String> = ours()?.iter().map(|pid| format!("process {pid:?}")).collect();
    left.extend(mounts()?.into_iter().map(|path| format!("mount {}", path.display())));
    left.extend(links()?);
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {}", left.join(", ")).into()) }
}

/// Whatever environments a store has.
fn destroy(folder: &Path) {
    if !folder.join("adt.db").exists() {
        return;
    }
    let adt = super::adt::Adt { store: folder.to_owned() };
    let platforms = Store::open(folder).and_then(|store| store.database.platforms());
    // In one that can't be read, the name that most have.
    let names = platforms.map_or_else(|_| vec!["hello".to_owned()], |all| all.iter().map(|one| one.name.to_string()).collect());
    for name in names {
        if let Err(error) = adt.run(&format!("platform:destroy {name} --yes")) {
            super::note(&format!("{}: {error}", folder.display()));
        }
    }
}

/// Processes with our folder among their words or our name among their control groups.
fn ours() -> Result<Vec<Pid>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let named = String::from_utf8_lossy(&words).contains(&format!("{HOME}/")) || groups.contains(NAME);
        if named && number != own {
            found.extend(i32::try_from(number).ok().and_then(Pid::from_raw));
        }
    }
    Ok(found)
}

/// Mounts in our folder, the inner ones first.
fn mounts() -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mounts")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| point.starts_with(HOME));
    let mut points: Vec<_> = points.map(PathBuf::from).collect();
    points.reverse();
    Ok(points)
}

fn links() -> Result<Vec<String>> {
    let names = std::fs::read_dir("/sys/class/net")?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| bridge::ALL.contains(&name.as_str()) || name.starts_with("bench-")).collect())
}

/// Control groups of ours that nobody is in any more.
fn groups() {
    let all = walkdir::WalkDir::new("/sys/fs/cgroup").contents_first(true).into_iter().flatten();
    for entry in all.filter(|entry| entry.file_type().is_dir() && entry.path().to_string_lossy().contains(NAME)) {
        let _ = std::fs::remove_dir(entry.path());
    }
}
