//! The store that OpenSSL, curl, git and most languages read.

use std::path::{Path, PathBuf};

use super::{Change, Error, Owner, Result};
use crate::disk;
use crate::exec::Command;
use crate::model::Domain;

/// What stands before a certificate is for people; every program that reads PEM skips it.
const STORE: &str = "# Of the adt with the store ";

fn text(owner: Owner<'_>, pem: &str) -> String {
    format!("{STORE}{}\n{pem}", owner.store.display().to_string().replace(char::is_control, "?"))
}

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

    /// The file of another installation that has the same domain here, and that one's store; an earlier adt did not write it.
    pub fn of_another(&self, owner: Owner<'_>, domain: &Domain) -> Option<(PathBuf, Option<String>)> {
        let end = format!("-{domain}.crt");
        let is_another = |name: &str| {
            let install = name.strip_prefix("adt-").and_then(|rest| rest.strip_suffix(&end));
            install.is_some_and(|id| id != owner.install && id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let mut entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let path = entries.find(|entry| entry.file_name().to_str().is_some_and(is_another))?.path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let store = text.strip_prefix(STORE).and_then(|rest| rest.lines().next()).map(str::to_owned);
        Some((path, store))
    }

    /// As an earlier adt named it, which is nobody's name; the file is there if it is the owner's.
    fn unnamed(&self, owner: Owner<'_>, domain: &Domain) -> Option<PathBuf> {
        let path = self.folder.join(format!("adt-{domain}.crt"));
        std::fs::read_to_string(&path).is_ok_and(|pem| (owner.is_own)(domain, &pem)).then_some(path)
    }

    pub fn trusts(&self, owner: Owner<'_>, domain: &Domain, pem: &str) -> bool {
        std::fs::read_to_string(self.file(owner, domain)).is_ok_and(|found| found.ends_with(pem))
    }

    /// The one file that holds all that is trusted, for programs that read it themselves.
    pub fn bundle(&self) -> PathBuf {
        let fedora = self.folder.starts_with("/etc/pki");
        PathBuf::from(if fedora { "/etc/pki/tls/certs/ca-bundle.crt" } else { "/etc/ssl/certs/ca-certificates.crt" })
    }

    /// The certificates, in PEM, of all whom this host believes; none where it has no such file.
    pub fn believed() -> Vec<u8> {
        Self::find().ok().and_then(|system| std::fs::read(system.bundle()).ok()).unwrap_or_default()
    }

    pub fn install(&self, owner: Owner<'_>, domain: &Domain, pem: &str) -> Result<Change> {
        let unnamed = self.unnamed(owner, domain);
        let (path, text) = (self.file(owner, domain), text(owner, pem));
        if unnamed.is_none() && std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            return Ok(Change::Nothing);
        }
        let io = |source| Error::Io { what: "write", path: path.clone(), source };
        // Every user's programs read it.
        disk::File::at(&path).mode(0o644).write(text).map_err(io)?;
        unnamed.iter().try_for_each(|path| remove(path).map(drop))?;
        // The next call has to refresh if this one did not get that far.
        self.refresh().inspect_err(|_| drop(std::fs::remove_file(&path)))
    }

    pub fn remove(&self, owner: Owner<'_>, domain: &Domain) -> Result<Change> {
        let mut removed = false;
        for path in std::iter::once(self.file(owner, domain)).chain(self.unnamed(owner, domain)) {
            removed |= remove(&path)?;
            self.remove_links(&path)?;
        }
        if removed { self.refresh() } else { Ok(Change::Nothing) }
    }

    /// Debian's command leaves the links to a certificate that is gone until another one comes.
    fn remove_links(&self, certificate: &Path) -> Result<()> {
        let bundle = self.bundle();
        let folder = bundle.parent().expect("a file is in a folder");
        let leading_to = |targets: &[PathBuf]| -> Vec<PathBuf> {
            let all = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            all.filter(|path| std::fs::read_link(path).is_ok_and(|target| targets.contains(&target))).collect()
        };
        let links = leading_to(&[certificate.to_owned()]);
        // Those by which OpenSSL finds it name the link beside them.
        let names: Vec<_> = links.iter().filter_map(|path| path.file_name()).map(PathBuf::from).collect();
        leading_to(&names).iter().chain(&links).try_for_each(|path| remove(path).map(drop))
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
