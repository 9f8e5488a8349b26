//! Does it answer? The same question for everybody, asked from the host every two milliseconds.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::{Peer, Result, at_once};

/// Longer than this is a failure, not a slow start.
const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone)]
pub struct Target {
    pub address: Ipv4Addr,
    pub port: u16,
    /// Path and host name of a page that must be there; otherwise a connection is enough.
    pub page: Option<(String, String)>,
}

impl Target {
    /// Whether the way there is a network of this host. Before a peer has made its network, whoever is next on the way out may
    /// answer in its place, or keep us waiting.
    fn is_near(&self) -> bool {
        let source = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|socket| socket.connect((self.address, self.port)).and_then(|()| socket.local_addr()));
        let beginning = |address: Ipv4Addr| address.octets()[..3].to_owned();
        matches!(source, Ok(SocketAddr::V4(source)) if beginning(*source.ip()) == beginning(self.address))
    }

    fn answers(&self) -> bool {
        if !self.is_near() {
            return false;
        }
        let address = SocketAddr::from((self.address, self.port));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) else { return false };
        let Some((path, host)) = &self.page else { return true };
        let mut line = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").is_ok()
            && BufReader::new(stream).read_line(&mut line).is_ok()
            && line.split_whitespace().nth(1) == Some("200")
    }

    fn wait(&self, since: Instant) -> Result<()> {
        while !self.answers() {
            if since.elapsed() > DEADLINE {
                return Err(format!("{}:{} does not answer", self.address, self.port).into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Starts a peer; the time until all of its machines answer, and the time until its commands were back.
pub fn bring_up(peer: &dyn Peer) -> Result<(Duration, Duration)> {
    let targets = peer.targets();
    let since = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| at_once(&targets, |target| target.wait(since)).map(|()| since.elapsed()));
        peer.start().map_err(|error| format!("{}: {error}", peer.name()))?;
        let back = since.elapsed();
        let up = waiting.join().expect("it only waits").map_err(|error| format!("{}: {error}", peer.name()))?;
        Ok((up, back))
    })
}

pub fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let since = Instant::now();
    work()?;
    Ok(since.elapsed())
}
