//! WebSocket and other upgrades: after the handshake, bytes in both directions until both sides ended theirs.
//!
//! HTTP/2 clients open WebSockets with an extended CONNECT (RFC 8441); backends are asked in HTTP/1.1 either way.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Body, Incoming};
use hyper::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::download::{Download, Record, Source};
use super::failure::Failure;
use super::forward;
use super::pages::{self, Asker, Page};
use super::peer::Peer;
use super::pool::Lease;
use super::table::{Endpoint, Site};
use super::upload::Upload;
use crate::model::Protocol;

pub fn is_wanted(request: &Request<Incoming>) -> bool {
    if request.method() == Method::CONNECT {
        return true;
    }
    let names_upgrade = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
    };
    // A tunnel begins with no body: with one, the backend would take the next request on its connection for it.
    if !request.body().is_end_stream() {
        return false;
    }
    // A client that offers h2c in passing gets an ordinary answer.
    let offered = request.headers().get(UPGRADE).is_some_and(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    offered && request.headers().get_all(CONNECTION).iter().any(names_upgrade)
}

pub async fn open(peer: &Arc<Peer>, mut request: Request<Incoming>, mut record: Record) -> Response<Download> {
    let site = record.site.clone();
    site.touch();
    record.line = forward::line(peer, &request);
    let asker = Asker::of(&request);
    let extended = request.method() == Method::CONNECT;
    let client = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned().unwrap_or_else(|| HeaderValue::from_static("websocket"));
    forward::prepare(peer, &site, &mut parts);
    switch(&mut parts.headers, protocol);
    if extended {
        parts.method = Method::GET;
        // The key only proves that the other side speaks WebSocket; HTTP/2 has no use for it, HTTP/1.1 wants one.
        parts.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("YWR0IGFza3MgZm9yIGgyLg=="));
        parts.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    }
    let mut tried = Vec::new();
    let mut last = None;
    while let Some(endpoint) = site.pick(&tried, None).filter(|endpoint| endpoint.protocol == Protocol::Http1) {
        let mut again = Request::new(Upload::Empty);
        *again.method_mut() = parts.method.clone();
        *again.uri_mut() = parts.uri.clone();
        *again.headers_mut() = parts.headers.clone();
        match ask(peer, &site, &endpoint, again).await {
            Ok((response, lease)) => {
                endpoint.worked();
                return settle(peer, client, (response, lease), record, extended);
            }
            Err(failure) => {
                site.metrics.upstream_errors.fetch_add(1, Ordering::Relaxed);
                if failure.is_the_backends() {
                    endpoint.failed(failure.is_unreachable());
                }
                tried.push(endpoint.clone());
                let over = !failure.is_unreachable();
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

fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

type Answered = (Response<Incoming>, Lease);

async fn ask(peer: &Peer, site: &Site, endpoint: &Endpoint, request: Request<Upload>) -> Result<Answered, Failure> {
    let limits = &peer.shared.config.limits;
    let mut connection = forward::dial(endpoint, limits, site).await?;
    connection.spawn_upgradeable();
    let sent = tokio::time::timeout(limits.response, connection.sender.send_request(request)).await;
    let response = sent.map_err(|_| Failure::Timeout(limits.response))?.map_err(Failure::Broken)?;
    Ok((response, Lease::Http1(connection)))
}

fn settle(
    peer: &Arc<Peer>,
    client: OnUpgrade,
    (mut response, lease): (Response<Incoming>, Lease),
    mut record: Record,
    extended: bool,
) -> Response<Download> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return forward::answer(response.map(|incoming| Source::hyper(incoming, lease)), record);
    }
    let backend = hyper::upgrade::on(&mut response);
    let protocol = response.headers().get(UPGRADE).cloned();
    let mut answer = Response::new(Download::whole(None));
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    super::headers::drop_hop_by_hop(answer.headers_mut());
    record.confine(answer.headers_mut());
    if extended {
        answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        answer.headers_mut().remove(HeaderName::from_static("content-length"));
        record.status = 200;
    } else {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        switch(answer.headers_mut(), protocol.unwrap_or_else(|| HeaderValue::from_static("websocket")));
        record.status = 101;
    }
    peer.state.becomes_tunnel();
    tokio::spawn(carry(peer.clone(), client, (backend, lease), record));
    answer
}

/// The backend's connection counts as one for as long as bytes may go through it.
async fn carry(peer: Arc<Peer>, client: OnUpgrade, (backend, _lease): (OnUpgrade, Lease), mut record: Record) {
    let both = async {
        let (client, backend) = tokio::try_join!(client, backend).ok()?;
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        tokio::io::copy_bidirectional(&mut client, &mut backend).await.ok()
    };
    // Tunnels have no way to be told politely: they may go on until the deadline of a stop.
    if let Some(Some((_, sent))) = peer.state.run(pin!(both), |_| true).await {
        record.bytes = sent;
    }
}
