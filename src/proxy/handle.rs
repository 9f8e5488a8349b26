//! What a request is for: a site, a homepage, or a page that says why there is nothing.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue};
use hyper::{Method, Request, Response};

use super::door::Whom;
use super::download::{Download, Record};
use super::host::{self, Host};
use super::next::{Next, redirect, refused};
use super::pages::{self, Asker, Page};
use super::peer::Peer;
use super::table::{Found, Table};
use super::{forward, headers, tunnel, world};

pub async fn request(peer: Arc<Peer>, request: Request<Incoming>) -> Result<Response<Download>, Infallible> {
    let head = request.method() == Method::HEAD;
    let answer = answer(&peer, request).await;
    let answer = match peer.whom {
        Whom::Host | Whom::Machines(_) => answer,
        Whom::World => world::dressed(&peer, answer),
    };
    Ok(if head { without_words(answer) } else { answer })
}

/// What HEAD is told of one of our own answers: hyper drops the body of HTTP/1.1 and sends that of HTTP/2.
fn without_words(mut answer: Response<Download>) -> Response<Download> {
    if let Download::Whole { bytes: Some(bytes), .. } = answer.body() {
        let length = bytes.len().into();
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
    answer.map(|page| page.instead(""))
}

async fn answer(peer: &Arc<Peer>, mut request: Request<Incoming>) -> Response<Download> {
    let busy = peer.state.begin();
    let Some(asked) = peer.asker.take() else {
        return pages::page(&Asker::of(&request), Page::crowded_client());
    };
    let next = match host::of(&request) {
        _ if headers::is_coded(request.headers()) => Next::Answer(coded(&request)),
        host if peer.whom == Whom::World => peer.shared.with_table(|table| world::decide(peer, &request, host, table)),
        Ok(host) => peer.shared.with_table(|table| decide(peer, &request, &host, table)),
        Err(host::Bad) => Next::Answer(pages::page(&Asker::of(&request), Page::bad_host())),
    };
    let site = match next {
        // It is there until the client took it.
        Next::Answer(answer) => return answer.map(|page| page.held(asked)),
        Next::Site(site) => site,
    };
    // Backends see the host that was routed by, also where the request line said another.
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).expect("it was checked to be a host name");
        request.headers_mut().insert(HOST, host);
    }
    let Some(within) = peer.within(site.gateway).take() else {
        return pages::page(&Asker::of(&request), Page::crowded_site(&site));
    };
    let held = within.account().held();
    let mut record = Record::new(site, peer.whom != Whom::World, busy, [asked, within]);
    if peer.whom == Whom::World && world::guards(&record.site) {
        let site = record.site.clone();
        // On the heap: the futures of all other requests would have room for it.
        if let Err(refusal) = Box::pin(world::guard(peer, &site, &mut request, held)).await {
            record.status = refusal.status().as_u16();
            record.line = forward::line(peer, &request);
            return refusal;
        }
    }
    if tunnel::is_wanted(&request) {
        return Box::pin(tunnel::open(peer, request, record)).await;
    }
    forward::forward(peer, request, record).await
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
    if peer.whom.gateway().is_some_and(|gateway| !found.is_within(gateway)) {
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
            if site.route.https_only && !peer.client.secure && peer.whom == Whom::Host && peer.shared.https_port.is_some() {
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
