//! A syslog server over TCP. It never answers, so a message counts as taken once the kernel has it; what was on its way when a
//! connection broke is sent again with the batch it was in.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{PATIENCE, Sent, Sink, trusted};
use crate::config::host::Address;
use crate::logs::{Record, syslog};

pub struct Server {
    address: Address,
    connection: Option<Connection>,
}

enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Server {
    pub fn new(address: Address) -> Self {
        Self { address, connection: None }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A server that went away closed its side; the first write after that would still be taken, and lost.
        if self.connection.as_ref().is_some_and(Connection::ended) {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connect(&self.address)?),
        };
        match connection {
            Connection::Plain(stream) => stream.write_all(bytes),
            Connection::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

impl Sink for Server {
    fn send(&mut self, records: &[Record]) -> Sent {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| syslog::frame(record, &mut bytes));
        match self.write(&bytes) {
            Ok(()) => Sent::Taken,
            Err(error) => {
                self.connection = None;
                Sent::NotYet(error.to_string())
            }
        }
    }
}

impl Connection {
    fn ended(&self) -> bool {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        };
        let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let back = stream.set_nonblocking(false);
        let open = match peeked {
            Ok(count) => count > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        back.is_err() || !open
    }
}

fn connect(address: &Address) -> io::Result<Connection> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, PATIENCE) {
            Ok(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return if address.tls { secure(stream, &address.host) } else { Ok(Connection::Plain(stream)) };
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn secure(stream: TcpStream, host: &str) -> io::Result<Connection> {
    let config: Arc<ClientConfig> = trusted()?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    // Here, so that a wrong certificate is told as what it is.
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Connection::Tls(Box::new(stream)))
}
