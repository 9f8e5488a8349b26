//! The head of an answer, from whoever answers: it may be long, slow or none at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use crate::model::route::OWN_PAGE;

pub const PATIENCE: Duration = Duration::from_secs(5);
/// Its machine says how long it is.
const LONGEST: u64 = 64 << 10;

/// What of an answer is needed here.
pub struct Head {
    pub status: String,
    /// The proxy itself answers, no machine.
    pub own_page: bool,
}

impl Head {
    pub fn get(host: &str, path: &str, mut stream: impl Read + Write) -> std::io::Result<Self> {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: adt\r\nConnection: close\r\n\r\n")?;
        let patient = Patient { stream, until: Instant::now() + PATIENCE };
        let mut lines = BufReader::new(patient.take(LONGEST)).lines();
        let status = lines.next().transpose()?.unwrap_or_default();
        let mut own_page = false;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            own_page |= line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(OWN_PAGE));
        }
        Ok(Self { status, own_page })
    }

    pub fn code(&self) -> Option<u16> {
        self.status.split_whitespace().nth(1)?.parse().ok()
    }
}

/// Each read of a socket has an end; here all of them have one together.
struct Patient<S> {
    stream: S,
    until: Instant,
}

impl<S: Read> Read for Patient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if Instant::now() > self.until {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with this, and counts what is read of it.
    struct Server<R>(R, usize);

    impl<R: Read> Read for Server<R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1 += count;
            Ok(count)
        }
    }

    impl<R> Write for Server<R> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<R: Read> Server<R> {
        fn get(&mut self) -> std::io::Result<Head> {
            Head::get("www", "/", self)
        }
    }

    #[test]
    fn a_head_without_end_ends() {
        let answer = format!("HTTP/1.1 204 No Content\r\nX: y\r\n{OWN_PAGE}: 1\r\n\r\n{OWN_PAGE}: 2\r\n");
        let head = Server(answer.as_bytes(), 0).get().unwrap();
        assert_eq!((head.code(), head.own_page), (Some(204), true));
        let mut endless = Server(answer.as_bytes()[..30].chain(std::io::repeat(b'x')), 0);
        assert_eq!(endless.get().unwrap().code(), Some(204));
        assert!(endless.1 <= 100_000, "{} bytes were read", endless.1);
    }
}
