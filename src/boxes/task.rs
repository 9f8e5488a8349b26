//! How a build tells what it does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Context, Error, Result};
use crate::model::{BoxName, Event, Kind, Stream};

/// The phases of one box, each told when it starts and when it ends.
pub struct Teller<'a> {
    pub context: Context<'a>,
    pub name: &'a BoxName,
    full: AtomicBool,
}

/// How programs say `ENOSPC` under the C locale.
const FULL: &str = "No space left on device";

impl<'a> Teller<'a> {
    pub fn new(context: Context<'a>, name: &'a BoxName) -> Self {
        Self { context, name, full: AtomicBool::new(false) }
    }

    /// One phase: told, timed, and not begun once the build is cancelled.
    pub fn phase<T>(&self, text: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.context.check_cancelled(self.name.as_str())?;
        let task = self.name.to_string();
        (self.context.emit)(Event::TaskStarted { task: task.clone(), text: text.to_owned() });
        let start = Instant::now();
        let result = work();
        (self.context.emit)(match &result {
            Ok(_) => {
                let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                Event::TaskDone { task, text: text.to_owned(), milliseconds }
            }
            Err(error) => Event::TaskFailed { task, reason: error.to_string() },
        });
        result
    }

    /// Names the disk as the cause where a program complained about it, however long ago: what it says last is seldom that.
    pub fn explain(&self, error: Error) -> Error {
        if self.full.load(Ordering::Relaxed) || error.kind() == Kind::Exhausted {
            Error::Full { name: self.name.clone(), store: self.context.store.to_owned(), source: Box::new(error) }
        } else {
            error
        }
    }

    pub fn line(&self, stream: Stream, line: &str) {
        if line.contains(FULL) {
            self.full.store(true, Ordering::Relaxed);
        }
        (self.context.emit)(Event::Output { source: self.name.to_string(), stream, line: line.to_owned() });
    }

    pub fn note(&self, text: impl Into<String>) {
        (self.context.emit)(Event::Note { text: text.into() });
    }

    pub fn warn(&self, text: impl Into<String>) {
        (self.context.emit)(Event::Warning { text: text.into() });
    }
}
