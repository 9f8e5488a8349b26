//! Credentials of an environment: random, the same for its whole life, no other environment's, gone with it.
//!
//! An environment has one random key in `secrets/<platform>/<environment>.key`, made once, and each of its secrets is derived
//! from the key and the secret's name. So a new name needs no write, two commands never disagree, and what a crash leaves is
//! a whole key or none. Not chosen: a file of passwords, which would have to be rewritten for each new name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;

use super::{Error, PRIVATE, Result};
use crate::disk;
use crate::model::EnvironmentId;

/// Of 62 characters, so 190 bits.
const LENGTH: usize = 32;
const KEY: usize = 32;

/// The keys of all environments.
#[derive(Debug)]
pub struct Keys {
    folder: PathBuf,
}

/// The secrets of one environment. Neither this nor what it gives can be printed or stored by accident.
pub struct Secrets {
    key: hmac::Key,
}

impl Keys {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, id: &EnvironmentId) -> PathBuf {
        self.folder.join(id.platform.as_str()).join(format!("{}.key", id.name))
    }

    /// Makes the environment's key where it has none. The caller holds the environment's lock.
    pub fn ensure(&self, id: &EnvironmentId) -> Result<()> {
        if self.exists(id) { Ok(()) } else { self.adopt(id, &random()) }
    }

    /// The key itself, for another host that carries a part of the environment. It is made where there is none.
    pub fn share(&self, id: &EnvironmentId) -> Result<[u8; KEY]> {
        self.ensure(id)?;
        self.known(id)?.ok_or_else(|| Error::BadKey { path: self.path(id) })
    }

    /// Takes the key of an environment that has its first part on another host. The caller holds the environment's lock.
    pub fn adopt(&self, id: &EnvironmentId, key: &[u8; KEY]) -> Result<()> {
        let path = self.path(id);
        let folder = path.parent().expect("a key lies in its platform's folder");
        let written = disk::make_folders(folder, PRIVATE).and_then(|()| disk::File::at(&path).write(key));
        written.map_err(|source| Error::Io { what: "write the key", path: path.clone(), source })
    }

    /// What an environment without a key gets is good for this once: a dry run shows a plan and leaves nothing.
    pub fn of(&self, id: &EnvironmentId) -> Result<Secrets> {
        Ok(Secrets::new(&self.known(id)?.unwrap_or_else(random)))
    }

    fn known(&self, id: &EnvironmentId) -> Result<Option<[u8; KEY]>> {
        let path = self.path(id);
        match read(&path) {
            Ok(Some(key)) => Ok(Some(key)),
            Ok(None) => Err(Error::BadKey { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { what: "read the key", path, source }),
        }
    }

    /// Whether an environment has a key already.
    pub fn exists(&self, id: &EnvironmentId) -> bool {
        self.path(id).exists()
    }

    /// Takes the environment's secrets away; none is fine.
    pub fn forget(&self, id: &EnvironmentId) -> Result<()> {
        let path = self.path(id);
        disk::remove(&path).map_err(|source| Error::Io { what: "remove the key", path: path.clone(), source })?;
        if let Some(folder) = path.parent() {
            // Other environments' keys may still be in there.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

impl Secrets {
    fn new(key: &[u8; KEY]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Letters and digits only: good in a URL, in SQL, in a shell and in a file of any format.
    pub fn get(&self, name: &str) -> SecretString {
        const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(LENGTH);
        for round in 0_u32.. {
            let mut message = round.to_be_bytes().to_vec();
            message.extend_from_slice(name.as_bytes());
            // Bytes from 248 on would make the first letters likelier than the others.
            let fair = hmac::sign(&self.key, &message);
            let letters = fair.as_ref().iter().filter(|byte| **byte < 248).map(|byte| LETTERS[usize::from(byte % 62)]);
            text.extend(letters.take(LENGTH - text.len()).map(char::from));
            if text.len() == LENGTH {
                break;
            }
        }
        text.into()
    }
}

fn random() -> [u8; KEY] {
    let mut key = [0; KEY];
    SystemRandom::new().fill(&mut key).expect("the kernel has random bytes once the host has booted");
    key
}

/// `None`: the file does not hold a key.
fn read(path: &Path) -> io::Result<Option<[u8; KEY]>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.try_into().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn id(name: &str) -> EnvironmentId {
        EnvironmentId { platform: "shop".parse().unwrap(), name: name.parse().unwrap() }
    }

    #[test]
    fn a_secret_stays_with_its_environment_and_leaves_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path().join("secrets"));
        let get = |environment: &str, name: &str| keys.of(&id(environment)).unwrap().get(name).expose_secret().to_owned();
        for name in ["1", "2"] {
            keys.ensure(&id(name)).unwrap();
            keys.ensure(&id(name)).unwrap();
        }
        let first = get("1", "db");
        assert_eq!(first.len(), LENGTH);
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{first}");
        assert_eq!(first, get("1", "db"));
        assert!(first != get("2", "db") && first != get("1", "mail"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&keys.path(&id("1"))), mode(folder.path().join("secrets").as_path())), (0o600, 0o700));
        keys.forget(&id("1")).unwrap();
        keys.forget(&id("1")).unwrap();
        keys.forget(&id("2")).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("secrets")).unwrap().count(), 0);
        keys.ensure(&id("1")).unwrap();
        assert_ne!(first, get("1", "db"));
    }

    #[test]
    fn a_cut_key_is_named_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path().to_owned());
        keys.ensure(&id("1")).unwrap();
        fs::write(keys.path(&id("1")), "short").unwrap();
        keys.ensure(&id("1")).unwrap();
        assert!(matches!(keys.of(&id("1")), Err(Error::BadKey { .. })));
    }
}
