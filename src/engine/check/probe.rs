//! Does a machine answer? Checks are asked from the host, over the same cable that its users come through.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::{Check, Exec, MachineSpec, MachineState, Stream};
use crate::providers::{Provider, Stdio};

/// Asks once whether a check holds; the reason why not is for people.
pub trait Probe: Send + Sync {
    fn ask(&self, provider: &dyn Provider, spec: &MachineSpec, check: &Check) -> Result<(), String>;
}

/// Connects for real.
#[derive(Debug, Clone, Copy)]
pub struct Live;

/// A service that takes longer than this for one answer does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A program may have to start an interpreter on a busy host.
const PATIENCE_WITH_PROGRAMS: Duration = Duration::from_secs(15);
/// What is kept of a line, for people.
const LONGEST_WORD: usize = 1000;

impl Probe for Live {
    fn ask(&self, provider: &dyn Provider, spec: &MachineSpec, check: &Check) -> Result<(), String> {
        match check {
            Check::Tcp { port } => connect(spec, *port).map(drop),
            Check::Http { port, path, host } => get(spec, *port, path, host.as_deref().unwrap_or(&spec.fqdn)),
            Check::Command { argv } => run(provider, spec, argv),
            Check::Booted => booted(provider, spec),
        }
    }
}

fn connect(spec: &MachineSpec, port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::from((spec.network.v4, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(|error| format!("{address}: {error}"))
}

/// Reads the status line only: what a health check needs of HTTP.
fn get(spec: &MachineSpec, port: u16, path: &str, host: &str) -> Result<(), String> {
    let mut stream = connect(spec, port)?;
    let told = |error: std::io::Error| format!("http://{host}:{port}{path}: {error}");
    stream.set_write_timeout(Some(PATIENCE)).map_err(told)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: adt\r\nConnection: close\r\n\r\n").map_err(told)?;
    let line = status_line(&mut stream).map_err(told)?;
    judge(&line).map(drop).map_err(|reason| format!("http://{host}:{port}{path} {reason}"))
}

/// Neither a line without end nor one that comes byte by byte holds who asks.
fn status_line(stream: &mut TcpStream) -> std::io::Result<String> {
    const LONGEST: usize = 8 << 10;
    let since = Instant::now();
    let mut line = Vec::new();
    let mut buffer = [0; 1024];
    while line.len() < LONGEST && !line.contains(&b'\n') {
        // No time at all would mean for ever.
        let left = PATIENCE.saturating_sub(since.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            _ if since.elapsed() > PATIENCE => return Err(std::io::ErrorKind::TimedOut.into()),
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// What a status line says of the one who sent it.
pub(in crate::engine) fn judge(line: &str) -> Result<u16, String> {
    match line.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok()) {
        Some(code @ 200..=399) => Ok(code),
        Some(code) => Err(format!("answers {code}")),
        None => Err("closes without an answer".to_owned()),
    }
}

fn run(provider: &dyn Provider, spec: &MachineSpec, argv: &[String]) -> Result<(), String> {
    match last_word(provider, spec, argv)? {
        (0, _) => Ok(()),
        (code, last) => Err(format!("`{}` exits with {code}: {last}", argv.join(" "))),
    }
}

/// A program's exit code and its last line. One that does not end is ended: it must hold nobody who asks.
fn last_word(provider: &dyn Provider, spec: &MachineSpec, argv: &[String]) -> Result<(i32, String), String> {
    let (since, mut last, mut late) = (Instant::now(), String::new(), false);
    let mut each = |line: Option<(Stream, &str)>| {
        if let Some((_, line)) = line {
            line.chars().take(LONGEST_WORD).collect::<String>().clone_into(&mut last);
        }
        late = since.elapsed() > PATIENCE_WITH_PROGRAMS;
        if late { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let ended = provider.exec(&spec.id, &Exec::new(argv), Stdio::Follow { each: &mut each });
    if late {
        return Err(format!("`{}` does not end within {} s", argv.join(" "), PATIENCE_WITH_PROGRAMS.as_secs()));
    }
    let ended = ended.map_err(|error| error.to_string())?;
    Ok((ended.code, last))
}

fn booted(provider: &dyn Provider, spec: &MachineSpec) -> Result<(), String> {
    let (_, state) = last_word(provider, spec, &["systemctl".to_owned(), "is-system-running".to_owned()])?;
    match state.as_str() {
        // A unit that failed is told by `env:check`; the machine itself is there.
        "running" | "degraded" => Ok(()),
        other => Err(format!("its init is {}", if other.is_empty() { "not up yet" } else { other })),
    }
}

/// Why waiting ended without an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The last thing that did not hold.
    Deadline(String),
    Died(MachineState),
    Cancelled,
}

/// Asks until all checks hold.
pub fn wait(
    probe: &dyn Probe,
    provider: &dyn Provider,
    spec: &MachineSpec,
    deadline: Duration,
    cancel: &AtomicBool,
) -> Result<(), NoAnswer> {
    let since = Instant::now();
    let mut inspected = since;
    for check in &spec.health.checks {
        while let Err(reason) = probe.ask(provider, spec, check) {
            if cancel.load(Ordering::Relaxed) {
                return Err(NoAnswer::Cancelled);
            }
            if inspected.elapsed() > Duration::from_millis(200) {
                match provider.inspect(&spec.id) {
                    Ok(MachineState::Running { .. }) | Err(_) => inspected = Instant::now(),
                    Ok(state) => return Err(NoAnswer::Died(state)),
                }
            }
            if since.elapsed() > deadline {
                return Err(NoAnswer::Deadline(reason));
            }
            // Each question takes time from the machine that is asked: one every few milliseconds was a thirtieth of all that
            // the host had to do for a start. Later nobody notices fifty.
            std::thread::sleep((since.elapsed() / 50).clamp(Duration::from_millis(12), Duration::from_millis(50)));
        }
    }
    Ok(())
}

/// One round of all checks; the reasons of those that do not hold.
pub fn once(probe: &dyn Probe, provider: &dyn Provider, spec: &MachineSpec) -> Result<(), String> {
    spec.health.checks.iter().try_for_each(|check| probe.ask(provider, spec, check))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `get` makes of a server that does this with whom it answers.
    fn asked(answer: impl FnOnce(TcpStream) + Send + 'static) -> std::io::Result<String> {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let serving = std::thread::spawn(move || answer(server.accept().unwrap().0));
        let line = status_line(&mut stream);
        drop(stream);
        serving.join().unwrap();
        line
    }

    #[test]
    fn a_status_line_without_end_holds_nobody() {
        let line = asked(|mut stream| drop(stream.write_all(b"HTTP/1.1 204 No Content\r\nX: y\r\n"))).unwrap();
        assert_eq!(judge(&line), Ok(204));
        let line = asked(|mut stream| while stream.write_all(&[b'x'; 1024]).is_ok() {}).unwrap();
        assert!(line.len() < 10_000 && judge(&line).is_err());
        let slow = asked(|mut stream| {
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        assert!(slow.is_err(), "{slow:?}");
    }
}
