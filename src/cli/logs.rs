//! `env:logs`: records as lines for a person, or as JSON objects.

use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use jiff::Zoned;
use jiff::tz::TimeZone;
use regex::Regex;

use super::args::LogWords;
use super::{Session, screen};
use crate::engine::logs::{Query, Said};
use crate::logs::show::{self, Columns};
use crate::logs::{Micros, Record, when};
use crate::model::visible::spelled_json;
use crate::model::{BadName, Failure, Kind};

/// Without `--lines` and `--since`: what fills a few screens, or what leads up to the present.
const SOME: usize = 200;
const FEW: usize = 10;

impl Session {
    pub(super) fn logs(&self, words: &LogWords) -> Result<ExitCode, Failure> {
        let query = self.query(words)?;
        let mut printer = Printer::new(self.global.json, self.global.quiet);
        let result = self.connection.logs(&query, &mut |said| printer.print(said));
        if let Some(error) = printer.failed {
            return Err(Failure::new(Kind::Host, "print the logs").because(&error));
        }
        result?;
        // To follow has no other end than Ctrl-C.
        if self.cancel.load(Ordering::Relaxed) && !query.follow {
            return Ok(Kind::Cancelled.exit_code().into());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn query(&self, words: &LogWords) -> Result<Query, Failure> {
        let machines: Result<Vec<_>, BadName> = words.machine.iter().map(|word| word.parse()).collect();
        let site = words.site.as_ref().map(|word| word.parse()).transpose();
        let wrong = |error: BadName| Failure::new(Kind::Usage, "read the command line").because(&error);
        let now = Zoned::now();
        let since = words.since.as_deref().map(|text| time(text, &now)).transpose()?;
        Ok(Query {
            id: self.surroundings.environment(&words.words.words)?,
            machines: machines.map_err(wrong)?,
            site: site.map_err(wrong)?,
            since,
            until: words.until.as_deref().map(|text| time(text, &now)).transpose()?,
            grep: words.grep.as_deref().map(expression).transpose()?,
            lines: words.lines.or(match (since, words.follow) {
                (Some(_), _) => None,
                (None, true) => Some(FEW),
                (None, false) => Some(SOME),
            }),
            follow: words.follow,
        })
    }
}

fn time(text: &str, now: &Zoned) -> Result<Micros, Failure> {
    when::when(text, now).ok_or_else(|| {
        Failure::new(Kind::Usage, "read the command line")
            .cause(format!("`{}` is no time", text.escape_debug()))
            .hint("write e.g. `10m`, `2h`, `09:30`, `2024-05-17 09:30` or `2024-05-17T09:30:00Z`")
    })
}

fn expression(text: &str) -> Result<Regex, Failure> {
    Regex::new(text).map_err(|error| {
        // Its first lines draw the expression with a caret; the last one says what is wrong.
        let why = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Failure::new(Kind::Usage, "read the command line")
            .cause(format!("`{}` is no regular expression", text.escape_debug()))
            .cause(why)
            .hint("put a backslash before characters that mean themselves, e.g. `\\(`")
    })
}

struct Printer {
    json: bool,
    quiet: bool,
    coloured: bool,
    zone: TimeZone,
    columns: Columns,
    /// Machines in the order in which they first spoke; each keeps its colour.
    machines: Vec<String>,
    failed: Option<std::io::Error>,
}

/// Told apart on dark and on light ground.
const COLOURS: [u8; 8] = [36, 33, 32, 35, 34, 96, 93, 95];

impl Printer {
    fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            coloured: std::io::stdout().is_terminal() && console::colors_enabled(),
            zone: TimeZone::system(),
            columns: Columns::default(),
            machines: Vec::new(),
            failed: None,
        }
    }

    fn print(&mut self, said: Said) -> ControlFlow<()> {
        let record = match said {
            Said::Record(record) => record,
            Said::Note(note) => {
                if !self.quiet {
                    drop(screen::err(&note));
                }
                return ControlFlow::Continue(());
            }
        };
        let line = if self.json { format!("{}\n", spelled_json(show::json(&record).to_string())) } else { self.line(&record) };
        let mut out = std::io::stdout().lock();
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                // `adt env:logs … | head` has what it wanted.
                self.failed = (error.kind() != ErrorKind::BrokenPipe).then_some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn line(&mut self, record: &Record) -> String {
        let shown = self.columns.show(record, &self.zone);
        let (time, machine, unit, message) = (&shown.time, &shown.machine, &shown.unit, &shown.message);
        if !self.coloured {
            return format!("{time} {machine} {unit} {message}\n");
        }
        let colour = self.colour(record.origin.id.machine.as_str());
        let message = match record.severity {
            0..=3 => format!("\x1b[31m{message}\x1b[0m"),
            4 => format!("\x1b[33m{message}\x1b[0m"),
            _ => message.clone(),
        };
        format!("\x1b[2m{time}\x1b[0m \x1b[{colour}m{machine} {unit}\x1b[0m {message}\n")
    }

    fn colour(&mut self, machine: &str) -> u8 {
        let known = self.machines.iter().position(|one| one == machine);
        let index = known.unwrap_or_else(|| {
            self.machines.push(machine.to_owned());
            self.machines.len() - 1
        });
        COLOURS[index % COLOURS.len()]
    }
}
