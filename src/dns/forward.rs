//! Names that aren't adt's, for machines: asked of the host's name servers, and handed on as they answer, now and for as long as
//! they say.
//!
//! A question that no server answers waits for seconds. So that one environment, or one machine of it, can't fill all places with
//! such, each has its share of them, and who holds it is told at once that there is no answer.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_proto::op::{Header, Message, MessageType, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::shares::{self, Share, Shares};

use super::cache::{self, Cache, Machine, Question};
use super::front::Transport;
use super::stats::Stats;

/// A machine's resolver waits five seconds for each of its own tries.
const PATIENCE: Duration = Duration::from_millis(1200);
/// Each server is asked this often.
const ROUNDS: usize = 2;
/// Each takes a socket.
const IN_FLIGHT: usize = 512;

pub(super) struct Forwarder {
    servers: RwLock<Arc<[SocketAddr]>>,
    any: AtomicBool,
    pub(super) places: Arc<Shares>,
    pub(super) cache: Cache,
}

/// A question on its way: whose it is, and what it needs to be there.
pub(super) struct Errand {
    machine: Machine,
    _place: Share,
}

impl Forwarder {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        let any = AtomicBool::new(!servers.is_empty());
        let places = Shares::new(IN_FLIGHT.min(shares::files() / 8));
        Self { servers: RwLock::new(servers.into()), any, places, cache: Cache::new() }
    }

    pub(super) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other servers may say something else: what these said is forgotten.
    pub(super) fn replace(&self, servers: Vec<SocketAddr>) {
        if *self.servers() == servers {
            return;
        }
        self.any.store(!servers.is_empty(), Relaxed);
        *self.servers.write().unwrap_or_else(PoisonError::into_inner) = servers.into();
        // Later, because what is asked of the former servers until here is forgotten too.
        self.cache.clear();
    }

    /// Writes the answer that is known already into `out`, which takes no place.
    pub(super) fn known(&self, packet: &[u8], transport: Transport, machine: Machine, stats: &Stats, out: &mut Vec<u8>) -> bool {
        let question = Question::read(packet, transport);
        let known = question.is_some_and(|question| self.cache.get(machine, &question, packet, Instant::now(), out));
        stats.known.fetch_add(known.into(), Relaxed);
        known
    }

    /// What a question of this machine needs, or nothing when the machine or its environment has too many open.
    pub(super) fn place(&self, machine: Machine) -> Option<Errand> {
        let place = self.places.member(machine.gateway, machine.address).take()?;
        Some(Errand { machine, _place: place })
    }

    /// The answer with the asker's id, or nothing when no server gave one.
    pub(super) async fn ask(&self, packet: &[u8], transport: Transport, stats: &Stats, errand: &Errand) -> Option<Vec<u8>> {
        stats.forwarded.fetch_add(1, Relaxed);
        let turn = Question::read(packet, transport).and_then(|question| self.cache.turn(errand.machine, question));
        let answer = self.tries(packet, transport).await;
        match (&answer, turn) {
            (None, _) => drop(stats.unanswered.fetch_add(1, Relaxed)),
            (Some(answer), Some(turn)) if !answer.doubtful => {
                if let Some(answer) = cache::Answer::read(packet, &answer.bytes) {
                    turn.keep(answer, Instant::now());
                }
            }
            (Some(_), _) => {}
        }
        Some(answer?.bytes)
    }

    async fn tries(&self, packet: &[u8], transport: Transport) -> Option<Answer> {
        let (mut failed, servers) = (None, self.servers());
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            let Some(answer) = ask_one(*server, packet, transport).await else { continue };
            // Another server may do better. If none does, the first one's word is passed on.
            if !matches!(answer.code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp) {
                return Some(answer);
            }
            failed.get_or_insert(answer);
        }
        failed
    }
}

struct Answer {
    bytes: Vec<u8>,
    code: ResponseCode,
    truncated: bool,
    /// Something came before it that was none: somebody may be guessing.
    doubtful: bool,
}

async fn ask_one(server: SocketAddr, packet: &[u8], transport: Transport) -> Option<Answer> {
    let answer = timeout(PATIENCE, over_udp(server, packet)).await.ok()?.ok().flatten()?;
    if !answer.truncated || transport == Transport::Udp {
        // Over UDP, the asker comes again by TCP: what it can take is what the server was told.
        return Some(answer);
    }
    timeout(PATIENCE, over_tcp(server, packet)).await.ok()?.ok().flatten().or(Some(answer))
}

/// A new socket, so a new port of the kernel's choice, and a new id: a forged answer has to guess both.
async fn over_udp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Option<Answer>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let question = with_id(packet, Message::query().id);
    socket.send(&question).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut doubtful = false;
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = accept(&question, packet, &buffer[..length]) {
            return Ok(Some(Answer { doubtful, ..answer }));
        }
        doubtful = true;
    }
}

async fn over_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Option<Answer>> {
    let mut stream = TcpStream::connect(server).await?;
    let question = with_id(packet, Message::query().id);
    let Ok(length) = u16::try_from(question.len()) else { return Ok(None) };
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()).await?;
    let mut buffer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut buffer).await?;
    Ok(accept(&question, packet, &buffer))
}

/// The same message under another id, which is its first two bytes.
fn with_id(packet: &[u8], id: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[..2].copy_from_slice(&id.to_be_bytes());
    packet
}

/// An answer counts when it has our id and repeats our question. The asker gets it under its own id.
fn accept(asked: &[u8], original: &[u8], answer: &[u8]) -> Option<Answer> {
    let (mine, theirs) = (opening(asked)?, opening(answer)?);
    let fits = theirs.0.message_type == MessageType::Response && theirs.0.id == mine.0.id && theirs.1 == mine.1;
    let id = opening(original)?.0.id;
    fits.then(|| Answer {
        bytes: with_id(answer, id),
        code: theirs.0.response_code,
        truncated: theirs.0.truncation,
        doubtful: false,
    })
}

fn opening(packet: &[u8]) -> Option<(Header, Query)> {
    let mut decoder = BinDecoder::new(packet);
    Some((Header::read(&mut decoder).ok()?, Query::read(&mut decoder).ok()?))
}

/// The answer when no name server gave one.
pub(super) fn servfail(packet: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
    let queries = Message::from_vec(packet).map(|message| message.queries).unwrap_or_default();
    let mut message = Message::error_msg(header.id, header.op_code, ResponseCode::ServFail);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(queries);
    message.to_vec().ok()
}
