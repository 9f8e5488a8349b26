//! The body of an answer, as far as its head said, and what becomes of the connection behind it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::body::{Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};

use super::head::Framing;
use super::{Connection, Error};

/// Of the line before a chunk, and of all trailers.
const LONGEST_LINE: usize = 4 << 10;
const LONGEST_TRAILERS: usize = 16 << 10;
const TRAILERS: usize = 64;

pub struct Body {
    /// Gone once it broke or was given back.
    connection: Option<Box<Connection>>,
    place: Place,
    is_kept: bool,
}

/// Where in the body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Within(u64),
    ToTheEnd,
    /// Before a chunk's size, within a chunk, behind its last byte.
    Size,
    Chunk(u64),
    Behind,
    Trailers,
    Over,
}

enum Found {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Nothing without more bytes.
    Nothing,
}

impl Body {
    pub(super) fn new(connection: Connection, framing: Framing, is_kept: bool) -> Self {
        let place = match framing {
            Framing::Length(0) => Place::Over,
            Framing::Length(length) => Place::Within(length),
            Framing::Chunked => Place::Size,
            Framing::Close => Place::ToTheEnd,
        };
        Self { connection: Some(Box::new(connection)), place, is_kept }
    }

    pub fn is_over(&self) -> bool {
        self.place == Place::Over
    }

    pub fn size(&self) -> SizeHint {
        match self.place {
            Place::Within(left) => SizeHint::with_exact(left),
            Place::Over => SizeHint::with_exact(0),
            Place::ToTheEnd | Place::Size | Place::Chunk(_) | Place::Behind | Place::Trailers => SizeHint::default(),
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            let error = match self.place.next(&mut connection.buffer) {
                Ok(Found::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Found::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Found::Nothing) if self.place == Place::Over => return Poll::Ready(None),
                Ok(Found::Nothing) => match ready!(connection.poll_fill(cx)) {
                    Ok(0) if self.place == Place::ToTheEnd => {
                        self.place = Place::Over;
                        continue;
                    }
                    Ok(0) => Error::Io(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => continue,
                    Err(error) => error.into(),
                },
                Err(error) => error,
            };
            self.connection = None;
            return Poll::Ready(Some(Err(error)));
        }
    }

    /// The connection for another request, if the body is read to its end and nothing came behind it that nobody asked for.
    pub fn take_connection(&mut self) -> Option<Connection> {
        let connection = self.connection.take().filter(|_| self.is_kept && self.is_over())?;
        connection.buffer.is_empty().then(|| connection.rested())
    }
}

impl Place {
    /// What is in the buffer next.
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Found, Error> {
        loop {
            match *self {
                Self::Over => return Ok(Found::Nothing),
                _ if buffer.is_empty() => return Ok(Found::Nothing),
                Self::ToTheEnd => return Ok(Found::Data(buffer.split().freeze())),
                Self::Within(left) => {
                    let data = take(buffer, left);
                    let left = left - data.len() as u64;
                    *self = if left == 0 { Self::Over } else { Self::Within(left) };
                    return Ok(Found::Data(data));
                }
                Self::Chunk(left) => {
                    let data = take(buffer, left);
                    let left = left - data.len() as u64;
                    *self = if left == 0 { Self::Behind } else { Self::Chunk(left) };
                    return Ok(Found::Data(data));
                }
                Self::Size => match size(buffer)? {
                    None => return Ok(Found::Nothing),
                    Some(0) => *self = Self::Trailers,
                    Some(size) => *self = Self::Chunk(size),
                },
                Self::Behind => match buffer[..] {
                    [b'\r', b'\n', ..] => {
                        let _ = buffer.split_to(2);
                        *self = Self::Size;
                    }
                    [b'\r'] => return Ok(Found::Nothing),
                    _ => return Err(Error::Wrong("a chunk that is longer than it says")),
                },
                Self::Trailers => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(Found::Nothing) };
                    *self = Self::Over;
                    return Ok(if trailers.is_empty() { Found::Nothing } else { Found::Trailers(trailers) });
                }
            }
        }
    }
}

fn take(buffer: &mut BytesMut, most: u64) -> Bytes {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
    buffer.split_to(count).freeze()
}

/// Takes the line before a chunk, once it is there.
fn size(buffer: &mut BytesMut) -> Result<Option<u64>, Error> {
    match httparse::parse_chunk_size(buffer) {
        Ok(httparse::Status::Complete((length, size))) => {
            let _ = buffer.split_to(length);
            Ok(Some(size))
        }
        Ok(httparse::Status::Partial) if buffer.len() <= LONGEST_LINE => Ok(None),
        Ok(httparse::Status::Partial) => Err(Error::Wrong("a chunk whose size has no end")),
        Err(_) => Err(Error::Wrong("a chunk without a size")),
    }
}

/// Takes all of them, once their end is there.
fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Error> {
    let wrong = Error::Wrong("trailers that are no HTTP");
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS];
    let (length, fields) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) if buffer.len() <= LONGEST_TRAILERS => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Error::Wrong("trailers without an end")),
        Err(_) => return Err(wrong),
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let (name, value) = (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(wrong) };
        trailers.append(name, value);
    }
    let _ = buffer.split_to(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes of these bytes, in pieces of at most so many: data, trailers, what is behind it, and how it ended.
    fn read(place: Place, bytes: &[u8], piece: usize) -> (Vec<u8>, usize, Vec<u8>, String) {
        let (mut place, mut buffer, mut data, mut trailers) = (place, BytesMut::new(), Vec::new(), 0);
        let mut rest = bytes;
        loop {
            match place.next(&mut buffer) {
                Ok(Found::Data(more)) => data.extend_from_slice(&more),
                Ok(Found::Trailers(more)) => trailers += more.len(),
                Ok(Found::Nothing) if place == Place::Over || rest.is_empty() => break,
                Ok(Found::Nothing) => {
                    let count = piece.min(rest.len());
                    buffer.extend_from_slice(&rest[..count]);
                    rest = &rest[count..];
                }
                Err(error) => return (data, trailers, Vec::new(), error.to_string()),
            }
        }
        buffer.extend_from_slice(rest);
        (data, trailers, buffer.to_vec(), if place == Place::Over { "over".into() } else { "open".into() })
    }

    #[test]
    fn a_body_ends_where_it_says() {
        let chunked = |text: &str| read(Place::Size, text.as_bytes(), usize::MAX);
        let expect = |data: &str, trailers, behind: &str, end: &str| {
            (data.as_bytes().to_vec(), trailers, behind.as_bytes().to_vec(), end.to_owned())
        };
        assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\nHTTP"), expect("hello", 0, "HTTP", "over"));
        assert_eq!(chunked("5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\nC: d\r\n\r\n"), expect("hello!", 2, "", "over"));
        assert_eq!(chunked("5\r\nhello\r\n0\r\n"), expect("hello", 0, "", "open"));
        assert_eq!(chunked("5\r\nhello!\r\n"), expect("hello", 0, "", "it answered with a chunk that is longer than it says"));
        assert_eq!(chunked("-5\r\nhello"), expect("", 0, "", "it answered with a chunk without a size"));
        assert_eq!(chunked("11111111111111111\r\n"), expect("", 0, "", "it answered with a chunk without a size"));
        assert_eq!(chunked("0\r\nA b\r\n\r\n"), expect("", 0, "", "it answered with trailers that are no HTTP"));
        let endless = format!("5;{}", "a".repeat(LONGEST_LINE));
        assert_eq!(chunked(&endless).3, "it answered with a chunk whose size has no end");
        let endless = format!("0\r\nA: {}", "a".repeat(LONGEST_TRAILERS));
        assert_eq!(chunked(&endless).3, "it answered with trailers without an end");
        assert_eq!(read(Place::Within(5), b"hello HTTP", 3), expect("hello", 0, " HTTP", "over"));
        assert_eq!(read(Place::ToTheEnd, b"hello", 3), expect("hello", 0, "", "open"));
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(bytes in r"([0-3];?\r?\n[a-c]{0,4}\r?\n){0,4}(0\r\n)?([AB]: c\r\n){0,2}\r\n[xyz]{0,3}", piece in 1usize..6) {
            let whole = read(Place::Size, bytes.as_bytes(), usize::MAX);
            prop_assert_eq!(read(Place::Size, bytes.as_bytes(), piece), whole);
        }

        #[test]
        fn what_is_sent_in_chunks_is_what_comes(pieces in proptest::collection::vec("[a-z]{1,40}", 0..8), piece in 1usize..50) {
            let mut bytes = String::new();
            pieces.iter().for_each(|piece| bytes.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len())));
            bytes.push_str("0\r\n\r\n");
            let (data, _, behind, end) = read(Place::Size, bytes.as_bytes(), piece);
            prop_assert_eq!((String::from_utf8(data).unwrap(), behind.len(), end), (pieces.concat(), 0, "over".to_owned()));
        }
    }
}
