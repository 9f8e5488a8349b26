//! `host:up` with the names and pages of 500 environments: what it holds in memory, and how soon it follows a change.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use ::adt::store::Store;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::adt::{Adt, LISTEN, Model};
use super::process::Process;
use super::reading::{add, full};
use super::report::{Report, Samples};
use super::{HOME, Result};

const ENVIRONMENTS: u32 = 500;
/// A change that takes longer than this never comes.
const DEADLINE: Duration = Duration::from_secs(10);

pub fn measure(built: &Adt, model: &Model, rounds: usize, report: &mut Report) -> Result<()> {
    let adt = full(built, model, "serving", ENVIRONMENTS)?;
    let store = Store::open(&adt.store)?;
    let at = |port: u16| SocketAddr::from((LISTEN, port));
    // What it listens at last: pages come after names.
    let daemon = Process::start(&adt.command("host:up"), &Path::new(HOME).join("serving.log"), at(80))?;
    for number in 1..=ENVIRONMENTS {
        if !(is_named(number)? && has_page(number)?) {
            return Err(format!("environment {number} is not served").into());
        }
    }
    let (start, asked) = (resident(daemon.id())?, ENVIRONMENTS);
    report.row(
        &format!("memory of `host:up` with {asked} environments, each asked for by name and page"),
        &format!("{:.0} MiB", start as f64 / 1024.0),
        serde_json::json!({ "kB": start }),
    );
    let (mut there, mut gone) = (Samples::default(), Samples::default());
    for number in (ENVIRONMENTS + 1..).take(rounds) {
        add(&store, model, number)?;
        there.push(until(|| Ok(is_named(number)? && has_page(number)?))?);
        adt.run(&format!("env:destroy hello {number} --yes"))?;
        gone.push(until(|| Ok(!is_named(number)? && !has_page(number)?))?);
    }
    report.value("a new environment is in the store → its name and page are served", &there);
    report.value("`env:destroy` has returned → its name and page are gone", &gone);
    Ok(())
}

fn until(holds: impl Fn() -> Result<bool>) -> Result<Duration> {
    let since = Instant::now();
    while !holds()? {
        if since.elapsed() > DEADLINE {
            return Err("a change is never served".into());
        }
    }
    Ok(since.elapsed())
}

fn host(number: u32) -> String {
    format!("{number}.hello.example.test")
}

fn is_named(number: u32) -> Result<bool> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(host(number))?, RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(&question.to_vec()?, (LISTEN, 53))?;
    let mut packet = [0; 2048];
    let length = socket.recv(&mut packet)?;
    let answer = Message::from_vec(&packet[..length])?;
    Ok(answer.metadata.response_code == ResponseCode::NoError && !answer.answers.is_empty())
}

fn has_page(number: u32) -> Result<bool> {
    let mut stream = TcpStream::connect((LISTEN, 80))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(number))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split_whitespace().nth(1) == Some("200"))
}

/// In kilobytes.
fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process has a size")?;
    Ok(line.split_whitespace().next().ok_or("a size is a number")?.parse()?)
}
