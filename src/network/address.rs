//! Which environment gets which addresses. Pure.
//!
//! An environment owns a /26 of the host's pool and the /64 that belongs to it. Host number 1 is the bridge, 2 to 62 are
//! machines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::{Error, Result};
use crate::model::MachineName;
use crate::model::network::{NUMBERS, PREFIX};

/// A live route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub net: IpNet,
    pub device: String,
}

/// Routes wider than this are somebody's way to the internet: `default`, the two halves of it that OpenVPN sets, or the
/// pieces that other VPN clients cut it into. A bridge's own /26 is more specific, so they are no conflict.
const WIDEST: u8 = 8;

/// The lowest free /26 of `pool` that overlaps neither another environment nor a live route.
pub fn allocate(pool: Ipv4Net, taken: &[Ipv4Net], routes: &[Route]) -> Result<Ipv4Net> {
    let step = 1u64 << (32 - PREFIX);
    let mut next = u64::from(u32::from(pool.network()));
    let end = u64::from(u32::from(pool.broadcast())) + 1;
    let mut in_the_way = None;
    while next + step <= end {
        let block = block_at(next);
        let obstacle = match taken.iter().find(|net| overlap(block, **net)) {
            Some(net) => *net,
            None => match conflict(block, routes) {
                None => return Ok(block),
                Some((net, route)) => {
                    in_the_way.get_or_insert(route);
                    net
                }
            },
        };
        // Jump over the whole obstacle: a route may cover thousands of blocks.
        next = (next + step).max((u64::from(u32::from(obstacle.broadcast())) + 1).next_multiple_of(step));
    }
    Err(match in_the_way {
        Some(route) => overlap_error(pool, route),
        None => {
            Error::PoolExhausted { pool: pool.to_string(), count: ((end - u64::from(u32::from(pool.network()))) / step) as usize }
        }
    })
}

/// A network that was chosen elsewhere, if it may be taken here.
pub fn claim(net: Ipv4Net, taken: &[Ipv4Net], routes: &[Route]) -> Result<Ipv4Net> {
    match taken.iter().find(|other| overlap(net, **other)) {
        Some(other) => Err(Error::Taken { wanted: net.to_string(), other: other.to_string() }),
        None => check_free(net, routes).map(|()| net),
    }
}

/// Whether an environment's network may be connected again: a route may have come up since, e.g. a VPN's.
pub fn check_free(net: Ipv4Net, routes: &[Route]) -> Result<()> {
    match conflict(net, routes) {
        Some((_, route)) => Err(overlap_error(net, route)),
        None => Ok(()),
    }
}

/// The installation's own /48: random enough to meet no other, and the same again on every run (RFC 4193).
pub fn ula(install: &str) -> Ipv6Net {
    let hash = Sha256::digest(install.as_bytes());
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&hash[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(bytes), 48)
}

/// The /64 that belongs to a /26. Different blocks get different ones in every pool of up to a /10, which has as many
/// blocks as a /48 has subnets.
pub fn ula_subnet(install: &str, v4: &Ipv4Net) -> Ipv6Net {
    let index = u128::from((u32::from(v4.network()) >> (32 - PREFIX)) & 0xffff);
    Ipv6Net::new_assert(Ipv6Addr::from(u128::from(ula(install).network()) | (index << 64)), 64)
}

/// A host number for each machine. A machine keeps the one it has, and the numbers of machines that go are given away last,
/// since those may still answer. An environment has room for 61; a machine beyond that gets no entry.
pub fn host_numbers(existing: &BTreeMap<MachineName, u8>, machines: &[MachineName]) -> BTreeMap<MachineName, u8> {
    let mut numbers: BTreeMap<_, _> =
        machines.iter().filter_map(|name| existing.get(name).map(|number| (name.clone(), *number))).collect();
    let kept: BTreeSet<u8> = numbers.values().copied().collect();
    let (left, fresh): (Vec<u8>, Vec<u8>) =
        NUMBERS.filter(|number| !kept.contains(number)).partition(|number| existing.values().any(|used| used == number));
    let mut free = fresh.into_iter().chain(left);
    for name in machines {
        if !numbers.contains_key(name) {
            match free.next() {
                Some(number) => numbers.insert(name.clone(), number),
                None => break,
            };
        }
    }
    numbers
}

fn block_at(start: u64) -> Ipv4Net {
    let start = u32::try_from(start).expect("a block of the pool starts inside the IPv4 space");
    Ipv4Net::new_assert(start.into(), PREFIX)
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn conflict(block: Ipv4Net, routes: &[Route]) -> Option<(Ipv4Net, &Route)> {
    routes.iter().find_map(|route| match route.net {
        IpNet::V4(net) if net.prefix_len() >= WIDEST && overlap(block, net) => Some((net, route)),
        IpNet::V4(_) | IpNet::V6(_) => None,
    })
}

fn overlap_error(wanted: Ipv4Net, route: &Route) -> Error {
    Error::Overlap { wanted: wanted.to_string(), route: format!("{} dev {}", route.net, route.device) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn route(text: &str) -> Route {
        Route { net: text.parse().unwrap(), device: "tun0".into() }
    }

    #[test]
    fn the_lowest_free_block_is_taken() {
        let pool = net("10.213.0.0/16");
        let cases: &[(&[&str], &[&str], &str)] = &[
            (&[], &[], "10.213.0.0/26"),
            (&["10.213.0.0/26"], &[], "10.213.0.64/26"),
            (&["10.213.0.64/26"], &[], "10.213.0.0/26"),
            (&[], &["10.213.0.5/32"], "10.213.0.64/26"),
            (&[], &["10.213.0.0/17"], "10.213.128.0/26"),
            (&["10.213.128.0/26"], &["10.213.0.0/17"], "10.213.128.64/26"),
            (&[], &["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "fd00::/8"], "10.213.0.0/26"),
        ];
        for (taken, routes, wanted) in cases {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            let routes: Vec<_> = routes.iter().map(|text| route(text)).collect();
            assert_eq!(allocate(pool, &taken, &routes).unwrap(), net(wanted), "{taken:?} {routes:?}");
        }
    }

    #[test]
    fn a_pool_inside_a_route_is_refused_with_the_route() {
        let error = allocate(net("10.213.0.0/16"), &[], &[route("10.0.0.0/8")]).unwrap_err();
        assert_eq!(error.to_string(), "the network 10.213.0.0/16 overlaps the live route `10.0.0.0/8 dev tun0`");
        let error = check_free(net("10.213.0.0/26"), &[route("10.213.0.9/32")]).unwrap_err();
        assert!(error.to_string().contains("10.213.0.9/32 dev tun0"), "{error}");
        assert!(check_free(net("10.213.0.0/26"), &[route("10.213.0.64/26")]).is_ok());
    }

    #[test]
    fn a_full_pool_tells_its_size() {
        let blocks: Vec<_> = net("10.213.0.0/24").subnets(26).unwrap().collect();
        let error = allocate(net("10.213.0.0/24"), &blocks, &[]).unwrap_err();
        assert_eq!(error.to_string(), "no free network is left in the pool 10.213.0.0/24: all 4 are taken");
        assert!(matches!(allocate(net("10.213.0.0/27"), &[], &[]), Err(Error::PoolExhausted { count: 0, .. })));
        assert!(matches!(allocate(net("255.255.255.0/24"), &[], &[route("255.0.0.0/8")]), Err(Error::Overlap { .. })));
    }

    #[test]
    fn the_local_prefix_is_unique_local_and_fixed() {
        assert_eq!(ula("a"), ula("a"));
        assert_ne!(ula("a"), ula("b"));
        assert_eq!(ula_subnet("a", &net("10.213.0.64/26")), ula_subnet("a", &net("10.213.0.64/26")));
        assert!(net_of("fd00::/8").contains(&ula("a").network()));
    }

    fn net_of(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    fn any_net(prefixes: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = Ipv4Net> {
        // Around the pool, so that things meet.
        (0x0a00_0000u32..0x0a00_4000, prefixes).prop_map(|(base, prefix)| Ipv4Net::new_assert(base.into(), prefix).trunc())
    }

    proptest! {
        #[test]
        fn an_allocated_block_is_inside_and_alone(
            pool in any_net(20..=27),
            taken in prop::collection::vec(any_net(26..=26), 0..40),
            routes in prop::collection::vec(any_net(8..=32), 0..6),
        ) {
            let routes: Vec<_> = routes.into_iter().map(|net| Route { net: net.into(), device: "tun0".into() }).collect();
            let is_free = |block: &Ipv4Net| {
                !taken.iter().any(|net| overlap(*block, *net)) && conflict(*block, &routes).is_none()
            };
            let first = pool.subnets(PREFIX).ok().and_then(|mut blocks| blocks.find(is_free));
            match allocate(pool, &taken, &routes) {
                Ok(block) => prop_assert_eq!(Some(block), first),
                Err(_) => prop_assert_eq!(None, first),
            }
        }

        #[test]
        fn environments_never_share_a_prefix(blocks in prop::collection::btree_set(any_net(26..=26), 2..40)) {
            let prefixes: BTreeSet<_> = blocks.iter().map(|block| ula_subnet("i", block)).collect();
            prop_assert_eq!(prefixes.len(), blocks.len());
            prop_assert!(prefixes.iter().all(|prefix| ula("i").contains(prefix)));
        }

        #[test]
        fn host_numbers_are_unique_stable_and_in_range(
            before in prop::collection::btree_set(0u8..70, 0..61),
            after in prop::collection::btree_set(0u8..70, 0..61),
        ) {
            let names = |set: &BTreeSet<u8>| -> Vec<_> {
                set.iter().map(|i| MachineName::new(format!("web{i}")).unwrap()).collect()
            };
            let (before, after) = (names(&before), names(&after));
            let first = host_numbers(&BTreeMap::new(), &before);
            prop_assert_eq!(first.len(), before.len());
            let second = host_numbers(&first, &after);
            prop_assert_eq!(second.len(), after.len());
            for (name, number) in &second {
                prop_assert!(NUMBERS.contains(number) && after.contains(name));
                if let Some(old) = first.get(name) {
                    prop_assert_eq!(old, number);
                }
            }
            prop_assert_eq!(second.values().collect::<BTreeSet<_>>().len(), second.len());
            prop_assert_eq!(host_numbers(&second, &after), second);
        }
    }
}
