//! Answers of the host's name servers that the name server keeps for machines, over real sockets.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};

use crate::adt::Adt;
use crate::daemon::Foreign;
use crate::dns::{Rig, question, receive, send};
use crate::fakes::{self, init};
use crate::servers::{installed, until};

/// A name server of the host's. It answers everything with its own address, but nothing that starts with `hole`; before what starts
/// with `forged` comes a wrong guess at the id.
struct Upstream {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Upstream {
    fn start(address: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let (at, asked) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = asked.clone();
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                count.fetch_add(1, Relaxed);
                let mut message = Message::from_vec(&packet[..length]).unwrap();
                let name = message.queries[0].name().clone();
                if name.to_ascii().starts_with("hole") {
                    continue;
                }
                message.metadata.message_type = MessageType::Response;
                message.add_answer(Record::from_rdata(name.clone(), 600, RData::A(A(address))));
                let mut answer = message.to_vec().unwrap();
                if name.to_ascii().starts_with("forged") {
                    answer[0] ^= 1;
                    socket.send_to(&answer, from).unwrap();
                    answer[0] ^= 1;
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { at, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// The address in the answer, which has the question's id and spelling. After `hole`s come their refusals first.
fn ask(rig: &Rig, socket: &UdpSocket, name: &str, id: u16) -> Option<Ipv4Addr> {
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&question(name, id), rig.address()).unwrap();
    let mut packet = [0; 512];
    loop {
        let length = socket.recv(&mut packet).expect("every question has its answer");
        let answer = Message::from_vec(&packet[..length]).unwrap();
        if answer.id == id {
            assert!(answer.queries[0].name().eq_case(&hickory_proto::rr::Name::from_ascii(name).unwrap()));
            return answer.answers.iter().find_map(|record| match &record.data {
                RData::A(address) => Some(address.0),
                _ => None,
            });
        }
    }
}

fn from(rig: &Rig, machine: u8) -> UdpSocket {
    UdpSocket::bind((rig.machine(machine), 0)).unwrap()
}

const ASKED: u16 = 0x4711;

#[test]
fn a_known_answer_is_not_asked_for_again() {
    let up = Upstream::start(Ipv4Addr::new(127, 84, 9, 9));
    let rig = Rig::new(84, vec![up.at]);
    let answer = Some(Ipv4Addr::new(127, 84, 9, 9));
    for (machine, name, asked) in [
        (2, "www.example.org.", 1),
        (2, "www.example.org.", 1),
        (3, "wWw.Example.org.", 1),
        (3, "web.example.org.", 2),
        // Another environment has its own.
        (66, "www.example.org.", 3),
        (67, "www.example.org.", 3),
    ] {
        assert_eq!(ask(&rig, &from(&rig, machine), name, ASKED), answer);
        assert_eq!(up.asked(), asked, "{machine}, {name}");
    }
    let mut stream = TcpStream::connect(rig.address()).unwrap();
    send(&mut stream, &question("www.example.org.", 7));
    assert_eq!(receive(&mut stream)[3] & 15, 5, "the host is refused what machines know");
    assert_eq!((rig.stat("adt_dns_known_total"), rig.stat("adt_dns_cache_answers")), (3, 3));
}

#[test]
fn an_answer_that_a_wrong_guess_came_before_is_not_kept() {
    let up = Upstream::start(Ipv4Addr::new(127, 85, 9, 9));
    let rig = Rig::new(85, vec![up.at]);
    for asked in 1..4 {
        assert!(ask(&rig, &from(&rig, 2), "forged.example.org.", ASKED).is_some());
        assert_eq!(up.asked(), asked);
    }
    assert_eq!(rig.stat("adt_dns_cache_answers"), 0);
}

#[test]
fn other_name_servers_of_the_hosts_are_followed_at_once() {
    let (one, other) = (Upstream::start(Ipv4Addr::new(127, 86, 9, 8)), Upstream::start(Ipv4Addr::new(127, 86, 9, 9)));
    let rig = Rig::new(86, vec![one.at]);
    for upstream in [&one, &other, &one] {
        rig.forward_to(vec![upstream.at]);
        for _ in 0..2 {
            let told = ask(&rig, &from(&rig, 2), "www.example.org.", ASKED);
            assert_eq!(told.map(Into::into), Some(upstream.at.ip()));
        }
    }
    rig.forward_to(vec![one.at]);
    assert!(ask(&rig, &from(&rig, 2), "www.example.org.", ASKED).is_some());
    assert_eq!((one.asked(), other.asked()), (2, 1), "the same servers again are no change");
}

/// Whose questions nobody answers is refused more of them, but not what is known.
#[test]
fn a_known_answer_takes_no_place() {
    let up = Upstream::start(Ipv4Addr::new(127, 87, 9, 9));
    let rig = Rig::new(87, vec![up.at]);
    let socket = from(&rig, 2);
    assert!(ask(&rig, &socket, "www.example.org.", ASKED).is_some());
    for id in 0..700 {
        socket.send_to(&question("hole.example.org.", id), rig.address()).unwrap();
    }
    assert_eq!(ask(&rig, &socket, "new.example.org.", ASKED), None, "it holds all that it can");
    assert!(ask(&rig, &socket, "www.example.org.", ASKED + 1).is_some());
}

/// A name server of a network that the test's host comes into: knows one address for everything, for long.
fn network(adt: &Adt, number: u8) -> (String, Foreign) {
    let (address, known) = (format!("192.0.2.{number}"), format!("198.51.100.{number}"));
    adt.host().run(&format!("ip address add {address}/32 dev lo"));
    let (listen, all) = (format!("--listen-address={address}"), format!("--address=/#/{known}"));
    let alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="];
    let args = [&alone[..], &["--bind-interfaces", "--local-ttl=3000", &listen, &all]].concat();
    let server = Foreign::start(adt.host(), "dnsmasq", &args);
    let at = format!("@{address}");
    until("the name server answers", || adt.there("dig", &[&at, "+short", "+tries=1", "+time=1", "x.test"]).trim() == known);
    (address, server)
}

#[test]
fn a_host_that_comes_into_another_network_is_followed() {
    if !installed(&["dig", "dnsmasq"]) {
        return;
    }
    let adt = Adt::new().alone();
    fakes::Host::new(adt.path()).process("env:init").done(init("1"));
    for words in ["mount -t tmpfs none /mnt", "mkdir /mnt/etc /mnt/work"] {
        adt.host().run(words);
    }
    adt.host().run("mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work overlay /etc");
    // These would be read first.
    for folder in ["/run/systemd/resolve", "/run/NetworkManager"] {
        if adt.at(folder).is_dir() {
            adt.host().run(&format!("mount -t tmpfs none {folder}"));
        }
    }
    let [(one, _one), (other, _other)] = [1, 2].map(|number| network(&adt, number));
    let come_into = |server: &str| std::fs::write(adt.at("/etc/resolv.conf"), format!("nameserver {server}\n")).unwrap();
    come_into(&one);
    adt.up();
    let gateway: Ipv4Addr = adt.address_of("gateway.1.shop.example.test", &[]).parse().unwrap();
    let machine = Ipv4Addr::from(u32::from(gateway) + 1);
    for address in [gateway, machine] {
        adt.host().run(&format!("ip address add {address}/32 dev lo"));
    }
    let (at, from) = (format!("@{gateway}"), machine.to_string());
    let told = || adt.there("dig", &[&at, "-b", &from, "+nocookie", "+short", "+tries=1", "+time=3", "example.org"]);
    until("the machine is told what the first one knows", || told().trim() == "198.51.100.1");
    // It is known for most of an hour, but by another network's server.
    come_into("127.0.0.53");
    assert_eq!(told().trim(), "198.51.100.1");
    come_into(&other);
    until("the machine is told what the other one knows", || told().trim() == "198.51.100.2");
    adt.run("host:halt").ok();
}
