//! Asks one name server itself, past the host's resolver: which of the two is at fault?

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

/// A server on this very host that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The IPv4 addresses that the server at `server` knows for `name`.
pub fn ask(server: SocketAddr, name: &str) -> io::Result<Vec<Ipv4Addr>> {
    let name = Name::from_ascii(format!("{name}.")).map_err(io::Error::other)?;
    // One socket asks one question and hears this server only, so any number will do.
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&question.to_vec().map_err(io::Error::other)?)?;
    let mut buffer = [0; 1232];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
    let address = |data: &RData| if let RData::A(address) = data { Some(address.0) } else { None };
    Ok(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
}
