//! The environments of the store, told apart from those that adt makes for itself and those that are on their way out.

use crate::engine::Engine;
use crate::model::{EnvironmentId, Failure, Kind, PlatformName};
use crate::store::{Environment, Readable};

/// Box builds run as environments of this platform; no user's platform may have its name.
pub(in crate::engine) const WORKSHOP: &str = "box";

impl Engine {
    /// The environments that a user sees: without the ones in which boxes are built.
    pub(in crate::engine) fn environments(&self, platform: Option<&PlatformName>) -> Result<Vec<Environment>, Failure> {
        let mut all = self.store.database.environments(platform)?;
        all.retain(|environment| environment.id.platform.as_str() != WORKSHOP);
        Ok(all)
    }

    /// The same for listings, with what can't be read beside it.
    pub(in crate::engine) fn readable_environments(&self, platform: Option<&PlatformName>) -> Result<Readable, Failure> {
        let mut readable = self.store.database.readable_environments(platform)?;
        readable.sound.retain(|environment| environment.id.platform.as_str() != WORKSHOP);
        Ok(readable)
    }
}

/// Why nothing else is done to an environment that an interrupted destroy left.
pub(in crate::engine) fn leaving(id: &EnvironmentId, verb: &str) -> Failure {
    Failure::new(Kind::Conflict, format!("{verb} `{id}`"))
        .cause("its destroy was interrupted")
        .hint(format!("finish it with `adt env:destroy {} {}`", id.platform, id.name))
}
