//! Certificates that an authority of the world gave: one for all names of an environment, with its key in the same file.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Own, read};
use crate::model::EnvironmentId;

/// Where the certificate of an environment lies.
pub struct Given(PathBuf);

impl Given {
    pub fn of(store: &Path, id: &EnvironmentId) -> Self {
        Self::below(&store.join("tls"), id)
    }

    pub(super) fn below(folder: &Path, id: &EnvironmentId) -> Self {
        Self(folder.join("acme").join(format!("{}.{}.pem", id.platform, id.name)))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `None` where there is none that can be shown at this time.
    pub fn open(&self, now: SystemTime) -> Option<Own> {
        let text = read(&self.0).ok().flatten()?;
        Self::check(&text, now).ok()
    }

    /// Says why a file with this text could not be shown.
    pub fn check(text: &str, now: SystemTime) -> Result<Own, String> {
        Own::parse(text, text, now)
    }
}
