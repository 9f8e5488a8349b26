//! Clients that mean harm: what they hide in a request never becomes another one, and nobody else notices them.

use std::io::{BufReader, Write};
use std::process::{Command, Stdio};

use super::frames::{self, End};
use super::witness::Witness;
use super::{HOST, World, backend, read, routes, until, world, world_with, www};
use adt::proxy::Limits;

/// Sends bytes and reads as many answers as they have requests; then, where the connection lives on, asks for `/last`, so that
/// an answer too many would be seen. A client that closes its side early gets no answer at all, as with nginx.
fn exchange(world: &World, bytes: &[u8], requests: usize) -> Vec<u16> {
    let mut stream = BufReader::new(world.connect());
    // It may be closed before all of it is sent.
    let _ = stream.get_mut().write_all(bytes);
    let mut answers: Vec<_> = (0..requests).map_while(|_| read(&mut stream)).collect();
    let last = format!("GET /last HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let _ = stream.get_mut().write_all(last.as_bytes());
    answers.extend(std::iter::from_fn(|| read(&mut stream)));
    answers.iter().map(|answer| answer.status).collect()
}

#[test]
fn what_is_hidden_in_a_request_stays_there() {
    let witness = Witness::new();
    let world = world(&[witness.address]);
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let end = format!("0\r\n\r\n{hidden}");
    for (shape, lines, body, wanted) in [
        // Refused, and nothing of what follows is read.
        ("two codings in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &end, &[501][..]),
        ("two codings in one line", "Transfer-Encoding: gzip, chunked\r\n", &end, &[501]),
        ("the same twice", "Transfer-Encoding: chunked, chunked\r\n", &end, &[501]),
        ("no coding", "Transfer-Encoding: identity\r\n", &end, &[400]),
        ("a coding with a tab", "Transfer-Encoding:\tchunked\x0b\r\n", &end, &[400]),
        ("a coding in a folded line", "Transfer-Encoding:\r\n chunked\r\n", &end, &[400]),
        ("a coding behind a space", "Transfer-Encoding : chunked\r\n", &end, &[400]),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 44\r\n", &hidden, &[400]),
        ("a length with a sign", "Content-Length: +0\r\n", &hidden, &[400]),
        ("a length too large", "Content-Length: 18446744073709551616\r\n", &hidden, &[400]),
        // Taken by the chunks alone; the connection ends behind it.
        ("a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &end, &[200]),
        ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &end, &[200]),
        // The same length twice is one length: the second request is a second request, and `/last` the third.
        ("a length twice", "Content-Length: 0\r\nContent-Length: 0\r\n", &hidden, &[200, 200, 200]),
    ] {
        let bytes = format!("POST /open HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n{body}");
        let requests = if wanted.len() == 3 { 2 } else { 1 };
        assert_eq!(exchange(&world, bytes.as_bytes(), requests), wanted, "{shape}");
        let seen = witness.take();
        assert_eq!(seen.len(), wanted.iter().filter(|status| **status == 200).count(), "{shape}: {seen:?}");
        assert!(requests == 2 || !seen.iter().any(|request| request.head.contains("/hidden")), "{shape}: {seen:?}");
    }
}

/// Otherwise the backend would wait for a body that never comes, and take the next request for it.
#[test]
fn an_upgrade_with_a_body_is_an_ordinary_request() {
    let witness = Witness::new();
    let world = world(&[witness.address]);
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for framing in [format!("Content-Length: {}\r\n", hidden.len()), "Transfer-Encoding: chunked\r\n".to_owned()] {
        let body = if framing.starts_with('T') { format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()) } else { hidden.clone() };
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{framing}\r\n");
        assert_eq!(exchange(&world, format!("{head}{body}").as_bytes(), 1), [200, 200], "{framing}");
        let seen = witness.take();
        assert_eq!((seen.len(), &seen[0].body[..]), (2, hidden.as_bytes()), "{framing}: {seen:?}");
    }
}

#[test]
fn chunks_are_written_anew() {
    let witness = Witness::new();
    let world = world(&[witness.address]);
    let ask = |body: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        (exchange(&world, format!("{head}{body}").as_bytes(), 1), witness.take())
    };
    // Extensions and forbidden trailers end here; the body is what it was.
    for body in [
        "3;a=b;c=\"\\\"\"\r\nabc\r\n0\r\n\r\n",
        "0003\r\nabc\r\n000\r\n\r\n",
        "1\r\na\r\n2\r\nbc\r\n0;last\r\nX-Sum: 1\r\n\r\n",
        "3\r\nabc\r\n0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\n\r\n",
    ] {
        let (said, seen) = ask(body);
        assert_eq!((&said[..], seen.len()), (&[200, 200][..], 2), "{body:?}: {seen:?}");
        assert_eq!((&seen[0].body[..], seen[1].head.starts_with("GET /last ")), (&b"abc"[..], true), "{body:?}: {seen:?}");
    }
    // Sizes that are none: the request never becomes a whole one.
    for body in
        ["3 3\r\nabc\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\nabc\n0\n\n", "\r\nabc\r\n0\r\n\r\n"]
    {
        let (said, seen) = ask(body);
        assert!(!said.contains(&200) && seen.is_empty(), "{body:?}: {said:?} {seen:?}");
    }
    let extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(100 << 10));
    assert!(ask(&extension).1.is_empty(), "an extension without an end");
}

/// RFC 9112 2.2 lets a reader take a bare line feed for a line's end. What the backend gets has none.
#[test]
fn old_and_sloppy_heads_are_refused_or_made_proper() {
    let witness = Witness::new();
    let world = world(&[witness.address]);
    let said = exchange(&world, format!("GET /sloppy HTTP/1.1\nHost: {HOST}\n\n").as_bytes(), 1);
    assert_eq!((said, witness.take().len()), (vec![200, 200], 2));
    for bytes in [
        "GET /\r\n".to_owned(),
        format!("GET /\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / HTTP/2.0\r\nHost: {HOST}\r\n\r\n"),
        format!("GET  / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / HTTP/1.1 \r\nHost: {HOST}\r\n\r\n"),
        format!("GET /a b HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("G\u{e9}T / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n Host: {HOST}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-\u{e9}: a\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: w\u{fc}w.1161.shop.example.test\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: {HOST}@evil.test\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}, evil.test\r\n\r\n"),
    ] {
        let said = exchange(&world, bytes.as_bytes(), 1);
        // A connection that is used again after a refusal is no fault, as long as both sides agree where the next begins.
        assert!(matches!(said[..], [] | [400 | 505] | [400, 200]), "{bytes:?}: {said:?}");
        let seen = witness.take();
        assert!(seen.iter().all(|request| request.head.starts_with("GET /last ")), "{bytes:?}: {seen:?}");
    }
}

#[test]
fn http2_can_say_nothing_that_http1_would_misread() {
    let witness = Witness::new();
    let world = world(&[witness.address]);
    let say = |frames: &[Vec<u8>]| {
        let mut stream = world.connect();
        let _ = stream.write_all(&[frames::preface(), frames.concat()].concat());
        let end = frames::end(&mut stream);
        drop(stream);
        end
    };
    let post = |more: &[(&str, &str)]| say(&[frames::request(1, HOST, more, frames::END_STREAM)]);
    assert_eq!(post(&[("x-good", "1")]), End::Answered(200));
    assert_eq!(witness.take().len(), 1);
    for line in [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("x-a", "b\r\nX-Smuggled: c"),
        ("x-a", "b\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("x-a", "b\nc: d"),
        ("x-a", "b\0c"),
        ("x-a: b\r\nx-c", "d"),
        ("x a", "b"),
        ("x:a", "b"),
        ("X-Upper", "b"),
        ("", "b"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("content-length", "0\r\nx: y"),
        (":path", "/again"),
        (":status", "200"),
        (":unknown", "a"),
    ] {
        let end = post(&[line]);
        assert!(matches!(end, End::Reset | End::Closed | End::Answered(400)), "{line:?}: {end:?}");
        assert!(witness.take().is_empty(), "{line:?}");
    }
    let head = |lines: &[(&str, &str)]| frames::frame(frames::HEADERS, 5, 1, &frames::block(lines));
    for (path, method, authority) in [
        ("/a HTTP/1.1\r\nx: y", "GET", HOST),
        ("/a b", "GET", HOST),
        ("", "GET", HOST),
        ("http://evil.test/", "GET", HOST),
        ("nothing", "GET", HOST),
        ("/", "GET / HTTP/1.1\r\nx:", HOST),
        ("/", "", HOST),
        ("/", "GET", "evil.test\r\nx: y"),
        ("/", "GET", "user@www.1161.shop.example.test"),
        ("/", "GET", ""),
    ] {
        let lines = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)];
        let end = say(&[head(&lines)]);
        assert!(matches!(end, End::Reset | End::Closed | End::Answered(400)), "{lines:?}: {end:?}");
        assert!(witness.take().is_empty(), "{lines:?}");
    }
    // The name that was routed by is the only one that the backend hears.
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", HOST)];
    assert_eq!(say(&[head(&[&usual[..], &[("host", "evil.test")]].concat())]), End::Answered(200));
    assert!(!witness.take()[0].head.contains("evil"));
    // A body that is not as long as it says.
    for (said, body) in [("3", "abcdef"), ("9", "abc")] {
        let data = frames::frame(frames::DATA, frames::END_STREAM, 1, body.as_bytes());
        let end = say(&[frames::request(1, HOST, &[("content-length", said)], 0), data]);
        assert!(matches!(end, End::Reset | End::Closed | End::Answered(400)), "{said}: {end:?}");
        assert!(witness.take().is_empty(), "{said}");
    }
}

#[test]
fn floods_of_frames_end_their_connection_only() {
    let witness = Witness::new();
    let world = world(&[witness.address]);
    let resets = (0..20_000u32).flat_map(|number| {
        let stream = number * 2 + 1;
        let head = frames::request(stream, HOST, &[], frames::END_STREAM);
        [head, frames::frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    let continued = frames::frame(frames::HEADERS, 0, 1, &frames::block(&[("x-a", "b")]));
    let more = frames::frame(frames::CONTINUATION, 0, 1, &frames::block(&[("x-a", &"b".repeat(1000))]));
    let settings = frames::frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(50_000);
    for (shape, bytes) in [
        ("requests taken back at once", resets.collect()),
        ("a head without an end", [continued, more.repeat(20_000)].concat()),
        ("settings", settings),
        ("a frame larger than is allowed", frames::frame(frames::DATA, 0, 1, &vec![0; 1 << 20])),
    ] {
        let mut stream = world.connect();
        let _ = stream.write_all(&[frames::preface(), bytes].concat());
        assert_eq!(world.get(HOST, "/").status, 200, "{shape}");
        drop(stream);
    }
    until("the end of all connections", || world.server.connections() == 0);
    assert!(witness.take().len() < 20_100);
}

/// Each holds a request that does not end. Others don't wait for them.
#[test]
fn slow_bodies_hold_up_nobody() {
    let web = backend::echo("web1");
    let limits = Limits { silence: std::time::Duration::from_secs(1), ..Limits::default() };
    let world = world_with(routes(&[web.address]), limits);
    let slow: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = world.connect();
            write!(stream, "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nx").unwrap();
            stream
        })
        .collect();
    until("all of them", || web.count() == 500);
    assert_eq!(world.get(HOST, "/").status, 200);
    until("their end", || world.server.connections() == 0);
    drop(slow);
}

/// Who is asked for is said by the request. TLS's own name only chooses the certificate: sites keep no secrets from each
/// other that a name could open, and browsers use one connection for all names of a certificate.
#[test]
fn names_in_tls_choose_the_certificate_only() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    let said = world.curl(&["--http1.1", "-H", &format!("Host: {HOST}")], "https://api.1161.shop.example.test/");
    assert!(said.contains(&format!("host: {HOST}\n")), "{said}");
    let at = world.server.https()[0].to_string();
    for name in
        [&["-noservername"][..], &["-servername", "127.0.0.1"], &["-servername", "b\u{fc}ro.test"], &["-servername", "a..b"]]
    {
        let mut client = Command::new("openssl")
            .args([&["s_client", "-quiet", "-connect", &at], name].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        // Where the handshake is refused it ends at once.
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let _ = client.stdin.take().unwrap().write_all(request.as_bytes());
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 200"), "{name:?}: {said}");
        assert_eq!(world.get(HOST, "/").status, 200, "{name:?}");
    }
    until("the end of all connections", || world.server.connections() == 0);
}

/// Hints before an answer are not passed on: hyper's server has no way to send them, and a page without them is the same page.
#[test]
fn early_hints_end_here() {
    let address = backend::raw(|mut stream| {
        while backend::head(&mut stream).is_some() {
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n".repeat(3);
            let _ = stream.write_all(format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").as_bytes());
        }
    });
    let mut routes = routes(&[address]);
    www(&mut routes).health = "/".into();
    let world = world_with(routes, Limits::default());
    let mut stream = BufReader::new(world.connect());
    for _ in 0..2 {
        stream.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let answer = read(&mut stream).unwrap();
        assert_eq!((answer.status, answer.body.as_str(), answer.header("link")), (200, "ok", None), "{answer:?}");
    }
}

/// What a machine answers, by the path that it is asked for; a connection that lives on is asked again and again.
fn answering(answers: &'static [(&'static str, &'static str)]) -> World {
    let address = backend::raw(move |mut stream| {
        while let Some(head) = backend::head(&mut stream) {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let answer = answers.iter().find(|(known, _)| *known == path).map_or(OK, |(_, answer)| answer);
            if stream.write_all(answer.as_bytes()).is_err() || answer.ends_with('\x04') {
                return;
            }
        }
    });
    let mut routes = routes(&[address]);
    www(&mut routes).health = "/".into();
    world_with(routes, Limits::default())
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Two clients of a site share its connections to a machine, one after the other. What a machine, or an application that lets
/// others write its heads, says behind an answer must not become the next one.
#[test]
fn what_is_hidden_in_an_answer_stays_there() {
    const HIDDEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden";
    let hidden = |answer: &'static str| -> &'static str { Box::leak(format!("{answer}{HIDDEN}").into_boxed_str()) };
    let answers = [
        ("/behind", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("/none", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("/none-with-length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204),
        ("/same", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n", 304),
        ("/chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        ("/both", "HTTP/1.1 200 OK\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        ("/lengths", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n", 502),
        ("/sign", "HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n", 502),
        ("/coded", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 502),
        ("/early", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 502),
        ("/ssh", "SSH-2.0-OpenSSH_9.2\r\n", 502),
        ("/folded", "HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 0\r\n\r\n", 502),
    ];
    let told: Vec<_> = answers.iter().map(|(path, answer, _)| (*path, hidden(answer))).collect();
    let world = answering(Box::leak(told.into_boxed_slice()));
    for (path, _, status) in answers {
        let mut stream = BufReader::new(world.connect());
        stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let answer = read(&mut stream).unwrap();
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(!answer.body.contains("hidden"), "{path}: {answer:?}");
        // The same thread's next requests, and other clients'.
        for _ in 0..3 {
            let mut next = BufReader::new(world.connect());
            next.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(read(&mut next).unwrap().body, "ok", "{path}");
        }
    }
}

#[test]
fn answers_have_limits() {
    let long: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20)).into_boxed_str());
    let many: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5000)).into_boxed_str());
    let early: &'static str = Box::leak("HTTP/1.1 100 Continue\r\n\r\n".repeat(5000).into_boxed_str());
    let trailers = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: {}", "x".repeat(1 << 20));
    let trailers: &'static str = Box::leak(trailers.into_boxed_str());
    let size = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(1 << 20));
    let size: &'static str = Box::leak(size.into_boxed_str());
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort\x04";
    let answers: [(&str, &str); 6] =
        [("/long", long), ("/many", many), ("/early", early), ("/trailers", trailers), ("/size", size), ("/short", short)];
    let world = answering(Box::leak(Box::new(answers)));
    let ask = |path: &str| {
        let mut stream = BufReader::new(world.connect());
        stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        stream
    };
    for path in ["/long", "/many", "/early"] {
        assert_eq!(read(&mut ask(path)).unwrap().status, 502, "{path}");
    }
    // The answer has begun by then, so it breaks off: the client sees that it is not all.
    for path in ["/trailers", "/size", "/short"] {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut ask(path), &mut text);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 200 OK"), "{path}: {text}");
        assert!(!text.contains("xxx") && !text.ends_with("0\r\n\r\n"), "{path}: {text}");
    }
    assert_eq!(read(&mut ask("/")).unwrap().body, "ok");
}

#[test]
fn an_answer_may_come_in_crumbs() {
    let crumbs = backend::raw(|mut stream| {
        while backend::head(&mut stream).is_some() {
            let answer =
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer-A: b\r\n\r\n";
            for byte in answer.bytes() {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        }
    });
    let world = world(&[crumbs]);
    let mut stream = BufReader::new(world.connect());
    for _ in 0..2 {
        stream.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(read(&mut stream).unwrap().body, "abcde");
    }
}
