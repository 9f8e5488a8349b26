//! What is there, of many sources at the same time, in one order and in little memory: each source waits until its next record is
//! the earliest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::source::{self, End, Found, Subject};
use crate::exec::queue::{self, Receiver, Sender};
use crate::logs::merge::Merge;
use crate::logs::{Marks, Micros, Record};
use crate::model::MachineId;
use crate::providers::{self, Registry};

pub struct Range {
    pub since: Option<Micros>,
    pub until: Option<Micros>,
    /// Of each source, its last ones.
    pub lines: Option<usize>,
}

/// Bytes of one source's records that wait for those of others.
const AHEAD: usize = 64 << 10;
/// Each log file of a machine has a program that reads it; of more than this, the newest are read.
const MOST_FILES: usize = 128;

#[derive(Clone)]
enum Source {
    Journal,
    File(String),
}

/// How far each machine has been read, and what had to be left out.
pub fn read(
    providers: &Registry,
    subjects: &[Subject],
    range: &Range,
    each: &mut dyn FnMut(Record) -> ControlFlow<()>,
) -> (BTreeMap<MachineId, Marks>, Vec<String>) {
    let mut marks: BTreeMap<MachineId, Marks> = BTreeMap::new();
    let mut notes = Vec::new();
    let mut sources: Vec<(&Subject, Source)> = Vec::new();
    for (subject, found) in list(providers, subjects, &mut notes) {
        let own = marks.entry(subject.origin.id.clone()).or_default();
        if subject.journal {
            sources.push((subject, Source::Journal));
        }
        let mut files = Vec::new();
        for file in found {
            own.files.insert(file.path.clone(), file.place);
            // What was written last before that has nothing of it.
            if file.written + 1_000_000 >= subject.since {
                files.push(file);
            }
        }
        if files.len() > MOST_FILES {
            files.sort_by_key(|file| Reverse(file.written));
            files.truncate(MOST_FILES);
            notes.push(format!("`{}` has more log files; the {MOST_FILES} newest are shown", subject.origin.id.machine));
        }
        sources.extend(files.into_iter().map(|file| (subject, Source::File(file.path))));
    }
    std::thread::scope(|scope| {
        let mut receivers: Vec<Receiver<Record>> = Vec::new();
        let mut ends = Vec::new();
        for (subject, source) in sources {
            let (sender, receiver) = queue::bounded(AHEAD);
            receivers.push(receiver);
            ends.push(scope.spawn(move || {
                let end = one(providers, subject, &source, range, &sender);
                note(subject, &source, end)
            }));
        }
        for record in Merge::new(receivers) {
            if let Some(mark) = &record.mark {
                marks.entry(record.origin.id.clone()).or_default().advance(mark);
            }
            if each(record).is_break() {
                // Ends the merge, and with it those who send to it.
                break;
            }
        }
        notes.extend(ends.into_iter().filter_map(|end| end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
    });
    (marks, notes)
}

/// The log files of all machines.
fn list<'s>(providers: &Registry, subjects: &'s [Subject], notes: &mut Vec<String>) -> Vec<(&'s Subject, Vec<Found>)> {
    std::thread::scope(|scope| {
        let lists: Vec<_> = subjects
            .iter()
            .map(|subject| {
                let list = scope.spawn(|| match subject.files.is_empty() {
                    true => Ok((Vec::new(), End::default())),
                    false => source::list(providers, subject),
                });
                (subject, list)
            })
            .collect();
        let joined = lists.into_iter().map(|(subject, list)| {
            let list = list.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (found, end) = match list {
                Ok((found, end)) => (found, Ok(end)),
                Err(error) => (Vec::new(), Err(error)),
            };
            notes.extend(note(subject, &Source::File(String::new()), end));
            (subject, found)
        });
        joined.collect()
    })
}

fn one(
    providers: &Registry,
    subject: &Subject,
    source: &Source,
    range: &Range,
    sender: &Sender<Record>,
) -> Result<End, providers::Error> {
    let next = &mut |record: Option<Record>| {
        let taken = record.is_none_or(|record| {
            let bytes = record.bytes();
            sender.send(record, bytes)
        });
        if taken { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    // With a beginning, everything from there on counts; how much of it is shown is decided behind the merge.
    let lines = range.lines.filter(|_| range.since.is_none());
    match source {
        Source::Journal => source::journal_once(providers, subject, range.until, lines, next),
        Source::File(path) => source::file_once(providers, subject, path, lines, next),
    }
}

/// Why a source could not be read.
fn note(subject: &Subject, source: &Source, end: Result<End, providers::Error>) -> Option<String> {
    let machine = &subject.origin.id.machine;
    let (what, program) = match source {
        Source::Journal => ("the journal", "journalctl"),
        Source::File(_) => ("the log files", "perl"),
    };
    let why = match end {
        Ok(End { code: End::MISSING, .. }) => format!("it has no `{program}`"),
        // Ended by us, because nobody wanted the rest, or well.
        Ok(End { code, told }) if code == 0 || code > 128 || told.is_empty() => return None,
        Ok(End { told, .. }) => told,
        Err(error) => error.to_string(),
    };
    Some(format!("{what} of `{machine}` can't be read: {why}"))
}
