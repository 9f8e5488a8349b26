//! The engine in a session, of this host's service or on a target's server: what verbs ask, as messages, and its answers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::service::{self, Service, end_of, unexpected};
use super::{Connection, EachSaid, Io, files, program};
use crate::engine::Engine;
use crate::engine::logs::{Query, Said};
use crate::logs::{Origin, Record};
use crate::model::{
    EnvironmentId, Event, Exec, Failure, Kind, MachineId, MachineName, PlatformName, Request, Response, SiteName,
};
use crate::servers;
use crate::wire::channel::WINDOW;
use crate::wire::message::{Logs, Platform};
use crate::wire::{End, Found, Look, Open, Stream, Told};

pub enum Remote {
    Service(Service),
    Server(servers::Session),
}

impl Remote {
    pub fn open(store: &Path, cancel: &Arc<AtomicBool>) -> Result<Self, Failure> {
        service::open(store, cancel).map(Self::Service)
    }

    fn asker(&self) -> &Service {
        match self {
            Self::Service(service) => service,
            Self::Server(session) => session.asker(),
        }
    }

    fn look(&self, look: Look) -> Result<Found, Failure> {
        match end_of(&*self.asker().channel(&Open::Look(look), &[])?)? {
            End::Found(found) => Ok(found),
            End::Answered(_) | End::Ended { .. } | End::Failed(_) => Err(unexpected()),
        }
    }

    /// Everything that is told until the end.
    fn listen(&self, open: &Open, each: &mut dyn FnMut(Told) -> bool) -> Result<End, Failure> {
        let channel = self.asker().channel(open, &[(Stream::Told, WINDOW)])?;
        while let Some(told) = channel.told() {
            let told = told.map_err(|error| Failure::new(Kind::Program, "understand the service").because(&error))?;
            if !each(told) {
                return Ok(End::Found(Found::Nothing));
            }
        }
        end_of(&channel)
    }
}

impl Connection for Remote {
    fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        match self.look(Look::Platforms)? {
            Found::Platforms(platforms) => Ok(platforms),
            _ => Err(unexpected()),
        }
    }

    fn machine_names(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure> {
        match self.look(Look::Machines(id.clone()))? {
            Found::Machines(names) => Ok(names),
            _ => Err(unexpected()),
        }
    }

    fn machine(&self, id: &EnvironmentId, name: &MachineName) -> Result<MachineId, Failure> {
        self.look(Look::Machine(id.machine(name)))?;
        Ok(id.machine(name))
    }

    fn site_names(&self, platform: &PlatformName) -> Vec<SiteName> {
        match self.look(Look::Sites(platform.clone())) {
            Ok(Found::Sites(sites)) => sites,
            _ => Vec::new(),
        }
    }

    fn run(&self, request: &Request, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        if let Request::EnvCopy { id, machine, copy } = request {
            return files::copy(self.asker(), &self.machine(id, machine)?, copy, &self.asker().cancel);
        }
        let end = self.listen(&Open::Ask(request.clone()), &mut |told| {
            if let Told::Event(event) = told {
                each(event);
            }
            true
        });
        match end? {
            End::Answered(answer) => Ok(answer.0),
            End::Found(_) | End::Ended { .. } | End::Failed(_) => Err(unexpected()),
        }
    }

    /// The session sees to it.
    fn refresh_behind(&self, _: &Request) -> Result<(), Failure> {
        Ok(())
    }

    fn exec(&self, machine: &MachineId, exec: &Exec, io: Io<'_>) -> Result<i32, Failure> {
        program::run(self.asker(), machine, exec, io)
    }

    fn console(&self, machine: &MachineId) -> Result<(), Failure> {
        program::console(self.asker(), machine)
    }

    fn logs(&self, query: &Query, each: &mut EachSaid<'_>) -> Result<(), Failure> {
        let open = Open::Logs(Logs {
            id: query.id.clone(),
            machines: query.machines.clone(),
            site: query.site.clone(),
            since: query.since,
            until: query.until,
            grep: query.grep.as_ref().map(|grep| grep.as_str().to_owned()),
            lines: query.lines,
            follow: query.follow,
        });
        let end = self.listen(&open, &mut |told| {
            let said = match told {
                Told::Note(note) => Said::Note(note),
                Told::Record(record) => Said::Record(Record {
                    time: record.time,
                    origin: Arc::new(Origin { id: record.machine, fqdn: record.fqdn }),
                    unit: record.unit,
                    severity: record.severity,
                    message: record.message,
                    mark: None,
                }),
                Told::Event(_) => return true,
            };
            each(said).is_continue()
        });
        end.map(drop)
    }

    fn engine(&self) -> Result<&Engine, Failure> {
        Err(crate::session::only_root())
    }

    /// The session tidies up when it sees that we went.
    fn leave(&self) {}
}
