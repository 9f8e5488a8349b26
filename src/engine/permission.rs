//! Who may do what. Every request comes past here before anything happens, however it came: from root's own command line or over
//! the daemon's socket from a member of the group `adt`.
//!
//! | | root | its owner | others, where it is shared | others |
//! |---|---|---|---|---|
//! | see it: `env:list`, `show`, `urls`, `check`, `logs`, `snapshots`, `site:list` | yes | yes | yes | yes |
//! | start and stop it: `env:up`, `halt`, `platform:up`, `halt` | yes | yes | yes | yes |
//! | change it: `env:reload`, `snapshot`, `site:…` | yes | yes | yes | no |
//! | be in it: `env:ssh`, `exec`, `cp` | yes | yes | yes | no |
//! | lose what it holds: `env:destroy`, `rewind`, `reload --data`, `snapshots --remove` | yes | yes | yes | no |
//! | share it: `env:share` | yes | yes | no | no |
//!
//! One question, so that everybody knows the answer without looking here: is it mine, or shared with me? To enter another's
//! machine is to write in their working trees and to read their passwords, so it is no smaller thing than to destroy it. To
//! start and stop loses nothing, and a team on one host does that for one another: after a restart, and where memory is short.
//!
//! A platform belongs to the one whose folder it is: only they pull it, forget it, or give its name to another folder. Everybody
//! makes environments of it, builds its boxes and prunes what nobody uses. What a host has once is root's: `host:bootstrap`,
//! `host:up`, `host:halt`, and `host:unbind-proxy` altogether, which takes the pages away from all. `host:bind-proxy` is
//! everybody's: it only adds, and a member whose browser finds no page has nothing of adt.
//!
//! What happens on a target's server is decided there, by its sshd: whoever has a key of its root may do everything, and ssh runs here
//! with the rights of the person who asks. So `env:promote` asks only whether the ticket is theirs, and a rehearsal, whose server is
//! this host's, is root's.
//!
//! Layers are exported and imported by root alone, in root's own process: a member who could bring in a layer under a digest of
//! their choice would put files into everybody's machines. Whose names there are (platforms, machines, sites) and what machines log
//! is asked without a [`Request`], and every member may see it.
//!
//! Not chosen: rights by command and person in a file (a second truth, and nobody reads it); everything for every member, as
//! with `docker` (a slip of the fingers then destroys a colleague's week).

use crate::engine::Engine;
use crate::engine::environment::records::WORKSHOP;
use crate::model::{EnvironmentId, EnvironmentName, Failure, Kind, MachineId, MachineName, PlatformName, Request};
use crate::store::{Environment, Owner, PlatformRecord};

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Root, also behind sudo.
    Root,
    /// One of the group `adt`, with the rights of a person.
    Member,
}

/// What a request asks of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need<'r> {
    /// Being one.
    Nothing,
    /// That it is theirs, or shared.
    Use(&'r EnvironmentId),
    /// That it is theirs.
    Own(&'r EnvironmentId),
    /// That these environments are theirs, or shared; without names all, and the platform's folder theirs.
    Fleet(&'r PlatformName, &'r [EnvironmentName]),
    /// That the platform's folder is theirs.
    Platform(&'r PlatformName),
    /// Not to be one.
    Root,
}

/// What each request needs, and what it would do in words that complete "could not …".
fn need(request: &Request) -> (Need<'_>, String) {
    let (need, deed) = match request {
        Request::HostBootstrap(_) => (Need::Root, "prepare this host".to_owned()),
        Request::HostCheck => (Need::Nothing, String::new()),
        Request::HostBind(_) => (Need::Nothing, String::new()),
        Request::HostUnbind { environment: Some(id) } => (Need::Use(id), format!("take `{id}` from other servers")),
        Request::HostUnbind { environment: None } => (Need::Root, "take the names and pages of all away".to_owned()),

        Request::PlatformInit(_) => (Need::Nothing, String::new()),
        Request::PlatformList => (Need::Nothing, String::new()),
        Request::PlatformPull { platform } => (Need::Platform(platform), format!("pull `{platform}`")),
        Request::PlatformBuild { .. } => (Need::Nothing, String::new()),
        Request::PlatformUp { .. } => (Need::Nothing, String::new()),
        Request::PlatformHalt { .. } => (Need::Nothing, String::new()),
        Request::PlatformDestroy { platform, environments, .. } => {
            (Need::Fleet(platform, environments), format!("destroy `{platform}`"))
        }
        Request::PlatformCheck { .. } => (Need::Nothing, String::new()),

        Request::EnvInit { .. } => (Need::Nothing, String::new()),
        Request::EnvUp { .. } => (Need::Nothing, String::new()),
        Request::EnvHalt { .. } => (Need::Nothing, String::new()),
        Request::EnvDestroy { id, .. } => (Need::Use(id), format!("destroy `{id}`")),
        Request::Forget { .. } => (Need::Root, "remove a record".to_owned()),
        Request::EnvReload { id, .. } => (Need::Use(id), format!("reload `{id}`")),
        Request::EnvShare { id, .. } => (Need::Own(id), format!("share `{id}`")),
        Request::EnvSnapshot { id, .. } => (Need::Use(id), format!("take a snapshot of `{id}`")),
        Request::EnvSnapshots { .. } => (Need::Nothing, String::new()),
        Request::EnvSnapshotRemove { id, .. } => (Need::Use(id), format!("remove a snapshot of `{id}`")),
        Request::EnvRewind { id, .. } => (Need::Use(id), format!("rewind `{id}`")),
        Request::EnvCheck { .. } => (Need::Nothing, String::new()),
        Request::EnvList { .. } => (Need::Nothing, String::new()),
        Request::EnvShow { .. } => (Need::Nothing, String::new()),
        Request::EnvFacts { .. } => (Need::Nothing, String::new()),
        Request::EnvUrls { .. } => (Need::Nothing, String::new()),
        Request::EnvCopy { id, .. } => (Need::Use(id), format!("enter `{id}`")),

        Request::SiteDeploy { id, site, .. } => (Need::Use(id), format!("deploy `{site}` of `{id}`")),
        Request::SiteRollback { id, site, .. } => (Need::Use(id), format!("roll `{site}` of `{id}` back")),
        Request::SiteAdd { id, .. } => (Need::Use(id), format!("add a site to `{id}`")),
        Request::SiteRemove { id, site, .. } => (Need::Use(id), format!("take `{site}` out of `{id}`")),
        Request::SiteBranch { id, site, .. } => (Need::Use(id), format!("bring `{site}` of `{id}` to another branch")),
        Request::SiteList { .. } => (Need::Nothing, String::new()),

        Request::BoxList { .. } => (Need::Nothing, String::new()),
        Request::BoxBuild { .. } => (Need::Nothing, String::new()),
        Request::BoxShow { .. } => (Need::Nothing, String::new()),
        Request::BoxPrune { .. } => (Need::Nothing, String::new()),

        Request::TargetList { .. } => (Need::Nothing, String::new()),
        // The person's own ssh goes there, with their keys.
        Request::TargetCheck(_) | Request::TargetHistory(_) | Request::TargetAccess(_) => (Need::Nothing, String::new()),
        Request::TargetAdmit { .. } => (Need::Nothing, String::new()),
        Request::EnvRollback { .. } => (Need::Nothing, String::new()),
        Request::EnvPromote { id, .. } => (Need::Use(id), format!("promote `{id}`")),
        // It makes a machine that is a host, on whose disk everything of the ticket's boxes is, under a name that all share.
        Request::TargetRehearse { .. } => (Need::Root, "rehearse a target".to_owned()),
    };
    (need, deed)
}

impl Engine {
    /// Whether the caller may have a request answered.
    pub(in crate::engine) fn permit(&self, request: &Request) -> Result<(), Failure> {
        if self.caller.authority == Authority::Root {
            return Ok(());
        }
        let (need, deed) = need(request);
        if self.caller.account.is_none() {
            // Nobody's rights would be root's.
            return Err(self.only_root(&deed));
        }
        match need {
            Need::Nothing => Ok(()),
            Need::Use(id) => self.permit_use(id, &deed),
            Need::Own(id) => self.permit_own(id, &deed),
            // One that is not there is told by the verb.
            Need::Fleet(platform, _) if self.store.database.platform(platform)?.is_none() => Ok(()),
            Need::Fleet(platform, names) => {
                for environment in self.chosen(platform, names)? {
                    self.is_theirs_or_shared(&environment, &format!("destroy `{}`", environment.id))?;
                }
                if names.is_empty() { self.permit_platform(platform, &deed) } else { Ok(()) }
            }
            Need::Platform(platform) => self.permit_platform(platform, &deed),
            Need::Root => Err(self.only_root(&deed)),
        }
    }

    /// The machine, for whoever may be in it: programs that need the caller's own terminal or files can't travel as a request.
    pub fn enter(&self, id: &EnvironmentId, machine: &MachineName) -> Result<MachineId, Failure> {
        if self.caller.authority == Authority::Member && id.platform.as_str() == WORKSHOP {
            // It builds a box, which other people's environments stand on.
            return Err(self.only_root(&format!("enter `{id}`")));
        }
        self.permit_use(id, &format!("enter `{id}`"))?;
        self.machine(id, machine)
    }

    /// Again for one that the caller has the lock of: while they waited for it, the name may have become another's.
    pub(in crate::engine) fn still_permit(&self, environment: &Environment, right: Right) -> Result<(), Failure> {
        if self.caller.authority == Authority::Root {
            return Ok(());
        }
        self.write_down_owner(environment)?;
        let deed = format!("work on `{}`", environment.id);
        match right {
            Right::Run => Ok(()),
            Right::Use => self.is_theirs_or_shared(environment, &deed),
            Right::Own => self.is_theirs_alone(environment, &deed),
        }
    }

    fn permit_use(&self, id: &EnvironmentId, deed: &str) -> Result<(), Failure> {
        match self.record_for(id)? {
            Some(environment) => self.is_theirs_or_shared(&environment, deed),
            // What is not there is told by the verb.
            None => Ok(()),
        }
    }

    fn permit_own(&self, id: &EnvironmentId, deed: &str) -> Result<(), Failure> {
        match self.record_for(id)? {
            Some(environment) => self.is_theirs_alone(&environment, deed),
            None => Ok(()),
        }
    }

    fn is_theirs_alone(&self, environment: &Environment, deed: &str) -> Result<(), Failure> {
        let owner = &environment.owner;
        if self.is_theirs(owner) {
            return Ok(());
        }
        Err(belongs(deed, owner).hint(format!("ask `{}` to do it, or use sudo", owner.name)))
    }

    fn is_theirs_or_shared(&self, environment: &Environment, deed: &str) -> Result<(), Failure> {
        if environment.shared || self.is_theirs(&environment.owner) {
            return Ok(());
        }
        let (owner, EnvironmentId { platform, name }) = (&environment.owner, &environment.id);
        let hint = format!("ask `{}` to share it with `adt env:share {platform} {name}`, or use sudo", owner.name);
        Err(belongs(deed, owner).hint(hint))
    }

    fn record_for(&self, id: &EnvironmentId) -> Result<Option<Environment>, Failure> {
        if self.caller.authority == Authority::Root {
            return Ok(None);
        }
        Ok(self.store.database.environment(id)?)
    }

    /// Whether the caller is this owner. One whose id nobody wrote down is known by name.
    fn is_theirs(&self, owner: &Owner) -> bool {
        match (owner.user, &self.caller.account) {
            (Some(user), Some(account)) => user == account.user,
            (None, _) => owner.name == self.caller.user,
            (Some(_), None) => false,
        }
    }

    /// An earlier adt knew its persons by name alone. As soon as the one who has the name now comes, it is written down who that
    /// is, so that nobody gets the environment with the name.
    fn write_down_owner(&self, environment: &Environment) -> Result<(), Failure> {
        match &self.caller.account {
            Some(account) if environment.owner.user.is_none() && self.is_theirs(&environment.owner) => {
                Ok(self.store.database.set_owner_user(&environment.id, account.user)?)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn permit_platform(&self, name: &PlatformName, deed: &str) -> Result<(), Failure> {
        let Some(record) = self.store.database.platform(name)? else { return Ok(()) };
        self.has_folder(&record, deed)
    }

    /// Whether a platform's folder is the caller's.
    pub(in crate::engine) fn has_folder(&self, record: &PlatformRecord, deed: &str) -> Result<(), Failure> {
        if self.caller.authority == Authority::Root {
            return Ok(());
        }
        let keeper = self.keeper(record).map(|keeper| keeper.user);
        if keeper == self.caller.account.as_ref().map(|account| account.user) {
            return Ok(());
        }
        let folder = record.folder.display();
        Err(Failure::new(Kind::Privilege, deed)
            .cause(format!("its folder `{folder}` is not yours"))
            .hint("ask the one whose folder it is, or use sudo"))
    }

    /// For what nobody is known to own.
    pub(in crate::engine) fn only_root(&self, deed: &str) -> Failure {
        Failure::new(Kind::Privilege, deed).cause("only root may").hint("run the same command with `sudo`")
    }
}

/// What a verb that holds an environment's lock does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Right {
    /// Makes, starts or stops it.
    Run,
    /// Changes it, or ends it.
    Use,
    /// Says who may do that.
    Own,
}

fn belongs(deed: &str, owner: &Owner) -> Failure {
    Failure::new(Kind::Privilege, deed).cause(format!("it belongs to `{}`", owner.name))
}
