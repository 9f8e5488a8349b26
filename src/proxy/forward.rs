//! From a request to a backend's answer.
//!
//! A request may be sent again if it is idempotent and its body is kept, or if not one byte of it was sent. So a dead machine
//! costs such requests a moment, not an error; for others it is never decided that twice is as good as once.
//!
//! Of a backend's words before its answer only `100 Continue` is heard. `103 Early Hints` ends here: hyper's server has no way
//! to send it, and a page is the same without it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::TrySendError;
use hyper::header::{EXPECT, HOST, HeaderValue, SET_COOKIE};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::door::Whom;
use super::download::{Download, Line, Record, Source, Stream};
use super::failure::Failure;
use super::pace::Pace;
use super::pages::{self, Asker, Page};
use super::peer::Peer;
use super::pool::{self, Lease};
use super::table::{Endpoint, Site};
use super::upload::{Gate, Latch, Upload};
use super::{Limits, headers, host};
use crate::model::Protocol;
use crate::shares::Share;

/// Names the machine that answered first, where a site is sticky.
const STICKY: &str = "adt-backend";

/// A request that may have to be sent more than once.
pub struct Outgoing {
    parts: Parts,
    /// Gone once it was sent, unless it can be repeated.
    body: Option<Upload>,
    kept: Option<Bytes>,
    repeatable: bool,
    latch: Option<Arc<Latch>>,
}

impl Outgoing {
    async fn new(mut parts: Parts, incoming: Incoming, limits: &Limits, site: &Site) -> Result<Self, Page> {
        let idempotent = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
        let waits = parts.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let mut new =
            Self { body: None, kept: None, repeatable: idempotent, latch: None, parts: Request::new(()).into_parts().0 };
        if incoming.is_end_stream() {
            parts.headers.remove(EXPECT);
            new.body = Some(Upload::Empty);
        } else if idempotent && !waits && incoming.size_hint().upper().is_some_and(|size| size <= limits.replay_bytes) {
            let collected = tokio::time::timeout(limits.body, incoming.collect()).await;
            let bytes = collected.map_err(|_| Page::slow_upload())?.map_err(|_| Page::broken_upload())?.to_bytes();
            site.metrics.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            new.kept = Some(bytes);
        } else {
            new.latch = waits.then(Arc::default);
            let gate = new.latch.clone().map(|latch| Box::pin(Gate::new(latch)));
            // A stream of gRPC may be silent whatever it declares.
            let paced = site.route.protocol == Protocol::Http1 && incoming.size_hint().exact().is_some();
            let pace = paced.then(|| Pace::new(limits.body));
            new.body = Some(Upload::Stream { incoming, metrics: site.metrics.clone(), gate, pace });
            new.repeatable = false;
        }
        new.parts = parts;
        Ok(new)
    }

    fn has_body(&self) -> bool {
        !matches!(self.body, Some(Upload::Empty))
    }

    fn can_be_sent(&self) -> bool {
        self.repeatable || self.body.is_some()
    }

    fn request(&mut self) -> Option<Request<Upload>> {
        let body = match (&self.body, &self.kept) {
            (_, Some(bytes)) => Upload::Whole(Some(bytes.clone())),
            (Some(Upload::Empty), None) if self.repeatable => Upload::Empty,
            _ => self.body.take()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        if let Some(latch) = self.latch.clone() {
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    latch.open();
                }
            });
        }
        Some(request)
    }

    /// It never left.
    fn put_back(&mut self, request: Request<Upload>) {
        if !self.repeatable {
            self.body = Some(request.into_body());
        }
    }
}

/// Makes a client's head into one for the backend.
pub fn prepare(peer: &Peer, site: &Site, parts: &mut Parts) {
    headers::drop_hop_by_hop(&mut parts.headers);
    let host = match parts.headers.get(HOST) {
        Some(host) => host.clone(),
        None => HeaderValue::from_static(""),
    };
    peer.client.introduce(&mut parts.headers, &host);
    parts.extensions.clear();
    match site.route.protocol {
        Protocol::Http1 => {
            parts.version = Version::HTTP_11;
            headers::join_cookies(&mut parts.headers);
            if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
                let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
                parts.uri = Uri::from(path);
            }
        }
        Protocol::H2c => {
            parts.version = Version::HTTP_2;
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = parts.headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
            uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
            // Only `OPTIONS *` has no such form.
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
        }
    }
}

pub fn line(peer: &Peer, request: &Request<Incoming>) -> Option<Box<Line>> {
    let asked = || host::of(request).map(|host| host.name.into_owned()).ok();
    peer.shared.config.log.is_some().then(|| {
        Box::new(Line {
            method: request.method().clone(),
            host: match peer.whom {
                Whom::Host | Whom::Machines(_) => None,
                Whom::World => Some(asked().unwrap_or_default()),
            },
            // Without what comes behind `?`: that is where secrets are.
            target: request.uri().path().to_owned(),
            client: peer.address,
            secure: peer.client.secure,
            backend: String::new(),
            attempts: 0,
        })
    })
}

pub async fn forward(peer: &Peer, request: Request<Incoming>, mut record: Record) -> Response<Download> {
    let site = record.site.clone();
    let limits = &peer.shared.config.limits;
    site.touch();
    record.line = line(peer, &request);
    let asker = Asker::of(&request);
    let sticky = if site.route.sticky { headers::cookie(request.headers(), STICKY).map(str::to_owned) } else { None };
    let (mut parts, incoming) = request.into_parts();
    prepare(peer, &site, &mut parts);
    let mut outgoing = match Outgoing::new(parts, incoming, limits, &site).await {
        Ok(outgoing) => outgoing,
        Err(page) => {
            record.status = page.status.as_u16();
            return pages::page(&asker, page);
        }
    };
    let mut tried = Vec::new();
    let mut last = None;
    while outgoing.can_be_sent()
        && let Some(endpoint) = site.pick(&tried, sticky.as_deref())
    {
        if let Some(line) = &mut record.line {
            line.attempts += 1;
            line.backend = endpoint.backend.machine.to_string();
        }
        match attempt(&endpoint, &mut outgoing, limits, &site).await {
            Ok(response) => {
                endpoint.worked();
                let mut response = answer(response, record);
                if site.route.sticky && sticky.as_deref() != Some(endpoint.alias.as_str()) {
                    stick(&mut response, &endpoint, peer.client.secure);
                }
                return response;
            }
            Err(failure) => {
                site.metrics.upstream_errors.fetch_add(1, Ordering::Relaxed);
                if failure.is_the_backends() {
                    endpoint.failed(failure.is_unreachable());
                }
                if failure.is_too_slow() {
                    record.status = 408;
                    return pages::page(&asker, Page::slow_upload());
                }
                // Nobody waits that long twice, and the environment's other machines are not reached either.
                let over = matches!(failure, Failure::Timeout(_) | Failure::Crowded(_));
                tracing::debug!(host = site.route.host, machine = %endpoint.backend.machine, %failure, "no answer");
                tried.push(endpoint.clone());
                last = Some((endpoint, failure));
                if over {
                    break;
                }
            }
        }
    }
    let page = Page::no_answer(&site, last.as_ref().map(|(endpoint, failure)| (&**endpoint, failure)));
    record.status = page.status.as_u16();
    pages::page(&asker, page)
}

fn stick(response: &mut Response<Download>, endpoint: &Endpoint, secure: bool) {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{STICKY}={}; Path=/; HttpOnly; SameSite=Lax{secure}", endpoint.alias);
    response.headers_mut().append(SET_COOKIE, HeaderValue::from_str(&cookie).expect("a number is ASCII"));
}

pub fn answer(response: Response<Source>, mut record: Record) -> Response<Download> {
    let (mut parts, source) = response.into_parts();
    record.status = parts.status.as_u16();
    headers::drop_hop_by_hop(&mut parts.headers);
    record.confine(&mut parts.headers);
    // HTTP/1.1's encoder and HTTP/2's pseudo headers are the server's matter.
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Response::from_parts(parts, Download::Stream(Box::pin(Stream { source, record })))
}

async fn attempt(
    endpoint: &Endpoint,
    outgoing: &mut Outgoing,
    limits: &Limits,
    site: &Site,
) -> Result<Response<Source>, Failure> {
    match endpoint.protocol {
        Protocol::Http1 if outgoing.repeatable && !outgoing.has_body() => bodyless(endpoint, &outgoing.parts, limits, site).await,
        Protocol::Http1 => http1(endpoint, outgoing, limits, site).await,
        Protocol::H2c => http2(endpoint, outgoing, limits, site).await,
    }
}

/// A connection from the pool may have been closed by the backend just now: that is no failure of the backend.
async fn bodyless(endpoint: &Endpoint, parts: &Parts, limits: &Limits, site: &Site) -> Result<Response<Source>, Failure> {
    loop {
        let pooled = pool::take_bodyless(endpoint.backend.address);
        let fresh = pooled.is_none();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect(pool::dial_bodyless(endpoint.backend.address, place(site)?), limits).await?,
        };
        match patience(connection.ask(parts), endpoint, true, limits, site).await? {
            Ok(response) => return Ok(response.map(Source::Bodyless)),
            Err(unanswered) if unanswered.unheard && !fresh => {}
            Err(unanswered) => return Err(unanswered.error.into()),
        }
    }
}

async fn http1(endpoint: &Endpoint, outgoing: &mut Outgoing, limits: &Limits, site: &Site) -> Result<Response<Source>, Failure> {
    // What can't be repeated goes only through connections that were good a moment ago.
    let age = if outgoing.repeatable { u64::MAX } else { 1000 };
    loop {
        let pooled = pool::take(endpoint.backend.address, age);
        let fresh = pooled.is_none();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => dial(endpoint, limits, site).await?,
        };
        if outgoing.has_body() {
            connection.spawn();
            connection.latch.clone_from(&outgoing.latch);
        }
        let request = outgoing.request().expect("the loop ends when it was sent");
        let sent = connection.sender.try_send_request(request);
        let result = {
            let mut sent = pin!(sent);
            let both = poll_fn(|cx| {
                let answer = sent.as_mut().poll(cx);
                if answer.is_ready() {
                    return answer;
                }
                connection.drive(cx);
                sent.as_mut().poll(cx)
            });
            patience(both, endpoint, outgoing.repeatable, limits, site).await?
        };
        match result {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(Failure::Connect(std::io::Error::other("it switched protocols without being asked")));
            }
            Ok(response) => {
                if let Some(latch) = &outgoing.latch {
                    latch.hold();
                }
                return Ok(response.map(|incoming| Source::hyper(incoming, Lease::Http1(connection))));
            }
            Err(error) => again(error, outgoing, fresh)?,
        }
    }
}

async fn http2(endpoint: &Endpoint, outgoing: &mut Outgoing, limits: &Limits, site: &Site) -> Result<Response<Source>, Failure> {
    let address = endpoint.backend.address;
    loop {
        let (mut sender, known) = match pool::http2(address) {
            Some(sender) => (sender, true),
            None => (connect(pool::dial_http2(address, place(site)?), limits).await?, false),
        };
        if let Err(error) = sender.ready().await {
            pool::forget(address);
            if known {
                continue;
            }
            return Err(Failure::Broken(error));
        }
        let request = outgoing.request().expect("the loop ends when it was sent");
        let sent = pin!(sender.try_send_request(request));
        match patience(sent, endpoint, outgoing.repeatable, limits, site).await? {
            Ok(response) => {
                if let Some(latch) = &outgoing.latch {
                    latch.open();
                }
                return Ok(response.map(|incoming| Source::hyper(incoming, Lease::Http2)));
            }
            Err(error) => {
                if sender.is_closed() {
                    pool::forget(address);
                }
                again(error, outgoing, !known)?;
            }
        }
    }
}

/// `Ok` if the same backend is worth another connection.
fn again(mut error: TrySendError<Request<Upload>>, outgoing: &mut Outgoing, fresh: bool) -> Result<(), Failure> {
    if let Some(request) = error.take_message() {
        outgoing.put_back(request);
    }
    if !fresh && outgoing.can_be_sent() { Ok(()) } else { Err(Failure::Broken(error.into_error())) }
}

pub async fn dial(endpoint: &Endpoint, limits: &Limits, site: &Site) -> Result<pool::Http1, Failure> {
    connect(pool::dial(endpoint.backend.address, place(site)?), limits).await
}

/// What a connection to a machine of the site's environment needs.
fn place(site: &Site) -> Result<Share, Failure> {
    site.backends.take().ok_or_else(|| Failure::Crowded(site.backends.held()))
}

async fn connect<T>(connection: impl Future<Output = std::io::Result<T>>, limits: &Limits) -> Result<T, Failure> {
    let dialled = tokio::time::timeout(limits.connect, connection).await;
    dialled.map_err(|_| Failure::ConnectTimeout(limits.connect))?.map_err(Failure::Connect)
}

/// Waits for an answer; gives up early on a machine that is gone, if the request can go elsewhere.
async fn patience<F: Future>(
    answer: F,
    endpoint: &Endpoint,
    repeatable: bool,
    limits: &Limits,
    site: &Site,
) -> Result<F::Output, Failure> {
    const SLICE: Duration = Duration::from_secs(1);
    let mut answer = pin!(answer);
    let mut waited = Duration::ZERO;
    while waited < limits.response {
        let slice = SLICE.min(limits.response - waited);
        if let Ok(output) = tokio::time::timeout(slice, answer.as_mut()).await {
            return Ok(output);
        }
        waited += slice;
        // Keeps the active checks looking at this site.
        site.touch();
        if repeatable && site.endpoints.len() > 1 && endpoint.gone.load(Ordering::Relaxed) {
            return Err(Failure::Gone);
        }
    }
    Err(Failure::Timeout(limits.response))
}
