//! The server that takes changes of a zone, by RFC 2136, each message and its answer signed by TSIG (RFC 8945).

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigner};

use super::transport::{connect, over_tcp};
use super::world::{addresses_of, alias, answers, dns_name, of, question};
use super::{Error, Key, Records, Witness};
use crate::model::records::{Entry, MARK, NameServer, Seen, Zone, mark, mark_of};
use crate::model::{Domain, EnvironmentId};

/// How far two clocks may be apart, in seconds.
const FUDGE: u16 = 300;
/// No zone has more servers, whatever somebody says.
const MOST: usize = 20;

pub struct Rfc2136 {
    zone: Zone,
    at: Vec<SocketAddr>,
    key: String,
    signer: TSigner,
    mark: String,
}

impl Rfc2136 {
    /// For the names of one environment.
    pub fn new(zone: &Zone, key: &Key, id: &EnvironmentId) -> Result<Self, Error> {
        let signer = TSigner::new(key.secret().to_vec(), key.algorithm.clone(), key.dns_name.clone(), FUDGE);
        let signer = signer.expect("keys of other algorithms are refused when they are read");
        let NameServer { host, port } = &zone.server;
        let at: Vec<_> = (host.as_str(), *port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        if at.is_empty() {
            return Err(Error::Unknown(host.clone()));
        }
        Ok(Self { zone: zone.clone(), at, key: key.name.clone(), signer, mark: mark(id) })
    }

    fn server(&self) -> String {
        self.zone.server.to_string()
    }

    /// What was signed and is answered by whoever has the key, too.
    fn exchange(&self, mut message: Message) -> Result<Message, Error> {
        let garbled = |reason: String| Error::Garbled { server: self.server(), reason };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (signature, verifier) = self.signer.sign_message(&message, now).map_err(|error| garbled(error.to_string()))?;
        message.set_signature(signature);
        let bytes = message.to_vec().map_err(|error| garbled(error.to_string()))?;
        // Once a change is on its way, no other address gets it, too.
        let answer = connect(&self.at).and_then(|stream| over_tcp(stream, &bytes));
        let answer = answer.map_err(|error| Error::Silent { server: self.server(), reason: error.to_string() })?;
        let parsed = Message::from_vec(&answer).map_err(|error| garbled(error.to_string()))?;
        if !answers(&message, &parsed) {
            return Err(garbled("it belongs to another question".to_owned()));
        }
        match verifier.map(|mut verifier| verifier.verify(&answer)) {
            Some(Ok(_)) => Ok(parsed),
            Some(Err(_)) | None => Err(self.unproven(&parsed)),
        }
    }

    /// Nothing that such an answer says is done, but it may tell why.
    fn unproven(&self, answer: &Message) -> Error {
        let (server, key) = (self.server(), self.key.clone());
        match answer.signature().and_then(|signature| signature.data.error) {
            Some(TsigError::BadKey) => Error::UnknownKey { server, key },
            Some(TsigError::BadSig) => Error::OtherSecret { server, key },
            Some(TsigError::BadTime) => Error::Clock { server },
            Some(TsigError::BadTrunc | TsigError::Unknown(_)) | None => match answer.response_code {
                ResponseCode::Refused => Error::Refused { server, key },
                _ => Error::Unsigned { server, key },
            },
        }
    }

    fn judge(&self, answer: &Message) -> Error {
        let (server, key) = (self.server(), self.key.clone());
        let signed_error = answer.signature().and_then(|signature| signature.data.error);
        match (answer.response_code, signed_error) {
            (_, Some(TsigError::BadTime)) => Error::Clock { server },
            (ResponseCode::Refused, _) => Error::Refused { server, key },
            (ResponseCode::NotAuth | ResponseCode::NotZone, _) => {
                Error::NotThere { server, name: self.zone.zone.to_string(), zone: self.zone.zone.clone() }
            }
            (code, _) => Error::Failed { server, code: code.to_string() },
        }
    }

    /// What the server has of a name, without what it knows of other zones.
    fn query(&self, name: &Name, kind: RecordType) -> Result<Message, Error> {
        let answer = self.exchange(question(name.clone(), kind))?;
        match answer.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain if answer.authoritative => Ok(answer),
            ResponseCode::NoError | ResponseCode::NXDomain => Err(Error::NotThere {
                server: self.server(),
                name: name.to_string().trim_end_matches('.').to_owned(),
                zone: self.zone.zone.clone(),
            }),
            _ => Err(self.judge(&answer)),
        }
    }

    /// Whether a name has records of its own: the star of a zone answers for those that have none. A change without a change asks
    /// it of the very data that a real one would meet.
    fn is_there(&self, name: &Domain) -> Result<bool, Error> {
        let mut message = self.update();
        message.add_pre_requisite(no_data(dns_name(name.as_str()), RecordType::ANY, DNSClass::ANY));
        let answer = self.exchange(message)?;
        match answer.response_code {
            ResponseCode::NoError => Ok(true),
            ResponseCode::NXDomain => Ok(false),
            _ => Err(self.judge(&answer)),
        }
    }

    fn update(&self) -> Message {
        let mut message = Message::new(Message::query().id, MessageType::Query, OpCode::Update);
        message.add_zone(Query::query(dns_name(self.zone.zone.as_str()), RecordType::SOA));
        message
    }

    fn mark_at(&self, name: &Domain) -> Result<Option<String>, Error> {
        let name = dns_name(&mark_of(name));
        let answer = self.query(&name, RecordType::TXT)?;
        let texts = of(&answer, &name).filter_map(|record| match &record.data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        });
        let texts: BTreeSet<_> = texts.collect();
        // Beside something else it is no mark of one owner; without any, a zone's star said something.
        let is_mark = texts.iter().any(|text| text.starts_with(MARK));
        Ok(is_mark.then(|| texts.into_iter().collect::<Vec<_>>().join("; ")))
    }
}

impl Records for Rfc2136 {
    fn look(&self, name: &Domain) -> Result<Seen, Error> {
        let owner = self.mark_at(name)?;
        let mut seen = Seen { owner, ..Seen::default() };
        let own = dns_name(name.as_str());
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = self.query(&own, kind)?;
            for (address, ttl) in addresses_of(&answer, &own) {
                seen.addresses.insert(address);
                seen.ttl = seen.ttl.max(ttl);
            }
            seen.alias = seen.alias.or_else(|| alias(&answer, &own));
        }
        let answers = !seen.addresses.is_empty() || seen.alias.is_some();
        if seen.owner.is_none() && answers && !self.is_there(name)? {
            return Ok(Seen::default());
        }
        Ok(seen)
    }

    fn change(&self, name: &Domain, seen: &Seen, wanted: &Entry) -> Result<(), Error> {
        let mut message = self.update();
        let (own, mark_name) = (dns_name(name.as_str()), dns_name(&mark_of(name)));
        let mark = |ttl| Record::from_rdata(mark_name.clone(), ttl, RData::TXT(TXT::new(vec![self.mark.clone()])));
        // Without our mark there must be nothing, whatever somebody saw.
        let is_ours = seen.owner.as_ref() == Some(&self.mark);
        let before = Entry { addresses: if is_ours { seen.addresses.clone() } else { BTreeSet::new() }, ttl: 0 };
        match is_ours {
            true => message.add_pre_requisite(mark(0)),
            false => message.add_pre_requisite(no_data(mark_name.clone(), RecordType::TXT, DNSClass::NONE)),
        }
        message.add_pre_requisite(no_data(own.clone(), RecordType::CNAME, DNSClass::NONE));
        for kind in [RecordType::A, RecordType::AAAA] {
            let before = records(&own, kind, &before);
            if before.is_empty() {
                message.add_pre_requisite(no_data(own.clone(), kind, DNSClass::NONE));
            } else {
                message.add_pre_requisites(before);
            }
            message.add_update(no_data(own.clone(), kind, DNSClass::ANY));
            message.add_updates(records(&own, kind, wanted));
        }
        match wanted.addresses.is_empty() {
            true => {
                let mut gone = mark(0);
                gone.dns_class = DNSClass::NONE;
                message.add_update(gone);
            }
            false => message.add_update(mark(wanted.ttl)),
        }
        let answer = self.exchange(message)?;
        match answer.response_code {
            ResponseCode::NoError => Ok(()),
            ResponseCode::YXDomain | ResponseCode::YXRRSet | ResponseCode::NXRRSet | ResponseCode::NXDomain => {
                Err(Error::Moved(name.clone()))
            }
            _ => Err(self.judge(&answer)),
        }
    }

    fn witnesses(&self) -> Result<Vec<Witness>, Error> {
        let zone = dns_name(self.zone.zone.as_str());
        let answer = self.query(&zone, RecordType::NS)?;
        let names: BTreeSet<_> = of(&answer, &zone)
            .filter_map(|record| match &record.data {
                RData::NS(name) => Some(name.0.to_lowercase()),
                _ => None,
            })
            .take(MOST)
            .collect();
        let mut all = vec![Witness { name: self.server(), at: self.at.clone() }];
        for name in names {
            let at = self.addresses_of_server(&name)?;
            // The one that takes changes may be one of them, and by another name.
            if at.is_empty() || !at.iter().all(|at| self.at.iter().any(|known| known.ip() == at.ip())) {
                all.push(Witness { name: name.to_string().trim_end_matches('.').to_owned(), at });
            }
        }
        Ok(all)
    }
}

impl Rfc2136 {
    /// The zone knows those of its servers that are in it; this host's name servers know the others.
    fn addresses_of_server(&self, name: &Name) -> Result<Vec<SocketAddr>, Error> {
        let word = name.to_string();
        let word = word.trim_end_matches('.');
        let resolved = || (word, NameServer::PORT).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        if !dns_name(self.zone.zone.as_str()).zone_of(name) {
            return Ok(resolved());
        }
        let mut all = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = match self.query(name, kind) {
                // In a zone below, which others have.
                Err(Error::NotThere { .. }) => return Ok(resolved()),
                answer => answer?,
            };
            all.extend(addresses_of(&answer, name).map(|(address, _)| SocketAddr::new(address, NameServer::PORT)));
        }
        Ok(all)
    }
}

/// The addresses of one kind, as records.
fn records(name: &Name, kind: RecordType, entry: &Entry) -> Vec<Record> {
    let data = entry.addresses.iter().filter_map(|address| match address {
        std::net::IpAddr::V4(v4) if kind == RecordType::A => Some(RData::A(A(*v4))),
        std::net::IpAddr::V6(v6) if kind == RecordType::AAAA => Some(RData::AAAA(AAAA(*v6))),
        std::net::IpAddr::V4(_) | std::net::IpAddr::V6(_) => None,
    });
    data.map(|data| Record::from_rdata(name.clone(), entry.ttl, data)).collect()
}

/// What prerequisites and deletions are made of (RFC 2136 2.4, 2.5): a name and a kind without data.
fn no_data(name: Name, kind: RecordType, class: DNSClass) -> Record {
    let mut record = Record::update0(name, 0, kind);
    record.dns_class = class;
    record
}
