//! How a build tells what it does.

use std::time::Instant;

use super::{Context, Result};
use crate::model::{BoxName, Event, Stream};

/// The phases of one box, each told when it starts and when it ends.
#[derive(Clone, Copy)]
pub struct Teller<'a> {
    pub context: Context<'a>,
    pub name: &'a BoxName,
}

impl Teller<'_> {
    /// One phase: told, timed, and not begun once the build is cancelled.
    pub fn phase<T>(&self, text: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.context.check_cancelled(self.name.as_str())?;
        let task = format!("{}: {text}", self.name);
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

    pub fn line(&self, stream: Stream, line: &str) {
        (self.context.emit)(Event::Output { source: self.name.to_string(), stream, line: line.to_owned() });
    }

    pub fn warn(&self, text: impl Into<String>) {
        (self.context.emit)(Event::Warning { text: text.into() });
    }
}
