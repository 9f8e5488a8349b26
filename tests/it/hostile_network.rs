//! A client on the network beside the developer's computer: a host of its own on the other end of a cable, which knows where
//! everything lies and sends whatever it likes.

use std::os::unix::fs::MetadataExt;
use std::process::Output;

use super::adt::Adt;
use super::host::Host;
use super::servers::{installed, until};

const PLATFORM: &str = "[platform]\nname = \"tiny\"\n[machines.node]\nbox = \"debian\"\nmemory = \"128M\"\n";
const DEVELOPER: &str = "192.0.2.1";
const HOME: &str = "a.tiny.example.test";

/// The developer's computer with one environment and `host:up`, and the other one.
struct Cable {
    adt: Adt,
    client: Host,
    machine: String,
    machine_v6: String,
    gateway: String,
    gateway_v6: String,
}

impl Cable {
    fn new() -> Option<Self> {
        let adt = Adt::real()?.alone();
        adt.platform_toml("tiny", PLATFORM);
        adt.run("platform:init tiny").ok();
        // With a group there is a door for its members.
        adt.host().run("groupadd --system adt");
        adt.up();
        adt.run("env:init a").ok();
        let client = Host::new();
        let host = adt.host();
        host.run(&format!("ip link add lan0 type veth peer name lan1 netns {}", client.pid()));
        for words in [
            "ip address add 192.0.2.1/24 dev lan0",
            "ip address add 2001:db8::1/64 dev lan0 nodad",
            "ip link set lan0 up",
            // As it is where containers or virtual machines are used: the computer passes on what is not its own.
            "sysctl -qw net.ipv4.ip_forward=1",
            "sysctl -qw net.ipv6.conf.all.forwarding=1",
        ] {
            host.run(words);
        }
        // Nothing of the client's 127.0.0.0/8 is its own: it may send there.
        for words in [
            "ip address add 192.0.2.9/24 dev lan1",
            "ip address add 2001:db8::9/64 dev lan1 nodad",
            "ip link set lan1 up",
            "ip address flush dev lo",
            "ip route add default via 192.0.2.1",
            "ip route add 127.77.77.77/32 via 192.0.2.1",
            "ip -6 route add default via 2001:db8::1",
        ] {
            client.run(words);
        }
        let facts = adt.run("env:show a --json").ok().json();
        let machine = |place: usize| facts["machines"][0]["addresses"][place].as_str().expect("it has two").to_owned();
        let (machine, machine_v6) = (machine(0), machine(1));
        let addresses = host.run("ip -oneline address show");
        let bridge = addresses.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|name| name.starts_with("adt")));
        let all: Vec<_> = bridge.filter_map(|line| line.split_whitespace().nth(3)?.split('/').next()).collect();
        let gateway = all.iter().find(|address| address.contains('.')).expect("a bridge has an address").to_string();
        let gateway_v6 = all.iter().find(|address| address.starts_with("fd")).expect("and another").to_string();
        let cable = Self { adt, client, machine, machine_v6, gateway, gateway_v6 };
        until("the cable works", || cable.client(&["ping", "-c1", "-W1", DEVELOPER]).status.success());
        until("for both families", || cable.client(&["ping", "-c1", "-W1", "2001:db8::1"]).status.success());
        Some(cable)
    }

    fn client(&self, words: &[&str]) -> Output {
        self.client.command(words[0]).args(&words[1..]).output().expect("it is installed")
    }

    fn says(&self, words: &[&str]) -> String {
        let output = self.client(words);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Whether anything answers, over http, https and as a name server in both its ways.
    fn reached(&self, address: &str) -> Vec<String> {
        let written = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let mut reached = Vec::new();
        for port in ["80", "443"] {
            let url = format!("{}://{HOME}/", if port == "80" { "http" } else { "https" });
            let to = format!("::{written}:{port}");
            let said =
                self.says(&["curl", "-sk", "-m", "3", "-w", "status %{http_code}", "--noproxy", "*", "--connect-to", &to, &url]);
            if !said.ends_with("status 000") {
                reached.push(format!("{address} port {port}: {said}"));
            }
        }
        for way in ["+notcp", "+tcp"] {
            for name in [HOME, "node", "example.org"] {
                let said = self.says(&["dig", &format!("@{address}"), "+tries=1", "+time=1", way, name]);
                if said.contains("status:") {
                    reached.push(format!("{address} {way} {name}: {said}"));
                }
            }
        }
        reached
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.adt.page("http://example.test/metrics");
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

#[test]
fn a_client_on_the_network_reaches_nothing() {
    if !installed(&["curl", "dig", "ss", "ping"]) {
        return;
    }
    let Some(cable) = Cable::new() else { return };
    // What there is to reach, for those who may.
    assert!(cable.adt.page(&format!("http://{HOME}/")).contains(&cable.machine));
    let there = format!("env:exec a -- getent ahostsv4 gateway.{HOME}");
    assert!(cable.adt.run(&there).ok().stdout.contains(&cable.gateway));
    let bash =
        format!("exec 3<>/dev/tcp/{}/80; printf 'GET / HTTP/1.0\\r\\nHost: {HOME}\\r\\n\\r\\n' >&3; cat <&3", cable.gateway);
    let inside = cable.adt.command(&["env:exec", "a", "--", "bash", "-c", &bash]).output().expect("the program starts");
    assert!(String::from_utf8_lossy(&inside.stdout).contains("200 OK"), "{inside:?}");

    let addresses =
        [DEVELOPER, "2001:db8::1", "127.77.77.77", &cable.gateway, &cable.gateway_v6, &cable.machine, &cable.machine_v6];
    let reached: Vec<_> = addresses.iter().flat_map(|address| cable.reached(address)).collect();
    assert!(reached.is_empty(), "{reached:#?}");
    for machine in [&cable.machine, &cable.machine_v6] {
        assert!(!cable.client(&["ping", "-c1", "-W1", machine]).status.success(), "{machine} answers");
    }

    // With a machine's address as its source, which would make the name server forward for it.
    let forwarded = cable.metric("adt_dns_forwarded_total");
    let answered = cable.metric("adt_dns_answers_total");
    cable.client.run(&format!("ip address add {}/32 dev lan1", cable.machine));
    for name in ["example.org", "node", HOME] {
        let to = format!("@{}", cable.gateway);
        cable.says(&["dig", &to, "-b", &cable.machine, "+tries=1", "+time=1", "+notcp", name]);
    }
    assert_eq!(cable.metric("adt_dns_forwarded_total"), forwarded, "it forwards for who says to be a machine");
    assert_eq!(cable.metric("adt_dns_answers_total"), answered, "it answers who says to be a machine");

    sockets(&cable);
    cable.adt.run("platform:destroy tiny --yes").ok();
    cable.adt.run("host:halt").ok();
    assert_eq!(cable.adt.leftovers(), Vec::<String>::new());
}

/// Nothing listens where others than the host and its machines could ask.
fn sockets(cable: &Cable) {
    let pid = format!("pid={},", cable.adt.daemon());
    let all = cable.adt.there("ss", &["-H", "-l", "-n", "-t", "-u", "-p"]);
    let own: Vec<_> = all.lines().filter(|line| line.contains(&pid)).collect();
    assert!(own.len() >= 4, "{all}");
    for line in own {
        let address = line.split_whitespace().nth(4).expect("ss tells the address");
        let (ip, _) = address.rsplit_once(':').expect("and the port");
        let ip = ip.split('%').next().unwrap_or(ip);
        assert!(ip == "127.77.77.77" || ip == cable.gateway, "adt listens at {address}");
    }
    let unix = cable.adt.there("ss", &["-H", "-l", "-x", "-p"]);
    let own: Vec<_> = unix.lines().filter(|line| line.contains(&pid)).collect();
    let members = cable.adt.store.join("commands.socket").display().to_string();
    assert!(own.len() == 1 && own[0].contains(&members), "a door that is none of the above: {own:#?}");
    let mode = std::fs::metadata(cable.adt.at(&members)).expect("it is there").mode();
    assert_eq!(mode & 0o007, 0, "who is no member comes up to it");
}

/// Whom the developer lets in, or a program of another user of the same computer, is at the front door. It gives names and
/// pages, and nothing else.
#[test]
fn the_front_door_is_no_open_relay_and_no_authority_for_others() {
    if !installed(&["curl", "dig", "openssl", "python3"]) {
        return;
    }
    let adt = Adt::new().alone();
    adt.up();
    let there = |words: &[&str]| adt.there(words[0], &words[1..]);
    let dig = |words: &[&str]| there(&[&["dig", "@127.77.77.77", "+tries=1", "+time=3"][..], words].concat());

    // Zones aren't given away, nor changed, nor others' names looked up.
    for (words, status) in [
        (&["+tcp", "example.test", "AXFR"][..], "Transfer failed"),
        (&["+tcp", "example.test", "IXFR=1"], "Transfer failed"),
        (&["+opcode=update", "example.test", "SOA"], "status: NOTIMP"),
        (&["+opcode=notify", "example.test", "SOA"], "status: NOTIMP"),
        (&["example.org"], "status: REFUSED"),
        (&["+norecurse", "example.org"], "status: REFUSED"),
        (&[".", "NS"], "status: REFUSED"),
        (&["CH", "TXT", "hostname.bind"], "status: REFUSED"),
        (&["-x", "8.8.8.8"], "status: REFUSED"),
    ] {
        let said = dig(words);
        let refused = said.contains(status) || status == "Transfer failed" && said.contains("SERVER") && !said.contains("\tA\t");
        assert!(refused, "{words:?}: {said}");
        assert!(!said.contains("flags: qr aa rd ra"), "{words:?}: {said}");
    }
    // What is asked in 30 bytes is not worth a forged source.
    for kind in ["ANY", "NS", "SOA", "TXT", "DNSKEY", "A", "AAAA"] {
        let said = dig(&["+notcp", "+bufsize=65000", "+dnssec", "example.test", kind]);
        let size = said.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).map(str::trim);
        let size: usize = size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{kind}: {said}"));
        assert!(size <= 200, "{kind}: {size} bytes");
    }

    // The web server on loopback that only this host may ask, e.g. somebody's database console.
    let (port, secret) = ("18080", "only for this host");
    std::fs::write(adt.path().join("index.html"), secret).expect("the home is ours");
    let folder = adt.path().display().to_string();
    let words = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", &folder, port];
    let _console = super::daemon::Foreign::start(adt.host(), "python3", &words);
    let inner = format!("127.0.0.1:{port}");
    until("the console answers", || there(&["curl", "-sS", "-m", "5", &format!("http://{inner}/")]).contains(secret));
    let curl = |words: &[&str]| there(&[&["curl", "-sS", "-m", "5", "-w", " status %{http_code}"][..], words].concat());
    for words in [
        // As a proxy, both ways, over both versions.
        &["--proxy", "http://127.77.77.77:80", &format!("http://{inner}/")][..],
        &["--proxytunnel", "--proxy", "http://127.77.77.77:80", &format!("http://{inner}/")],
        &["--noproxy", "*", "--request-target", &format!("http://{inner}/"), "http://127.77.77.77/"],
        &["--noproxy", "*", "-H", &format!("Host: {inner}"), "http://127.77.77.77/"],
        &["--noproxy", "*", "-H", "Host: localhost", "http://127.77.77.77/"],
        &["--noproxy", "*", "--http2-prior-knowledge", "-H", &format!("Host: {inner}"), "http://127.77.77.77/"],
        &["--noproxy", "*", "-H", "Host: example.test", "-H", &format!("X-Forwarded-Host: {inner}"), "http://127.77.77.77/"],
        &["--noproxy", "*", "-X", "TRACE", "-H", "Host: example.test", "-H", "Cookie: a=b", "http://127.77.77.77/"],
    ] {
        let said = curl(words);
        assert!(!said.contains(secret) && !said.contains("a=b"), "{words:?}: {said}");
        assert!(!said.ends_with("status 000") || said.contains("40"), "{words:?}: it is told no: {said}");
    }

    // Names of others get the domain's own certificate, and old versions none.
    for name in ["google.com", "example.test.evil.com", "evil-example.test", "127.0.0.1", "*.test"] {
        let client = ["openssl", "s_client", "-connect", "127.77.77.77:443", "-servername", name];
        let said = there(&client);
        let pem = said.find("-----BEGIN").map(|start| &said[start..]).unwrap_or_default();
        let pem = &pem[..pem.find("-----END CERTIFICATE-----").map_or(0, |end| end + 25)];
        if pem.is_empty() {
            assert!(said.contains("alert"), "{name} is refused: {said}");
            continue;
        }
        let file = adt.path().join("leaf.pem");
        std::fs::write(&file, pem).expect("the home is ours");
        let names = there(&["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", &file.display().to_string()]);
        let foreign: Vec<_> = names
            .split("DNS:")
            .skip(1)
            .map(|name| name.trim().trim_end_matches(','))
            .filter(|name| *name != "example.test" && !name.ends_with(".example.test"))
            .collect();
        assert!(foreign.is_empty() && names.contains("example.test"), "{name}: {names}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let client = ["openssl", "s_client", "-connect", "127.77.77.77:443", "-servername", "example.test", version];
        let said = there(&[&client[..], &["-cipher", "ALL:@SECLEVEL=0"]].concat());
        assert!(!said.contains("BEGIN CERTIFICATE"), "{version}: {said}");
    }
    adt.run("host:halt").ok();
}
