//! The way to an authority: https only, each request over a connection of its own, and nobody believed but the given authorities.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How often something is asked whose nonce is refused.
pub const NONCES: usize = 8;

/// What is asked once more where its nonce was refused, which an authority may do whenever it likes (RFC 8555 6.5): it has done nothing
/// then. The library tries three times by itself.
macro_rules! patiently {
    ($ask:expr) => {{
        let mut left = $crate::acme::client::NONCES;
        loop {
            match $ask.await {
                Err(error) if left > 0 && $crate::acme::client::is_bad_nonce(&error) => left -= 1,
                other => break other,
            }
        }
    }};
}
pub(super) use patiently;

pub fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce"))
}

const PATIENCE: Duration = Duration::from_secs(30);
/// No certificate's chain is that long.
const LONGEST: usize = 1 << 20;

type Anything = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub struct Client(TlsConnector);

impl Client {
    /// `believed` are certificates in PEM.
    pub fn new(believed: &[u8]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(believed).flatten());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.map_err(other)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let connector = self.0.clone();
        Box::pin(async move {
            let (host, uri) = (request.uri().host().unwrap_or_default().to_owned(), request.uri().clone());
            let answer = tokio::time::timeout(PATIENCE, ask(&connector, request)).await;
            let answer = answer.unwrap_or_else(|_| Err("it does not answer".into()));
            answer.map(BytesResponse::from).map_err(|error| other(format!("ask `{host}` for `{}`: {error}", uri.path())))
        })
    }
}

async fn ask(connector: &TlsConnector, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Anything> {
    let uri = request.uri().clone();
    let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("the address is not one of https".into());
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
    let stream = connector.connect(ServerName::try_from(host.to_owned())?, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    *request.uri_mut() = uri.path_and_query().map(|path| Uri::from(path.clone())).unwrap_or_default();
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(parts, Full::new(body)))
}

fn other(error: impl Into<Anything>) -> Error {
    Error::Other(error.into())
}
