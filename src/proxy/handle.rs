//! What a request is for: a site, a homepage, or a page that says why there is nothing.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HOST, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};

use super::download::{Download, Record};
use super::host::{self, Host};
use super::pages::{self, Asker, Page};
use super::peer::Peer;
use super::table::{Found, Site, Table};
use super::{forward, headers, tunnel};

/// Where a request goes on.
enum Next {
    Site(Arc<Site>),
    Answer(Response<Download>),
}

pub async fn request(peer: Arc<Peer>, mut request: Request<Incoming>) -> Result<Response<Download>, Infallible> {
    let busy = peer.state.begin();
    let Some(asked) = peer.asker.take() else {
        return Ok(pages::page(&Asker::of(&request), Page::crowded_client()));
    };
    let next = match host::of(&request) {
        _ if headers::is_coded(request.headers()) => Next::Answer(coded(&request)),
        Ok(host) => peer.shared.with_table(|table| decide(&peer, &request, &host, table)),
        Err(host::Bad) => Next::Answer(pages::page(&Asker::of(&request), Page::bad_host())),
    };
    let site = match next {
        // It is there until the client took it.
        Next::Answer(answer) => return Ok(answer.map(|page| page.held(asked))),
        Next::Site(site) => site,
    };
    // Backends see the host that was routed by, also where the request line said another.
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).expect("it was checked to be a host name");
        request.headers_mut().insert(HOST, host);
    }
    let Some(within) = peer.within(site.gateway).take() else {
        return Ok(pages::page(&Asker::of(&request), Page::crowded_site(&site)));
    };
    let record = Record::new(site, busy, [asked, within]);
    if tunnel::is_wanted(&request) {
        return Ok(Box::pin(tunnel::open(&peer, request, record)).await);
    }
    Ok(forward::forward(&peer, request, record).await)
}

fn decide(peer: &Peer, request: &Request<Incoming>, host: &Host<'_>, table: &Table) -> Next {
    let asker = Asker::of(request);
    if refused(request) {
        let mut answer = pages::page(&asker, Page::method(request.method()));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        return Next::Answer(answer);
    }
    let links = pages::Links { port: peer.shared.https_port };
    let found = table.find(&host.name);
    if peer.gateway.is_some_and(|gateway| !found.is_within(gateway)) {
        return Next::Answer(pages::page(&asker, Page::outside(&host.name)));
    }
    let page = match found {
        Found::Domain if request.uri().path() == "/metrics" && asker.reads() => {
            return Next::Answer(pages::plain(peer.shared.metrics(table)));
        }
        home @ Found::Domain if request.uri().path() == "/metrics" => {
            return Next::Answer(pages::home(&asker, &home, &host.name, table, &links));
        }
        Found::Site(site) => {
            // Machines talk to each other as they do in production: behind whatever makes browsers use https.
            if site.route.https_only && !peer.client.secure && peer.gateway.is_none() && peer.shared.https_port.is_some() {
                return Next::Answer(redirect(request, &host.name, &links));
            }
            if site.up {
                return Next::Site(site.clone());
            }
            Page::halted(&site.platform, &site.environment)
        }
        Found::Domain | Found::Platform(_) | Found::Environment(..) if !matches!(request.uri().path(), "/" | "*") => {
            Page::no_page(request.uri().path(), &links, &host.name)
        }
        home @ (Found::Domain | Found::Platform(_) | Found::Environment(..)) => {
            return Next::Answer(pages::home(&asker, &home, &host.name, table, &links));
        }
        Found::NoSite(platform, environment) => Page::no_site(&host.name, platform, environment, &links),
        Found::NoEnvironment(platform) => Page::no_environment(&host.name, platform, &links),
        Found::NoPlatform => Page::no_platform(&host.name, table, &links),
        Found::Foreign => Page::foreign(&host.name),
    };
    Next::Answer(pages::page(&asker, page))
}

/// Where the body ends, and so where the next request begins, is not known.
fn coded(request: &Request<Incoming>) -> Response<Download> {
    let mut answer = pages::page(&Asker::of(request), Page::coding());
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// We are no forward proxy, and TRACE would echo cookies to scripts.
fn refused(request: &Request<Incoming>) -> bool {
    let extended = request.extensions().get::<hyper::ext::Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    request.method() == Method::TRACE || request.method() == Method::CONNECT && !extended
}

/// 308 keeps method and body.
fn redirect(request: &Request<Incoming>, name: &str, links: &pages::Links) -> Response<Download> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let mut answer = Response::new(Download::whole(None));
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let target = format!("{}{path}", links.origin(name));
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&target).expect("a parsed path and a checked name are a URL"));
    answer
}
