//! The front door: one packet in, at most one out. Pure, so that anything may be thrown at it.

use hickory_proto::op::{
    DEFAULT_MAX_PAYLOAD_LEN, Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, DecodeError};

use super::ready::{Body, Key};
use super::zone::{Found, View, Zone};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send what is in the buffer.
    Reply(ResponseCode),
    /// A machine asks for a name that isn't adt's: the host's name servers know.
    Forward,
    /// Not a query. An answer could start a loop between two servers.
    Drop,
}

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub view: View,
    pub transport: Transport,
    /// Whether there are name servers to forward to.
    pub forwards: bool,
    /// Chooses which of several addresses comes first.
    pub turn: usize,
}

/// Writes the answer into `out`, which is emptied first.
pub fn respond(zone: &Zone, asker: Asker, packet: &[u8], out: &mut Vec<u8>) -> Verdict {
    out.clear();
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Verdict::Drop };
    if header.message_type == MessageType::Response {
        return Verdict::Drop;
    }
    let mut reply = Reply { metadata: Metadata::response_from_request(&header.metadata), question: &[], edns: None };
    if header.op_code != OpCode::Query {
        return reply.plain(out, ResponseCode::NotImp);
    }
    let Ok(asked) = Asked::read(&header, &mut decoder, packet) else {
        return reply.plain(out, ResponseCode::FormErr);
    };
    reply.metadata.recursion_available = asker.forwards && asker.view != View::Host;
    reply.question = asked.question;
    reply.edns = asked.edns.as_ref().map(our_edns);
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return reply.plain(out, ResponseCode::BADVERS);
    }
    match asked.query.query_type() {
        RecordType::OPT => return reply.plain(out, ResponseCode::FormErr),
        RecordType::AXFR | RecordType::IXFR => return reply.plain(out, ResponseCode::Refused),
        _ if asked.query.query_class() != DNSClass::IN => return reply.plain(out, ResponseCode::Refused),
        _ => {}
    }
    let limit = asked.limit(asker.transport);
    match zone.find(asker.view, &asked.key, asked.query.query_type(), asker.turn) {
        Found::Records(body) => reply.own(out, ResponseCode::NoError, (body, limit), true),
        Found::NoData(body) => reply.own(out, ResponseCode::NoError, (body, limit), false),
        Found::NoName(body) => reply.own(out, ResponseCode::NXDomain, (body, limit), false),
        Found::Elsewhere if reply.metadata.recursion_available => Verdict::Forward,
        Found::Elsewhere => reply.plain(out, ResponseCode::Refused),
    }
}

/// A query with its one question.
struct Asked<'a> {
    query: Query,
    key: Key,
    /// As it came, because the answer repeats the spelling of its letters.
    question: &'a [u8],
    edns: Option<Edns>,
}

impl<'a> Asked<'a> {
    fn read(header: &Header, decoder: &mut BinDecoder<'a>, packet: &'a [u8]) -> Result<Self, DecodeError> {
        let counts = header.counts;
        if counts.queries != 1 {
            return Err(DecodeError::InsufficientBytes);
        }
        let start = decoder.index();
        let query = Query::read(decoder)?;
        let question = &packet[start..decoder.index()];
        let key = Key::of(query.name());
        // A compressed question points before itself, where there is only the header. Spelled out, it ends in root, type and class.
        if question.len() != key.bytes().len() + 5 {
            return Err(DecodeError::InsufficientBytes);
        }
        Message::read_records(decoder, counts.answers.into(), false, OpCode::Query)?;
        Message::read_records(decoder, counts.authorities.into(), false, OpCode::Query)?;
        let (_, edns, _) = Message::read_records(decoder, counts.additionals.into(), true, OpCode::Query)?;
        Ok(Self { query, key, question, edns })
    }

    /// What the way back carries. Our own limit keeps answers from being fragmented.
    fn limit(&self, transport: Transport) -> usize {
        match (transport, &self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(512, DEFAULT_MAX_PAYLOAD_LEN).into(),
        }
    }
}

/// RFC 3225 has the DO bit copied even by servers that sign nothing. Options, cookies among them, are left unanswered.
fn our_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DEFAULT_MAX_PAYLOAD_LEN).set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

struct Reply<'a> {
    metadata: Metadata,
    question: &'a [u8],
    edns: Option<Edns>,
}

/// What an OPT record without options takes.
const OPT_LEN: usize = 11;

impl Reply<'_> {
    /// From adt's own zones.
    fn own(mut self, out: &mut Vec<u8>, code: ResponseCode, (body, limit): (&Body, usize), answers: bool) -> Verdict {
        self.metadata.authoritative = true;
        let opt = if self.edns.is_some() { OPT_LEN } else { 0 };
        if 12 + self.question.len() + body.bytes.len() + opt > limit {
            self.metadata.truncation = true;
            return self.plain(out, code);
        }
        let (answers, authorities) = if answers { (body.records, 0) } else { (0, body.records) };
        self.write(out, code, HeaderCounts { answers, authorities, ..HeaderCounts::default() }, &body.bytes)
    }

    fn plain(self, out: &mut Vec<u8>, code: ResponseCode) -> Verdict {
        self.write(out, code, HeaderCounts::default(), &[])
    }

    fn write(mut self, out: &mut Vec<u8>, code: ResponseCode, mut counts: HeaderCounts, body: &[u8]) -> Verdict {
        self.metadata.response_code = code;
        counts.queries = u16::from(!self.question.is_empty());
        counts.additionals = u16::from(self.edns.is_some());
        let header = Header { metadata: self.metadata, counts };
        header.emit(&mut BinEncoder::new(out)).expect("a header fits into any message");
        out.extend_from_slice(self.question);
        out.extend_from_slice(body);
        if let Some(mut edns) = self.edns {
            edns.set_rcode_high(code.high());
            let offset = u32::try_from(out.len()).expect("a message is below 64 KiB");
            edns.emit(&mut BinEncoder::with_offset(out, offset)).expect("an empty OPT fits");
        }
        Verdict::Reply(code)
    }
}
