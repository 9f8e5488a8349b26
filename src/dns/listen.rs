//! Sockets, bound so that nobody else's port is shared by accident and no bridge has to be up first.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::systemd::{Listeners, Place};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another program already answers at `{address}`")]
    InUse { address: SocketAddr },
    #[error("could not listen at `{address}`")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn at(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            _ => Self::Listen { address, source },
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::InUse { address } | Self::Listen { address, .. } => *address,
        }
    }
}

/// What one address is served with.
pub(super) struct Sockets {
    pub(super) address: SocketAddr,
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: TcpListener,
}

impl Sockets {
    /// Port 0 takes a port that is free for both protocols.
    pub(super) fn open(listeners: &Listeners, address: SocketAddr, udp: usize) -> io::Result<Self> {
        let tries = if address.port() == 0 { 20 } else { 1 };
        let mut last = io::ErrorKind::AddrInUse.into();
        for _ in 0..tries {
            match Self::once(listeners, address, udp) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => last = error,
            }
        }
        // Half of it would take questions that nobody answers.
        close(listeners, address);
        Err(last)
    }

    fn once(listeners: &Listeners, address: SocketAddr, count: usize) -> io::Result<Self> {
        let tcp = connections(listeners, address)?;
        let address = tcp.local_addr()?;
        let kept: Vec<_> = listeners.take(Place::Udp(address), 1).into_iter().map(UdpSocket::from).collect();
        let udp = if kept.is_empty() { Self::packets(address, count)? } else { kept };
        listeners.keep(&tcp);
        udp.iter().for_each(|socket| listeners.keep(socket));
        Ok(Self { address, udp, tcp })
    }

    fn packets(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
        let mut udp = Vec::with_capacity(count);
        for number in 0..count {
            let socket = socket(address, SocketType::DGRAM)?;
            // The first is bound while it shares with nobody, so that a second adt gets an error and not half of our packets.
            sockopt::set_socket_reuseport(&socket, number > 0)?;
            bind(&socket, &address)?;
            sockopt::set_socket_reuseport(&socket, count > 1)?;
            if count > 1 {
                // The kernel's limit may be lower; then it takes that.
                sockopt::set_socket_recv_buffer_size(&socket, 1 << 20)?;
            }
            udp.push(UdpSocket::from(socket));
        }
        Ok(udp)
    }
}

/// Nobody answers there any more.
pub(super) fn close(listeners: &Listeners, address: SocketAddr) {
    listeners.close(Place::Tcp(address));
    listeners.close(Place::Udp(address));
}

/// One that outlived a process, else a new one.
pub(super) fn connections(listeners: &Listeners, address: SocketAddr) -> io::Result<TcpListener> {
    // There is never more than one; who takes one of very many takes one.
    if let Some(kept) = listeners.take(Place::Tcp(address), usize::MAX).pop() {
        return Ok(TcpListener::from(kept));
    }
    let listener = TcpListener::from(socket(address, SocketType::STREAM)?);
    sockopt::set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &address)?;
    listen(&listener, 1024)?;
    Ok(listener)
}

/// May be bound to an address that no interface has yet: bridges come after their environment's record.
fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv4() {
        sockopt::set_ip_freebind(socket.as_fd(), true)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(socket.as_fd(), true)?;
    }
    Ok(socket)
}
