//! Who may reach this server, where it is a target's: what is kept, and a change that is on trial.
//!
//! A change is kept only when somebody has come in over a new connection since. Until then it is beside what was kept, so whoever
//! finds it, after a restart too, knows what to go back to.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Error, Result, Store};
use crate::disk;
use crate::model::access::Access;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    #[serde(default)]
    pub kept: Access,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Which one it is, so that nobody ends another.
    pub number: u64,
    pub access: Access,
    /// What is being tried, in words.
    pub what: String,
    pub by: String,
}

impl Doors {
    pub fn read(store: &Store) -> Result<Self> {
        let path = path(store);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| Error::BadDoors { path, what: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::Io { what: "read", path, source }),
        }
    }

    /// One that says nothing is no file.
    pub fn write(&self, store: &Store) -> Result<()> {
        let path = path(store);
        let written = if *self == Self::default() {
            disk::remove(&path)
        } else {
            let text = serde_json::to_vec_pretty(self).expect("its keys are strings, so it becomes JSON");
            disk::File::at(&path).mode(0o600).write(text)
        };
        written.map_err(|source| Error::Io { what: "write", path, source })
    }
}

fn path(store: &Store) -> PathBuf {
    store.folder.join("access.json")
}
