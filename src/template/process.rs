//! Templates of platforms and repositories are rendered by a process of their own, which is small and has an end in memory and in
//! time: one expression (`a ~ a`, `'x' * 9999999999`, a filter, a block that is set) makes more on its way than a bound on the text
//! or on the steps could forbid.
//!
//! Started with the first template, asked for each, and replaced when one has ended it. It has no rights that it would lose: what a
//! template can do to it is to end it.
//!
//! ```text
//! caller: job ─▶ process:  ◀─ `s` name of a secret, answered by its text ─▶   ◀─ `t` text  or  `e` error
//! ```

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, LONGEST, Secret};
use crate::exec::{Command, Talk};

/// The verb that nobody types.
pub const VERB: &str = "internal:render";

/// What the process may have: a text of [`LONGEST`] several times over.
const MEMORY: u64 = 128 << 20;
/// Seconds of a processor for one template.
const PATIENCE: u64 = 20;
/// No template has more secrets than this.
const SECRETS: usize = 1000;
const NAME: usize = 4096;
const COMPLAINT: usize = 1 << 20;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
static RUNNING: Mutex<Option<Talk>> = Mutex::new(None);

/// From now on this program, which is ours, renders; before, and in tests of other programs, the caller does it himself.
pub fn by(program: PathBuf) {
    PROGRAM.get_or_init(|| program);
}

#[derive(Serialize)]
struct Job<'a> {
    name: &'a str,
    source: &'a str,
    facts: &'a Value,
    secrets: bool,
}

#[derive(Deserialize)]
struct Asked {
    name: String,
    source: String,
    facts: Value,
    secrets: bool,
}

pub(super) fn render(name: &str, source: &str, facts: &Value, secret: Option<&Secret>) -> Result<String, Error> {
    let Some(program) = PROGRAM.get() else { return super::here(name, source, facts, secret) };
    let failed = |reason: String| Error { file: name.to_owned(), line: None, expression: None, reason, known: Vec::new() };
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut talk = match running.take().and_then(Talk::that_runs) {
        Some(talk) => talk,
        None => Command::new(program).arg(VERB).talk().map_err(|error| failed(error.to_string()))?,
    };
    let job = Job { name, source, facts, secrets: secret.is_some() };
    match ask(&mut talk, &job, secret) {
        Ok(rendered) => {
            *running = Some(talk);
            rendered
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
            let status = talk.ended();
            Err(failed(match status.and_then(|status| status.0.signal()) {
                Some(libc::SIGABRT) => format!("it needs more than {} MiB of memory on its way", MEMORY >> 20),
                Some(libc::SIGXCPU) => "the template does not come to an end".to_owned(),
                _ => format!("the process that renders it {}", status.map_or("is gone".to_owned(), |status| status.to_string())),
            }))
        }
        Err(error) => {
            talk.kill();
            Err(failed(error.to_string()))
        }
    }
}

fn ask(talk: &mut Talk, job: &Job<'_>, secret: Option<&Secret>) -> io::Result<Result<String, Error>> {
    send(&mut talk.input, &serde_json::to_vec(job)?)?;
    let mut secrets = 0;
    loop {
        let mut kind = [0];
        talk.output.read_exact(&mut kind)?;
        match kind {
            [b't'] => return Ok(Ok(text(receive(&mut talk.output, LONGEST)?)?)),
            [b'e'] => return Ok(Err(serde_json::from_slice(&receive(&mut talk.output, COMPLAINT)?)?)),
            [b's'] if secrets < SECRETS => {
                secrets += 1;
                let name = text(receive(&mut talk.output, NAME)?)?;
                let secret = secret.map_or_else(String::new, |secret| secret(&name));
                send(&mut talk.input, secret.as_bytes())?;
            }
            [b's'] => return Err(io::Error::other(format!("it asks for more than {SECRETS} secrets"))),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn send(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

fn receive(from: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The process' `main`.
pub fn main() -> i32 {
    // Private memory that can be written to, so that neither the program's size nor its libraries count.
    if limit(Resource::Data, MEMORY).is_err() || limit(Resource::Core, 0).is_err() {
        return 2;
    }
    loop {
        // Asked for secrets meanwhile, the same input is read by [`secret`], so it is not kept locked.
        let job = receive(&mut io::stdin().lock(), usize::MAX);
        let Ok(job) = job else { return 0 };
        if serve(&job).is_err() {
            return 2;
        }
    }
}

/// Below what the caller's own limit is, e.g. sudo's on core files, which root of a machine that is a host can't raise.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    Ok(setrlimit(resource, Rlimit { current: Some(maximum.map_or(most, |maximum| most.min(maximum))), maximum })?)
}

fn serve(job: &[u8]) -> io::Result<()> {
    let Asked { name, source, facts, secrets } = serde_json::from_slice(job)?;
    limit(Resource::Cpu, used()? + PATIENCE)?;
    let secret: Secret = Arc::new(|name| secret(name).unwrap_or_else(|_| std::process::exit(2)));
    let (kind, bytes) = match super::here(&name, &source, &facts, secrets.then_some(&secret)) {
        Ok(text) => (b't', text.into_bytes()),
        Err(error) => (b'e', serde_json::to_vec(&error)?),
    };
    let mut out = io::stdout().lock();
    out.write_all(&[kind])?;
    send(&mut out, &bytes)
}

/// Seconds of a processor so far.
fn used() -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes into a place that is ours.
    match unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } {
        0 => Ok(u64::try_from(time.tv_sec).unwrap_or_default()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn secret(name: &str) -> io::Result<String> {
    let mut out = io::stdout().lock();
    out.write_all(b"s")?;
    send(&mut out, name.as_bytes())?;
    text(receive(&mut io::stdin().lock(), usize::MAX)?)
}
