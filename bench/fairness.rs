//! Fairness: how much slower another client's page of another environment is while one client, or one environment, holds all that
//! it can get of one thing that all share. Each attack stands while the page is asked for, at the sizes that adt has by default.
//!
//! What is not measured is a client that keeps all cores busy: these are the kernel's to share out.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::adt::dns::{self, sample};
use ::adt::{proxy, tls};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::report::{Report, Samples};
use super::{HOME, Result, note, sweep};

const HOSTILE: &str = "www.1000.shop.example.test";
const OTHER: &str = "www.1001.shop.example.test";
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 78, 0, 2);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 78, 0, 66);
const NETWORK: Ipv4Addr = Ipv4Addr::new(127, 78, 3, 0);
/// Counters of what was refused, of whatever an attack met first.
const PROXY: &str = "adt_proxy_shares_refused_total";
const DNS: &str = "adt_dns_shares_refused_total";
/// Pages in each round, with and without the attack.
const PAGES: usize = 500;

/// What stands until it is dropped.
struct Standing {
    streams: Vec<TcpStream>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Standing {
    fn hold(streams: Vec<TcpStream>) -> Self {
        Self { streams, stop: Arc::default(), thread: None }
    }

    /// Goes on by itself.
    fn repeat(mut act: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let over = stop.clone();
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                act();
            }
        });
        Self { streams: Vec::new(), stop, thread: Some(thread) }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked attacks nobody any more.
            let _ = thread.join();
        }
        self.streams.clear();
    }
}

type Attack = fn(&Field) -> Result<Standing>;
type Ask = fn(&Field) -> Result<()>;

/// What is used up, of which counter a refusal tells that it is, how, and what another one asks meanwhile.
const ATTACKS: [(&str, &str, Attack, Ask); 8] = [
    ("silent connections of one client", PROXY, silent, page),
    ("heads without an end", PROXY, heads, page),
    ("requests that are never answered, of one client", PROXY, unanswered, page),
    ("the same of many clients of one environment", PROXY, by_many, page),
    ("the same as HTTP/2 streams", PROXY, streams, page),
    ("WebSockets of one client", PROXY, sockets, page),
    ("questions that no name server answers", DNS, questions, name),
    ("connections to the name server", DNS, named, name_by_tcp),
];

pub fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    // Both ends of all connections are this process's.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let field = Field::new()?;
    for (what, refusal, attack, ask) in ATTACKS {
        let (mut usual, mut under) = (Samples::default(), Samples::default());
        // The first round warms up and is not counted.
        for round in 0..=rounds {
            let without = p99(&field, ask)?;
            let before = field.counter(refusal)?;
            let standing = attack(&field)?;
            field.until(|| Ok(field.counter(refusal)? > before))?;
            let with = p99(&field, ask).map_err(|error| format!("{what}: {error}"))?;
            drop(standing);
            field.until(|| field.is_quiet())?;
            note(&format!("round {round}: {what}: {} µs, usually {} µs", with.as_micros(), without.as_micros()));
            if round > 0 {
                usual.push(without);
                under.push(with);
            }
        }
        let milliseconds = |samples: &Samples| samples.median().as_secs_f64() * 1000.0;
        let (usual, under) = (milliseconds(&usual), milliseconds(&under));
        let ratio = under / usual;
        let value = format!("{under:.2} ms, {ratio:.2} of the usual {usual:.2} ms");
        let json = serde_json::json!({ "p99_ms": under, "usual_p99_ms": usual, "ratio": ratio });
        report.row(&format!("99th percentile of another's during {what}"), &value, json);
    }
    Ok(())
}

fn p99(field: &Field, ask: Ask) -> Result<Duration> {
    let mut took = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let since = Instant::now();
        ask(field)?;
        took.push(since.elapsed());
    }
    took.sort_unstable();
    Ok(took[PAGES * 99 / 100])
}

/// Two environments, served by adt's own servers, and what is behind them.
struct Field {
    proxy: proxy::Server,
    names: dns::Server,
    _runtime: tokio::runtime::Runtime,
}

impl Field {
    fn new() -> Result<Self> {
        let folder = Path::new(HOME).join("fairness");
        sweep::folder(&folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let inside = runtime.enter();
        let mut routes = sample::routes(2, NETWORK);
        let backends = [backend(&runtime, false)?, backend(&runtime, true)?];
        for (environment, address) in routes.platforms[0].environments.iter_mut().zip(backends) {
            for site in &mut environment.sites {
                site.backends.truncate(1);
                site.backends[0].address = address;
            }
        }
        let certificates = Arc::new(tls::Certificates::open(&folder, &routes, tls::system_clock())?);
        let any = |host: u8| vec![SocketAddr::from((Ipv4Addr::new(127, 78, 0, host), 0))];
        let config = proxy::Config { http: any(80), ..proxy::Config::default() };
        let proxy = proxy::Server::start(config, routes.clone(), certificates)?;
        let config = dns::Config {
            listen: any(53),
            gateway_port: 0,
            proxy_v4: Ipv4Addr::LOCALHOST,
            proxy_v6: None,
            upstreams: vec![upstream()?],
            serial: 1,
            listeners: Default::default(),
        };
        let names = dns::Server::start(config, &routes)?;
        drop(inside);
        Ok(Self { proxy, names, _runtime: runtime })
    }

    fn http(&self) -> SocketAddr {
        self.proxy.http()[0]
    }

    fn dns(&self) -> SocketAddr {
        self.names.addresses()[0]
    }

    fn metrics(&self) -> String {
        self.proxy.metrics() + &self.names.metrics()()
    }

    /// The sum over all labels that begin so.
    fn counter(&self, name: &str) -> Result<u64> {
        let text = self.metrics();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        Ok(values.map(str::parse::<u64>).sum::<std::result::Result<u64, _>>()?)
    }

    /// Nothing is left of an attack but connections to machines that idle.
    fn is_quiet(&self) -> Result<bool> {
        let counts =
            ["proxy_shares_held{of=\"connections\"}", "dns_shares_held{of=\"questions\"}", "dns_shares_held{of=\"connections\"}"];
        counts.iter().try_fold(true, |quiet, name| Ok(quiet && self.counter(&format!("adt_{name}"))? < 4))
    }

    fn until(&self, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let since = Instant::now();
        while !holds()? {
            if since.elapsed() > Duration::from_secs(30) {
                return Err(format!("it does not come about:\n{}", self.metrics()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// One kilobyte for each request, or nothing ever except that it opens WebSockets.
fn backend(runtime: &tokio::runtime::Runtime, answers: bool) -> Result<SocketAddr> {
    let listener = TcpListener::bind((NETWORK, 0))?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                let page = format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
                let upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                while stream.read_buf(&mut head).await.is_ok_and(|length| length > 0) {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                    if answers {
                        let _ = stream.write_all(page.as_bytes()).await;
                    } else if text.contains("upgrade: websocket") {
                        let _ = stream.write_all(upgrade).await;
                    }
                    head.clear();
                }
            });
        }
    });
    Ok(address)
}

/// Says nothing to names that start with `hole`.
fn upstream() -> Result<SocketAddr> {
    let udp = UdpSocket::bind((Ipv4Addr::new(127, 78, 0, 54), 0))?;
    let address = udp.local_addr()?;
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut packet) {
            if let Ok(mut message) = Message::from_vec(&packet[..length])
                && !message.queries[0].name().to_ascii().starts_with("hole")
            {
                message.metadata.message_type = MessageType::Response;
                let _ = message.to_vec().map(|answer| udp.send_to(&answer, from));
            }
        }
    });
    Ok(address)
}

fn from(address: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::from((address, 0)))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A page of the other environment, over a connection of its own.
fn page(field: &Field) -> Result<()> {
    let mut stream = from(CLIENT, field.http())?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {OTHER}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("another's page: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(())
}

fn question(name: &str) -> Result<Vec<u8>> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    Ok(message.to_vec()?)
}

fn machine(number: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(NETWORK) + u32::from(number))
}

/// A name on the internet, for a machine of the other environment.
fn name(field: &Field) -> Result<()> {
    let socket = UdpSocket::bind((machine(66), 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(&question("www.example.org.")?, field.dns())?;
    let mut packet = [0; 512];
    socket.recv(&mut packet)?;
    if packet[3] & 15 == 0 { Ok(()) } else { Err("another's question is not answered".into()) }
}

/// A name of adt's, for a machine of the other environment.
fn name_by_tcp(field: &Field) -> Result<()> {
    let mut stream = from(machine(66), field.dns())?;
    let question = question("db.1000.shop.example.test.")?;
    stream.write_all(&[&u16::try_from(question.len())?.to_be_bytes(), question.as_slice()].concat())?;
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    if head[5] & 15 == 0 { Ok(()) } else { Err("another's question is not answered".into()) }
}

/// Until one is refused, which comes a moment after it was made.
fn hoard(field: &Field, of: &str, askers: &[Ipv4Addr], to: SocketAddr, words: &[u8]) -> Result<Vec<TcpStream>> {
    let before = field.counter(of)?;
    let mut streams = Vec::new();
    for asker in askers.iter().cycle() {
        if streams.len() % 64 == 0 && (field.counter(of)? > before || streams.len() > 60_000) {
            break;
        }
        let mut stream = from(*asker, to)?;
        // Ended by a reset, it leaves no port behind that waits for a minute.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        // A refused one is closed.
        let _ = stream.write_all(words);
        streams.push(stream);
    }
    // What stands is measured, not the moment in which it comes about.
    field.until(|| {
        let refused = field.counter(of)?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(field.counter(of)? == refused)
    })?;
    Ok(streams)
}

fn silent(field: &Field) -> Result<Standing> {
    Ok(Standing::hold(hoard(field, PROXY, &[ATTACKER], field.http(), b"")?))
}

fn heads(field: &Field) -> Result<Standing> {
    let words = format!("GET / HTTP/1.1\r\nHost: {HOSTILE}\r\nX-Long: a");
    Ok(Standing::hold(hoard(field, PROXY, &[ATTACKER], field.http(), words.as_bytes())?))
}

fn request() -> String {
    format!("GET / HTTP/1.1\r\nHost: {HOSTILE}\r\n\r\n")
}

fn unanswered(field: &Field) -> Result<Standing> {
    Ok(Standing::hold(hoard(field, PROXY, &[ATTACKER], field.http(), request().as_bytes())?))
}

fn by_many(field: &Field) -> Result<Standing> {
    let clients: Vec<_> = (100..132).map(|number| Ipv4Addr::new(127, 78, 0, number)).collect();
    Ok(Standing::hold(hoard(field, PROXY, &clients, field.http(), request().as_bytes())?))
}

/// Literal headers, each stream with the same.
fn streams(field: &Field) -> Result<Standing> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let line = |name: &str, value: &str| [&[0][..], &text(name), &text(value)].concat();
    let lines = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", HOSTILE)];
    let block: Vec<u8> = lines.iter().flat_map(|(name, value)| line(name, value)).collect();
    let mut words = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in 0..200u32 {
        words.extend([0, 0, u8::try_from(block.len())?, 1, 5]);
        words.extend((stream * 2 + 1).to_be_bytes());
        words.extend_from_slice(&block);
    }
    Ok(Standing::hold(hoard(field, PROXY, &[ATTACKER], field.http(), &words)?))
}

fn sockets(field: &Field) -> Result<Standing> {
    let head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n";
    let words = format!("GET / HTTP/1.1\r\nHost: {HOSTILE}\r\n{head}\r\n");
    Ok(Standing::hold(hoard(field, PROXY, &[ATTACKER], field.http(), words.as_bytes())?))
}

/// A thousand a second, from one machine.
fn questions(field: &Field) -> Result<Standing> {
    let (socket, to, question) = (UdpSocket::bind((machine(2), 0))?, field.dns(), question("hole.example.org.")?);
    socket.set_nonblocking(true)?;
    Ok(Standing::repeat(move || {
        for _ in 0..100 {
            let _ = socket.send_to(&question, to);
        }
        std::thread::sleep(Duration::from_millis(100));
    }))
}

/// They are closed after seconds of silence, and opened again.
fn named(field: &Field) -> Result<Standing> {
    let first = hoard(field, DNS, &[machine(2), machine(3)], field.dns(), b"")?;
    let (count, to, mut held) = (first.len(), field.dns(), first);
    Ok(Standing::repeat(move || {
        held.retain(|stream| {
            let waits = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
            stream.set_nonblocking(true).is_ok() && (&*stream).read(&mut [0]).is_err_and(waits)
        });
        while held.len() < count
            && let Ok(stream) = from(machine(2), to)
        {
            held.push(stream);
        }
        std::thread::sleep(Duration::from_millis(100));
    }))
}
