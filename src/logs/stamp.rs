//! When a line of a log file was written, by the forms that programs write it in. A line without any belongs to the one before it.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::Micros;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What a line does not say itself.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The machine's own time, in seconds east of Greenwich.
    pub offset: i32,
    /// Before it lies whatever has no year.
    pub now: Micros,
}

/// The time at which a line was written, if it says so where known programs do.
pub fn stamp(line: &str, known: Known) -> Option<Micros> {
    let mut at = Scan::new(line);
    at.take(b'[');
    let start = at;
    let forms: [fn(Scan, Known) -> Option<Micros>; 5] = [dated, php, apache_error, redis, syslog];
    forms.iter().find_map(|form| form(start, known)).or_else(|| access(line, known))
}

/// RFC 3339 and its relatives: `2024-01-02T03:04:05.678Z`, PostgreSQL's and RabbitMQ's `2024-01-02 03:04:05.678 UTC`, MariaDB's
/// `2024-01-02  3:04:05`, nginx's `2024/01/02 03:04:05`.
fn dated(mut at: Scan, known: Known) -> Option<Micros> {
    let year = at.number(4, 4)?;
    let separator = at.one_of(b"-/")?;
    let month = at.number(2, 2)?;
    at.take(separator).then_some(())?;
    let day = at.number(2, 2)?;
    at.one_of(b"T ")?;
    at.take(b' ');
    let clock = at.clock()?;
    let offset = at.zone().unwrap_or(known.offset);
    moment([year, month, day], clock, offset)
}

/// `[11-Oct-2023 14:32:52 UTC] PHP Warning: …`
fn php(mut at: Scan, known: Known) -> Option<Micros> {
    let day = at.number(1, 2)?;
    at.take(b'-').then_some(())?;
    let month = at.month()?;
    at.take(b'-').then_some(())?;
    let year = at.number(4, 4)?;
    at.take(b' ').then_some(())?;
    let clock = at.clock()?;
    let offset = at.zone().unwrap_or(known.offset);
    moment([year, month, day], clock, offset)
}

/// `[Wed Oct 11 14:32:52.123456 2023] [core:error] …`
fn apache_error(mut at: Scan, known: Known) -> Option<Micros> {
    at.word(3)?;
    let (month, day, clock) = at.month_day_clock()?;
    at.take(b' ').then_some(())?;
    let year = at.number(4, 4)?;
    moment([year, month, day], clock, known.offset)
}

/// `123:M 01 Jan 2024 12:00:00.123 * Ready`
fn redis(mut at: Scan, known: Known) -> Option<Micros> {
    at.number(1, 7)?;
    at.take(b':').then_some(())?;
    at.one_of(b"MSCX")?;
    at.take(b' ').then_some(())?;
    let day = at.number(2, 2)?;
    at.take(b' ').then_some(())?;
    let month = at.month()?;
    at.take(b' ').then_some(())?;
    let year = at.number(4, 4)?;
    at.take(b' ').then_some(())?;
    let clock = at.clock()?;
    moment([year, month, day], clock, known.offset)
}

/// `Oct 11 14:32:52 web1 app[7]: …`: the year is the last one in which that was not in the future.
fn syslog(mut at: Scan, known: Known) -> Option<Micros> {
    const A_DAY: Micros = 86_400_000_000;
    let (month, day, clock) = at.month_day_clock()?;
    let now = jiff::Timestamp::from_microsecond(known.now).ok()?.to_zoned(TimeZone::UTC);
    let year = i64::from(now.year());
    let in_year = |year| moment([year, month, day], clock, known.offset);
    // The 29th of February is not in every year.
    in_year(year).filter(|time| *time <= known.now + A_DAY).or_else(|| in_year(year - 1))
}

/// `192.0.2.1 - ada [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 …`
fn access(line: &str, _known: Known) -> Option<Micros> {
    // Host, identity and user come before it; the request, which may hold anything, after it.
    let (before, after) = line.split_once('[')?;
    if before.contains('"') {
        return None;
    }
    let mut at = Scan::new(after);
    let day = at.number(2, 2)?;
    at.take(b'/').then_some(())?;
    let month = at.month()?;
    at.take(b'/').then_some(())?;
    let year = at.number(4, 4)?;
    at.take(b':').then_some(())?;
    let clock = at.clock()?;
    let offset = at.zone()?;
    moment([year, month, day], clock, offset)
}

/// Hour, minute, second and nanoseconds.
type Clock = [i64; 4];

fn moment([year, month, day]: [i64; 3], [hour, minute, second, nanos]: Clock, offset: i32) -> Option<Micros> {
    let small = |number: i64| i8::try_from(number).ok();
    let year = i16::try_from(year).ok()?;
    // A leap second is written as the 60th.
    let (second, leap) = if second == 60 { (59, 1_000_000) } else { (second, 0) };
    let nanos = i32::try_from(nanos).ok()?;
    let civil = DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, nanos).ok()?;
    let zone = TimeZone::fixed(Offset::from_seconds(offset).ok()?);
    Some(civil.to_zoned(zone).ok()?.timestamp().as_microsecond() + leap)
}

/// Walks over a line, byte by byte.
#[derive(Debug, Clone, Copy)]
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    fn new(line: &'a str) -> Self {
        Self(line.as_bytes())
    }

    fn take(&mut self, byte: u8) -> bool {
        self.one_of(&[byte]).is_some()
    }

    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        bytes.contains(first).then(|| self.0 = rest)?;
        Some(*first)
    }

    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let count = self.0.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        let follows_digit = rest.first().is_some_and(u8::is_ascii_digit);
        if count < least || follows_digit {
            return None;
        }
        self.0 = rest;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// So many letters and a blank.
    fn word(&mut self, length: usize) -> Option<&'a str> {
        let (word, rest) = self.0.split_at_checked(length)?;
        let letters = word.iter().all(u8::is_ascii_alphabetic);
        let rest = rest.strip_prefix(b" ").filter(|_| letters)?;
        self.0 = rest;
        std::str::from_utf8(word).ok()
    }

    fn month(&mut self) -> Option<i64> {
        let (word, rest) = self.0.split_at_checked(3)?;
        let index = MONTHS.iter().position(|month| month.as_bytes() == word)?;
        self.0 = rest;
        i64::try_from(index + 1).ok()
    }

    /// `Oct  1 14:32:52.123`
    fn month_day_clock(&mut self) -> Option<(i64, i64, Clock)> {
        let month = self.month()?;
        self.take(b' ').then_some(())?;
        self.take(b' ');
        let day = self.number(1, 2)?;
        self.take(b' ').then_some(())?;
        Some((month, day, self.clock()?))
    }

    /// `14:32:52`, perhaps with a fraction behind a dot or a comma.
    fn clock(&mut self) -> Option<Clock> {
        let hour = self.number(1, 2)?;
        self.take(b':').then_some(())?;
        let minute = self.number(2, 2)?;
        self.take(b':').then_some(())?;
        let second = self.number(2, 2)?;
        let mut nanos = 0;
        if matches!(self.0, [b'.' | b',', digit, ..] if digit.is_ascii_digit()) {
            self.0 = &self.0[1..];
            let mut scale = 100_000_000;
            while let Some(digit) = self.one_of(b"0123456789") {
                nanos += i64::from(digit - b'0') * scale;
                scale /= 10;
            }
        }
        Some([hour, minute, second, nanos])
    }

    /// `Z`, ` UTC`, `+01:00`, ` -0700`; other abbreviations mean different things in different places.
    fn zone(&mut self) -> Option<i32> {
        self.take(b' ');
        if self.take(b'Z') || self.0.starts_with(b"UTC") || self.0.starts_with(b"GMT") {
            return Some(0);
        }
        let sign = if self.one_of(b"+-")? == b'-' { -1 } else { 1 };
        let digits = |at: &mut Self| {
            let (tens, ones) = (at.one_of(b"0123456789")?, at.one_of(b"0123456789")?);
            Some(i32::from(tens - b'0') * 10 + i32::from(ones - b'0'))
        };
        let hours = digits(self)?;
        self.take(b':');
        // PostgreSQL writes `+01`.
        let minutes = digits(self).unwrap_or(0);
        (hours <= 15 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Option<String> {
        let now = "2024-03-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let time = stamp(line, Known { offset: 3600, now })?;
        Some(jiff::Timestamp::from_microsecond(time).unwrap().to_string())
    }

    #[test]
    fn known_programs_are_understood() {
        for (line, wanted) in [
            ("2024-01-02T03:04:05.678901Z started", "2024-01-02T03:04:05.678901Z"),
            ("[2024-01-02T03:04:05+01:00] production.ERROR: x", "2024-01-02T02:04:05Z"),
            ("2024-01-02 03:04:05,250 INFO x", "2024-01-02T02:04:05.25Z"),
            ("2024-01-02 03:04:05.678 UTC [77] LOG:  ready", "2024-01-02T03:04:05.678Z"),
            ("2024-01-02 03:04:05.678 CET [77] LOG:  ready", "2024-01-02T02:04:05.678Z"),
            ("2024-01-02 03:04:05.678901+00:00 [info] <0.1.0> x", "2024-01-02T03:04:05.678901Z"),
            ("2024-01-02  3:04:05 0 [Note] InnoDB: x", "2024-01-02T02:04:05Z"),
            ("2024/01/02 03:04:05 [error] 7#7: x", "2024-01-02T02:04:05Z"),
            ("[Wed Oct 11 14:32:52.123456 2023] [core:error] x", "2023-10-11T13:32:52.123456Z"),
            ("[11-Oct-2023 14:32:52 UTC] PHP Warning: x", "2023-10-11T14:32:52Z"),
            ("1:M 01 Jan 2024 12:00:00.123 * Ready", "2024-01-01T11:00:00.123Z"),
            ("Feb 29 14:32:52 web1 app[7]: x", "2024-02-29T13:32:52Z"),
            ("Oct  1 14:32:52 web1 app[7]: x", "2023-10-01T13:32:52Z"),
            ("192.0.2.1 - ada [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 1", "2000-10-10T20:55:36Z"),
            ("www.shop.test:443 ::1 - - [10/Oct/2000:13:55:36 +0000] \"GET /[ HTTP/1.1\" 200 1", "2000-10-10T13:55:36Z"),
            ("2016-12-31T23:59:60Z leap", "2017-01-01T00:00:00Z"),
        ] {
            assert_eq!(read(line).as_deref(), Some(wanted), "{line}");
        }
    }

    #[test]
    fn other_lines_have_no_time() {
        for line in [
            "",
            "  at Shop.main(Shop.java:7)",
            "20240102 starts like one",
            "2024-13-02T03:04:05Z no such month",
            "2024-02-30 03:04:05 no such day",
            "\"GET / [10/Oct/2000:13:55:36 -0700]\"",
            "[notice] x",
            "Octopus 11 14:32:52",
            "12345-01-02 03:04:05",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in any::<String>()) {
            let _ = read(&line);
        }

        #[test]
        fn no_line_that_looks_like_one_panics(line in "\\[?[0-9]{1,5}[-/:][0-9A-Z]{1,3}[-/ ][0-9]{1,5}[T: ] ?[0-9]{1,3}:[0-9]{2}:[0-9]{2}[.,]?[0-9]{0,30} ?[-+Z]?[0-9:]{0,5}") {
            let _ = read(&line);
        }

        #[test]
        fn every_time_is_read_back(micros in 0..4_000_000_000_000_000_i64) {
            let text = jiff::Timestamp::from_microsecond(micros).unwrap().to_string();
            prop_assert_eq!(stamp(&text, Known { offset: -7200, now: 0 }), Some(micros));
        }
    }
}
