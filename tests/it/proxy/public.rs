//! The door to the world, and everything that somebody could try at it.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use adt::model::{Edge, Routes};
use adt::proxy::{Config, Limits, Log, Ports, Server};
use adt::tls::{Certificates, Challenges, Public, system_clock};
use ipnet::IpNet;

use super::witness::Witness;
use super::{Answer, HOST, PATIENCE, read, routes};
use crate::servers::free_port;

pub const NAME: &str = "www.shop.example";

pub struct Outside {
    pub server: Server,
    pub ports: Ports,
    pub witness: Witness,
    pub challenges: Arc<Challenges>,
    folder: tempfile::TempDir,
}

fn edge(names: &[(&str, &str)]) -> Edge {
    let mut edge = Edge { hsts: Some(300), ..Edge::default() };
    for (site, name) in names {
        edge.names.entry(site.parse().unwrap()).or_default().push(name.parse().unwrap());
    }
    edge
}

/// 1161 has names in the world, and so has 1162, which is halted.
pub fn world_routes(witness: &Witness) -> Routes {
    let mut routes = routes(&[witness.address]);
    let environments = &mut routes.platforms[1].environments;
    environments[0].edge = edge(&[("www", NAME), ("www", "shop.example")]);
    environments[0].sites[1].https_only = true;
    environments[1].edge = edge(&[("www", "other.example")]);
    environments[1].gateway_v4 = [10, 1, 3, 1].into();
    routes
}

impl Outside {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With another edge, or other machines.
    pub fn with(change: impl FnOnce(&mut Routes)) -> Self {
        Self::with_limits(Limits::default(), change)
    }

    pub fn with_limits(limits: Limits, change: impl FnOnce(&mut Routes)) -> Self {
        let (witness, folder) = (Witness::new(), tempfile::tempdir().unwrap());
        let mut routes = world_routes(&witness);
        change(&mut routes);
        let certificates = Arc::new(Certificates::open(folder.path(), &routes, system_clock()).unwrap());
        let public = Arc::new(Public::open(folder.path(), &routes, system_clock()).unwrap());
        let ports = Ports { http: free_port(), https: free_port() };
        let any: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap()];
        let challenges = Arc::new(Challenges::default());
        let world = Some(adt::proxy::World { ports, certificates: public, challenges: challenges.clone() });
        let log = Log::open(&folder.path().join("access.log"), 1 << 20).unwrap();
        let config = Config { http: any.clone(), https: any, world, log: Some(log), limits, ..Config::default() };
        let server = Server::start(config, routes, certificates).unwrap();
        server.open_to_world().unwrap();
        Self { server, ports, witness, challenges, folder }
    }

    pub fn say(&self, bytes: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        read(&mut BufReader::new(stream)).unwrap()
    }

    /// The access log; its lines come within a second.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }

    pub fn get(&self, host: &str, path: &str) -> Answer {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    /// With a certificate that is expected of the authority for `shop.example`. Head and body, or what curl complains of.
    pub fn secure(&self, name: &str, args: &[&str]) -> String {
        self.secure_by(self.ports.https, name, args)
    }

    /// The same by another port, that of whoever stands in front.
    pub fn secure_by(&self, port: u16, name: &str, args: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["-sSi", "-m", "30", "--noproxy", "*", "--connect-to"]).arg(format!("::127.0.0.1:{port}"));
        command.arg("--cacert").arg(self.folder.path().join("tls/authority/shop.example.pem"));
        let output = command.args(args).arg(format!("https://{name}/page")).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

#[test]
fn the_world_finds_the_sites_by_their_names() {
    let outside = Outside::new();
    let answer = outside.get(NAME, "/page?x=1");
    assert_eq!(answer.status, 308, "{answer:?}");
    let port = outside.ports.https;
    assert_eq!(answer.header("location"), Some(&*format!("https://{NAME}:{port}/page?x=1")));
    for name in [NAME, "shop.example", "WWW.Shop.Example"] {
        let said = outside.secure(name, &["-H", "X-Forwarded-For: 198.51.100.1"]);
        assert!(said.starts_with("HTTP/2 200") && said.contains("strict-transport-security: max-age=300"), "{name}: {said}");
        let seen = outside.witness.take();
        assert_eq!(seen.len(), 1, "{name}");
        let head = seen[0].head.to_ascii_lowercase();
        assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n") && head.contains("x-forwarded-proto: https"), "{head}");
    }
    assert!(outside.get("10.1.2.3", "/.well-known/adt/health").body.contains("ok"));
    // Over IPv6, where this host has it.
    if let Ok(mut stream) = TcpStream::connect((Ipv6Addr::LOCALHOST, outside.ports.http)) {
        write!(stream, "GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").unwrap();
        assert_eq!(read(&mut BufReader::new(stream)).unwrap().status, 308);
    }
}

#[test]
fn the_door_to_the_world_tells_nothing_of_the_host() {
    let outside = Outside::new();
    let port = outside.ports.http;
    let hosts = [
        "nobody.example",
        HOST,
        "api.1161.shop.example.test",
        "1161.shop.example.test",
        "shop.example.test",
        "example.test",
        "x.www.shop.example",
        "api.shop.example",
        "127.0.0.1",
        "localhost",
        "[::1]",
        "www.shop-production.com",
    ];
    for host in hosts {
        for path in ["/", "/metrics", "/.well-known/acme-challenge/x", "/.well-known/acme-challenge/../../etc/passwd"] {
            let answer = outside.get(host, path);
            assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{host} {path}: {answer:?}");
            let head = answer.head.to_ascii_lowercase();
            assert!(!head.contains("adt") && !head.contains("shop") && !head.contains("1161"), "{head}");
        }
    }
    for (bytes, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nHost: {HOST}\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {NAME}, {HOST}\r\n\r\n"), 400),
        // What a request's own line says goes before what its header does.
        (format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), 404),
        (format!("GET http://example.test/metrics HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), 404),
        (format!("GET http://{NAME}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 308),
        (format!("GET http://{NAME}@{HOST}/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 405),
        (format!("TRACE / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), 405),
        ("POST /.well-known/adt/health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 404),
        (format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501),
    ] {
        let answer = outside.say(&bytes);
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{bytes:?}: {answer:?}");
        assert!(!answer.head.contains("adt-page"), "{answer:?}");
    }
    // The metrics and the lists are where they were.
    let inside = outside.server.http()[0];
    let mut stream = TcpStream::connect(inside).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: example.test\r\n\r\n").unwrap();
    assert_eq!(read(&mut BufReader::new(stream)).unwrap().status, 200);
    // And a name of the world is none there.
    let mut stream = TcpStream::connect(inside).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").unwrap();
    assert!(read(&mut BufReader::new(stream)).unwrap().head.contains("adt-page"));
    assert!(outside.witness.take().is_empty(), "nothing of all that reached a machine, at port {port}");
}

#[test]
fn a_certificate_is_for_its_own_names_only() {
    let outside = Outside::new();
    for name in [HOST, "example.test", "nobody.example", "127.0.0.1"] {
        let said = outside.secure(name, &["-k"]);
        assert!(said.contains("curl: (35)"), "{name}: {said}");
    }
    // Another name of the same environment is served, as browsers do it; one of another environment isn't.
    for (host, status) in [("shop.example", "200"), ("other.example", "421"), (HOST, "404"), ("example.test", "404")] {
        let said = outside.secure(NAME, &["-H", &format!("Host: {host}")]);
        assert!(said.starts_with(&format!("HTTP/2 {status}")), "{host}: {said}");
    }
    let said = outside.secure("other.example", &["-k"]);
    assert!(said.starts_with("HTTP/2 503") && !said.contains("1162") && !said.contains("adt"), "{said}");
}

#[test]
fn an_authority_finds_its_answer_and_nobody_finds_a_file() {
    let outside = Outside::new();
    let posted = outside.challenges.post("token", "token.thumb");
    let at = |path: &str| outside.get(NAME, path);
    let answer = at("/.well-known/acme-challenge/token");
    assert_eq!((answer.status, answer.body.as_str()), (200, "token.thumb"), "{answer:?}");
    for path in ["token/", "token?x", "../acme-challenge/token", "%74oken", "", "/token", "../../../../etc/passwd", "TOKEN"] {
        let answer = at(&format!("/.well-known/acme-challenge/{path}"));
        assert_eq!(answer.status, if path == "token?x" { 200 } else { 308 }, "{path}: {answer:?}");
    }
    assert_eq!(outside.get("nobody.example", "/.well-known/acme-challenge/token").status, 404);
    drop(posted);
    assert_eq!(at("/.well-known/acme-challenge/token").status, 308);
}

#[test]
fn the_door_closes_and_opens_with_the_names() {
    let outside = Outside::new();
    let connect = || TcpStream::connect(("127.0.0.1", outside.ports.http));
    assert_eq!(outside.get(NAME, "/").status, 308);
    outside.server.update(routes(&[outside.witness.address]));
    assert_eq!(outside.get(NAME, "/").status, 404, "a name that went is one that nobody knows");
    outside.server.close_to_world();
    super::until("a closed door", || connect().is_err());
    outside.server.update(world_routes(&outside.witness));
    outside.server.open_to_world().unwrap();
    assert_eq!(outside.get(NAME, "/").status, 308);
}

#[test]
fn the_log_tells_the_name_that_the_world_asked_for() {
    let outside = Outside::new();
    assert!(outside.secure("SHOP.example", &[]).starts_with("HTTP/2 200"));
    super::until("its line", || outside.log().contains(" 127.0.0.1 GET https://shop.example/page 200 "));
    assert!(!outside.log().contains("1161"), "{}", outside.log());
}

/// A port that nobody listens at.
fn down(routes: &mut Routes) {
    for backend in &mut routes.platforms[1].environments[0].sites[1].backends {
        backend.address = ([127, 0, 0, 1], free_port()).into();
    }
}

#[test]
fn a_site_that_is_down_tells_the_world_so_and_no_more() {
    let outside = Outside::with(down);
    for name in [NAME, "other.example"] {
        for (accept, kind, words) in [
            ("text/html,*/*", "text/html; charset=utf-8", "Please try again in a little while"),
            ("application/json", "application/json", "{\"error\":\"this site can't be reached"),
            ("*/*", "text/plain; charset=utf-8", "this site can't be reached"),
        ] {
            let said = outside.secure(name, &["-k", "-H", &format!("Accept: {accept}")]);
            assert!(said.starts_with("HTTP/2 503") && said.contains("\nretry-after: "), "{name} {accept}: {said}");
            assert!(said.contains(&format!("content-type: {kind}")) && said.contains(words), "{name} {accept}: {said}");
            for inside in ["adt", "1161", "1162", "web1", "env:", "127.0.0.1", "halted", "example.test"] {
                assert!(!said.contains(inside), "{name} {accept} tells `{inside}`: {said}");
            }
        }
        let said = outside.secure(name, &["-k", "--head", "-H", "Accept: text/html"]);
        assert!(said.starts_with("HTTP/2 503") && !said.contains("<h1>"), "{said}");
    }
}

#[test]
fn a_client_that_stays_with_a_machine_is_not_told_its_name() {
    let outside = Outside::with(|routes| routes.platforms[1].environments[0].sites[1].sticky = true);
    let said = outside.secure(NAME, &[]);
    let cookie = said.split("adt-backend=").nth(1).and_then(|rest| rest.split(';').next()).expect("it is sticky");
    assert!(cookie.len() == 16 && !said.contains("web1") && !said.contains("1161"), "{said}");
    assert!(!outside.secure(NAME, &["-H", &format!("Cookie: adt-backend={cookie}")]).contains("adt-backend"));
}

pub fn networks(words: &[&str]) -> BTreeSet<IpNet> {
    words.iter().map(|word| word.parse().unwrap()).collect()
}

fn denied(routes: &mut Routes) {
    routes.platforms[1].environments[0].edge.deny = networks(&["127.0.0.0/8", "198.51.100.0/24", "2001:db8:7::/48"]);
}

#[test]
fn a_denied_client_reaches_no_machine() {
    let outside = Outside::with(denied);
    let posted = outside.challenges.post("token", "token.thumb");
    for path in ["/", "/page", "/.well-known/acme-challenge/other"] {
        let answer = outside.get(NAME, path);
        assert_eq!((answer.status, answer.body.as_str()), (403, ""), "{path}: {answer:?}");
    }
    // What it says of itself changes nothing.
    let said = outside
        .secure(NAME, &["-H", "X-Forwarded-For: 192.0.2.1", "-H", "X-Real-IP: 192.0.2.1", "-H", "Forwarded: for=192.0.2.1"]);
    assert!(said.starts_with("HTTP/2 403"), "{said}");
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    assert!(outside.secure(NAME, &upgrade).starts_with("HTTP/1.1 403"));
    assert!(outside.witness.take().is_empty());
    // Load balancers and authorities are answered, and another environment's sites.
    assert_eq!(outside.get("10.1.2.3", "/.well-known/adt/health").status, 200);
    assert_eq!(outside.get(NAME, "/.well-known/acme-challenge/token").body, "token.thumb");
    drop(posted);
    assert_eq!(outside.get("other.example", "/").status, 503);
    // A new definition counts from the next request on.
    outside.server.update(world_routes(&outside.witness));
    assert_eq!(outside.get(NAME, "/").status, 308);
}
