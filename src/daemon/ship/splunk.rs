//! A Splunk HTTP Event Collector: a batch is a request, and taken once it is answered.

use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::{PATIENCE, Sent, Sink, trusted};
use crate::config::host::{Address, Splunk};
use crate::logs::{Record, splunk};

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

pub struct Collector {
    settings: Splunk,
    runtime: Runtime,
    sender: Option<Sender>,
}

/// More of an answer tells nobody anything.
const ANSWER: usize = 4096;

impl Collector {
    pub fn new(settings: Splunk) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { settings, runtime, sender: None })
    }

    /// Read each time: a token that is replaced counts at once. No message may hold it.
    fn authorization(&self) -> Result<HeaderValue, String> {
        let file = self.settings.token_file.display();
        let text = std::fs::read_to_string(&self.settings.token_file)
            .map_err(|error| format!("its token can't be read from `{file}`: {error}"))?;
        let mut value =
            HeaderValue::from_str(&format!("Splunk {}", text.trim())).map_err(|_| format!("`{file}` holds no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Sink for Collector {
    fn send(&mut self, records: &[Record]) -> Sent {
        let authorization = match self.authorization() {
            Ok(value) => value,
            Err(reason) => return Sent::NotYet(reason),
        };
        let request = Request::post(splunk::PATH)
            .header(HOST, self.settings.address.to_string())
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(splunk::batch(records)));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Sent::NotYet(error.to_string()),
        };
        let (address, sender) = (&self.settings.address, self.sender.take());
        let exchange = async { tokio::time::timeout(3 * PATIENCE, exchange(address, sender, request)).await };
        match self.runtime.block_on(exchange) {
            Ok(Ok((status, answer, sender))) => {
                self.sender = Some(sender);
                judge(status, &answer)
            }
            Ok(Err(error)) => Sent::NotYet(error.to_string()),
            Err(_) => Sent::NotYet("it does not answer in time".to_owned()),
        }
    }
}

async fn exchange(
    address: &Address,
    sender: Option<Sender>,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, String, Sender)> {
    let open = match sender {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let mut sender = match open {
        Some(sender) => sender,
        None => connect(address).await?,
    };
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER).collect().await.map_err(io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned(), sender))
}

async fn connect(address: &Address) -> io::Result<Sender> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    if !address.tls {
        return handshake(stream).await;
    }
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    handshake(TlsConnector::from(Arc::clone(&trusted()?)).connect(name, stream).await?).await
}

async fn handshake(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static) -> io::Result<Sender> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Wrong events will not become right; a wrong token, a full queue and a server that starts will.
fn judge(status: StatusCode, answer: &str) -> Sent {
    match status.as_u16() {
        200..=299 => Sent::Taken,
        400 | 413 => Sent::Never(format!("it answers {status}: {}", answer.escape_debug())),
        _ => Sent::NotYet(format!("it answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_not_become_right_is_given_up() {
        for (code, wanted) in [(200, "taken"), (400, "never"), (403, "later"), (413, "never"), (429, "later"), (503, "later")] {
            let sent = match judge(StatusCode::from_u16(code).unwrap(), "") {
                Sent::Taken => "taken",
                Sent::Never(_) => "never",
                Sent::NotYet(_) => "later",
            };
            assert_eq!(sent, wanted, "{code}");
        }
    }
}
