//! Where authorities were put, so that each is found again: platforms go with their domains, settings change, and other users
//! bind too.
//!
//! `<store>/trusted.json` names a place before anything is put there, and as long as something may be left there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Change, Error, Home, Owner, Result, System};
use crate::disk;
use crate::model::Domain;

/// The authority of a domain in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub domain: Domain,
    /// Whose browsers trust it; the system's own store without one.
    pub home: Option<PathBuf>,
}

impl Place {
    pub fn install(&self, owner: Owner<'_>, pem: &str) -> Result<Change> {
        match &self.home {
            None => System::find()?.install(owner, &self.domain, pem),
            Some(home) => Home::open(home)?.install(owner, &self.domain, pem),
        }
    }

    pub fn remove(&self, owner: Owner<'_>) -> Result<Change> {
        match &self.home {
            None => System::find()?.remove(owner, &self.domain),
            // It took its browsers along.
            Some(home) if !home.exists() => Ok(Change::Nothing),
            Some(home) => Home::open(home)?.remove(owner, &self.domain),
        }
    }
}

/// All places that this store knows of.
#[derive(Debug)]
pub struct Installed {
    path: PathBuf,
    places: Vec<Place>,
}

impl Installed {
    pub fn open(store: &Path) -> Result<Self> {
        let path = store.join("trusted.json");
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(Into::into),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        match read {
            Ok(places) => Ok(Self { path, places }),
            Err(source) => Err(Error::Io { what: "read", path, source }),
        }
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Before the authority is put there.
    pub fn add(&mut self, place: &Place) -> Result<()> {
        if self.places.contains(place) {
            return Ok(());
        }
        self.places.push(place.clone());
        self.keep()
    }

    /// Once nothing is left there.
    pub fn forget(&mut self, place: &Place) -> Result<()> {
        let before = self.places.len();
        self.places.retain(|known| known != place);
        if self.places.len() == before { Ok(()) } else { self.keep() }
    }

    fn keep(&self) -> Result<()> {
        self.write().map_err(|source| Error::Io { what: "write", path: self.path.clone(), source })
    }

    fn write(&self) -> std::io::Result<()> {
        if self.places.is_empty() {
            return std::fs::remove_file(&self.path);
        }
        disk::File::at(&self.path).write(serde_json::to_vec_pretty(&self.places)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_until_nothing_is_left_there() {
        let store = tempfile::tempdir().unwrap();
        let place = |domain: &str, home: Option<&str>| Place { domain: domain.parse().unwrap(), home: home.map(Into::into) };
        let (system, browser) = (place("one.test", None), place("two.test", Some("/home/ada")));
        let mut installed = Installed::open(store.path()).unwrap();
        for place in [&system, &browser, &system] {
            installed.add(place).unwrap();
        }
        let mut installed = Installed::open(store.path()).unwrap();
        assert_eq!(installed.places(), [system.clone(), browser.clone()]);
        installed.forget(&system).unwrap();
        installed.forget(&system).unwrap();
        assert_eq!(Installed::open(store.path()).unwrap().places(), std::slice::from_ref(&browser));
        installed.forget(&browser).unwrap();
        assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 0);
        std::fs::write(store.path().join("trusted.json"), "[").unwrap();
        assert!(Installed::open(store.path()).is_err());
    }
}
