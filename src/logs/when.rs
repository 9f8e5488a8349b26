//! The times that `--since` and `--until` take: a span back from now, or a moment.

use jiff::civil::{DateTime, Time};
use jiff::{Span, Timestamp, Zoned};

use super::Micros;

/// `10m`, `2h30m`, `3 days`, `2024-01-02T03:04:05Z`, `2024-01-02 03:04`, `2024-01-02`, `03:04`; what has no zone is in that of `now`.
pub fn when(text: &str, now: &Zoned) -> Option<Micros> {
    let text = text.trim();
    if let Ok(span) = text.trim_end_matches(" ago").parse::<Span>() {
        let back = if span.is_negative() { now.checked_add(span) } else { now.checked_sub(span) };
        return Some(back.ok()?.timestamp().as_microsecond());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment.as_microsecond());
    }
    // A bare number could be an hour, or minutes that lack their unit.
    if !text.contains([':', '-']) {
        return None;
    }
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Time>().map(|time| now.date().to_datetime(time)));
    Some(civil.ok()?.to_zoned(now.time_zone().clone()).ok()?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_moments() {
        let now: Zoned = "2024-03-01T12:00:00+01:00[+01:00]".parse().unwrap();
        for (text, wanted) in [
            ("10m", "2024-03-01T10:50:00Z"),
            ("2h 30m", "2024-03-01T08:30:00Z"),
            ("1d", "2024-02-29T11:00:00Z"),
            ("3 days ago", "2024-02-27T11:00:00Z"),
            ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
            ("2024-01-02T03:04:05+02:00", "2024-01-02T01:04:05Z"),
            ("2024-01-02 03:04", "2024-01-02T02:04:00Z"),
            ("2024-01-02", "2024-01-01T23:00:00Z"),
            ("03:04", "2024-03-01T02:04:00Z"),
        ] {
            let found = when(text, &now).map(|time| Timestamp::from_microsecond(time).unwrap().to_string());
            assert_eq!(found.as_deref(), Some(wanted), "{text}");
        }
        for text in ["", "soon", "10", "2024-13-01", "10 parsecs"] {
            assert_eq!(when(text, &now), None, "{text}");
        }
    }
}
