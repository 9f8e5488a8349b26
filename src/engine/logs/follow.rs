//! What comes, from wherever each source was read to, until told to stop: a reader per machine and kind of source, started again when
//! its machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::Running;
use super::source::{self, End, Subject};
use crate::logs::{Marks, Record};
use crate::model::{BootId, MachineId};
use crate::providers::{self, Registry};

/// Takes each record; may wait, and then the readers wait, but no machine does.
pub type Sink<'a> = dyn Fn(Record) -> ControlFlow<()> + Send + Sync + 'a;

/// A reader that could not start is started again, but not all the time.
const AGAIN: Duration = Duration::from_millis(500);
const TOO_OFTEN: u32 = 3;
/// What a machine does not have it will hardly have soon.
const MISSING: Duration = Duration::from_secs(60);
/// A reader that ended although nobody here wanted it to was most likely ended by its machine's shutdown, which waits until nothing runs any more: a new
/// one would hold it up. So the next one waits for another start, or until no shutdown would still go on.
const SHUTDOWN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Journal,
    Files,
}

pub struct Follower<'p> {
    providers: &'p Registry,
    state: Mutex<State>,
}

struct State {
    /// How far each machine has been read, whether it was taken or not.
    marks: BTreeMap<MachineId, Marks>,
    readers: BTreeMap<(MachineId, Kind), Reader>,
}

enum Reader {
    Reads {
        stop: Arc<AtomicBool>,
        files: Vec<String>,
    },
    /// `failed` counts the attempts in a row that an error ended.
    Ended {
        again: Instant,
        boot: BootId,
        failed: u32,
    },
}

impl<'p> Follower<'p> {
    pub fn new(providers: &'p Registry, marks: BTreeMap<MachineId, Marks>) -> Self {
        Self { providers, state: Mutex::new(State { marks, readers: BTreeMap::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a reader for what is wanted, runs and has none; stops those that nobody wants any more. To be called now and then.
    pub fn reconcile<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        subjects: &[Subject],
        running: &Running,
        sink: &'scope Sink<'scope>,
    ) {
        let wanted: BTreeMap<(MachineId, Kind), &Subject> = subjects
            .iter()
            .filter(|subject| running.contains_key(&subject.origin.id))
            .flat_map(|subject| {
                let journal = subject.journal.then_some(Kind::Journal);
                let files = (!subject.files.is_empty()).then_some(Kind::Files);
                journal.into_iter().chain(files).map(move |kind| ((subject.origin.id.clone(), kind), subject))
            })
            .collect();
        let known: BTreeSet<&MachineId> = subjects.iter().map(|subject| &subject.origin.id).collect();
        let mut state = self.state();
        // A machine of the same name that is made later is another one.
        state.marks.retain(|id, _| known.contains(id));
        for (key, reader) in &state.readers {
            if let Reader::Reads { stop, files } = reader
                && wanted.get(key).is_none_or(|subject| key.1 == Kind::Files && subject.files != *files)
            {
                stop.store(true, Ordering::Relaxed);
            }
        }
        for (key, subject) in wanted {
            let boot = running[&key.0].clone();
            let failed = match state.readers.get(&key) {
                Some(Reader::Reads { .. }) => continue,
                Some(Reader::Ended { again, boot: before, .. }) if *before == boot && *again > Instant::now() => continue,
                Some(Reader::Ended { boot: before, failed, .. }) if *before == boot => *failed,
                Some(Reader::Ended { .. }) | None => 0,
            };
            let stop = Arc::new(AtomicBool::new(false));
            let reader = Reader::Reads { stop: Arc::clone(&stop), files: subject.files.clone() };
            let marks = state.marks.entry(key.0.clone()).or_default().clone();
            state.readers.insert(key.clone(), reader);
            let subject = subject.clone();
            scope.spawn(move || {
                let ended = self.read(&subject, key.1, &marks, &stop, sink);
                let (pause, failed) = rest(&key, ended, failed);
                self.state().readers.insert(key, Reader::Ended { again: Instant::now() + pause, boot, failed });
            });
        }
    }

    /// Reads one source until it ends.
    fn read(
        &self,
        subject: &Subject,
        kind: Kind,
        marks: &Marks,
        stop: &AtomicBool,
        sink: &Sink<'_>,
    ) -> Result<End, providers::Error> {
        let id = &subject.origin.id;
        let next = &mut |record: Option<Record>| {
            if stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            let Some(record) = record else { return ControlFlow::Continue(()) };
            if let (Some(mark), Some(marks)) = (&record.mark, self.state().marks.get_mut(id)) {
                marks.advance(mark);
            }
            if record.time < subject.since { ControlFlow::Continue(()) } else { sink(record) }
        };
        match kind {
            Kind::Journal => source::journal_follow(self.providers, subject, marks.journal.as_deref(), next),
            Kind::Files => source::files_follow(self.providers, subject, marks, next),
        }
    }

    /// Readers end within a moment.
    pub fn stop(&self) {
        for reader in self.state().readers.values() {
            if let Reader::Reads { stop, .. } = reader {
                stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// How long a source whose reader ended is left alone, and how often in a row that was by an error. One or two errors are a
/// machine that went away under its reader; with more of them somebody waits for records that will not come.
fn rest((id, kind): &(MachineId, Kind), ended: Result<End, providers::Error>, failed: u32) -> (Duration, u32) {
    match ended {
        Ok(End { code: End::MISSING, .. }) => (MISSING, 0),
        Ok(end) => {
            tracing::debug!(%id, ?kind, ?end, "a reader ended");
            (SHUTDOWN, 0)
        }
        Err(error) => {
            if failed == TOO_OFTEN {
                tracing::error!("the logs of {id} can't be read: {error}");
            } else {
                tracing::debug!(%id, ?kind, %error, "a reader failed");
            }
            (AGAIN, failed.saturating_add(1))
        }
    }
}
