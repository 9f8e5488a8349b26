//! Where a socket waits for clients, as the kernel says of the socket itself: no name that it came with is believed.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, getpeername, getsockname, sockopt};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Listened at.
    Tcp(SocketAddr),
    /// Bound, and open to all.
    Udp(SocketAddr),
}

impl Place {
    /// `None` where nobody can come in by it.
    pub fn of(socket: impl AsFd) -> Option<Self> {
        let socket = socket.as_fd();
        let family = sockopt::socket_domain(socket).ok()?;
        if family != AddressFamily::INET && family != AddressFamily::INET6 {
            return None;
        }
        let address = SocketAddr::try_from(getsockname(socket).ok()?).ok().filter(|address| address.port() != 0)?;
        match sockopt::socket_type(socket).ok()? {
            SocketType::STREAM => sockopt::socket_acceptconn(socket).ok()?.then_some(Self::Tcp(address)),
            SocketType::DGRAM => (getpeername(socket) == Err(Errno::NOTCONN)).then_some(Self::Udp(address)),
            _ => None,
        }
    }
}

/// As a part of a descriptor's name, which may have no colon.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (transport, address) = match self {
            Self::Tcp(address) => ("tcp", address),
            Self::Udp(address) => ("udp", address),
        };
        write!(f, "{transport}-{}-{}", address.ip().to_string().replace(':', "_"), address.port())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn only_who_waits_for_anybody_has_a_place() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(Place::of(&listener), Some(Place::Tcp(address)));
        assert_eq!(Place::of(TcpStream::connect(address).unwrap()), None);
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(Place::of(&socket).unwrap().to_string(), format!("udp-__1-{port}"));
        socket.connect(("::1", port)).unwrap();
        assert_eq!(Place::of(&socket), None);
        assert_eq!(Place::of(std::os::unix::net::UnixDatagram::unbound().unwrap()), None);
        assert_eq!(Place::of(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
