//! An answer that may be kept: for how long, and where in it its times to live are.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::question::{START, asked};

/// Longer ones are rare, and asked for anew.
const LONGEST: usize = 4096;
/// In seconds. What is wrong goes away within the hour, whatever it says of itself.
const LIFE: u32 = 3600;
/// RFC 2181: a time to live with the highest bit is none.
const ENDLESS: u32 = 1 << 31;

pub(in crate::dns) struct Answer {
    bytes: Box<[u8]>,
    /// Where each record's time to live stands.
    times: Box<[u16]>,
    life: u32,
}

impl Answer {
    /// Nothing where `answer` is not to be kept: a failure, a part only, or "there is no such thing" from a server that doesn't say for
    /// how long (RFC 2308).
    pub(in crate::dns) fn read(packet: &[u8], answer: &[u8]) -> Option<Self> {
        let (kind, end) = asked(packet)?;
        if answer.len() > LONGEST {
            return None;
        }
        let message = Message::from_vec(answer).ok()?;
        let is_whole = message.message_type == MessageType::Response && !message.truncation;
        // The asker gets its question back as it spelled it.
        let fits = asked(answer)? == (kind, end) && answer[START..end].eq_ignore_ascii_case(&packet[START..end]);
        if !is_whole || !fits {
            return None;
        }
        let exists = match message.response_code {
            ResponseCode::NoError => message.answers.iter().any(|it| kind == RecordType::ANY || it.record_type() == kind),
            ResponseCode::NXDomain => false,
            _ => return None,
        };
        let mut bytes: Box<[u8]> = answer.into();
        let records = records(answer, end)?;
        let times: Box<[u16]> = records.iter().map(|record| record.time).collect();
        let mut life = records.iter().map(|record| if record.ttl < ENDLESS { record.ttl } else { 0 }).min()?;
        if !exists {
            let soa = records.iter().find_map(|record| Some((record, record.minimum?)));
            let (soa, minimum) = soa.filter(|(soa, _)| soa.is_authority)?;
            life = life.min(minimum);
            // Who keeps this answer in turn is not to begin with more than is left of it.
            put(&mut bytes, soa.time, soa.ttl.min(minimum));
        }
        (life > 0).then(|| Self { bytes, times, life: life.min(LIFE) })
    }

    /// In seconds.
    pub(super) fn life(&self) -> u32 {
        self.life
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.times.len() * 2
    }

    /// The answer to `packet`, which asks the same, `age` later.
    pub(super) fn write(&self, packet: &[u8], age: Duration, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        out[..2].copy_from_slice(&packet[..2]);
        // Whose zone it is has not been asked now.
        out[2] &= !AUTHORITATIVE;
        let end = asked(packet).map_or(START, |(_, end)| end);
        out[START..end].copy_from_slice(&packet[START..end]);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for time in &self.times {
            let ttl = get(&self.bytes, *time);
            put(out, *time, ttl.saturating_sub(age));
        }
    }
}

const AUTHORITATIVE: u8 = 4;

fn get(bytes: &[u8], at: u16) -> u32 {
    let bytes = bytes[usize::from(at)..].first_chunk().expect("a time to live stands there");
    u32::from_be_bytes(*bytes)
}

fn put(bytes: &mut [u8], at: u16, ttl: u32) {
    bytes[usize::from(at)..][..4].copy_from_slice(&ttl.to_be_bytes());
}

struct Record {
    time: u16,
    ttl: u32,
    /// Of a SOA: how long what isn't there isn't there.
    minimum: Option<u32>,
    is_authority: bool,
}

/// All but OPT, which has bits where others have their time. Nothing where the message is signed as a whole, or goes on behind its end.
fn records(answer: &[u8], start: usize) -> Option<Vec<Record>> {
    let count = |at: usize| answer.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    let (answers, authorities, additionals) = (count(6)?, count(8)?, count(10)?);
    let mut decoder = BinDecoder::new(answer).clone(u16::try_from(start).ok()?);
    let mut records = Vec::new();
    for number in 0..u32::from(answers) + u32::from(authorities) + u32::from(additionals) {
        Name::read(&mut decoder).ok()?;
        let kind = RecordType::from(decoder.read_u16().ok()?.unverified());
        decoder.read_u16().ok()?;
        let time = u16::try_from(decoder.index()).ok()?;
        let ttl = decoder.read_u32().ok()?.unverified();
        let length = decoder.read_u16().ok()?.unverified();
        let data = decoder.read_slice(length.into()).ok()?.unverified();
        let minimum = (kind == RecordType::SOA).then(|| data.last_chunk().map(|last| u32::from_be_bytes(*last))).flatten();
        let is_authority = (answers..answers.saturating_add(authorities)).contains(&u16::try_from(number).ok()?);
        match kind {
            RecordType::OPT => {}
            RecordType::TSIG | RecordType::SIG => return None,
            _ => records.push(Record { time, ttl, minimum, is_authority }),
        }
    }
    decoder.is_empty().then_some(records)
}
