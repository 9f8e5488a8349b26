//! The records of a target's names, where its operator sits: looked at before anything is done, changed when the environment is
//! there, proven at every server of their zone.
//!
//! What must be done is decided in [`crate::plan::records`], and [`crate::records`] does it. A rehearsal has no part in it: its names
//! lead to production, maybe.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::target::fleet::addresses_of;
use crate::exec::account::on_files_of;
use crate::model::records::{Entry, Seen, Zone, mark};
use crate::model::request::TargetOf;
use crate::model::response::{CheckItem, CheckStep, Promotion, Standing};
use crate::model::target::{Server, TargetStep};
use crate::model::{Digest, Domain, Edge, EnvironmentId, Failure, Fault, Kind};
use crate::plan::records::{self as plan, Change, Refused};
use crate::records::{Error, Key, Records, Rfc2136, Witness, world};
use crate::servers::Way;

/// A zone's other servers hear of a change within seconds.
const HEARD: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);

/// The names of a target on their way to its servers. Nothing where somebody else enters them.
#[derive(Default)]
pub(super) struct Names(Option<Kept>);

struct Kept {
    id: EnvironmentId,
    zone: Zone,
    records: Box<dyn Records>,
    /// Each name with its addresses; those that go have none.
    wanted: BTreeMap<Domain, BTreeSet<IpAddr>>,
    changes: Vec<Change>,
    refused: Vec<Refused>,
}

impl Engine {
    /// What the records are and shall be, when a target's names become `after`. `before` are those that it has, and had before the
    /// last promotion: that one may have been killed before it took their records away. `servers` are those that the world comes to.
    pub(super) fn names(
        &self,
        id: &EnvironmentId,
        (before, after): (&[&Edge], &Edge),
        servers: &[Server],
        way: &Way,
        events: &Events,
    ) -> Result<Names, Failure> {
        if way.is_rehearsal() {
            return Ok(Names::default());
        }
        let names = self.look_at_names(id, (before, after), servers, events)?;
        let refused = names.0.as_ref().map_or(&[][..], |kept| &kept.refused);
        if refused.is_empty() {
            return Ok(names);
        }
        let fault = |refused: &Refused| Fault { message: refused.to_string(), place: None, hint: Some(refused.remedy(id)) };
        Err(Failure::new(Kind::Conflict, format!("lead its names to `{id}`")).faults(refused.iter().map(fault)))
    }

    /// As [`Self::names`] for a way back, which leaves the records alone where it changes no name.
    pub(super) fn names_back(
        &self,
        id: &EnvironmentId,
        (before, after): (&[&Edge], &Edge),
        servers: &[Server],
        way: &Way,
        events: &Events,
    ) -> Result<Names, Failure> {
        let all = |edge: &Edge| edge.all().map(|(_, name)| name.clone()).collect::<BTreeSet<_>>();
        // One that was cut off has gone back, and left records of what it went back from.
        if before.iter().all(|edge| all(edge) == all(after)) {
            return Ok(Names::default());
        }
        self.names(id, (before, after), servers, way, events)
    }

    /// For `target:check`: whether the records are what the last promotion made them, at every server of their zone.
    pub(super) fn check_records(
        &self,
        id: &EnvironmentId,
        standing: &Standing,
        server: &Server,
        remedy: &str,
        events: &Events,
    ) -> Vec<CheckItem> {
        let names = match self.look_at_names(id, (&had(standing), &standing.edge), std::slice::from_ref(server), events) {
            Ok(names) => names,
            Err(failure) => {
                let remedy = failure.hints.first().map_or(remedy, String::as_str);
                return vec![CheckItem::fault("records", failure.to_string(), remedy).at(CheckStep::Name)];
            }
        };
        let Some(kept) = names.0 else { return Vec::new() };
        let changed = kept.changes.iter().map(|change| {
            CheckItem::fault(change.name.to_string(), format!("not as it was promoted; to do: {}", change.step()), remedy)
        });
        let refused = kept
            .refused
            .iter()
            .map(|refused| CheckItem::fault(refused.name().to_string(), refused.to_string(), refused.remedy(id)));
        let told: Vec<_> = changed.chain(refused).map(|item| item.at(CheckStep::Name)).collect();
        let told_of = |name: &Domain| told.iter().any(|item| item.subject == name.as_str());
        let proof = kept.proof(|name| !told_of(name), Duration::ZERO, remedy);
        told.iter().cloned().chain(proof).collect()
    }

    fn look_at_names(
        &self,
        id: &EnvironmentId,
        (before, after): (&[&Edge], &Edge),
        servers: &[Server],
        events: &Events,
    ) -> Result<Names, Failure> {
        let of = TargetOf { platform: id.platform.clone(), target: id.name.clone() };
        let Some(zone) = self.target_of(&of)?.records else { return Ok(Names::default()) };
        let left = before.iter().flat_map(|edge| edge.all());
        let mut wanted: BTreeMap<_, _> = left.map(|(_, name)| (name.clone(), BTreeSet::new())).collect();
        let addresses = facing(servers)?;
        wanted.extend(after.all().map(|(_, name)| (name.clone(), addresses.clone())));
        wanted.retain(|name, _| zone.has(name));
        if wanted.is_empty() {
            return Ok(Names::default());
        }
        let failed = |error: Error| failure(&zone, &error);
        let path = self.platform(&id.platform)?.folder.join(&zone.key_file);
        let key = on_files_of(self.hands(), || Key::read(&path)).map_err(failed)?;
        let records: Box<dyn Records> = Box::new(Rfc2136::new(&zone, &key, id).map_err(failed)?);
        let look = || wanted.keys().map(|name| Ok((name.clone(), records.look(name)?))).collect::<Result<_, Error>>();
        let seen: BTreeMap<_, _> =
            events.task("records", &format!("looking at those of `{}`", zone.zone), || look().map_err(failed))?;
        let (changes, refused) = plan::plan(id, &wanted, &seen, zone.ttl);
        Ok(Names(Some(Kept { id: id.clone(), zone, records, wanted, changes, refused })))
    }
}

/// The names of an environment there, and those of before its last promotion.
pub(super) fn had(standing: &Standing) -> Vec<&Edge> {
    std::iter::once(&standing.edge).chain(&standing.edge_before).chain(&standing.edge_last).collect()
}

impl Names {
    fn is_settled(&self) -> bool {
        self.changes().is_empty()
    }

    fn changes(&self) -> &[Change] {
        self.0.as_ref().map_or(&[], |kept| &kept.changes)
    }

    /// What a saved plan was decided from, with what the records were.
    pub(super) fn seen(&self, rest: Digest) -> Digest {
        if self.is_settled() {
            return rest;
        }
        let text = serde_json::to_vec(&(rest, self.changes())).expect("its keys are strings, so it becomes JSON");
        Digest::from_bytes(&Sha256::digest(&text))
    }

    /// Adds its steps to those that are shown.
    pub(super) fn tell(&self, promotion: &mut Promotion) {
        if self.is_settled() {
            return;
        }
        if promotion.steps.is_empty() {
            let id = &promotion.id;
            promotion.summary = match promotion.dry_run {
                true => format!("only records of `{id}` would be changed"),
                false => format!("only records of `{id}` are changed"),
            };
        }
        promotion.changed = !promotion.dry_run;
        let steps = self.changes().iter().map(|change| TargetStep { what: change.step(), loses_data: false, bytes: 0 });
        promotion.steps.extend(steps);
    }

    /// Before anything else is done, so that old answers end while it is.
    pub(super) fn lower(&self, events: &Events) -> Result<(), Failure> {
        self.each(events, "shortening the life of", |change| Some((change.lowered()?, change.seen.clone())))
    }

    /// Once the environment is there: all lead to it, and those that go lead nowhere.
    pub(super) fn set(&self, events: &Events) -> Result<(), Failure> {
        self.each(events, "changing", |change| Some((change.set()?, change.seen.clone())))
    }

    /// What every server of the zone says now. Where all of the promotion holds, what moved gets its usual life back.
    pub(super) fn prove(&self, promotion: &mut Promotion, events: &Events) {
        let Some(kept) = &self.0 else { return };
        let EnvironmentId { platform, name } = &kept.id;
        let remedy = format!("adt target:check {platform} {name}");
        let proof = events.task("records", &format!("asking the servers of `{}`", kept.zone.zone), || {
            Ok::<_, std::convert::Infallible>(kept.proof(|_| true, HEARD, &remedy))
        });
        let Ok(proof) = proof;
        promotion.checks.items.extend(proof);
        if !promotion.holds() {
            return;
        }
        let settled = self.each(events, "the usual life of", |change| {
            let entry = change.settled()?;
            let Entry { addresses, ttl } = entry.clone();
            Some((entry, Seen { addresses, ttl, alias: None, owner: Some(mark(&kept.id)) }))
        });
        if let Err(failure) = settled {
            promotion.checks.items.push(CheckItem::fault("records", failure.to_string(), remedy).at(CheckStep::Name));
        }
    }

    /// Does a part of each change that has it: what shall be, and what is there before.
    fn each(&self, events: &Events, what: &str, part: impl Fn(&Change) -> Option<(Entry, Seen)>) -> Result<(), Failure> {
        let Some(kept) = &self.0 else { return Ok(()) };
        for change in &kept.changes {
            let Some((entry, seen)) = part(change) else { continue };
            let work = || kept.records.change(&change.name, &seen, &entry).map_err(|error| failure(&kept.zone, &error));
            events.task("records", &format!("{what} `{}`", change.name), work)?;
        }
        Ok(())
    }
}

impl Kept {
    /// One item for each name that all servers answer rightly, and one for each server that does not.
    fn proof(&self, of: impl Fn(&Domain) -> bool, patience: Duration, remedy: &str) -> Vec<CheckItem> {
        let names: Vec<_> = self.wanted.iter().filter(|(name, addresses)| !addresses.is_empty() && of(name)).collect();
        let witnesses = match self.records.witnesses() {
            Ok(witnesses) => witnesses,
            Err(error) => {
                let failure = failure(&self.zone, &error);
                let remedy = failure.hints.first().map_or(remedy, String::as_str);
                return vec![CheckItem::fault("records", failure.to_string(), remedy).at(CheckStep::Name)];
            }
        };
        let until = Instant::now() + patience;
        let zone = &self.zone.zone;
        let wrong: Vec<_> = std::thread::scope(|scope| {
            // Each server is asked one question after the other: one that is asked too much falls silent.
            let names = &names;
            let each = witnesses.iter().map(|witness| {
                let all =
                    move || names.iter().filter_map(|(name, wanted)| wrong(witness, name, wanted, until)).collect::<Vec<_>>();
                scope.spawn(all)
            });
            let each: Vec<_> = each.collect();
            each.into_iter().flat_map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let servers: Vec<_> = witnesses.iter().map(|witness| format!("`{}`", witness.name)).collect();
        let is_right = |name: &Domain| !wrong.iter().any(|(other, ..)| *other == name);
        let right = names.iter().filter(|(name, _)| is_right(name)).map(|(name, addresses)| {
            CheckItem::ok(name.to_string(), format!("leads to {} at {}", plan::words(addresses), servers.join(" and ")))
        });
        let faults = wrong.iter().map(|(name, server, seen)| {
            let remedy = format!("look how `{server}` gets the zone `{zone}`, and whether it is reached");
            CheckItem::fault(name.to_string(), format!("`{server}` {seen}"), remedy)
        });
        right.chain(faults).map(|item| item.at(CheckStep::Name)).collect()
    }
}

/// A name that a server does not answer as it shall be, until then, with that server and what it says.
fn wrong<'a>(
    witness: &'a Witness,
    name: &'a Domain,
    wanted: &BTreeSet<IpAddr>,
    until: Instant,
) -> Option<(&'a Domain, &'a str, String)> {
    loop {
        let seen = says_else(witness, name, wanted)?;
        if Instant::now() >= until {
            return Some((name, &witness.name, seen));
        }
        std::thread::sleep(AGAIN);
    }
}

/// What a server says instead, at any of its addresses. One that is reached by one address only, as where this host has no IPv6, is
/// judged by that.
fn says_else(witness: &Witness, name: &Domain, wanted: &BTreeSet<IpAddr>) -> Option<String> {
    let mut silent = Some("has no address that anybody knows".to_owned());
    let mut has_answered = false;
    for at in &witness.at {
        match world::ask(*at, name) {
            Ok(there) if there == *wanted => has_answered = true,
            Ok(there) => return Some(format!("leads it to {}, not to {}", plan::words(&there), plan::words(wanted))),
            Err(reason) => silent = Some(reason),
        }
    }
    silent.filter(|_| !has_answered)
}

/// The addresses at which the world finds these servers.
fn facing(servers: &[Server]) -> Result<BTreeSet<IpAddr>, Failure> {
    let mut all = BTreeSet::new();
    for server in servers {
        let host = server.address.host.as_str();
        let found = addresses_of(server);
        let lead = || Failure::new(Kind::Config, "lead names to the target").hint("write the server's address in `servers`");
        if found.is_empty() {
            return Err(lead().cause(format!("`{host}` is known to your ssh only, so nobody knows its address")));
        }
        if let Some(here) = found.iter().find(|address| is_nowhere(address)) {
            return Err(lead().cause(format!("`{host}` is {here} on this computer, which is another one elsewhere")));
        }
        all.extend(found);
    }
    Ok(all)
}

/// What means another computer to everybody, or none.
fn is_nowhere(address: &IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    is_local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

/// The edge's form of what went wrong with a zone's records.
fn failure(zone: &Zone, error: &Error) -> Failure {
    let (kind, hint) = match error {
        Error::Key { .. } => (Kind::Config, "`tsig-keygen NAME` writes a key for it and its server; then `chmod 640` it"),
        Error::Unknown(_) => (Kind::Config, "write the name server's address as `server` of `records`"),
        Error::Silent { .. } => (Kind::Program, "is it reached from here, also by TCP?"),
        Error::Garbled { .. } => (Kind::Program, "look who answers there"),
        Error::UnknownKey { .. } => (Kind::Program, "let the server know the key in `key_file`, under that name"),
        Error::OtherSecret { .. } => (Kind::Program, "bring the key from the server to `key_file` anew"),
        Error::Clock { .. } => (Kind::Program, "set both clocks, e.g. by NTP"),
        Error::Unsigned { .. } => (Kind::Program, "look who answers there; nothing of it was believed"),
        Error::Refused { .. } => {
            (Kind::Program, "let the key look up and change A, AAAA and TXT there; of Bind, `update-policy` of the zone says so")
        }
        Error::NotThere { .. } => (Kind::Config, "name the zone in `records` as its server does, and the server that has it"),
        Error::Moved(_) => (Kind::Conflict, "look who else enters records there; then the same command goes on"),
        Error::Failed { .. } => (Kind::Program, "the log of the name server says why"),
    };
    Failure::new(kind, format!("keep the records of `{}`", zone.zone)).because(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
    use std::sync::{Arc, Mutex};

    use hickory_proto::op::{Message, MessageType};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record, RecordType};

    use super::*;
    use crate::model::records::NameServer;

    const OLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
    const NEW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

    /// A zone in memory, whose servers are where the test has them; it writes down what is done.
    struct Book {
        there: Seen,
        servers: Vec<SocketAddr>,
        done: Arc<Mutex<Vec<Entry>>>,
    }

    impl Records for Book {
        fn look(&self, _: &Domain) -> Result<Seen, Error> {
            Ok(self.there.clone())
        }

        fn change(&self, _: &Domain, _: &Seen, wanted: &Entry) -> Result<(), Error> {
            self.done.lock().unwrap().push(wanted.clone());
            Ok(())
        }

        fn witnesses(&self) -> Result<Vec<Witness>, Error> {
            let witness = |at: &SocketAddr| Witness { name: format!("ns{}", at.port()), at: vec![*at] };
            Ok(self.servers.iter().map(witness).collect())
        }
    }

    /// A name server that says this of every name, from the question of this number on; before, the other.
    fn says(late: usize, address: Ipv4Addr) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for number in 0.. {
                let Ok((length, asker)) = socket.recv_from(&mut buffer) else { break };
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let mut answer = Message::new(asked.id, MessageType::Response, asked.op_code);
                answer.metadata.authoritative = true;
                answer.queries = asked.queries.clone();
                if asked.queries[0].query_type() == RecordType::A {
                    let data = RData::A(A(if number < late { OLD } else { address }));
                    answer.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, data));
                }
                socket.send_to(&answer.to_vec().unwrap(), asker).unwrap();
            }
        });
        at
    }

    fn names(servers: Vec<SocketAddr>) -> (Names, Arc<Mutex<Vec<Entry>>>) {
        let id = EnvironmentId { platform: "shop".parse().unwrap(), name: "production".parse().unwrap() };
        let name: Domain = "www.shop.example".parse().unwrap();
        let there = Seen { addresses: [OLD.into()].into(), ttl: 3600, alias: None, owner: Some(mark(&id)) };
        let server = NameServer { host: "ns1.shop.example".into(), port: 53 };
        let zone = Zone { zone: "shop.example".parse().unwrap(), server, key_file: "key".into(), ttl: 300 };
        let wanted = BTreeMap::from([(name.clone(), BTreeSet::from([NEW.into()]))]);
        let (changes, refused) = plan::plan(&id, &wanted, &[(name, there.clone())].into(), zone.ttl);
        let done = Arc::default();
        let records = Box::new(Book { there, servers, done: Arc::clone(&done) });
        (Names(Some(Kept { id, zone, records, wanted, changes, refused })), done)
    }

    fn promotion(names: &Names) -> Promotion {
        let id = names.0.as_ref().unwrap().id.clone();
        Promotion::planned(id, "root@203.0.113.7".into(), false, Vec::new())
    }

    /// What is done of a promotion in its order, and what it says in the end.
    fn promoted(servers: Vec<SocketAddr>) -> (Vec<(BTreeSet<IpAddr>, u32)>, Promotion) {
        let (names, done) = names(servers);
        let (mut promotion, events) = (promotion(&names), Events::unread());
        names.tell(&mut promotion);
        names.lower(&events).unwrap();
        names.set(&events).unwrap();
        names.prove(&mut promotion, &events);
        let done = done.lock().unwrap().iter().map(|entry| (entry.addresses.clone(), entry.ttl)).collect();
        (done, promotion)
    }

    #[test]
    fn a_name_that_moves_lives_short_until_every_server_says_so() {
        let (old, new): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = ([OLD.into()].into(), [NEW.into()].into());
        // The second one hears of it later.
        let (done, promotion) = promoted(vec![says(0, NEW), says(3, NEW)]);
        assert_eq!(done, [(old.clone(), 60), (new.clone(), 60), (new.clone(), 300)]);
        assert!(promotion.holds() && promotion.changed && promotion.steps.len() == 1, "{promotion:#?}");
        assert!(promotion.summary.contains("only records"), "{}", promotion.summary);
    }

    #[test]
    fn a_server_of_the_zone_that_answers_wrongly_fails_the_proof() {
        let (names, _) = names(vec![says(0, NEW), says(0, OLD)]);
        let proof = names.0.as_ref().unwrap().proof(|_| true, Duration::from_millis(700), "x");
        let told: Vec<_> = proof.iter().map(|item| item.seen.as_str()).collect();
        assert!(told.len() == 1 && told[0].ends_with("leads it to 198.51.100.9, not to 203.0.113.7"), "{told:?}");
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (names, _) = self::names(vec![says(0, NEW), gone]);
        let proof = names.0.as_ref().unwrap().proof(|_| true, Duration::ZERO, "x");
        assert!(proof.len() == 1 && proof[0].seen.contains("gives no answer"), "{proof:?}");
    }

    #[test]
    fn what_is_not_proven_keeps_its_short_life() {
        let (names, done) = names(vec![says(0, NEW)]);
        let mut promotion = promotion(&names);
        promotion.checks.items.push(CheckItem::fault("www", "answers 502", "look"));
        names.prove(&mut promotion, &Events::unread());
        assert!(done.lock().unwrap().is_empty());
    }

    #[test]
    fn a_saved_plan_knows_whether_the_records_moved() {
        let rest = || Digest::from_bytes(&Sha256::digest("rest"));
        let (moves, _) = names(Vec::new());
        assert_eq!(Names::default().seen(rest()), rest());
        assert_ne!(moves.seen(rest()), rest());
    }

    #[test]
    fn names_never_lead_to_what_is_another_computer_for_everybody() {
        let server = |word: &str| Server { address: crate::model::target::Address::parse(word).unwrap(), host_key: None };
        assert_eq!(facing(&[server("root@203.0.113.7"), server("root@[2001:db8::7]:22")]).unwrap().len(), 2);
        for word in ["root@127.0.0.1", "root@localhost", "root@0.0.0.0", "root@169.254.1.1", "root@[fe80::1]", "root@[::1]"] {
            assert!(facing(&[server(word)]).unwrap_err().to_string().contains("on this computer"), "{word}");
        }
        assert!(facing(&[server("root@my_alias.invalid")]).unwrap_err().to_string().contains("known to your ssh only"));
    }
}
