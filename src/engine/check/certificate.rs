//! What somebody thinks of a certificate that is shown: this host's trust, and adt's own authorities.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, StreamOwned,
};
use x509_parser::prelude::{FromDer, X509Certificate};

pub type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A handshake that goes on whatever it thinks of the certificate, so that what comes behind it can be judged too.
pub fn greet(host: &str, stream: TcpStream, trusted: &Judge, ours: &Judge) -> Result<(Secure, Judged), String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let witness = Arc::new(Witness { trusted: trusted.clone(), ours: ours.clone(), judged: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| told(&error))?
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| told(&error))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| told(&error))?;
    let mut secure = StreamOwned::new(connection, stream);
    while secure.conn.is_handshaking() {
        secure.conn.complete_io(&mut secure.sock).map_err(|error| told(&error))?;
    }
    let judged = witness.judged().ok_or("it showed no certificate")?;
    Ok((secure, judged))
}

/// The day on which a certificate ends; empty for one that can't be read.
pub fn last_day(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return String::new() };
    let end = jiff::Timestamp::from_second(certificate.validity().not_after.timestamp());
    end.map(|end| end.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes a set of authorities; one without any believes nobody.
#[derive(Debug, Clone)]
pub struct Judge(Option<Arc<WebPkiServerVerifier>>);

impl Judge {
    /// From a file of certificates, one after the other.
    pub fn of(pem: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        // One that can't be read is believed by nobody else either.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        Self(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok())
    }

    /// Why it does not believe; in words of a person.
    fn judge(&self, shown: &Shown<'_>) -> Result<(), String> {
        let Some(judge) = &self.0 else { return Err("no authority is trusted at all".to_owned()) };
        match judge.verify_server_cert(shown.leaf, shown.between, shown.name, &[], shown.now) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Err("its issuer is unknown".to_owned()),
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                Err("it has expired".to_owned())
            }
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Err("it is for another name".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

struct Shown<'a> {
    leaf: &'a CertificateDer<'a>,
    between: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
    now: UnixTime,
}

/// What was shown, and what was thought of it.
#[derive(Debug, Clone)]
pub struct Judged {
    pub leaf: Vec<u8>,
    pub trusted: Result<(), String>,
    pub ours: Result<(), String>,
}

/// Lets every handshake pass and remembers what the judges say. For looking only: nothing secret goes over such a connection.
#[derive(Debug)]
struct Witness {
    trusted: Judge,
    ours: Judge,
    judged: Mutex<Option<Judged>>,
}

impl Witness {
    fn judged(&self) -> Option<Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Shown { leaf, between, name, now };
        let judged = Judged { leaf: leaf.to_vec(), trusted: self.trusted.judge(&shown), ours: self.ours.judge(&shown) };
        *self.judged.lock().unwrap_or_else(PoisonError::into_inner) = Some(judged);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
