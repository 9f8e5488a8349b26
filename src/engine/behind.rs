//! What is better done once nobody waits any more: mirrors and spare checkouts, and trees that commands put aside. It outlives whoever
//! starts it, and what of it is killed is done by the next.

use super::Engine;
use super::permission::Authority;
use super::program;
use crate::exec::Command;
use crate::model::{Failure, PlatformName, Request};
use crate::sources::checkout;

/// Tells a command that starts as root for a person that these are a member's rights. It only takes rights away.
pub const FOR_MEMBER: &str = "ADT_FOR_MEMBER";

impl Engine {
    /// After a request that went well.
    pub fn refresh_behind(&self, request: &Request) -> Result<(), Failure> {
        let (is_of_use, built) = match request {
            Request::EnvInit { id, dry_run: false, .. }
            | Request::EnvUp { id, dry_run: false }
            | Request::SiteAdd { id, dry_run: false, .. }
            | Request::SiteBranch { id, dry_run: false, .. } => (self.has_live_sites(id)?, None),
            Request::PlatformBuild { platform, .. } => (self.will_have_live_sites(platform), Some(platform)),
            _ => (false, None),
        };
        if !is_of_use {
            return Ok(());
        }
        let store = &self.store.folder;
        let command = Command::new(program()?).arg("internal:sources").arg("--store").arg(store);
        let command = self.for_caller(command.args(built.map(PlatformName::as_str)));
        drop(command.detach(&store.join("cache/sources.log"))?);
        Ok(())
    }

    /// It works for the same person with the same rights.
    fn for_caller(&self, command: Command) -> Command {
        let ids = self.caller.account.as_ref().map(|account| (account.user.to_string(), account.group.to_string()));
        let (user, group) = ids.unwrap_or_default();
        let command = command.env("SUDO_USER", &self.caller.user).env("SUDO_UID", user).env("SUDO_GID", group);
        match self.caller.authority {
            Authority::Root => command,
            Authority::Member => command.env(FOR_MEMBER, "1"),
        }
    }

    /// Trees that commands put aside, this one or one before whose removal was killed.
    pub fn remove_behind(&self) {
        let platforms = self.store.database.platforms().unwrap_or_default();
        let trees: Vec<_> = platforms.iter().flat_map(|record| checkout::put_aside(&record.folder)).collect();
        if trees.is_empty() {
            return;
        }
        let remove = Command::new("rm").args(["--recursive", "--force", "--one-file-system", "--"]).args(trees);
        if let Err(error) = remove.detach(&self.store.folder.join("cache/remove.log")) {
            tracing::debug!(%error, "the next command tries again");
        }
    }
}
