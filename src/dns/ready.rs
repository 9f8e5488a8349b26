//! Names as keys and answers as bytes, both made ready before anybody asks.
//!
//! Written without hickory-proto, unlike everything that depends on a question: thousands of these are made whenever an
//! environment comes or goes, and all of them are one of four simple records.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};

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

    /// Nothing for what DNS can't say: four labels of 63 characters each are legal names of things, but not a legal name together.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut key = Self { bytes: [0; 255], len: 0 };
        for label in text.split('.') {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
            // The root takes a byte too.
            let place = key.bytes[..254].get_mut(key.len..=key.len + label.len())?;
            place[0] = length;
            place[1..].copy_from_slice(label.as_bytes());
            place[1..].make_ascii_lowercase();
            key.len += place.len();
        }
        Some(key)
    }

    /// Where an address has its way back.
    pub(super) fn reverse(address: IpAddr) -> Self {
        let text = match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(v6) => {
                let digits = format!("{:032x}", u128::from(v6));
                digits.chars().rev().flat_map(|digit| [digit, '.']).chain("ip6.arpa".chars()).collect()
            }
        };
        Self::read(&text).expect("an address is short")
    }

    /// The name without its first labels.
    pub(super) fn above(&self, labels: usize) -> Self {
        let rest = ladder(self.bytes()).nth(labels).unwrap_or_default();
        let mut key = Self { bytes: [0; 255], len: rest.len() };
        key.bytes[..rest.len()].copy_from_slice(rest);
        key
    }

    /// As it stands in a message, with the root.
    fn wire(&self) -> Vec<u8> {
        [self.bytes(), &[0]].concat()
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

/// As a compressed name: the question's, which stands right behind the header. So a wildcard's bytes serve every name below it.
const ASKED: [u8; 2] = [0xc0, 12];

impl Set {
    fn new(kind: RecordType, data: &[Vec<u8>]) -> Self {
        let turns = (0..data.len()).map(|first| {
            let (end, start) = data.split_at(first);
            let mut bytes = Vec::with_capacity(data.iter().map(|data| 12 + data.len()).sum());
            for data in start.iter().chain(end) {
                record(&mut bytes, &ASKED, kind, data);
            }
            Body { records: u16::try_from(data.len()).expect("at most 63 machines"), bytes: bytes.into() }
        });
        Self(turns.collect())
    }

    /// By type; what there is none of is left out.
    pub(super) fn addresses(all: &[IpAddr]) -> Vec<(RecordType, Self)> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in all {
            match address {
                IpAddr::V4(address) => v4.push(address.octets().to_vec()),
                IpAddr::V6(address) => v6.push(address.octets().to_vec()),
            }
        }
        let kinds = [(RecordType::A, v4), (RecordType::AAAA, v6)];
        kinds.into_iter().filter(|(_, data)| !data.is_empty()).map(|(kind, data)| (kind, Self::new(kind, &data))).collect()
    }

    pub(super) fn pointer(to: &Key) -> (RecordType, Self) {
        (RecordType::PTR, Self::new(RecordType::PTR, &[to.wire()]))
    }

    /// What a zone's own name has. It stands for the zone's server and its master's mailbox: no further name must exist for them.
    pub(super) fn origin(serial: u32) -> Vec<(RecordType, Self)> {
        let soa = Self::new(RecordType::SOA, &[soa(&ASKED, serial)]);
        vec![(RecordType::SOA, soa), (RecordType::NS, Self::new(RecordType::NS, &[ASKED.to_vec()]))]
    }

    pub(super) fn body(&self, turn: usize) -> &Body {
        &self.0[turn % self.0.len()]
    }
}

impl Body {
    /// The SOA that goes with "there is no such thing" (RFC 2308). Spelled out, because it stands behind questions of any length.
    pub(super) fn negative(origin: &Key, serial: u32) -> Self {
        let (name, mut bytes) = (origin.wire(), Vec::new());
        record(&mut bytes, &name, RecordType::SOA, &soa(&name, serial));
        Self { records: 1, bytes: bytes.into() }
    }
}

fn record(out: &mut Vec<u8>, owner: &[u8], kind: RecordType, data: &[u8]) {
    const INTERNET: u16 = 1;
    out.extend_from_slice(owner);
    out.extend_from_slice(&u16::from(kind).to_be_bytes());
    out.extend_from_slice(&INTERNET.to_be_bytes());
    out.extend_from_slice(&TTL.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).expect("three names at most").to_be_bytes());
    out.extend_from_slice(data);
}

fn soa(origin: &[u8], serial: u32) -> Vec<u8> {
    let times = [serial, 3600, 600, 86400, TTL];
    [origin, origin, times.map(u32::to_be_bytes).as_flattened()].concat()
}
