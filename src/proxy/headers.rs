//! What of a message's head is for the next hop, and what a backend is told about the client.

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, COOKIE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING,
    UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What RFC 9110 7.6.1 wants gone, and what `Connection` names besides. `Trailer` stays, because trailers are passed on, and
/// so does `TE: trailers`, without which gRPC servers refuse.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        drop_named(headers);
    }
    if let Some(te) = headers.remove(TE)
        && te.to_str().is_ok_and(|te| te.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers")))
    {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// A body in a coding that would be lost with its header, e.g. `gzip, chunked`. RFC 9112 6.1 has a word for it: 501.
///
/// Of a length beside chunks nothing is left to see here: hyper goes by the chunks, drops the length and closes the
/// connection after its answer, which is what RFC 9112 6.3 wants of a proxy that does not refuse.
pub fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next();
    first.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) || codings.next().is_some()
}

fn drop_named(headers: &mut HeaderMap) {
    let connection: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for name in connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')) {
        let Ok(name) = name.trim().parse::<HeaderName>() else { continue };
        // Whoever could remove these could make a request mean something else to the backend.
        if name != hyper::header::HOST && name != hyper::header::CONTENT_LENGTH && name != TE && name != hyper::header::TRAILER {
            headers.remove(name);
        }
    }
}

/// What is the same for all requests of a client's connection.
#[derive(Debug)]
pub struct Client {
    pub secure: bool,
    pub trusted: bool,
    address: HeaderValue,
    /// `for=…;proto=…;host="`
    forwarded: String,
    port: HeaderValue,
}

impl Client {
    pub fn new(address: std::net::IpAddr, port: u16, secure: bool, trusted: bool) -> Self {
        // A socket for both families shows IPv4 clients as IPv6.
        let address = address.to_canonical();
        let quoted = if address.is_ipv6() { format!("\"[{address}]\"") } else { address.to_string() };
        let ascii = |text: String| HeaderValue::from_str(&text).expect("addresses and numbers are ASCII");
        Self {
            secure,
            trusted,
            forwarded: format!("for={quoted};proto={};host=\"", scheme(secure)),
            address: ascii(address.to_string()),
            port: ascii(port.to_string()),
        }
    }

    /// Replaces what the client claims about itself, or adds to it where it is trusted. `host` was checked to be a name.
    pub fn introduce(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        headers.remove(REAL_IP);
        let written = host.as_bytes();
        let mut element = Vec::with_capacity(self.forwarded.len() + written.len() + 1);
        element.extend_from_slice(self.forwarded.as_bytes());
        element.extend_from_slice(written);
        element.push(b'"');
        let element = HeaderValue::from_maybe_shared(hyper::body::Bytes::from(element)).expect("a checked host is ASCII");
        if self.trusted {
            append(headers, FOR, &self.address);
            append(headers, FORWARDED, &element);
            for (name, value) in
                [(PROTO, HeaderValue::from_static(scheme(self.secure))), (HOST, host.clone()), (PORT, self.port.clone())]
            {
                headers.entry(name).or_insert(value);
            }
            return;
        }
        headers.insert(FOR, self.address.clone());
        headers.insert(FORWARDED, element);
        headers.insert(PROTO, HeaderValue::from_static(scheme(self.secure)));
        headers.insert(HOST, host.clone());
        headers.insert(PORT, self.port.clone());
    }
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// One line with all hops, the nearest last.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let mut all = join(headers, &name, b", ");
    if !all.is_empty() {
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(value.as_bytes());
    headers.insert(name, HeaderValue::from_bytes(&all).expect("it is made of header values"));
}

fn join(headers: &HeaderMap, name: &HeaderName, between: &[u8]) -> Vec<u8> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(between)
}

/// HTTP/2 sends cookies one by one; RFC 9113 8.2.3 wants them joined for HTTP/1.1.
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let all = join(headers, &COOKIE, b"; ");
        headers.insert(COOKIE, HeaderValue::from_bytes(&all).expect("it is made of header values"));
    }
}

/// Keeps cookies within their environment, whose `host` is the widest domain that they may name: for browsers all environments
/// are one site, so that a cookie of `example.test` would be sent to each of them. One that is narrowed still reaches all sites
/// that an application in production shares it with. Browsers throw cookies of other domains away by themselves.
///
/// A script can still write such a cookie in the browser; no answer of ours comes by there.
pub fn confine_cookies(headers: &mut HeaderMap, host: &str) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let confined: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|cookie| confined(cookie, host)).collect();
    headers.remove(SET_COOKIE);
    for cookie in confined {
        headers.append(SET_COOKIE, cookie);
    }
}

fn confined(cookie: &HeaderValue, host: &str) -> HeaderValue {
    let is_wide = |part: &&[u8]| {
        let Some(equals) = part.iter().position(|byte| *byte == b'=') else { return false };
        let (name, value) = (part[..equals].trim_ascii(), part[equals + 1..].trim_ascii());
        let value = value.strip_prefix(b".").unwrap_or(value);
        let above = host.len().checked_sub(value.len()).filter(|length| *length > 0).map(|start| host.as_bytes().split_at(start));
        name.eq_ignore_ascii_case(b"domain")
            && !value.is_empty()
            && above.is_some_and(|(before, rest)| before.ends_with(b".") && rest.eq_ignore_ascii_case(value))
    };
    let parts: Vec<_> = cookie.as_bytes().split(|byte| *byte == b';').collect();
    if !parts.iter().skip(1).any(is_wide) {
        return cookie.clone();
    }
    let narrowed = format!(" Domain={host}");
    // What comes before the first semicolon is the cookie itself, whatever it looks like.
    let parts = parts.iter().enumerate().map(|(at, part)| if at > 0 && is_wide(part) { narrowed.as_bytes() } else { *part });
    HeaderValue::from_bytes(&parts.collect::<Vec<_>>().join(&b';')).expect("it is made of a header value and a host name")
}

/// The value of one cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    all.filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn cookies_stay_in_their_environment() {
        let host = "1161.shop.example.test";
        for (set, kept) in [
            ("a=1; Domain=example.test; Path=/", "a=1; Domain=1161.shop.example.test; Path=/"),
            ("a=1;domain=.SHOP.example.TEST", "a=1; Domain=1161.shop.example.test"),
            ("a=1; DOMAIN = test ", "a=1; Domain=1161.shop.example.test"),
            ("a=1; Domain=x.test; Domain=example.test", "a=1; Domain=x.test; Domain=1161.shop.example.test"),
            ("a=1; Domain=1161.shop.example.test", "a=1; Domain=1161.shop.example.test"),
            ("a=1; Domain=www.1161.shop.example.test", "a=1; Domain=www.1161.shop.example.test"),
            ("a=1; Domain=ample.test", "a=1; Domain=ample.test"),
            ("a=1; Domain=shop.com; Secure", "a=1; Domain=shop.com; Secure"),
            ("domain=example.test; HttpOnly", "domain=example.test; HttpOnly"),
            ("a=1; Domain=; Path=/", "a=1; Domain=; Path=/"),
        ] {
            let mut headers = map(&[("set-cookie", "b=2"), ("set-cookie", "b=3")]);
            headers.append(SET_COOKIE, HeaderValue::from_static(set));
            confine_cookies(&mut headers, host);
            let all: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(all.last(), Some(&kept), "{set}");
        }
    }

    #[test]
    fn what_is_for_one_hop_ends_there() {
        let mut headers = map(&[
            ("connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("te", "gzip, Trailers"),
            ("keep-alive", "5"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ]);
        drop_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("te", "trailers"), ("x-kept", "1")]));
    }

    #[test]
    fn a_client_is_introduced_by_us_unless_it_is_trusted() {
        let host = HeaderValue::from_static("www.test:8443");
        let claims = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "http"), ("x-real-ip", "1.1.1.1")]);
        let mut headers = claims.clone();
        Client::new("10.0.0.1".parse().unwrap(), 443, true, false).introduce(&mut headers, &host);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["forwarded"], "for=10.0.0.1;proto=https;host=\"www.test:8443\"");
        assert!(!headers.contains_key("x-real-ip"));
        let mut headers = claims;
        Client::new("fd00::1".parse().unwrap(), 443, true, true).introduce(&mut headers, &host);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, fd00::1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["forwarded"], "for=\"[fd00::1]\";proto=https;host=\"www.test:8443\"");
    }

    #[test]
    fn cookies_are_found_and_joined() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2; c=3"));
        assert_eq!(cookie(&headers, "c"), Some("3"));
        join_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=1; b=2; c=3");
    }
}
