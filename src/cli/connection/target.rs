//! The engine on a target's server, for `--target`: found through this host's platform, reached by the person's own ssh.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::local::command;
use super::remote::Remote;
use super::service::unexpected;
use super::{Connection, Verb};
use crate::engine::program;
use crate::model::target::Server;
use crate::model::{EnvironmentId, Failure, Kind, Request, Response};
use crate::servers::{self, Way};

/// Whether a command is about one environment that is there: what makes and ends one on a server is a promotion's affair.
pub fn is_for_targets(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::EnvUp { .. }
            | Verb::EnvHalt { .. }
            | Verb::EnvCheck { .. }
            | Verb::EnvList { .. }
            | Verb::EnvShow { .. }
            | Verb::EnvLogs(_)
            | Verb::EnvSsh { .. }
            | Verb::EnvExec { .. }
            | Verb::EnvCp { .. }
            | Verb::EnvSnapshot { .. }
            | Verb::EnvSnapshots { .. }
            | Verb::EnvRewind { .. }
    )
}

/// `home` is this host's engine, whose platform says where the target is.
pub fn of_target(home: &dyn Connection, id: &EnvironmentId, cancel: &Arc<AtomicBool>) -> Result<Box<dyn Connection>, Failure> {
    let server = server(home, id)?;
    // Root may stand behind sudo for a person, whose keys these are; whoever has no engine here is that person.
    let way = match home.engine() {
        Ok(engine) => engine.way()?,
        Err(_) => Way { account: None, home: None, identity: None, program: program()? },
    };
    let door = servers::knock(&way, &server)?;
    if door.found.program.is_none() {
        return Err(Failure::new(Kind::NotFound, format!("find adt on `{server}`"))
            .cause("nothing was promoted there")
            .hint("`adt env:promote` brings it, and a ticket's environment"));
    }
    let session = door.enter(false, &command(), cancel)?;
    Ok(Box::new(Remote::Server(session)))
}

fn server(home: &dyn Connection, id: &EnvironmentId) -> Result<Server, Failure> {
    let targets = match home.run(&Request::TargetList { platform: Some(id.platform.clone()) }, &mut |_| ())? {
        Response::Targets(targets) => targets,
        _ => return Err(unexpected()),
    };
    let known: Vec<_> = targets.iter().map(|target| target.name.to_string()).collect();
    let target = targets.into_iter().find(|target| target.name == id.name);
    target.and_then(|target| target.servers.into_iter().next()).ok_or_else(|| {
        let failure = Failure::new(Kind::NotFound, format!("find the target `{}` of `{}`", id.name, id.platform));
        match known.as_slice() {
            [] => failure.cause("its `platform.toml` has none").hint("`adt help target:list` tells more"),
            known => failure.hint(format!("its targets are {}", known.join(", "))),
        }
    })
}
