//! A certificate that the team brought for one of its domains, e.g. from a public authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use super::{Error, Result, read, seconds};
use crate::model::Domain;

/// Checked: the key belongs to the certificate, it is valid today, and its names are the domain's.
#[derive(Debug)]
pub struct Own {
    pub certified: Arc<CertifiedKey>,
    /// Lower case; may begin with `*.`.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub begins: i64,
    pub ends: i64,
}

impl Own {
    /// Reads `<folder>/own/<domain>.{pem,key}`; `None` where a team brought none.
    pub fn open(folder: &Path, domain: &Domain, now: SystemTime) -> Result<Option<Self>> {
        let (path, key) = Self::files(folder, domain);
        let Some(pem) = read(&path)? else { return Ok(None) };
        let key = read(&key)?;
        let refused = |reason: String| Error::Own { path: path.clone(), reason };
        let key = key.ok_or_else(|| refused(format!("its key `{domain}.key` is not beside it")))?;
        Self::check(&pem, &key, domain, now).map(Some).map_err(refused)
    }

    /// Where a team puts its certificate, with what leads to an authority, and its key.
    pub fn files(folder: &Path, domain: &Domain) -> (PathBuf, PathBuf) {
        let path = folder.join("own").join(format!("{domain}.pem"));
        let key = path.with_file_name(format!("{domain}.key"));
        (path, key)
    }

    /// Says why a certificate can't be used, before it is put in its place.
    pub fn check(pem: &str, key: &str, domain: &Domain, now: SystemTime) -> std::result::Result<Self, String> {
        let own = Self::parse(pem, key, now)?;
        let inside = |name: &&String| {
            let name = name.trim_start_matches("*.");
            name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if !own.names.iter().any(|name| inside(&name)) {
            return Err(format!("none of its names is `{domain}` or below it: {}", own.names.join(", ")));
        }
        Ok(own)
    }

    /// Says why a certificate is worth nothing, whatever its names are.
    pub(super) fn parse(pem: &str, key: &str, now: SystemTime) -> std::result::Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| format!("it is not PEM: {error}"))?;
        let first = chain.first().ok_or("the file holds no certificate")?.clone();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("its key can't be read: {error}"))?;
        let key =
            rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| format!("its key can't be used: {error}"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&first).map_err(|error| format!("it is damaged: {error}"))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| "the key belongs to another certificate".to_owned())?;
        let validity = parsed.validity();
        if seconds(now) >= validity.not_after.timestamp() {
            return Err(format!("it ended on {}", validity.not_after));
        }
        if seconds(now) < validity.not_before.timestamp() {
            return Err(format!("it begins on {}", validity.not_before));
        }
        let (begins, ends) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { certified: Arc::new(certified), names: names(&parsed), begins, ends })
    }

    /// When two thirds of its time are over, in seconds since 1970.
    pub fn two_thirds(&self) -> i64 {
        self.begins + (self.ends - self.begins) / 3 * 2
    }

    /// Whether a client that asks for `name` would accept it.
    pub fn covers(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|known| known == name || known.strip_prefix("*.").is_some_and(|known| Some(known) == parent))
    }
}

fn names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let all = extension.iter().flat_map(|extension| &extension.value.general_names);
    all.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    })
    .collect()
}
