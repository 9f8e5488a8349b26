//! The store that OpenSSL, curl, git and most languages read.

use std::path::{Path, PathBuf};

use super::{Change, Error, Result};
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

    fn file(&self, domain: &Domain) -> PathBuf {
        self.folder.join(format!("adt-{domain}.crt"))
    }

    pub fn trusts(&self, domain: &Domain, pem: &str) -> bool {
        std::fs::read_to_string(self.file(domain)).is_ok_and(|text| text == pem)
    }

    /// The one file that holds all that is trusted, for programs that read it themselves.
    pub fn bundle(&self) -> PathBuf {
        let fedora = self.folder.starts_with("/etc/pki");
        PathBuf::from(if fedora { "/etc/pki/tls/certs/ca-bundle.crt" } else { "/etc/ssl/certs/ca-certificates.crt" })
    }

    pub fn install(&self, domain: &Domain, pem: &str) -> Result<Change> {
        use std::os::unix::fs::PermissionsExt;
        if self.trusts(domain, pem) {
            return Ok(Change::Nothing);
        }
        let path = self.file(domain);
        let io = |source| Error::Io { what: "write", path: path.clone(), source };
        let file = tempfile::NamedTempFile::new_in(&self.folder).map_err(io)?;
        std::fs::write(file.path(), pem).map_err(io)?;
        // Every user's programs read it.
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(io)?;
        file.persist(&path).map_err(|error| io(error.error))?;
        // The next call has to refresh if this one did not get that far.
        self.refresh().inspect_err(|_| drop(std::fs::remove_file(&path)))
    }

    pub fn remove(&self, domain: &Domain) -> Result<Change> {
        let path = self.file(domain);
        match std::fs::remove_file(&path) {
            Ok(()) => self.refresh(),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Change::Nothing),
            Err(source) => Err(Error::Io { what: "remove", path, source }),
        }
    }

    fn refresh(&self) -> Result<Change> {
        let failed = |source| Error::Program { whose: "this host".to_owned(), source };
        self.refresh.run().map(|_| Change::Made).map_err(failed)
    }
}
