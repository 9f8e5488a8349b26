//! `host:up`: one process that serves names and pages of all environments.
//!
//! It owns no state: what it serves is computed from the store, when it starts and whenever the store changes. So it may start
//! before or after environments, may be killed at any instant, and its successor loses nothing.
//!
//! ```text
//! store ─ changed? (inotify) ─> Routes ─> dns    listen:53, and each environment's gateway for its machines
//!                                      ├> tls    a certificate per name, made when it is asked for
//!                                      └> proxy  listen:80 and listen:443, and the same at each gateway; and, while something
//!                                                that was promoted has names in the world, these ports of all addresses
//! machines ─ journals, log files ─> ship ─> the receivers of logs that the settings name
//! people   ─ commands.socket ─> a process for each, see [`crate::session`]
//! ```
//! Where another program holds one of these ports at every address, that program stays as it is: adt listens at a free port and
//! leads its own address there, see [`crate::network::detour`].
//!
//! Where the unit lets systemd keep them, all that is listened at outlives the process, ended or killed: who comes in between waits
//! for the next one, see [`crate::systemd`].

mod limit;
mod process;
mod running;
mod ship;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use process::{Started, detach, halt, living};
use running::Running;
use watch::Change;

use crate::config::HostSettings;
use crate::exec::Command;
use crate::model::{Failure, Kind};
use crate::session::GROUP;
use crate::session::accept::Door;
use crate::store::{Holder, Store};
use crate::systemd::{Listeners, notify};

/// What is served and until when.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub settings: &'a HostSettings,
    pub store: &'a Store,
    pub cancel: &'a AtomicBool,
}

/// Who sends what machines say, where the settings name a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    Here,
    /// A process that may enter machines; this one may not.
    Elsewhere,
}

/// Sends logs until it is cancelled, and does nothing else.
pub fn send_logs(place: Place<'_>) -> Result<(), Failure> {
    let shipper = ship::Shipper::start(place.settings, place.store)?;
    shipper.run(place.cancel);
    Ok(())
}

/// Answers commands of people who are not root until it is cancelled, and does nothing else. `session` is the program for one.
pub fn answer_commands(place: Place<'_>, holder: &Holder, session: &Command) -> Result<(), Failure> {
    match Door::open(place.store, holder)? {
        Some(door) => {
            notify::ready("commands of the group's members are answered", &[]);
            door.serve(session, place.cancel);
            Ok(())
        }
        None => Err(Failure::new(Kind::Conflict, "answer commands")
            .cause(format!("another process does it already, or there is no group `{GROUP}`"))
            .hint("`adt host:bootstrap` makes the group")),
    }
}

/// Serves until cancelled. `session` is the program for one who gives commands and is not root, if they are answered here. `ready` is
/// called once everything listens, with what its caller should know; `upstreams` tells the host's name servers whenever it is asked.
pub fn serve(
    place: Place<'_>,
    holder: &Holder,
    upstreams: &(dyn Fn() -> Vec<IpAddr> + Sync),
    logs: Logs,
    session: Option<&Command>,
    ready: impl FnOnce(&[String]),
) -> Result<(), Failure> {
    let Place { settings, store, cancel } = place;
    // Before anything else is opened or started here.
    let listeners = Arc::new(Listeners::inherited());
    process::living(store);
    let _lock = match store.lock(process::LOCK, holder).attempt()? {
        Ok(lock) => lock,
        Err(other) => return Err(running_already(other)),
    };
    limit::raise();
    let watch = watch::Watch::new(&store.folder).map_err(|error| Failure::new(Kind::Host, "watch the store").because(&error))?;
    let running = Running::start(settings, store, upstreams(), listeners.clone());
    // Who waits for a process that can't serve must hear so.
    let mut running = running.inspect_err(|_| listeners.give_up())?;
    let shipper = match logs {
        Logs::Here => Some(ship::Shipper::start(settings, store)?),
        Logs::Elsewhere => None,
    };
    let door = session.and_then(|session| Some((open_door(store, holder)?, session)));
    ready(&running.notices);
    notify::ready(&running.status(), &running.notices);
    std::thread::scope(|scope| {
        scope.spawn(|| door.map(|(door, session)| door.serve(session, cancel)));
        loop {
            let done = match watch.next(cancel) {
                Change::Store => running.follow(settings, store),
                Change::Nothing => running.look_around(settings, store),
                Change::Cancelled => break,
            };
            // A store that can't be read right now (a full disk, say) must not end what is served; the next change tries again.
            if let Err(failure) = done {
                tracing::error!(%failure, "the routes stay as they were");
            }
            running.forward_to(upstreams());
        }
    });
    notify::stopping();
    if let Some(shipper) = shipper {
        shipper.stop();
    }
    running.stop()
}

/// Names and pages are served also where nobody can be let in.
fn open_door(store: &Store, holder: &Holder) -> Option<Door> {
    Door::open(store, holder).unwrap_or_else(|failure| {
        tracing::error!(%failure, "only root can give commands");
        None
    })
}

fn running_already(other: Option<Holder>) -> Failure {
    let failure = Failure::new(Kind::Conflict, "serve names and pages").hint("stop that one with `adt host:halt`");
    match other {
        Some(other) => failure.cause(format!("process {} does it already", other.pid)),
        None => failure.cause("another process does it already"),
    }
}
