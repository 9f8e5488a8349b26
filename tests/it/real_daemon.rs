//! Names and pages of real machines: a name works as soon as its environment does, inside and outside, through a takeover under
//! load and past other people's servers.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use super::adt::Adt;
use super::daemon::Foreign;
use super::servers::{installed, until};

/// What curl prints inside a machine, with its status behind it.
fn inside(adt: &Adt, environment: &str, machine: &str, url: &str) -> String {
    let curl = "curl -sS --max-time 20 --noproxy * -w \\n%{http_code}";
    let run = adt.run(&format!("env:exec {environment} {machine} -- {curl} {url}"));
    format!("{}{}", run.stdout, run.stderr)
}

/// The same by way of the gateway, whatever the name leads to.
fn through_gateway(adt: &Adt, environment: &str, port: u16, url: &str) -> String {
    inside(adt, environment, "web1", &format!("--connect-to ::gateway.{environment}.hello.example.test:{port} {url}"))
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
    assert!(is_served(&adt, "1"), "when the command returns, the site is there");

    from_inside(&adt);
    adt.run("env:init 2").ok();
    until("the second site is served", || is_served(&adt, "2"));
    let other = through_gateway(&adt, "1", 443, "https://www.2.hello.example.test/");
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
        for url in [format!("https://{site}/healthz?secret"), format!("http://{site}/healthz"), format!("https://{site}/")] {
            let page = inside(adt, "1", machine, &url);
            assert!(page.ends_with("\n200"), "{machine} {url}: {page}");
        }
    }
    // Browsers are sent to https, machines are not.
    let page = through_gateway(adt, "1", 80, &format!("http://{site}/healthz"));
    assert!(page.ends_with("\n200"), "{page}");
    assert!(through_gateway(adt, "1", 443, &format!("https://any.{site}/healthz")).ends_with("\n200"));
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
}

/// The gateways' ports are held by others at every address, too.
fn past_other_servers(adt: &Adt) {
    let others = [super::daemon::apache(adt), super::daemon::dnsmasq(adt)];
    adt.up().says("port 443 belongs to apache2");
    assert!(is_served(adt, "1"));
    for url in
        ["https://www.1.hello.example.test/healthz", "http://www.1.hello.example.test/healthz", "https://1.hello.example.test/"]
    {
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

/// Debian's own configuration of a server, as a copy that this test's host alone sees.
fn own_copy(adt: &Adt, folder: &str) {
    let copy = adt.path().join(folder.trim_start_matches('/').replace('/', "-"));
    adt.host().run(&format!("cp -a {folder} {}", copy.display()));
    adt.host().run(&format!("mount --bind {} {folder}", copy.display()));
}

#[test]
fn apache_and_bind_follow_the_environments_by_themselves() {
    if !installed(&["curl", "dig", "apache2", "named"]) {
        return;
    }
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    // Without the real host's systemd, servers are told through their process ids.
    adt.host().run("mount -t tmpfs none /run");
    adt.host().run("mkdir -p /run/apache2 /run/named /run/lock");
    own_copy(&adt, "/etc/apache2");
    own_copy(&adt, "/etc/bind");
    std::fs::set_permissions(adt.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let options = "options { directory \"/run/named\"; recursion no; listen-on { 127.0.0.1; }; listen-on-v6 { none; }; };\n\
                   include \"/etc/bind/named.conf.local\";\ncontrols { };\n";
    std::fs::write(adt.at("/etc/bind/named.conf"), options).expect("it is a copy");
    let apache = Foreign::start(adt.host(), "sh", &["-c", ". /etc/apache2/envvars; exec apache2 -DFOREGROUND"]);
    let named = Foreign::start(adt.host(), "named", &["-g", "-n", "1", "-c", "/etc/bind/named.conf"]);
    until("Apache answers", || adt.there("curl", &["-sS", "http://127.0.0.1/"]).contains("html"));
    until("named answers", || adt.there("dig", &["@127.0.0.1", "+tries=1", "+time=1", "."]).contains("status:"));

    let host = "www.1.hello.example.test";
    let page = || {
        let curl = ["-sS", "--max-time", "10", "--noproxy", "*", "--connect-to", "::127.0.0.1:443", "-k"];
        let url = format!("https://{host}/healthz");
        adt.there("curl", &[&curl[..], &["-o", "/dev/null", "-w", "%{http_code}", &url]].concat())
    };
    let name = || adt.there("dig", &["@127.0.0.1", "+short", "+tries=1", "+time=3", host]).trim().to_owned();
    adt.run("platform:init hello").ok();
    // Nothing is bound: nothing is touched.
    adt.run("env:init 1").ok();
    assert!(!adt.at("/etc/apache2/adt").exists() && !adt.at("/etc/bind/adt").exists());
    adt.run("host:bind-proxy --with apache,bind").ok().says("they follow the environments from now on");
    until("Apache serves the site", || page() == "200");
    until("named knows the site", || name() == "127.77.77.77");
    adt.run("env:halt 1").ok();
    until("Apache shows that it is halted", || page() == "503");
    adt.run("env:up 1").ok();
    until("Apache serves the site again", || page() == "200");

    // Another installation on this host has no say in it.
    let other = adt.path().join("other");
    adt.run(&format!("--store {} platform:init {}", other.display(), adt.here().join("hello").display())).ok();
    assert_eq!(page(), "200");
    // What is wrong with Apache is told, and keeps no environment from anything.
    std::fs::write(adt.at("/etc/apache2/conf-enabled/broken.conf"), "Nonsense\n").expect("it is a copy");
    adt.run("platform:halt hello").ok().says("are halted: 1").says("apache serves what was before").says("Nonsense");
    std::fs::remove_file(adt.at("/etc/apache2/conf-enabled/broken.conf")).expect("it was there");
    // A command that was killed before its end is made up for by the next.
    adt.run("platform:up hello").ok();
    until("Apache serves what there is now", || page() == "200");

    adt.run("env:destroy 1 --yes").ok();
    until("named has forgotten the site", || name().is_empty());
    until("Apache has forgotten the site", || page() == "404");
    let left = walkdir::WalkDir::new(adt.at("/etc/apache2/adt")).into_iter().flatten();
    assert!(
        left.into_iter()
            .all(|file| std::fs::read_to_string(file.path()).is_ok_and(|text| !text.contains(host)) || file.file_type().is_dir())
    );
    adt.run("host:unbind-proxy").ok();
    assert!(!adt.at("/etc/apache2/adt").exists() && !adt.at("/etc/bind/adt").exists());
    adt.run("env:init 1").ok();
    assert!(!adt.at("/etc/apache2/adt").exists(), "unbound, it follows no more");
    adt.run("platform:destroy hello --yes").ok();
    drop((apache, named));
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Machines run systemd, so one of them is the host here.
#[test]
fn systemd_starts_the_service_and_keeps_it() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", "[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"web-php\"\n");
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let one = |words: &str| adt.run(&format!("env:exec 1 one -- {words}"));
    adt.run(&format!("env:cp 1 {} one:/usr/local/bin/adt", super::adt::program())).ok();
    // A host without packages for what machines need; what needs none of them is set up all the same.
    one("rm /usr/bin/apt-get").ok();
    one("systemctl disable --quiet --now apache2").ok();
    one("adt --domain inner.test host:bootstrap").fails(7).says("this host has no apt-get");
    one("systemctl is-enabled adt").ok().says("enabled");
    one("adt host:up --detach").ok().says("adt.service: names and pages of 0 environments are served at 127.77.77.77");
    one("adt host:up --detach").ok().says("served already");
    one("systemctl show adt -p SubState -p StatusText")
        .ok()
        .says("SubState=running")
        .says("0 environments are served at 127.77.77.77");
    one("adt host:up").fails(5).says("does it already");
    let curl =
        "curl -sS --cacert /var/lib/adt/tls/authority/inner.test.pem --resolve inner.test:443:127.77.77.77 https://inner.test/";
    one(curl).ok().says("inner.test");
    // As DNS, through the C library.
    let resolv = ["env:exec", "1", "one", "--", "sh", "-c", "echo nameserver 127.77.77.77 >/etc/resolv.conf"];
    assert!(adt.command(&resolv).status().expect("it starts").success());
    one("getent hosts inner.test").ok().says("127.77.77.77");

    // It never enters machines; where logs are sent, another unit does, since that is how those are read.
    let powers = || one("systemctl show adt -p RestrictNamespaces -p CapabilityBoundingSet").ok().stdout;
    assert!(powers().contains("RestrictNamespaces=yes") && !powers().contains("cap_sys_admin"), "{}", powers());
    let settings = adt.path().join("adt.toml");
    std::fs::write(&settings, "domain = \"inner.test\"\n[logs]\nsyslog = \"tcp://127.0.0.1:6514\"\n").expect("it is ours");
    one("mkdir -p /etc/adt").ok();
    adt.run(&format!("env:cp 1 {} one:/etc/adt/adt.toml", settings.display())).ok();
    one("adt host:bootstrap").fails(7).says("this host has no apt-get");
    assert!(powers().contains("RestrictNamespaces=yes") && !powers().contains("cap_sys_admin"), "{}", powers());
    until("the logs are sent by a unit of their own", || one("systemctl is-active adt-logs").code == 0);
    one("systemctl show adt-logs -p CapabilityBoundingSet").ok().says("cap_sys_admin");
    one("systemd-analyze security --no-pager --threshold=29 adt.service").ok();
    one("adt host:up --detach").ok().says("served already");

    let pid = |what: &str| {
        let shown = answer(&one("systemctl show adt -p MainPID --value"));
        assert!(shown.parse::<u32>().is_ok(), "{what}: {shown}");
        shown
    };
    let before = pid("before");
    one(&format!("kill -9 {before}")).ok();
    until("systemd has started another", || ![before.as_str(), "0"].contains(&pid("after").as_str()));
    until("that one serves", || one(curl).code == 0);
    one("adt host:halt").ok().says("no longer served");
    one("systemctl show adt-logs -p ActiveState -p Result").ok().says("ActiveState=inactive").says("Result=success");
    one("systemctl show adt -p ActiveState -p Result").ok().says("ActiveState=inactive").says("Result=success");
    assert_ne!(one(curl).code, 0);
    one("systemctl start adt").ok();
    one(curl).ok();
    one("systemctl is-system-running").ok().says("running");
    one("adt host:bootstrap --remove").ok().says("removing adt.service");
    assert_ne!(one("systemctl cat adt").code, 0);
    assert_ne!(one("systemctl cat adt-logs").code, 0);
    assert_ne!(one(curl).code, 0);
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

fn answer(run: &super::adt::Run) -> String {
    run.stdout.trim().to_owned()
}
