//! Clients, machines and backends that take all they can get of the proxy and the name server. While each attack stands, another
//! client and another environment are served as if nobody else were there.
//!
//! Loopback addresses are the clients and the machines; environment 1000 is the hostile one, or the one that is attacked.

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adt::dns::sample;
use adt::model::Routes;
use adt::proxy::{Config, Limits, Ports, Server};
use adt::tls::{Certificates, system_clock};

use super::dns::{Rig, question, receive, send};
use super::proxy::{Answer, PATIENCE, backend, frames, read, until};
use super::servers::connect_from;

const HOSTILE: &str = "www.1000.shop.example.test";
const OTHER: &str = "www.1001.shop.example.test";
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Small, so that an attack needs little.
fn limits() -> Limits {
    Limits { connections: 200, requests: 100, backends: 100, connect: PATIENCE, ..Limits::default() }
}

/// A proxy in front of two environments, of which 1000 has the backend given.
struct Arena {
    server: Server,
    gateways: [Ipv4Addr; 2],
    other: backend::Served,
    _folder: tempfile::TempDir,
}

impl Arena {
    /// Networks are in `127.<net>.3.0/24`; each test has its own, so that they run side by side.
    fn new(net: u8, hostile: SocketAddr, limits: Limits) -> Self {
        let other = backend::echo("other");
        let mut routes = sample::routes(2, Ipv4Addr::new(127, net, 3, 0));
        let environments = &mut routes.platforms[0].environments;
        for (environment, address) in environments.iter_mut().zip([hostile, other.address]) {
            for site in &mut environment.sites {
                site.backends.truncate(1);
                site.backends[0].address = address;
            }
        }
        Self::start(routes, other, limits)
    }

    fn start(routes: Routes, other: backend::Served, limits: Limits) -> Self {
        many_files();
        let environments = &routes.platforms[0].environments;
        let gateways = [environments[0].gateway_v4, environments[1].gateway_v4];
        let folder = tempfile::tempdir().unwrap();
        let certificates = Arc::new(Certificates::open(folder.path(), &routes, system_clock()).unwrap());
        let any = vec!["127.0.0.1:0".parse().unwrap()];
        let ports = Some(Ports { http: 0, https: 0 });
        let config = Config { http: any.clone(), https: any, gateways: ports, limits, ..Config::default() };
        let server = Server::start(config, routes, certificates).unwrap();
        Self { server, gateways, other, _folder: folder }
    }

    fn http(&self) -> SocketAddr {
        self.server.http()[0]
    }

    /// Where the machines of an environment find its sites, over http.
    fn gateway(&self, environment: usize) -> SocketAddr {
        let all = self.server.gateways();
        let mut its = all.iter().filter(|(address, _)| address.ip() == self.gateways[environment]);
        its.next().expect("it is listened at").0
    }

    /// Says the same on many connections of one client, and keeps them.
    fn hoard(&self, count: usize, from: Ipv4Addr, words: &str) -> Vec<TcpStream> {
        hoard(count, from, self.http(), words)
    }

    /// What another client gets, of the environment under attack and of the other one.
    #[track_caller]
    fn serves(&self, what: &str) {
        for round in 0..5 {
            for host in [OTHER, HOSTILE] {
                let answer = get(CLIENT, self.http(), host, "/");
                assert_eq!(answer.as_ref().map(|answer| answer.status), Some(200), "{what}, {host}, {round}: {answer:?}");
            }
        }
    }

    /// What another client gets of the other environment, where the hostile one's backend is the attacker.
    #[track_caller]
    fn serves_other(&self, what: &str) {
        for _ in 0..5 {
            let answer = get(CLIENT, self.http(), OTHER, "/").expect("it is answered");
            assert!(answer.status == 200 && answer.body.starts_with("other\n"), "{what}: {answer:?}");
        }
    }

    /// A number of `/metrics`.
    fn metric(&self, name: &str, of: &str) -> usize {
        let (text, start) = (self.server.metrics(), format!("adt_proxy_{name}{{of=\"{of}\"}} "));
        text.lines().find_map(|line| line.strip_prefix(&start)).expect("it is told").parse().unwrap()
    }

    /// The attack got as far as it can get.
    fn refuses(&self, of: &str) {
        until(&format!("a refusal of {of}"), || self.metric("shares_refused_total", of) > 0);
    }
}

/// Both ends of all connections are this process's.
fn many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// A connection from an address of the test's choice.
fn from(address: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let stream = connect_from(address, to);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// It may be closed before all is said.
fn hoard(count: usize, address: Ipv4Addr, to: SocketAddr, words: &str) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let mut stream = from(address, to);
            let _ = stream.write_all(words.as_bytes());
            stream
        })
        .collect()
}

fn get(address: Ipv4Addr, to: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    let mut stream = from(address, to);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    read(&mut BufReader::new(stream))
}

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOSTILE}\r\n\r\n")
}

/// Answers everything but `/hang` and what frames ask for.
fn hanging() -> backend::Served {
    backend::serve(|request| {
        Box::pin(async move {
            if matches!(request.uri().path(), "/hang" | "/h2") {
                std::future::pending::<()>().await;
            }
            backend::text("hostile")
        })
    })
}

/// A thread for each connection, which `act` has to itself; health checks are answered.
fn raw(act: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> SocketAddr {
    backend::raw(move |mut stream| {
        let Some(head) = backend::head(&mut stream) else { return };
        if head.contains("/act") {
            return act(&mut stream, &head);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    })
}

#[test]
fn heads_without_an_end_leave_others_their_connections() {
    let web = hanging();
    let arena = Arena::new(100, web.address, limits());
    let held = arena.hoard(300, ATTACKER, &format!("GET / HTTP/1.1\r\nHost: {HOSTILE}\r\nX-Long: "));
    arena.refuses("connections");
    arena.serves("heads without an end");
    assert!(arena.server.connections() >= 90, "the attack stands");
    drop(held);
}

#[test]
fn a_flood_of_connections_leaves_others_theirs() {
    let web = hanging();
    let arena = Arena::new(101, web.address, limits());
    // Half of them to TLS, which waits for a handshake.
    let secure = arena.server.https()[0];
    let held: Vec<_> = (0..300).map(|number| from(ATTACKER, if number % 2 == 0 { arena.http() } else { secure })).collect();
    arena.refuses("connections");
    arena.serves("silent connections");
    // A second and a third attacker get less and less.
    let more: Vec<_> = (67..70).flat_map(|number| arena.hoard(100, Ipv4Addr::new(127, 0, 0, number), "")).collect();
    arena.serves("four attackers");
    drop((held, more));
}

#[test]
fn who_is_refused_hears_why_and_comes_back() {
    let web = hanging();
    let arena = Arena::new(102, web.address, limits());
    // Not so many that not even all of the refused can be told.
    let held = arena.hoard(110, ATTACKER, "");
    arena.refuses("connections");
    let said = get(ATTACKER, arena.http(), HOSTILE, "/").expect("it is told");
    assert_eq!((said.status, said.header("retry-after")), (503, Some("1")), "{said:?}");
    assert!(said.body.contains("of this client are open"), "{said:?}");
    let mut browser = from(ATTACKER, arena.http());
    write!(browser, "GET / HTTP/1.1\r\nHost: {HOSTILE}\r\nAccept: text/html,*/*\r\n\r\n").unwrap();
    let page = read(&mut BufReader::new(browser)).expect("it is told");
    assert!(page.status == 503 && page.body.contains("<html"), "{page:?}");
    drop(held);
    until("its turn", || get(ATTACKER, arena.http(), HOSTILE, "/").is_some_and(|answer| answer.status == 200));
}

#[test]
fn bodies_that_do_not_come_are_given_up_and_slow_ones_are_not() {
    let web = backend::echo("hostile");
    let arena = Arena::new(103, web.address, Limits { body: Duration::from_secs(1), ..limits() });
    // The one kept to be sent again, and the one that is streamed.
    let held: Vec<_> = ["PUT", "POST"]
        .into_iter()
        .flat_map(|method| {
            arena.hoard(10, ATTACKER, &format!("{method} / HTTP/1.1\r\nHost: {HOSTILE}\r\nContent-Length: 1000\r\n\r\nx"))
        })
        .collect();
    let mut slow = from(CLIENT, arena.http());
    write!(slow, "POST / HTTP/1.1\r\nHost: {HOSTILE}\r\nContent-Length: 1500\r\n\r\n").unwrap();
    arena.serves("bodies that do not come");
    for _ in 0..30 {
        // More than a hundred bytes a second, for longer than the patience.
        slow.write_all(&[b'y'; 50]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let answer = read(&mut BufReader::new(slow)).expect("it is answered");
    assert!(answer.status == 200 && answer.body.ends_with(&"y".repeat(1500)), "{answer:?}");
    for stream in held {
        let answer = read(&mut BufReader::new(stream)).expect("it is told");
        assert!(answer.status == 408 && answer.body.contains("too slowly"), "{answer:?}");
    }
}

#[test]
fn bodies_that_may_be_silent_for_hours_leave_others_their_requests() {
    let web = backend::echo("hostile");
    let arena = Arena::new(104, web.address, limits());
    let words = format!("POST / HTTP/1.1\r\nHost: {HOSTILE}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    let held = arena.hoard(90, ATTACKER, &words);
    arena.refuses("sites");
    arena.serves("bodies without an end");
    drop(held);
}

#[test]
fn who_never_reads_is_given_up_and_a_silent_websocket_is_not() {
    let address = raw(|stream, head| {
        if head.contains("/act/socket") {
            return echo_socket(stream);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[0; 65536]).is_ok() {}
    });
    let arena = Arena::new(105, address, Limits { unread: Duration::from_secs(1), ..limits() });
    let mut socket = open_socket(CLIENT, arena.http(), HOSTILE).expect("it is let in");
    let held = arena.hoard(20, ATTACKER, &ask("/act/endless"));
    arena.serves("clients that never read");
    until("their end", || arena.server.connections() == 1);
    assert_eq!(echoed(&mut socket), "hello");
    drop(held);
}

/// Speaks no WebSocket, but behind the handshake nobody looks.
fn echo_socket(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    let mut buffer = [0; 64];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let _ = stream.write_all(&buffer[..length]);
    }
}

fn open_socket(address: Ipv4Addr, to: SocketAddr, host: &str) -> Option<TcpStream> {
    let mut stream = from(address, to);
    let head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    write!(stream, "GET /act/socket HTTP/1.1\r\nHost: {host}\r\n{head}\r\n").ok()?;
    backend::head(&mut stream).filter(|head| head.starts_with("HTTP/1.1 101")).map(|_| stream)
}

fn echoed(stream: &mut TcpStream) -> String {
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    String::from_utf8_lossy(&back).into_owned()
}

#[test]
fn a_hoard_of_websockets_leaves_others_theirs() {
    let address = raw(|stream, _| echo_socket(stream));
    let arena = Arena::new(106, address, limits());
    let mut held: Vec<_> = std::iter::from_fn(|| open_socket(ATTACKER, arena.http(), HOSTILE)).take(200).collect();
    assert!((10..60).contains(&held.len()), "{} sockets", held.len());
    assert!(arena.metric("shares_held", "backends") >= held.len(), "each is a connection to the machine");
    arena.serves("a hoard of websockets");
    let mut socket = open_socket(CLIENT, arena.http(), HOSTILE).expect("another client is let in");
    assert_eq!(echoed(&mut socket), "hello");
    // They are many, but nothing is wrong with any of them.
    assert_eq!(echoed(&mut held[0]), "hello");
    assert_eq!(echoed(held.last_mut().unwrap()), "hello");
}

#[test]
fn a_flood_of_streams_leaves_others_their_requests() {
    let web = hanging();
    let arena = Arena::new(107, web.address, limits());
    let streams = |count: u32| -> Vec<u8> {
        let requests = (0..count).flat_map(|number| frames::request(number * 2 + 1, HOSTILE, &[], frames::END_STREAM));
        frames::preface().into_iter().chain(requests).collect()
    };
    let held: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = from(ATTACKER, arena.http());
            let _ = stream.write_all(&streams(250));
            stream
        })
        .collect();
    arena.refuses("sites");
    arena.serves("a flood of streams");
    drop(held);
    until("the end of all requests", || arena.metric("shares_held", "requests") == 0);
}

/// Its window is closed, so no page can leave.
#[test]
fn pages_that_nobody_takes_leave_others_their_requests() {
    let web = hanging();
    let arena = Arena::new(108, web.address, limits());
    let closed = frames::frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let held: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = from(ATTACKER, arena.http());
            let mut bytes = [frames::preface(), closed.clone()].concat();
            (0..16).for_each(|number| bytes.extend(frames::request(number * 2 + 1, "example.test", &[], frames::END_STREAM)));
            let _ = stream.write_all(&bytes);
            stream
        })
        .collect();
    arena.refuses("requests");
    arena.serves("pages that nobody takes");
    assert!(arena.metric("shares_held", "requests") <= 51, "half of all is the most");
    drop(held);
}

#[test]
fn requests_that_are_taken_back_leave_others_served() {
    let web = hanging();
    let arena = Arena::new(109, web.address, limits());
    let resets: Vec<u8> = (0..5_000u32)
        .flat_map(|number| {
            let stream = number * 2 + 1;
            let head = frames::request(stream, HOSTILE, &[], frames::END_STREAM);
            [head, frames::frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = from(ATTACKER, arena.http());
                let _ = stream.write_all(&[frames::preface(), resets.clone()].concat());
            });
        }
        arena.serves("requests that are taken back");
    });
    until("the end of all requests", || arena.metric("shares_held", "requests") == 0);
    arena.serves("afterwards");
}

#[test]
fn a_backend_that_never_answers_holds_its_own_environment_only() {
    let web = hanging();
    let arena = Arena::new(110, web.address, Limits { connections: 1000, ..limits() });
    // Of many clients, none of which does anything wrong.
    let clients = (100..116).map(|number| Ipv4Addr::new(127, 0, 0, number));
    let held: Vec<_> = clients.clone().flat_map(|client| arena.hoard(12, client, &ask("/hang"))).collect();
    arena.refuses("sites");
    arena.serves_other("a backend that never answers");
    for client in clients {
        let answer = get(client, arena.http(), OTHER, "/").expect("it is answered");
        assert_eq!(answer.status, 200, "the same clients reach other environments: {answer:?}");
    }
    let refused = get(ATTACKER, arena.http(), HOSTILE, "/hang");
    if let Some(answer) = refused {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        assert!(answer.body.contains("environment shop/1000 has too many requests open"), "{answer:?}");
        assert!(answer.body.contains("adt env:check shop 1000"), "{answer:?}");
    }
    drop(held);
}

#[test]
fn a_backend_that_never_accepts_holds_its_own_environment_only() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&deaf, 0).unwrap();
    let address = deaf.local_addr().unwrap();
    let _fill: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    let arena = Arena::new(111, address, Limits { backends: 40, ..limits() });
    let held: Vec<_> = (66..70).flat_map(|number| arena.hoard(40, Ipv4Addr::new(127, 0, 0, number), &ask("/"))).collect();
    arena.refuses("backends");
    arena.serves_other("a backend that never accepts");
    let answer = get(CLIENT, arena.http(), HOSTILE, "/").expect("it is told");
    assert!(answer.status == 503 && answer.body.contains("shop/1000"), "{answer:?}");
    drop(held);
}

#[test]
fn a_backend_that_answers_byte_by_byte_holds_its_own_environment_only() {
    let address = raw(|stream, head| {
        // A head without an end, and a body without one.
        if head.contains("/act/body") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        }
        while stream.write_all(b"H").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let arena = Arena::new(112, address, limits());
    let mut held = Vec::new();
    for number in 66..70 {
        held.extend(arena.hoard(25, Ipv4Addr::new(127, 0, 0, number), &ask("/act/head")));
        held.extend(arena.hoard(25, Ipv4Addr::new(127, 0, 0, number), &ask("/act/body")));
    }
    arena.refuses("sites");
    arena.serves_other("answers byte by byte");
    drop(held);
}

#[test]
fn machines_of_one_environment_leave_others_their_doors() {
    let web = hanging();
    let arena = Arena::new(113, web.address, limits());
    // Root of a machine takes any address of its network.
    let held: Vec<_> =
        (2..40).flat_map(|number| hoard(20, Ipv4Addr::new(127, 113, 3, number), arena.gateway(0), &ask("/hang"))).collect();
    arena.refuses("connections");
    arena.serves_other("machines that take all");
    let answer = get(Ipv4Addr::new(127, 113, 3, 66), arena.gateway(1), OTHER, "/").expect("it is answered");
    assert_eq!(answer.status, 200, "another environment's machine: {answer:?}");
    drop(held);
}

/// Three hundred sites whose machine takes connections and says nothing. Another environment is checked again and again before
/// all of them were checked once.
#[test]
fn checks_that_nobody_answers_hold_their_own_environment_only() {
    let checked = Arc::new(AtomicUsize::new(0));
    let counter = checked.clone();
    let silent = backend::raw(move |mut stream| {
        let checks = backend::head(&mut stream).is_some_and(|head| head.contains("adt-health"));
        counter.fetch_add(usize::from(checks), Ordering::Relaxed);
        let _ = stream.read(&mut [0]);
    });
    let other = backend::echo("other");
    let mut routes = sample::routes(2, Ipv4Addr::new(127, 114, 3, 0));
    let environments = &mut routes.platforms[0].environments;
    let site = environments[0].sites[0].clone();
    environments[0].sites = (0..300)
        .map(|number| {
            let mut site = site.clone();
            site.name = format!("site{number}").parse().unwrap();
            site.host = format!("site{number}.1000.shop.example.test");
            site.backends.truncate(1);
            site.backends[0].address = silent;
            site
        })
        .collect();
    for site in &mut environments[1].sites {
        site.backends.truncate(1);
        site.backends[0].address = other.address;
    }
    let arena = Arena::start(routes, other, Limits::default());
    let ask = |number: usize| {
        let host = format!("site{number}.1000.shop.example.test");
        hoard(1, ATTACKER, arena.http(), &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    let held: Vec<_> = (0..300).map(ask).collect();
    until("all requests", || arena.metric("shares_held", "sites") == 300);
    arena.serves_other("checks that nobody answers");
    let (before, first) = (arena.other.count(), checked.load(Ordering::Relaxed));
    until("three checks of the other environment", || arena.other.count() >= before + 3);
    let checks = checked.load(Ordering::Relaxed) - first;
    assert!(checks < 300, "{checks} checks came first");
    drop(held);
}

/// A name server that says nothing to names that start with `hole`.
fn silent_upstream(address: Ipv4Addr) -> SocketAddr {
    use hickory_proto::op::{Message, MessageType};
    let udp = UdpSocket::bind((address, 0)).unwrap();
    let at = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, asker)) = udp.recv_from(&mut packet) {
            let mut message = Message::from_vec(&packet[..length]).unwrap();
            if !message.queries[0].name().to_ascii().starts_with("hole") {
                message.metadata.message_type = MessageType::Response;
                udp.send_to(&message.to_vec().unwrap(), asker).unwrap();
            }
        }
    });
    at
}

fn address(ip: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = ip else { panic!("{ip} is of IPv6") };
    address
}

/// The code of the answer to a question that is not adt's.
fn code(rig: &Rig, machine: u8, name: &str) -> u8 {
    let socket = UdpSocket::bind((rig.machine(machine), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&question(name, 7), rig.address()).unwrap();
    let mut packet = [0; 512];
    socket.recv(&mut packet).expect("every question has its answer");
    packet[3] & 15
}

/// Questions that nobody answers, from one machine.
fn ask_in_vain(rig: &Rig, machine: u8, count: u16) {
    let socket = UdpSocket::bind((rig.machine(machine), 0)).unwrap();
    for id in 0..count {
        socket.send_to(&question("hole.example.org.", id), rig.address()).unwrap();
    }
}

#[test]
fn questions_without_answer_leave_others_theirs() {
    let rig = Rig::new(115, vec![silent_upstream(Ipv4Addr::new(127, 115, 9, 9))]);
    for round in 0..3 {
        ask_in_vain(&rig, 2, 700);
        until("a refusal", || rig.metric("shares_refused_total", "questions") > 0);
        assert_eq!(code(&rig, 3, "www.example.org."), 0, "another machine of the environment, {round}");
        assert_eq!(code(&rig, 66, "www.example.org."), 0, "another environment, {round}");
        assert_eq!(code(&rig, 2, "db.1000.shop.example.test."), 0, "its own names, {round}");
    }
    // The flood itself is told at once; 2 is SERVFAIL.
    ask_in_vain(&rig, 2, 700);
    assert_eq!(code(&rig, 2, "www.example.org."), 2);
}

#[test]
fn questions_from_all_addresses_of_an_environment_leave_another_ones() {
    let rig = Rig::new(116, vec![silent_upstream(Ipv4Addr::new(127, 116, 9, 9))]);
    for round in 0..3 {
        (2..62).for_each(|machine| ask_in_vain(&rig, machine, 50));
        until("a refusal", || rig.metric("shares_refused_total", "questions") > 0);
        assert_eq!(code(&rig, 66, "www.example.org."), 0, "{round}");
        assert!(rig.metric("shares_held", "questions") <= 257, "half of all is the most");
    }
}

/// Until one is refused.
fn all_connections(rig: &Rig, askers: impl Iterator<Item = Ipv4Addr> + Clone) -> Vec<TcpStream> {
    let refused = || rig.metric("shares_refused_total", "connections") > 0;
    let held = askers.cycle().take(4096).take_while(|_| !refused()).map(|asker| from(asker, rig.address())).collect();
    until("a refusal", refused);
    held
}

fn named(rig: &Rig, asker: Ipv4Addr) -> bool {
    let mut stream = from(asker, rig.address());
    send(&mut stream, &question("db.1000.shop.example.test.", 7));
    receive(&mut stream)[3] & 15 == 0
}

#[test]
fn a_hoard_of_name_server_connections_leaves_others_theirs() {
    many_files();
    let rig = Rig::new(117, Vec::new());
    let held = all_connections(&rig, std::iter::once(ATTACKER));
    assert!(named(&rig, CLIENT), "another client");
    assert!(named(&rig, address(rig.machine(2))), "a machine");
    drop(held);
}

#[test]
fn a_hoard_of_one_environments_connections_leaves_anothers() {
    many_files();
    let rig = Rig::new(118, Vec::new());
    let held = all_connections(&rig, (2..62).map(|machine| address(rig.machine(machine))));
    assert!(named(&rig, address(rig.machine(66))), "another environment");
    assert!(named(&rig, CLIENT), "a client of the host's");
    drop(held);
}

#[test]
fn questions_over_connections_leave_others_theirs() {
    let rig = Rig::new(119, vec![silent_upstream(Ipv4Addr::new(127, 119, 9, 9))]);
    let held: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = from(address(rig.machine(2)), rig.address());
            (0..16).for_each(|id| send(&mut stream, &question("hole.example.org.", id)));
            stream
        })
        .collect();
    until("a refusal", || rig.metric("shares_refused_total", "questions") > 0);
    assert_eq!(code(&rig, 3, "www.example.org."), 0, "another machine of the environment");
    assert_eq!(code(&rig, 66, "www.example.org."), 0, "another environment");
    drop(held);
}
