//! Counted under load, through the whole program: what a dying machine costs (no idempotent request), what other environments'
//! coming and going costs (nothing), and what ten thousand clients cost that only sit there (memory, and not much of it).

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::served::{SITE, Served};
use super::servers::{connect_from, installed, until};

#[test]
fn load_is_carried_whatever_happens_beside_it() {
    if !installed(&["wrk", "h2load"]) {
        return;
    }
    // What a process begins with on Debian; the daemon has to help itself.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: limit.maximum }).unwrap();
    let Some(served) = Served::new() else { return };
    let neighbours = || {
        for _ in 0..2 {
            served.adt.run("env:init 1162").ok();
            let page = "https://www.1162.hello.example.test/healthz";
            until("1162 answers", || served.attempt("curl", &["-sSf", "--noproxy", "*", page]).0);
            served.adt.run("env:destroy 1162 --yes").ok();
        }
    };
    under_load(&served, "neighbours come and go", &neighbours);
    idle(&served);
    under_load(&served, "a web machine dies", &|| drop(served.adt.run("env:exec 1161 web1 -- poweroff -ff")));
    let list = served.adt.run("env:list --json").ok().json();
    assert_eq!(list[0]["state"], "partial", "web1 did not die: {list}");
    served.end();
}

/// HTTP/1.1 and HTTP/2 at once, over TLS, from before `act` begins until after it ended.
fn under_load(served: &Served, what: &str, act: &dyn Fn()) {
    let url = format!("https://{SITE}/");
    let over = AtomicBool::new(false);
    let repeat = |round: &(dyn Fn() -> u64 + Sync)| {
        let mut total = round();
        while !over.load(Ordering::Relaxed) {
            total += round();
        }
        total
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| repeat(&|| http1(&served.program("wrk", &["-t1", "-c6", "-d8s", "--timeout", "30s", &url]))));
        let two = scope.spawn(|| repeat(&|| http2(&served.program("h2load", &["-t1", "-c2", "-m3", "-D8", &url]))));
        std::thread::sleep(Duration::from_secs(2));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (one.join().unwrap(), two.join().unwrap())
    });
    println!("{what}: {one} requests by HTTP/1.1 and {two} by HTTP/2, none failed, no connection broke");
    assert!(one > 50 && two > 50, "{what}: hardly any load");
}

/// How many requests wrk made; none failed.
#[track_caller]
fn http1(said: &str) -> u64 {
    // It says these only where there are any.
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    count(said, "requests in")
}

/// The same of h2load.
#[track_caller]
fn http2(said: &str) -> u64 {
    assert!(said.contains(" 0 failed, 0 errored, 0 timeout") && said.contains(" 0 3xx, 0 4xx, 0 5xx"), "{said}");
    count(said, "status codes:")
}

fn count(said: &str, word: &str) -> u64 {
    let line = said.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no `{word}` in {said}"));
    line.split(|c: char| !c.is_ascii_digit()).find_map(|number| number.parse().ok()).expect("a number")
}

fn idle(served: &Served) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let wanted = usize::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap().saturating_sub(1000).min(10_000);
    let front = SocketAddr::from((Ipv4Addr::new(127, 77, 77, 77), 80));
    let before = resident(served);
    let clients: Vec<_> = served.there(|| {
        let open = |number: usize| {
            // One address alone gets half of all places.
            let address = Ipv4Addr::new(127, 0, 1, u8::try_from(number % 16).unwrap());
            let mut client = connect_from(address, front);
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            // One in ten had an answer before it fell silent.
            if number.is_multiple_of(10) {
                write!(client, "GET / HTTP/1.1\r\nHost: example.test\r\n\r\n").unwrap();
                let mut line = String::new();
                BufReader::new(&client).read_line(&mut line).unwrap();
                assert_eq!(line, "HTTP/1.1 200 OK\r\n");
            }
            client
        };
        (0..wanted).map(open).collect()
    });
    let said = served.program("curl", &["-sSf", "--noproxy", "*", &format!("https://{SITE}/")]);
    assert!(said.contains("<title>"), "others are not served: {said}");
    let seen = served.program("dig", &["+short", "+tcp", SITE]);
    assert!(seen.contains("127.77.77.77"), "{seen}");
    let grown = resident(served).saturating_sub(before);
    println!("{wanted} idle clients: {before} KB resident before, {grown} KB more with them");
    assert!(grown < 100 << 10, "{grown} KB");
    drop(clients);
}

/// Of the daemon, in KB.
fn resident(served: &Served) -> u64 {
    let holder = std::fs::read_to_string(served.adt.store().join("locks/host.lock")).unwrap();
    let holder: serde_json::Value = serde_json::from_str(&holder).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", holder["pid"])).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
