//! The engines on a target's servers, for `--target`: found through this host's platform, reached by the person's own ssh.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::fleet::Fleet;
use super::local::command;
use super::remote::Remote;
use super::service::unexpected;
use super::{Connection, Verb};
use crate::engine::program;
use crate::engine::target::among;
use crate::model::request::TargetOf;
use crate::model::{EnvironmentId, Failure, Request, Response};
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
            | Verb::SiteList { .. }
    )
}

/// `home` is this host's engine, whose platform says where the target is.
pub fn of_target(home: &dyn Connection, id: &EnvironmentId, cancel: &Arc<AtomicBool>) -> Result<Box<dyn Connection>, Failure> {
    let of = TargetOf { platform: id.platform.clone(), target: id.name.clone() };
    let target = match home.run(&Request::TargetList { platform: Some(of.platform.clone()) }, &mut |_| ())? {
        Response::Targets(targets) => among(targets, &of)?,
        _ => return Err(unexpected()),
    };
    // Root may stand behind sudo for a person, whose keys these are; whoever has no engine here is that person.
    let way = match home.engine() {
        Ok(engine) => engine.way()?,
        Err(_) => Way { account: None, home: None, identity: None, program: program()? },
    };
    let mut members = Vec::new();
    for server in &target.servers {
        let session = Remote::Server(servers::enter(&way, server, &command(), cancel)?);
        if target.servers.len() == 1 {
            return Ok(Box::new(session));
        }
        members.push((server.name().to_owned(), session));
    }
    Ok(Box::new(Fleet::new(members)))
}
