//! The certificate of one level of names, signed when it is first asked for and again when two thirds of its time are over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;

use super::{Authority, BACKDATED, DAY, Error, Present, Result, instant, make_folder, read, seconds, write};

/// Browsers refuse more than 397 days; shorter means that renewal is something that happens, not a surprise.
pub const VALIDITY: Duration = Duration::from_secs(90 * DAY.as_secs());
pub const RENEW_AFTER: Duration = Duration::from_secs(60 * DAY.as_secs());

/// A certificate with its key, ready for handshakes.
#[derive(Debug)]
pub struct Leaf {
    pub certified: Arc<CertifiedKey>,
    /// Seconds since 1970.
    pub renew_at: i64,
}

/// Where the leaf of a level lies.
pub fn path(folder: &Path, level: &str) -> PathBuf {
    folder.join("leaf").join(format!("{level}.pem"))
}

/// The leaf for `level` and every name one label below it: from disk where it is still good, else made and kept there.
pub fn open(folder: &Path, level: &str, authority: &Authority, now: SystemTime) -> Result<Leaf> {
    let path = path(folder, level);
    if let Some(leaf) = read(&path)?.and_then(|text| load(&text, authority, now)) {
        return Ok(leaf);
    }
    let (text, leaf) = make(level, authority, now)?;
    make_folder(&folder.join("leaf"))?;
    write(&path, text.as_bytes(), Present::Spare)?;
    Ok(leaf)
}

/// Whether the file holds a leaf that is not due and names our authority's key as its signer's.
pub fn is_good(path: &Path, authority: &Authority, now: SystemTime) -> Result<bool> {
    let certificate = read(path)?.and_then(|text| CertificateDer::from_pem_slice(text.as_bytes()).ok());
    Ok(certificate.is_some_and(|der| {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
        renewal(&certificate, now).is_some() && authority.is_named_by(&certificate)
    }))
}

/// `None` if it is damaged, due for renewal or signed by an authority that is no longer ours.
fn load(text: &str, authority: &Authority, now: SystemTime) -> Option<Leaf> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
    let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    let (_, signer) = x509_parser::parse_x509_certificate(&authority.certificate).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let renew_at = renewal(&certificate, now)?;
    // The authority's name stays the same when it is made anew; only its key tells.
    let signed = certificate.verify_signature(Some(signer.public_key())).is_ok();
    let certified = certified(der, key).ok().filter(|certified| signed && certified.keys_match().is_ok())?;
    Some(Leaf { certified: Arc::new(certified), renew_at })
}

/// When to make it anew, in seconds since 1970; `None` if that is now.
fn renewal(certificate: &X509Certificate<'_>, now: SystemTime) -> Option<i64> {
    let validity = certificate.validity();
    let renew_at = validity.not_after.timestamp() - seconds_of(VALIDITY - RENEW_AFTER);
    let now = seconds(now);
    (now < renew_at && now >= validity.not_before.timestamp()).then_some(renew_at)
}

fn make(level: &str, authority: &Authority, now: SystemTime) -> Result<(String, Leaf)> {
    let failed = |source| Error::Sign { name: level.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut parameters = CertificateParams::new(vec![level.to_owned(), format!("*.{level}")]).map_err(failed)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.not_before = instant!(now - BACKDATED);
    parameters.not_after = instant!(now + VALIDITY);
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signed = parameters.signed_by(&key, &authority.issuer).map_err(failed)?;
    let text = format!("{}{}", key.serialize_pem(), signed.pem());
    let der = PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen writes PKCS#8");
    let certified = certified(signed.der().clone(), der).map_err(|source| Error::Unusable { name: level.to_owned(), source })?;
    let renew_at = seconds(now) + seconds_of(RENEW_AFTER);
    Ok((text, Leaf { certified: Arc::new(certified), renew_at }))
}

fn certified(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> std::result::Result<CertifiedKey, rustls::Error> {
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    // The authority itself is what clients have; sending it would only make handshakes longer.
    Ok(CertifiedKey::new(vec![certificate], key))
}

fn seconds_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).expect("a few months fit")
}
