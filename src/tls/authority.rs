//! The authority of one domain.
//!
//! ```text
//! nothing ── key written ──▶ key only ── certificate written ──▶ whole
//! ```
//! Whatever a crash left is completed: the key that is there is kept, a certificate that is missing, spent or of another
//! key is made again. Two processes that start at once end with the same key, because the second to write keeps the first's.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::{BACKDATED, DAY, Error, Present, Result, instant, make_folder, read, seconds, write};
use crate::model::Domain;

const VALIDITY: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// A new one is made while leaves of the old still end before it does.
const SPENT_BEFORE: Duration = Duration::from_secs(180 * DAY.as_secs());

/// What signs leaves for one domain.
pub struct Authority {
    pub domain: Domain,
    /// What browsers are asked to trust.
    pub pem: String,
    pub path: PathBuf,
    /// There was another certificate until now, which did not do.
    pub is_renewed: bool,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("domain", &self.domain).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The certificate of a domain's authority, if it was made.
pub fn authority_pem(store: &Path, domain: &Domain) -> Result<Option<String>> {
    read(&store.join("tls").join("authority").join(format!("{domain}.pem")))
}

/// Whether a certificate is of the key that this store signs the domain's names with, e.g. an earlier one of its authority.
pub fn is_of_authority(store: &Path, domain: &Domain, pem: &str) -> bool {
    let key = read(&store.join("tls").join("authority").join(format!("{domain}.key")));
    let Some(key) = key.ok().flatten().and_then(|text| KeyPair::from_pem(&text).ok()) else { return false };
    is_of(pem, &key, |_| true)
}

/// Makes certificates anew that are worth nothing to anybody now, and says whose these were.
pub fn renew(store: &Path, now: SystemTime) -> Result<Vec<Domain>> {
    let tls = store.join("tls");
    let entries = std::fs::read_dir(tls.join("authority")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let domains = names.filter_map(|name| Domain::new(name.strip_suffix(".pem")?).ok());
    let mut renewed = Vec::new();
    for domain in domains {
        if Authority::open(&tls, &domain, now)?.is_renewed {
            renewed.push(domain);
        }
    }
    Ok(renewed)
}

impl Authority {
    /// Reads the domain's authority below `folder`, making what is missing of it.
    pub fn open(folder: &Path, domain: &Domain, now: SystemTime) -> Result<Self> {
        let folder = folder.join("authority");
        make_folder(&folder)?;
        let key = key(&folder.join(format!("{domain}.key")), domain)?;
        let path = folder.join(format!("{domain}.pem"));
        let found = read(&path)?;
        let is_renewed = found.as_ref().is_some_and(|pem| !fits(pem, &key, now));
        let pem = match found.filter(|_| !is_renewed) {
            Some(pem) => pem,
            None => {
                let made = parameters(domain, &key, now).self_signed(&key).map_err(|source| sign(domain, source))?.pem();
                write(&path, made.as_bytes(), Present::Replace)?;
                made
            }
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| Error::Own { path: path.clone(), reason: error.to_string() })?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|source| sign(domain, source))?;
        Ok(Self { domain: domain.clone(), pem, path, is_renewed, certificate, issuer })
    }
}

impl Authority {
    /// Whether a certificate says that it was signed by this authority's key; its name would be the same for any key.
    pub(super) fn is_named_by(&self, certificate: &X509Certificate<'_>) -> bool {
        let Ok((_, own)) = x509_parser::parse_x509_certificate(&self.certificate) else { return false };
        let own = own.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
        let signer = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
            _ => None,
        });
        own.is_some() && own == signer
    }
}

fn sign(domain: &Domain, source: rcgen::Error) -> Error {
    Error::Sign { name: domain.to_string(), source }
}

fn key(path: &Path, domain: &Domain) -> Result<KeyPair> {
    let readable = |text: &String| KeyPair::from_pem(text).is_ok();
    if let Some(text) = read(path)?.filter(readable) {
        return KeyPair::from_pem(&text).map_err(|source| sign(domain, source));
    }
    let made = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|source| sign(domain, source))?;
    // A file that is there but holds no key is worth nothing to anybody.
    let present = if path.exists() { Present::Replace } else { Present::Keep };
    write(path, made.serialize_pem().as_bytes(), present)?;
    let text = read(path)?.unwrap_or_default();
    KeyPair::from_pem(&text).map_err(|source| sign(domain, source))
}

fn fits(pem: &str, key: &KeyPair, now: SystemTime) -> bool {
    is_of(pem, key, |certificate| {
        let validity = certificate.validity();
        // One that was made while the clock was ahead is worth nothing until then, maybe for years.
        let has_begun = validity.not_before.timestamp() <= seconds(now);
        has_begun && validity.not_after.timestamp() > seconds(now + SPENT_BEFORE)
    })
}

fn is_of(pem: &str, key: &KeyPair, and: impl FnOnce(&X509Certificate<'_>) -> bool) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
    certificate.public_key().raw == key.subject_public_key_info() && and(&certificate)
}

/// Browsers keep certificates of one name together under one nickname: two stores' authorities have different names.
fn name(domain: &Domain, key: &KeyPair) -> String {
    let hash = Sha256::digest(key.subject_public_key_info());
    format!("adt local authority for {domain} ({:02x}{:02x}{:02x}{:02x})", hash[0], hash[1], hash[2], hash[3])
}

fn parameters(domain: &Domain, key: &KeyPair, now: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "adt");
    parameters.distinguished_name.push(DnType::CommonName, name(domain, key));
    parameters.not_before = instant!(now - BACKDATED);
    parameters.not_after = instant!(now + VALIDITY);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_string())],
        // A kind of name that no constraint mentions is free; addresses are the other kind that TLS clients look at.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)),
        ],
    });
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_from_a_clock_that_was_ahead_is_replaced_and_keeps_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let domain = Domain::new("example.test").unwrap();
        let now = SystemTime::now();
        let open = |now| Authority::open(folder.path(), &domain, now).unwrap();
        let ahead = open(now + 400 * DAY);
        let after = open(now);
        assert_ne!(after.pem, ahead.pem);
        assert_eq!(after.issuer.key().serialize_pem(), ahead.issuer.key().serialize_pem());
        assert_eq!((ahead.is_renewed, after.is_renewed, open(now).is_renewed), (false, true, false));
        assert_eq!(open(now).pem, after.pem);
    }
}
