//! Records of names at real name servers, Bind and Knot, and at ones that lie.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adt::model::records::{Entry, NameServer, Seen, Zone};
use adt::model::{Domain, EnvironmentId};
use adt::records::{Error, Key, Records, Rfc2136, world};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, RData, Record, RecordType, TSigResponseContext, TSigner};

use super::dice::{Dice, rounds};
use super::front::{LOOPBACK, dig};
use super::servers::{free_port, installed};

const OLD: &str = "198.51.100.9";
const NEW: &str = "203.0.113.7";
const SIX: &str = "2001:db8::7";

/// 32 bytes each.
const SECRETS: [(&str, &str); 3] = [
    ("adt", "b3VycyBvdXJzIG91cnMgb3VycyBvdXJzIG91cnMgISE="),
    ("hand", "aGFuZCBoYW5kIGhhbmQgaGFuZCBoYW5kIGhhbmQgISE="),
    ("weak", "d2VhayB3ZWFrIHdlYWsgd2VhayB3ZWFrIHdlYWsgISE="),
];

const ZONE: &str = "$ORIGIN shop.example.
$TTL 3600
@ IN SOA ns1 ops 1 3600 600 86400 60
@ IN NS ns1
@ IN NS ns2
@ IN MX 10 mail
ns1 IN A 127.0.0.1
ns2 IN A 127.83.1.2
mail IN A 198.51.100.25
shop IN CNAME mail
*.star IN A 198.51.100.26
*.star IN TXT \"v=spf1 -all\"
sub IN NS ns1.elsewhere.example.
";

fn key_text(name: &str, secret: &str) -> String {
    format!("key \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n")
}

fn secret_of(name: &str) -> &'static str {
    SECRETS.iter().find(|(known, _)| *known == name).expect("it is one of them").1
}

/// A name server as its own process, on loopback, ended by its id.
struct Place {
    folder: tempfile::TempDir,
    at: SocketAddr,
    process: Child,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Bind,
    Knot,
}

impl Place {
    fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at: SocketAddr = (LOOPBACK, free_port()).into();
        let (path, port) = (folder.path().display(), at.port());
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("it is ours");
        write("zone", ZONE);
        std::fs::create_dir(folder.path().join("db")).expect("it is ours");
        for (name, secret) in SECRETS {
            write(name, &key_text(name, secret));
            std::fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o600)).expect("it is ours");
        }
        let conf = folder.path().join("conf");
        let mut command = match kind {
            Kind::Bind => {
                let keys: String = SECRETS.iter().map(|(name, _)| format!("include \"{path}/{name}\";\n")).collect();
                write(
                    "conf",
                    &format!(
                        "options {{ directory \"{path}\"; pid-file \"{path}/pid\"; session-keyfile \"{path}/session\"; recursion no;\n\
                         listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\n{keys}\
                         zone \"shop.example\" {{ type primary; file \"{path}/zone\"; notify no;\n\
                         update-policy {{ grant adt zonesub A AAAA TXT; grant hand zonesub ANY; }}; }};\n"
                    ),
                );
                let mut named = Command::new("named");
                named.args(["-g", "-n", "1", "-c"]).arg(&conf);
                named
            }
            Kind::Knot => {
                let key =
                    |(name, secret): &(&str, &str)| format!("  - id: {name}\n    algorithm: hmac-sha256\n    secret: {secret}\n");
                let keys: String = SECRETS.iter().map(key).collect();
                write(
                    "conf",
                    &format!(
                        "server:\n    rundir: {path}\n    listen: 127.0.0.1@{port}\n    pidfile: {path}/pid\n\
                         log:\n  - target: stderr\n    any: debug\ndatabase:\n    storage: {path}/db\nkey:\n{keys}\
                         acl:\n  - id: adt\n    key: adt\n    action: update\n    update-type: [A, AAAA, TXT]\n  - id: hand\n    key: hand\n    action: update\n\
                         zone:\n  - domain: shop.example\n    file: {path}/zone\n    acl: [adt, hand]\n"
                    ),
                );
                let mut knotd = Command::new("knotd");
                knotd.arg("-c").arg(&conf);
                knotd
            }
        };
        let log = std::fs::File::create(folder.path().join("log")).expect("it is ours");
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().expect("it is open")).stderr(log);
        let place = Self { process: command.spawn().expect("it is installed"), folder, at };
        let until = Instant::now() + Duration::from_secs(20);
        while world::ask(place.at, &domain("mail.shop.example")).is_err() {
            assert!(Instant::now() < until, "{}", std::fs::read_to_string(place.folder.path().join("log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
        place
    }

    fn keeper(&self, key: &str) -> Rfc2136 {
        keeper(self.at, &self.folder.path().join(key))
    }

    /// What a person of the team does meanwhile.
    fn by_hand(&self, changes: &str) {
        let mut nsupdate = Command::new("nsupdate");
        let nsupdate = nsupdate.arg("-k").arg(self.folder.path().join("hand")).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nsupdate.spawn().expect("it is installed");
        let text = format!("server 127.0.0.1 {}\nzone shop.example\n{changes}\nsend\n", self.at.port());
        child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{changes}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn dig(&self, name: &str, kind: &str) -> Vec<String> {
        dig(self.at, name, kind)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

fn zone(at: SocketAddr) -> Zone {
    let server = NameServer { host: at.ip().to_string(), port: at.port() };
    Zone { zone: domain("shop.example"), server, key_file: PathBuf::from("adt"), ttl: 300 }
}

fn keeper(at: SocketAddr, key: &Path) -> Rfc2136 {
    Rfc2136::new(&zone(at), &Key::read(key).expect("a key"), &id("production")).expect("an address needs no name server")
}

fn id(name: &str) -> EnvironmentId {
    EnvironmentId { platform: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

fn domain(word: &str) -> Domain {
    word.parse().unwrap()
}

fn addresses(words: &[&str]) -> BTreeSet<IpAddr> {
    words.iter().map(|word| word.parse().unwrap()).collect()
}

fn entry(words: &[&str], ttl: u32) -> Entry {
    Entry { addresses: addresses(words), ttl }
}

fn everywhere(test: impl Fn(Kind, &Place)) {
    if !installed(&["named", "knotd", "nsupdate", "dig"]) {
        return;
    }
    for kind in [Kind::Bind, Kind::Knot] {
        test(kind, &Place::start(kind));
    }
}

#[test]
fn a_name_comes_moves_and_goes_at_bind_and_at_knot() {
    everywhere(|kind, place| {
        let (ours, www) = (place.keeper("adt"), domain("www.shop.example"));
        let look = || ours.look(&www).unwrap();
        assert_eq!(look(), Seen::default(), "{kind:?}");
        ours.change(&www, &look(), &entry(&[OLD], 3600)).unwrap();
        assert_eq!(place.dig("_adt.www.shop.example", "TXT"), ["\"adt shop/production\""]);
        let seen = look();
        assert_eq!(
            (seen.addresses.clone(), seen.ttl, seen.owner.as_deref()),
            (addresses(&[OLD]), 3600, Some("adt shop/production"))
        );
        // A shorter life, a move with a second family, the usual life.
        for wanted in [entry(&[OLD], 60), entry(&[NEW, SIX], 60), entry(&[NEW, SIX], 300), entry(&[NEW], 300)] {
            ours.change(&www, &look(), &wanted).unwrap();
            let seen = look();
            assert_eq!((seen.addresses, seen.ttl), (wanted.addresses.clone(), wanted.ttl), "{kind:?}");
            assert_eq!(world::ask(place.at, &www).unwrap(), wanted.addresses);
        }
        ours.change(&www, &look(), &entry(&[], 300)).unwrap();
        assert_eq!(look(), Seen::default());
        assert!(place.dig("_adt.www.shop.example", "TXT").is_empty(), "{kind:?}: nothing of it is left");

        // The zone itself has other records, which stay.
        let apex = domain("shop.example");
        ours.change(&apex, &ours.look(&apex).unwrap(), &entry(&[NEW], 300)).unwrap();
        assert_eq!(place.dig("shop.example", "A"), [NEW]);
        ours.change(&apex, &ours.look(&apex).unwrap(), &entry(&[], 300)).unwrap();
        assert_eq!(place.dig("shop.example", "MX"), ["10 mail.shop.example."]);
        assert_eq!(place.dig("shop.example", "NS").len(), 2);
    });
}

#[test]
fn a_record_that_adt_did_not_make_is_never_changed() {
    everywhere(|kind, place| {
        let ours = place.keeper("adt");
        let change = |name: &str, seen: &Seen| ours.change(&domain(name), seen, &entry(&[NEW], 300));
        let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Moved(_))), "{kind:?}: {result:?}");
        // Whatever is believed of it: the server knows better.
        for seen in [
            Seen::default(),
            ours.look(&domain("mail.shop.example")).unwrap(),
            Seen { addresses: addresses(&["198.51.100.25"]), owner: Some("adt shop/production".into()), ..Seen::default() },
        ] {
            refused(change("mail.shop.example", &seen));
        }
        refused(change("shop.shop.example", &Seen::default()));
        assert_eq!(ours.look(&domain("shop.shop.example")).unwrap().alias.as_deref(), Some("mail.shop.example"));
        assert_eq!(place.dig("mail.shop.example", "A"), ["198.51.100.25"]);

        // A star answers for every name, but is no record of it: beside it there is room, and it stays.
        let (new, seen) = (domain("new.star.shop.example"), ours.look(&domain("new.star.shop.example")).unwrap());
        assert_eq!(seen, Seen::default(), "{kind:?}");
        ours.change(&new, &seen, &entry(&[NEW], 300)).unwrap();
        assert_eq!(ours.look(&new).unwrap().addresses, addresses(&[NEW]));
        assert_eq!(place.dig("other.star.shop.example", "A"), ["198.51.100.26"]);

        // Another target of the same team.
        let key = Key::read(&place.folder.path().join("adt")).unwrap();
        let staging = Rfc2136::new(&zone(place.at), &key, &id("staging")).unwrap();
        let seen = staging.look(&new).unwrap();
        assert_eq!(seen.owner.as_deref(), Some("adt shop/production"));
        refused(staging.change(&new, &seen, &entry(&[OLD], 300)));
        assert_eq!(place.dig("new.star.shop.example", "A"), [NEW]);
    });
}

#[test]
fn what_somebody_changes_meanwhile_is_not_overwritten() {
    everywhere(|kind, place| {
        let (ours, www) = (place.keeper("adt"), domain("www.shop.example"));
        ours.change(&www, &Seen::default(), &entry(&[OLD], 300)).unwrap();
        for (what, by_hand, stays) in [
            (
                "another address",
                "update delete www.shop.example A\nupdate add www.shop.example 60 A 192.0.2.1",
                vec!["192.0.2.1"],
            ),
            ("one more", "update add www.shop.example 60 A 192.0.2.2", vec!["192.0.2.1", "192.0.2.2"]),
            ("none", "update delete www.shop.example A", vec![]),
            (
                "another name",
                "update add www.shop.example 60 CNAME mail.shop.example.",
                vec!["198.51.100.25", "mail.shop.example."],
            ),
            (
                "no mark",
                "update delete www.shop.example CNAME\nupdate delete _adt.www.shop.example TXT\nupdate add www.shop.example 60 A 192.0.2.1",
                vec!["192.0.2.1"],
            ),
        ] {
            let seen = ours.look(&www).unwrap();
            place.by_hand(by_hand);
            let result = ours.change(&www, &seen, &entry(&[NEW], 300));
            assert!(matches!(result, Err(Error::Moved(_))), "{kind:?}, {what}: {result:?}");
            assert_eq!(place.dig("www.shop.example", "A"), stays, "{kind:?}, {what}");
        }
    });
}

#[test]
fn a_key_that_may_not_is_told_apart_from_one_that_is_not_known() {
    everywhere(|kind, place| {
        let www = domain("www.shop.example");
        let with = |name: &str, secret: &str| {
            let path = place.folder.path().join("tried");
            std::fs::write(&path, key_text(name, secret)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            keeper(place.at, &path)
        };
        let unknown = with("nobody", secret_of("adt")).look(&www).unwrap_err();
        assert!(matches!(unknown, Error::UnknownKey { .. }), "{kind:?}: {unknown:?}");
        let other = with("adt", secret_of("hand")).look(&www).unwrap_err();
        assert!(matches!(other, Error::OtherSecret { .. }), "{kind:?}: {other:?}");
        let weak = place.keeper("weak");
        let refused = weak.change(&www, &Seen::default(), &entry(&[NEW], 300)).unwrap_err();
        // Knot says of both that it does not know the key.
        let is_told = matches!((kind, &refused), (Kind::Bind, Error::Refused { .. }) | (Kind::Knot, Error::UnknownKey { .. }));
        assert!(is_told, "{kind:?}: {refused:?}");
        assert!(place.dig("www.shop.example", "A").is_empty());
        // What belongs to others, though its name is in the zone.
        let elsewhere = place.keeper("adt").look(&domain("www.sub.shop.example")).unwrap_err();
        assert!(matches!(elsewhere, Error::NotThere { .. }), "{kind:?}: {elsewhere:?}");
    });
}

#[test]
fn the_servers_of_a_zone_are_those_that_it_names_and_the_one_that_takes_changes() {
    everywhere(|kind, place| {
        let all = place.keeper("adt").witnesses().unwrap();
        let told: Vec<_> = all.iter().map(|one| (one.name.clone(), one.at.clone())).collect();
        let own = (format!("127.0.0.1:{}", place.at.port()), vec![place.at]);
        assert_eq!(told, [own, ("ns2.shop.example".to_owned(), vec!["127.83.1.2:53".parse().unwrap()])], "{kind:?}");
    });
}

/// A server of ours that answers each connection as it is told.
fn liar(answer: impl Fn(&[u8], &mut std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            if stream.read_exact(&mut question).is_ok() {
                answer(&question, &mut stream);
            }
        }
    });
    at
}

fn send(stream: &mut std::net::TcpStream, answer: &[u8]) {
    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
    let _ = stream.write_all(&[&length, answer].concat());
}

/// An answer to a signed question: this address for whatever was asked, signed with this secret.
fn signed(question: &[u8], secret: &str, address: &str) -> Vec<u8> {
    let asked = Message::from_vec(question).unwrap();
    let mut answer = bare(&asked, address);
    let bytes = answer.to_vec().unwrap();
    let key = data_encoding::BASE64.decode(secret.as_bytes()).unwrap();
    let signer = TSigner::new(key, TsigAlgorithm::HmacSha256, Name::from_ascii("adt.").unwrap(), 300).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mac = asked.signature().unwrap().data.mac.clone();
    answer.set_signature(TSigResponseContext::new(asked.id, now, signer, mac, None).sign(&bytes).unwrap());
    answer.to_vec().unwrap()
}

fn bare(asked: &Message, address: &str) -> Message {
    let mut answer = Message::new(asked.id, MessageType::Response, asked.op_code);
    answer.metadata.authoritative = true;
    answer.metadata.response_code = ResponseCode::NoError;
    answer.queries = asked.queries.clone();
    if let Some(query) = asked.queries.first().filter(|query| query.query_type() == RecordType::A) {
        let data = RData::A(A(address.parse().unwrap()));
        answer.add_answer(Record::from_rdata(query.name().clone(), 300, data));
    }
    answer
}

fn key_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adt");
    std::fs::write(&path, key_text("adt", secret_of("adt"))).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    (folder, path)
}

/// How looking and changing end with such a server.
fn ends(answer: impl Fn(&[u8], &mut std::net::TcpStream) + Send + 'static) -> [Option<Error>; 2] {
    let (_folder, key) = key_file();
    let (keeper, www, since) = (keeper(liar(answer), &key), domain("www.shop.example"), Instant::now());
    let both = [keeper.look(&www).map(drop), keeper.change(&www, &Seen::default(), &entry(&[NEW], 300))];
    assert!(since.elapsed() < Duration::from_secs(25), "it had no end");
    both.map(Result::err)
}

#[test]
fn nothing_is_believed_that_is_not_signed_with_the_key() {
    let honest = ends(|question, stream| send(stream, &signed(question, secret_of("adt"), NEW)));
    assert!(honest.iter().all(Option::is_none), "{honest:?}");
    let unsigned = |error: &Option<Error>| matches!(error, Some(Error::Unsigned { .. }));
    let all = ends(|question, stream| send(stream, &bare(&Message::from_vec(question).unwrap(), NEW).to_vec().unwrap()));
    assert!(all.iter().all(unsigned), "{all:?}");
    let all = ends(|question, stream| send(stream, &signed(question, secret_of("hand"), NEW)));
    assert!(all.iter().all(unsigned), "another secret: {all:?}");
    // What it once signed for the very same question says nothing about what is asked now, under whatever number.
    let (_folder, key) = key_file();
    let signed_once = std::sync::Mutex::new(std::collections::BTreeMap::<String, Vec<u8>>::new());
    let at = liar(move |question, stream| {
        let query = Message::from_vec(question).unwrap().queries[0].to_string();
        let mut known = signed_once.lock().unwrap();
        let mut answer = known.entry(query).or_insert_with(|| signed(question, secret_of("adt"), OLD)).clone();
        answer[..2].copy_from_slice(&question[..2]);
        send(stream, &answer);
    });
    let (keeper, www) = (keeper(at, &key), domain("www.shop.example"));
    assert_eq!(keeper.look(&www).unwrap().addresses, addresses(&[OLD]), "each is the first of its question");
    assert!(unsigned(&keeper.look(&www).err()));
}

#[test]
fn a_server_that_says_nothing_or_nonsense_is_given_up() {
    let silent = |error: &Option<Error>| matches!(error, Some(Error::Silent { .. }));
    let all = ends(|_, stream| std::mem::forget(stream.try_clone()));
    assert!(all.iter().all(silent), "{all:?}");
    // Byte by byte, without an end.
    let all = ends(|_, stream| {
        let mut stream = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let _ = stream.write_all(&[0xff, 0xff]);
            while stream.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    });
    assert!(all.iter().all(silent), "{all:?}");
    let all = ends(|_, stream| drop(stream.write_all(&[0xff, 0xff, 1, 2, 3])));
    assert!(all.iter().all(silent), "closed within: {all:?}");
    let garbled = |error: &Option<Error>| matches!(error, Some(Error::Garbled { .. }));
    let all = ends(|_, stream| send(stream, &[0xff; 65535]));
    assert!(all.iter().all(garbled), "{all:?}");
    let all = ends(|question, stream| send(stream, question));
    assert!(all.iter().all(garbled), "its own question: {all:?}");
    let nobody = TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap();
    let (_folder, key) = key_file();
    assert!(silent(&keeper(nobody, &key).look(&domain("www.shop.example")).err()));
}

#[test]
fn an_address_that_nobody_listens_at_leaves_the_others() {
    if !installed(&["named"]) {
        return;
    }
    // Where a name has both families, the first is not always reached.
    let place = Place::start(Kind::Bind);
    let server = NameServer { host: "localhost".into(), port: place.at.port() };
    let key = Key::read(&place.folder.path().join("adt")).unwrap();
    let keeper = Rfc2136::new(&Zone { server, ..zone(place.at) }, &key, &id("production")).unwrap();
    assert_eq!(keeper.look(&domain("www.shop.example")).unwrap(), Seen::default());
}

#[test]
fn no_damage_of_an_answer_becomes_another_one() {
    let (_folder, key) = key_file();
    let dice = std::sync::Mutex::new(Dice::new());
    let at = liar(move |question, stream| {
        let mut answer = signed(question, secret_of("adt"), NEW);
        let mut dice = dice.lock().unwrap();
        // A look has several answers: without whole ones, none would ever be believed.
        if dice.roll(2) == 0 {
            dice.damage(&mut answer, &[]);
        }
        send(stream, &answer);
    });
    let (keeper, www) = (keeper(at, &key), domain("www.shop.example"));
    let mut believed = 0;
    let rounds = rounds(1500);
    for _ in 0..rounds {
        if let Ok(seen) = keeper.look(&www) {
            assert_eq!(seen.addresses, addresses(&[NEW]));
            believed += 1;
        }
    }
    assert!(0 < believed && believed < rounds / 2, "{believed} of {rounds}");
}

/// A name server over UDP that sends these for each question.
fn over_udp(answers: impl Fn(&Message) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            for answer in answers(&Message::from_vec(&buffer[..length]).unwrap()) {
                let _ = socket.send_to(&answer, asker);
            }
            // Who is not asked answers first.
            let _ = UdpSocket::bind((LOOPBACK, 0)).unwrap().send_to(&buffer[..length], asker);
        }
    });
    at
}

#[test]
fn the_world_is_asked_of_who_answers_for_the_name_itself() {
    let www = domain("www.shop.example");
    let ask = |answers: fn(&Message) -> Vec<Vec<u8>>| world::ask(over_udp(answers), &www);
    // Noise, another number and another question come first.
    let found = ask(|asked| {
        let mut other = bare(asked, OLD);
        other.metadata.id = asked.id.wrapping_add(1);
        let mut elsewhere = bare(asked, OLD);
        elsewhere.queries[0].set_name(Name::from_ascii("other.example.").unwrap());
        vec![
            vec![0; 3],
            vec![0xff; 400],
            other.to_vec().unwrap(),
            elsewhere.to_vec().unwrap(),
            bare(asked, NEW).to_vec().unwrap(),
        ]
    });
    assert_eq!(found.unwrap(), addresses(&[NEW]));
    // Records of other names beside it are none of its own.
    let found = ask(|asked| {
        let mut answer = bare(asked, NEW);
        answer.add_answer(Record::from_rdata(Name::from_ascii("x.example.").unwrap(), 1, RData::A(A(OLD.parse().unwrap()))));
        vec![answer.to_vec().unwrap()]
    });
    assert_eq!(found.unwrap(), addresses(&[NEW]));
    let cached = ask(|asked| {
        let mut answer = bare(asked, NEW);
        answer.metadata.authoritative = false;
        vec![answer.to_vec().unwrap()]
    });
    assert!(cached.unwrap_err().contains("for others only"));
    let refused = ask(|asked| {
        let mut answer = bare(asked, NEW);
        answer.metadata.response_code = ResponseCode::Refused;
        vec![answer.to_vec().unwrap()]
    });
    assert!(refused.unwrap_err().contains("answers `"));
    let since = Instant::now();
    assert!(ask(|_| Vec::new()).unwrap_err().contains("no answer"));
    assert!(since.elapsed() < Duration::from_secs(10));
    // What does not fit is asked for over a connection, which here nobody takes.
    let long = ask(|asked| {
        let mut answer = bare(asked, OLD);
        answer.metadata.truncation = true;
        vec![answer.to_vec().unwrap()]
    });
    assert!(long.unwrap_err().contains("no answer"));
}
