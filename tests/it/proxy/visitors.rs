//! What a site in the world asks of its visitors: a password, and to ask for no more than they may have.

use std::io::{BufReader, Write};
use std::net::TcpStream;

use adt::model::Routes;
use adt::model::edge::ClientLimits;

use super::public::{NAME, Outside, networks, world_routes};
use super::{Answer, PATIENCE, read, until};

/// Of `open sesame`, for ada; of `grüße:1`, for bob.
const ADA: &str = "$2y$10$QuwZDJrBN2IeRqFGde7Bu.j7Yo/NjR9U27NrdszkKMjDuAluAaY9C";
const BOB: &str = "$2y$10$uEBQPxXTqR9jOhaa2X3AN.mi1vvQDfE.jqR6qyTiD4GllDVMzBZQu";

/// `www` is for these; it would be served over http, but for its password.
fn asking(routes: &mut Routes, users: &[(&str, &str)]) {
    let environment = &mut routes.platforms[1].environments[0];
    environment.sites[1].https_only = false;
    let users = users.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect();
    environment.edge.users.insert("www".parse().unwrap(), users);
    environment.edge.names.insert("api".parse().unwrap(), vec!["api.example".parse().unwrap()]);
}

fn both(routes: &mut Routes) {
    asking(routes, &[("ada", ADA), ("bob", BOB)]);
}

/// By any of its names: `api.example` has another authority than `shop.example`.
fn status(outside: &Outside, name: &str, args: &[&str]) -> u16 {
    let said = outside.secure(name, &[args, &["-k", "-o", "/dev/null", "-w", "%{http_code}"]].concat());
    said.rsplit('\n').next().and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{args:?}: {said}"))
}

#[test]
fn a_site_with_users_is_shown_to_them_alone() {
    let outside = Outside::with(both);
    let said = outside.secure(NAME, &[]);
    assert!(said.starts_with("HTTP/2 401"), "{said}");
    assert!(said.contains(&format!("www-authenticate: Basic realm=\"{NAME}\", charset=\"UTF-8\"\r\n")), "{said}");
    assert!(!said.contains("adt") && !said.contains("ada"), "{said}");
    for right in ["ada:open sesame", "bob:grüße:1"] {
        assert_eq!(status(&outside, NAME, &["-u", right]), 200, "{right}");
        let head = outside.witness.take()[0].head.to_ascii_lowercase();
        assert!(!head.contains("authorization"), "the password goes no further than the door: {head}");
    }
    // Over http nobody is asked to say it.
    let answer = outside.get(NAME, "/");
    assert_eq!((answer.status, answer.header("www-authenticate")), (308, None), "{answer:?}");
    // What is not the site's is nobody's secret, nor is another site.
    let posted = outside.challenges.post("token", "token.thumb");
    assert_eq!(outside.get(NAME, "/.well-known/acme-challenge/token").body, "token.thumb");
    drop(posted);
    assert_eq!(status(&outside, NAME, &["--path-as-is", "--request-target", "/.well-known/adt/health"]), 200);
    assert_eq!(status(&outside, "api.example", &[]), 200);
    until("a line for who was refused", || outside.log().contains(&format!("GET https://{NAME}/page 401 0 ")));
    assert!(!outside.log().contains("sesame"));
}

#[test]
fn no_trick_with_a_password_opens_a_site() {
    let outside = Outside::with(both);
    // Known from here on, so that what is remembered is tried as well.
    assert_eq!(status(&outside, NAME, &["-u", "ada:open sesame"]), 200);
    outside.witness.take();
    let word = "YWRhOm9wZW4gc2VzYW1l";
    assert_eq!(status(&outside, NAME, &["-H", &format!("Authorization: bAsIc  {word}")]), 200);
    outside.witness.take();
    for args in [
        ["-u", "ada:open sesam"].as_slice(),
        &["-u", "ada:Open sesame"],
        &["-u", "ADA:open sesame"],
        &["-u", "bob:open sesame"],
        &["-u", "eve:open sesame"],
        &["-u", ":open sesame"],
        &["-u", "ada:"],
        // The hash is no password.
        &["-u", &format!("ada:{ADA}")],
    ] {
        assert_eq!(status(&outside, NAME, args), 401, "{args:?}");
    }
    let twice = format!("Authorization: Basic {word}");
    for args in [
        ["-H", &twice, "-H", "Authorization: Basic x"].as_slice(),
        &["-H", &format!("Authorization: Bearer {word}")],
        &["-H", &format!("Authorization: Basic{word}")],
        &["-H", &format!("Authorization: Basic {word}!")],
        &["-H", "Authorization: Basic YWRh"],
        &["-H", "Authorization: Basic"],
        &["-H", "Authorization;"],
        &["-H", &format!("Proxy-Authorization: Basic {word}")],
        &["-H", &format!("Cookie: Authorization=Basic {word}")],
        &["-H", &format!("X-Authorization: Basic {word}"), "-H", "X-Forwarded-User: ada"],
        // Neither another name of the site, another method, a path that looks like adt's, nor an upgrade.
        &["-X", "OPTIONS"],
        &["--http1.1", "-X", "POST", "-d", "x"],
        &["--request-target", "/.well-known/adt/health/../../page", "--path-as-is"],
        &["--request-target", "/.well-known/acme-challenge/x", "--path-as-is"],
        &["-X", "POST", "--request-target", "/.well-known/adt/health"],
        &["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"],
    ] {
        assert_eq!(status(&outside, NAME, args), 401, "{args:?}");
    }
    assert_eq!(status(&outside, "shop.example", &[]), 401);
    assert!(outside.witness.take().is_empty());
    // Another password makes the one before worthless, also where it is remembered.
    let mut routes = world_routes(&outside.witness);
    asking(&mut routes, &[("ada", BOB)]);
    outside.server.update(routes);
    assert_eq!(status(&outside, NAME, &["-u", "ada:open sesame"]), 401, "what was right is a guess now");
}

#[test]
fn who_guesses_has_ten_guesses_and_locks_nobody_else_out() {
    let outside = Outside::with(|routes| {
        both(routes);
        routes.platforms[1].environments[0].edge.proxy_protocol = networks(&["127.0.0.1/32"]);
    });
    let ask = |client: &str, password: &str| {
        let port = super::introduced::balancer(&outside, super::introduced::line(client));
        outside.secure_by(port, NAME, &["-u", password])
    };
    assert!(ask("203.0.113.1", "ada:open sesame").starts_with("HTTP/2 200"), "who knows it has used up no guess");
    let all: Vec<_> = (0..12).map(|number| ask("203.0.113.1", &format!("ada:{number}"))).collect();
    let refused: Vec<_> = all.iter().filter(|said| said.starts_with("HTTP/2 401")).collect();
    assert!((10..12).contains(&refused.len()), "{all:?}");
    let last = all.last().unwrap();
    let wait = last.split("retry-after: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse::<u64>().ok());
    assert!(last.starts_with("HTTP/2 429") && wait.is_some_and(|wait| (1..=6).contains(&wait)), "{last}");
    // Right or wrong, a guess is one, and what it was right about is not told; another client has its own.
    assert!(ask("203.0.113.1", "bob:grüße:1").starts_with("HTTP/2 429"));
    assert!(ask("203.0.113.2", "ada:open sesame").starts_with("HTTP/2 200"));
}

#[test]
fn many_requests_with_one_password_are_one_guess() {
    let outside = Outside::with(both);
    let mut urls = Vec::new();
    for number in 0..30 {
        urls.push(format!("https://{NAME}/{number}"));
    }
    let args = [
        ["-u", "ada:open sesame", "-Z", "--parallel-max", "30"].as_slice(),
        &urls.iter().map(String::as_str).collect::<Vec<_>>(),
    ];
    let said = outside.secure(NAME, &args.concat());
    assert_eq!(said.matches("HTTP/2 200").count(), 31, "{said}");
}

fn plain(outside: &Outside, keys: ClientLimits) -> impl Fn(&str) -> Answer {
    let mut routes = world_routes(&outside.witness);
    let environment = &mut routes.platforms[1].environments[0];
    environment.sites[1].https_only = false;
    environment.edge.limits = keys;
    environment.edge.proxy_protocol = networks(&["127.0.0.1/32"]);
    outside.server.update(routes);
    let port = outside.ports.http;
    move |client| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let family = if client.contains(':') { "TCP6" } else { "TCP4" };
        let here = if client.contains(':') { "::1" } else { "192.0.2.1" };
        write!(stream, "PROXY {family} {client} {here} 1 2\r\nGET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")
            .unwrap();
        read(&mut BufReader::new(stream)).unwrap()
    }
}

#[test]
fn a_client_that_asks_too_often_is_told_when_to_come_again() {
    let outside = Outside::new();
    let ask = plain(&outside, ClientLimits { requests: Some(1), at_once: None });
    for (client, same, other) in
        [("203.0.113.1", "203.0.113.1", "203.0.113.2"), ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")]
    {
        // Each over a connection of its own, so that a new one is no new beginning.
        let served = (0..30).take_while(|_| ask(client).status == 200).count();
        assert!((10..30).contains(&served), "{served} of 30 within a moment");
        let answer = ask(same);
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{answer:?}");
        assert_eq!(ask(other).status, 200);
        until("the next second", || ask(client).status == 200);
    }
}

#[test]
fn a_client_has_so_many_requests_open_and_no_more() {
    let outside = Outside::new();
    let ask = plain(&outside, ClientLimits { requests: None, at_once: Some(2) });
    // Bodies that don't come keep requests open.
    let open = || {
        let mut stream = TcpStream::connect(("127.0.0.1", outside.ports.http)).unwrap();
        write!(stream, "PROXY TCP4 203.0.113.1 192.0.2.1 1 2\r\nPOST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 5\r\n\r\n")
            .unwrap();
        stream
    };
    let mut held = vec![open(), open()];
    until("a third that is one too many", || ask("203.0.113.1").status == 429);
    assert_eq!(ask("203.0.113.1").header("retry-after"), Some("1"));
    assert_eq!(ask("203.0.113.2").status, 200);
    held.pop();
    until("a place", || ask("203.0.113.1").status == 200);
}
