//! HTTP/2 by hand: what no library sends.

use std::io::{Read, Write};
use std::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a client says first, with empty settings.
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals, in which anything can be said.
pub fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        for text in [name, value] {
            // RFC 7541 5.1: seven bits, then the rest seven by seven.
            if text.len() < 127 {
                block.push(u8::try_from(text.len()).unwrap());
            } else {
                block.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A request's head with the usual pseudo headers and more.
pub fn request(stream: u32, host: &str, more: &[(&str, &str)], end: u8) -> Vec<u8> {
    let usual = [(":method", "POST"), (":scheme", "http"), (":path", "/h2"), (":authority", host)];
    frame(HEADERS, END_HEADERS | end, stream, &block(&[&usual, more].concat()))
}

/// How the proxy ended stream 1.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With headers, of which the first byte says the status where it is a common one.
    Answered(u16),
    Reset,
    /// The whole connection.
    Closed,
}

pub fn end(stream: &mut TcpStream) -> End {
    let mut head = [0; 9];
    loop {
        if stream.read_exact(&mut head).is_err() {
            return End::Closed;
        }
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            return End::Closed;
        }
        match (head[3], head[8]) {
            (SETTINGS, _) if head[4] == 0 => drop(stream.write_all(&frame(SETTINGS, 1, 0, &[]))),
            (GOAWAY, _) => return End::Closed,
            (RST_STREAM, 1) => return End::Reset,
            (HEADERS, 1) => {
                let common = [200, 204, 206, 304, 400, 404, 500];
                let index = payload.first().map_or(0, |byte| usize::from(byte.saturating_sub(0x88)));
                return End::Answered(common.get(index).copied().unwrap_or(0));
            }
            _ => {}
        }
    }
}
