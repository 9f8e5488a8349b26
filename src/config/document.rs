//! Reading one document: from a file's text to its raw form, past its syntax and its shape.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, Deserializer};

use crate::model::{Failure, Fault, Kind};

use super::fault::{Faults, failure};
use super::shape;

/// Whoever has more faults than this in a file has another kind of file.
const MOST: usize = 50;
/// The longest of the examples has 3 KB.
const LONGEST: u64 = 1 << 20;

/// Reads a file and parses it with `parse`.
pub fn read<T>(file: &Path, parse: impl FnOnce(&str) -> Result<T, Vec<Fault>>) -> Result<T, Failure> {
    let text = text(file).map_err(|error| unreadable(file, &error))?;
    parse(&text).map_err(|faults| failure(file, faults))
}

/// The raw form of a document, if its syntax and its shape are right.
pub fn parse<T: DeserializeOwned>(schema: &serde_json::Value, faults: &mut Faults) -> Option<T> {
    let (tree, errors) = DeTable::parse_recoverable(faults.text);
    syntax(errors, faults);
    if !faults.is_empty() {
        return None;
    }
    shape::check(schema, &tree, faults);
    if !faults.is_empty() {
        return None;
    }
    match T::deserialize(Deserializer::from(tree)) {
        Ok(raw) => Some(raw),
        // The shape check speaks first and better; this keeps what it can't know, e.g. a number beyond 64 bits.
        Err(error) => {
            faults.add(error.span().unwrap_or(0..0), error.message());
            None
        }
    }
}

/// After a mistake the parser often stumbles over the rest of the line, so only the first fault of a line is told.
fn syntax(mut errors: Vec<toml::de::Error>, faults: &mut Faults) {
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let mut told = BTreeSet::new();
    let mut in_twin = false;
    // Each line's start, once: a text can have a hundred thousand errors in one line.
    let mut lines = faults.text.match_indices('\n').map(|(at, _)| at + 1).peekable();
    let mut line = 0;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        while let Some(next) = lines.next_if(|next| *next <= span.start) {
            line = next;
        }
        let header = faults.text[line..].starts_with('[');
        // Of a table that is there twice, its keys are there twice, too.
        if in_twin && !header && error.message().contains("duplicate key") {
            continue;
        }
        in_twin = header && error.message().contains("duplicate key");
        if told.insert(line) {
            faults.push(span, format!("not valid TOML: {}", error.message()), syntax_hint(error.message()));
        }
        if told.len() == MOST {
            break;
        }
    }
}

fn syntax_hint(message: &str) -> Option<String> {
    let hint = match message {
        _ if message.contains("duplicate key") => "keep one of the two",
        _ if message.contains("string values must be quoted") => "put the value in double quotes",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The text of a file that came with a repository: a message shows lines of it, so a link must not lead to a file of the host.
fn text(file: &Path) -> io::Result<String> {
    let refused = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    let folder = file.parent().unwrap_or(Path::new(".")).canonicalize()?;
    let real = file.canonicalize()?;
    if !real.starts_with(folder) {
        return Err(refused("it is a link that leads out of its folder"));
    }
    // Opening a pipe would wait for somebody who writes.
    if !std::fs::symlink_metadata(&real)?.is_file() {
        return Err(refused("it is no plain file"));
    }
    let mut text = String::new();
    std::fs::File::open(real)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST { Err(refused("it is longer than 1M")) } else { Ok(text) }
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::PermissionDenied => Kind::Privilege,
        _ => Kind::Config,
    };
    Failure::new(kind, format!("read `{}`", file.display())).because(error)
}
