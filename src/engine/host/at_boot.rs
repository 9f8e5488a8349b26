//! What becomes of environments when their host goes down, and when it is back. systemd knows nothing of machines: it would ask
//! their inits in a way that these take for something else, wait for its deadline, and kill them all. So `adt-environments.service`
//! ([`super::service`]) halts them before, and brings them back unless the setting `bring_back` is
//! `false`.
//!
//! What is wanted of an environment stays as it is: down, it looks as after a power cut, and `platform:up` finds it.

use crate::engine::permission::Right;
use crate::engine::{Engine, Events};
use crate::model::Failure;
use crate::store::{Environment, Wanted};

impl Engine {
    /// Halts all that runs.
    pub fn before_the_host_goes_down(&self) -> Result<(), Failure> {
        let events = Events::unread();
        let halt = |environment: &Environment| {
            let _lock = self.lock_environment(&environment.id, Right::Run, &events)?;
            let environment = self.environment(&environment.id)?;
            self.lower(&environment, environment.wanted, false, &events).map(drop)
        };
        self.each(&self.readable_environments(None)?.sound, &halt).map(drop)
    }

    /// Starts what was up.
    pub fn after_the_host_came_up(&self) -> Result<(), Failure> {
        if !self.settings.bring_back.value {
            return Ok(());
        }
        let events = Events::unread();
        let mut was_up = self.readable_environments(None)?.sound;
        was_up.retain(|environment| environment.wanted == Wanted::Up);
        self.each(&was_up, &|environment| self.env_up(&environment.id, false, &events).map(drop)).map(drop)
    }
}
