//! The programs that read inside a machine, and their lines as records.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::logs::file::{Line, Reader};
use crate::logs::stamp::Known;
use crate::logs::{MOST_FILES, Marks, Micros, Origin, Place, Record, journal};
use crate::model::{Exec, ProviderName, Stream};
use crate::providers::{self, Registry, Stdio};

/// What is read of one machine.
#[derive(Debug, Clone)]
pub struct Subject {
    pub origin: Arc<Origin>,
    /// What it runs on.
    pub provider: ProviderName,
    pub journal: bool,
    /// Patterns of paths.
    pub files: Vec<String>,
    /// Nothing older than this.
    pub since: Micros,
}

/// A record, or `None` for a moment without one.
pub type Next<'a> = dyn FnMut(Option<Record>) -> ControlFlow<()> + 'a;

/// How a reading program ended.
#[derive(Debug, Default)]
pub struct End {
    pub code: i32,
    /// The last thing it said about itself.
    pub told: String,
}

impl End {
    /// As shells say that there is no such program.
    pub const MISSING: i32 = 127;
}

const SCRIPT: &str = include_str!("../../logs/follow.pl");
/// As long as a path can be.
const PATH: usize = 4096;
/// What waits of all of them for another line.
const PENDING: usize = 4 << 20;
/// A record may have grown by another line until this has passed.
const WHOLE: Duration = Duration::from_millis(100);

pub fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

fn journalctl(more: impl IntoIterator<Item = String>) -> Exec {
    let fixed = ["journalctl", "--output=json", "--all", "--no-pager", "--quiet"].map(str::to_owned);
    Exec::new(fixed.into_iter().chain([format!("--output-fields={}", journal::FIELDS)]).chain(more))
}

fn perl(words: impl IntoIterator<Item = String>) -> Exec {
    Exec::new(["perl", "-e", SCRIPT].map(str::to_owned).into_iter().chain(words))
}

/// The whole second before it: `journalctl` takes no fractions everywhere.
fn at(micros: Micros) -> String {
    format!("@{}", micros.div_euclid(1_000_000))
}

/// The journal as it is.
pub fn journal_once(
    providers: &Registry,
    subject: &Subject,
    until: Option<Micros>,
    lines: Option<usize>,
    next: &mut Next<'_>,
) -> Result<End, providers::Error> {
    let since = format!("--since={}", at(subject.since));
    let until = until.map(|until| format!("--until={}", at(until.saturating_add(1_000_000))));
    let lines = lines.map(|lines| format!("--lines={lines}"));
    run_journal(providers, subject, journalctl([since].into_iter().chain(until).chain(lines)), next)
}

/// The journal behind a cursor, and what comes.
pub fn journal_follow(
    providers: &Registry,
    subject: &Subject,
    cursor: Option<&str>,
    next: &mut Next<'_>,
) -> Result<End, providers::Error> {
    let from = cursor.map_or_else(|| format!("--since={}", at(subject.since)), |cursor| format!("--after-cursor={cursor}"));
    run_journal(providers, subject, journalctl(["--follow".to_owned(), "--no-tail".to_owned(), from]), next)
}

fn run_journal(providers: &Registry, subject: &Subject, exec: Exec, next: &mut Next<'_>) -> Result<End, providers::Error> {
    run(providers, subject, &exec, &mut |line| match line {
        None => next(None),
        Some(line) => match journal::record(line, &subject.origin) {
            Some(record) => next(Some(record)),
            None => ControlFlow::Continue(()),
        },
    })
}

/// A log file that is there.
#[derive(Debug, Clone)]
pub struct Found {
    pub place: Place,
    pub written: Micros,
    pub path: String,
}

pub fn list(providers: &Registry, subject: &Subject) -> Result<(Vec<Found>, End), providers::Error> {
    let mut found = Vec::new();
    let exec = perl(["list".to_owned()].into_iter().chain(subject.files.iter().cloned()));
    let end = run(providers, subject, &exec, &mut |line| {
        if let Some(line) = line
            && let Some((place, written, _, path)) = fields(line)
            && path.len() <= PATH
            && found.len() < MOST_FILES
        {
            found.push(Found { place, written, path: path.to_owned() });
        }
        ControlFlow::Continue(())
    })?;
    Ok((found, end))
}

/// One log file as it is.
pub fn file_once(
    providers: &Registry,
    subject: &Subject,
    path: &str,
    lines: Option<usize>,
    next: &mut Next<'_>,
) -> Result<End, providers::Error> {
    let count = lines.map_or_else(|| "-1".to_owned(), |lines| lines.to_string());
    run_files(providers, subject, &perl(["read".to_owned(), count, path.to_owned()]), next)
}

/// All log files behind their marks, and what comes.
pub fn files_follow(
    providers: &Registry,
    subject: &Subject,
    marks: &Marks,
    next: &mut Next<'_>,
) -> Result<End, providers::Error> {
    let places = marks.files.iter().map(|(path, place)| format!("{}:{}:{path}", place.inode, place.offset));
    let words = ["follow".to_owned()].into_iter().chain(places).chain(["--".to_owned()]);
    run_files(providers, subject, &perl(words.chain(subject.files.iter().cloned())), next)
}

fn run_files(providers: &Registry, subject: &Subject, exec: &Exec, next: &mut Next<'_>) -> Result<End, providers::Error> {
    let mut readers: BTreeMap<String, (Reader, Instant)> = BTreeMap::new();
    let end = run(providers, subject, exec, &mut |line| {
        let now = Instant::now();
        if let Some((place, written, known, rest)) = line.and_then(fields)
            && let Some((path, text)) = rest.split_once('\t')
            && path.len() <= PATH
            && (readers.len() < MOST_FILES || readers.contains_key(path))
        {
            if !readers.contains_key(path) {
                readers.insert(path.to_owned(), (Reader::new(&subject.origin, path), now));
            }
            let (reader, touched) = readers.get_mut(path).expect("it was just put there");
            *touched = now;
            // The time of a file has whole seconds; what is being written now is from now.
            let arrived = if known.now - written < 2_000_000 { known.now } else { written };
            if let Some(record) = reader.push(Line { text, place, arrived, known }) {
                next(Some(record))?;
            }
        }
        let mut held = 0;
        for (reader, touched) in readers.values_mut() {
            held += reader.held();
            if (now.duration_since(*touched) >= WHOLE || held > PENDING)
                && let Some(record) = reader.flush()
            {
                next(Some(record))?;
            }
        }
        next(None)
    })?;
    for record in readers.values_mut().filter_map(|(reader, _)| reader.flush()) {
        if next(Some(record)).is_break() {
            break;
        }
    }
    Ok(end)
}

/// What the script prints before a path.
fn fields(line: &str) -> Option<(Place, Micros, Known, &str)> {
    let mut fields = line.splitn(5, '\t');
    let place = Place { inode: fields.next()?.parse().ok()?, offset: fields.next()?.parse().ok()? };
    let written = fields.next()?.parse::<Micros>().ok()?.saturating_mul(1_000_000);
    let known = Known { offset: zone(fields.next()?)?, now: now() };
    Some((place, written, known, fields.next()?))
}

/// `+0130` in seconds.
fn zone(text: &str) -> Option<i32> {
    let number: i32 = text.parse().ok()?;
    Some(number / 100 * 3600 + number % 100 * 60)
}

/// Runs a program and hands over what it prints; `None` for a moment without a line.
fn run(
    providers: &Registry,
    subject: &Subject,
    exec: &Exec,
    each: &mut dyn FnMut(Option<&str>) -> ControlFlow<()>,
) -> Result<End, providers::Error> {
    let mut told = String::new();
    let mut take = |line: Option<(Stream, &str)>| match line {
        Some((Stream::Out, line)) => each(Some(line)),
        Some((Stream::Err, line)) => {
            line.clone_into(&mut told);
            ControlFlow::Continue(())
        }
        None => each(None),
    };
    let code = providers.get(&subject.provider)?.exec(&subject.origin.id, exec, Stdio::Follow { each: &mut take })?.code;
    Ok(End { code, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_hours_and_minutes() {
        for (text, wanted) in [("+0000", Some(0)), ("+0130", Some(5400)), ("-0930", Some(-34_200)), ("", None)] {
            assert_eq!(zone(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_line_of_the_script_has_its_place() {
        let (place, written, known, rest) = fields("7\t9\t3\t+0100\t/var/log/a b\ttext\twith tabs").unwrap();
        assert_eq!((place, written, known.offset), (Place { inode: 7, offset: 9 }, 3_000_000, 3600));
        assert_eq!(rest.split_once('\t'), Some(("/var/log/a b", "text\twith tabs")));
        assert!(fields("perl: warning").is_none());
    }
}
