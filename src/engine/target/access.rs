//! Who may reach a target's server, where its operator sits: `target:access`, `target:grant`, `target:revoke`, and what a promotion
//! makes of the configuration's `admin`.
//!
//! Every change is tried, and kept only over a connection that was made since: an operator who would be locked out by it is not.

use crate::engine::Engine;
use crate::engine::at_once::for_each;
use crate::engine::events::Events;
use crate::engine::target::doors::TRIAL;
use crate::engine::target::fleet;
use crate::model::access::{AccessChange, AccessReport, words};
use crate::model::request::TargetOf;
use crate::model::response::{CheckItem, Done};
use crate::model::target::{Server, TargetSummary};
use crate::model::{EnvironmentId, Failure, Response};
use crate::servers::{Session, Way};

impl Engine {
    pub(in crate::engine) fn target_access(&self, of: &TargetOf) -> Result<Response, Failure> {
        let (way, target) = (self.way()?, self.target_of(of)?);
        let report = |server: &Server| {
            // A listing is one document, so nothing is told on the way.
            let report = self.enter_server(server, &way, &Events::unread())?.access()?;
            Ok(AccessReport { server: server.name().to_owned(), ..report })
        };
        Ok(Response::Access(for_each(&target.servers, report)?))
    }

    /// `target:grant` and `target:revoke`.
    pub(in crate::engine) fn target_admit(
        &self,
        of: &TargetOf,
        change: &AccessChange,
        events: &Events,
    ) -> Result<Response, Failure> {
        let (way, target) = (self.way()?, self.target_of(of)?);
        for_each(&target.servers, |server| {
            let session = self.enter_server(server, &way, events)?;
            self.change_access(&session, server, &way, change, events)
        })?;
        let server = fleet::quoted(&target.servers);
        let summary = match change {
            AccessChange::Revoke { network } => format!("{network} may no longer come to the ssh of {server}"),
            AccessChange::Grant { network, seconds } => {
                let until = jiff::Timestamp::from_second(self.now() + i64::from(*seconds)).unwrap_or_default();
                format!("{network} may come to the ssh of {server} until {}", until.strftime("%Y-%m-%d %H:%M UTC"))
            }
            AccessChange::Admin { .. } => change.to_string(),
        };
        Ok(Response::Done(Done { summary, changed: true, ..Done::default() }))
    }

    /// Tries a change, and keeps it over a connection of its own.
    pub(super) fn change_access(
        &self,
        session: &Session,
        server: &Server,
        way: &Way,
        change: &AccessChange,
        events: &Events,
    ) -> Result<(), Failure> {
        let number = session.try_access(change, &self.by())?;
        let kept = self.enter_server(server, way, events).and_then(|anew| anew.keep_access(number));
        kept.map_err(|failure| {
            let sentence = format!("keep what was changed in who may reach `{server}`");
            let reason = std::iter::once(failure.sentence.clone()).chain(failure.causes.clone());
            let failure = Failure { sentence, causes: reason.collect(), hints: Vec::new(), ..failure };
            failure.hint(format!(
                "within {} s the server is as before; is your own address in `admin`, or granted?",
                TRIAL.as_secs()
            ))
        })
    }

    /// For `target:check`: whether the server keeps to what the configuration says, and what its sshd takes.
    pub(super) fn check_access(
        &self,
        session: &Session,
        id: &EnvironmentId,
        target: &TargetSummary,
        remedy: &str,
    ) -> Result<[CheckItem; 2], Failure> {
        let subject = "who may come in";
        let report = session.access()?;
        let there = report.access.of(id);
        let item = match (target.admin == there, report.access.keeps_out(), report.in_force) {
            (false, ..) if target.admin.is_empty() => {
                CheckItem::fault(subject, format!("`admin` is empty, and the server keeps to {}", words(&there)), remedy)
            }
            (false, ..) => CheckItem::fault(subject, format!("not what `admin` says: {}", words(&target.admin)), remedy),
            (true, false, _) => CheckItem::notice(
                subject,
                "everybody may try its ssh and whatever else listens there",
                Some("write your networks as `admin` of the target, and promote".into()),
            ),
            (true, true, false) => CheckItem::fault(subject, "its firewall is not in force; somebody took it away", remedy),
            (true, true, true) => {
                let granted = report.access.grants.len();
                let granted = if granted == 0 { String::new() } else { format!(", and {granted} granted for a while") };
                CheckItem::ok(subject, format!("sites: everybody; ssh: {}{granted}", words(&report.access.networks())))
            }
        };
        let by = match report.takes_passwords {
            false => CheckItem::ok("ssh", "takes keys only"),
            true => CheckItem::notice(
                "ssh",
                "lets in whoever guesses a password",
                Some("write `PasswordAuthentication no` and `KbdInteractiveAuthentication no` into a file of /etc/ssh/sshd_config.d".into()),
            ),
        };
        Ok([item, by])
    }
}
