//! What happens while a request runs. Progress bars, JSON lines, the log and the tests are readers of these.

use serde::{Deserialize, Serialize};

use super::step::{Plan, Step};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    Out,
    Err,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// What is about to be done; with a dry run, all there is.
    Planned {
        plan: Plan,
    },
    StepStarted {
        step: Step,
    },
    StepDone {
        step: Step,
        milliseconds: u64,
    },
    StepFailed {
        step: Step,
        reason: String,
    },
    /// Work that is no step of an environment: a box build's phases, a clone.
    TaskStarted {
        task: String,
        text: String,
    },
    /// How far it is, which the next of these replaces.
    TaskProgress {
        task: String,
        text: String,
    },
    TaskDone {
        task: String,
        text: String,
        milliseconds: u64,
    },
    TaskFailed {
        task: String,
        reason: String,
    },
    /// A line that a program printed, e.g. during a box build.
    Output {
        source: String,
        stream: Stream,
        line: String,
    },
    /// Another command holds the lock.
    Waiting {
        on: String,
        holder: String,
    },
    /// A fact the user should read, e.g. that nothing was to be done.
    Note {
        text: String,
    },
    Warning {
        text: String,
    },
}
