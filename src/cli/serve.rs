//! `host:up` and `host:halt`: the process that serves names and pages, ours or systemd's.

use std::process::ExitCode;

use super::args::{AccessMoment, Moment};
use super::progress::Reader;
use super::{Session, answer, connection, screen};
use crate::daemon::{self, Logs, Started};
use crate::engine::host::service;
use crate::engine::program;
use crate::exec::Command;
use crate::model::response::Done;
use crate::model::{Event, Failure, Response};

impl Session {
    pub(super) fn host_up(&self, detach: bool, names_only: bool) -> Result<ExitCode, Failure> {
        let engine = self.connection.engine()?;
        let listen = engine.settings.listen.value;
        if detach && service::serves(&engine.store) {
            if daemon::living(&engine.store).is_some() {
                return self.tell(format!("names and pages are served already at {listen}"), false);
            }
            return self.tell(service::start()?, true);
        }
        if detach {
            // The settings reach the child as they reached us: through the environment and the same flags.
            let words = std::env::args_os().skip(1).filter(|word| word != "--detach");
            return match daemon::detach(&engine.store, &Command::new(program()?).args(words))? {
                Started::Now(notices) => {
                    self.warn(&notices);
                    self.tell(format!("names and pages are served at {listen}"), true)
                }
                Started::Already => self.tell(format!("names and pages are served already at {listen}"), false),
            };
        }
        let quiet = self.global.quiet || self.global.json;
        let ready = |notices: &[String]| {
            self.warn(notices);
            if !quiet {
                drop(screen::err(&format!("names and pages are served at {listen}; Ctrl-C stops it")));
            }
        };
        let nameservers = || engine.nameservers();
        let place = daemon::Place { settings: &engine.settings, store: &engine.store, cancel: &engine.cancel };
        let logs = if names_only { Logs::Elsewhere } else { Logs::Here };
        let session = (!names_only).then(|| connection::session("host:up")).transpose()?;
        daemon::serve(place, &engine.holder(), &nameservers, logs, session.as_ref(), ready)?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn send_logs(&self) -> Result<ExitCode, Failure> {
        let engine = self.connection.engine()?;
        daemon::send_logs(daemon::Place { settings: &engine.settings, store: &engine.store, cancel: &engine.cancel })?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn at_boot(&self, moment: Moment) -> Result<ExitCode, Failure> {
        let engine = self.connection.engine()?;
        match moment {
            Moment::Up => engine.after_the_host_came_up()?,
            Moment::Halt => engine.before_the_host_goes_down()?,
            Moment::Tie => engine.mend_ties(std::env::var("SERVICE_RESULT").ok().as_deref())?,
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn access_moment(&self, moment: AccessMoment, number: u64) -> Result<ExitCode, Failure> {
        let engine = self.connection.engine()?;
        match moment {
            AccessMoment::Boot => engine.access_at_boot()?,
            AccessMoment::Undo => engine.undo_access(number)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn answer_commands(&self) -> Result<ExitCode, Failure> {
        let engine = self.connection.engine()?;
        let place = daemon::Place { settings: &engine.settings, store: &engine.store, cancel: &engine.cancel };
        daemon::answer_commands(place, &engine.holder(), &connection::session("internal:commands")?)?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn host_halt(&self) -> Result<ExitCode, Failure> {
        let store = &self.connection.engine()?.store;
        // A start that systemd is about to repeat has no process yet.
        let unit = service::serves(store) && service::is_active();
        if unit {
            service::stop()?;
        }
        let stopped = daemon::halt(store)? || unit;
        let state = if stopped { "are no longer served" } else { "were not served" };
        self.tell(format!("names and pages {state}"), stopped)
    }

    fn warn(&self, notices: &[String]) {
        let mut reader = Reader::new(&self.global);
        for text in notices {
            reader.read(&Event::Warning { text: text.clone() });
        }
        reader.finish();
    }

    fn tell(&self, summary: String, changed: bool) -> Result<ExitCode, Failure> {
        let response = Response::Done(Done { summary, changed, ..Done::default() });
        answer::print(&response, &self.global)?;
        Ok(ExitCode::SUCCESS)
    }
}
