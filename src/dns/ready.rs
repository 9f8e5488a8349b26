//! Names as keys and answers as bytes, both made ready before anybody asks.

use std::net::IpAddr;

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};

/// Short, because environments come and go while browsers look.
const TTL: u32 = 5;

/// A name as a key: its labels with their lengths, in lower case, without the root.
pub(super) struct Key {
    bytes: [u8; 255],
    len: usize,
}

impl Key {
    pub(super) fn of(name: &Name) -> Self {
        let mut key = Self { bytes: [0; 255], len: 0 };
        for label in name.iter() {
            key.bytes[key.len] = u8::try_from(label.len()).expect("a label has at most 63 bytes");
            let place = &mut key.bytes[key.len + 1..][..label.len()];
            place.copy_from_slice(label);
            place.make_ascii_lowercase();
            key.len += 1 + label.len();
        }
        key
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The name itself, then each name above it; the root is not among them.
pub(super) fn ladder(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(key), |key| above(key)).filter(|key| !key.is_empty())
}

/// The key without its first label.
fn above(key: &[u8]) -> Option<&[u8]> {
    key.get(1 + usize::from(*key.first()?)..)
}

/// Records in wire form, as they stand behind the question of any answer that gives them.
pub(super) struct Body {
    pub(super) records: u16,
    pub(super) bytes: Box<[u8]>,
}

/// One type's records at a name, once for each of them coming first, so that clients spread. Never empty.
pub(super) struct Set(Box<[Body]>);

impl Set {
    /// The records' names become pointers to the question, so a wildcard's bytes serve every name below it.
    pub(super) fn new(name: &Name, data: &[RData]) -> Self {
        let records: Vec<_> = data.iter().map(|data| Record::from_rdata(name.clone(), TTL, data.clone())).collect();
        let turns = (0..records.len()).map(|first| {
            let (end, start) = records.split_at(first);
            Body::behind_question(name, start.iter().chain(end))
        });
        Self(turns.collect())
    }

    pub(super) fn body(&self, turn: usize) -> &Body {
        &self.0[turn % self.0.len()]
    }
}

impl Body {
    fn behind_question<'a>(name: &Name, records: impl Iterator<Item = &'a Record>) -> Self {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        let metadata = Metadata::new(0, MessageType::Response, OpCode::Query);
        Header { metadata, counts: HeaderCounts::default() }.emit(&mut encoder).expect("a header fits");
        Query::query(name.clone(), RecordType::A).emit(&mut encoder).expect("a question fits");
        let start = encoder.len();
        let records = encoder.emit_all(records).expect("an environment's records fit into a message");
        Self { records: u16::try_from(records).expect("at most 63 machines"), bytes: bytes[start..].into() }
    }

    /// The SOA that goes with "there is no such thing" (RFC 2308). Spelled out, because it stands behind questions of any length.
    pub(super) fn negative(origin: &Name, serial: u32) -> Self {
        let mut bytes = Vec::with_capacity(128);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_name_encoding(NameEncoding::Uncompressed);
        Record::from_rdata(origin.clone(), TTL, soa(origin, serial)).emit(&mut encoder).expect("one record fits");
        Self { records: 1, bytes: bytes.into() }
    }
}

/// The zone's own name stands for its server and its master's mailbox: no further name must exist for them.
pub(super) fn soa(origin: &Name, serial: u32) -> RData {
    RData::SOA(SOA::new(origin.clone(), origin.clone(), serial, 3600, 600, 86400, TTL))
}

pub(super) fn ns(origin: &Name) -> RData {
    RData::NS(NS(origin.clone()))
}

pub(super) fn pointer(name: Name) -> RData {
    RData::PTR(PTR(name))
}

pub(super) fn address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}
