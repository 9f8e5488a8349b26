//! What an environment of a target was, promotion by promotion: one file of JSON for each environment, on the target's own server.
//!
//! A promotion is written down before anything is done, with the definition that it brings, and once more when it went well. So a
//! killed one is known as such, and whoever comes next can go on or go back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::Definition;
use super::{Error, PRIVATE, Result};
use crate::disk;
use crate::model::EnvironmentId;
use crate::model::target::Promoted;

/// So many are remembered.
const MOST: usize = 100;
/// So many of these with their definitions, whose layers stay: the newest.
const KEPT: usize = 5;

/// One promotion, and what it brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub told: Promoted,
    /// As it came from the operator. `None` once it is too old to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
}

#[derive(Debug)]
pub struct Promotions {
    folder: PathBuf,
}

impl Promotions {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, id: &EnvironmentId) -> PathBuf {
        self.folder.join(id.platform.as_str()).join(format!("{}.json", id.name))
    }

    /// Those of one environment, the oldest first.
    pub fn list(&self, id: &EnvironmentId) -> Result<Vec<Entry>> {
        read(&self.path(id))
    }

    /// Replaces what is known of one environment. The caller holds its lock.
    pub fn put(&self, id: &EnvironmentId, mut entries: Vec<Entry>) -> Result<()> {
        entries.drain(..entries.len().saturating_sub(MOST));
        let old = entries.len().saturating_sub(KEPT);
        entries[..old].iter_mut().for_each(|entry| entry.definition = None);
        let path = self.path(id);
        let text = serde_json::to_vec_pretty(&entries).expect("records have string keys only, so they become JSON");
        let folder = path.parent().expect("a record lies in its platform's folder");
        let written = disk::make_folders(folder, PRIVATE).and_then(|()| disk::File::at(&path).mode(0o600).write(text));
        written.map_err(|source| Error::Io { what: "write", path: path.clone(), source })
    }

    /// The definitions that somebody could go back to, of all environments.
    pub fn definitions(&self) -> Result<Vec<Definition>> {
        let mut all = Vec::new();
        for platform in entries(&self.folder)? {
            for file in entries(&platform)? {
                all.extend(read(&file)?.into_iter().filter_map(|entry| entry.definition));
            }
        }
        Ok(all)
    }

    /// The environment is gone, and with it what it was.
    pub fn forget(&self, id: &EnvironmentId) -> Result<()> {
        let path = self.path(id);
        disk::remove(&path).map_err(|source| Error::Io { what: "remove", path: path.clone(), source })?;
        if let Some(folder) = path.parent() {
            // Those of other environments may still be in there.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { what: "read", path: folder.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<Vec<Entry>> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|error| Error::BadPromotions { path: path.to_owned(), what: error.to_string() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { what: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target::Deed;

    #[test]
    fn the_newest_keep_what_they_brought_and_old_ones_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let promotions = Promotions::new(folder.path().join("promotions"));
        let id = EnvironmentId { platform: "shop".parse().unwrap(), name: "production".parse().unwrap() };
        assert_eq!((promotions.list(&id).unwrap(), promotions.definitions().unwrap()), (Vec::new(), Vec::new()));
        let text = r#"{"platform":{"name":"shop","summary":"","domain":null,"machines":[],"sites":[],"folder":""},"domain":"example.test","boxes":{},"numbers":{}}"#;
        let entry = |begun| Entry {
            told: Promoted {
                begun,
                finished: None,
                by: "ada@laptop".into(),
                deed: Deed::Promote { from: id.clone() },
                definition: crate::model::Digest::from_bytes(&[7; 32]),
            },
            definition: Some(serde_json::from_str(text).unwrap()),
        };
        promotions.put(&id, (0..150).map(entry).collect()).unwrap();
        let all = promotions.list(&id).unwrap();
        assert_eq!((all.len(), all[0].told.begun), (MOST, 50));
        assert_eq!(all.iter().filter(|entry| entry.definition.is_some()).count(), KEPT);
        assert_eq!(all.last(), Some(&entry(149)));
        assert_eq!(promotions.definitions().unwrap().len(), KEPT);
        promotions.forget(&id).unwrap();
        promotions.forget(&id).unwrap();
        assert!(promotions.list(&id).unwrap().is_empty());
    }
}
