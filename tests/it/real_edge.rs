//! The world reaches what was promoted by its names, and nothing else of the server: curl asks from this host, as a browser would.

use std::path::PathBuf;
use std::time::{Duration, Instant};

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
    real_target::there(adt, "hello-production", script).ok().stdout
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

/// Another program has a port: it is named, and once it is gone the door opens by itself.
fn a_port_that_is_taken(adt: &Adt, server: &Server) {
    there(
        adt,
        "systemctl stop adt && systemd-run --quiet --unit other perl -MIO::Socket::INET -e \
         'our @door = (IO::Socket::INET->new(LocalAddr => \"0.0.0.0\", LocalPort => 443, Listen => 1, ReuseAddr => 1)); sleep 600' && \
         sleep 1 && systemctl start adt && systemctl is-active other",
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

    // As any other target: the names change by a promotion, and come back by a rollback.
    let (_, print) = real_target::server(&adt, "hello-production");
    let (agent, adt) = Agent::of(adt);
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
