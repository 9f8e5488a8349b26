//! A backend that believes nothing: it reads what the proxy sends by the letter of RFC 9112, and whatever two readers could
//! take for two things, it writes down as a fault.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::backend;

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    faults: Vec<String>,
}

/// A request that came whole.
#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub struct Witness {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    pub fn new() -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let book = seen.clone();
        Self { address: backend::raw(move |stream| drop(serve(stream, &book))), seen }
    }

    /// All requests since the last call. Panics at the first that could be read in two ways.
    #[track_caller]
    pub fn take(&self) -> Vec<Request> {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.faults, Vec::<String>::new());
        std::mem::take(&mut seen.requests)
    }
}

fn serve(mut stream: TcpStream, book: &Mutex<Seen>) -> std::io::Result<()> {
    // A head that the proxy began and did not end is no request.
    while let Some(head) = backend::head(&mut stream) {
        let framing = framing(&head).map_err(|fault| {
            book.lock().unwrap().faults.push(format!("{fault} in {head:?}"));
            std::io::Error::other(fault)
        })?;
        let body = match framing {
            Framing::Length(length) => {
                let mut body = vec![0; length];
                stream.read_exact(&mut body)?;
                body
            }
            Framing::Chunks => chunks(&mut stream, book)?,
        };
        if !head.starts_with("GET /healthz ") {
            book.lock().unwrap().requests.push(Request { head, body });
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
    Ok(())
}

enum Framing {
    Length(usize),
    Chunks,
}

fn framing(head: &str) -> Result<Framing, &'static str> {
    let mut lines = head.strip_suffix("\r\n\r\n").ok_or("no end")?.split("\r\n");
    let first: Vec<_> = lines.next().ok_or("no first line")?.split(' ').collect();
    let [method, target, "HTTP/1.1"] = first[..] else { return Err("a first line of other than three parts") };
    if method.is_empty() || !method.bytes().all(token) || !target.bytes().all(|b| b.is_ascii_graphic() || b >= 0x80) {
        return Err("a first line with other letters");
    }
    let (mut hosts, mut lengths, mut codings, mut upgrade) = (0, Vec::new(), Vec::new(), false);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a line without a colon")?;
        if name.is_empty() || !name.bytes().all(token) {
            return Err("a name with other letters");
        }
        if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err("a value with control characters");
        }
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" => lengths.push(value.parse().map_err(|_| "a length that is no number")?),
            "transfer-encoding" => codings.push(value),
            "upgrade" => upgrade = true,
            "keep-alive" | "proxy-connection" => return Err("a line that was for the proxy"),
            _ => {}
        }
    }
    match (hosts, &lengths[..], &codings[..]) {
        (1, [] | [0], []) if upgrade => Ok(Framing::Length(0)),
        _ if upgrade => Err("an upgrade with a body"),
        (1, [], []) => Ok(Framing::Length(0)),
        (1, [length], []) => Ok(Framing::Length(*length)),
        (1, [], ["chunked"]) => Ok(Framing::Chunks),
        (1, ..) => Err("more than one framing"),
        _ => Err("not one host"),
    }
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn chunks(stream: &mut TcpStream, book: &Mutex<Seen>) -> std::io::Result<Vec<u8>> {
    let fault = |what: String| {
        book.lock().unwrap().faults.push(what.clone());
        std::io::Error::other(what)
    };
    let mut body = Vec::new();
    loop {
        let line = line(stream)?;
        let digits = line.strip_suffix("\r\n").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let size = size.ok_or_else(|| fault(format!("a chunk of the size {line:?}")))?;
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk)?;
        if !chunk.ends_with(b"\r\n") {
            return Err(fault("a chunk without an end".into()));
        }
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        let line = line(stream)?;
        if line == "\r\n" {
            return Ok(body);
        }
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !line.ends_with("\r\n") || matches!(name.as_str(), "content-length" | "transfer-encoding" | "host") {
            return Err(fault(format!("the trailer {line:?}")));
        }
    }
}

fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
