//! The way of an event from any thread of a running verb to the one reader. Who tells much to a reader who takes nothing waits.

use std::time::Instant;

use crate::exec::queue::{Receiver, Sender, bounded};
use crate::model::Event;

/// So many bytes of events may wait: a build can print without end.
const WAITING: usize = 4 << 20;

#[derive(Clone)]
pub struct Events(Sender<Event>);

impl Events {
    pub(super) fn read() -> (Self, Receiver<Event>) {
        let (sender, receiver) = bounded(WAITING);
        (Self(sender), receiver)
    }

    /// Of what is read only after it has all been told, by the thread that tells it.
    pub(super) fn read_afterwards() -> (Self, Receiver<Event>) {
        let (sender, receiver) = bounded(usize::MAX);
        (Self(sender), receiver)
    }

    /// For work whose steps are nobody's business, e.g. the machine behind a box build.
    pub(super) fn unread() -> Self {
        Self::read().0
    }

    /// A reader that went away is no reason to stop working.
    pub fn emit(&self, event: Event) {
        let bytes = weight(&event);
        self.0.send(event, bytes);
    }

    pub fn note(&self, text: impl Into<String>) {
        self.emit(Event::Note { text: text.into() });
    }

    pub fn warn(&self, text: impl Into<String>) {
        self.emit(Event::Warning { text: text.into() });
    }

    /// Runs something that is no step of an environment and tells its beginning and end.
    pub fn task<T, E: std::fmt::Display>(&self, task: &str, text: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (task, text) = (task.to_owned(), text.to_owned());
        self.emit(Event::TaskStarted { task: task.clone(), text: text.clone() });
        let since = Instant::now();
        let result = work();
        self.emit(match &result {
            Ok(_) => Event::TaskDone { task, text, milliseconds: milliseconds(since) },
            Err(error) => Event::TaskFailed { task, reason: error.to_string() },
        });
        result
    }
}

/// What it takes in memory, about.
fn weight(event: &Event) -> usize {
    match event {
        Event::Planned { plan } => plan.steps().count() * 1024,
        Event::StepStarted { .. } | Event::StepDone { .. } => 1024,
        Event::StepFailed { reason: text, .. }
        | Event::TaskStarted { text, .. }
        | Event::TaskProgress { text, .. }
        | Event::TaskDone { text, .. }
        | Event::TaskFailed { reason: text, .. }
        | Event::Output { line: text, .. }
        | Event::Waiting { holder: text, .. }
        | Event::Note { text }
        | Event::Warning { text } => 256 + text.len(),
    }
}

pub fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn who_tells_much_waits_for_who_reads_and_not_for_who_went_away() {
        const COUNT: usize = 20_000;
        let (events, mut reader) = Events::read();
        let told = AtomicUsize::new(0);
        let tell = |events: &Events| {
            for _ in 0..COUNT {
                events.note("x".repeat(1000));
                told.fetch_add(1, Ordering::SeqCst);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| tell(&events));
            for taken in 1..=COUNT {
                assert!(reader.next().is_some());
                let told = told.load(Ordering::SeqCst);
                assert!(told <= taken + WAITING / 1000, "{told} were told when {taken} were read");
            }
        });
        drop(reader);
        tell(&events);
        tell(&Events::unread());
    }
}
