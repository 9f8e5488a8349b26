//! The engine in this process, for root; behind sudo, for the person.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Connection, EachSaid, Io};
use crate::config::HostSettings;
use crate::engine::behind::FOR_MEMBER;
use crate::engine::logs::Query;
use crate::engine::permission::Authority;
use crate::engine::program;
use crate::engine::{Caller, Engine};
use crate::exec::{Account, Command};
use crate::model::{
    EnvironmentId, Event, Exec, Failure, Kind, MachineId, MachineName, PlatformName, Request, Response, SiteName,
};
use crate::providers::Stdio;
use crate::sources::address::masked;
use crate::wire::message::Platform;

pub struct Local(Engine);

impl Local {
    pub fn open(settings: HostSettings, cancel: Arc<AtomicBool>) -> Result<Self, Failure> {
        Engine::open(settings, caller(), cancel).map(Self)
    }
}

impl Connection for Local {
    fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        let records = self.0.store.database.platforms()?;
        Ok(records.into_iter().map(|record| Platform { name: record.name, folder: record.folder }).collect())
    }

    fn machine_names(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure> {
        self.0.machine_names(id)
    }

    fn machine(&self, id: &EnvironmentId, name: &MachineName) -> Result<MachineId, Failure> {
        self.0.enter(id, name)
    }

    fn site_names(&self, platform: &PlatformName) -> Vec<SiteName> {
        self.0.site_names(platform)
    }

    fn run(&self, request: &Request, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        self.0.run(request.clone(), each)
    }

    fn refresh_behind(&self, request: &Request) -> Result<(), Failure> {
        self.0.refresh_behind(request)
    }

    fn exec(&self, machine: &MachineId, exec: &Exec, io: Io<'_>) -> Result<i32, Failure> {
        let provider = self.0.provider_of(machine)?;
        let ended = match io {
            Io::Terminal => provider.exec(machine, exec, Stdio::Terminal),
            Io::Caller => provider.exec(machine, exec, Stdio::Caller),
            Io::Lines(print) => {
                let each = &mut |stream, line: &str| print(stream, line);
                provider.exec(machine, exec, Stdio::Pipes { stdin: None, each })
            }
        };
        Ok(ended?.code)
    }

    fn console(&self, machine: &MachineId) -> Result<(), Failure> {
        let Some(console) = self.0.provider_of(machine)?.console() else {
            return Err(Failure::new(Kind::Usage, "join the console").cause(format!("`{machine}` has none")));
        };
        Ok(console.attach(machine, None)?)
    }

    fn logs(&self, query: &Query, each: &mut EachSaid<'_>) -> Result<(), Failure> {
        self.0.logs(query, each)
    }

    fn engine(&self) -> Result<&Engine, Failure> {
        Ok(&self.0)
    }

    fn leave(&self) {
        self.0.remove_behind();
    }
}

/// The person behind sudo counts: environments and files are theirs.
fn caller() -> Caller {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let id = |name: &str| var(name).and_then(|value| value.parse::<u32>().ok());
    let user = var("SUDO_USER").or_else(|| var("USER")).or_else(|| var("LOGNAME")).unwrap_or_else(|| "root".into());
    let ids = id("SUDO_UID").zip(id("SUDO_GID")).filter(|(user, _)| *user != 0);
    let account = ids.map(|(id, group)| Account::named(&user, id, group));
    let home = account.as_ref().and_then(|_| home_of(&user));
    let authority = if var(FOR_MEMBER).is_some() { Authority::Member } else { Authority::Root };
    Caller { user, account, authority, home, command: command() }
}

/// The words of this command, as others see them while they wait for it.
pub fn command() -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    masked(&words.collect::<Vec<_>>().join(" "))
}

/// This program again, with the same settings, as a session of somebody else.
pub fn session(verb: &str) -> Result<Command, Failure> {
    let words = std::env::args_os().skip(1).map(|word| if word == verb { "internal:session".into() } else { word });
    Ok(Command::new(program()?).args(words))
}

fn home_of(user: &str) -> Option<PathBuf> {
    let home = |passwd: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
        line.split(':').nth(5).map(PathBuf::from)
    };
    let local = std::fs::read_to_string("/etc/passwd").ok().and_then(|passwd| home(&passwd));
    // Somebody whom a directory of the company knows.
    local.or_else(|| home(&Command::new("getent").args(["passwd", user]).run().ok()?.text()))
}
