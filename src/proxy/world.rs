//! The door to the world: public names and nothing else.
//!
//! Whoever comes by it learns nothing of the host: there are no lists, no `/metrics`, no names of tickets, and in the place of
//! adt's pages a bare status, or where a site is down one that says this and no more. A name is looked up among the public ones alone, so that no trick with a name leads further.
//!
//! Must never know how a name got here or whose certificates these are.

use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};

use super::download::Download;
use super::host::{self, Bad, Host};
use super::next::{Next, redirect, refused};
use super::pages::{self, Asker, Links, Page};
use super::password::Refusal;
use super::peer::Peer;
use super::rate::Supply;
use super::table::{Site, Table};
use crate::model::edge::HEALTH;
use crate::model::route::OWN_PAGE;

/// For a client that has too many connections.
pub const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// Where an authority looks for the answer to a token (RFC 8555 8.3). Tokens are compared as they are: nothing is a file here.
const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What a visitor reads where nobody answers for a site, by the kind of page that was asked for.
const UNAVAILABLE: [(&str, &str); 3] = [
    ("text/html", include_str!("../../proxy/pages/unavailable.html")),
    ("application/json", "{\"error\":\"this site can't be reached at the moment\"}\n"),
    ("text/plain", "this site can't be reached at the moment\n"),
];

/// Where a request from the world goes on.
pub fn decide<B>(peer: &Peer, request: &Request<B>, host: Result<Host<'_>, Bad>, table: &Table) -> Next {
    if refused(request) {
        return bare(StatusCode::METHOD_NOT_ALLOWED);
    }
    // Load balancers ask by an address or a name of their own.
    if request.uri().path() == HEALTH && Asker::of(request).reads() {
        return told("ok\n".to_owned());
    }
    let Ok(host) = host else { return bare(StatusCode::BAD_REQUEST) };
    let Some(site) = table.in_world(&host.name) else { return bare(StatusCode::NOT_FOUND) };
    // A browser that has a connection to one name may use it for others of its certificate, which are the environment's.
    let promised = peer.promised.as_ref().map(|name| table.in_world(name).map(|site| site.gateway));
    if promised.is_some_and(|promised| promised != Some(site.gateway)) {
        return bare(StatusCode::MISDIRECTED_REQUEST);
    }
    // An authority may ask from anywhere, and whoever keeps it out has no certificate in two months.
    if !peer.client.secure
        && let Some(token) = request.uri().path().strip_prefix(CHALLENGE)
        && let Some(answer) = peer.shared.config.world.as_ref().and_then(|world| world.challenges.answer(token))
    {
        return told(answer);
    }
    if site.edge.deny.iter().any(|network| network.contains(&peer.address)) {
        return bare(StatusCode::FORBIDDEN);
    }
    // A password is asked for where nobody reads along.
    if (site.route.https_only || site.edge.users.contains_key(&site.route.name)) && !peer.client.secure {
        let links = Links { port: peer.shared.config.world.as_ref().map(|world| world.ports.https) };
        return Next::Answer(redirect(request, &host.name, &links));
    }
    if site.up {
        return Next::Site(site.clone());
    }
    Next::Answer(pages::page(&Asker::of(request), Page::halted(&site.platform, &site.environment)))
}

/// Whether a site asks anything of its visitors.
pub fn guards(site: &Site) -> bool {
    !site.edge.limits.is_empty() || site.edge.users.contains_key(&site.route.name)
}

/// What a site asks of a client before it is served: to ask for no more than it may have, and to say who it is. `held` are its
/// requests that are not over. The password ends here: it is the door's, and a backend may take the header for its own.
pub async fn guard(peer: &Peer, site: &Site, request: &mut Request<Incoming>, held: usize) -> Result<(), Response<Download>> {
    let limits = &site.edge.limits;
    if limits.at_once.is_some_and(|most| held > most as usize) {
        return Err(later(StatusCode::TOO_MANY_REQUESTS, Duration::from_secs(1)));
    }
    if let Some(requests) = limits.requests {
        let requests = requests.max(1);
        let supply = Supply { every: Duration::from_secs(1) / requests, most: requests.saturating_mul(10) };
        peer.rate(site.gateway).take(supply).map_err(|wait| later(StatusCode::TOO_MANY_REQUESTS, wait))?;
    }
    let Some(users) = site.edge.users.get(&site.route.name) else { return Ok(()) };
    let checked = peer.shared.passwords.check(users, request.headers(), peer.address).await;
    checked.map_err(|refusal| match refusal {
        Refusal::Unknown => asked(request),
        Refusal::Guesses(wait) => later(StatusCode::TOO_MANY_REQUESTS, wait),
        Refusal::Busy => later(StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(5)),
    })?;
    request.headers_mut().remove(AUTHORIZATION);
    Ok(())
}

/// The question for a name and a password.
fn asked<B>(request: &Request<B>) -> Response<Download> {
    let name = host::of(request).map(|host| host.name).unwrap_or_default();
    let mut answer = status(StatusCode::UNAUTHORIZED);
    let value = format!("Basic realm=\"{name}\", charset=\"UTF-8\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_str(&value).expect("it was checked to be a name"));
    answer
}

fn later(code: StatusCode, wait: Duration) -> Response<Download> {
    let mut answer = status(code);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64));
    answer
}

/// Nobody answers for the site right now, for whatever reason.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn bare(code: StatusCode) -> Next {
    Next::Answer(status(code))
}

fn status(code: StatusCode) -> Response<Download> {
    let mut answer = Response::new(Download::whole(None));
    *answer.status_mut() = code;
    answer
}

fn told(text: String) -> Next {
    let mut answer = Response::new(Download::whole(Some(Bytes::from(text))));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Next::Answer(answer)
}

/// An answer as the world sees it.
pub fn dressed(peer: &Peer, mut answer: Response<Download>) -> Response<Download> {
    match answer.body() {
        Download::Stream(stream) => {
            if let (true, Some(seconds)) = (peer.client.secure, stream.record.site.edge.hsts) {
                let value = HeaderValue::from_str(&format!("max-age={seconds}")).expect("a number is ASCII");
                answer.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert(value);
            }
            answer
        }
        Download::Whole { .. } if answer.headers().contains_key(OWN_PAGE) && is_unavailable(answer.status()) => {
            answer.headers_mut().remove(OWN_PAGE);
            let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
            let words = UNAVAILABLE.iter().find(|(known, _)| kind.starts_with(known.as_bytes())).map(|(_, words)| *words);
            answer.map(|page| page.instead(words.unwrap_or_default()))
        }
        // What a page says is for whoever may know the host.
        Download::Whole { .. } if answer.headers().contains_key(OWN_PAGE) => {
            let headers = std::mem::take(answer.headers_mut());
            for name in [ALLOW, RETRY_AFTER, CONNECTION] {
                headers.get(&name).map(|value| answer.headers_mut().insert(name, value.clone()));
            }
            answer.map(|page| page.instead(""))
        }
        Download::Whole { .. } => answer,
    }
}
