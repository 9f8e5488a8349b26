//! One environment over several servers: what each of them knows of itself and of the others.
//!
//! All have the same definition, which says where each machine stands. A seat is what differs: which of the servers this one is. What
//! they must agree on besides, addresses and keys, is in it too, since it is known only once all were asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::names::MachineName;
use super::network::{NUMBERS, PREFIX};
use super::target::Back;
use super::tie::PublicKey;

/// The place of one server in an environment that several carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// This server, as the target names it.
    pub own: String,
    /// The environment's, on all of them.
    pub network: Ipv4Net,
    /// Host numbers of all machines, wherever they stand.
    pub numbers: BTreeMap<MachineName, u8>,
    /// All servers that carry it, this one included.
    pub servers: BTreeMap<String, Peer>,
    /// Whether the world reaches the sites here.
    pub edge: bool,
}

/// Where an environment may have its network: nobody on the internet has these addresses.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

impl Seat {
    /// What is wrong with it: parts of it are other servers' words.
    pub fn fault(&self) -> Option<&'static str> {
        let is_private = |net: &str| net.parse::<Ipv4Net>().is_ok_and(|net| net.contains(&self.network));
        if self.network.prefix_len() != PREFIX || self.network.trunc() != self.network || !PRIVATE.into_iter().any(is_private) {
            return Some("its network is none that an environment may have");
        }
        let mut seen = BTreeSet::new();
        let numbers = self.numbers.values().chain(self.servers.values().map(|peer| &peer.number));
        if !numbers.into_iter().all(|number| NUMBERS.contains(number) && seen.insert(*number)) {
            return Some("two have one address, or one that is not in the network");
        }
        (!self.servers.contains_key(&self.own)).then_some("it does not say which server this is")
    }
}

/// A server as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its host number in the environment's network.
    pub number: u8,
    pub endpoint: SocketAddr,
    pub key: PublicKey,
}

/// What a server would have to agree with before it carries a part of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// `None` until it is told to make one.
    pub key: Option<PublicKey>,
    /// At which it would listen for the others.
    pub port: u16,
    /// What its networks are taken from.
    pub pool: Ipv4Net,
    /// What none of this environment may overlap.
    pub taken: Vec<Ipv4Net>,
    /// The network that the environment has here.
    pub network: Option<Ipv4Net>,
    pub numbers: BTreeMap<MachineName, u8>,
    pub seat: Option<Seat>,
}

/// What servers are about to become: their ways to each other change before their machines do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Toward {
    Placed {
        placed: BTreeMap<MachineName, String>,
        seat: Seat,
    },
    Back(Back),
    /// What is written down there already.
    Recorded,
}

/// What an environment's secrets are made of, on its way from one of its servers to another. It is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_no_way_to_take_addresses_that_are_somebody_elses() {
        let peer = |number| Peer {
            number,
            endpoint: "192.0.2.1:51820".parse().unwrap(),
            key: PublicKey::new(format!("{}=", "a".repeat(43))).unwrap(),
        };
        let sound = Seat {
            own: "a".into(),
            network: "10.213.0.64/26".parse().unwrap(),
            numbers: [("db".parse().unwrap(), 2)].into(),
            servers: [("a".into(), peer(62)), ("b".into(), peer(61))].into(),
            edge: true,
        };
        assert_eq!(sound.fault(), None);
        for network in ["8.8.8.0/26", "10.213.0.0/24", "10.213.0.1/26", "127.0.0.0/26", "169.254.169.192/26", "224.0.0.0/26"] {
            assert!(Seat { network: network.parse().unwrap(), ..sound.clone() }.fault().is_some(), "{network}");
        }
        for number in [0, 1, 62, 63, 255] {
            let numbers = [("db".parse().unwrap(), number)].into();
            assert!(Seat { numbers, ..sound.clone() }.fault().is_some(), "{number}");
        }
        assert!(Seat { own: "c".into(), ..sound }.fault().is_some());
    }
}
