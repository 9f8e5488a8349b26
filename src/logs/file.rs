//! Lines of one log file into records: a line that has no time of its own in a file whose lines have one continues the record
//! before it, and so does one that is indented.

use std::sync::Arc;

use super::stamp::{Known, stamp};
use super::{INFO, Mark, Micros, Origin, Place, Record};

/// A record of more lines than this is no record; two of them are two.
const MOST_LINES: usize = 500;
/// And one of so many bytes.
const MOST_BYTES: usize = 256 * 1024;

/// Gathers the records of one file.
#[derive(Debug)]
pub struct Reader {
    origin: Arc<Origin>,
    path: Arc<str>,
    unit: String,
    /// Whether this file's lines say when they were written.
    stamped: bool,
    last: Micros,
    pending: Option<(Record, usize)>,
}

/// A line with what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub text: &'a str,
    /// Behind it.
    pub place: Place,
    /// When it came, or its file was last written.
    pub arrived: Micros,
    pub known: Known,
}

impl Reader {
    pub fn new(origin: &Arc<Origin>, path: &str) -> Self {
        let unit = unit(path);
        Self { origin: Arc::clone(origin), path: path.into(), unit, stamped: false, last: 0, pending: None }
    }

    /// Takes a line; gives back the record before it once that is known to be whole.
    pub fn push(&mut self, line: Line<'_>) -> Option<Record> {
        let mark = Some(Mark::File { path: Arc::clone(&self.path), place: line.place });
        let stamped = stamp(line.text, line.known);
        if stamped.is_none()
            && (self.stamped || line.text.starts_with([' ', '\t']))
            && let Some((record, lines)) = &mut self.pending
            && *lines < MOST_LINES
            && record.message.len() + line.text.len() < MOST_BYTES
        {
            record.message.push('\n');
            record.message.push_str(line.text);
            record.mark = mark;
            *lines += 1;
            return None;
        }
        self.stamped |= stamped.is_some();
        // The rest of a record that was handed over already goes with it.
        let time = stamped.unwrap_or(if self.stamped { self.last } else { line.arrived });
        self.last = time;
        let (origin, unit, message) = (Arc::clone(&self.origin), self.unit.clone(), line.text.to_owned());
        let record = Record { time, origin, unit, severity: INFO, message, mark };
        self.pending.replace((record, 1)).map(|(record, _)| record)
    }

    /// The bytes of the record that may still grow.
    pub fn held(&self) -> usize {
        self.pending.as_ref().map_or(0, |(record, _)| record.bytes())
    }

    /// The record that may still have grown.
    pub fn flush(&mut self) -> Option<Record> {
        self.pending.take().map(|(record, _)| record)
    }
}

/// `apache2/access.log`: enough to tell which file it is.
fn unit(path: &str) -> String {
    let mut parts: Vec<_> = path.rsplit('/').take(2).collect();
    parts.reverse();
    parts.retain(|part| !part.is_empty() && *part != "log");
    parts.join("/")
}

/// Whether a path is one of those that a pattern stands for: `*` and `?` are any characters of one name.
pub fn matches(pattern: &str, path: &str) -> bool {
    fn rest(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern.first(), path.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                rest(&pattern[1..], path) || path.first().is_some_and(|byte| *byte != b'/') && rest(pattern, &path[1..])
            }
            (Some(b'?'), Some(byte)) if *byte != b'/' => rest(&pattern[1..], &path[1..]),
            (Some(one), Some(other)) => one == other && rest(&pattern[1..], &path[1..]),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    rest(pattern.as_bytes(), path.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests::record;
    use proptest::prelude::*;

    fn gather(lines: &[&str]) -> Vec<Record> {
        let mut reader = Reader::new(&record("web1", 0, "").origin, "/var/log/apache2/error.log");
        let known = Known { offset: 0, now: 0 };
        let mut offset = 0;
        let mut records = Vec::new();
        for text in lines {
            offset += text.len() as u64 + 1;
            let line = Line { text, place: Place { inode: 1, offset }, arrived: 42, known };
            records.extend(reader.push(line));
        }
        records.extend(reader.flush());
        records
    }

    fn messages(lines: &[&str]) -> Vec<String> {
        gather(lines).into_iter().map(|record| record.message).collect()
    }

    #[test]
    fn a_trace_stays_with_its_error() {
        let lines = ["2024-01-02T03:04:05Z error", "Traceback:", "  in main", "2024-01-02T03:04:06Z next", "end"];
        assert_eq!(messages(&lines), ["2024-01-02T03:04:05Z error\nTraceback:\n  in main", "2024-01-02T03:04:06Z next\nend"]);
        let records = gather(&lines);
        assert!(records[0].time < records[1].time);
        let Some(Mark::File { place, .. }) = &records[0].mark else { panic!("{:?}", records[0]) };
        assert_eq!(place.offset, lines[..3].iter().map(|line| line.len() as u64 + 1).sum::<u64>());
    }

    #[test]
    fn a_file_without_times_has_a_record_per_line() {
        let records = gather(&["one", "  indented", "two"]);
        assert_eq!(records.iter().map(|record| record.message.as_str()).collect::<Vec<_>>(), ["one\n  indented", "two"]);
        assert!(records.iter().all(|record| record.time == 42));
    }

    #[test]
    fn a_record_without_end_is_cut() {
        let mut lines = vec!["2024-01-02T03:04:05Z start"];
        lines.resize(MOST_LINES * 2, "more");
        let records = gather(&lines);
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].time, records[1].time, "what is left of it has its time");
    }

    #[test]
    fn a_file_is_named_by_its_end() {
        for (path, wanted) in [("/var/log/apache2/access.log", "apache2/access.log"), ("/var/log/syslog", "syslog"), ("/x", "x")]
        {
            assert_eq!(unit(path), wanted);
        }
    }

    #[test]
    fn patterns_stay_within_a_name() {
        for (pattern, path, wanted) in [
            ("/var/log/*.log", "/var/log/a.log", true),
            ("/var/log/*.log", "/var/log/a/b.log", false),
            ("/var/log/*/*.log", "/var/log/a/b.log", true),
            ("/var/log/a?.log", "/var/log/ab.log", true),
            ("/var/log/a?.log", "/var/log/a.log", false),
            ("/var/log/a", "/var/log/a", true),
            ("/var/log/a", "/var/log/ab", false),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_lost(lines in proptest::collection::vec("(2024-01-02T03:04:0[0-9]Z | )?[a-z]{0,5}", 0..40)) {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let records = gather(&lines);
            let all: Vec<_> = records.iter().flat_map(|record| record.message.split('\n')).collect();
            prop_assert_eq!(all, lines);
        }
    }
}
