//! `env:share`: whose an environment is, and whom they let in. What that allows is decided in [`crate::engine::permission`].

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::exec::Account;
use crate::model::response::Done;
use crate::model::{EnvironmentId, EnvironmentName, Failure, Kind, PlatformName, Response};
use crate::sources::git::Person;
use crate::store::Owner;

impl Engine {
    pub(in crate::engine) fn env_share(&self, id: &EnvironmentId, shared: bool, events: &Events) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Own, events)?;
        let environment = self.environment(id)?;
        let changed = environment.shared != shared;
        if changed {
            self.store.database.set_shared(id, shared)?;
        }
        let state = if shared { "shared: everybody in the group `adt` may do with it what its owner may" } else { "not shared" };
        let already = if changed { "" } else { " already" };
        Ok(Response::Done(Done { summary: format!("`{id}` is{already} {state}"), changed, ..Done::default() }))
    }

    /// Removes a record of which nothing else can be there: what has no name has no machine, network or folder.
    pub(in crate::engine) fn forget_nameless(&self, platform: &str, environment: Option<&str>) -> Result<Response, Failure> {
        let named = platform.parse::<PlatformName>().is_ok();
        let (gone, what) = match environment {
            Some(name) if named && name.parse::<EnvironmentName>().is_ok() => (false, format!("{platform}/{name}")),
            Some(name) => (self.store.database.forget_record(platform, name)?, format!("{platform}/{name}")),
            None if named => (false, platform.to_owned()),
            None => (self.store.database.forget_nameless_platform(platform)?, platform.to_owned()),
        };
        if !gone {
            return Err(Failure::new(Kind::NotFound, format!("find a damaged record of `{what}`"))
                .hint("`adt env:list` and `adt platform:list` show what is there"));
        }
        self.remember("destroyed", &what);
        let summary = format!("the record of `{what}` is removed; it had no valid name, so nothing else was there");
        Ok(Response::Done(Done { summary, changed: true, ..Done::default() }))
    }

    /// For whom git works in the folder of an environment: that stays its owner's, whoever else uses the environment.
    pub(in crate::engine) fn person_of(&self, owner: Option<u32>) -> Person {
        let caller = self.person();
        match owner {
            None => caller,
            Some(owner) if owner == caller.user() => Person { only: true, ..caller },
            Some(owner) => {
                let account = (owner != 0).then(|| Account::of(owner));
                Person { account, home: None, only: true, ..caller }
            }
        }
    }

    /// Whom a new environment belongs to.
    pub(in crate::engine) fn owner_to_be(&self) -> Owner {
        let user = self.caller.account.as_ref().map_or(0, |account| account.user);
        Owner { name: self.caller.user.clone(), user: Some(user) }
    }
}
