//! What bytes mean: framing that two readers could understand differently, limits, headers that are for one hop.

use std::io::{BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adt::proxy::Limits;

use super::{HOST, backend, read, routes, until, world, world_with};

#[test]
fn framing_that_could_be_read_in_two_ways_is_refused() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    for (shape, lines, body) in [
        ("two lengths", "Content-Length: 4\r\nContent-Length: 5\r\n", "abcde"),
        ("a list of lengths", "Content-Length: 4, 5\r\n", "abcde"),
        ("a signed length", "Content-Length: +4\r\n", "abcd"),
        ("a negative length", "Content-Length: -1\r\n", ""),
        ("a length in hex", "Content-Length: 0x4\r\n", "abcd"),
        ("a folded header", "X-A: b\r\n c: d\r\n", ""),
        ("a space before the colon", "Content-Length : 4\r\n", "abcd"),
        ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("a header without a name", ": x\r\n", ""),
        ("a null byte", "X-A: a\0b\r\n", ""),
        ("a bare carriage return", "X-A: a\rX-B: b\r\n", ""),
    ] {
        let before = web.count();
        let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n{body}");
        let answer = world.say(&request);
        assert_eq!(answer.status, 400, "{shape}: {answer:?}");
        assert_eq!(web.count(), before, "{shape} reached the backend");
    }
    for (shape, version, lines) in
        [("chunks in HTTP/1.0", "HTTP/1.0", "Transfer-Encoding: chunked\r\n"), ("HTTP/3", "HTTP/3.0", "")]
    {
        let answer = world.say(&format!("POST / {version}\r\nHost: {HOST}\r\n{lines}\r\n0\r\n\r\n"));
        assert!(answer.status == 400 || answer.status == 505, "{shape}: {answer:?}");
    }
}

/// RFC 9112 6.3 lets a proxy go by the chunks if it drops the length: then nothing behind it can read anything else.
#[test]
fn a_length_beside_chunks_never_reaches_a_backend() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    for lines in ["Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"] {
        let hidden = format!("0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let mut stream = world.connect();
        stream.write_all(format!("POST /open HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n{hidden}").as_bytes()).unwrap();
        let answer = read(&mut BufReader::new(stream)).unwrap();
        assert!(answer.body.contains("POST /open") && !answer.body.contains("content-length: 3"), "{answer:?}");
        assert!(!answer.body.contains("hidden"), "{answer:?}");
    }
}

#[test]
fn bad_chunks_end_the_connection() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    for chunk in ["xyz\r\nabc\r\n0\r\n\r\n", "fffffffffffffffff\r\na", "3\r\nabcdef\r\n0\r\n\r\n", "-1\r\n\r\n"] {
        let mut stream = world.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(format!("{head}{chunk}GET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        assert!(!all.contains("200 OK") && !all.contains("hidden"), "{chunk}: {all}");
    }
}

#[test]
fn heads_have_limits() {
    let world = world(&[]);
    for (shape, lines) in [
        ("one large header", format!("X-A: {}\r\n", "a".repeat(80 << 10))),
        ("many headers", (0..150).map(|number| format!("X-{number}: a\r\n")).collect()),
    ] {
        let answer = world.say(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n"));
        assert_eq!(answer.status, 431, "{shape}: {answer:?}");
    }
    let answer = world.say(&format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "a".repeat(80 << 10)));
    assert!(matches!(answer.status, 414 | 431), "{answer:?}");
}

#[test]
fn headers_for_one_hop_end_here_in_both_directions() {
    let said = Arc::new(Mutex::new(String::new()));
    let heard = said.clone();
    let address = backend::raw(move |mut stream| {
        while let Some(head) = backend::head(&mut stream) {
            if !head.contains("/healthz") {
                *heard.lock().unwrap() = head;
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 1\r\n\r\nok";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let world = world(&[address]);
    let answer = world.say(&format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: X-Secret, Host\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
         Upgrade: h2c\r\nProxy-Connection: a\r\nX-Kept: 1\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n"
    ));
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("x-end: 1") && !head.contains("x-hop") && !head.contains("keep-alive"), "{head}");
    let head = said.lock().unwrap().to_ascii_lowercase();
    assert!(head.contains("x-kept: 1") && head.contains(&format!("host: {HOST}")), "{head}");
    for gone in ["x-secret", "keep-alive", "te: ", "upgrade", "proxy-connection", "6.6.6.6"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[test]
fn a_body_waits_for_the_backends_word() {
    let early = Arc::new(AtomicUsize::new(0));
    let counter = early.clone();
    let address = backend::raw(move |mut stream| {
        let Some(head) = backend::head(&mut stream) else { return };
        if head.contains("/refused") {
            let _ = stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
            return drop(stream.read(&mut [0; 16]));
        }
        // Nothing may come before it is asked for.
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut body = [0; 4];
        counter.fetch_add(stream.read(&mut body).unwrap_or(0), Ordering::Relaxed);
        stream.set_read_timeout(None).unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
    });
    let world = world(&[address]);
    let ask = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    let mut client = world.connect();
    client.write_all(ask("/wanted").as_bytes()).unwrap();
    assert!(backend::head(&mut client).unwrap().starts_with("HTTP/1.1 100"));
    client.write_all(b"body").unwrap();
    let answer = read(&mut BufReader::new(client)).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "body"));
    assert_eq!(early.load(Ordering::Relaxed), 0);
    let answer = world.say(&ask("/refused"));
    assert_eq!((answer.status, answer.body.as_str()), (417, "no"));
}

#[test]
fn a_slow_loris_is_cut_off() {
    let world = world_with(routes(&[]), Limits { head: Duration::from_secs(1), ..Limits::default() });
    let mut stream = world.connect();
    let began = Instant::now();
    let bytes = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Long: {}", "a".repeat(100_000));
    for byte in bytes.bytes() {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(began.elapsed() < super::PATIENCE, "it was let go on");
    }
    until("the end of the connection", || world.server.connections() == 0);
    // A client that never says anything to TLS, too.
    let silent = std::net::TcpStream::connect(world.server.https()[0]).unwrap();
    until("its arrival", || world.server.connections() == 1);
    until("its end", || world.server.connections() == 0);
    drop(silent);
}

/// Seeded damage to requests: whatever comes, the listener answers the next client.
#[test]
fn damaged_requests_hurt_nobody() {
    let web = backend::echo("web1");
    let world = world_with(routes(&[web.address]), Limits { head: Duration::from_secs(2), ..Limits::default() });
    let seeds = [
        format!("GET /a?b HTTP/1.1\r\nHost: {HOST}\r\nCookie: a=b\r\nConnection: x, close\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        format!("GET http://{HOST}/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\0\0\0\x01\x02\x04\x06\x41".to_owned(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for round in 0..400 {
        let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                1 => {}
                2 => bytes.insert(at, b"\r\n\0 :,;"[random(7)]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut stream = world.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0; 512]);
    }
    assert_eq!(world.get(HOST, "/").status, 200);
    until("the end of all connections", || world.server.connections() == 0);
}
