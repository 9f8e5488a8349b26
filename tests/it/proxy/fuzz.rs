//! Damaged requests and frames through the real front door to a backend that believes nothing.
//!
//! What holds for whatever bytes: the backend is sent nothing that could be read in two ways, it never gets more requests than
//! the proxy counted, no thread panics, and the next client is served. A thousand rounds each in `make test`.

use std::io::{Read, Write};
use std::time::Duration;

use adt::proxy::Limits;

use super::frames::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS};
use super::witness::Witness;
use super::{HOST, World, routes, until, world_with};
use crate::dice::{Dice, rounds};

/// What people who smuggle requests write.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\x0b",
    b"\0",
    b":",
    b",",
    b";",
    b"0",
    b"Content-Length: 0\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n",
    b"Connection: Content-Length, Transfer-Encoding, Host\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Host: evil.test\r\n",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n",
    b"GET /hidden HTTP/1.1\r\nHost: www.1161.shop.example.test\r\n\r\n",
    b"HTTP/1.0",
];

fn http1_seeds() -> Vec<Vec<u8>> {
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let length = hidden.len();
    [
        format!("GET /a?b HTTP/1.1\r\nHost: {HOST}\r\nCookie: a=b\r\nTE: trailers\r\n\r\n{hidden}"),
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{length:x};a=b\r\n{hidden}\r\n0\r\nX-A: b\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{hidden}"),
        format!("GET http://{HOST}/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n{hidden}"),
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n{hidden}"),
    ]
    .map(String::into_bytes)
    .into()
}

/// Frames that are whole but say odd things, and then the damage that any bytes get.
fn http2(dice: &mut Dice) -> Vec<u8> {
    let names: &[&[u8]] =
        &[b"x-a", b"host", b"content-length", b"transfer-encoding", b"te", b"cookie", b":path", b"expect", b"X-A", b""];
    let mut bytes = frames::preface();
    for number in 0..1 + dice.roll(4) as u32 {
        let stream = number * 2 + 1;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut lines = vec![(":method", "POST".to_owned()), (":scheme", "http".into()), (":path", "/h2".into())];
        lines.push((":authority", HOST.into()));
        for _ in 0..dice.roll(3) {
            let name = if dice.roll(3) == 0 { std::str::from_utf8(dice.pick(names)).unwrap() } else { "x-b" };
            let mut value = text(dice.pick(&[b"1", b"3", b"trailers", b"chunked", b"/x", b"a=b"]));
            if dice.roll(6) == 0 {
                value += &text(dice.pick(WORDS));
            }
            lines.insert(dice.roll(lines.len() + 1), (name, value));
        }
        let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let block = frames::block(&lines);
        let end = dice.roll(2) as u8 * END_STREAM;
        if dice.roll(4) == 0 {
            let cut = dice.roll(block.len());
            bytes.extend(frames::frame(HEADERS, end, stream, &block[..cut]));
            bytes.extend(frames::frame(CONTINUATION, END_HEADERS, stream, &block[cut..]));
        } else {
            bytes.extend(frames::frame(HEADERS, END_HEADERS | end, stream, &block));
        }
        if end == 0 {
            let body = dice.pick(WORDS);
            bytes.extend(frames::frame(DATA, u8::from(dice.roll(8) > 0) * END_STREAM, stream, body));
        }
        if dice.roll(4) == 0 {
            let kind = dice.roll(11) as u8;
            bytes.extend(frames::frame(kind, dice.roll(256) as u8, dice.roll(4) as u32, dice.pick(WORDS)));
        }
    }
    bytes
}

/// How many requests the proxy took for this site, however they ended.
fn counted(world: &World) -> u64 {
    let metrics = world.server.metrics();
    let of_sites = metrics.lines().filter(|line| line.starts_with("adt_proxy_requests_total{"));
    of_sites.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn throw(make: impl Fn(&mut Dice) -> Vec<u8>) {
    let witness = Witness::new();
    let limits = Limits { head: Duration::from_secs(1), silence: Duration::from_secs(1), ..Limits::default() };
    let world = world_with(routes(&[witness.address]), limits);
    let mut dice = Dice::new();
    let mut arrived = 0;
    for round in 0..rounds(1000) {
        let mut bytes = make(&mut dice);
        if dice.roll(3) > 0 {
            dice.damage(&mut bytes, WORDS);
        }
        let mut stream = world.connect();
        // Mostly in one piece, at times in two, so that the reader has to wait in the middle.
        let cut = if dice.roll(4) == 0 { dice.roll(bytes.len()) } else { bytes.len() };
        let _ = stream.write_all(&bytes[..cut]);
        stream.set_read_timeout(Some(Duration::from_millis(3))).unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&bytes[cut..]);
        while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
        drop(stream);
        if round % 250 == 249 {
            until("the end of all connections", || world.server.connections() == 0);
            arrived += witness.take().len() as u64;
            let counted = counted(&world);
            assert!(arrived <= counted, "round {round}: {arrived} requests arrived of {counted} that were sent");
            assert_eq!(world.get(HOST, "/after").status, 200, "round {round}");
        }
    }
    println!("{} rounds, {arrived} requests arrived", rounds(1000));
    assert!(arrived > rounds(1000) as u64 / 20, "hardly anything got through, so hardly anything was tried");
}

#[test]
fn damaged_http1_hides_nothing() {
    let seeds = http1_seeds();
    throw(|dice| seeds[dice.roll(seeds.len())].clone());
}

#[test]
fn damaged_http2_hides_nothing() {
    throw(http2);
}
