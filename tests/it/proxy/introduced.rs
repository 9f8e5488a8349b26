//! Clients that a load balancer speaks for by the PROXY protocol, and whoever would like to be taken for one.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use adt::model::Routes;
use adt::proxy::Limits;

use super::public::{NAME, Outside, networks};
use super::{Answer, PATIENCE, read, until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// `203.0.113.9`, as version 2 writes it, with the rest of a connection's addresses.
const V4: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0, 1, 0, 2];

/// What comes from this host speaks for others, whose clients at 198.51.100.0/24 are denied.
fn behind(routes: &mut Routes) {
    let environment = &mut routes.platforms[1].environments[0];
    environment.edge.proxy_protocol = networks(&["127.0.0.1/32"]);
    environment.edge.deny = networks(&["198.51.100.0/24", "2001:db8:7::/48"]);
    environment.sites[1].https_only = false;
}

/// Another speaks for others.
fn not_behind(routes: &mut Routes) {
    behind(routes);
    routes.platforms[1].environments[0].edge.proxy_protocol = networks(&["127.0.0.5/32"]);
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\nX-Forwarded-For: 192.0.2.99\r\nConnection: close\r\n\r\n").into_bytes()
}

/// What is answered behind a header; nothing where the connection ends instead.
fn ask(outside: &Outside, header: &[u8], path: &str) -> Answer {
    let mut stream = connect(outside.ports.http);
    stream.write_all(&[header, &request(path)].concat()).unwrap();
    read(&mut BufReader::new(stream)).unwrap_or_default()
}

/// Whether these bytes end the connection without an answer. `whole` says that there won't be more.
fn is_closed(outside: &Outside, bytes: &[u8], whole: bool) -> bool {
    [outside.ports.http, outside.ports.https].into_iter().all(|port| {
        let mut stream = connect(port);
        // It may be closed while this is sent.
        let _ = stream.write_all(bytes);
        if whole {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => said.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    })
}

pub fn line(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.1 50000 80\r\n").into_bytes()
}

fn bytes(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// The port of a load balancer that puts a header before what one client says to the door of https.
pub fn balancer(outside: &Outside, header: Vec<u8>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (port, mut door) = (listener.local_addr().unwrap().port(), connect(outside.ports.https));
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        door.write_all(&header).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), door.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut door, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    port
}

#[test]
fn the_client_that_a_load_balancer_speaks_for_counts() {
    let outside = Outside::with(behind);
    let v6 = [[0x20, 1, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7].as_slice(), &[0; 20]].concat();
    let all = [
        (line("203.0.113.9"), "203.0.113.9"),
        (bytes(0x21, 0x11, &[V4.as_slice(), &[0xee; 4000]].concat()), "203.0.113.9"),
        (bytes(0x21, 0x21, &v6), "2001:db8:9::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n".to_vec(), "203.0.113.9"),
        // It speaks for itself, and nothing that it says besides is believed.
        (b"PROXY UNKNOWN 198.51.100.7 192.0.2.1 1 2\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (bytes(0x20, 0x00, &[]), "127.0.0.1"),
        (bytes(0x20, 0x11, &[198, 51, 100, 7, 192, 0, 2, 1, 0, 1, 0, 2]), "127.0.0.1"),
        (bytes(0x21, 0x00, &[]), "127.0.0.1"),
    ];
    let mut expected = Vec::new();
    for (number, (header, client)) in all.into_iter().enumerate() {
        assert_eq!(ask(&outside, &header, &format!("/{number}")).status, 200, "{header:?}");
        let head = outside.witness.take()[0].head.to_ascii_lowercase();
        assert!(head.contains(&format!("x-forwarded-for: {client}\r\n")) && !head.contains("192.0.2.99"), "{head}");
        expected.push(format!(" {client} GET http://{NAME}/{number} 200 "));
    }
    until("a line for each", || expected.iter().all(|line| outside.log().contains(line)));
    // Before TLS too.
    let said = outside.secure_by(balancer(&outside, line("203.0.113.8")), NAME, &[]);
    assert!(said.starts_with("HTTP/2 200"), "{said}");
    assert!(outside.witness.take()[0].head.to_ascii_lowercase().contains("x-forwarded-for: 203.0.113.8\r\n"));
    // And a denied one is denied.
    assert_eq!(ask(&outside, &line("198.51.100.7"), "/").status, 403);
    assert_eq!(ask(&outside, b"PROXY TCP6 2001:db8:7::1 ::1 1 2\r\n", "/").status, 403);
    assert_eq!(ask(&outside, b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 2\r\n", "/").status, 403);
    assert!(outside.witness.take().is_empty());
}

#[test]
fn nobody_elses_word_on_a_client_is_believed() {
    let outside = Outside::with(not_behind);
    for header in [line("203.0.113.9"), bytes(0x21, 0x11, &V4), b"PROXY UNKNOWN\r\n".to_vec(), bytes(0x20, 0, &[])] {
        let answer = ask(&outside, &header, "/");
        assert!(matches!(answer.status, 0 | 400), "{header:?}: {answer:?}");
    }
    let said = outside.secure_by(balancer(&outside, line("203.0.113.8")), NAME, &[]);
    assert!(said.contains("curl: (35)"), "{said}");
    assert!(outside.witness.take().is_empty());
    assert!(outside.secure(NAME, &[]).starts_with("HTTP/2 200"), "without one it is served as itself");
    assert!(outside.witness.take()[0].head.to_ascii_lowercase().contains("x-forwarded-for: 127.0.0.1\r\n"));
    // At the host's own door no header is read, whoever it is from.
    let outside = Outside::with(behind);
    let mut stream = TcpStream::connect(outside.server.http()[0]).unwrap();
    stream.write_all(&[line("203.0.113.9"), request("/")].concat()).unwrap();
    assert_eq!(read(&mut BufReader::new(stream)).unwrap_or_default().status, 400);
}

#[test]
fn a_load_balancer_that_breaks_the_protocol_is_cut_off() {
    let outside = Outside::with(behind);
    // None of these has to be waited for.
    for wrong in [
        request("/"),
        [&line("203.0.113.9")[..20], b"\r\n"].concat(),
        [b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n".as_slice(), &request("/")].concat(),
        [b"PROXY TCP4 example.test 192.0.2.1 1 2\r\n".as_slice(), &request("/")].concat(),
        format!("PROXY UNKNOWN {}", "x".repeat(4096)).into_bytes(),
        [bytes(0x21, 0x11, &V4[..8]), request("/")].concat(),
        [bytes(0x31, 0x11, &V4), request("/")].concat(),
        // As much as a header may say it has, with and without that.
        bytes(0x21, 0x11, &[0; 65_535]),
        [SIGNATURE, &[0x20, 0, 0xff, 0xff]].concat(),
    ] {
        assert!(is_closed(&outside, &wrong, false), "{:?}", String::from_utf8_lossy(&wrong[..wrong.len().min(60)]));
    }
    for whole in [line("203.0.113.9"), bytes(0x21, 0x11, &V4)] {
        for cut in 0..whole.len() {
            assert!(is_closed(&outside, &whole[..cut], true), "{cut} of {whole:?}");
        }
    }
    assert!(outside.secure(NAME, &[]).contains("curl: (35)"), "TLS without a header");
    assert!(outside.witness.take().is_empty());
    assert_eq!(ask(&outside, &line("203.0.113.9"), "/").status, 200, "others are served");
    // A header is for one connection, and what comes behind it is a request.
    assert_eq!(ask(&outside, &line("203.0.113.9").repeat(2), "/").status, 400);
}

#[test]
fn a_header_that_comes_byte_by_byte_is_not_waited_for() {
    let outside = Outside::with(behind);
    let mut slow = connect(outside.ports.http);
    slow.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut left = bytes(0x21, 0x11, &[0xee; 4000]).into_iter();
    let mut sent = 0;
    until("the end of a slow header", || {
        if slow.write_all(&[left.next().expect("it would take minutes")]).is_err() {
            return true;
        }
        sent += 1;
        match slow.read(&mut [0; 1]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    });
    assert!(sent > 1, "it was cut off before it could be called slow");
    assert_eq!(ask(&outside, &line("203.0.113.9"), "/").status, 200);
}

#[test]
fn a_client_behind_a_load_balancer_has_a_share_of_its_own() {
    let outside = Outside::with_limits(Limits { connections: 32, ..Limits::default() }, behind);
    let hoard = |client: &str| {
        let mut all = Vec::new();
        loop {
            let mut stream = connect(outside.ports.http);
            let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
            stream.write_all(&[line(client), request.into_bytes()].concat()).unwrap();
            let status = read(&mut BufReader::new(stream.try_clone().unwrap())).unwrap_or_default().status;
            if status != 200 {
                return (all.len(), status, all);
            }
            all.push(stream);
        }
    };
    let (one, status, _held) = hoard("203.0.113.1");
    assert!((14..=16).contains(&one) && status == 503, "{one} connections, then {status}");
    let (other, ..) = hoard("203.0.113.2");
    assert!(other >= 6, "another one has {other} connections");
}
