//! The server's side of an environment that several servers carry: what it would be to join, and the seat that it takes.
//!
//! What the servers must agree on is decided by the operator, who asks all of them: see [`super::fleet`].

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use crate::engine::Engine;
use crate::engine::environment::wanted;
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::model::seat::{Joining, Key, Seat, Toward};
use crate::model::{Edge, EnvironmentId, Failure, Kind};
use crate::network::tie;
use crate::store::Wanted;
use crate::store::record::Definition;

/// What brings both: a kernel without WireGuard needs the second.
const PACKAGES: [&str; 2] = ["wireguard-tools", "wireguard-go"];

/// Before a tie is made again.
const BREATH: Duration = Duration::from_secs(1);

impl Engine {
    pub fn joining(&self, id: &EnvironmentId, make: bool) -> Result<Joining, Failure> {
        let key = self.store.tie_key();
        if make && !tie::is_possible() {
            self.install_packages(PACKAGES.into(), &Events::unread())?;
        }
        let key = if make || key.exists() { Some(tie::public_key(&key)?) } else { None };
        let mut here = None;
        let (mut ports, mut taken) = (BTreeSet::new(), Vec::new());
        for other in self.store.database.readable_environments(None)?.sound {
            if other.id == *id {
                here = Some(other);
                continue;
            }
            taken.push(other.network);
            let seat = other.definition.seat.as_ref();
            ports.extend(seat.and_then(|seat| seat.servers.get(&seat.own)).map(|peer| peer.endpoint.port()));
        }
        taken.extend(self.network.routes()?.into_iter().filter_map(|route| match route.net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }));
        let definition = here.as_ref().map(|environment| &environment.definition);
        let seat = definition.and_then(|definition| definition.seat.clone());
        let own = seat.as_ref().and_then(|seat| seat.servers.get(&seat.own)).map(|peer| peer.endpoint.port());
        let port = own.or_else(|| tie::PORTS.into_iter().find(|port| !ports.contains(port) && is_free(*port)));
        Ok(Joining {
            key,
            port: port.ok_or_else(|| {
                Failure::new(Kind::Exhausted, format!("carry a part of `{id}`"))
                    .cause("no port is left for the way to its other servers")
            })?,
            pool: self.settings.pool_v4.value,
            taken,
            network: here.as_ref().map(|environment| environment.network),
            numbers: definition.map(|definition| definition.numbers.clone()).unwrap_or_default(),
            seat,
        })
    }

    /// Passwords are made of it: machines of both servers must find the same ones.
    pub fn take_key(&self, id: &EnvironmentId, key: &Key) -> Result<(), Failure> {
        if self.known(id)?.is_none() {
            return Ok(self.store.keys.adopt(id, &key.0)?);
        }
        if self.store.keys.share(id)? == key.0 {
            return Ok(());
        }
        Err(Failure::new(Kind::Conflict, format!("carry a part of `{id}`"))
            .cause("an environment of this name is here with other passwords")
            .hint("end that one here, or give the target another name"))
    }
}

impl Engine {
    /// What tied this server to others has ended, with this result by the word of systemd: whoever did not mean it to end misses it.
    pub fn mend_ties(&self, result: Option<&str>) -> Result<(), Failure> {
        if result == Some("success") {
            return Ok(());
        }
        // One that ends as soon as it is there must not keep a processor busy.
        std::thread::sleep(BREATH);
        let events = Events::unread();
        for environment in self.store.database.readable_environments(None)?.sound {
            if environment.wanted == Wanted::Up && environment.definition.seat.is_some() {
                let _lock = self.lock_environment(&environment.id, Right::Run, &events)?;
                let environment = self.environment(&environment.id)?;
                self.network.retie(&wanted::network(self.store.install(), &environment))?;
            }
        }
        Ok(())
    }

    /// Leads to where machines are about to be. A machine that moves is out of reach until it is there; without this, one that
    /// comes would not find those whose servers don't know it yet.
    pub fn tie_ahead(&self, id: &EnvironmentId, toward: &Toward) -> Result<(), Failure> {
        let _lock = self.lock_environment(id, Right::Use, &Events::unread())?;
        let Some(mut environment) = self.known(id)? else { return Ok(()) };
        let (mut definition, seat) = match toward {
            Toward::Placed { placed, seat } => {
                (Definition { placed: placed.clone(), ..environment.definition.clone() }, Some(seat.clone()))
            }
            Toward::Back(back) => (self.way_back(id, back)?.1, environment.definition.seat.clone()),
        };
        let Some(seat) = seat.filter(|seat| seat.network == environment.network) else { return Ok(()) };
        is_sound(id, &seat)?;
        definition.numbers.clone_from(&seat.numbers);
        definition.seat = (!definition.placed.is_empty()).then_some(seat);
        environment.definition = definition;
        Ok(self.network.retie(&wanted::network(self.store.install(), &environment))?)
    }
}

fn is_free(port: u16) -> bool {
    std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

fn is_sound(id: &EnvironmentId, seat: &Seat) -> Result<(), Failure> {
    let refused = |fault| Failure::new(Kind::Conflict, format!("make `{id}`")).cause(fault);
    seat.fault().map_or(Ok(()), |fault| Err(refused(format!("what its servers agreed on can't be: {fault}"))))
}

/// Makes a definition that all servers have the one of this server.
pub(super) fn take_seat(id: &EnvironmentId, definition: &mut Definition, seat: Option<&Seat>) -> Result<(), Failure> {
    let Some(seat) = seat.filter(|_| !definition.placed.is_empty()) else {
        if definition.placed.is_empty() {
            return Ok(());
        }
        return Err(Failure::new(Kind::Conflict, format!("make `{id}`"))
            .cause("several servers carry it, and nobody said which one this is")
            .hint("promote with an adt that is not older than the one here"));
    };
    let names: BTreeSet<_> = definition.platform.machines_by_name().into_keys().collect();
    let is_placed = |name| definition.placed.get(name).is_some_and(|server| seat.servers.contains_key(server));
    let is_whole = names.iter().all(|name| is_placed(name) && seat.numbers.contains_key(name));
    if !is_whole {
        return Err(
            Failure::new(Kind::Conflict, format!("make `{id}`")).cause("its definition does not say where each machine stands")
        );
    }
    is_sound(id, seat)?;
    definition.numbers.clone_from(&seat.numbers);
    definition.numbers.retain(|name, _| names.contains(name));
    definition.seat = Some(seat.clone());
    let sites = definition.platform.sites.iter().filter(|site| !definition.serving(site).is_empty());
    let served: BTreeSet<_> = sites.map(|site| site.name.clone()).collect();
    // A release goes only where it is served.
    definition.promoted.retain(|site, _| served.contains(site));
    if !seat.edge {
        definition.edge = Edge::default();
    }
    Ok(())
}
