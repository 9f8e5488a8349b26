//! The store that OpenSSL, curl, git and most languages read.

use std::path::{Path, PathBuf};

use super::{Change, Error, Owner, Result};
use crate::disk;
use crate::exec::Command;
use crate::model::Domain;

/// A folder of certificates and the command that makes them known.
#[derive(Debug, Clone)]
pub struct System {
    pub folder: PathBuf,
    pub refresh: Command,
}

impl System {
    /// The one of this host: Debian's and its children's, or Fedora's and its.
    pub fn find() -> Result<Self> {
        let debian = ("/usr/local/share/ca-certificates", Command::new("update-ca-certificates"));
        let fedora = ("/etc/pki/ca-trust/source/anchors", Command::new("update-ca-trust"));
        let looked = format!("`{}`, `{}`", debian.0, fedora.0);
        let found = [debian, fedora].into_iter().find(|(folder, _)| Path::new(folder).is_dir());
        let (folder, refresh) = found.ok_or(Error::NoStore { looked })?;
        Ok(Self { folder: folder.into(), refresh })
    }

    fn file(&self, owner: Owner<'_>, domain: &Domain) -> PathBuf {
        self.folder.join(format!("adt-{}-{domain}.crt", owner.install))
    }

    /// The file of another installation that has the same domain here.
    pub fn of_another(&self, owner: Owner<'_>, domain: &Domain) -> Option<PathBuf> {
        let end = format!("-{domain}.crt");
        let is_another = |name: &str| {
            let install = name.strip_prefix("adt-").and_then(|rest| rest.strip_suffix(&end));
            install.is_some_and(|id| id != owner.install && id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let mut entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.find(|entry| entry.file_name().to_str().is_some_and(is_another)).map(|entry| entry.path())
    }

    /// As an earlier adt named it, which is nobody's name; the file is there if it is the owner's.
    fn unnamed(&self, owner: Owner<'_>, domain: &Domain) -> Option<PathBuf> {
        let path = self.folder.join(format!("adt-{domain}.crt"));
        std::fs::read_to_string(&path).is_ok_and(|pem| (owner.is_own)(domain, &pem)).then_some(path)
    }

    pub fn trusts(&self, owner: Owner<'_>, domain: &Domain, pem: &str) -> bool {
        std::fs::read_to_string(self.file(owner, domain)).is_ok_and(|text| text == pem)
    }

    /// The one file that holds all that is trusted, for programs that read it themselves.
    pub fn bundle(&self) -> PathBuf {
        let fedora = self.folder.starts_with("/etc/pki");
        PathBuf::from(if fedora { "/etc/pki/tls/certs/ca-bundle.crt" } else { "/etc/ssl/certs/ca-certificates.crt" })
    }

    pub fn install(&self, owner: Owner<'_>, domain: &Domain, pem: &str) -> Result<Change> {
        let unnamed = self.unnamed(owner, domain);
        if self.trusts(owner, domain, pem) && unnamed.is_none() {
            return Ok(Change::Nothing);
        }
        let path = self.file(owner, domain);
        let io = |source| Error::Io { what: "write", path: path.clone(), source };
        // Every user's programs read it.
        disk::File::at(&path).mode(0o644).write(pem).map_err(io)?;
        unnamed.iter().try_for_each(|path| remove(path).map(drop))?;
        // The next call has to refresh if this one did not get that far.
        self.refresh().inspect_err(|_| drop(std::fs::remove_file(&path)))
    }

    pub fn remove(&self, owner: Owner<'_>, domain: &Domain) -> Result<Change> {
        let mut removed = false;
        for path in std::iter::once(self.file(owner, domain)).chain(self.unnamed(owner, domain)) {
            removed |= remove(&path)?;
        }
        if removed { self.refresh() } else { Ok(Change::Nothing) }
    }

    fn refresh(&self) -> Result<Change> {
        let failed = |source| Error::Program { whose: "this host".to_owned(), source };
        self.refresh.run().map(|_| Change::Made).map_err(failed)
    }
}

/// Says whether it was there.
fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io { what: "remove", path: path.to_owned(), source }),
    }
}
