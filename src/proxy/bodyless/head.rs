//! The head of an answer: found, parsed, and asked where its body ends (RFC 9112 6.3).

use bytes::{Bytes, BytesMut};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{StatusCode, Version};

use super::Error;
use crate::proxy::headers::is_coded;

/// More than any server lets its own applications say; so much may wait in memory for each request that is asked.
const LONGEST: usize = 64 << 10;
const FIELDS: usize = 128;
/// `103 Early Hints` and the like, before the answer.
const INTERIM: usize = 16;

/// How far a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// To the end of the connection.
    Close,
}

#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection may have another request.
    pub is_kept: bool,
}

/// Looks for the end of a head as bytes come, at each of them once: one that comes byte by byte is not parsed for each.
#[derive(Default)]
pub struct Search {
    seen: usize,
    interim: usize,
}

impl Search {
    /// Takes the head out of the buffer, once all of it is there.
    pub fn find(&mut self, buffer: &mut BytesMut, answers_head: bool) -> Result<Option<Head>, Error> {
        loop {
            if buffer.first().is_some_and(|first| *first != b'H') {
                return Err(Error::Wrong("what is no HTTP"));
            }
            let from = self.seen.saturating_sub(3);
            let Some(end) = end(&buffer[from..]) else {
                self.seen = buffer.len();
                return if buffer.len() > LONGEST { Err(Error::Wrong("a head that is too long")) } else { Ok(None) };
            };
            let (version, status, headers) = parse(buffer.split_to(from + end).freeze())?;
            self.seen = 0;
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(Error::Wrong("another protocol, without being asked"));
            }
            if !status.is_informational() {
                return settle(version, status, headers, answers_head).map(Some);
            }
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(Error::Wrong("too many words before an answer"));
            }
        }
    }
}

/// Behind the empty line. Lines may end without the carriage return (RFC 9112 2.2).
fn end(bytes: &[u8]) -> Option<usize> {
    let mut rest = 0;
    while let Some(at) = bytes[rest..].iter().position(|byte| *byte == b'\n') {
        rest += at + 1;
        match bytes[rest..] {
            [b'\n', ..] => return Some(rest + 1),
            [b'\r', b'\n', ..] => return Some(rest + 2),
            _ => {}
        }
    }
    None
}

fn parse(head: Bytes) -> Result<(Version, StatusCode, HeaderMap), Error> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(&head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Error::Wrong("too many fields")),
        Ok(_) | Err(_) => return Err(Error::Wrong("a head that is no HTTP")),
    }
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Error::Wrong("no status that there is"))?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Error::Wrong("a field without a proper name"))?;
        // The value stays where it was read.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        headers.append(name, value.map_err(|_| Error::Wrong("a field with forbidden bytes"))?);
    }
    Ok((version, status, headers))
}

fn settle(version: Version, status: StatusCode, mut headers: HeaderMap, answers_head: bool) -> Result<Head, Error> {
    let has = |word: &str| {
        let all = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        all.into_iter().any(|said| said.trim().eq_ignore_ascii_case(word))
    };
    let mut is_kept = !has("close") && (version == Version::HTTP_11 || has("keep-alive"));
    let length = length(&headers)?;
    if let Some(length) = length {
        // Said once from here on.
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let framing = if answers_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        Framing::Length(0)
    } else if headers.contains_key(TRANSFER_ENCODING) {
        if version == Version::HTTP_10 || is_coded(&headers) {
            return Err(Error::Wrong("a coding that nobody asked for"));
        }
        // Two ways to say where it ends: the chunks count, the other is not passed on, and nobody trusts what comes behind.
        is_kept &= headers.remove(CONTENT_LENGTH).is_none();
        Framing::Chunked
    } else {
        length.map_or(Framing::Close, Framing::Length)
    };
    is_kept &= framing != Framing::Close;
    Ok(Head { status, headers, framing, is_kept })
}

/// Said more than once, it has to be the same.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for said in value.as_bytes().split(|byte| *byte == b',') {
            let said = said.trim_ascii();
            let digits = Some(said).filter(|said| !said.is_empty() && said.iter().all(u8::is_ascii_digit));
            let said = digits.and_then(|said| std::str::from_utf8(said).ok()?.parse::<u64>().ok());
            let said = said.ok_or(Error::Wrong("a length that is no number"))?;
            if length.is_some_and(|length| length != said) {
                return Err(Error::Wrong("two lengths"));
            }
            length = Some(said);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(text: &str, answers_head: bool) -> Result<Option<Head>, Error> {
        Search::default().find(&mut BytesMut::from(text), answers_head)
    }

    fn told(text: &str) -> String {
        match find(text, false) {
            Ok(Some(head)) => {
                format!("{} {:?}{}", head.status.as_u16(), head.framing, if head.is_kept { "" } else { ", closed" })
            }
            Ok(None) => "more".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_answer_ends_in_one_way_or_is_refused() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 Length(5)"),
            ("HTTP/1.1 200\nContent-Length: 5\n\n", "200 Length(5)"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\n", "200 Length(5)"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "it answered with two lengths"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", "it answered with a length that is no number"),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "it answered with a length that is no number"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", "it answered with a length that is no number"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 Chunked"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "200 Chunked, closed"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "it answered with a coding that nobody asked for"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", "it answered with a coding that nobody asked for"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "it answered with a coding that nobody asked for",
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "it answered with a coding that nobody asked for"),
            ("HTTP/1.1 200 OK\r\n\r\n", "200 Close, closed"),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\n", "200 Length(5), closed"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", "200 Length(5), closed"),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", "200 Length(5)"),
            ("HTTP/1.1 204 No Content\r\n\r\n", "204 Length(0)"),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304 Length(0)"),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
                "204 Length(0)",
            ),
            ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "it answered with another protocol, without being asked"),
            ("HTTP/1.1 200 OK\r\nContent-Le", "more"),
            ("", "more"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "it answered with what is no HTTP"),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", "it answered with what is no HTTP"),
            ("HTTP/3 200 OK\r\n\r\n", "it answered with a head that is no HTTP"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "it answered with a head that is no HTTP"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "it answered with a head that is no HTTP"),
            ("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", "it answered with a head that is no HTTP"),
        ] {
            assert_eq!(told(text), expected, "{text:?}");
        }
        let answer = find("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true).unwrap().unwrap();
        assert_eq!((answer.framing, answer.headers[CONTENT_LENGTH].as_bytes()), (Framing::Length(0), &b"5"[..]));
    }

    #[test]
    fn a_head_has_its_limits() {
        let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(told(&fields(FIELDS)), "200 Close, closed");
        assert_eq!(told(&fields(FIELDS + 1)), "it answered with too many fields");
        assert_eq!(told(&format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(LONGEST))), "it answered with a head that is too long");
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(told(&interim.repeat(INTERIM)), "more");
        assert_eq!(told(&interim.repeat(INTERIM + 1)), "it answered with too many words before an answer");
    }

    proptest! {
        /// However it is cut into pieces, and whatever it is, it is the same answer, and what is behind the head stays.
        #[test]
        fn pieces_change_nothing(
            text in r"(HTTP/1\.1 100 C\r\n\r\n)?HTTP/1\.[01] [2-5]0[04] [ -~]{0,4}\r?\n(([a-cX-]{1,3}: ?[ -~]{0,5}|content-length: ?[0-9]{0,2}|transfer-encoding: chunked|connection: close)\r?\n){0,3}\r?\n[ -~\r\n]{0,9}",
            cuts in proptest::collection::vec(1usize..9, 0..40),
        ) {
            let whole = {
                let mut buffer = BytesMut::from(&text[..]);
                let found = Search::default().find(&mut buffer, false);
                (format!("{found:?}"), found.is_ok().then(|| buffer.to_vec()))
            };
            let (mut search, mut buffer, mut rest) = (Search::default(), BytesMut::new(), text.as_bytes());
            let mut cuts = cuts.into_iter();
            let pieces = loop {
                let count = cuts.next().unwrap_or(rest.len()).min(rest.len());
                buffer.extend_from_slice(&rest[..count]);
                rest = &rest[count..];
                let found = search.find(&mut buffer, false);
                if !matches!(found, Ok(None)) || rest.is_empty() {
                    buffer.extend_from_slice(rest);
                    break (format!("{found:?}"), found.is_ok().then(|| buffer.to_vec()));
                }
            };
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut text = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
            text.extend_from_slice(&bytes);
            text.extend_from_slice(b"\r\n\r\n");
            let _ = Search::default().find(&mut text, false);
        }
    }
}
