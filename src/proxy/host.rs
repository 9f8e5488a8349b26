//! Which host a request is for.

use std::borrow::Cow;

use hyper::Request;
use hyper::header::HOST;

/// A request without one name, or with one that can't be a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad;

/// What the client wrote (`WWW.1161.shop.example.test.:8080`), and what it means (`www.1161.shop.example.test`).
#[derive(Debug, PartialEq, Eq)]
pub struct Host<'a> {
    pub authority: &'a str,
    pub name: Cow<'a, str>,
}

/// RFC 9112 3.2: exactly one Host; the authority of an absolute form, as HTTP/2 always has it, goes before it.
pub fn of<B>(request: &Request<B>) -> Result<Host<'_>, Bad> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Bad);
    }
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().map_err(|_| Bad)?,
        (None, None) => return Err(Bad),
    };
    Ok(Host { authority, name: name(authority)? })
}

/// Without port and final dot, in lower case.
pub fn name(authority: &str) -> Result<Cow<'_, str>, Bad> {
    let (name, port) = match authority.strip_prefix('[') {
        // An address in brackets is no name of ours, but it is well-formed.
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Bad)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| Bad)?;
            (address, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or(Bad)?)
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || port.len() > 5 || port.parse::<u32>().is_ok_and(|port| port > 65_535) {
        return Err(Bad);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    if name.is_empty()
        || name.len() > 253
        || !name.bytes().all(letter)
        || name.starts_with('.')
        || name.ends_with('.')
        || name.contains("..")
    {
        return Err(Bad);
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_from_what_is_none() {
        for (written, means) in [
            ("www.example.test", "www.example.test"),
            ("WWW.Example.TEST", "www.example.test"),
            ("www.example.test.", "www.example.test"),
            ("www.example.test:8080", "www.example.test"),
            ("www.example.test.:8080", "www.example.test"),
            ("www.example.test:", "www.example.test"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "::1"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(name(written).as_deref(), Ok(means), "{written}");
        }
        for written in [
            "", ".", ":80", "a..b", ".a", "a b", "a/b", "user@a", "a:b", "a:99999", "a:123456", "a,b", "[::1", "[x]:80",
            "[::1]x", "ä", "a%00", "a..", "a<b>",
        ] {
            assert_eq!(name(written), Err(Bad), "{written}");
        }
        assert_eq!(name(&"a".repeat(254)), Err(Bad));
    }
}
