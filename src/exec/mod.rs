//! The only place that starts processes. A command is a value: it can be printed, compared and run, and it is always an
//! argument list, never a shell string.
//!
//! Children get a process group of their own, so that a Ctrl-C at the terminal reaches adt alone, which then decides. What is
//! cut short by its [`Limits`] is ended with its whole group: git's work is done by programs that git starts.

use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};

use crate::model::{Kind, Stream, Tail};

use lines::{Cut, LONGEST, PIECE};
use queue::Receiver;

pub mod account;
pub mod apart;
mod behind;
mod ends;
mod limits;
mod lines;
pub mod people;
pub mod queue;
mod shareable;
mod talk;
pub mod terminal;
pub mod unit_word;
pub mod watched;
mod wired;

pub use account::{Account, HostPath, on_files_of};
pub use behind::step_behind;
pub use ends::Ends;
pub use limits::{Broken, Cancel, Limits};
pub use lines::Reading;
pub use talk::Talk;
pub use wired::{Pipes, Wired};

/// A program with its arguments, not yet started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: Option<PathBuf>,
    pub stdin: Option<Vec<u8>>,
    /// Run as this user instead of ourselves.
    pub account: Option<Account>,
    /// Killed when we are: for what changes the kernel, and must not go on behind whoever tidies up after us.
    pub tied: bool,
    /// See [`Command::shown`].
    shown: bool,
    pub limits: Limits,
}

/// What a finished program left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The last lines of both, as they came.
    pub tail: Tail,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{program}` is not installed")]
    Missing { program: String },
    #[error("`{command}` did not start")]
    Start {
        command: String,
        #[source]
        source: std::io::Error,
    },
    #[error("what `{command}` is fed with could not be read")]
    Input {
        command: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{command}` {why}")]
    CutShort { command: String, why: Broken },
    #[error("`{command}` {status}")]
    Failed { command: String, status: Status, tail: Vec<String> },
}

impl Error {
    /// What kind of failure it is to have this happen.
    pub fn kind(&self) -> Kind {
        match self {
            Self::CutShort { why: Broken::Cancelled, .. } => Kind::Cancelled,
            Self::CutShort { why: Broken::Late(_) | Broken::Silent(_), .. } => Kind::Deadline,
            Self::CutShort { why: Broken::Long(_), .. } => Kind::Program,
            Self::Missing { .. } | Self::Start { .. } | Self::Input { .. } | Self::Failed { .. } => Kind::Program,
        }
    }

    /// The last lines that the program printed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Missing { .. } | Self::Start { .. } | Self::Input { .. } | Self::CutShort { .. } => &[],
            Self::Failed { tail, .. } => tail,
        }
    }
}

/// How a program ended, in words that fit behind its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub ExitStatus);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "ended with exit code {code}"),
            (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (None, None) => write!(f, "ended in an unknown way"),
        }
    }
}

/// So many bytes that a program printed may wait for who reads them, then it waits itself.
const WAITING: usize = 128 << 10;
/// So much of each output is kept. Whoever wants more reads it as it comes.
const KEPT: usize = 64 << 20;
/// The same for one that is [`Command::shown`].
const BEGINNING: usize = 1 << 20;
/// How often one who follows a program is asked whether to go on although nothing came.
const PAUSE: Duration = Duration::from_millis(50);
/// So long a program that was asked to end may tidy up.
const GRACE: Duration = Duration::from_millis(500);
/// The same for one who is followed: it may have a whole tree in a machine to end, which has a time of its own for that.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long after its end a program's last lines may come out of its pipes, where somebody else keeps these open.
const REST: Duration = Duration::from_secs(5);

impl Command {
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    pub fn account(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    pub fn tied(mut self) -> Self {
        self.tied = true;
        self
    }

    /// Of a program whose lines are read as they come and which may print without end: it is not cut short for what it prints,
    /// only the beginning is kept.
    pub fn shown(mut self) -> Self {
        self.shown = true;
        self
    }

    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// For callers that need the child itself, e.g. to hand it a terminal.
    pub fn to_std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(folder) = &self.cwd {
            command.current_dir(folder);
        }
        if let Some(account) = &self.account {
            let enter = account.entering();
            // SAFETY: between fork and exec it does nothing but three system calls.
            unsafe { command.pre_exec(enter) };
        }
        if self.tied {
            tie(&mut command);
        }
        command
    }

    /// Runs it to its end; anything but exit code 0 is an error.
    pub fn run(&self) -> Result<Output, Error> {
        self.run_lines(&mut |_, _| {})
    }

    /// Runs it and hands over each line as it comes.
    pub fn run_lines(&self, each: &mut dyn FnMut(Stream, &str)) -> Result<Output, Error> {
        let (status, output) = self.run_any(each)?;
        if status.success() { Ok(output) } else { Err(self.failed(status, &output)) }
    }

    /// The same for a program whose input is a file, however large.
    pub fn run_reading(&self, input: std::fs::File) -> Result<Output, Error> {
        let (status, output) = self.run_with(Input::File(input), &mut |_, _| {})?;
        if status.success() { Ok(output) } else { Err(self.failed(status, &output)) }
    }

    /// The error that belongs to an unsuccessful end.
    pub fn failed(&self, status: ExitStatus, output: &Output) -> Error {
        Error::Failed { command: self.to_string(), status: Status(status), tail: output.tail.clone().lines() }
    }

    /// Runs it to its end, however it ends.
    pub fn run_any(&self, each: &mut dyn FnMut(Stream, &str)) -> Result<(ExitStatus, Output), Error> {
        match &self.stdin {
            None => self.run_with(Input::None, each),
            Some(bytes) => self.run_with(Input::Fed(&mut bytes.as_slice()), each),
        }
    }

    /// The same with input of any size, which is held nowhere as a whole. Where reading it fails, so does this.
    pub fn run_fed(
        &self,
        input: &mut (dyn Read + Send),
        each: &mut dyn FnMut(Stream, &str),
    ) -> Result<(ExitStatus, Output), Error> {
        self.run_with(Input::Fed(input), each)
    }

    fn run_with(&self, input: Input<'_>, each: &mut dyn FnMut(Stream, &str)) -> Result<(ExitStatus, Output), Error> {
        let mut command = self.to_std();
        let (stdin, input) = match input {
            Input::None => (Stdio::null(), None),
            Input::File(file) => (file.into(), None),
            Input::Fed(input) => (Stdio::piped(), Some(input)),
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|source| self.not_started(source))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout was piped");
        let stderr = child.stderr.take().expect("stderr was piped");
        let (output, fed) = std::thread::scope(|scope| {
            let feeding = stdin.zip(input).map(|(mut pipe, input)| scope.spawn(move || feed(input, &mut pipe)));
            let (sender, lines) = queue::bounded(WAITING);
            let other = sender.clone();
            // Not waited for: of a program that is cut short, one that left its group may hold the pipes for long.
            let cut = Cut { longest: PIECE, returns: self.limits.silent.is_some() };
            std::thread::spawn(move || lines::send(stdout, &Stream::Out, cut, &sender));
            std::thread::spawn(move || lines::send(stderr, &Stream::Err, cut, &other));
            let output = self.gather(&lines, child.id(), each);
            let fed = feeding.map(|feeding| feeding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            (output, fed)
        });
        let status = child.wait().map_err(|source| self.not_started(source))?;
        match fed {
            Some(Err(source)) => Err(Error::Input { command: self.to_string(), source }),
            Some(Ok(())) | None => Ok((status, output?)),
        }
    }

    /// All that a program prints until it ends, or until a limit is reached and it is ended.
    fn gather(&self, lines: &Lines, child: u32, each: &mut dyn FnMut(Stream, &str)) -> Result<Output, Error> {
        let mut output = Output::default();
        let most = if self.shown { BEGINNING } else { KEPT };
        let (started, mut heard) = (Instant::now(), Instant::now());
        loop {
            match lines.next_within(PAUSE) {
                Ok((stream, line)) => {
                    heard = Instant::now();
                    let text = String::from_utf8_lossy(&line);
                    let text = text.trim_end_matches(['\n', '\r']);
                    each(stream.clone(), text);
                    let kept = match stream {
                        Stream::Out => &mut output.stdout,
                        // Nobody reads later how far it once was.
                        Stream::Err if self.limits.silent.is_some() && line.ends_with(b"\r") => continue,
                        Stream::Err => &mut output.stderr,
                    };
                    output.tail.push(text);
                    if kept.len() + line.len() <= most {
                        kept.extend_from_slice(&line);
                    } else if !self.shown {
                        end_group(lines, child);
                        return Err(Error::CutShort { command: self.to_string(), why: Broken::Long(KEPT) });
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(output),
            }
            if let Some(why) = self.limits.broken(started, heard) {
                end_group(lines, child);
                return Err(Error::CutShort { command: self.to_string(), why });
            }
        }
    }

    /// Runs it and hands over each line as it comes, keeping none; `None` where nothing came for a moment. A program that prints
    /// faster than its lines are taken waits. As soon as `each` breaks, it and its group are asked to end, and killed where
    /// they don't. Returns when it has ended, whoever else holds its output.
    pub fn follow(&self, each: &mut Follow<'_>) -> Result<ExitStatus, Error> {
        let mut command = self.to_std();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|source| self.not_started(source))?;
        let stdout = child.stdout.take().expect("stdout was piped");
        let stderr = child.stderr.take().expect("stderr was piped");
        let (sender, lines) = queue::bounded(WAITING);
        let other = sender.clone();
        let cut = Cut { longest: LONGEST, returns: false };
        // Not waited for: whom the program gave its pipes to may hold them for long.
        std::thread::spawn(move || lines::send(stdout, &Stream::Out, cut, &sender));
        std::thread::spawn(move || lines::send(stderr, &Stream::Err, cut, &other));
        let (mut looked, mut ended) = (Instant::now(), None::<Instant>);
        loop {
            let (flow, is_silent) = match lines.next_within(PAUSE) {
                Ok((stream, line)) => {
                    (each(Some((stream, String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])))), false)
                }
                Err(RecvTimeoutError::Timeout) => (each(None), true),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if flow.is_break() {
                // The readers wait no longer for who takes their lines.
                drop(lines);
                return end_followed(&mut child).map_err(|source| self.not_started(source));
            }
            // What it said last is still taken, however busy the host is; those who hold its output now are not heard for ever.
            if ended.is_some_and(|ended| ended.elapsed() > if is_silent { REST } else { 12 * REST }) {
                break;
            }
            if ended.is_none() && (is_silent || looked.elapsed() > PAUSE) {
                looked = Instant::now();
                ended = child.try_wait().map_err(|source| self.not_started(source))?.map(|_| Instant::now());
            }
        }
        child.wait().map_err(|source| self.not_started(source))
    }

    /// Starts it in a session of its own, so that it outlives us and our terminal. What it prints goes to `log`.
    pub fn detach(&self, log: &Path) -> Result<std::process::Child, Error> {
        let file = std::fs::File::create(log).map_err(|source| self.not_started(source))?;
        let again = file.try_clone().map_err(|source| self.not_started(source))?;
        let alone = Self { program: "setsid".into(), args: Vec::new(), ..self.clone() };
        let mut command = alone.arg(&self.program).args(&self.args).to_std();
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        command.spawn().map_err(|source| self.not_started(source))
    }

    /// Starts it with a connection as its input and output, in a group of its own; it outlives us. Whoever is at the other end has
    /// programs run by it, so of our environment it gets what is nobody's secret.
    pub fn answer(&self, connection: std::os::fd::OwnedFd) -> Result<std::process::Child, Error> {
        let again = connection.try_clone().map_err(|source| self.not_started(source))?;
        let mut command = self.to_std();
        command.env_clear().envs(shareable::variables()).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(connection).stdout(again).process_group(0);
        command.spawn().map_err(|source| self.not_started(source))
    }

    fn is_on_path(&self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A program that is named by its place is nowhere else.
        std::env::split_paths(&path).any(|folder| folder.join(&self.program).exists())
    }

    fn not_started(&self, source: std::io::Error) -> Error {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        // The kernel says the latter, too, where a person may not look into some folder of our path.
        let missing = match source.kind() {
            NotFound => true,
            PermissionDenied => self.account.is_some() && !self.is_on_path(),
            _ => false,
        };
        if missing && self.cwd.as_ref().is_none_or(|folder| folder.exists()) {
            Error::Missing { program: self.program.to_string_lossy().into_owned() }
        } else {
            Error::Start { command: self.to_string(), source }
        }
    }
}

/// The kernel kills the child as soon as the thread that started it ends, which waits for it.
fn tie(command: &mut std::process::Command) {
    let us = rustix::process::getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before the kernel was told.
        if getppid() == Some(us) { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
    };
    // SAFETY: between fork and exec it does nothing but two system calls.
    unsafe { command.pre_exec(tie) };
}

/// What comes of a program's lines.
type Lines = Receiver<(Stream, Vec<u8>)>;

/// What a program reads.
enum Input<'a> {
    None,
    File(std::fs::File),
    Fed(&'a mut (dyn Read + Send)),
}

/// Ends a child that was not yet waited for, and all of its group: first in a way that lets them tidy up.
fn end_group(lines: &Lines, child: u32) {
    let Some(group) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return };
    let since = Instant::now();
    let _ = kill_process_group(group, Signal::TERM);
    // Their pipes close when the last one ends.
    while since.elapsed() < GRACE && !matches!(lines.next_within(PAUSE), Err(RecvTimeoutError::Disconnected)) {}
    let _ = kill_process_group(group, Signal::KILL);
}

/// Ends a program that was not yet waited for, and its group.
fn end_followed(child: &mut std::process::Child) -> std::io::Result<ExitStatus> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let since = Instant::now();
    let tell = |signal| group.map(|group| kill_process_group(group, signal));
    tell(Signal::TERM);
    while since.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(PAUSE / 5);
    }
    tell(Signal::KILL);
    child.wait()
}

/// Takes a line, or `None` for a moment without one, and says whether to go on.
pub type Follow<'a> = dyn FnMut(Option<(Stream, &str)>) -> ControlFlow<()> + 'a;

/// A program may end without reading its input; its exit code tells more than a broken pipe.
fn feed(input: &mut dyn Read, pipe: &mut dyn Write) -> std::io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if pipe.write_all(&buffer[..count]).is_err() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || "'\"\\$`*?;&|<>()".contains(c)) {
                write!(f, " '{}'", arg.replace('\'', "'\\''"))?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_tied_ends_with_the_thread_that_started_it() {
        let sleeping = |tied| {
            let command = Command { tied, ..Command::new("sleep").arg("20") };
            std::thread::spawn(move || command.to_std().spawn().unwrap()).join().unwrap()
        };
        let (mut tied, mut free) = (sleeping(true), sleeping(false));
        assert_eq!(tied.wait().unwrap().signal(), Some(9));
        assert_eq!(free.try_wait().unwrap(), None);
        free.kill().unwrap();
        free.wait().unwrap();
        assert!(Command::new("true").tied().run().is_ok());
    }

    #[test]
    fn lines_arrive_in_order_and_output_is_kept() {
        let mut seen = Vec::new();
        let output = Command::new("sh")
            .args(["-c", "cat; echo two; echo three >&2"])
            .stdin("one\n")
            .run_lines(&mut |stream, line| seen.push((stream, line.to_owned())))
            .unwrap();
        assert_eq!(output.text(), "one\ntwo\n");
        assert_eq!(output.stderr, b"three\n");
        assert!(seen.contains(&(Stream::Err, "three".to_owned())));
    }

    #[test]
    fn one_who_follows_a_program_ends_it() {
        let mut seen = Vec::new();
        let started = std::time::Instant::now();
        let status = Command::new("sh")
            .args(["-c", "echo one; echo two; exec sleep 100"])
            .follow(&mut |line| match line {
                Some((_, line)) => {
                    seen.push(line.to_owned());
                    ControlFlow::Continue(())
                }
                None if seen.len() == 2 => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            })
            .unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(status.signal(), Some(15));
        assert!(started.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn one_who_holds_a_followed_programs_output_holds_nobody() {
        // In a session of its own, so that no group reaches it.
        let mut seen = Vec::new();
        let command = Command::new("sh").args(["-c", "setsid sleep 1000 & echo $!; echo said"]);
        let status = command.follow(&mut |line| {
            seen.extend(line.map(|(_, line)| line.to_owned()));
            ControlFlow::Continue(())
        });
        assert!(status.unwrap().success());
        assert_eq!(seen[1], "said");
        Command::new("kill").arg(&seen[0]).run().unwrap();
    }

    #[test]
    fn a_program_that_is_not_read_waits() {
        let mut count = 0;
        let status = Command::new("yes").follow(&mut |_| {
            count += 1;
            if count > 10 * WAITING { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(!status.unwrap().success());
    }

    #[test]
    fn what_is_kept_of_a_program_has_an_end() {
        // A line without end comes in pieces, whose bytes are kept in order.
        let mut pieces = 0;
        let line = Command::new("sh").args(["-c", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo y"]);
        let output = line.run_lines(&mut |_, _| pieces += 1).unwrap();
        assert!(pieces > 10, "{pieces}");
        assert_eq!(output.text(), format!("{}\ny\n", "x".repeat(1_000_000)));
        let endless = Command::new("cat").arg("/dev/zero");
        let error = endless.run().unwrap_err();
        assert_eq!(error.to_string(), "`cat /dev/zero` printed more than 64 MiB");
        let mut seen = 0;
        let much = Command::new("head").args(["-c", "100000000", "/dev/zero"]).shown();
        let output = much.run_lines(&mut |_, line| seen += line.len()).unwrap();
        assert_eq!(seen, 100_000_000);
        assert!(output.stdout.len() <= BEGINNING && output.stdout.len() > BEGINNING / 2);
        let failing = Command::new("sh").args(["-c", "head -c 100000000 /dev/zero; echo; echo end; exit 1"]).shown();
        assert_eq!(failing.run().unwrap_err().tail().last().map(String::as_str), Some("end"));
    }

    #[test]
    fn a_failure_tells_the_command_its_end_and_its_last_lines() {
        let error = Command::new("sh").args(["-c", "echo why; exit 3"]).run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'echo why; exit 3'` ended with exit code 3");
        assert_eq!(error.tail(), ["why"]);
        let error = Command::new("sh").args(["-c", "kill -9 $$"]).run().unwrap_err();
        assert!(error.to_string().ends_with("was ended by signal 9"), "{error}");
    }

    #[test]
    fn input_is_fed_as_it_is_read_and_its_failure_is_ours() {
        let mut input = std::io::repeat(b'x').take(3 << 20);
        let (status, output) = Command::new("wc").arg("-c").run_fed(&mut input, &mut |_, _| {}).unwrap();
        assert!(status.success());
        assert_eq!(output.text().trim(), (3 << 20).to_string());
        let (status, _) = Command::new("true").run_fed(&mut std::io::repeat(b'x'), &mut |_, _| {}).unwrap();
        assert!(status.success());
        let mut folder = std::fs::File::open("/").unwrap();
        let error = Command::new("cat").run_fed(&mut folder, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
    }

    #[test]
    fn what_comes_to_a_limit_ends_with_all_that_it_started() {
        let second = Duration::from_secs(1);
        let limits = [
            (Limits { within: Some(second), ..Limits::default() }, Broken::Late(second)),
            (Limits { silent: Some(second), ..Limits::default() }, Broken::Silent(second)),
            (Limits { cancel: Some(Cancel(Arc::new(true.into()))), ..Limits::default() }, Broken::Cancelled),
        ];
        for (limits, expected) in limits {
            let mut seen = Vec::new();
            // Both hear that they are to end, and the inner one does not listen.
            let script = "sh -c 'trap \"\" TERM; echo $$; sleep 1000; sleep 1000' & wait; sleep 1000";
            let command = Command::new("sh").args(["-c", script]).limits(limits);
            let error = command.run_lines(&mut |_, line| seen.push(line.to_owned())).unwrap_err();
            assert!(matches!(error, Error::CutShort { why, .. } if why == expected), "{error}");
            for pid in seen {
                let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let since = Instant::now();
                while !stat().is_empty() && !stat().contains(") Z ") {
                    assert!(since.elapsed() < 20 * second, "{pid} lives");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    #[test]
    fn one_who_tells_how_far_it_is_is_not_silent() {
        let limits = Limits { silent: Some(Duration::from_secs(2)), ..Limits::default() };
        let mut seen = Vec::new();
        let script = "for part in 1 2 3 4 5 6; do printf \"$part\\r\" >&2; sleep 0.5; done; echo ready >&2";
        let command = Command::new("sh").args(["-c", script]).limits(limits);
        let output = command.run_lines(&mut |_, line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["1", "2", "3", "4", "5", "6", "ready"]);
        assert_eq!(output.stderr, b"ready\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Command::new("no-such-program").run().unwrap_err();
        assert_eq!(error.to_string(), "`no-such-program` is not installed");
    }
}
