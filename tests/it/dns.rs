//! The name server over real sockets, asked by real clients.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adt::dns::{At, Config, Error, Server, sample};
use adt::model::route::Routes;
use adt::tls;

/// Loopback addresses stand for the environments' networks; each test has its own, so that they run side by side.
pub struct Rig {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    base: Ipv4Addr,
}

impl Rig {
    /// Two environments in `127.<net>.3.0/26` and the /26 behind it.
    pub fn new(net: u8, upstreams: Vec<SocketAddr>) -> Self {
        let base = Ipv4Addr::new(127, net, 3, 0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = Config {
            listen: vec![(Ipv4Addr::new(127, net, 0, 53), 0).into()],
            gateway_port: 0,
            proxy_v4: Ipv4Addr::new(127, net, 11, 61),
            proxy_v6: Some("fd00::80".parse().unwrap()),
            upstreams,
            serial: 7,
            listeners: Default::default(),
        };
        let entered = runtime.enter();
        let server = Server::start(config, &sample::routes(2, base)).unwrap();
        drop(entered);
        assert!(server.open_gateways(At::ItsPort).is_empty());
        Self { runtime, server: Some(server), base }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.server().addresses()[0]
    }

    fn routes(&self, environments: u32) -> Routes {
        sample::routes(environments, self.base)
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str, of: &str) -> usize {
        let (text, start) = ((self.server().metrics())(), format!("adt_dns_{name}{{of=\"{of}\"}} "));
        text.lines().find_map(|line| line.strip_prefix(&start)).expect("it is told").parse().unwrap()
    }

    /// Another one of them.
    pub fn stat(&self, name: &str) -> usize {
        let text = (self.server().metrics())();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.expect("it is told").parse().unwrap()
    }

    pub fn forward_to(&self, upstreams: Vec<SocketAddr>) {
        self.server().forward_to(upstreams);
    }

    pub fn machine(&self, number: u8) -> IpAddr {
        let [a, b, c, _] = self.base.octets();
        Ipv4Addr::new(a, b, c, number).into()
    }

    /// What dig says, without its comments about itself.
    fn dig(&self, arguments: &[&str]) -> String {
        let at = self.address();
        let output = Command::new("dig")
            .args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), "+tries=2", "+time=3", "+nocookie"])
            .args(arguments)
            .output()
            .expect("this test needs dig, of the package bind9-dnsutils");
        String::from_utf8(output.stdout).unwrap()
    }

    fn short(&self, arguments: &[&str]) -> String {
        self.dig(&[&["+short"], arguments].concat()).trim().replace('\n', " ")
    }
}

#[test]
fn names_are_served_over_tls_to_who_checks_the_authority() {
    let rig = Rig::new(79, Vec::new());
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [ours, others] = &folders;
    let open = |folder: &tempfile::TempDir| {
        Arc::new(tls::Certificates::open(folder.path(), &rig.routes(2), tls::system_clock()).unwrap())
    };
    let (certificates, _) = (open(ours), open(others));
    let acceptor = tls::acceptor(certificates, &[b"dot"]).unwrap();
    let at = rig.server().serve_over_tls((rig.address().ip(), 0).into(), acceptor).unwrap();
    let authority = |folder: &tempfile::TempDir| folder.path().join("tls/authority/example.test.pem").display().to_string();
    let ask = |name: &str, folder, arguments: &[&str]| {
        let (port, ca) = (at.port().to_string(), format!("+tls-ca={}", authority(folder)));
        let host = format!("+tls-hostname={name}");
        rig.short(&[&["-p", &port, "+tls", &ca, &host, "+tries=1"], arguments].concat())
    };
    let db = ["db.1000.shop.example.test", "A"];
    assert_eq!(ask("example.test", ours, &db), "127.79.3.2");
    // Many on one connection.
    let two = [&["+keepopen"][..], &db, &["www.1000.shop.example.test", "A"]].concat();
    assert_eq!(ask("example.test", ours, &two), "127.79.3.2 127.79.11.61");
    // Nobody who can answer there passes for adt.
    for (name, folder) in [("example.test", others), ("bank.example", ours)] {
        let told = ask(name, folder, &db);
        assert!(!told.contains("127.79.3.2"), "{name}: {told}");
    }
    // No word of it in plain, and who says nothing has its place for a while only.
    let mut plain = TcpStream::connect(at).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    plain.write_all(b"\0\x0c\x12\x34\x01\0\0\x01\0\0\0\0\0\0").unwrap();
    let mut told = Vec::new();
    let _ = plain.read_to_end(&mut told);
    assert!(!told.windows(2).any(|two| two == b"\x12\x34"), "{told:?}");
    let mut silent = TcpStream::connect(at).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn dig_finds_every_kind_of_name() {
    let rig = Rig::new(71, Vec::new());
    for (arguments, expected) in [
        (&["db.1000.shop.example.test", "A"][..], "127.71.3.2"),
        (&["db.1000.shop.example.test", "AAAA"], "fd00:ad7::2"),
        (&["+tcp", "db.1000.shop.example.test", "A"], "127.71.3.2"),
        (&["+noedns", "db.1000.shop.example.test", "A"], "127.71.3.2"),
        (&["+cookie", "db.1000.shop.example.test", "A"], "127.71.3.2"),
        (&["+dnssec", "db.1000.shop.example.test", "A"], "127.71.3.2"),
        (&["+norecurse", "db.1000.shop.example.test", "A"], "127.71.3.2"),
        (&["+bufsize=512", "DB.1000.Shop.Example.Test", "A"], "127.71.3.2"),
        (&["www.1000.shop.example.test", "A"], "127.71.11.61"),
        (&["www.1000.shop.example.test", "AAAA"], "fd00::80"),
        (&["any.thing.www.1000.shop.example.test", "A"], "127.71.11.61"),
        (&["1000.shop.example.test", "A"], "127.71.11.61"),
        (&["shop.example.test", "A"], "127.71.11.61"),
        (&["example.test", "A"], "127.71.11.61"),
        (&["example.test", "NS"], "example.test."),
        (&["example.test", "SOA"], "example.test. example.test. 7 3600 600 86400 5"),
        (&["-x", "127.71.3.66"], "db.1001.shop.example.test."),
        (&["-x", "fd00:ad7:0:1::3"], "web1.1001.shop.example.test."),
        (&["-x", "127.71.11.61"], "example.test."),
        (&["-x", "fd00::80"], "example.test."),
        (&["db.1000.shop.example.test", "ANY"], "127.71.3.2"),
    ] {
        assert_eq!(rig.short(arguments), expected, "{arguments:?}");
    }
}

#[test]
fn dig_sees_the_right_header() {
    let rig = Rig::new(72, Vec::new());
    for (arguments, status, flags) in [
        (&["db.1000.shop.example.test"][..], "NOERROR", "qr aa rd;"),
        (&["nope.1000.shop.example.test"], "NXDOMAIN", "qr aa rd;"),
        (&["db.1000.shop.example.test", "MX"], "NOERROR", "qr aa rd;"),
        (&["db.1000.shop.example.test", "TYPE65280"], "NOERROR", "qr aa rd;"),
        (&["example.org"], "REFUSED", "qr rd;"),
        (&["+edns=1", "+noednsneg", "example.test"], "BADVERS", "qr rd;"),
        (&["+opcode=15", "example.test"], "NOTIMP", "qr rd;"),
        (&["CH", "TXT", "version.bind"], "REFUSED", "qr rd;"),
        (&["+header-only", "example.test"], "FORMERR", "qr rd;"),
    ] {
        let said = rig.dig(arguments);
        assert!(said.contains(&format!("status: {status},")), "{arguments:?}: {said}");
        assert!(said.contains(&format!("flags: {flags}")), "{arguments:?}: {said}");
    }
    for negative in ["nope.1000.shop.example.test", "db.1000.shop.example.test"] {
        let said = rig.dig(&[negative, "MX"]);
        assert!(said.contains("AUTHORITY: 1,") && said.contains("\tSOA\t"), "{said}");
    }
    assert!(rig.dig(&["AXFR", "example.test"]).contains("Transfer failed."));
}

#[test]
fn machines_see_their_environment() {
    let rig = Rig::new(73, Vec::new());
    let machine = ["-b", &rig.machine(66).to_string()];
    assert_eq!(rig.short(&[&machine[..], &["db."]].concat()), "127.73.3.66");
    let mut site: Vec<_> = rig.short(&[&machine[..], &["www.shop.example.org"]].concat()).split(' ').map(String::from).collect();
    site.sort();
    assert_eq!(site, ["127.73.3.67", "127.73.3.68"]);
    let gateway = ["@127.73.3.65", "-b", "127.73.3.66", "-p", &rig.address().port().to_string()].map(String::from);
    let output = Command::new("dig").args(gateway).args(["+short", "web1."]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "127.73.3.67");
}

/// As old resolvers ask, as new ones do, and over TCP.
#[test]
fn dig_is_answered_however_it_asks() {
    let rig = Rig::new(83, Vec::new());
    let machine = rig.machine(2).to_string();
    for how in [&["+noedns"][..], &["+bufsize=512"], &["+tcp", "+noedns"], &["+tcp", "+dnssec", "+nsid", "+subnet=10.0.0.0/8"]] {
        let answer = rig.dig(&[&["-b", &machine, "www.1000.shop.example.test", "A"], how].concat());
        assert!(answer.contains("ANSWER: 1,") && !answer.contains(" tc "), "{answer}");
        let edns = !how.contains(&"+noedns");
        assert_eq!(answer.contains("; EDNS: version: 0"), edns, "{answer}");
    }
}

/// Another name server of the host's: says 192.0.2.7 to everything, over TCP only where the name starts with `big`.
fn upstream(address: Ipv4Addr) -> SocketAddr {
    use hickory_proto::op::{Message, MessageType};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};
    let answer = |packet: &[u8], tcp: bool| {
        let mut message = Message::from_vec(packet).unwrap();
        let name = message.queries[0].name().clone();
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        message.metadata.truncation = !tcp && name.to_ascii().starts_with("big");
        if !message.metadata.truncation {
            message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7))));
        }
        message.to_vec().unwrap()
    };
    let tcp = std::net::TcpListener::bind((address, 0)).unwrap();
    let at = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(at).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut packet) {
            let mut reply = answer(&packet[..length], false);
            // A forger, who doesn't know the id, is faster.
            reply[0] ^= 1;
            udp.send_to(&reply, from).unwrap();
            reply[0] ^= 1;
            udp.send_to(&reply, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let reply = answer(&receive(&mut stream), true);
            send(&mut stream, &reply);
        }
    });
    at
}

pub fn send(stream: &mut TcpStream, packet: &[u8]) {
    stream.write_all(&[&(packet.len() as u16).to_be_bytes(), packet].concat()).unwrap();
}

pub fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut packet).unwrap();
    packet
}

#[test]
fn only_machines_are_forwarded_for() {
    let up = upstream(Ipv4Addr::new(127, 74, 9, 9));
    // Nothing listens at the first: the next is asked.
    let rig = Rig::new(74, vec![(Ipv4Addr::new(127, 74, 9, 8), 9).into(), up]);
    let machine = rig.machine(2).to_string();
    let asked = rig.dig(&["-b", &machine, "www.example.org"]);
    assert!(asked.contains("192.0.2.7") && asked.contains("flags: qr rd ra"), "{asked}");
    assert_eq!(rig.short(&["-b", &machine, "big.example.org"]), "192.0.2.7", "dig comes again by TCP");
    assert_eq!(rig.short(&["-b", &machine, "+tcp", "www.example.org"]), "192.0.2.7");
    for other in ["127.0.0.1", "127.74.3.1"] {
        let refused = rig.dig(&["-b", other, "www.example.org"]);
        assert!(refused.contains("status: REFUSED") && !refused.contains(" ra;"), "{other}: {refused}");
    }
    assert!(rig.server().stats().forwarded() >= 3);
    assert_eq!(rig.server().stats().unanswered(), 0);
}

#[test]
fn a_machine_hears_when_nobody_knows() {
    let rig = Rig::new(75, vec![(Ipv4Addr::new(127, 75, 9, 8), 9).into()]);
    let said = rig.dig(&["-b", "127.75.3.2", "www.example.org"]);
    assert!(said.contains("status: SERVFAIL"), "{said}");
    assert_eq!(rig.server().stats().unanswered(), 1);
}

#[test]
fn an_address_in_use_is_named() {
    let rig = Rig::new(76, Vec::new());
    let taken = rig.address();
    let config = Config {
        listen: vec![taken],
        gateway_port: 0,
        proxy_v4: Ipv4Addr::LOCALHOST,
        proxy_v6: None,
        upstreams: Vec::new(),
        serial: 1,
        listeners: Default::default(),
    };
    let _runtime = rig.runtime.enter();
    let Err(Error::InUse { address }) = Server::start(config, &rig.routes(0)) else { panic!("it is in use") };
    assert_eq!(address, taken);
    // Of UDP too, where sockets could share a port.
    drop(UdpSocket::bind(taken).unwrap_err());
}

pub fn question(name: &str, id: u16) -> Vec<u8> {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(hickory_proto::rr::Name::from_ascii(name).unwrap(), hickory_proto::rr::RecordType::A));
    message.to_vec().unwrap()
}

#[test]
fn no_answer_is_lost_while_routes_change() {
    let rig = Rig::new(77, Vec::new());
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let askers: Vec<_> = (0..2u16)
        .map(|_| {
            let (stop, asked, at) = (stop.clone(), asked.clone(), rig.address());
            std::thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(at).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut packet = [0; 512];
                for id in (0..=u16::MAX).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    socket.send(&question("web1.1000.shop.example.test.", id)).unwrap();
                    let length = socket.recv(&mut packet).expect("every question has its answer");
                    assert_eq!((packet[..2].to_vec(), packet[3] & 15), (id.to_be_bytes().to_vec(), 0));
                    assert!(length > 40);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..30 {
        let environments = 1 + round % 4;
        assert!(
            rig.server().update(&rig.routes(environments), 8 + round).iter().all(|error| matches!(error, Error::InUse { .. }))
        );
        // Seen by the very next question.
        let last = format!("db.{}.shop.example.test", 1000 + environments - 1);
        assert!(rig.dig(&[&last]).contains("status: NOERROR"));
        assert!(rig.dig(&[&format!("db.{}.shop.example.test", 1000 + environments)]).contains("status: NXDOMAIN"));
    }
    stop.store(true, Ordering::Relaxed);
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    assert!(asked.load(Ordering::Relaxed) > 100);
}

#[test]
fn gateways_come_and_go() {
    let rig = Rig::new(78, Vec::new());
    let third = SocketAddr::from((Ipv4Addr::new(127, 78, 3, 129), rig.address().port()));
    assert!(TcpStream::connect(third).is_err());
    assert!(rig.server().update(&rig.routes(3), 8).is_empty());
    TcpStream::connect(third).unwrap();
    assert!(rig.server().update(&rig.routes(2), 9).is_empty());
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(third).is_ok() {
        assert!(Instant::now() < deadline, "the gateway is still listened at");
    }
}

#[test]
fn broken_packets_do_no_harm() {
    let rig = Rig::new(79, Vec::new());
    let good = question("web1.1000.shop.example.test.", 0x4711);
    let header = &good[..12];
    let with = |tail: &[u8]| [header, tail].concat();
    let mut cases: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    cases.extend([
        with(&[0xc0, 12, 0, 1, 0, 1]),
        with(&[0xc0, 0, 0, 1, 0, 1]),
        with(&[1, b'a', 0xc0, 12, 0, 1, 0, 1]),
        with(&[0xff, 0xff, 0, 1, 0, 1]),
        with(&[0x80, 0, 0, 1, 0, 1]),
        with(&[63; 40]),
        vec![0xff; 2000],
        vec![0; 12],
    ]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(rig.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for case in &cases {
        socket.send(case).unwrap();
        let mut stream = TcpStream::connect(rig.address()).unwrap();
        send(&mut stream, case);
    }
    socket.send(&question("web1.1000.shop.example.test.", 0x1234)).unwrap();
    let mut packet = [0; 512];
    let mut errors = 0;
    loop {
        socket.recv(&mut packet).expect("the last one is answered");
        match packet[..2] {
            [0x12, 0x34] => break,
            _ => errors += 1,
        }
        assert_eq!(packet[3] & 15, 1, "FORMERR");
    }
    assert!(errors > 10, "{errors}");
}

#[test]
fn many_questions_share_a_connection() {
    let rig = Rig::new(80, Vec::new());
    let mut stream = TcpStream::connect(rig.address()).unwrap();
    for id in 0..500 {
        send(&mut stream, &question("web1.1000.shop.example.test.", id));
    }
    for id in 0..500u16 {
        assert_eq!(receive(&mut stream)[..2], id.to_be_bytes());
    }
}

#[test]
fn a_thousand_idle_connections_block_nobody() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let count = usize::try_from(maximum.unwrap_or(10_000)).unwrap().saturating_sub(400) / 2;
    let rig = Rig::new(81, Vec::new());
    let idle: Vec<_> = (0..count.min(1000)).map(|_| TcpStream::connect(rig.address()).unwrap()).collect();
    assert_eq!(rig.short(&["+tcp", "db.1000.shop.example.test"]), "127.81.3.2");
    assert_eq!(rig.short(&["db.1000.shop.example.test"]), "127.81.3.2");
    assert!(rig.server().stats().connections() >= idle.len() as u64);
}

#[test]
fn a_stop_frees_the_address() {
    let mut rig = Rig::new(82, Vec::new());
    let at = rig.address();
    let mut idle = TcpStream::connect(at).unwrap();
    let server = rig.server.take().unwrap();
    rig.runtime.block_on(server.stop());
    // Another test's dig holds copies of all sockets for as long as it is only half started.
    let deadline = Instant::now() + Duration::from_secs(10);
    while UdpSocket::bind(at).is_err() || TcpStream::connect(at).is_ok() {
        assert!(Instant::now() < deadline, "the address is still in use");
    }
    // Closed in order or reset, as the kernel sees fit: either way nobody is left who would answer.
    match idle.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0, "it is closed"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}
