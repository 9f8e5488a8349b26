//! Running a program inside a machine: the helper's side of it, and what happens in the child that liblxc put inside.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use rustix::process::{ioctl_tiocsctty, set_parent_process_death_signal, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use rustix::{fs as rfs, stdio};

use crate::model::Exec;

use super::ffi::Container;
use super::helper::{self, Reply, Terminal};
use super::passing;
use super::terminal::{self, Relay};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As shells say it.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
/// So long a program that is told to end may tidy up. Shorter than [`crate::exec`] waits for the helper.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the program to its end. What keeps it from starting at all is written to `replies` by the child itself.
pub fn run(container: &Container, exec: &Exec, terminal: Option<&Terminal>, replies: &mut File) -> Result<Reply, String> {
    let signals = terminal::Signals::watch(terminal.is_some()).map_err(|error| error.to_string())?;
    let (ours, theirs) = passing::pair().map_err(|error| error.to_string())?;
    let kept = Kept::now();
    let entered = container.attach(|| {
        let why = inside(exec, terminal, &theirs);
        let _ = helper::write(replies, &Reply::Failed { reason: why });
        1
    });
    drop(theirs);
    drop(kept);
    let pid = entered.ok_or("liblxc could not enter the machine")?;
    let code = match terminal {
        None => wait(pid, &signals),
        Some(_) => match passing::receive(&ours) {
            Ok(pty) => Relay { pty: &pty, child: Some(pid), escape: None, signals: &signals }.run(),
            // The child failed before it had a terminal; its own words are in the reply.
            Err(_) => wait(pid, &signals),
        },
    };
    Ok(Reply::Ended { code: code.map_err(|error| error.to_string())? })
}

/// How we take the keys' signals, put back when this goes: liblxc ignores them for its caller as soon as somebody is inside.
struct Kept([(libc::c_int, libc::sigaction); 2]);

impl Kept {
    fn now() -> Self {
        Self([libc::SIGINT, libc::SIGQUIT].map(|signal| {
            // SAFETY: a `sigaction` of zeros is a valid one, and the kernel only writes into it.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: asks for what is set, into a place that is ours.
            unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
            (signal, action)
        }))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (signal, action) in &self.0 {
            // SAFETY: sets what was set before.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
    }
}

/// Waits for the program; a helper that is told to end tells the program and its group first, and kills them where that
/// takes long or it is told again.
fn wait(pid: Pid, signals: &terminal::Signals) -> io::Result<i32> {
    let mut told: Option<Instant> = None;
    loop {
        if let Some(code) = ended(pid)? {
            return Ok(code);
        }
        let left = told.map(|told| GRACE.saturating_sub(told.elapsed()));
        match (signals.wait(pid, left)?, told) {
            (true, None) => {
                told = Some(Instant::now());
                let _ = kill_process_group(pid, Signal::TERM);
            }
            (true, Some(_)) => end(pid),
            (false, _) if told.is_some_and(|told| told.elapsed() >= GRACE) => {
                end(pid);
                told = Some(Instant::now());
            }
            (false, _) => {}
        }
    }
}

/// The exit code of a child that has ended.
pub fn ended(pid: Pid) -> io::Result<Option<i32>> {
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(None) | Err(rustix::io::Errno::INTR) => Ok(None),
        Ok(Some((_, status))) => Ok(status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))),
        Err(error) => Err(error.into()),
    }
}

pub fn end(pid: Pid) {
    let _ = kill_process_group(pid, Signal::HUP);
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = kill_process(pid, Signal::KILL);
}

/// In the machine, as its root. Returns only with the reason why the program could not run.
fn inside(exec: &Exec, terminal: Option<&Terminal>, parent: &OwnedFd) -> String {
    let user = match User::find(exec.user.as_deref().unwrap_or("root")) {
        Ok(user) => user,
        Err(reason) => return reason,
    };
    if terminal.is_some() {
        if let Err(error) = take_terminal(parent, &user) {
            return format!("the machine gave no terminal: {error}");
        }
    } else {
        // A session of its own, so that ending it reaches what the program started too, and no terminal is its to take.
        let _ = setsid();
    }
    if let Err(reason) = user.become_it() {
        return reason;
    }
    let cwd = exec.cwd.as_deref().unwrap_or(&user.home);
    if let Err(error) = std::env::set_current_dir(cwd) {
        if exec.cwd.is_some() {
            return format!("no folder `{cwd}` in the machine: {error}");
        }
        let _ = std::env::set_current_dir("/");
    }
    // Changing the user cleared it. The helper is the parent; when it is killed, so is the program.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    run_program(exec, terminal, &user)
}

fn run_program(exec: &Exec, terminal: Option<&Terminal>, user: &User) -> String {
    let mut command = match exec.argv.split_first() {
        Some((program, arguments)) => {
            let mut command = std::process::Command::new(program);
            command.args(arguments);
            command
        }
        // No program is the user's login shell, which knows by the hyphen that it is one.
        None => {
            let mut command = std::process::Command::new(&user.shell);
            command.arg0(format!("-{}", user.shell.rsplit('/').next().unwrap_or("sh")));
            command
        }
    };
    command.env_clear();
    command.envs([("PATH", PATH), ("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name), ("SHELL", &user.shell)]);
    command.envs([("LANG", "C.UTF-8"), ("TERM", terminal.map_or("dumb", |terminal| &terminal.kind))]);
    command.envs(exec.env.iter().map(|(name, value)| (name, value)));
    let error = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    let (code, why) = match error.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, "not found".to_owned()),
        _ => (NOT_EXECUTABLE, error.to_string()),
    };
    eprintln!("{program}: {why}");
    std::process::exit(code)
}

/// A new terminal of the machine's own, so that `tty` in there names it; its other end goes to the helper.
fn take_terminal(parent: &OwnedFd, user: &User) -> io::Result<()> {
    let flags = rfs::OFlags::RDWR | rfs::OFlags::NOCTTY | rfs::OFlags::CLOEXEC;
    let pty = rfs::open("/dev/ptmx", flags, rfs::Mode::empty())?;
    unlockpt(&pty)?;
    // Not by its name: the machine's root may have put something else there.
    let tty = ioctl_tiocgptpeer(&pty, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let _ = rfs::fchown(&tty, Some(rfs::Uid::from_raw(user.uid)), None);
    passing::send(parent, &pty)?;
    drop(pty);
    setsid()?;
    ioctl_tiocsctty(&tty)?;
    stdio::dup2_stdin(&tty)?;
    stdio::dup2_stdout(&tty)?;
    stdio::dup2_stderr(&tty)?;
    Ok(())
}

/// A user of the machine, from its own files: the host's name service knows nothing of them.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    pub uid: u32,
    pub gid: u32,
    groups: Vec<u32>,
    home: String,
    shell: String,
}

/// The text of a machine's own file, which may be anything: no pipe is waited for, and no file read without end.
pub fn small_text(file: File) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let meta = file.metadata().ok()?;
    let mut text = String::new();
    let is_small = meta.is_file() && meta.len() <= MOST;
    is_small.then(|| file.take(MOST).read_to_string(&mut text).ok())?.map(|_| text)
}

impl User {
    fn find(name: &str) -> Result<Self, String> {
        let flags = rfs::OFlags::RDONLY | rfs::OFlags::NONBLOCK | rfs::OFlags::NOCTTY | rfs::OFlags::CLOEXEC;
        let open = |path: &str| rfs::open(path, flags, rfs::Mode::empty()).ok();
        let read = |path: &str| open(path).and_then(|file| small_text(file.into())).unwrap_or_default();
        Self::parse(name, &read("/etc/passwd"), &read("/etc/group"))
            // Root is there even where no file says so.
            .or_else(|| (name == "root").then(Self::root))
            .ok_or_else(|| format!("the machine has no user `{name}`"))
    }

    pub fn root() -> Self {
        Self { name: "root".into(), uid: 0, gid: 0, groups: vec![0], home: "/root".into(), shell: "/bin/sh".into() }
    }

    pub fn parse(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let [_, _, uid, gid, _, home, shell] = line.split(':').collect::<Vec<_>>()[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        let mut groups = vec![gid];
        for line in group.lines() {
            if let [_, _, number, members] = line.split(':').collect::<Vec<_>>()[..]
                && members.split(',').any(|member| member == name)
                && let Ok(number) = number.parse()
                && number != gid
            {
                groups.push(number);
            }
        }
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        Some(Self { name: name.to_owned(), uid, gid, groups, home: or(home, "/"), shell: or(shell, "/bin/sh") })
    }

    fn become_it(&self) -> Result<(), String> {
        let groups: Vec<_> = self.groups.iter().map(|group| rfs::Gid::from_raw(*group)).collect();
        // The child has one thread, so a thread's ids are the process'.
        set_thread_groups(&groups)
            .and_then(|()| set_thread_gid(rfs::Gid::from_raw(self.gid)))
            .and_then(|()| set_thread_uid(rfs::Uid::from_raw(self.uid)))
            .map_err(|error| format!("could not become user `{}`: {error}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_files_are_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let read = |path: &std::path::Path| {
            let flags = rfs::OFlags::RDONLY | rfs::OFlags::NONBLOCK;
            small_text(rfs::open(path, flags, rfs::Mode::empty()).unwrap().into())
        };
        std::fs::write(path("text"), "text").unwrap();
        assert_eq!(read(&path("text")).as_deref(), Some("text"));
        rfs::mknodat(rfs::CWD, path("pipe"), rfs::FileType::Fifo, rfs::Mode::RWXU, 0).unwrap();
        File::create(path("large")).and_then(|file| file.set_len(1 << 40)).unwrap();
        for other in [path("pipe"), path("large"), "/dev/zero".into(), "/dev/null".into(), folder.path().into()] {
            assert_eq!(read(&other), None, "{}", other.display());
        }
        // One that is longer than it says, as one that grows is.
        let kernel = std::path::Path::new("/proc/kallsyms");
        assert_eq!(kernel.metadata().unwrap().len(), 0);
        assert!(read(kernel).is_none_or(|text| text.len() <= 1 << 20));
    }

    #[test]
    fn a_user_with_its_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:33::/srv:\n";
        let group = "root:x:0:\nweb:x:33:web\nadm:x:4:other,web\nbroken\n";
        let user = User::parse("web", passwd, group).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (33, 33, vec![33, 4]));
        assert_eq!((user.home.as_str(), user.shell.as_str()), ("/srv", "/bin/sh"));
        assert_eq!(User::parse("we", passwd, group), None);
        assert_eq!(User::parse("x", "x:y", group), None);
    }
}
