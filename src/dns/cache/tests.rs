use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, CNAME, NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::dice::{Dice, rounds};
use crate::dns::front::Transport;
use crate::dns::sample;

const NAME: &str = "www.example.org.";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn asking(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

fn address(owner: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, 7)))
}

fn alias(owner: &str, to: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let zone = name("example.org.");
    Record::from_rdata(zone.clone(), ttl, RData::SOA(SOA::new(zone.clone(), zone, 1, 2, 3, 4, minimum)))
}

fn unknown(owner: &str, kind: u16, ttl: u32) -> Record {
    raw(owner, kind, ttl, &[7; 24])
}

fn raw(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Record {
    let rdata = NULL::with(data.to_vec());
    Record::from_rdata(name(owner), ttl, RData::Unknown { code: RecordType::from(kind), rdata })
}

/// What DNSSEC adds, with its form (RFC 4034 3.1, 4.1): of an A record, by a key of `example.org`.
fn signature(owner: &str, ttl: u32) -> Record {
    raw(owner, 46, ttl, b"\0\x01\x08\x03\0\0\0\x3c\x70\0\0\0\x60\0\0\0\x12\x34\x07example\x03org\0signedsignedsigned")
}

fn next(owner: &str, ttl: u32) -> Record {
    raw(owner, 47, ttl, b"\x01x\x07example\x03org\0\0\x01\x40")
}

/// What a name server says to a question, in its words.
fn said(question: &Message, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = question.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    change(&mut message);
    message.to_vec().unwrap()
}

fn with(question: &Message, answers: impl IntoIterator<Item = Record>) -> Vec<u8> {
    said(question, |message| message.answers.extend(answers))
}

fn machine(environment: u8, number: u8) -> Machine {
    let gateway = Ipv4Addr::new(10, 97, 3, environment * 64 + 1);
    Machine { gateway, address: IpAddr::V4(Ipv4Addr::new(10, 97, 3, environment * 64 + number)) }
}

fn read(packet: &[u8]) -> Question {
    Question::read(packet, Transport::Udp).expect("it is a plain question")
}

/// Whether it was kept.
fn bring(cache: &Cache, of: Machine, packet: &[u8], answer: &[u8], now: Instant) -> bool {
    let turn = cache.turn(of, read(packet)).expect("nobody else asks");
    Answer::read(packet, answer).map(|answer| turn.keep(answer, now)).is_some()
}

fn known(cache: &Cache, of: Machine, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    cache.get(of, &read(packet), packet, now, &mut out).then_some(out)
}

/// The records of all sections, as `A 300, RRSIG 20`.
fn times(answer: &[u8]) -> String {
    let message = Message::from_vec(answer).unwrap();
    message.all_sections().map(|record| format!("{} {}", record.record_type(), record.ttl)).collect::<Vec<_>>().join(", ")
}

fn later(seconds: u64, since: Instant) -> Instant {
    since + Duration::from_secs(seconds)
}

#[test]
fn times_to_live_run_down() {
    let (cache, now) = (Cache::new(), Instant::now());
    let question = asking(NAME, RecordType::A);
    let packet = question.to_vec().unwrap();
    let answer = said(&question, |message| {
        message.add_answer(alias(NAME, "web.example.org.", 300)).add_answer(address("web.example.org.", 60));
        message.add_authority(unknown("example.org.", 65280, 20));
    });
    assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
    for (seconds, expected) in [
        (0, Some("CNAME 300, A 60, Unknown 20")),
        (1, Some("CNAME 299, A 59, Unknown 19")),
        (19, Some("CNAME 281, A 41, Unknown 1")),
        (20, None),
        // Once over, it is over.
        (0, None),
    ] {
        let told = known(&cache, machine(0, 2), &packet, later(seconds, now));
        assert_eq!(told.map(|answer| times(&answer)).as_deref(), expected, "after {seconds} s");
    }
    assert!(cache.metrics().contains("adt_dns_cache_bytes 0\n"), "{}", cache.metrics());
}

#[test]
fn a_long_life_ends_within_the_hour() {
    let (cache, now) = (Cache::new(), Instant::now());
    let question = asking(NAME, RecordType::A);
    let packet = question.to_vec().unwrap();
    let answer = with(&question, [address(NAME, 604_800)]);
    assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
    assert_eq!(known(&cache, machine(0, 2), &packet, later(3599, now)).map(|answer| times(&answer)).as_deref(), Some("A 601201"));
    assert_eq!(known(&cache, machine(0, 2), &packet, later(3600, now)), None);
}

#[test]
fn what_is_not_there_is_not_for_as_long_as_its_zone_says() {
    let now = Instant::now();
    let question = asking(NAME, RecordType::A);
    let packet = question.to_vec().unwrap();
    for (code, ttl, minimum, with_alias) in [
        (ResponseCode::NXDomain, 300, 30, false),
        (ResponseCode::NXDomain, 30, 300, false),
        (ResponseCode::NoError, 300, 30, false),
        (ResponseCode::NXDomain, 300, 30, true),
        (ResponseCode::NoError, 300, 30, true),
    ] {
        let cache = Cache::new();
        let answer = said(&question, |message| {
            message.metadata.response_code = code;
            if with_alias {
                message.add_answer(alias(NAME, "gone.example.org.", 600));
            }
            message.add_authority(soa(ttl, minimum));
        });
        assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
        let told = known(&cache, machine(0, 2), &packet, later(29, now)).expect("it is known for 30 s");
        assert_eq!(times(&told), if with_alias { "CNAME 571, SOA 1" } else { "SOA 1" });
        assert_eq!(Message::from_vec(&told).unwrap().response_code, code);
        assert_eq!(known(&cache, machine(0, 2), &packet, later(30, now)), None);
    }
}

#[test]
fn what_is_not_to_be_kept_is_not() {
    let question = asking(NAME, RecordType::A);
    let packet = question.to_vec().unwrap();
    let good = with(&question, [address(NAME, 60)]);
    assert!(Answer::read(&packet, &good).is_some());
    let code = |code| {
        said(&question, |message| {
            message.metadata.response_code = code;
            message.add_answers([address(NAME, 60)]).add_authorities([soa(60, 60)]);
        })
    };
    let part = said(&question, |message| message.add_answer(address(NAME, 60)).metadata.truncation = true);
    let (name, kind) = (asking("xyz.example.org.", RecordType::A), asking(NAME, RecordType::AAAA));
    for (what, answer) in [
        ("a failure", code(ResponseCode::ServFail)),
        ("a refusal", code(ResponseCode::Refused)),
        ("nothing", with(&question, [])),
        ("a part", part),
        ("no name, and no word for how long", said(&question, |it| it.metadata.response_code = ResponseCode::NXDomain)),
        ("an alias, and no word for how long", with(&question, [alias(NAME, "x.test.", 60)])),
        ("a SOA that is an answer", with(&question, [soa(60, 60)])),
        ("for now only", with(&question, [address(NAME, 0)])),
        ("one of them for now only", with(&question, [address(NAME, 9), address(NAME, 0)])),
        ("a negative time", with(&question, [address(NAME, 1 << 31)])),
        ("signed as a whole", with(&question, [address(NAME, 9), unknown(NAME, 250, 9)])),
        ("more behind its end", [&good[..], b"\0"].concat()),
        ("less than it says", good[..good.len() - 1].to_vec()),
        ("a question", packet.clone()),
        ("the answer to another question", with(&name, [address("xyz.example.org.", 60)])),
        ("the answer to another type", with(&kind, [address(NAME, 60)])),
        ("too much", with(&question, vec![address(NAME, 60); 300])),
    ] {
        assert!(Answer::read(&packet, &answer).is_none(), "{what} is kept");
    }
}

#[test]
fn what_is_kept_is_told_as_it_came() {
    let (cache, now) = (Cache::new(), Instant::now());
    let mut question = asking(NAME, RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(true);
    question.set_edns(edns);
    let packet = question.to_vec().unwrap();
    let answer = said(&question, |message| {
        message.metadata.authentic_data = true;
        message.metadata.authoritative = true;
        message.add_answer(address(NAME, 60)).add_answer(signature(NAME, 60)).add_authority(next("example.org.", 60));
        message.add_additional(unknown("ns.example.org.", 65280, 60));
        // An extended error, which tells why.
        message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(15, vec![0, 3, b'o', b'l', b'd']));
    });
    assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
    let mut other = asking("wWw.ExAmPlE.oRg.", RecordType::A);
    (other.metadata.id, other.edns) = (99, question.edns.clone());
    let told = known(&cache, machine(0, 3), &other.to_vec().unwrap(), now).expect("it is the same question");
    let mut expected = answer;
    expected[..2].copy_from_slice(&99u16.to_be_bytes());
    expected[12..12 + NAME.len()].copy_from_slice(b"\x03wWw\x07ExAmPlE\x03oRg");
    // It isn't the zone's own server that answers now.
    expected[2] &= !4;
    assert_eq!(told, expected);
}

#[test]
fn who_asks_otherwise_gets_another_answer() {
    let plain = asking(NAME, RecordType::A);
    let with = |change: fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let edns = |change: fn(&mut Edns)| {
        let (mut message, mut edns) = (plain.clone(), Edns::new());
        change(&mut edns);
        message.set_edns(edns);
        message.to_vec().unwrap()
    };
    // The types' last bytes are the letters `A` and `a`.
    let kind = |kind| asking(NAME, RecordType::from(kind)).to_vec().unwrap();
    let packets = [
        plain.to_vec().unwrap(),
        with(|message| message.metadata.recursion_desired = false),
        with(|message| message.metadata.checking_disabled = true),
        with(|message| message.metadata.authentic_data = true),
        edns(|_| {}),
        edns(|edns| {
            edns.set_dnssec_ok(true);
        }),
        edns(|edns| {
            edns.set_max_payload(4096);
        }),
        kind(65),
        kind(97),
        asking("ww.example.org.", RecordType::A).to_vec().unwrap(),
    ];
    let mut questions: Vec<_> = packets.iter().map(|packet| read(packet)).collect();
    questions.push(Question::read(&packets[0], Transport::Tcp).unwrap());
    for (place, question) in questions.iter().enumerate() {
        assert!(!questions[..place].contains(question), "{place}");
    }
    let (mut same, spelled) = (packets[0].clone(), asking("WWW.example.ORG.", RecordType::A).to_vec().unwrap());
    same[0] ^= 0xff;
    assert!(read(&same) == questions[0] && read(&spelled) == questions[0]);
    let cookie = edns(|edns| edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8])));
    let signed = with(|message| {
        message.add_additional(unknown(NAME, 250, 0));
    });
    for between_two in [cookie, signed, [&packets[0][..], b"x"].concat(), packets[0][..20].to_vec(), Vec::new()] {
        assert_eq!(Question::read(&between_two, Transport::Udp), None);
    }
}

/// A question for `number`.example.org with its answer.
fn pair(number: u32) -> (Vec<u8>, Vec<u8>) {
    let owner = format!("x{number}.example.org.");
    let question = asking(&owner, RecordType::A);
    (question.to_vec().unwrap(), with(&question, [address(&owner, 60)]))
}

#[test]
fn nobody_learns_what_an_answer_says_beside_the_point() {
    let (cache, now) = (Cache::new(), Instant::now());
    let question = asking("x.evil.test.", RecordType::A);
    let packet = question.to_vec().unwrap();
    let answer = said(&question, |message| {
        message.add_answer(alias("x.evil.test.", "bank.test.", 60)).add_answer(address("bank.test.", 60));
        message.add_additional(address("bank.test.", 60));
    });
    assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
    assert!(known(&cache, machine(0, 3), &packet, now).is_some());
    let asked = asking("bank.test.", RecordType::A).to_vec().unwrap();
    assert_eq!(known(&cache, machine(0, 3), &asked, now), None);
}

#[test]
fn an_environment_gets_what_its_own_machines_asked_for() {
    let (cache, now) = (Cache::new(), Instant::now());
    let mut routes = sample::routes(2, Ipv4Addr::new(10, 97, 3, 0));
    cache.follow(&routes);
    let (packet, answer) = pair(1);
    assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
    assert!(known(&cache, machine(0, 3), &packet, now).is_some(), "another machine of the environment");
    assert_eq!(known(&cache, machine(1, 3), &packet, now), None, "another environment");
    cache.follow(&routes);
    assert!(known(&cache, machine(0, 2), &packet, now).is_some(), "nothing changed for it");
    routes.platforms[0].environments[0].created = 1;
    cache.follow(&routes);
    assert_eq!(known(&cache, machine(0, 2), &packet, now), None, "another one at the same addresses");
    assert!(bring(&cache, machine(1, 3), &packet, &answer, now));
    cache.follow(&sample::routes(1, Ipv4Addr::new(10, 97, 3, 0)));
    assert_eq!(known(&cache, machine(1, 3), &packet, now), None, "it is gone");
    assert!(cache.metrics().contains("adt_dns_cache_bytes 0\n"), "{}", cache.metrics());
}

#[test]
fn who_floods_it_loses_its_own() {
    let (cache, now) = (Cache::of(64 << 10), Instant::now());
    for (number, of) in [machine(0, 3), machine(1, 2), machine(1, 3)].into_iter().enumerate() {
        let (packet, answer) = pair(number as u32);
        assert!(bring(&cache, of, &packet, &answer, now));
    }
    for number in 100..5000 {
        let (packet, answer) = pair(number);
        assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
        assert!(cache.state().bytes <= 64 << 10);
    }
    assert!(known(&cache, machine(0, 3), &pair(0).0, now).is_some(), "another machine of the environment");
    assert!(known(&cache, machine(1, 2), &pair(1).0, now).is_some(), "another environment");
    assert!(known(&cache, machine(0, 2), &pair(4999).0, now).is_some(), "its last one");
    assert_eq!(known(&cache, machine(0, 2), &pair(100).0, now), None, "its first one");
    // From all addresses of an environment, it loses no other's.
    for number in 5000..9000 {
        let (packet, answer) = pair(number);
        assert!(bring(&cache, machine(0, (2 + number % 60) as u8), &packet, &answer, now));
    }
    assert!(known(&cache, machine(1, 3), &pair(2).0, now).is_some(), "another environment");
    let state = cache.state();
    let sums = state.environments.values().map(|environment| {
        let of_members: usize = environment.members.values().map(|member| member.bytes).sum();
        let of_answers: usize = environment.known.iter().map(|(question, known)| cost(question, &known.answer)).sum();
        assert_eq!((of_members, of_answers), (environment.bytes, environment.bytes));
        environment.bytes
    });
    assert_eq!(sums.sum::<usize>(), state.bytes);
    assert!(state.open.is_empty());
}

#[test]
fn of_equal_questions_only_the_first_is_kept() {
    let (cache, (packet, answer)) = (Cache::new(), pair(1));
    let first = cache.turn(machine(0, 2), read(&packet)).unwrap();
    assert!(cache.turn(machine(0, 3), read(&packet)).is_none(), "one is open");
    assert!(cache.turn(machine(1, 3), read(&packet)).is_some(), "of another environment");
    drop(first);
    assert!(bring(&cache, machine(0, 3), &packet, &answer, Instant::now()));
}

#[test]
fn what_was_asked_of_former_servers_is_not_kept() {
    let (cache, now, (packet, answer)) = (Cache::new(), Instant::now(), pair(1));
    assert!(bring(&cache, machine(0, 2), &packet, &answer, now));
    let open = cache.turn(machine(0, 2), read(&packet)).unwrap();
    cache.clear();
    assert_eq!(known(&cache, machine(0, 2), &packet, now), None);
    open.keep(Answer::read(&packet, &answer).unwrap(), now);
    assert_eq!(known(&cache, machine(0, 2), &packet, now), None);
}

#[test]
fn fuzzed_answers_never_panic() {
    let question = asking(NAME, RecordType::A);
    let packet = question.to_vec().unwrap();
    let seeds = [
        with(&question, [alias(NAME, "web.example.org.", 60), address("web.example.org.", 60)]),
        said(&question, |message| {
            message.add_authority(soa(60, 30)).add_additional(signature(NAME, 60));
        }),
    ];
    let words: &[&[u8]] = &[b"\xc0\x0c", b"\xc1\xff", b"\xc0", b"\0", b"\x3f", b"\0\x29", b"\0\x06", b"\xff\xff", b"\x80\0\0\0"];
    let (mut dice, mut out, mut kept) = (Dice::new(), Vec::new(), 0);
    for _ in 0..rounds(100_000) {
        let answer = dice.damaged(&seeds, words);
        drop(Question::read(&answer, Transport::Udp));
        let Some(read) = Answer::read(&packet, &answer) else { continue };
        read.write(&packet, Duration::from_secs(1), &mut out);
        assert_eq!((out.len(), &out[..2], &out[12..29]), (answer.len(), &packet[..2], &packet[12..29]));
        Message::from_vec(&out).expect("it is still a message");
        kept += 1;
    }
    assert!(kept > 0);
}
