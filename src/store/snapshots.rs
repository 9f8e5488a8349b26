//! What an environment was at the moment of each of its snapshots: one file of JSON for each, beside nothing else.
//!
//! The provider has the machines' files; the record is written after these and removed before them. So a snapshot that has a
//! record is whole, and what has none is swept away.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::Definition;
use super::{Error, PRIVATE, Result, SiteCode, make_folder};
use crate::disk;
use crate::model::snapshot::Reason;
use crate::model::{EnvironmentId, EnvironmentName, PlatformName, SiteName, SnapshotName};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub name: SnapshotName,
    /// Seconds since 1970.
    pub taken: i64,
    pub reason: Reason,
    pub definition: Definition,
    pub codes: BTreeMap<SiteName, SiteCode>,
    /// The working trees of its sites.
    #[serde(default)]
    pub works: BTreeMap<SiteName, Work>,
}

/// Where a working tree stood, and the commit in its repository that has its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// `None` is a commit without a branch.
    pub branch: Option<String>,
    /// `None` is a branch that has none yet.
    pub commit: Option<String>,
    pub files: String,
}

#[derive(Debug, Clone)]
pub struct Snapshots {
    folder: PathBuf,
}

impl Snapshots {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn of(&self, id: &EnvironmentId) -> PathBuf {
        self.folder.join(id.platform.as_str()).join(id.name.as_str())
    }

    fn path(&self, id: &EnvironmentId, name: &SnapshotName) -> PathBuf {
        self.of(id).join(format!("{name}.json"))
    }

    /// The snapshots of an environment, the oldest first.
    pub fn list(&self, id: &EnvironmentId) -> Result<Vec<Snapshot>> {
        let folder = self.of(id);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::Io { what: "read", path: folder, source }),
        };
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read(&path).map_err(|source| Error::Io { what: "read", path: path.clone(), source })?;
            let snapshot: Snapshot =
                serde_json::from_slice(&text).map_err(|error| Error::BadSnapshot { path, what: error.to_string() })?;
            all.push(snapshot);
        }
        all.sort_by(|a, b| (a.taken, &a.name).cmp(&(b.taken, &b.name)));
        Ok(all)
    }

    /// Those of all environments.
    pub fn all(&self) -> Result<Vec<(EnvironmentId, Snapshot)>> {
        let names = |folder: PathBuf| {
            fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
        };
        let mut all = Vec::new();
        for platform in names(self.folder.clone()) {
            for name in names(self.folder.join(&platform)) {
                let (Ok(platform), Ok(name)) = (PlatformName::new(platform.clone()), EnvironmentName::new(name)) else {
                    continue;
                };
                let id = EnvironmentId { platform, name };
                all.extend(self.list(&id)?.into_iter().map(|snapshot| (id.clone(), snapshot)));
            }
        }
        Ok(all)
    }

    pub fn add(&self, id: &EnvironmentId, snapshot: &Snapshot) -> Result<()> {
        make_folder(&self.folder, PRIVATE)?;
        make_folder(&self.of(id), PRIVATE)?;
        let path = self.path(id, &snapshot.name);
        let text = serde_json::to_vec_pretty(snapshot).expect("a snapshot is plain data");
        disk::File::at(&path).write(text).map_err(|source| Error::Io { what: "write", path, source })
    }

    /// One that is not there is fine.
    pub fn remove(&self, id: &EnvironmentId, name: &SnapshotName) -> Result<()> {
        let path = self.path(id, name);
        disk::remove(&path).map_err(|source| Error::Io { what: "remove", path, source })
    }

    /// All of an environment that goes.
    pub fn forget(&self, id: &EnvironmentId) -> Result<()> {
        let folder = self.of(id);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { what: "remove", path: folder, source: error })
            }
            _ => {
                // Other environments' may still be there.
                let _ = folder.parent().map(fs::remove_dir);
                Ok(())
            }
        }
    }
}
