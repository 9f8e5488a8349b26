use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::dice::{Dice, rounds};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 11, 61);

fn zone() -> Zone {
    Zone::new(&sample::routes(2, Ipv4Addr::new(10, 97, 3, 0)), &Front { proxy_v4: PROXY, proxy_v6: None, serial: 7 })
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn asker(view: View, transport: Transport) -> Asker {
    Asker { view, transport, forwards: true, turn: 0 }
}

fn ask(zone: &Zone, asker: Asker, message: &Message) -> Option<Message> {
    let mut out = Vec::new();
    match respond(zone, asker, &message.to_vec().unwrap(), &mut out) {
        Verdict::Reply(_) => Some(Message::from_vec(&out).unwrap()),
        Verdict::Forward | Verdict::Drop => None,
    }
}

/// The answer as one line: `A 10.97.3.2`, `nodata example.test.`, `NXDomain example.test.`, `forward`.
fn told(zone: &Zone, view: View, name: &str, kind: RecordType) -> String {
    let Some(answer) = ask(zone, asker(view, Transport::Udp), &query(name, kind)) else { return "forward".into() };
    assert_eq!(answer.recursion_available, view != View::Host, "{name}");
    if answer.response_code == ResponseCode::Refused {
        assert!(!answer.authoritative);
        return "refused".into();
    }
    assert!(answer.authoritative, "{name}");
    if answer.answers.is_empty() {
        let [soa] = answer.authorities.as_slice() else { panic!("{name}: a negative answer has one SOA") };
        assert_eq!(soa.record_type(), RecordType::SOA);
        let code =
            if answer.response_code == ResponseCode::NoError { "nodata".into() } else { format!("{:?}", answer.response_code) };
        return format!("{code} {}", soa.name);
    }
    assert_eq!(answer.response_code, ResponseCode::NoError);
    assert!(
        answer.answers.iter().all(|record| record.name.eq_case(&answer.queries[0].name)),
        "{name}: owners are spelled as asked"
    );
    let records: Vec<_> = answer.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    records.join(", ")
}

#[test]
fn the_host_is_told() {
    use RecordType::{A, AAAA, ANY, MX, NS, PTR, SOA, TXT};
    let zone = zone();
    for (name, kind, expected) in [
        ("db.1000.shop.example.test.", A, "A 10.97.3.2"),
        ("db.1000.shop.example.test.", AAAA, "AAAA fd00:ad7::2"),
        ("web2.1001.shop.example.test.", A, "A 10.97.3.68"),
        ("DB.1000.sHoP.eXample.test.", A, "A 10.97.3.2"),
        ("gateway.1000.shop.example.test.", A, "A 10.97.3.1"),
        ("www.1000.shop.example.test.", A, "A 127.0.11.61"),
        ("www.1000.shop.example.test.", AAAA, "nodata example.test."),
        ("anything.www.1000.shop.example.test.", A, "A 127.0.11.61"),
        ("a.b.c.www.1000.shop.example.test.", A, "A 127.0.11.61"),
        ("a.b.c.www.1000.shop.example.test.", TXT, "nodata example.test."),
        ("*.www.1000.shop.example.test.", A, "A 127.0.11.61"),
        ("1000.shop.example.test.", A, "A 127.0.11.61"),
        ("shop.example.test.", A, "A 127.0.11.61"),
        ("example.test.", A, "A 127.0.11.61"),
        ("example.test.", NS, "NS example.test."),
        ("example.test.", SOA, "SOA example.test. example.test. 7 3600 600 86400 5"),
        ("example.test.", MX, "nodata example.test."),
        ("example.test.", ANY, "A 127.0.11.61"),
        ("db.1000.shop.example.test.", ANY, "A 10.97.3.2"),
        ("db.1000.shop.example.test.", MX, "nodata example.test."),
        ("db.1000.shop.example.test.", RecordType::Unknown(65280), "nodata example.test."),
        ("x.db.1000.shop.example.test.", A, "NXDomain example.test."),
        ("nope.1000.shop.example.test.", A, "NXDomain example.test."),
        ("9999.shop.example.test.", A, "NXDomain example.test."),
        ("nope.example.test.", A, "NXDomain example.test."),
        ("notexample.test.", A, "refused"),
        ("test.", A, "refused"),
        (".", NS, "refused"),
        ("db.", A, "refused"),
        ("www.shop.example.org.", A, "refused"),
        ("2.3.97.10.in-addr.arpa.", PTR, "PTR db.1000.shop.example.test."),
        ("1.3.97.10.in-addr.arpa.", PTR, "PTR gateway.1000.shop.example.test."),
        ("68.3.97.10.in-addr.arpa.", PTR, "PTR web2.1001.shop.example.test."),
        ("2.3.97.10.in-addr.arpa.", A, "nodata 3.97.10.in-addr.arpa."),
        ("9.3.97.10.in-addr.arpa.", PTR, "NXDomain 3.97.10.in-addr.arpa."),
        ("9.4.97.10.in-addr.arpa.", PTR, "refused"),
        ("61.11.0.127.in-addr.arpa.", PTR, "PTR example.test."),
        ("61.11.0.127.in-addr.arpa.", A, "nodata 61.11.0.127.in-addr.arpa."),
        ("62.11.0.127.in-addr.arpa.", PTR, "refused"),
        ("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.7.d.a.0.0.0.d.f.ip6.arpa.", PTR, "PTR web1.1001.shop.example.test."),
        (
            "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.7.d.a.0.0.0.d.f.ip6.arpa.",
            PTR,
            "nodata 1.0.0.0.0.0.0.0.7.d.a.0.0.0.d.f.ip6.arpa.",
        ),
    ] {
        assert_eq!(told(&zone, View::Host, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn machines_are_told() {
    use RecordType::{A, AAAA, PTR, TXT};
    let zone = zone();
    for (name, kind, expected) in [
        ("db.", A, "A 10.97.3.66"),
        ("web1.", AAAA, "AAAA fd00:ad7:0:1::3"),
        ("db.", TXT, "nodata db."),
        ("db.1000.shop.example.test.", A, "A 10.97.3.2"),
        ("www.1001.shop.example.test.", A, "A 10.97.3.65"),
        ("www.1001.shop.example.test.", AAAA, "nodata example.test."),
        ("x.www.1001.shop.example.test.", A, "A 10.97.3.65"),
        ("www.shop.example.org.", A, "A 10.97.3.67, A 10.97.3.68"),
        ("www.shop.example.org.", TXT, "nodata www.shop.example.org."),
        ("x.www.shop.example.org.", A, "forward"),
        ("shop.example.org.", A, "forward"),
        ("www.1000.shop.example.test.", A, "A 10.97.3.65"),
        ("example.test.", A, "A 10.97.3.65"),
        ("nope.example.test.", A, "NXDomain example.test."),
        ("66.3.97.10.in-addr.arpa.", PTR, "PTR db.1001.shop.example.test."),
        (".", RecordType::NS, "forward"),
    ] {
        assert_eq!(told(&zone, View::Inside(1), name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn the_source_decides_who_asks() {
    let zone = zone();
    for (source, view) in [
        ("10.97.3.66", View::Inside(1)),
        ("10.97.3.2", View::Inside(0)),
        ("10.97.3.65", View::Host),
        ("10.97.3.128", View::Host),
        ("127.0.0.1", View::Host),
        ("fd00:ad7:0:1::3", View::Inside(1)),
        ("fd00:ad7:0:1::1", View::Host),
        ("::ffff:10.97.3.66", View::Inside(1)),
        ("::1", View::Host),
    ] {
        assert_eq!(zone.view(source.parse::<IpAddr>().unwrap()), view, "{source}");
    }
}

#[test]
fn addresses_take_turns_at_being_first() {
    let zone = zone();
    let first = |turn| {
        let asker = Asker { turn, ..asker(View::Inside(0), Transport::Udp) };
        let answer = ask(&zone, asker, &query("www.shop.example.org.", RecordType::A)).unwrap();
        answer.answers[0].data.to_string()
    };
    assert_eq!([first(0), first(1), first(2)], ["10.97.3.3", "10.97.3.4", "10.97.3.3"]);
}

#[test]
fn a_platform_may_have_a_domain_below_another() {
    let mut routes = sample::routes(1, Ipv4Addr::new(10, 97, 3, 0));
    let domain = crate::model::Domain::new("deep.below.example.test").unwrap();
    routes.platforms[0].domain = domain.clone();
    routes.platforms[0].environments[0].domain = domain;
    let zone = Zone::new(&routes, &Front { proxy_v4: PROXY, proxy_v6: None, serial: 7 });
    for (name, expected) in [
        ("db.1000.shop.deep.below.example.test.", "A 10.97.3.2"),
        ("nope.deep.below.example.test.", "NXDomain deep.below.example.test."),
        ("below.example.test.", "nodata example.test."),
        ("nope.below.example.test.", "NXDomain example.test."),
    ] {
        assert_eq!(told(&zone, View::Host, name, RecordType::A), expected, "{name}");
    }
}

#[test]
fn a_domain_stays_its_own_zone_below_one_that_was_read_before_it() {
    let mut routes = sample::routes(1, Ipv4Addr::new(10, 97, 3, 0));
    let domain = |text: &str| crate::model::Domain::new(text).unwrap();
    routes.platforms[0].domain = domain("a.z.example.test");
    routes.platforms[0].environments[0].domain = domain("a.z.example.test");
    let mut other = sample::routes(0, Ipv4Addr::new(10, 97, 4, 0)).platforms.remove(0);
    other.domain = domain("z.example.test");
    routes.platforms.push(other);
    let zone = Zone::new(&routes, &Front { proxy_v4: PROXY, proxy_v6: None, serial: 7 });
    for (name, expected) in [
        ("nope.a.z.example.test.", "NXDomain a.z.example.test."),
        ("nope.z.example.test.", "NXDomain z.example.test."),
        ("nope.example.test.", "NXDomain example.test."),
    ] {
        assert_eq!(told(&zone, View::Host, name, RecordType::A), expected, "{name}");
    }
}

#[test]
fn edns_is_answered_in_kind() {
    let zone = zone();
    let mut message = query("db.1000.shop.example.test.", RecordType::A);
    let udp = asker(View::Host, Transport::Udp);
    assert!(ask(&zone, udp, &message).unwrap().edns.is_none());
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    message.set_edns(edns.clone());
    let answer = ask(&zone, udp, &message).unwrap();
    let opt = answer.edns.unwrap();
    assert_eq!((opt.version(), opt.max_payload(), opt.flags().dnssec_ok), (0, 1232, true));
    edns.set_version(1);
    message.set_edns(edns);
    let answer = ask(&zone, udp, &message).unwrap();
    assert_eq!((u16::from(answer.response_code), answer.edns.unwrap().version()), (16, 0));
}

#[test]
fn what_does_not_fit_is_cut_over_udp_only() {
    let mut routes = sample::routes(1, Ipv4Addr::new(10, 97, 3, 0));
    let environment = &mut routes.platforms[0].environments[0];
    let (web, backend) = (environment.machines[1].clone(), environment.sites[0].backends[0].clone());
    for number in 5..50 {
        let name = crate::model::MachineName::new(format!("web{number}")).unwrap();
        let v4 = Ipv4Addr::new(10, 97, 3, number);
        environment.sites[0].backends.push(crate::model::route::Backend { machine: name.clone(), ..backend.clone() });
        environment.machines.push(crate::model::route::MachineRoute { name, v4, ..web.clone() });
    }
    let zone = Zone::new(&routes, &Front { proxy_v4: PROXY, proxy_v6: None, serial: 7 });
    let mut message = query("www.shop.example.org.", RecordType::A);
    let cut = ask(&zone, asker(View::Inside(0), Transport::Udp), &message).unwrap();
    assert!(cut.truncation && cut.answers.is_empty());
    let whole = ask(&zone, asker(View::Inside(0), Transport::Tcp), &message).unwrap();
    assert!(!whole.truncation && whole.answers.len() == 47);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    assert_eq!(ask(&zone, asker(View::Inside(0), Transport::Udp), &message).unwrap().answers.len(), 47);
}

#[test]
fn what_is_no_ordinary_question_is_declined() {
    let zone = zone();
    let code = |message: &Message| ask(&zone, asker(View::Inside(0), Transport::Tcp), message).map(|answer| answer.response_code);
    let name = "db.1000.shop.example.test.";
    assert_eq!(code(&query(name, RecordType::AXFR)), Some(ResponseCode::Refused));
    assert_eq!(code(&query("example.test.", RecordType::IXFR)), Some(ResponseCode::Refused));
    assert_eq!(code(&query(name, RecordType::OPT)), Some(ResponseCode::FormErr));
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), Some(ResponseCode::Refused));
    for op in [OpCode::Status, OpCode::Notify, OpCode::Update, OpCode::Unknown(1), OpCode::Unknown(15)] {
        let mut message = query(name, RecordType::A);
        message.metadata.op_code = op;
        let answer = ask(&zone, asker(View::Host, Transport::Udp), &message).unwrap();
        assert_eq!((answer.response_code, answer.op_code), (ResponseCode::NotImp, op));
    }
    let mut two = query(name, RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), Some(ResponseCode::FormErr));
    two.queries.clear();
    assert_eq!(code(&two), Some(ResponseCode::FormErr));
    assert_eq!(code(&query(name, RecordType::A).into_response()), None);
}

#[test]
fn fuzzed_questions_never_panic() {
    let mut with_edns = query("x.www.1000.shop.example.test.", RecordType::A);
    with_edns.set_edns(Edns::new());
    let mut with_record = with_edns.clone();
    let zone = zone();
    let answer = ask(&zone, asker(View::Host, Transport::Udp), &query("db.1001.shop.example.test.", RecordType::ANY)).unwrap();
    with_record.add_additionals(answer.answers.clone());
    with_record.add_authorities(answer.answers);
    let seeds = [query("db.", RecordType::AAAA), with_edns, with_record].map(|seed| seed.to_vec().unwrap());
    // A pointer to another place of the packet, lengths of labels, and the type of EDNS.
    let words: &[&[u8]] = &[b"\xc0\x0c", b"\xc1\xff", b"\xc0", b"\0", b"\x3f", b"\x40", b"\0\x29", b"\xff\xff"];
    let mut dice = Dice::new();
    for _ in 0..rounds(200_000) {
        fuzz(&dice.damaged(&seeds, words));
    }
}

proptest! {
    #[test]
    fn random_packets_never_panic(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz(&packet);
    }

    #[test]
    fn a_known_name_always_exists(
        environment in 0u32..2,
        name in prop::sample::select(vec!["db.", "web1.", "web2.", "www.", "admin.", "gateway.", "", "any.www."]),
        kind in any::<u16>(),
        inside in any::<bool>(),
        id in any::<u16>(),
    ) {
        let kind = RecordType::from(kind);
        prop_assume!(!matches!(kind, RecordType::OPT | RecordType::AXFR | RecordType::IXFR));
        let mut message = query(&format!("{name}{}.shop.example.test.", 1000 + environment), kind);
        message.metadata.id = id;
        let view = if inside { View::Inside(0) } else { View::Host };
        let answer = ask(&zone(), asker(view, Transport::Udp), &message).unwrap();
        prop_assert_eq!(answer.response_code, ResponseCode::NoError);
        prop_assert_eq!(answer.id, id);
        prop_assert_eq!(answer.queries, message.queries);
    }
}
