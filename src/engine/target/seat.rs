//! The server's side of an environment that several servers carry: what it would be to join, and the seat that it takes.
//!
//! What the servers must agree on is decided by the operator, who asks all of them: see [`super::fleet`].

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use crate::engine::Engine;
use crate::engine::at_once::gather;
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
        let key = match make {
            true => {
                let _lock = self.lock("tie", "the key of this server", &Events::unread())?;
                Some(tie::public_key(&key)?)
            }
            false => key.exists().then(|| tie::public_key(&key)).transpose()?,
        };
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
        let own = own.filter(|port| !ports.contains(port));
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

    /// What tied this server to others has ended, with this result by the word of systemd: whoever did not mean it to end misses it.
    pub fn mend_ties(&self, result: Option<&str>) -> Result<(), Failure> {
        if result == Some("success") {
            return Ok(());
        }
        // One that ends as soon as it is there must not keep a processor busy.
        std::thread::sleep(BREATH);
        let mend = |id: &EnvironmentId| {
            let _lock = self.lock_environment(id, Right::Run, &Events::unread())?;
            match self.known(id)? {
                Some(environment) if environment.wanted == Wanted::Up && environment.definition.seat.is_some() => {
                    Ok(self.network.retie(&wanted::network(self.store.install(), &environment))?)
                }
                Some(_) | None => Ok(()),
            }
        };
        let all = self.store.database.readable_environments(None)?.sound;
        gather(all.iter().map(|environment| mend(&environment.id))).map(drop)
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
            Toward::Recorded => (environment.definition.clone(), environment.definition.seat.clone()),
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
    if definition.placed.is_empty() {
        return Ok(());
    }
    let refused = |cause: String| Failure::new(Kind::Conflict, format!("make `{id}`")).cause(cause);
    let back = "name those servers in `servers` of the target and promote a ticket; a way back does not bring servers back";
    let Some(seat) = seat else {
        return Err(refused("it stood on several servers then, and this one knows of no other now".into()).hint(back));
    };
    let names: BTreeSet<_> = definition.platform.machines_by_name().into_keys().collect();
    for name in &names {
        let Some(server) = definition.placed.get(name).filter(|_| seat.numbers.contains_key(name)) else {
            return Err(refused(format!("its definition does not say where `{name}` stands")));
        };
        if !seat.servers.contains_key(server) {
            return Err(refused(format!("`{name}` stood on `{server}`, which is no server of the target now")).hint(back));
        }
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
