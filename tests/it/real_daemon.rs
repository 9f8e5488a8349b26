//! Names and pages of real machines: a name works as soon as its environment does, inside and outside, through a takeover under
//! load and past other people's servers.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::adt::Adt;
use super::servers::{installed, until};

/// What curl prints inside a machine, with its status behind it.
fn inside(adt: &Adt, environment: &str, machine: &str, url: &str) -> String {
    let curl = "curl -sS --max-time 20 --noproxy * -w \\n%{http_code}";
    let run = adt.run(&format!("env:exec {environment} {machine} -- {curl} {url}"));
    format!("{}{}", run.stdout, run.stderr)
}

fn is_served(adt: &Adt, environment: &str) -> bool {
    let host = format!("www.{environment}.hello.example.test");
    adt.address_of(&host, &[]) == "127.77.77.77" && adt.page(&format!("https://{host}/healthz")).contains("ok")
}

#[test]
fn a_name_works_inside_and_outside_as_soon_as_its_environment_does() {
    if !installed(&["curl", "dig", "dnsmasq", "apache2"]) {
        return;
    }
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.up();
    adt.run("platform:init hello").ok();
    adt.run("env:init 1").ok();
    let since = Instant::now();
    until("the new site is served", || is_served(&adt, "1"));
    // Includes two programs of this test; said, not asserted, because a busy host is slow.
    eprintln!("served {} ms after env:init returned", since.elapsed().as_millis());

    from_inside(&adt);
    adt.run("env:init 2").ok();
    until("the second site is served", || is_served(&adt, "2"));
    let other = inside(&adt, "1", "web1", "https://www.2.hello.example.test/");
    assert!(other.contains("environments can't reach each other") && other.ends_with("\n403"), "{other}");
    let home = inside(&adt, "1", "web1", "https://1.hello.example.test/");
    assert!(home.contains("www.1.hello.example.test") && home.ends_with("\n200"), "{home}");

    takeover(&adt);
    while_it_is_down(&adt);
    past_other_servers(&adt);
    let log = std::fs::read_to_string(adt.store().join("access.log")).expect("it was written");
    let line = log.lines().find(|line| line.contains(" GET https://www.1.hello.example.test/healthz 200 "));
    assert!(line.is_some_and(|line| line.starts_with("20") && line.contains("ms web")), "{log}");
    assert!(!log.contains("secret"), "what is behind `?` stays out of it");

    adt.run("platform:destroy hello --yes").ok();
    until("the name is gone", || adt.address_of("www.1.hello.example.test", &[]).is_empty());
    adt.run("host:halt").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

fn from_inside(adt: &Adt) {
    let site = "www.1.hello.example.test";
    for machine in ["web1", "web2"] {
        for url in [format!("https://{site}/healthz?secret"), format!("http://{site}/healthz"), format!("https://any.{site}/healthz")] {
            let page = inside(adt, "1", machine, &url);
            assert!(page.ends_with("\n200"), "{machine} {url}: {page}");
        }
    }
    // By default, not by a word of curl's.
    adt.run(&format!("env:exec 1 web1 -- openssl s_client -verify_return_error -connect {site}:443 -servername {site}"))
        .ok()
        .says("Verify return code: 0 (ok)");
    // What the box has is not touched, and what it trusts is trusted still.
    let pem = std::fs::read_to_string(adt.store().join("tls/authority/example.test.pem")).expect("it serves https");
    let bundle = adt.run("env:exec 1 web1 -- cat /etc/ssl/certs/ca-certificates.crt").ok().stdout;
    assert!(bundle.contains(pem.trim()) && bundle.matches("BEGIN CERTIFICATE").count() > 100);
    let mut bundles = 0;
    for layer in std::fs::read_dir(adt.store().join("layers")).expect("a store has layers").flatten() {
        let path = layer.path().join("rootfs/etc/ssl/certs/ca-certificates.crt");
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        assert!(!text.contains(pem.trim()));
        bundles += 1;
    }
    assert!(bundles > 0);
    // Who refreshes the bundle inside keeps the authority.
    adt.run("env:exec 1 web2 -- update-ca-certificates --fresh").ok();
    assert!(inside(adt, "1", "web2", &format!("https://{site}/healthz")).ends_with("\n200"));
}

/// Killed under load, and started again: what was lost is what ran at that instant.
fn takeover(adt: &Adt) {
    let (stop, served, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let count = if adt.page("https://www.1.hello.example.test/healthz").contains("ok") { &served } else { &lost };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("some requests are served", || served.load(Ordering::Relaxed) > 10);
        adt.kill_daemon();
        let since = Instant::now();
        adt.up();
        let took = since.elapsed();
        let (before, failed) = (served.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
        assert!(is_served(adt, "1") && is_served(adt, "2"), "everything is there when the start returns");
        // Each thread may have one request that began while nobody served.
        until("more requests are served", || served.load(Ordering::Relaxed) > before + 10);
        assert!(lost.load(Ordering::Relaxed) <= failed + 2, "requests fail after the takeover");
        eprintln!("the successor served after {} ms; {failed} requests found nobody", took.as_millis());
        stop.store(true, Ordering::Relaxed);
    });
}

/// Sites answer over plain http from one machine to another, whatever is down outside.
fn while_it_is_down(adt: &Adt) {
    adt.run("host:halt").ok();
    for machine in ["web1", "web2"] {
        let page = inside(adt, "1", machine, "http://www.1.hello.example.test/healthz");
        assert!(page.ends_with("\n200"), "{machine}: {page}");
    }
    let since = Instant::now();
    let run = adt.run("env:exec 1 web1 -- getent hosts no-such-name.example.test");
    assert_eq!(run.code, 2, "{run:?}");
    assert!(since.elapsed() < Duration::from_secs(60));
}

/// The gateways' ports are held by others at every address, too.
fn past_other_servers(adt: &Adt) {
    let others = [super::daemon::apache(adt), super::daemon::dnsmasq(adt)];
    adt.up().says("port 443 belongs to apache2");
    assert!(is_served(adt, "1"));
    for url in ["https://www.1.hello.example.test/healthz", "http://www.1.hello.example.test/healthz", "https://1.hello.example.test/"] {
        let page = inside(adt, "1", "web1", url);
        assert!(page.ends_with("\n200") && !page.contains("somebody's"), "{url}: {page}");
    }
    // One that comes later.
    adt.run("env:init 3").ok();
    until("the third site is served", || is_served(adt, "3"));
    assert!(inside(adt, "3", "web1", "https://www.3.hello.example.test/healthz").ends_with("\n200"));
    adt.run("host:halt").ok();
    drop(others);
    adt.up();
    assert!(inside(adt, "1", "web1", "https://www.1.hello.example.test/healthz").ends_with("\n200"));
}
