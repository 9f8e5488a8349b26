//! Where a request goes on, and what every door answers alike.

use std::sync::Arc;

use hyper::header::{HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};

use super::download::Download;
use super::pages;
use super::table::Site;

/// Where a request goes on.
pub enum Next {
    Site(Arc<Site>),
    Answer(Response<Download>),
}

/// We are no forward proxy, and TRACE would echo cookies to scripts.
pub fn refused<B>(request: &Request<B>) -> bool {
    let extended = request.extensions().get::<hyper::ext::Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    request.method() == Method::TRACE || request.method() == Method::CONNECT && !extended
}

/// 308 keeps method and body.
pub fn redirect<B>(request: &Request<B>, name: &str, links: &pages::Links) -> Response<Download> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let mut answer = Response::new(Download::whole(None));
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let target = format!("{}{path}", links.origin(name));
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&target).expect("a parsed path and a checked name are a URL"));
    answer
}
