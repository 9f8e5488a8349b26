//! A question as what its answer is kept under.

use hickory_proto::op::{Header, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::dns::front::Transport;
use crate::dns::ready::Key;

/// Where the question begins: behind the header.
pub(super) const START: usize = 12;
/// Root, the type of OPT; then the asker's size and bits; then no options.
const OPT: ([u8; 3], usize, [u8; 2]) = ([0, 0, 41], 6, [0, 0]);

/// All of a packet that its answer may depend on: everything but the id and how the name's letters are spelled. Bits for DNSSEC and
/// the size that the asker takes are in it, so who asks otherwise gets another answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::dns) struct Question(Box<[u8]>);

impl Question {
    /// Nothing for what is between the asker and the server alone: options such as cookies and client subnets, and signatures.
    pub(in crate::dns) fn read(packet: &[u8], transport: Transport) -> Option<Self> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).ok()?;
        let counts = header.counts;
        let plain = (counts.queries, counts.answers, counts.authorities) == (1, 0, 0);
        if !plain || header.message_type != MessageType::Query || header.op_code != OpCode::Query {
            return None;
        }
        let query = Query::read(&mut decoder).ok()?;
        let (name, end) = (Key::of(query.name()), decoder.index());
        if end != START + name.bytes().len() + 5 || query.query_class() != DNSClass::IN {
            return None;
        }
        let is_known = match counts.additionals {
            0 => packet.len() == end,
            1 => is_bare_opt(&packet[end..]),
            _ => false,
        };
        is_known.then(|| {
            let mut key = packet[2..].to_vec();
            // Not the type, of which a byte may be a letter too.
            key[START - 2..][..name.bytes().len()].copy_from_slice(name.bytes());
            key.push(u8::from(transport == Transport::Tcp));
            Self(key.into())
        })
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn is_bare_opt(rest: &[u8]) -> bool {
    let (start, between, end) = OPT;
    rest.len() == start.len() + between + end.len() && rest.starts_with(&start) && rest.ends_with(&end)
}

/// What a packet asks for, and where that ends in it.
pub(super) fn asked(packet: &[u8]) -> Option<(RecordType, usize)> {
    let mut decoder = BinDecoder::new(packet);
    Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok()?;
    Some((query.query_type(), decoder.index()))
}
