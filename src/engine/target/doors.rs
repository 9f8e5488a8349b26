//! The server's side of who may reach it: changes on trial, what is kept, and what a restart finds.
//!
//! ```text
//! arm ─ write down ─ try ─────── somebody comes in anew ─── keep
//!  └─ 40 s later, or after a restart, without that ─────── undo
//! ```
//! The undoing is systemd's before anything is tried: it needs neither the operator nor the process that tried.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::disk;
use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::host::{service, system_file};
use crate::engine::program;
use crate::exec::Command;
use crate::model::access::{Access, AccessChange, AccessEntry, AccessReport};
use crate::model::{EnvironmentId, Failure, Kind};
use crate::network::wall;
use crate::store::access::{Doors, Trial};
use crate::store::{Lock, history};

/// So long a change may wait for somebody to come in anew.
pub const TRIAL: Duration = Duration::from_secs(40);
/// What they are known by in the store's history.
const SUBJECT: &str = "access";
const UNIT: &str = "adt-access.service";
const UNIT_FILE: &str = "/etc/systemd/system/adt-access.service";

impl Engine {
    /// Tries a change; it goes by itself unless [`Self::keep_access`] comes with its number.
    pub fn try_access(&self, change: &AccessChange, by: &str) -> Result<u64, Failure> {
        let told = |failure: Failure| Failure { sentence: "change who may reach the server".into(), ..failure };
        if !service::is_possible() {
            return Err(told(Failure::new(Kind::Host, "").cause("systemd does not run there, which would undo what goes wrong")));
        }
        let _lock = self.lock_access()?;
        let mut doors = self.settled()?;
        let now = self.now();
        let access = doors.kept.changed(change, by, now).map_err(|error| {
            let failure = told(Failure::new(Kind::Conflict, "").because(&error));
            failure.hint("`admin = [\"203.0.113.0/24\"]` of the target, and a promotion, keep others out")
        })?;
        let ssh = ssh_ports()?;
        let number = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default();
        self.write_access_unit()?;
        self.arm(number)?;
        doors.trial = Some(Trial { number, access: access.clone(), what: change.to_string(), by: by.to_owned() });
        doors.write(&self.store)?;
        if let Err(error) = wall::set(self.store.install(), &access, &ssh, now) {
            self.undo(doors)?;
            disarm(number);
            return Err(told(error.into()));
        }
        self.note_access(by, &format!("{change}: tried"));
        Ok(number)
    }

    /// Whoever says this came in while the change was in force.
    pub fn keep_access(&self, number: u64) -> Result<(), Failure> {
        let _lock = self.lock_access()?;
        let mut doors = Doors::read(&self.store)?;
        let Some(trial) = doors.trial.take_if(|trial| trial.number == number) else {
            return Err(Failure::new(Kind::Conflict, "keep the change of who may reach the server")
                .cause("it was undone already, since nobody came in for a while")
                .hint("run the same command again"));
        };
        doors.kept = trial.access;
        doors.write(&self.store)?;
        disarm(number);
        self.note_access(&trial.by, &format!("{}: kept", trial.what));
        if doors.kept.keeps_out() { Ok(()) } else { remove_unit() }
    }

    /// What was armed for a change that nobody has kept.
    pub fn undo_access(&self, number: u64) -> Result<(), Failure> {
        let _lock = self.lock_access()?;
        let doors = Doors::read(&self.store)?;
        if doors.trial.as_ref().is_some_and(|trial| trial.number == number) { self.undo(doors) } else { Ok(()) }
    }

    /// The host has just started: what was on trial is over, what was kept is put in force.
    pub fn access_at_boot(&self) -> Result<(), Failure> {
        let _lock = self.lock_access()?;
        self.undo(Doors::read(&self.store)?)
    }

    /// Nobody is kept out any more, and nothing is remembered.
    pub(in crate::engine) fn forget_access(&self) -> Result<(), Failure> {
        let _lock = self.lock_access()?;
        if Doors::read(&self.store)? == Doors::default() {
            return Ok(());
        }
        wall::remove(self.store.install())?;
        Doors::default().write(&self.store)?;
        remove_unit()
    }

    pub fn access(&self) -> Result<AccessReport, Failure> {
        let log = self.store.history.entries().into_iter().filter(|entry| entry.subject == SUBJECT);
        Ok(AccessReport {
            server: String::new(),
            access: Doors::read(&self.store)?.kept.at(self.now()),
            in_force: wall::in_force(self.store.install())?,
            takes_passwords: sshd().is_ok_and(|said| takes_passwords(&said)),
            log: log.map(|history::Entry { time, user, what, .. }| AccessEntry { time, by: user, what }).collect(),
        })
    }

    /// The networks that one environment's target wants, as they are in force.
    pub(super) fn admin_of(&self, id: &EnvironmentId) -> Result<BTreeSet<ipnet::IpNet>, Failure> {
        let in_force = wall::in_force(self.store.install())?;
        Ok(if in_force { Doors::read(&self.store)?.kept.of(id) } else { BTreeSet::new() })
    }

    fn lock_access(&self) -> Result<Lock, Failure> {
        self.lock(SUBJECT, "who may reach this server", &Events::unread())
    }

    /// Back to what was kept, in the kernel first: found again, the rest is done again.
    fn undo(&self, doors: Doors) -> Result<(), Failure> {
        let Doors { kept, trial } = doors;
        // It may be what let sshd's ports be unknown: then nobody is kept out.
        let (access, ssh) = match ssh_ports() {
            Ok(ssh) => (kept.clone().at(self.now()), ssh),
            Err(failure) => {
                tracing::error!(%failure, "nobody is kept out of this server");
                (Access::default(), BTreeSet::new())
            }
        };
        wall::set(self.store.install(), &access, &ssh, self.now())?;
        Doors { kept, trial: None }.write(&self.store)?;
        if let Some(trial) = trial {
            self.note_access(&trial.by, &format!("{}: undone, since nobody came in to keep it", trial.what));
        }
        Ok(())
    }

    /// What is there without another's trial: one that nobody will end any more is ended here.
    fn settled(&self) -> Result<Doors, Failure> {
        let doors = Doors::read(&self.store)?;
        let Some(trial) = &doors.trial else { return Ok(doors) };
        if is_armed(trial.number) {
            return Err(Failure::new(Kind::Conflict, "change who may reach the server")
                .cause(format!("{} tries a change just now", trial.by))
                .hint(format!("run the same command again in {} s", TRIAL.as_secs())));
        }
        self.undo(doors)?;
        Ok(Doors::read(&self.store)?)
    }

    fn note_access(&self, by: &str, what: &str) {
        let entry = history::Entry { time: self.now(), user: by.to_owned(), what: what.to_owned(), subject: SUBJECT.to_owned() };
        if let Err(error) = self.store.history.add(&entry) {
            tracing::warn!(%error, "history was not written");
        }
    }

    /// Runs once after a while, whoever is there then.
    fn arm(&self, number: u64) -> Result<(), Failure> {
        let run = Command::new("systemd-run")
            .args(["--quiet", "--collect", "--unit", &undoing(number)])
            .args([format!("--on-active={}s", TRIAL.as_secs()), "--timer-property=AccuracySec=500ms".into(), "--".into()])
            .arg(program()?)
            .arg("--store")
            .arg(&self.store.folder)
            .args(["internal:access", "undo", &number.to_string()])
            .run();
        run.map(drop).map_err(|error| {
            Failure::new(Kind::Program, "change who may reach the server").because(&error).cause("nobody would undo it")
        })
    }

    /// What puts in force again what was kept, before the network is up.
    fn write_access_unit(&self) -> Result<(), Failure> {
        let text = service::text_of_access(&program()?.display().to_string(), &self.store.folder.display().to_string());
        if std::fs::read_to_string(UNIT_FILE).is_ok_and(|there| there == text) {
            return Ok(());
        }
        system_file::write(UNIT_FILE, &text)?;
        service::systemctl(&["daemon-reload"])?;
        service::systemctl(&["enable", "--quiet", UNIT])
    }
}

fn remove_unit() -> Result<(), Failure> {
    service::remove(UNIT_FILE, UNIT)
}

fn undoing(number: u64) -> String {
    format!("adt-access-undo-{number}")
}

/// It may run right now, and then waits for our lock, to find that there is nothing to undo.
fn disarm(number: u64) {
    if let Err(failure) = service::systemctl(&["stop", &format!("{}.timer", undoing(number))]) {
        tracing::debug!(%failure, "it undoes nothing");
    }
}

fn is_armed(number: u64) -> bool {
    let timer = format!("{}.timer", undoing(number));
    Command::new("systemctl").args(["is-active", "--quiet", &timer]).run().is_ok()
}

/// What sshd does, by its own word. It says nothing without a folder that is made when its service starts, later than ours.
fn sshd() -> Result<String, Failure> {
    let failed = || Failure::new(Kind::Host, "ask sshd what it does");
    disk::make_folders(Path::new("/run/sshd"), 0o755).map_err(|error| failed().because(&error))?;
    Ok(Command::new("/usr/sbin/sshd").arg("-T").run().map_err(|error| failed().because(&error))?.text())
}

fn ssh_ports() -> Result<BTreeSet<u16>, Failure> {
    let ports = ports(&sshd()?);
    if ports.is_empty() { Err(Failure::new(Kind::Host, "find out the ports of sshd").cause("it names none")) } else { Ok(ports) }
}

fn ports(said: &str) -> BTreeSet<u16> {
    said.lines().filter_map(|line| line.strip_prefix("port ")).filter_map(|port| port.trim().parse().ok()).collect()
}

fn takes_passwords(said: &str) -> bool {
    said.lines().any(|line| matches!(line, "passwordauthentication yes" | "kbdinteractiveauthentication yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_says_of_itself_is_read() {
        let said = "port 22\nport 2222\naddressfamily any\nlistenaddress 0.0.0.0:22\npasswordauthentication no\n";
        assert_eq!(ports(said), [22, 2222].into());
        assert!(!takes_passwords(said) && takes_passwords("port 22\npasswordauthentication yes\n"));
        assert!(ports("gatewayports no\n").is_empty());
    }
}
