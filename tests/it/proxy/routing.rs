//! Which name leads where, and what is said where nothing is.

use std::io::{BufReader, Write};
use std::net::SocketAddr;

use adt::proxy::{Config, Error, Server};

use super::{HOST, backend, read, routes, world, world_with, www};

#[test]
fn sites_answer_over_every_protocol() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    for (args, url, version) in [
        (&["--http1.1"][..], "http://www.1161.shop.example.test/a?b=c", "200 1.1"),
        (&["--http2-prior-knowledge"][..], "http://www.1161.shop.example.test/a?b=c", "200 2"),
        (&["--http1.1"][..], "https://www.1161.shop.example.test/a?b=c", "200 1.1"),
        (&["--http2"][..], "https://www.1161.shop.example.test/a?b=c", "200 2"),
        (&["--http2"][..], "https://any.www.1161.shop.example.test/a?b=c", "200 2"),
    ] {
        let said = world.curl(&[args, &["-H", "X-Forwarded-For: 9.9.9.9", "-d", "some body", "-X", "PUT"]].concat(), url);
        assert!(said.ends_with(version), "{url}: {said}");
        let (scheme, rest) = url.split_once("://").unwrap();
        let name = rest.split_once('/').unwrap().0;
        let port = if scheme == "https" { world.server.https()[0].port() } else { world.server.http()[0].port() };
        for line in [
            "PUT /a?b=c".to_owned(),
            format!("host: {name}:{port}"),
            "x-forwarded-for: 127.0.0.1".into(),
            format!("x-forwarded-proto: {scheme}"),
            format!("x-forwarded-host: {name}:{port}"),
            format!("x-forwarded-port: {port}"),
            format!("forwarded: for=127.0.0.1;proto={scheme};host=\"{name}:{port}\""),
            "some body".into(),
        ] {
            assert!(said.lines().any(|has| has == line), "{url}: no `{line}` in {said}");
        }
    }
}

#[test]
fn names_lead_to_sites_homepages_and_reasons() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    for (host, status, says) in [
        (HOST, 200, "web1"),
        ("WWW.1161.Shop.example.TEST", 200, "web1"),
        ("www.1161.shop.example.test.", 200, "web1"),
        ("www.1161.shop.example.test:8080", 200, "web1"),
        ("deep.below.www.1161.shop.example.test", 200, "web1"),
        ("example.test", 200, "shop.example.test"),
        ("shop.example.test", 200, "1161.shop.example.test"),
        ("1161.shop.example.test", 200, "db.1161.shop.example.test 10.1.2.3"),
        ("1162.shop.example.test", 200, "www.1162.shop.example.test"),
        ("www.1162.shop.example.test", 503, "environment shop/1162 is halted\ntry: adt env:up shop 1162"),
        ("old.1161.shop.example.test", 404, "environment 1161 of shop has no site `old`"),
        ("db.1161.shop.example.test", 404, "adt env:ssh shop 1161 db"),
        ("www.1163.shop.example.test", 404, "adt env:init shop 1163"),
        ("www.1163.nobody.example.test", 404, "no platform"),
        ("example.com", 404, "not a name that adt answers for"),
        ("127.0.0.1", 404, "not a name"),
        ("[::1]:80", 404, "not a name"),
        ("a..b", 400, "could exist"),
        ("user@www.1161.shop.example.test", 400, "could exist"),
        ("www.1161.shop.example.test/x", 400, "could exist"),
        ("www.1161.shop.example.test:99999", 400, "could exist"),
        ("", 400, "could exist"),
    ] {
        let answer = world.get(host, "/");
        assert_eq!(answer.status, status, "{host}: {answer:?}");
        assert!(answer.body.contains(says), "{host}: {answer:?}");
    }
    for (request, status) in [
        (format!("GET http://{HOST}/abs HTTP/1.1\r\nHost: example.com\r\n\r\n"), 200),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\n\r\n"), 400),
        (format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n"), 200),
        (format!("TRACE / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 405),
        (format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 405),
        ("POST / HTTP/1.1\r\nHost: shop.example.test\r\nContent-Length: 0\r\n\r\n".into(), 405),
        ("HEAD / HTTP/1.0\r\nHost: shop.example.test\r\n\r\n".into(), 200),
    ] {
        let mut stream = world.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        if request.starts_with("HEAD") {
            std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
            assert!(text.starts_with("HTTP/1.0 200") && text.ends_with("\r\n\r\n"), "{text}");
            continue;
        }
        assert_eq!(read(&mut BufReader::new(stream)).unwrap().status, status, "{request}");
    }
    let absolute = world.say(&format!("GET http://{HOST}/abs HTTP/1.1\r\nHost: example.com\r\n\r\n"));
    assert!(absolute.body.contains("GET /abs\n") && absolute.body.contains(&format!("host: {HOST}\n")), "{absolute:?}");
}

#[test]
fn pages_take_the_form_that_is_asked_for_and_never_markup_from_data() {
    let world = world(&[]);
    let ask = |host: &str, accept: &str| world.say(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n"));
    let page = ask("example.test", "text/html,*/*");
    assert!(page.body.contains("&lt;script&gt;alert(1)") && !page.body.contains("<script"), "{}", page.body);
    let page = ask("1161.shop.example.test", "text/html,*/*");
    assert!(page.body.contains("&lt;b&gt;anna") && page.body.contains("adt env:ssh shop 1161 db"), "{}", page.body);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let page = ask("<img>.shop.example.test", "text/html");
    assert_eq!(page.status, 400);
    let json = ask("www.1162.shop.example.test", "application/json");
    let value: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(value["error"]["command"], "adt env:up shop 1162");
    assert_eq!(json.header("retry-after"), Some("10"));
    let missing = ask("www.9.shop.example.test", "text/html");
    assert!(missing.body.contains("1161.shop.example.test") && !missing.body.contains("other"), "{}", missing.body);
    let nobody = ask(HOST, "text/plain");
    assert_eq!((nobody.status, nobody.body.contains("no machine serves")), (503, true), "{nobody:?}");
}

#[test]
fn https_only_sites_send_there_with_everything() {
    let web = backend::echo("web1");
    let mut routes = routes(&[web.address]);
    www(&mut routes).https_only = true;
    let world = world_with(routes, Default::default());
    let port = world.server.https()[0].port();
    let answer = world.get(HOST, "/a?b=c");
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location").unwrap(), format!("https://{HOST}:{port}/a?b=c"));
    let secure = world.curl(&[], "https://www.1161.shop.example.test/");
    assert!(secure.ends_with("200 2"), "{secure}");
}

#[test]
fn a_client_stays_with_its_backend_where_a_site_is_sticky() {
    let (one, two) = (backend::echo("one"), backend::echo("two"));
    let mut routes = routes(&[one.address, two.address]);
    www(&mut routes).sticky = true;
    let world = world_with(routes, Default::default());
    let first = world.get(HOST, "/");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let name = first.body.lines().next().unwrap().to_owned();
    for _ in 0..6 {
        let next = world.say(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nCookie: a=b; {cookie}\r\n\r\n"));
        assert_eq!(next.body.lines().next(), Some(name.as_str()));
        assert_eq!(next.header("set-cookie"), None);
    }
    // Its backend dies: the other one takes over and says so.
    if name == "one" {
        one.kill()
    } else {
        two.kill()
    }
    let next = world.say(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\n\r\n"));
    assert_eq!(next.status, 200);
    assert!(next.header("set-cookie").is_some());
}

#[test]
fn an_address_in_use_is_named() {
    let world = world(&[]);
    let address: SocketAddr = world.http();
    let config = Config { http: vec![address], ..Config::default() };
    let error = Server::start(config, world.routes.clone(), world.certificates.clone()).unwrap_err();
    assert!(matches!(error, Error::InUse { address: named } if named == address), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config { http: vec![taken.local_addr().unwrap()], ..Config::default() };
    let error = Server::start(config, world.routes.clone(), world.certificates.clone()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
}

#[test]
fn requests_are_counted_by_site() {
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    for _ in 0..3 {
        world.get(HOST, "/");
    }
    super::until("the counter", || {
        world.server.metrics().contains(&format!("adt_proxy_requests_total{{host=\"{HOST}\",class=\"2xx\"}} 3"))
    });
    assert!(world.server.metrics().contains(&format!("adt_proxy_requests_in_flight{{host=\"{HOST}\"}} 0")));
}

#[test]
fn the_head_of_a_page_comes_without_the_page() {
    let world = world(&[]);
    for version in ["--http1.1", "--http2"] {
        let whole = world.curl(&[version], "https://shop.example.test/");
        let head = world.curl(&[version, "--head"], "https://shop.example.test/");
        let length = whole.rsplit_once('\n').unwrap().0.len();
        assert!(head.contains(&format!("content-length: {length}\r\n")) && !head.contains("curl:"), "{head}\n{whole}");
    }
}
