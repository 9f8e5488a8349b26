//! Text with holes → text. Strict: a value that is missing is an error with its file, line and expression, never an empty string.
//!
//! Knows nothing of what the facts mean. A template can't read files, include others, run for ever or take the host's memory; what
//! is written by a platform's author stays as harmless as data.

pub mod process;

use std::io::Write;
use std::ops::Range;
use std::path::{Component, Path};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Template, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Far more than any configuration file needs; a loop over a million entries ends here.
const FUEL: u64 = 1_000_000;
/// Far longer than any configuration file. What an expression makes on its way is bounded by the [`process`].
const LONGEST: usize = 16 << 20;

/// What is told of an expression and of its fault.
const COMPLAINT: usize = 1000;

/// Why a template gave no text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The file that was rendered, as its caller calls it.
    pub file: String,
    /// Counts from 1.
    pub line: Option<usize>,
    /// The part of the template that failed, e.g. `site.prot`.
    pub expression: Option<String>,
    pub reason: String,
    /// Names that exist where the missing one was looked for, the likeliest first.
    pub known: Vec<String>,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if let Some(expression) = &self.expression {
            write!(f, "`{expression}`: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

impl Error {
    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        let known: Vec<_> = self.known.iter().map(|name| format!("`{name}`")).collect();
        (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")))
    }
}

/// Renders what a platform or a repository wrote; `name` is for messages.
pub fn render(name: &str, source: &str, facts: &Value) -> Result<String, Error> {
    process::render(name, source, facts, None)
}

/// Renders what is adt's own or this host's.
pub fn render_own(name: &str, source: &str, facts: &Value) -> Result<String, Error> {
    here(name, source, facts, None)
}

/// What `secret('db')` in a template becomes.
pub type Secret = std::sync::Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Like [`render`] for a template that may ask for secrets: its text is as secret as they are.
pub fn render_with(name: &str, source: &str, facts: &Value, secret: &Secret) -> Result<String, Error> {
    process::render(name, source, facts, Some(secret))
}

/// Renders in this process.
fn here(name: &str, source: &str, facts: &Value, secret: Option<&Secret>) -> Result<String, Error> {
    let mut environment = environment();
    if let Some(secret) = secret.map(std::sync::Arc::clone) {
        environment.add_function("secret", move |name: String| secret(&name));
    }
    let failed = |error: minijinja::Error| describe(name, source, facts, &error);
    let template = environment.template_from_named_str(name, source).map_err(failed)?;
    whole(&template, facts).map_err(failed)
}

/// Like [`render`] for a page: what facts hold becomes text in it, never markup.
pub fn render_html(name: &str, source: &str, facts: &Value) -> Result<String, Error> {
    let mut environment = environment();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let failed = |error: minijinja::Error| describe(name, source, facts, &error);
    let template = environment.template_from_named_str(name, source).map_err(failed)?;
    whole(&template, facts).map_err(failed)
}

/// A template that is read once and rendered often.
pub struct Prepared<'s> {
    environment: Environment<'s>,
    name: &'s str,
    source: &'s str,
}

impl<'s> Prepared<'s> {
    pub fn new(name: &'s str, source: &'s str) -> Result<Self, Error> {
        let mut environment = environment();
        environment.add_template(name, source).map_err(|error| describe(name, source, &Value::Null, &error))?;
        Ok(Self { environment, name, source })
    }

    pub fn render(&self, facts: &Value) -> Result<String, Error> {
        let template = self.environment.get_template(self.name).expect("it was added");
        let failed = |error: minijinja::Error| describe(self.name, self.source, facts, &error);
        whole(&template, facts).map_err(failed)
    }
}

/// The text of a template; one that grows beyond all bounds ends there.
fn whole(template: &Template<'_, '_>, facts: &Value) -> Result<String, minijinja::Error> {
    let mut text = Bounded(Vec::new());
    template.render_captured_to(minijinja::Value::from(minijinja::value::Serde(facts)), &mut text)?;
    Ok(String::from_utf8(text.0).expect("a template writes strings"))
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Renders a file's path and refuses one that leads anywhere else than below where it starts.
pub fn render_path(path: &str, facts: &Value) -> Result<String, Error> {
    let rendered = render(path, path, facts)?;
    let parts = Path::new(&rendered).components();
    let reason = if rendered.is_empty() || rendered.ends_with('/') || rendered.contains("//") {
        "it has an empty part"
    } else if parts.clone().any(|part| !matches!(part, Component::Normal(_))) {
        "it must stay below its folder"
    } else if rendered.chars().any(char::is_control) {
        "it holds a control character"
    } else {
        return Ok(rendered);
    };
    let shown = format!("this renders to the path `{}`, but {reason}", rendered.escape_debug());
    Err(Error { file: path.to_owned(), line: None, expression: None, reason: shown, known: Vec::new() })
}

fn environment<'s>() -> Environment<'s> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    // Configuration files end with a newline, and a line that holds only `{% if … %}` should leave none behind.
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters are valid"));
    environment
}

fn describe(name: &str, source: &str, facts: &Value, error: &minijinja::Error) -> Error {
    let expression = error.range().and_then(|range| expression(source, range)).filter(|text| !text.is_empty());
    let missing = error.kind() == ErrorKind::UndefinedError;
    let reason = match error.kind() {
        ErrorKind::UndefinedError => "there is no such value".to_owned(),
        ErrorKind::WriteFailure => format!("its text becomes longer than {} MiB", LONGEST >> 20),
        ErrorKind::OutOfFuel => "the template does not come to an end".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    let short = |text: &str| text[..text.floor_char_boundary(COMPLAINT)].to_owned();
    Error {
        file: name.to_owned(),
        line: error.line(),
        expression: expression.map(short),
        reason: short(&reason),
        known: expression.filter(|_| missing).map(|text| neighbours(text, facts)).unwrap_or_default(),
    }
}

/// The engine's range of `a.b.c` may begin at `.b`; the whole path says more.
fn expression(source: &str, range: Range<usize>) -> Option<&str> {
    let before = source.get(..range.start)?;
    let start = before.trim_end_matches(|c: char| is_word(c) || c == '.').len();
    source.get(start..range.end).map(str::trim)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Follows the first path that leads nowhere, e.g. `site.prot`, into the facts as far as it goes and lists what is there instead.
fn neighbours(expression: &str, facts: &Value) -> Vec<String> {
    // Filters, calls and indexes would need the template's own parser to tell names from other words.
    if expression.contains(['|', '(', '[', '\'', '"']) {
        return Vec::new();
    }
    let paths = expression.split(|c: char| !is_word(c) && c != '.').filter(|path| !path.is_empty());
    let Some((here, missing)) = paths.filter_map(|path| dead_end(path, facts)).next() else { return Vec::new() };
    let mut names: Vec<String> = here.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
    names.sort_by_cached_key(|name| (strsim::damerau_levenshtein(missing, name), name.clone()));
    names.truncate(8);
    names
}

/// The last value on the path that exists, and the part that it lacks.
fn dead_end<'a>(path: &'a str, facts: &'a Value) -> Option<(&'a Value, &'a str)> {
    let mut here = facts;
    for part in path.split('.') {
        match here.get(part) {
            Some(inner) => here = inner,
            None => return Some((here, part)),
        }
    }
    None
}

#[cfg(test)]
mod tests;
