//! What cuts a program short before its own end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Tells from anywhere, also from a signal handler, that nobody wants the result any more.
#[derive(Debug, Clone, Default)]
pub struct Cancel(pub Arc<AtomicBool>);

impl Cancel {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for Cancel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Cancel {}

/// None of them set is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub cancel: Option<Cancel>,
    /// From its start to its end.
    pub within: Option<Duration>,
    /// So long it may print nothing. Set for a program that tells on one line how far it is: each time counts.
    pub silent: Option<Duration>,
}

/// The limit that a program came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Cancelled,
    Late(Duration),
    Silent(Duration),
    /// It printed more than so many bytes.
    Long(usize),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => write!(f, "was cancelled"),
            Self::Late(after) => write!(f, "did not end within {} s", after.as_secs()),
            Self::Silent(after) => write!(f, "told nothing for {} s", after.as_secs()),
            Self::Long(bytes) => write!(f, "printed more than {} MiB", bytes >> 20),
        }
    }
}

impl Limits {
    /// Of a program that was started at one time and printed last at the other.
    pub(super) fn broken(&self, started: Instant, heard: Instant) -> Option<Broken> {
        if self.cancel.as_ref().is_some_and(Cancel::is_set) {
            return Some(Broken::Cancelled);
        }
        let late = self.within.filter(|after| started.elapsed() >= *after).map(Broken::Late);
        late.or_else(|| self.silent.filter(|after| heard.elapsed() >= *after).map(Broken::Silent))
    }
}
