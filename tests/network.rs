//! The network of environments, in the real kernel.
//!
//! Each test runs in network namespaces of its own: one plays the host, others its machines and the outside. Nothing of it
//! touches the real host, and the namespaces go by name, also after a failure.
//!
//! ```text
//!   a1  a2     b1        far
//!    └─A─┘     B          │ 203.0.113.2
//!      └───── host ───────┘
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use adt::model::{EnvironmentId, EnvironmentName, NetworkSpec, PlatformName, Tag};
use adt::network::address::{allocate, check_free, ula_subnet};
use adt::network::{Error, Linux, Network, Seen, forward_trouble};

const INSTALL: &str = "test-install";
const PLACES: [&str; 5] = ["host", "a1", "a2", "b1", "far"];
const PREFIX: &str = "ADT_TEST_NAMESPACES";

/// Runs `body` in this test's `host` namespace: the test starts itself again in there, because `/sys/class/net` shows the
/// namespace in which it was mounted.
fn on_a_host_of_its_own(test: &str, body: impl FnOnce(&Hosts)) {
    if let Ok(prefix) = std::env::var(PREFIX) {
        body(&Hosts { prefix });
        return;
    }
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root");
        eprintln!("SKIPPED, needs root: {test}");
        return;
    }
    let hosts = Outer(Hosts { prefix: format!("adt-test-{}-{test}", std::process::id()) });
    for place in PLACES {
        run("ip", &["netns", "add", &hosts.0.name(place)]);
    }
    let program = std::env::current_exe().unwrap();
    let status = Command::new("ip")
        .args(["netns", "exec", &hosts.0.name("host")])
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(PREFIX, &hosts.0.prefix)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespaces");
}

struct Hosts {
    prefix: String,
}

/// Owns the namespaces.
struct Outer(Hosts);

impl Drop for Outer {
    fn drop(&mut self) {
        for place in PLACES {
            let _ = Command::new("ip").args(["netns", "delete", &self.0.name(place)]).output();
        }
    }
}

impl Hosts {
    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    /// Runs `body` on a thread that lives in `place`.
    fn at<T: Send>(&self, place: &str, body: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name(place))).unwrap();
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
                body()
            });
            moved.join().unwrap()
        })
    }

    fn ip_at(&self, place: &str, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut args = vec!["-n".to_owned(), self.name(place)];
            args.extend(line.split_whitespace().map(str::to_owned));
            run("ip", &args.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    /// Puts a machine on its environment's bridge, the way a provider does.
    fn plug(&self, spec: &NetworkSpec, number: u8, place: &str) {
        let link = spec.attach(number);
        let name = self.name(place);
        run("ip", &["link", "add", &link.cable, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        run("ip", &["link", "set", &link.cable, "master", &link.net, "up"]);
        self.ip_at(
            place,
            &format!(
                "link set lo up
                 link set eth0 address {} up
                 addr add {}/{} dev eth0
                 addr add {}/{} dev eth0 nodad
                 route add default via {}
                 -6 route add default via {}",
                link.mac,
                link.v4,
                link.v4_prefix,
                link.v6,
                link.v6_prefix,
                link.v4_gateway,
                spec.gateway_v6()
            ),
        );
    }

    /// The outside: it knows a way to the pool through the host, as a stranger in the same café would try.
    fn plug_far(&self) {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &self.name("far")]);
        run("ip", &["addr", "add", "203.0.113.1/24", "dev", "up0"]);
        run("ip", &["link", "set", "up0", "up"]);
        self.ip_at("far", "link set lo up\n addr add 203.0.113.2/24 dev eth0\n link set eth0 up");
        self.ip_at("far", "route add 10.213.0.0/16 via 203.0.113.1");
    }

    /// Whether `from` gets an answer from a web server at `to`, and whom the server saw asking.
    fn reach(&self, from: &str, to: &str, address: SocketAddr) -> Option<IpAddr> {
        let listener = self.at(to, || TcpListener::bind(SocketAddr::new(unspecified(address), address.port())).unwrap());
        listener.set_nonblocking(true).unwrap();
        let mut stream = self.at(from, || TcpStream::connect_timeout(&address, Duration::from_millis(400))).ok()?;
        let deadline = Instant::now() + Duration::from_secs(2);
        let (mut other, peer) = loop {
            match listener.accept() {
                Ok(pair) => break pair,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        other.write_all(b"x").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.read_exact(&mut [0]).ok()?;
        Some(peer.ip())
    }

    /// Whether a packet from `from` to `to` arrives and its answer comes back.
    fn reach_udp(&self, from: &str, to: &str, address: SocketAddr) -> bool {
        let wait = Some(Duration::from_millis(400));
        let any = SocketAddr::new(unspecified(address), 0);
        let server = self.at(to, || UdpSocket::bind(SocketAddr::new(any.ip(), address.port())).unwrap());
        let client = self.at(from, || UdpSocket::bind(any).unwrap());
        server.set_read_timeout(wait).unwrap();
        client.set_read_timeout(wait).unwrap();
        if client.send_to(b"x", address).is_err() {
            return false;
        }
        let Ok((_, peer)) = server.recv_from(&mut [0; 8]) else { return false };
        server.send_to(b"y", peer).is_ok() && client.recv_from(&mut [0; 8]).is_ok()
    }

    /// An echo of the kernel's own making, so that no `ping` has to be installed.
    fn ping(&self, from: &str, to: IpAddr) -> bool {
        use rustix::net::{AddressFamily, SocketType, ipproto, socket};
        let (family, protocol, request) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
        };
        self.at(from, || {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
            let socket = UdpSocket::from(socket(family, SocketType::DGRAM, Some(protocol)).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            socket.send_to(&[request, 0, 0, 0, 0, 0, 0, 1], (to, 0)).is_ok() && socket.recv_from(&mut [0; 64]).is_ok()
        })
    }
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn spec(name: &str, v4: &str) -> NetworkSpec {
    let id = EnvironmentId { platform: PlatformName::new("shop").unwrap(), name: EnvironmentName::new(name).unwrap() };
    let v4 = v4.parse().unwrap();
    NetworkSpec { tag: Tag::of(INSTALL, &id), id, v4, v6: ula_subnet(INSTALL, &v4), tie: None }
}

fn two_environments() -> (Linux, NetworkSpec, NetworkSpec) {
    (Linux::new(INSTALL, "/nowhere".into()), spec("1161", "10.213.0.0/26"), spec("1162", "10.213.0.64/26"))
}

fn bring_up(network: &Linux, spec: &NetworkSpec) {
    network.connect(spec).unwrap();
    network.open(spec).unwrap();
}

/// Everything of ours that the kernel shows.
fn traces() -> String {
    let links = run("ip", &["-o", "link"]);
    let links: String = links.lines().filter(|line| line.contains(": adt")).collect();
    format!("{links}{}", run("nft", &["list", "ruleset"]))
}

#[test]
fn twice_is_the_same_and_gone_is_gone() {
    on_a_host_of_its_own("twice_is_the_same_and_gone_is_gone", |_| {
        let (network, a, b) = two_environments();
        bring_up(&network, &a);
        let state = || (run("nft", &["list", "ruleset"]), run("ip", &["-d", "address", "show", &a.bridge()]));
        let strip = |text: (String, String)| {
            let changing = |line: &&str| !line.contains("timer") && !line.contains("tentative") && !line.contains("fe80");
            (text.0, text.1.lines().filter(changing).map(str::trim).collect::<Vec<_>>().join("\n"))
        };
        let once = strip(state());
        bring_up(&network, &a);
        assert_eq!(once, strip(state()));
        assert!(once.1.contains(&format!("alias {INSTALL} shop/1161")), "{}", once.1);
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "1\n");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap(), "0\n");

        bring_up(&network, &b);
        run("ip", &["link", "add", &b.attach(2).cable, "type", "veth", "peer", "name", "loose"]);
        let mut listed = vec![(a.tag.clone(), format!("{INSTALL} shop/1161")), (b.tag.clone(), format!("{INSTALL} shop/1162"))];
        listed.sort();
        assert_eq!(network.list().unwrap(), listed);
        network.disconnect(&a.tag).unwrap();
        assert!(network.seen(&a.tag, None).unwrap().nothing());
        assert!(network.seen(&b.tag, None).unwrap().complete(), "the other environment keeps its isolation");
        for _ in 0..2 {
            network.disconnect(&b.tag).unwrap();
            assert_eq!(traces(), "");
        }
    });
}

#[test]
fn a_host_without_ipv6_has_it_on_bridges_only() {
    on_a_host_of_its_own("a_host_without_ipv6_has_it_on_bridges_only", |hosts| {
        let (network, a, _) = two_environments();
        let setting = |device: &str| format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        for device in ["all", "default"] {
            std::fs::write(setting(device), "1").unwrap();
        }
        for _ in 0..2 {
            bring_up(&network, &a);
        }
        hosts.plug(&a, 2, "a1");
        assert!(hosts.ping("a1", a.gateway_v6().into()));
        assert_eq!(std::fs::read_to_string(setting("default")).unwrap(), "1\n");
    });
}

#[test]
fn an_interrupted_connect_is_finished_or_removed() {
    on_a_host_of_its_own("an_interrupted_connect_is_finished_or_removed", |_| {
        let (network, a, _) = two_environments();
        let half = || run("ip", &["link", "add", &a.bridge(), "type", "bridge"]);
        half();
        assert_eq!(network.seen(&a.tag, None).unwrap(), Seen { bridge: true, firewall: false });
        bring_up(&network, &a);
        assert!(network.seen(&a.tag, None).unwrap().complete());

        // Somebody reloads the host's own firewall, which empties everything; somebody takes the bridge down.
        run("nft", &["flush", "ruleset"]);
        assert!(!network.seen(&a.tag, None).unwrap().complete());
        bring_up(&network, &a);
        run("ip", &["link", "set", &a.bridge(), "down"]);
        assert!(!network.seen(&a.tag, None).unwrap().complete());
        bring_up(&network, &a);
        assert!(network.seen(&a.tag, None).unwrap().complete());

        // An interrupted disconnect leaves the firewall; an older adt left another one.
        run("ip", &["link", "delete", &a.bridge()]);
        run("nft", &["add", "table", "inet", "adt_00000000"]);
        network.disconnect(&a.tag).unwrap();
        assert_eq!(traces(), "");
        half();
        network.disconnect(&a.tag).unwrap();
        assert_eq!(traces(), "");
    });
}

#[test]
fn machines_start_on_a_network_where_nothing_passes_before_it_is_isolated() {
    on_a_host_of_its_own("machines_start_on_a_network_where_nothing_passes_before_it_is_isolated", |hosts| {
        let (network, a, _) = two_environments();
        network.connect(&a).unwrap();
        hosts.plug(&a, 2, "a1");
        hosts.plug(&a, 3, "a2");
        let others = [a.attach(3).v4.into(), a.attach(3).v6.into(), IpAddr::from(a.gateway_v4()), a.gateway_v6().into()];
        assert!(others.iter().all(|other| !hosts.ping("a1", *other)));
        assert_eq!(network.seen(&a.tag, None).unwrap(), Seen { bridge: true, firewall: false });
        network.open(&a).unwrap();
        assert!(network.seen(&a.tag, None).unwrap().complete());
        // Who asked in vain from a machine asks again after a second; the host does so much sooner.
        let reached = |other| (0..10).any(|_| hosts.ping("a1", other));
        assert!(others.into_iter().all(reached));
    });
}

#[test]
fn the_host_finds_a_machine_at_once_that_it_looked_for_too_early() {
    on_a_host_of_its_own("the_host_finds_a_machine_at_once_that_it_looked_for_too_early", |hosts| {
        let (network, a, _) = two_environments();
        bring_up(&network, &a);
        hosts.plug(&a, 3, "a2");
        let machine = a.attach(2);
        assert!(!hosts.ping("host", machine.v4.into()));
        hosts.plug(&a, 2, "a1");
        assert!(hosts.ping("host", machine.v4.into()));
    });
}

#[test]
fn machines_reach_what_they_should_and_no_more() {
    on_a_host_of_its_own("machines_reach_what_they_should_and_no_more", |hosts| {
        let (network, a, b) = two_environments();
        bring_up(&network, &a);
        bring_up(&network, &b);
        hosts.plug(&a, 2, "a1");
        hosts.plug(&a, 3, "a2");
        hosts.plug(&b, 2, "b1");
        hosts.plug_far();
        neighbours_and_gateway(hosts, &a);
        strictly_apart(hosts, &a, &b);
        to_and_from_outside(hosts, &a);

        // The same with frames between neighbours going through the firewall, which Docker switches on.
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").unwrap();
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1").unwrap();
        neighbours_and_gateway(hosts, &a);
        strictly_apart(hosts, &a, &b);

        // And on a host that forwards IPv6 for its own reasons.
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        strictly_apart(hosts, &a, &b);
        run("ip", &["addr", "add", "2001:db8::1/64", "dev", "up0", "nodad"]);
        hosts.ip_at("far", "addr add 2001:db8::2/64 dev eth0 nodad\n -6 route add fd00::/8 via 2001:db8::1");
        let far = "[2001:db8::2]:80".parse().unwrap();
        assert!(hosts.reach("host", "far", far).is_some());
        assert_eq!(hosts.reach("a1", "far", far), None, "local IPv6 addresses stay local");
        assert_eq!(hosts.reach("far", "a1", (a.attach(2).v6, 80).into()), None);
        network.disconnect(&a.tag).unwrap();
        network.disconnect(&b.tag).unwrap();
        assert_eq!(traces(), "");
    });
}

fn neighbours_and_gateway(hosts: &Hosts, a: &NetworkSpec) {
    let (neighbour, gateway) = (a.attach(3), a.gateway_v4());
    for address in [neighbour.v4.into(), neighbour.v6.into(), gateway.into(), IpAddr::from(a.gateway_v6())] {
        assert!(hosts.ping("a1", address), "ping {address}");
    }
    assert!(hosts.reach("a1", "a2", (neighbour.v4, 3306).into()).is_some());
    assert!(hosts.reach("a1", "a2", (neighbour.v6, 3306).into()).is_some());
    assert!(hosts.reach_udp("a1", "a2", (neighbour.v4, 514).into()));
    for port in [53, 80, 443] {
        assert!(hosts.reach("a1", "host", (gateway, port).into()).is_some(), "gateway, port {port}");
        assert!(hosts.reach("a1", "host", (a.gateway_v6(), port).into()).is_some(), "gateway, port {port}");
    }
    assert!(hosts.reach_udp("a1", "host", (gateway, 53).into()));
    assert!(hosts.reach("host", "a1", (a.attach(2).v4, 22).into()).is_some(), "the host reaches every machine");
    assert!(hosts.reach("host", "a1", (a.attach(2).v6, 22).into()).is_some(), "the host reaches every machine");
    assert!(hosts.reach_udp("host", "a1", (a.attach(2).v4, 53).into()));
}

fn strictly_apart(hosts: &Hosts, a: &NetworkSpec, b: &NetworkSpec) {
    let other = b.attach(2);
    assert!(!hosts.ping("a1", other.v4.into()));
    assert_eq!(hosts.reach("a1", "b1", (other.v4, 80).into()), None);
    assert!(!hosts.reach_udp("a1", "b1", (other.v4, 514).into()));
    assert!(!hosts.ping("a1", other.v6.into()));
    assert_eq!(hosts.reach("a1", "b1", (other.v6, 80).into()), None);
    // The other environment's gateway and the host's outer address are the host too, but not this machine's business.
    assert_eq!(hosts.reach("a1", "host", (b.gateway_v4(), 80).into()), None);
    assert_eq!(hosts.reach("a1", "host", "203.0.113.1:80".parse().unwrap()), None);
    // A service that is not for machines refuses, it does not hang.
    let service = SocketAddr::from((a.gateway_v4(), 22));
    let _listener = hosts.at("host", || TcpListener::bind(service).unwrap());
    let refused = hosts.at("a1", || TcpStream::connect_timeout(&service, Duration::from_secs(20))).unwrap_err();
    assert_ne!(refused.kind(), std::io::ErrorKind::TimedOut, "{refused}");
    // A machine that claims to be somebody else.
    for foreign in ["203.0.113.99", "10.213.0.67"] {
        hosts.ip_at("a1", &format!("addr add {foreign}/32 dev eth0"));
        let heard = udp_from(hosts, foreign, a);
        hosts.ip_at("a1", &format!("addr del {foreign}/32 dev eth0"));
        assert!(!heard, "a packet from {foreign} passed");
    }
    assert!(udp_from(hosts, &a.attach(2).v4.to_string(), a), "an honest one does");
}

/// Whether a packet that a1 sends with this source reaches the host's resolver.
fn udp_from(hosts: &Hosts, source: &str, a: &NetworkSpec) -> bool {
    let server = hosts.at("host", || UdpSocket::bind((a.gateway_v4(), 53)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    hosts.at("a1", || UdpSocket::bind((source, 0)).unwrap().send_to(b"x", (a.gateway_v4(), 53)).unwrap());
    server.recv_from(&mut [0; 8]).is_ok()
}

fn to_and_from_outside(hosts: &Hosts, a: &NetworkSpec) {
    let far = "203.0.113.2:80".parse().unwrap();
    let host: IpAddr = "203.0.113.1".parse().unwrap();
    assert_eq!(hosts.reach("a1", "far", far), Some(host), "behind the host's address");
    assert!(hosts.ping("a1", far.ip()));
    assert!(hosts.reach_udp("a1", "far", "203.0.113.2:53".parse().unwrap()));
    // What a rented server tells itself there, its keys among it, is not told to its machines.
    let metadata: SocketAddr = "169.254.169.254:80".parse().unwrap();
    hosts.ip_at("far", "addr add 169.254.169.254/32 dev eth0");
    run("ip", &["route", "add", "169.254.169.254/32", "dev", "up0"]);
    assert!(hosts.reach("host", "far", metadata).is_some());
    assert_eq!(hosts.reach("a1", "far", metadata), None);
    assert!(!hosts.ping("a1", metadata.ip()));
    let machine = a.attach(2).v4;
    assert!(!hosts.ping("far", machine.into()), "a stranger gets no further than the host");
    assert_eq!(hosts.reach("far", "a1", (machine, 80).into()), None);
    assert!(!hosts.reach_udp("far", "a1", (machine, 53).into()));
    assert!(hosts.reach("far", "host", "203.0.113.1:22".parse().unwrap()).is_some(), "the host's own services are its own");
}

#[test]
fn an_overlap_is_refused_with_the_route() {
    on_a_host_of_its_own("an_overlap_is_refused_with_the_route", |hosts| {
        let (network, a, _) = two_environments();
        hosts.plug_far();
        bring_up(&network, &a);
        run("ip", &["route", "add", "default", "via", "203.0.113.2"]);
        let routes = network.routes().unwrap();
        assert_eq!(
            routes.iter().map(|route| route.net.to_string()).filter(|net| !net.contains(':')).collect::<Vec<_>>(),
            ["203.0.113.0/24"]
        );
        check_free(a.v4, &routes).unwrap();
        let foreign = Linux::new("another-install", "/nowhere".into()).routes().unwrap();
        assert!(matches!(check_free(a.v4, &foreign), Err(Error::Overlap { .. })), "another installation's network is a route");

        // A VPN comes up, with its routes in a table of their own.
        run("ip", &["route", "add", "10.0.0.0/8", "dev", "up0", "table", "77"]);
        let routes = network.routes().unwrap();
        for error in
            [check_free(a.v4, &routes).unwrap_err(), allocate("10.213.0.0/16".parse().unwrap(), &[], &routes).unwrap_err()]
        {
            assert!(error.to_string().ends_with("overlaps the live route `10.0.0.0/8 dev up0`"), "{error}");
        }
    });
}

#[test]
fn another_firewall_in_the_way_is_named() {
    on_a_host_of_its_own("another_firewall_in_the_way_is_named", |_| {
        let (network, a, _) = two_environments();
        bring_up(&network, &a);
        assert_eq!(forward_trouble(), None);
        run(
            "nft",
            &[
                "add table ip filter; add chain ip filter DOCKER-USER; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
            ],
        );
        let sentence = forward_trouble().unwrap();
        assert!(sentence.contains("Docker") && sentence.contains("iptables -I DOCKER-USER -i adt+ -j ACCEPT"), "{sentence}");
        run("nft", &["add rule ip filter DOCKER-USER iifname \"adt*\" accept"]);
        assert_eq!(forward_trouble(), None);
    });
}
#[test]
fn environments_come_and_go_at_the_same_time() {
    on_a_host_of_its_own("environments_come_and_go_at_the_same_time", |_| {
        let (network, a, b) = two_environments();
        std::thread::scope(|scope| {
            for spec in [&a, &b] {
                scope.spawn(|| {
                    for _ in 0..10 {
                        bring_up(&network, spec);
                        network.disconnect(&spec.tag).unwrap();
                    }
                    bring_up(&network, spec);
                });
            }
        });
        assert!(network.seen(&a.tag, None).unwrap().complete());
        assert!(network.seen(&b.tag, None).unwrap().complete());
        std::thread::scope(|scope| {
            for spec in [&a, &b] {
                scope.spawn(|| network.disconnect(&spec.tag).unwrap());
            }
        });
        assert_eq!(traces(), "");
    });
}
