//! What anyone may expect of a front for adt's sites, whichever program it is: the same requests, the same answers.
//!
//! `Town` is a small set of routes with backends that run; `expectations` asks whatever serves its routes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use adt::model::Edge;
use adt::model::names::{Domain, EnvironmentId, EnvironmentName, MachineName, PlatformName, SiteName};
use adt::model::route::{Backend, EnvironmentRoute, MachineRoute, PlatformRoute, Protocol, Routes, SiteRoute};

/// Routes, and the backends behind them for as long as the test runs.
pub struct Town {
    pub routes: Routes,
}

impl Town {
    /// `1161` is up, `1162` is halted.
    pub fn new() -> Self {
        let (one, two, h2c) = (backend("web1"), backend("web2"), h2c_backend());
        let dead = (LOOPBACK, super::servers::free_port()).into();
        let sites = |environment: &str| {
            vec![
                site(environment, "dead", &[dead]),
                SiteRoute { protocol: Protocol::H2c, ..site(environment, "grpc", &[h2c]) },
                site(environment, "half", &[one, dead]),
                SiteRoute { sticky: true, ..site(environment, "sticky", &[one, two]) },
                site(environment, "www", &[one, two]),
            ]
        };
        Self { routes: routes(&[("1161", true, sites("1161")), ("1162", false, sites("1162"))]) }
    }
}

pub fn id(environment: &str) -> EnvironmentId {
    EnvironmentId {
        platform: PlatformName::new("shop").expect("a name"),
        name: EnvironmentName::new(environment).expect("a name"),
    }
}

pub fn site(environment: &str, name: &str, backends: &[SocketAddr]) -> SiteRoute {
    let backend = |(index, address): (usize, &SocketAddr)| Backend {
        machine: MachineName::new(format!("web{}", index + 1)).expect("a name"),
        address: *address,
    };
    SiteRoute {
        name: SiteName::new(name).expect("a name"),
        host: format!("{name}.{environment}.shop.example.test"),
        aliases: vec![format!("{name}.shop-production.com")],
        backends: backends.iter().enumerate().map(backend).collect(),
        health: "/".into(),
        protocol: Protocol::Http1,
        sticky: false,
        https_only: false,
    }
}

pub fn routes(environments: &[(&str, bool, Vec<SiteRoute>)]) -> Routes {
    let domain = Domain::new("example.test").expect("a domain");
    let environment = |(index, (name, up, sites)): (usize, &(&str, bool, Vec<SiteRoute>))| {
        let base = u32::from(Ipv4Addr::new(10, 77, 0, 0)) + 64 * index as u32;
        let v6 = |last: u16| std::net::Ipv6Addr::new(0xfd12, 0x3456, 0x789a, index as u16, 0, 0, 0, last);
        let machine = |name: &str, last: u16| MachineRoute {
            name: MachineName::new(name).expect("a name"),
            v4: Ipv4Addr::from(base + u32::from(last)),
            v6: Some(v6(last)),
        };
        EnvironmentRoute {
            id: id(name),
            domain: domain.clone(),
            up: *up,
            owner: "mei & <tom>".into(),
            created: 0,
            gateway_v4: Ipv4Addr::from(base + 1),
            gateway_v6: v6(1),
            machines: vec![machine("db", 2), machine("web1", 3), machine("web2", 4)],
            sites: sites.clone(),
            edge: Edge::default(),
        }
    };
    let platform = PlatformRoute {
        name: PlatformName::new("shop").expect("a name"),
        summary: "A web shop".into(),
        domain: domain.clone(),
        environments: environments.iter().enumerate().map(environment).collect(),
    };
    Routes { domain, platforms: vec![platform] }
}

/// Answers each request with its own name and what it saw of the request.
fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(serve(name, stream)));
        }
    });
    address
}

fn serve(name: &str, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (first, headers) = head(&mut reader)?;
        if headers.get("upgrade").is_some_and(|kind| kind.eq_ignore_ascii_case("websocket")) {
            write!(stream, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")?;
            return std::io::copy(&mut reader, &mut stream).map(drop);
        }
        let length = match headers.get("content-length") {
            Some(length) => std::io::copy(&mut reader.by_ref().take(length.parse().expect("a number")), &mut std::io::sink())?,
            None if headers.contains_key("transfer-encoding") => read_chunks(&mut reader)?.len() as u64,
            None => 0,
        };
        let said = |header: &str| headers.get(header).cloned().unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default();
        let status = if path == "/teapot" { "418 I'm a teapot" } else { "200 OK" };
        let body = format!(
            "machine {name}\nrequest {first}\nhost {}\nproto {}\nfor {}\nbytes {length}\n",
            said("host"),
            said("x-forwarded-proto"),
            said("x-forwarded-for")
        );
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nX-Machine: {name}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn head(reader: &mut impl BufRead) -> std::io::Result<(String, BTreeMap<String, String>)> {
    let mut line = || {
        let mut line = String::new();
        match reader.read_line(&mut line)? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    loop {
        let line = line()?;
        match line.split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Ok((first, headers)),
        }
    }
}

fn read_chunks(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16).map_err(std::io::Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// HTTP/2 without TLS only, as a gRPC server.
fn h2c_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("it is a socket");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is a socket");
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    let body = format!("machine h2c\nversion {:?}\n", request.version());
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(http_body_util::Full::<hyper::body::Bytes>::from(
                        body,
                    )))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                tokio::spawn(connection.serve_connection(io, service));
            }
        });
    });
    address
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    /// Who answered.
    pub fn machine(&self) -> &str {
        self.body
            .lines()
            .find_map(|line| line.strip_prefix("machine "))
            .unwrap_or_else(|| panic!("no machine answered: {self:?}"))
    }
}

pub fn send(front: SocketAddr, method: &str, host: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(front).expect("the front listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is a socket");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head.extend(more.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
    stream.write_all((head + "\r\n").as_bytes()).expect("the front reads");
    stream.write_all(body).expect("the front reads");
    let mut reader = BufReader::new(stream);
    let (first, headers) = self::head(&mut reader).unwrap_or_else(|error| panic!("{method} {host}{path}: {error}"));
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|kind| kind == "chunked") {
        body = read_chunks(&mut reader).expect("chunks are whole");
    } else if let Some(length) = headers.get("content-length").filter(|_| method != "HEAD") {
        body.resize(length.parse().expect("a number"), 0);
        reader.read_exact(&mut body).expect("the answer is whole");
    } else {
        reader.read_to_end(&mut body).expect("the answer is whole");
    }
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("an answer has a status");
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

pub fn get(front: SocketAddr, host: &str, path: &str) -> Answer {
    send(front, "GET", host, path, &[], b"")
}

/// Everything that holds for a front that serves `Town`'s routes over http.
pub fn expectations(front: SocketAddr) {
    names(front);
    requests(front);
    websocket(front);
    balance(front);
    pages(front);
}

fn names(front: SocketAddr) {
    for host in [
        "www.1161.shop.example.test",
        "any.www.1161.shop.example.test",
        "www.1161.shop.example.test.",
        "WWW.1161.shop.example.test",
    ] {
        let answer = get(front, host, "/");
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert!(answer.body.contains(&format!("host {host}\n")), "the host is kept: {answer:?}");
    }
    let with_port = format!("www.1161.shop.example.test:{}", front.port());
    assert!(get(front, &with_port, "/").body.contains(&format!("host {with_port}\n")));
}

fn requests(front: SocketAddr) {
    let host = "www.1161.shop.example.test";
    let answer = send(front, "GET", host, "/a%2Fb/c%20d?x=1&y=%26", &[("X-Forwarded-Proto", "https")], b"");
    assert!(answer.body.contains("request GET /a%2Fb/c%20d?x=1&y=%26 HTTP/1.1\n"), "the path is kept: {answer:?}");
    assert!(answer.body.contains("proto http\n"), "a client can't say that it came by https: {answer:?}");
    assert!(answer.body.contains("for 127.0.0.1\n"), "{answer:?}");
    assert_eq!(answer.headers["x-machine"], answer.machine());
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(get(front, host, "/teapot").status, 418, "a backend's own status is kept");
    assert_eq!(send(front, "HEAD", host, "/", &[], b"").status, 200);
    let upload = vec![b'x'; 20 << 20];
    for method in ["POST", "PUT"] {
        let answer = send(front, method, host, "/", &[], &upload);
        assert!(answer.body.contains(&format!("bytes {}\n", upload.len())), "{answer:?}");
    }
    let answer = get(front, "grpc.1161.shop.example.test", "/");
    assert!(answer.body.contains("version HTTP/2"), "{answer:?}");
}

fn websocket(front: SocketAddr) {
    let mut stream = TcpStream::connect(front).expect("the front listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is a socket");
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let host = "www.1161.shop.example.test";
    write!(stream, "GET /chat HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n")
        .expect("it reads");
    let mut reader = BufReader::new(stream.try_clone().expect("it is a socket"));
    let (first, _) = head(&mut reader).expect("an answer");
    assert!(first.starts_with("HTTP/1.1 101"), "{first}");
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).expect("it reads");
        let mut back = [0; 5];
        reader.read_exact(&mut back).expect("an echo");
        assert_eq!(back, word.as_bytes());
    }
}

fn balance(front: SocketAddr) {
    let machines = |host: &str, cookie: &str| -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for _ in 0..30 {
            let answer = send(front, "GET", host, "/", &[("Cookie", cookie)], b"");
            assert_eq!(answer.status, 200, "{answer:?}");
            *seen.entry(answer.machine().to_owned()).or_default() += 1;
        }
        seen
    };
    let both = machines("www.1161.shop.example.test", "");
    assert!(both.len() == 2 && both.values().all(|count| *count >= 5), "{both:?}");
    let alive = machines("half.1161.shop.example.test", "");
    assert_eq!(alive.keys().collect::<Vec<_>>(), ["web1"], "a dead machine costs no request");
    for _ in 0..4 {
        let first = get(front, "sticky.1161.shop.example.test", "/");
        let cookie = first.headers["set-cookie"].split(';').next().expect("a cookie").to_owned();
        let same = machines("sticky.1161.shop.example.test", &cookie);
        assert_eq!(same.keys().collect::<Vec<_>>(), [first.machine()]);
    }
}

fn pages(front: SocketAddr) {
    for (host, path, status, words) in [
        ("dead.1161.shop.example.test", "/x", 503, &["shop/1161", "adt env:check shop 1161"][..]),
        ("www.1162.shop.example.test", "/", 503, &["shop/1162 is halted", "adt env:up shop 1162"]),
        ("any.www.1162.shop.example.test", "/x/y", 503, &["is halted"]),
        ("nosuch.1161.shop.example.test", "/", 404, &["no such site", "www.1161.shop.example.test"]),
        ("www.nosuch.shop.example.test", "/", 404, &["no such environment", "1161.shop.example.test"]),
        ("nosuch.example.test", "/x", 404, &["no such platform", "shop.example.test"]),
        (
            "1161.shop.example.test",
            "/",
            200,
            &["Environment shop/1161", "www.1161.shop.example.test", "adt env:ssh shop 1161 db"],
        ),
        ("1162.shop.example.test", "/", 200, &["It is halted"]),
        ("shop.example.test", "/", 200, &["Platform shop", "1161.shop.example.test"]),
        ("example.test", "/", 200, &["shop.example.test"]),
        ("example.test", "/nosuch", 404, &["no such"]),
        ("1161.shop.example.test", "/favicon.ico", 404, &["no such"]),
        ("stranger.example.com", "/", 404, &[]),
    ] {
        // As a browser asks: to a program that does not, adt's own front speaks plain text or JSON, which the others can't.
        let answer = send(front, "GET", host, path, &[("Accept", "text/html,*/*;q=0.8")], b"");
        assert_eq!(answer.status, status, "{host}{path}: {answer:?}");
        assert!(answer.headers["content-type"].starts_with("text/html"), "{host}: {answer:?}");
        for word in words {
            // A slash may be written in two ways.
            assert!(answer.body.replace("&#x2f;", "/").contains(word), "{host}{path} does not say `{word}`: {}", answer.body);
        }
    }
    let post = send(front, "POST", "www.1162.shop.example.test", "/", &[], b"x");
    assert_eq!(post.status, 503, "{post:?}");
    let page = send(front, "GET", "1161.shop.example.test", "/", &[("Accept", "text/html")], b"").body;
    assert!(page.contains("mei &amp; &lt;tom&gt;"), "{page}");
}

/// `dig`'s short answers to one question.
pub fn dig(server: SocketAddr, name: &str, kind: &str) -> Vec<String> {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let out = std::process::Command::new("dig")
        .args([&at, "-p", &port, "+short", "+time=5", name, kind])
        .output()
        .expect("dig is of the package bind9-dnsutils");
    assert!(out.status.success(), "{out:?}");
    let mut lines: Vec<_> = String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Everything that holds for a name server with `Town`'s names and a front at 10.9.8.7 and fd00::7.
pub fn name_expectations(server: SocketAddr) {
    for (name, kind, answer) in [
        ("db.1161.shop.example.test", "A", &["10.77.0.2"][..]),
        ("web2.1161.shop.example.test", "AAAA", &["fd12:3456:789a::4"]),
        ("web1.1162.shop.example.test", "A", &["10.77.0.67"]),
        ("www.1161.shop.example.test", "A", &["10.9.8.7"]),
        ("WWW.1161.Shop.example.test", "A", &["10.9.8.7"]),
        ("www.1161.shop.example.test", "AAAA", &["fd00::7"]),
        ("any.www.1161.shop.example.test", "A", &["10.9.8.7"]),
        ("a.b.www.1162.shop.example.test", "A", &["10.9.8.7"]),
        ("1161.shop.example.test", "A", &["10.9.8.7"]),
        ("shop.example.test", "A", &["10.9.8.7"]),
        ("shop.example.test", "AAAA", &["fd00::7"]),
        ("example.test", "A", &["10.9.8.7"]),
        ("nosuch.1161.shop.example.test", "A", &[]),
        ("www.nosuch.shop.example.test", "A", &[]),
        ("any.db.1161.shop.example.test", "A", &[]),
        ("nosuch.example.test", "A", &[]),
        ("2.0.77.10.in-addr.arpa", "PTR", &["db.1161.shop.example.test."]),
        ("4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa", "PTR", &["web2.1162.shop.example.test."]),
    ] {
        assert_eq!(dig(server, name, kind), answer, "{name} {kind}");
    }
}

/// The loopback address that tests' servers listen at.
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
