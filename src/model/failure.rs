//! The one error type at the edge: a kind, a sentence, the causes, and what to do about it.
//!
//! Modules keep their own `thiserror` enums; the engine turns them into this. One table maps a kind to an exit code.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A bug in adt, or something nobody foresaw.
    Internal,
    /// The words of the command line are wrong.
    Usage,
    /// A configuration file is wrong.
    Config,
    NotFound,
    /// It exists already, or something else holds what is needed.
    Conflict,
    /// Root is needed.
    Privilege,
    /// The host lacks something, e.g. liblxc.
    Host,
    /// A program that adt ran failed.
    Program,
    /// Something did not happen in time.
    Deadline,
    /// A disk or an address pool is full.
    Exhausted,
    /// The store is damaged or written by a newer adt.
    Store,
    /// Some of several things failed, the others are done.
    Partial,
    /// A check found a fault.
    Unhealthy,
    /// A dry run found something to do, for who asks by exit code.
    Differs,
    /// A release could not be built.
    Buildpack,
    Predeploy,
    Postdeploy,
    /// A program that runs once for each deploy failed.
    DeployHook,
    /// A machine does not answer with the release that it was given.
    DeployHealth,
    Cancelled,
}

impl Kind {
    /// Every exit code of adt, documented in `docs/trouble.md`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Privilege => 6,
            Self::Host => 7,
            Self::Program => 8,
            Self::Deadline => 9,
            Self::Exhausted => 10,
            Self::Store => 11,
            Self::Partial => 12,
            Self::Unhealthy => 13,
            Self::Differs => 14,
            Self::Buildpack => 20,
            Self::Predeploy => 21,
            Self::Postdeploy => 22,
            Self::DeployHook => 23,
            Self::DeployHealth => 24,
            Self::Cancelled => 130,
        }
    }
}

/// A spot in a file, for messages and editors. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
    /// Byte range in the file, for the snippet with a caret.
    pub span: std::ops::Range<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One thing that is wrong in what a person wrote. A file's faults are told all at once, so that nobody fixes them one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A clear sentence without a place in it, e.g. "unknown key `cuont`".
    pub message: String,
    /// `None` for words that come from no file: a flag, a variable.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub place: Option<Place>,
    /// An imperative, e.g. "did you mean `count`?".
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    /// Completes "could not …", e.g. "start `shop/1161/web1`".
    pub sentence: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub place: Option<Place>,
    /// From the outermost cause to the root.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub causes: Vec<String>,
    /// What is wrong in the files that were read, each with its place and hint; stands in the place of `causes` for these.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub faults: Vec<Fault>,
    /// Where several things failed, each of them whole.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub parts: Vec<Failure>,
    /// The last lines of what a program or a machine's console printed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tail: Vec<String>,
    /// Imperative sentences with a command in them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub hints: Vec<String>,
}

impl Failure {
    pub fn new(kind: Kind, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            sentence: sentence.into(),
            place: None,
            causes: Vec::new(),
            faults: Vec::new(),
            parts: Vec::new(),
            tail: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Keeps an error and all its sources as causes.
    pub fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    pub fn cause(mut self, text: impl Into<String>) -> Self {
        self.causes.push(text.into());
        self
    }

    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(text.into());
        self
    }

    /// What and why, on one line.
    pub fn headline(&self) -> String {
        self.causes.iter().fold(format!("could not {}", self.sentence), |line, cause| format!("{line}: {cause}"))
    }

    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Keeps every fault; the first one's place is where an editor should jump.
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults.extend(faults);
        if self.place.is_none() {
            self.place = self.faults.first().and_then(|fault| fault.place.clone());
        }
        self
    }

    pub fn tail(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.tail.extend(lines);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        for fault in &self.faults {
            write!(f, "\n{fault}")?;
        }
        for part in &self.parts {
            write!(f, "\n{part}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
