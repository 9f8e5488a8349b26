//! `target:rehearse --faults`: a promotion is broken at each of its steps in turn, and each time the same command has to go on.
//!
//! For each kind of fault the servers are made anew. A promotion runs until it is at a step that was not broken yet; then the fault
//! is made on the server that the step is about, as somebody would who stands beside it. Whatever the promotion says to that, the
//! fault is mended and the promotion runs again, until it has no step left that was not broken once. Then it has to be proven
//! like any other, and once more there has to be nothing to do.
//!
//! The steps are those that the promotion tells its operator, so a new one is broken without a word here. Not chosen: faults that
//! are compiled into the steps, which only show that somebody thought of them; a clock that is wrong, because a machine has its
//! host's; a network that is slow, because not every kernel can make one so.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::at_once::{for_each, stopped};
use crate::engine::events::Events;
use crate::engine::target::cargo::Cargo;
use crate::engine::target::fleet::Stand;
use crate::exec::queue::Receiver;
use crate::model::mishap::{Broken, Mishap};
use crate::model::response::Promotion;
use crate::model::{EnvironmentId, Event, Failure, Kind, MachineName};
use crate::plan::promotion::Brought;
use crate::servers::Way;

/// More than any promotion has: one whose steps never end would be broken forever.
const MOST: usize = 500;

/// A file system of its own for the store, which can be made too small and large again; from Linux 6.6 on, one in memory carries
/// machines.
const SMALL_DISK: &str = "mkdir -p /var/lib/adt && mount -t tmpfs -o mode=0711 adt-rehearsal /var/lib/adt";
/// Somebody may write meanwhile, and no file system is made smaller than what is in it. A size of nothing would be no limit. What is
/// mounted there is not read before it is changed: its owner has no number in the machine.
const FILL: &str = "for again in $(seq 50); do
    used=$(df --output=used -B1 /var/lib/adt | tail -n 1)
    mount --options-mode ignore -o remount,size=$((used > 65536 ? used : 65536)) /var/lib/adt && exit
done
exit 1";
const EMPTY: &str = "mount --options-mode ignore -o remount,size=90% /var/lib/adt";

/// Processes of a connection, which sshd names after its user, before and since Debian 13; that of the one that listens is a path.
const HANG_UP: &str = "pkill --full '^sshd(-session)?: [^/]' || test $? = 1";

/// The rehearsed servers, in the order of their machines.
pub(super) struct Rehearsed<'a> {
    pub id: &'a EnvironmentId,
    pub machines: &'a [MachineName],
    pub stands: &'a [Stand],
}

impl Rehearsed<'_> {
    /// Whom a step is about: the server whose name it begins with, or that carries its machine, else the first.
    fn about(&self, step: &str, machine: Option<&String>) -> usize {
        let is_meant = |stand: &Stand| {
            let named = step.strip_prefix(&stand.server.address.host).is_some_and(|rest| rest.starts_with(' '));
            named || machine.is_some_and(|carrier| *carrier == stand.name)
        };
        self.stands.iter().position(is_meant).unwrap_or(0)
    }
}

impl Engine {
    /// Promotes until it has broken at each step, and then through.
    pub(super) fn bring_through(
        &self,
        fault: Mishap,
        cargo: &Cargo,
        servers: &Rehearsed<'_>,
        way: &Way,
        events: &Events,
    ) -> Result<(Promotion, Vec<Broken>), Failure> {
        if fault == Mishap::Disk {
            for_each(servers.machines, |machine| self.shell(servers, machine, SMALL_DISK))?;
        }
        let mut broken: Vec<Broken> = Vec::new();
        while broken.len() < MOST {
            let (tapped, told) = Events::read();
            let (result, hit) = std::thread::scope(|scope| {
                let watch = scope.spawn(|| self.break_at_a_new_step(fault, (cargo, servers), &broken, told, events));
                let result = self.bring(cargo, servers.stands, way, false, None, &tapped);
                drop(tapped);
                (result, watch.join().expect("who only watches does not panic"))
            });
            if stopped(&self.cancel) {
                return Err(result
                    .err()
                    .unwrap_or_else(|| Failure::new(Kind::Cancelled, "break a promotion").cause("cancelled")));
            }
            let Some((server, step)) = hit? else {
                result.map_err(|failure| failure.cause(after(broken.last())))?;
                return Ok((self.proven(cargo, servers, way, events)?, broken));
            };
            self.mend(fault, servers, &servers.machines[server], events)?;
            let told = result.err().map(|failure| failure.parts.first().unwrap_or(&failure).headline());
            events.note(format!("{fault} broken at `{step}`; the same command goes on"));
            broken.push(Broken { fault, server: servers.stands[server].name.clone(), step, told });
        }
        Err(Failure::new(Kind::Program, "promote what is broken at each step")
            .cause(format!("after {MOST} times it still had steps that were never broken; {}", after(broken.last()))))
    }

    /// Passes on what is told, and makes the fault once a step begins that was not broken yet: the server that was hit, and the step.
    fn break_at_a_new_step(
        &self,
        fault: Mishap,
        (cargo, servers): (&Cargo, &Rehearsed<'_>),
        broken: &[Broken],
        told: Receiver<Event>,
        events: &Events,
    ) -> Result<Option<(usize, String)>, Failure> {
        let mut hit = Ok(None);
        for event in told {
            let (step, machine) = match &event {
                Event::TaskStarted { task, .. } => (Some(task.clone()), None),
                Event::StepStarted { step } => (Some(step.to_string()), step.action.machine()),
                _ => (None, None),
            };
            let carrier = machine.and_then(|machine| cargo.definition.placed.get(machine)).cloned();
            events.emit(event);
            let Some(step) = step else { continue };
            if matches!(hit, Ok(None)) && !broken.iter().any(|each| each.step == step) {
                let server = servers.about(&step, carrier.as_ref());
                hit = self.break_it(fault, servers, &servers.machines[server]).map(|()| Some((server, step)));
            }
        }
        hit
    }

    fn break_it(&self, fault: Mishap, servers: &Rehearsed<'_>, machine: &MachineName) -> Result<(), Failure> {
        match fault {
            Mishap::Connection => self.shell(servers, machine, HANG_UP),
            Mishap::Disk => self.shell(servers, machine, FILL),
            Mishap::Server => {
                let machine = servers.id.machine(machine);
                Ok(self.provider_of(&machine)?.stop(&machine, Duration::ZERO)?)
            }
        }
    }

    fn mend(&self, fault: Mishap, servers: &Rehearsed<'_>, machine: &MachineName, events: &Events) -> Result<(), Failure> {
        match fault {
            Mishap::Connection => Ok(()),
            Mishap::Disk => self.shell(servers, machine, EMPTY),
            Mishap::Server => {
                self.env_up(servers.id, false, events)?;
                self.is_through(servers.id, machine, events)
            }
        }
    }

    /// What was broken and went on has to be what one that was never broken is. The run that proved it may have been broken at that.
    fn proven(&self, cargo: &Cargo, servers: &Rehearsed<'_>, way: &Way, events: &Events) -> Result<Promotion, Failure> {
        let mut promotion = self.bring(cargo, servers.stands, way, true, None, events)?;
        if let Some(step) = promotion.steps.first() {
            return Err(Failure::new(Kind::Program, "promote what was broken at each step")
                .cause(format!("it is through, and yet there is something to do: {}", step.what)));
        }
        let proofs = for_each(servers.stands, |stand| {
            let Brought { id, layers, releases, .. } = cargo.share(stand, servers.stands);
            let session = self.enter_server(&stand.server, way, events)?;
            self.proof(&session, (&id, &layers, &releases), way, events)
        })?;
        proofs.into_iter().for_each(|proof| proof.add_to(&mut promotion));
        promotion.dry_run = false;
        Ok(promotion)
    }

    fn shell(&self, servers: &Rehearsed<'_>, machine: &MachineName, script: &str) -> Result<(), Failure> {
        self.inside(servers.id, machine, &["sh", "-c", script]).map(drop)
    }
}

fn after(last: Option<&Broken>) -> String {
    match last {
        Some(Broken { fault, server, step, .. }) => format!("the last that was broken was {fault} of `{server}` at `{step}`"),
        None => "nothing was broken yet".to_owned(),
    }
}
