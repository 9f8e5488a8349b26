//! The way of an event from any thread of a running verb to the one reader.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use crate::model::Event;

#[derive(Debug, Clone)]
pub struct Events(Sender<Event>);

impl Events {
    pub(super) fn new(sender: Sender<Event>) -> Self {
        Self(sender)
    }

    /// For work whose steps are nobody's business, e.g. the machine behind a box build.
    pub(super) fn unread() -> (Self, Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// A reader that went away is no reason to stop working.
    pub fn emit(&self, event: Event) {
        drop(self.0.send(event));
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

pub fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
