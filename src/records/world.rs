//! What a name server tells anybody who asks: the proof that a change arrived where the world looks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::transport::{connect, over_tcp, over_udp};
use crate::model::Domain;

/// The addresses that a server itself knows of a name; the reason where it is none of the name's own servers.
pub fn ask(server: SocketAddr, name: &Domain) -> Result<BTreeSet<IpAddr>, String> {
    let name = dns_name(name.as_str());
    let mut addresses = BTreeSet::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = exchange(server, &name, kind)?;
        match answer.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain if answer.authoritative => {}
            ResponseCode::NoError | ResponseCode::NXDomain => return Err("answers for others only, not for this name".to_owned()),
            code => return Err(format!("answers `{code}`")),
        }
        if let Some(alias) = alias(&answer, &name) {
            return Err(format!("says that it stands for `{alias}`"));
        }
        addresses.extend(addresses_of(&answer, &name).map(|(address, _)| address));
    }
    Ok(addresses)
}

/// As anybody asks: by a datagram, and by a connection where the answer does not fit into one.
fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, String> {
    let question = question(name.clone(), kind);
    let bytes = question.to_vec().map_err(|error| error.to_string())?;
    let accept = |answer: &[u8]| Message::from_vec(answer).ok().filter(|answer| answers(&question, answer));
    let silent = |error: std::io::Error| format!("gives no answer: {error}");
    let answer = over_udp(server, &bytes, accept).map_err(silent)?;
    if !answer.truncation {
        return Ok(answer);
    }
    let answer = connect(&[server]).and_then(|stream| over_tcp(stream, &bytes)).map_err(silent)?;
    accept(&answer).ok_or_else(|| "answers something else than it was asked".to_owned())
}

/// A new id for each, which whoever forges an answer has to guess beside the port.
pub(super) fn question(name: Name, kind: RecordType) -> Message {
    let mut message = Message::new(Message::query().id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name, kind));
    message
}

/// Whether a message is the answer to ours.
pub(super) fn answers(question: &Message, answer: &Message) -> bool {
    let is_one = answer.message_type == MessageType::Response && answer.op_code == question.op_code;
    // Of an update, servers need not repeat the zone.
    let is_same = answer.queries == question.queries || (answer.op_code == OpCode::Update && answer.queries.is_empty());
    is_one && answer.id == question.id && is_same
}

/// The addresses of the name itself, each with its life.
pub(super) fn addresses_of<'a>(answer: &'a Message, name: &'a Name) -> impl Iterator<Item = (IpAddr, u32)> + 'a {
    of(answer, name).filter_map(|record| match &record.data {
        RData::A(address) => Some((address.0.into(), record.ttl)),
        RData::AAAA(address) => Some((address.0.into(), record.ttl)),
        _ => None,
    })
}

/// What the name itself only stands for.
pub(super) fn alias(answer: &Message, name: &Name) -> Option<String> {
    of(answer, name).find_map(|record| match &record.data {
        RData::CNAME(alias) => Some(alias.0.to_string().trim_end_matches('.').to_owned()),
        _ => None,
    })
}

pub(super) fn of<'a>(answer: &'a Message, name: &'a Name) -> impl Iterator<Item = &'a Record> {
    answer.answers.iter().filter(move |record| record.name == *name)
}

pub(super) fn dns_name(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).expect("a domain has labels that DNS takes, and room for one more")
}
