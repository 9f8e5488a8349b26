//! The servers of a target as one: which carries what, in which order they are changed, and what they must agree on.
//!
//! Every server has the whole definition. It runs the machines that are placed on it, knows the addresses of all others, and is tied
//! to their servers. The first one faces the world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use ipnet::Ipv4Net;

use crate::model::network::NUMBERS;
use crate::model::response::{CheckItem, Standing};
use crate::model::seat::{Joining, Peer, Seat};
use crate::model::target::{Server, TargetStep, TargetSummary};
use crate::model::{EnvironmentId, Failure, Kind, Limits, Machine, MachineName};
use crate::network::address;
use crate::plan::depths;
use crate::store::record::Definition;

/// A server, and what the other words of its target call it.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    pub name: String,
    pub server: Server,
    pub is_one_of_several: bool,
}

impl Stand {
    /// A step of it, by its name where it is one of several.
    pub fn step(&self, step: TargetStep) -> TargetStep {
        match self.is_one_of_several {
            true => TargetStep { what: format!("{}: {}", self.name, step.what), ..step },
            false => step,
        }
    }
}

/// The servers of a target as its configuration names them.
pub(super) fn stands(target: &TargetSummary) -> Vec<Stand> {
    let is_one_of_several = target.servers.len() > 1;
    let stand = |server: &Server| Stand { name: server.name().to_owned(), server: server.clone(), is_one_of_several };
    target.servers.iter().map(stand).collect()
}

/// A ticket's roles in the numbers and sizes that they have on the target.
pub(super) fn settled(target: &TargetSummary, machines: &[Machine]) -> Vec<Machine> {
    let settled = machines.iter().map(|machine| {
        let Some(terms) = target.machines.get(&machine.role) else { return machine.clone() };
        let limits = Limits {
            memory_bytes: terms.limits.memory_bytes.or(machine.limits.memory_bytes),
            cpus: terms.limits.cpus.or(machine.limits.cpus),
            processes: terms.limits.processes.or(machine.limits.processes),
        };
        Machine { count: terms.count.or(machine.count), limits, ..machine.clone() }
    });
    settled.collect()
}

/// The server that each machine stands on; nothing where all stand on one.
pub(super) fn placed(target: &TargetSummary, machines: &[Machine]) -> BTreeMap<MachineName, String> {
    let [first, _, ..] = &target.servers[..] else { return BTreeMap::new() };
    let all = machines.iter().flat_map(|machine| {
        let on = target.machines.get(&machine.role).map(|terms| &terms.on[..]).unwrap_or_default();
        let server = move |index: usize| if on.is_empty() { first.name() } else { &on[index % on.len()] };
        machine.names().into_iter().enumerate().map(move |(index, name)| (name, server(index).to_owned()))
    });
    all.collect()
}

/// Those that the target's names lead to.
pub(super) fn facing_the_world(stands: &[Stand]) -> Vec<Server> {
    stands.iter().take(1).map(|stand| stand.server.clone()).collect()
}

/// For people: all of them.
pub(super) fn words(stands: &[Stand]) -> String {
    stands.iter().map(|stand| stand.server.to_string()).collect::<Vec<_>>().join(", ")
}

/// The same within a sentence.
pub(super) fn quoted<'s>(servers: impl IntoIterator<Item = &'s Server>) -> String {
    servers.into_iter().map(|server| format!("`{server}`")).collect::<Vec<_>>().join(", ")
}

/// Several servers are worked on at once, each under a name of its own.
pub(super) fn task(what: &str, server: &Server) -> String {
    format!("{} {what}", server.address.host)
}

/// What is said of the whole environment is said of one server's part of it, and so is what is about the server itself. Machines and
/// names of the world are on one of them only.
pub(super) fn say_where(items: &mut [CheckItem], id: &EnvironmentId, server: &Server) {
    let (id, own) = (id.to_string(), server.to_string());
    let is_of_server = |item: &&mut CheckItem| item.subject == id || (item.step.is_none() && item.subject != own);
    items.iter_mut().filter(is_of_server).for_each(|item| item.subject = format!("{} on {own}", item.subject));
}

/// In which order servers are changed, in waves: those whose machines wait for fewest others first, and of these those with data,
/// which the others may need without saying so.
pub(super) fn waves(names: &[&str], definition: &Definition) -> Vec<Vec<usize>> {
    let machines = &definition.platform.machines;
    let depth = depths(machines.iter().map(|machine| (&machine.role, &machine.after[..])));
    let is_there =
        |index: usize| move |name: &MachineName| definition.placed.get(name).is_none_or(|server| server == names[index]);
    let rank = |index: usize| {
        let there = machines.iter().filter(|machine| machine.names().iter().any(is_there(index)));
        let ranks: Vec<_> = there.map(|machine| (depth[&machine.role], !definition.platform.holds_data(machine))).collect();
        // One without any machine only leads to the others.
        (ranks.iter().map(|rank| rank.0).max().unwrap_or(usize::MAX), ranks.iter().all(|rank| rank.1))
    };
    // Where a site's first machine is, its scripts for all of them run.
    let first = |index: usize| machines.iter().filter_map(|machine| machine.names().iter().position(is_there(index))).min();
    let mut waves: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    let mut all: Vec<_> = (0..names.len()).collect();
    all.sort_by_key(|index| (first(*index).unwrap_or(usize::MAX), *index));
    for index in all {
        waves.entry(rank(index)).or_default().push(index);
    }
    waves.into_values().collect()
}

/// A server that could join the others.
pub(super) struct Joiner<'a> {
    pub stand: &'a Stand,
    pub joining: &'a Joining,
}

/// The seat of each server, in their order; `None` while one of them has no key yet.
pub(super) fn seats(id: &EnvironmentId, definition: &Definition, all: &[Joiner<'_>]) -> Result<Option<Vec<Seat>>, Failure> {
    let failure = |cause: String| Failure::new(Kind::Conflict, format!("carry `{id}` on several servers")).cause(cause);
    let network = network(all).map_err(failure)?;
    // Who is asked first is right, where they differ.
    let mut own: BTreeMap<&str, u8> = BTreeMap::new();
    let mut known: BTreeMap<MachineName, u8> = BTreeMap::new();
    for Joiner { stand, joining } in all {
        let number = joining.seat.iter().find_map(|seat| seat.servers.get(&seat.own)).map(|peer| peer.number);
        if let Some(number) = number.filter(|number| !own.values().any(|used| used == number)) {
            own.insert(&stand.name, number);
        }
        for (name, number) in &joining.numbers {
            if !known.contains_key(name) && !known.values().any(|used| used == number) {
                known.insert(name.clone(), *number);
            }
        }
    }
    known.retain(|_, number| !own.values().any(|used| used == number));
    let names: Vec<_> = definition.platform.machines.iter().flat_map(Machine::names).collect();
    for Joiner { stand, .. } in all {
        if !own.contains_key(stand.name.as_str()) {
            let is_free = |number: &u8| !known.values().chain(own.values()).any(|used| used == number);
            let number = NUMBERS.rev().find(is_free).or_else(|| forgotten(&mut known, &names));
            own.insert(&stand.name, number.ok_or_else(|| failure("no address is left for each of the servers".to_owned()))?);
        }
    }
    let numbers = with_numbers(known, &names, &own.values().copied().collect())
        .ok_or_else(|| failure("no address is left for each of the machines".to_owned()))?;
    let mut servers = BTreeMap::new();
    for Joiner { stand, joining } in all {
        let Some(key) = joining.key.clone() else { return Ok(None) };
        let endpoint = SocketAddr::new(reached_at(&stand.server)?, joining.port);
        servers.insert(stand.name.clone(), Peer { number: own[stand.name.as_str()], endpoint, key });
    }
    let seat = |(index, Joiner { stand, .. }): (usize, &Joiner<'_>)| Seat {
        own: stand.name.clone(),
        network,
        numbers: numbers.clone(),
        servers: servers.clone(),
        edge: index == 0,
    };
    Ok(Some(all.iter().enumerate().map(seat).collect()))
}

/// A number for each machine. Those of machines that went are remembered as long as nobody needs them: a way back finds them.
fn with_numbers(
    mut known: BTreeMap<MachineName, u8>,
    names: &[MachineName],
    taken: &BTreeSet<u8>,
) -> Option<BTreeMap<MachineName, u8>> {
    for name in names {
        if !known.contains_key(name) {
            let is_free = |number: &u8| !taken.contains(number) && !known.values().any(|used| used == number);
            let number = NUMBERS.into_iter().find(is_free).or_else(|| forgotten(&mut known, names))?;
            known.insert(name.clone(), number);
        }
    }
    Some(known)
}

/// The number of a machine that went, which nobody has any more.
fn forgotten(known: &mut BTreeMap<MachineName, u8>, names: &[MachineName]) -> Option<u8> {
    let went = known.keys().find(|known| !names.contains(known)).cloned()?;
    known.remove(&went)
}

/// The one that it has, else one that is free on all of them.
fn network(all: &[Joiner<'_>]) -> Result<Ipv4Net, String> {
    let mut there = all.iter().filter_map(|joiner| Some((joiner, joiner.joining.network?)));
    let taken: Vec<_> = all.iter().flat_map(|joiner| &joiner.joining.taken).copied().collect();
    let Some((first, network)) = there.next() else {
        let routes: Vec<_> =
            taken.iter().map(|net| address::Route { net: (*net).into(), device: "another server".into() }).collect();
        return address::allocate(all[0].joining.pool, &[], &routes).map_err(|error| error.to_string());
    };
    if let Some((other, net)) = there.find(|(_, net)| *net != network) {
        let (first, other) = (&first.stand.server, &other.stand.server);
        return Err(format!("its network is {network} on `{first}`, and {net} on `{other}`"));
    }
    for joiner in all.iter().filter(|joiner| joiner.joining.network.is_none()) {
        if let Some(net) =
            joiner.joining.taken.iter().find(|net| net.prefix_len() >= 8 && (net.contains(&network) || network.contains(*net)))
        {
            let (first, other) = (&first.stand.server, &joiner.stand.server);
            return Err(format!("its network is {network} on `{first}`, and `{other}` has {net} already"));
        }
    }
    Ok(network)
}

/// Refuses what would leave data behind; what else goes on elsewhere is told.
pub(super) fn keep_data(
    definition: &Definition,
    stands: &[Stand],
    looked: &[(&Stand, &Standing)],
) -> Result<Vec<String>, Failure> {
    let machines = definition.platform.machines_by_name();
    let refused = |name: &MachineName, server: &str, cause: String| {
        let role = machines.get(name).map_or(name.as_str(), |machine| machine.role.as_str());
        Failure::new(Kind::Conflict, format!("change what `{server}` carries")).cause(cause).hint(format!(
            "data does not move between servers by itself: keep that server in `servers`, and name it in `on` of the target's \
             `machines.{role}`"
        ))
    };
    for (stand, standing) in looked {
        // One that the target no longer has at all is its way back's, as on a single server.
        for (name, machine) in &machines {
            let to = definition.placed.get(name).map_or(stands[0].name.as_str(), String::as_str);
            let was_here = match &standing.seat {
                Some(seat) => standing.placed.get(name) == Some(&seat.own),
                None => standing.wanted.is_some(),
            };
            let holds = standing.holds.contains(name) || (was_here && definition.platform.holds_data(machine));
            if holds && to != stand.name {
                let cause = format!("the data of `{name}` is on `{}`, and the machine would stand on `{to}`", stand.server);
                return Err(refused(name, &stand.name, cause));
            }
        }
    }
    let known: BTreeSet<_> = stands.iter().filter_map(|stand| reached_at(&stand.server).ok()).collect();
    let mut stays = BTreeSet::new();
    for (_, standing) in looked {
        let peers = standing.seat.iter().flat_map(|seat| &seat.servers);
        let is_gone =
            |server: &str, peer: &Peer| !stands.iter().any(|stand| stand.name == server) && !known.contains(&peer.endpoint.ip());
        for (server, _) in peers.filter(|(server, peer)| is_gone(server, peer)) {
            for (name, _) in standing.placed.iter().filter(|(_, there)| *there == server) {
                if machines.get(name).is_some_and(|machine| definition.platform.holds_data(machine)) {
                    let cause = format!("the data of `{name}` is on `{server}`, which is no server of the target any more");
                    return Err(refused(name, server, cause));
                }
            }
            stays.insert(format!(
                "`{server}` is no server of the target any more; what runs there goes on until somebody ends it: adt env:destroy \
                 on it"
            ));
        }
    }
    Ok(stays.into_iter().collect())
}

/// What this host's name servers say of it; none where it is known to ssh only.
pub(super) fn addresses_of(server: &Server) -> Vec<IpAddr> {
    let found = (server.address.host.as_str(), 0).to_socket_addrs();
    found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}

/// Where the other servers find it: the same address each time, whatever order a name server says them in.
fn reached_at(server: &Server) -> Result<IpAddr, Failure> {
    let host = &server.address.host;
    // Addresses of IPv4 come first.
    addresses_of(server).into_iter().filter(|address| !address.is_loopback()).min().ok_or_else(|| {
        Failure::new(Kind::NotFound, format!("lead other servers to `{server}`"))
            .cause(format!("`{host}` is an address of this host alone, or known to your ssh only"))
            .hint("write the server's own address in `servers` of the target")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target::{Address, Terms};
    use crate::model::tie::PublicKey;

    fn stand(name: &str, address: &str) -> Stand {
        let address = Address::parse(&format!("root@{address}")).unwrap();
        Stand { name: name.to_owned(), server: Server { address, host_key: None }, is_one_of_several: true }
    }

    fn joining(network: Option<&str>, taken: &[&str]) -> Joining {
        Joining {
            key: Some(PublicKey::new(format!("{}=", "k".repeat(43))).unwrap()),
            port: 51820,
            pool: "10.213.0.0/16".parse().unwrap(),
            taken: taken.iter().map(|net| net.parse().unwrap()).collect(),
            network: network.map(|net| net.parse().unwrap()),
            numbers: BTreeMap::new(),
            seat: None,
        }
    }

    /// `db` waits for nobody, `web` for it, `edge` for `web`.
    fn definition(placed: &[(&str, &str)]) -> Definition {
        let machine = |role: &str, count: &str, after: &str| {
            format!(
                r#"{{"role":"{role}","summary":"","boxed":{{"name":"debian"}},"count":{count},"limits":{{"memory_bytes":null,"cpus":null,"processes":null}},"after":[{after}],"data":[],"provision":[]}}"#
            )
        };
        let machines = [machine("edge", "null", "\"web\""), machine("web", "2", "\"db\""), machine("db", "null", "")].join(",");
        let text = format!(
            r#"{{"platform":{{"name":"shop","summary":"","domain":null,"machines":[{machines}],"sites":[],"folder":""}},"domain":"example.test","boxes":{{}},"numbers":{{}}}}"#
        );
        let mut definition: Definition = serde_json::from_str(&text).unwrap();
        definition.placed = placed.iter().map(|(machine, server)| (machine.parse().unwrap(), (*server).to_owned())).collect();
        definition
    }

    fn id() -> EnvironmentId {
        EnvironmentId { platform: "shop".parse().unwrap(), name: "production".parse().unwrap() }
    }

    #[test]
    fn machines_stand_in_turn_where_the_target_says_and_else_on_the_first() {
        let servers = ["a", "b", "c"].map(|name| stand(name, name).server).to_vec();
        let terms = |on: &[&str], count| Terms {
            on: on.iter().map(|name| (*name).to_owned()).collect(),
            count,
            limits: Limits { memory_bytes: Some(7), ..Limits::default() },
        };
        let mut target = TargetSummary {
            platform: "shop".parse().unwrap(),
            name: "production".parse().unwrap(),
            servers,
            admin: BTreeSet::new(),
            edge: crate::model::Edge::default(),
            machines: [("web".parse().unwrap(), terms(&["b", "c"], Some(3))), ("db".parse().unwrap(), terms(&["c"], None))]
                .into(),
            records: None,
        };
        let machines = settled(&target, &definition(&[]).platform.machines);
        assert_eq!(machines.iter().map(|machine| machine.limits.memory_bytes).collect::<Vec<_>>(), [None, Some(7), Some(7)]);
        let told: Vec<_> = placed(&target, &machines).into_iter().map(|(name, server)| format!("{name} {server}")).collect();
        assert_eq!(told, ["db c", "edge a", "web1 b", "web2 c", "web3 b"]);
        target.servers.truncate(1);
        assert_eq!(placed(&target, &machines), BTreeMap::new());
    }

    const PLACED: [(&str, &str); 4] = [("edge", "a"), ("web1", "a"), ("web2", "b"), ("db", "c")];

    #[test]
    fn servers_change_in_the_order_in_which_their_machines_wait_for_each_other() {
        assert_eq!(waves(&["a", "b", "c"], &definition(&PLACED)), [[2], [1], [0]]);
        assert_eq!(waves(&["a"], &definition(&[])), [[0]]);
        assert_eq!(
            waves(&["x", "b", "c"], &definition(&PLACED)),
            [[2], [1], [0]],
            "one without machines leads to the others only"
        );
        let mut alike = definition(&PLACED);
        alike.platform.machines.iter_mut().for_each(|machine| machine.after.clear());
        assert_eq!(waves(&["a", "b", "c"], &alike), [[0, 2, 1]], "who has a first machine begins");
        alike.platform.machines[2].data = vec!["/var/lib/mysql".into()];
        assert_eq!(waves(&["a", "b", "c"], &alike), [vec![2], vec![0, 1]], "who has data begins");
    }

    #[test]
    fn seats_agree_on_a_network_that_is_free_on_all_and_keep_their_numbers() {
        let stands = [stand("a", "192.0.2.1"), stand("b", "192.0.2.2"), stand("c", "192.0.2.3")];
        let joinings = [joining(None, &["10.213.0.0/26"]), joining(None, &["10.213.0.64/26"]), joining(None, &["0.0.0.0/0"])];
        let all = |joinings: &[Joining]| {
            let joiners: Vec<_> = stands.iter().zip(joinings).map(|(stand, joining)| Joiner { stand, joining }).collect();
            seats(&id(), &definition(&PLACED), &joiners)
        };
        let first = all(&joinings).unwrap().unwrap();
        assert!(first.iter().all(|seat| seat.network == "10.213.0.128/26".parse().unwrap()));
        assert!(first.iter().all(|seat| seat.numbers == first[0].numbers && seat.servers == first[0].servers));
        assert_eq!(
            first.iter().map(|seat| (seat.own.as_str(), seat.edge)).collect::<Vec<_>>(),
            [("a", true), ("b", false), ("c", false)]
        );
        let mut used: Vec<_> =
            first[0].servers.values().map(|peer| peer.number).chain(first[0].numbers.values().copied()).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), 7, "{used:?}");
        // The next time, one server is new and one machine was there before.
        let mut later = joinings.to_vec();
        for (joining, seat) in later.iter_mut().zip(&first).take(2) {
            joining.network = Some(seat.network);
            joining.numbers = seat.numbers.clone();
            joining.numbers.insert("web3".parse().unwrap(), 40);
            joining.seat = Some(seat.clone());
        }
        let second = all(&later).unwrap().unwrap();
        assert_eq!(second[2].servers, first[2].servers);
        assert_eq!(second[2].numbers[&"web3".parse::<MachineName>().unwrap()], 40);
        assert!(first[0].numbers.iter().all(|(name, number)| second[0].numbers[name] == *number));
    }

    #[test]
    fn addresses_don_t_run_out_by_renames() {
        let names = |letter: char, count: usize| -> Vec<MachineName> {
            (1..=count).map(|number| format!("{letter}{number}").parse().unwrap()).collect()
        };
        let taken: BTreeSet<u8> = [62, 61].into();
        let mut numbers = BTreeMap::new();
        for letter in ('a'..='z').cycle().take(60) {
            let now = names(letter, 30);
            let before = numbers.clone();
            numbers = with_numbers(numbers, &now, &taken).unwrap();
            let mut used: Vec<_> = numbers.values().copied().collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!((used.len(), now.iter().all(|name| numbers.contains_key(name))), (numbers.len(), true), "{letter}");
            assert!(numbers.values().all(|number| NUMBERS.contains(number) && !taken.contains(number)));
            assert!(now.iter().filter(|name| before.contains_key(*name)).all(|name| before[name] == numbers[name]));
        }
        assert_eq!(with_numbers(BTreeMap::new(), &names('a', 60), &taken), None);
    }

    #[test]
    fn data_is_left_behind_by_no_change_of_servers() {
        let stands = [stand("a", "192.0.2.1"), stand("c", "192.0.2.3")];
        let mut definition = definition(&[("edge", "a"), ("web1", "a"), ("web2", "a"), ("db", "c")]);
        definition.platform.machines[2].data = vec!["/var/lib/mysql".into()];
        let holds = |name: &str| Standing { holds: [name.parse().unwrap()].into(), ..Standing::default() };
        let check = |first: Standing, second: Standing| {
            let told = keep_data(&definition, &stands, &[(&stands[0], &first), (&stands[1], &second)]);
            told.map_err(|failure| failure.causes.join(";"))
        };
        assert_eq!(check(holds("old"), holds("db")), Ok(Vec::new()));
        let moved = check(holds("db"), Standing::default()).unwrap_err();
        assert!(moved.contains("`db` is on `root@192.0.2.1`, and the machine would stand on `c`"), "{moved}");
        let peer = |address: &str| Peer {
            number: 60,
            endpoint: format!("{address}:51820").parse().unwrap(),
            key: PublicKey::new(format!("{}=", "k".repeat(43))).unwrap(),
        };
        let seat = Seat {
            own: "a".into(),
            network: "10.213.0.0/26".parse().unwrap(),
            numbers: BTreeMap::new(),
            servers: [("a".into(), peer("192.0.2.1")), ("gone".into(), peer("192.0.2.9"))].into(),
            edge: true,
        };
        let before = |machine: &str| Standing {
            seat: Some(seat.clone()),
            placed: [(machine.parse().unwrap(), "gone".to_owned())].into(),
            ..Standing::default()
        };
        assert!(check(before("web2"), Standing::default()).unwrap()[0].contains("`gone` is no server of the target any more"));
        assert!(check(before("db"), Standing::default()).unwrap_err().contains("`db` is on `gone`"));
    }

    #[test]
    fn servers_that_cannot_agree_are_told() {
        let stands = [stand("a", "192.0.2.1"), stand("b", "192.0.2.2")];
        let all = |first: Joining, second: Joining| {
            let joiners = [Joiner { stand: &stands[0], joining: &first }, Joiner { stand: &stands[1], joining: &second }];
            seats(&id(), &definition(&PLACED[..3]), &joiners).map_err(|failure| failure.causes.join(";"))
        };
        let other = all(joining(Some("10.213.0.0/26"), &[]), joining(Some("10.213.0.64/26"), &[])).unwrap_err();
        assert!(other.contains("10.213.0.0/26 on `root@192.0.2.1`, and 10.213.0.64/26 on `root@192.0.2.2`"), "{other}");
        let taken = all(joining(Some("10.213.0.0/26"), &[]), joining(None, &["10.213.0.0/24"])).unwrap_err();
        assert!(taken.contains("`root@192.0.2.2` has 10.213.0.0/24 already"), "{taken}");
        let none = Joining { key: None, ..joining(None, &[]) };
        assert_eq!(all(joining(None, &[]), none).unwrap(), None);
    }
}
