//! The world reaches what was promoted by its names, and nothing else of the server: curl asks from this host, as a browser would.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::adt::Adt;
use super::real_target::{self, Agent, is_proven, promotion, ticket};

const KEEP: &str = "target:rehearse production --from 1161 --keep --json";

/// A server that has 1161, and the way to it from outside.
struct Server {
    address: String,
    /// What its authorities for these names are, by domain.
    authorities: PathBuf,
}

impl Server {
    fn of(adt: &Adt) -> Self {
        let shown = adt.run("env:show rehearsal hello-production --json").ok().json();
        let address = shown["machines"][0]["addresses"][0].as_str().expect("an address").to_owned();
        Self { address, authorities: adt.path().join("authorities") }
    }

    /// Learns whom to trust for a domain.
    fn trust(&self, adt: &Adt, domain: &str) {
        let pem = there(adt, &format!("cat /var/lib/adt/tls/authority/{domain}.pem"));
        std::fs::create_dir_all(&self.authorities).expect("the folder is ours");
        std::fs::write(self.authorities.join(domain), pem).expect("the folder is ours");
    }

    /// The status and the head and body that a name answers with; `000` where nobody does.
    fn ask(&self, adt: &Adt, domain: &str, url: &str) -> String {
        let mut curl = adt.program_there("curl");
        curl.args(["-si", "-m", "20", "--noproxy", "*", "-w", "\n%{http_code}", "--cacert"]).arg(self.authorities.join(domain));
        curl.arg("--connect-to").arg(format!("::{}:", self.address));
        String::from_utf8_lossy(&curl.arg(url).output().expect("curl starts").stdout).into_owned()
    }

    #[track_caller]
    fn answers(&self, adt: &Adt, domain: &str, url: &str, status: &str) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.ask(adt, domain, url);
            if said.ends_with(&format!("\n{status}")) {
                return said;
            }
            assert!(Instant::now() < until, "{url} does not answer {status}: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn there(adt: &Adt, script: &str) -> String {
    let words = ["env:exec", "rehearsal", "hello-production", "server", "--", "sh", "-c", script];
    let output = adt.command(&words).output().expect("the program starts");
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What only the server itself may know stays there.
fn nothing_else_comes_out(adt: &Adt, server: &Server) {
    for name in ["www.production.hello.adt.test", "hello.adt.test", "adt.test", "localhost", "nobody.example", &server.address] {
        for path in ["/", "/metrics"] {
            let said = server.answers(adt, "shop.example", &format!("http://{name}{path}"), "404");
            assert!(!said.contains("adt") && !said.contains("hello"), "{name}{path}: {said}");
        }
        server.answers(adt, "shop.example", &format!("https://{name}/"), "000");
    }
    server.answers(adt, "shop.example", "http://203.0.113.1/.well-known/adt/health", "200");
}

/// An authority as those of the internet, on the server itself, for which every name leads there. Returns whom to believe.
fn pebble(adt: &Adt, server: &Server) -> String {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no name is a bad one");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (own, issuer_key) = (key(), key());
    let root = authority.self_signed(&issuer_key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, issuer_key);
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address").signed_by(&own, &issuer);
    let settings = serde_json::json!({"pebble": {
        "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000", "httpPort": 80, "tlsPort": 443,
        "certificate": "/root/pebble.pem", "privateKey": "/root/pebble.key",
    }});
    let files = [
        ("pebble.json", settings.to_string()),
        ("pebble.pem", leaf.expect("a certificate").pem()),
        ("pebble.key", own.serialize_pem()),
    ];
    for (name, text) in files {
        std::fs::write(adt.here().join(name), text).expect("the folder is ours");
        adt.run(&format!("env:cp rehearsal hello-production {name} server:/root/{name}")).ok();
    }
    for name in ["pebble", "pebble-challtestsrv"] {
        adt.run(&format!("env:cp rehearsal hello-production /usr/bin/{name} server:/root/{name}")).ok();
    }
    there(
        adt,
        "systemd-run --quiet --unit names /root/pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 '' -dns01 127.0.0.1:8053 \
         -http01 '' -https01 '' -tlsalpn01 '' -management 127.0.0.1:8055 && \
         systemd-run --quiet --unit pebble -E PEBBLE_VA_NOSLEEP=1 -E PEBBLE_WFE_NONCEREJECT=50 \
         /root/pebble -config /root/pebble.json -dnsserver 127.0.0.1:8053",
    );
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mut curl = adt.program_there("curl");
        curl.args(["-skf", "--noproxy", "*"]).arg(format!("https://{}:15000/roots/0", server.address));
        let said = curl.output().expect("curl starts");
        if said.status.success() {
            return format!("{root}{}", String::from_utf8_lossy(&said.stdout));
        }
        let told = || there(adt, "journalctl -u pebble -u names --no-pager | tail -20");
        assert!(Instant::now() < until, "pebble does not answer: {}", told());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Another certificate is shown once the authority's time has come, and every request meanwhile is answered.
fn renewed_without_a_gap(adt: &Adt, server: &Server) {
    let shown = || there(adt, "sha256sum /var/lib/adt/tls/acme/hello.production.pem");
    let before = shown();
    assert_eq!(there(adt, "stat -c %a /var/lib/adt/tls/acme/* | sort -u").trim(), "600");
    there(
        adt,
        "sed -i -E 's/\"renew\":[^,]*/\"renew\":1/; s/\"ask_again\":[0-9]+/\"ask_again\":9999999999/' \
         /var/lib/adt/tls/acme/hello.production.json",
    );
    let until = Instant::now() + Duration::from_secs(150);
    while shown() == before {
        assert!(Instant::now() < until, "it is not renewed: {}", there(adt, "journalctl -u adt --no-pager | tail -20"));
        let said = server.ask(adt, "pebble", "https://www.shop.example/healthz");
        assert!(said.ends_with("\n200"), "{said}");
    }
    server.answers(adt, "pebble", "https://shop.example/healthz", "200");
    assert!(!there(adt, "journalctl --no-pager").contains("PRIVATE KEY"));
}

/// Another program has a port: it is named, and once it is gone the door opens by itself.
fn a_port_that_is_taken(adt: &Adt, server: &Server) {
    there(
        adt,
        "systemctl stop adt && systemd-run --quiet --unit other perl -MIO::Socket::INET -e \
         'our @door = (IO::Socket::INET->new(LocalAddr => \"0.0.0.0\", LocalPort => 443, Listen => 1)); sleep 600' && \
         sleep 1 && systemctl start adt",
    );
    adt.run("target:check hello production").fails(13).says("perl").says("port 443");
    there(adt, "systemctl stop other");
    server.answers(adt, "next.example", "https://www.next.example/healthz", "200");
}

#[test]
fn the_world_reaches_what_was_promoted_by_its_names() {
    let Some(adt) = ticket() else { return };
    let hello = adt.here().join("hello/platform.toml");
    let shipped = std::fs::read_to_string(&hello).expect("it was made");
    let target = |server: &str, keys: &str| {
        let text = format!("{shipped}\n[targets.production]\nservers = [\"root@{server}\"]\n{keys}\n");
        std::fs::write(&hello, text).expect("the folder is ours");
    };
    target("203.0.113.7", "names = { www = [\"shop.example\", \"www.shop.example\"] }\nhsts = 300");
    adt.run("target:list").ok().says("www.shop.example");
    let done = promotion(&adt.run(KEEP).ok());
    is_proven(&done);
    let steps = done["steps"].to_string();
    assert!(steps.contains("serve `www` to the world as `www.shop.example`"), "{steps}");
    let asked: Vec<_> = done["checks"]["items"].as_array().expect("a list").iter().filter(|one| one["step"] == "world").collect();
    assert_eq!(asked.len(), 4, "two ports and two names: {asked:#?}");

    let server = Server::of(&adt);
    server.trust(&adt, "shop.example");
    for name in ["shop.example", "www.shop.example"] {
        let said = server.answers(&adt, "shop.example", &format!("http://{name}/healthz"), "308");
        assert!(said.contains(&format!("https://{name}/healthz")), "{said}");
        let said = server.answers(&adt, "shop.example", &format!("https://{name}/healthz"), "200");
        assert!(said.contains("strict-transport-security: max-age=300"), "{said}");
    }
    nothing_else_comes_out(&adt, &server);

    let believed = pebble(&adt, &server);
    let asks = format!(
        "names = {{ www = [\"shop.example\", \"www.shop.example\"] }}\nemail = \"ops@shop.example\"\n\
         acme = \"https://127.0.0.1:14000/dir\"\nacme_ca = \"\"\"\n{believed}\"\"\""
    );
    target("203.0.113.7", &asks);
    let done = promotion(&adt.run(KEEP).ok());
    let told = there(&adt, "cat /var/lib/adt/tls/acme/*.json; journalctl -u adt --no-pager | tail -20; cat /etc/hosts");
    assert!(done["checks"].to_string().contains("given by https://127.0.0.1:14000/dir"), "{told} {done:#}");
    is_proven(&done);
    assert!(done["checks"].to_string().contains("given by https://127.0.0.1:14000/dir"), "{done:#}");
    std::fs::write(server.authorities.join("pebble"), &believed).expect("the folder is ours");
    renewed_without_a_gap(&adt, &server);

    // As any other target: the names change by a promotion, and come back by a rollback.
    let (_, print) = real_target::server(&adt, "hello-production");
    let socket = adt.path().join("agent");
    let agent = Agent::new(&adt, &socket);
    let adt = adt.env("SSH_AUTH_SOCK", &socket.display().to_string());
    target(&server.address, &format!("host_key = \"{print}\"\ndomain = \"next.example\""));
    let dry = adt.run("env:promote hello 1161 production --dry-run").fails(14);
    dry.says("serve `www` to the world as `www.next.example`").says("serve `www` no longer as `shop.example`");
    adt.run("env:promote hello 1161 production").ok();
    server.trust(&adt, "www.next.example");
    std::fs::rename(server.authorities.join("www.next.example"), server.authorities.join("next.example")).expect("it is there");
    server.answers(&adt, "next.example", "https://www.next.example/healthz", "200");
    server.answers(&adt, "shop.example", "http://www.shop.example/", "404");
    adt.run("target:check hello production").ok().says(&format!("www.next.example. 300 IN A {}", server.address));
    a_port_that_is_taken(&adt, &server);
    adt.run("env:rollback hello production --dry-run").fails(14).says("serve `www` no longer as `www.next.example`");
    adt.run("env:rollback hello production").ok();
    server.answers(&adt, "shop.example", "https://www.shop.example/healthz", "200");
    adt.run("env:rollback hello production").ok().says("nothing to do");

    drop(agent);
    adt.run("env:destroy rehearsal hello-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
