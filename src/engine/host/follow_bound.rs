//! Other servers' configuration follows the environments by itself, as adt's own servers do.
//!
//! After each verb that may move a route, whatever became of it, what `host:bind-proxy --with …` wrote is made to fit again.
//! A verb that was killed before that leaves it to the next one, of any environment.

use crate::bind::{self, Home, Reloaded, Scope, Server};
use crate::engine::Engine;
use crate::engine::events::Events;
use crate::model::{Failure, Request};

/// Whether the routes may be others afterwards.
pub(in crate::engine) fn moves_routes(request: &Request) -> bool {
    match request {
        Request::PlatformInit(_) | Request::TargetRehearse { .. } => true,
        Request::PlatformUp { dry_run, .. }
        | Request::PlatformHalt { dry_run, .. }
        | Request::PlatformDestroy { dry_run, .. }
        | Request::EnvInit { dry_run, .. }
        | Request::EnvUp { dry_run, .. }
        | Request::EnvHalt { dry_run, .. }
        | Request::EnvDestroy { dry_run, .. }
        | Request::EnvReload { dry_run, .. }
        | Request::EnvRewind { dry_run, .. }
        | Request::SiteAdd { dry_run, .. }
        | Request::SiteRemove { dry_run, .. } => !dry_run,
        Request::HostBootstrap(_)
        | Request::HostCheck
        | Request::HostBind(_)
        | Request::HostUnbind { .. }
        | Request::PlatformList
        | Request::PlatformPull { .. }
        | Request::PlatformBuild { .. }
        | Request::PlatformCheck { .. }
        | Request::Forget { .. }
        | Request::EnvShare { .. }
        | Request::EnvSnapshot { .. }
        | Request::EnvSnapshots { .. }
        | Request::EnvSnapshotRemove { .. }
        | Request::EnvCheck { .. }
        | Request::EnvList { .. }
        | Request::EnvShow { .. }
        | Request::EnvFacts { .. }
        | Request::EnvUrls { .. }
        | Request::EnvCopy { .. }
        | Request::SiteBranch { .. }
        | Request::SiteList { .. }
        | Request::SiteDeploy { .. }
        | Request::SiteRollback { .. }
        | Request::BoxList { .. }
        | Request::BoxBuild { .. }
        | Request::BoxShow { .. }
        | Request::BoxPrune { .. }
        | Request::TargetList { .. }
        | Request::TargetCheck(_)
        | Request::TargetHistory(_)
        | Request::TargetAccess(_)
        | Request::TargetAdmit { .. }
        // What these change is another host's.
        | Request::EnvPromote { .. }
        | Request::EnvRollback { .. } => false,
    }
}

impl Engine {
    /// An environment works without another server's configuration; what is wrong with that is told and fails nothing.
    pub(in crate::engine) fn follow_bound(&self, events: &Events) {
        for server in Server::ALL {
            match self.follow_one(server, events) {
                Ok(Some(Reloaded::ByHand(why))) => events.warn(format!("{server} was not reloaded: {why}")),
                Ok(Some(Reloaded::Done | Reloaded::Unneeded | Reloaded::NotRunning) | None) => {}
                Err(failure) => {
                    let tail = failure.tail.iter().map(|line| format!("\n  {line}")).collect::<String>();
                    events.warn(format!(
                        "{server} serves what was before: {failure}{tail}\n  when that is mended, the same command again brings it up to date"
                    ));
                }
            }
        }
    }

    /// `None` where this installation wrote nothing for this server.
    fn follow_one(&self, server: Server, events: &Events) -> Result<Option<Reloaded>, Failure> {
        let home = Home::debian(server);
        if bind::owner(&home)?.is_none_or(|owner| owner != self.store.install()) {
            return Ok(None);
        }
        // Routes are read behind the lock: whoever writes last must have read last.
        let _lock = self.lock_bound(events)?;
        let routes = self.routes(events)?;
        self.with_facts(&routes, |facts| Ok(Some(bind::apply(&home, facts, &Scope::Again)?.reloaded)))
    }
}
