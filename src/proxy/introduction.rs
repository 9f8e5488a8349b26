//! Whom a load balancer in front speaks for: the header of the PROXY protocol that it begins a connection with, as its authors at
//! haproxy.org describe versions 1 and 2.
//!
//! Not one byte behind the header is taken: what follows is TLS's or HTTP's. It is read of those alone whom a target names, and
//! they owe it: a header that is sometimes there is one that a client can write itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Load balancers send it with their first packet.
pub const PATIENCE: Duration = Duration::from_secs(5);

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// Of version 2: addresses, and what else there is to tell. A client's certificate, told as well, has room in it.
const LONGEST_BODY: u16 = 4096;

/// `None` where the other speaks for itself, as for its own checks.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    // No header of either version is shorter.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if &start == SIGNATURE { body(stream).await } else { line(start.to_vec(), stream).await }
}

fn wrong() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

async fn line(mut line: Vec<u8>, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    if !line.starts_with(b"PROXY ") {
        return Err(wrong());
    }
    // Where the line ends is known at its last byte only.
    while !line.ends_with(b"\n") {
        if line.len() == LONGEST_LINE {
            return Err(wrong());
        }
        line.push(stream.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or_else(wrong)?;
    told(line).ok_or_else(wrong)
}

/// What a line says; `None` where it says nothing that may be believed.
fn told(line: &str) -> Option<Option<IpAddr>> {
    let words: Vec<_> = line.split(' ').collect();
    let is_port = |word: &str| word.bytes().all(|b| b.is_ascii_digit()) && word.parse::<u16>().is_ok();
    match words[..] {
        // What comes behind it is to be passed over.
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", "TCP4", client, here, from, to] if is_port(from) && is_port(to) => {
            here.parse::<Ipv4Addr>().ok()?;
            Some(Some(client.parse::<Ipv4Addr>().ok()?.into()))
        }
        ["PROXY", "TCP6", client, here, from, to] if is_port(from) && is_port(to) => {
            here.parse::<Ipv6Addr>().ok()?;
            Some(Some(client.parse::<Ipv6Addr>().ok()?.into()))
        }
        _ => None,
    }
}

async fn body(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let (command, family, length) = (stream.read_u8().await?, stream.read_u8().await?, stream.read_u16().await?);
    if length > LONGEST_BODY {
        return Err(wrong());
    }
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await?;
    match (command, family) {
        // LOCAL: the other's own connection, whatever else it says.
        (0x20, _) => Ok(None),
        // PROXY, for a client that has no address, or one of no network.
        (0x21, 0x00 | 0x31) => Ok(None),
        (0x21, 0x11) if body.len() >= 12 => Ok(Some(Ipv4Addr::from(*body.first_chunk().expect("it is long enough")).into())),
        (0x21, 0x21) if body.len() >= 36 => Ok(Some(Ipv6Addr::from(*body.first_chunk().expect("it is long enough")).into())),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::{Dice, rounds};

    fn said(mut bytes: &[u8]) -> Option<(Option<IpAddr>, usize)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let said = runtime.block_on(read(&mut bytes)).ok()?;
        Some((said, bytes.len()))
    }

    fn second(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    #[test]
    fn a_line_names_the_client_and_nothing_behind_it_is_taken() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (line, client) in [
            ("PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n", ip("198.51.100.7")),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n", ip("2001:db8::7")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ff:f 1.2.3.4 x\r\n", None),
        ] {
            assert_eq!(said(format!("{line}GET /").as_bytes()), Some((client, 5)), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!((long.len(), said(long.as_bytes())), (107, Some((None, 0))));
        for line in [
            "",
            "GET / HTTP/1.1\r\n\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324 443",
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324 443 \r\n",
            "PROXY TCP4  198.51.100.7 192.0.2.1 56324 443\r\n",
            "PROXY TCP4 198.51.100.07 192.0.2.1 56324 443\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 +1 443\r\n",
            "PROXY TCP4 198.51.100.7 192.0.2.1 56324 65536\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY TCP6 198.51.100.7 192.0.2.1 1 2\r\n",
            "PROXY UDP4 198.51.100.7 192.0.2.1 1 2\r\n",
            "proxy tcp4 198.51.100.7 192.0.2.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)),
            &"PROXY ".repeat(100),
        ] {
            assert_eq!(said(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_header_in_bytes_names_the_client_and_is_bounded() {
        let v4 = [198, 51, 100, 7, 192, 0, 2, 1, 0, 1, 0, 2];
        let v6 = [Ipv6Addr::LOCALHOST.octets().as_slice(), &[0; 20]].concat();
        let more = [v4.as_slice(), &[0xee; 4084]].concat();
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (bytes, client) in [
            (second(0x21, 0x11, &v4), ip("198.51.100.7")),
            (second(0x21, 0x11, &more), ip("198.51.100.7")),
            (second(0x21, 0x21, &v6), ip("::1")),
            (second(0x20, 0x00, &[]), None),
            (second(0x20, 0x11, &v4), None),
            (second(0x21, 0x00, &v4), None),
            (second(0x21, 0x31, &[0; 216]), None),
        ] {
            assert_eq!(said(&[&bytes, b"rest".as_slice()].concat()), Some((client, 4)), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(said(&bytes[..cut]), None, "{cut} of {bytes:?}");
            }
        }
        for bytes in [
            second(0x21, 0x11, &v4[..11]),
            second(0x21, 0x21, &v6[..35]),
            second(0x21, 0x12, &v4),
            second(0x21, 0x41, &v4),
            second(0x22, 0x11, &v4),
            second(0x11, 0x11, &v4),
            second(0x21, 0x11, &[&more, b"x".as_slice()].concat()),
            second(0x20, 0x00, &[0; 65_535]),
        ] {
            assert_eq!(said(&bytes), None, "{:?}", &bytes[..16]);
        }
    }

    #[test]
    fn any_bytes_are_a_header_to_its_end_or_none() {
        let seeds = [
            b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
            [second(0x21, 0x21, &[7; 60]), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat(),
            [second(0x20, 0, &[]), b"\x16\x03\x01".to_vec()].concat(),
        ];
        let words = [SIGNATURE.as_slice(), b"PROXY ", b"UNKNOWN", b"\r\n", b"::", b"\xff\xff", b" "];
        let (mut dice, mut headers) = (Dice::new(), 0);
        for _ in 0..rounds(20_000) {
            let bytes = dice.damaged(&seeds, &words);
            let Some((_, left)) = said(&bytes) else { continue };
            let taken = &bytes[..bytes.len() - left];
            let end = match taken.strip_prefix(SIGNATURE) {
                Some(rest) => 16 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
                None => taken.iter().position(|byte| *byte == b'\n').unwrap() + 1,
            };
            assert_eq!(taken.len(), end, "{bytes:?}");
            headers += 1;
        }
        assert!(headers > 0);
    }
}
