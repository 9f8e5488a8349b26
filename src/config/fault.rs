//! Faults of one file: collected with byte ranges, told with lines and columns.

use std::ops::Range;
use std::path::Path;

use crate::model::{Failure, Fault, Kind, Place};

/// The file that is being read and what was found wrong in it.
pub struct Faults<'a> {
    file: &'a Path,
    pub(super) text: &'a str,
    list: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, list: Vec::new() }
    }

    pub fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    pub fn add_hint(&mut self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.push(span, message.into(), Some(hint.into()));
    }

    pub fn push(&mut self, span: Range<usize>, message: String, hint: Option<String>) {
        let place = Some(self.place(span));
        self.list.push(Fault { message, place, hint });
    }

    pub fn place(&self, span: Range<usize>) -> Place {
        place(self.file, self.text, span)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order of the file, as a person reads it.
    pub fn into_list(mut self) -> Vec<Fault> {
        self.list.sort_by_key(|fault| fault.place.as_ref().map(|place| place.span.start));
        self.list
    }
}

/// Lines and columns count from 1; a column is a character, as editors count it.
pub fn place(file: &Path, text: &str, span: Range<usize>) -> Place {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (floor(span.start), floor(span.end));
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        span: start..end.max(start),
    }
}

/// The edge's form of a file's faults; completes "could not use …".
pub fn failure(file: &Path, faults: Vec<Fault>) -> Failure {
    Failure::new(Kind::Config, format!("use `{}`", file.display())).faults(faults)
}
