//! Everything that adt answers, looked up. Immutable: a change of routes makes a new one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::RecordType;

use super::ready::{self, Body, Key, Set};
use crate::model::EnvironmentRoute;

pub(super) type Names = HashMap<Box<[u8]>, Node>;
pub(super) type Sets = Vec<(RecordType, Set)>;

/// What the answers need besides routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    /// Where sites and homepages are served.
    pub proxy_v4: Ipv4Addr,
    pub proxy_v6: Option<Ipv6Addr>,
    /// Of every zone; it has to grow when routes change.
    pub serial: u32,
}

/// Whose names they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The host, and whoever may reach its name server.
    Host,
    /// The machines of one environment, by its place in the routes that the zone was made from.
    Inside(usize),
}

pub struct Zone {
    pub(super) names: Names,
    /// One for each environment, in the order of the routes.
    pub(super) inside: Vec<Inside>,
    /// Each environment by the first address of its networks.
    pub(super) networks: HashMap<IpAddr, usize>,
    /// The addresses of every name that the proxy serves, kept once.
    pub(super) proxy: Sets,
    pub(super) negatives: Vec<Body>,
}

/// What only the machines of one environment see.
pub(super) struct Inside {
    pub(super) names: Names,
    pub(super) proxy: Sets,
    /// What tells the environment from others.
    pub(super) gateway: Ipv4Addr,
    /// The host's own addresses in the environment's networks: what comes from them is the host.
    pub(super) gateways: [IpAddr; 2],
}

/// A name that exists.
pub(super) struct Node {
    /// Which of `negatives` tells of types that the name doesn't have, and of names that don't exist below it.
    pub(super) zone: usize,
    /// It has the proxy's addresses, whichever these are for who asks.
    pub(super) proxied: bool,
    /// Every name below it that doesn't exist by itself has its records.
    pub(super) wildcard: bool,
    /// A zone of one name, such as a production name: what is below it is not ours.
    pub(super) alone: bool,
    pub(super) sets: Sets,
}

/// What there is for a question.
pub(super) enum Found<'a> {
    Records(&'a Body),
    /// The name exists, the type doesn't.
    NoData(&'a Body),
    NoName(&'a Body),
    /// Not a name of adt's.
    Elsewhere,
}

/// The first address of the /26 that the address would be in; the model gives each environment one.
pub(super) fn network_v4(address: Ipv4Addr) -> Ipv4Addr {
    EnvironmentRoute::network_v4(address)
}

/// The same of the /64.
pub(super) fn network_v6(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(address) >> 64 << 64)
}

impl Zone {
    /// Who asks, by the address that it asks from.
    pub fn view(&self, source: IpAddr) -> View {
        match self.place(source) {
            Some(place) if !self.inside[place].gateways.contains(&source.to_canonical()) => View::Inside(place),
            Some(_) | None => View::Host,
        }
    }

    /// The environment in whose network an address lies.
    fn place(&self, address: IpAddr) -> Option<usize> {
        let network = match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(network_v4(v4)),
            IpAddr::V6(v6) => IpAddr::V6(network_v6(v6)),
        };
        self.networks.get(&network).copied()
    }

    /// Whether a question that came to an address of ours gets no answer: a gateway is there for its environment's machines and
    /// for this host, but who on the network knows it has a way to it past every bridge.
    pub(super) fn keeps_out(&self, own: IpAddr, from: IpAddr) -> bool {
        let Some(place) = self.place(own) else { return false };
        self.inside[place].gateways.contains(&own) && self.place(from) != Some(place) && !from.is_loopback()
    }

    /// Of the environment whose names they are.
    pub(super) fn gateway(&self, view: View) -> Option<Ipv4Addr> {
        let View::Inside(place) = view else { return None };
        self.inside.get(place).map(|inside| inside.gateway)
    }

    /// `turn` chooses which of several addresses comes first.
    pub(super) fn find(&self, view: View, key: &Key, kind: RecordType, turn: usize) -> Found<'_> {
        let inside = match view {
            View::Host => None,
            View::Inside(place) => self.inside.get(place),
        };
        let mut exact = true;
        for step in ready::ladder(key.bytes()) {
            let own = inside.and_then(|inside| inside.names.get(step)).filter(|node| exact || !node.alone);
            let Some(node) = own.or_else(|| self.names.get(step).filter(|node| exact || !node.alone)) else {
                exact = false;
                continue;
            };
            let negative = &self.negatives[node.zone];
            if !exact && !node.wildcard {
                return Found::NoName(negative);
            }
            let proxy = inside.map_or(&self.proxy, |inside| &inside.proxy);
            let proxy = if node.proxied { proxy.as_slice() } else { &[] };
            return pick(&node.sets, proxy, kind, turn).map_or(Found::NoData(negative), Found::Records);
        }
        Found::Elsewhere
    }
}

/// ANY gets one type's records, as RFC 8482 allows: a small question must not have a large answer.
fn pick<'a>(own: &'a [(RecordType, Set)], proxy: &'a [(RecordType, Set)], kind: RecordType, turn: usize) -> Option<&'a Body> {
    let mut sets = proxy.iter().chain(own);
    sets.find(|(of, _)| *of == kind || kind == RecordType::ANY).map(|(_, set)| set.body(turn))
}
