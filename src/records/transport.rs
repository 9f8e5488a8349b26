//! One message to a name server and its answer, within a time that nobody stretches.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// For a whole exchange, however slowly somebody sends.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// A datagram may be lost; the message is sent again after each of these.
const AGAIN: Duration = Duration::from_millis(1500);

/// The first of these addresses that takes a connection.
pub fn connect(server: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "it has no address");
    for at in server {
        match TcpStream::connect_timeout(at, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Only whom it is connected to can answer. A message has at most 65535 bytes, by its form.
pub fn over_tcp(mut stream: TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut length = [0; 2];
    fill(&mut stream, &mut length, until)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    fill(&mut stream, &mut answer, until)?;
    Ok(answer)
}

fn fill(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it closes the connection")),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(timely(error)),
        }
    }
    Ok(())
}

/// The first datagram from the server itself that `accept` takes for the answer; whatever else comes is as if it had not.
pub fn over_udp<T>(server: SocketAddr, message: &[u8], accept: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
    let until = Instant::now() + PATIENCE;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // From then on the kernel drops what others send.
    socket.connect(server)?;
    let mut buffer = [0; 4096];
    let mut again = Instant::now();
    loop {
        if again <= Instant::now() {
            socket.send(message)?;
            again = Instant::now() + AGAIN;
        }
        socket.set_read_timeout(Some(left(until)?.min(AGAIN)))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(answer) = accept(&buffer[..length]) {
                    return Ok(answer);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn timely(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { late() } else { error }
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("not within {} s", PATIENCE.as_secs()))
}
