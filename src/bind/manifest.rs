//! `adt/manifest.json`: what adt wrote into a server's folder, so that a later run knows what is its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, File, Home, Owner, Result, Scope};
use crate::model::names::EnvironmentId;
use crate::model::route::Routes;

pub const NAME: &str = "manifest.json";
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The installation whose routes these are.
    #[serde(default)]
    pub owner: String,
    #[serde(default)]
    pub store: Option<PathBuf>,
    pub bound: Bound,
    pub files: Vec<String>,
}

/// Which environments a server's configuration is kept for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    All,
    Only(Vec<EnvironmentId>),
}

impl Bound {
    /// What is bound after `scope`; `before` is `None` where nothing is.
    pub fn after(before: Option<&Self>, scope: &Scope, routes: &Routes) -> Self {
        let there = || match before {
            None => Vec::new(),
            Some(Self::All) => routes.environments().map(|environment| environment.id.clone()).collect(),
            Some(Self::Only(ids)) => ids.clone(),
        };
        let sorted = |mut ids: Vec<EnvironmentId>| {
            ids.retain(|id| routes.environments().any(|environment| environment.id == *id));
            ids.sort();
            ids.dedup();
            Self::Only(ids)
        };
        match scope {
            Scope::All => Self::All,
            Scope::Add(_) if before == Some(&Self::All) => Self::All,
            Scope::Add(id) => sorted([there(), vec![id.clone()]].concat()),
            Scope::Remove(id) => sorted(there().into_iter().filter(|other| other != id).collect()),
            Scope::Again => before.map_or(Self::Only(Vec::new()), |bound| match bound {
                Self::All => Self::All,
                Self::Only(ids) => sorted(ids.clone()),
            }),
        }
    }

    pub fn holds(&self, id: &EnvironmentId) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.binary_search(id).is_ok(),
        }
    }

    /// The routes without what is not bound.
    pub fn of(&self, routes: &Routes) -> Routes {
        let mut routes = routes.clone();
        if matches!(self, Self::Only(_)) {
            for platform in &mut routes.platforms {
                platform.environments.retain(|environment| self.holds(&environment.id));
            }
            routes.platforms.retain(|platform| !platform.environments.is_empty());
        }
        routes
    }
}

impl Manifest {
    pub fn new(owner: Owner<'_>, bound: Bound, files: &[File]) -> Self {
        let files = files.iter().map(|file| file.path.clone()).collect();
        Self { format: FORMAT, owner: owner.install.to_owned(), store: Some(owner.store.to_owned()), bound, files }
    }

    pub fn file(&self) -> File {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest has nothing that JSON lacks");
        text.push('\n');
        super::file(NAME, text)
    }

    pub fn read(home: &Home) -> Result<Option<Self>> {
        Self::read_at(&home.adt().join(NAME))
    }

    fn read_at(path: &Path) -> Result<Option<Self>> {
        let bad = |what: String| Error::BadManifest { path: path.to_owned(), what };
        match std::fs::read(path) {
            Ok(bytes) => {
                let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
                if manifest.format == FORMAT { Ok(Some(manifest)) } else { Err(bad(format!("format {}", manifest.format))) }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }
}
