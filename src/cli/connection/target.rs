//! The engine on a target's server, for `--target`: found through this host's platform, reached by the person's own ssh.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::local::command;
use super::remote::Remote;
use super::service::unexpected;
use super::{Connection, Verb};
use crate::engine::program;
use crate::engine::target::server_among;
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
    )
}

/// `home` is this host's engine, whose platform says where the target is.
pub fn of_target(home: &dyn Connection, id: &EnvironmentId, cancel: &Arc<AtomicBool>) -> Result<Box<dyn Connection>, Failure> {
    let of = TargetOf { platform: id.platform.clone(), target: id.name.clone() };
    let server = match home.run(&Request::TargetList { platform: Some(of.platform.clone()) }, &mut |_| ())? {
        Response::Targets(targets) => server_among(targets, &of)?.0,
        _ => return Err(unexpected()),
    };
    // Root may stand behind sudo for a person, whose keys these are; whoever has no engine here is that person.
    let way = match home.engine() {
        Ok(engine) => engine.way()?,
        Err(_) => Way { account: None, home: None, identity: None, program: program()? },
    };
    Ok(Box::new(Remote::Server(servers::enter(&way, &server, &command(), cancel)?)))
}
