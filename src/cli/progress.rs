//! Readers of events: moving lines on a terminal, plain lines elsewhere, JSON lines for programs, silence for scripts.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::args::Global;
use super::screen;
use crate::model::{Event, Plan, Step};

pub enum Reader {
    Quiet,
    Json,
    Plain,
    Terminal(Box<Terminal>),
}

impl Reader {
    pub fn new(global: &Global) -> Self {
        if global.json {
            Self::Json
        } else if global.quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb") {
            Self::Terminal(Box::default())
        } else {
            Self::Plain
        }
    }

    pub fn read(&mut self, event: &Event) {
        match self {
            Self::Quiet => {}
            Self::Json => {
                let line = serde_json::to_string(event).expect("events have string keys only, so they become JSON");
                // A reader that went away must not stop the work.
                drop(screen::out_json(line));
            }
            Self::Plain => {
                if let Some(line) = plain(event) {
                    drop(screen::err(&line));
                }
            }
            Self::Terminal(terminal) => terminal.read(event),
        }
    }

    /// Leaves no half-drawn line behind.
    pub fn finish(&mut self) {
        if let Self::Terminal(terminal) = self {
            terminal.finish();
        }
    }
}

/// What a finished thing took, short enough for the end of a line.
fn took(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..100_000 => format!("{:.1} s", Duration::from_millis(milliseconds).as_secs_f64()),
        _ => format!("{} s", milliseconds / 1_000),
    }
}

/// The line that an event is worth where nothing moves.
fn plain(event: &Event) -> Option<String> {
    match event {
        Event::Planned { .. } | Event::StepStarted { .. } | Event::TaskProgress { .. } => None,
        Event::StepDone { step, milliseconds } => {
            Some(format!("{}: {} ({})", step.environment, step.action.done(), took(*milliseconds)))
        }
        Event::StepFailed { step, .. } => Some(format!("{step} failed")),
        Event::TaskStarted { task, text } => Some(format!("{task}: {text} …")),
        Event::TaskDone { task, text, milliseconds } => Some(format!("{task}: {text} ({})", took(*milliseconds))),
        Event::TaskFailed { task, .. } => Some(format!("{task}: failed")),
        Event::Output { source, line, .. } => Some(format!("{source} | {}", latest(line))),
        Event::Waiting { on, holder } => Some(format!("waiting for {on}: {holder} works on it")),
        Event::Note { text } => Some(text.clone()),
        Event::Warning { text } => Some(format!("warning: {text}")),
    }
}

/// One moving line for each machine or task that is being worked on; what is done scrolls away above.
#[derive(Default)]
pub struct Terminal {
    lines: MultiProgress,
    running: BTreeMap<String, ProgressBar>,
}

impl Terminal {
    fn read(&mut self, event: &Event) {
        match event {
            Event::Planned { plan } => self.planned(plan),
            Event::StepStarted { step } => self.begin(&subject(step), &step.action.to_string()),
            Event::StepDone { step, milliseconds } => {
                let text = format!("{}: {}", step.environment, step.action.done());
                self.end(&subject(step), '✓', &text, Some(*milliseconds));
            }
            Event::StepFailed { step, .. } => self.end(&subject(step), '✗', &step.to_string(), None),
            Event::TaskStarted { task, text } | Event::TaskProgress { task, text } => self.begin(task, text),
            Event::TaskDone { task, text, milliseconds } => self.end(task, '✓', &format!("{task}: {text}"), Some(*milliseconds)),
            Event::TaskFailed { task, .. } => self.end(task, '✗', &format!("{task}: failed"), None),
            Event::Output { source, line, .. } => {
                let dim = console::Style::new().for_stderr().dim();
                self.print(&format!("  {} {}", dim.apply_to(format!("{source} |")), latest(line)));
            }
            Event::Waiting { on, holder } => self.print(&format!("waiting for {on}: {holder} works on it")),
            Event::Note { text } => self.print(text),
            Event::Warning { text } => {
                let yellow = console::Style::new().for_stderr().yellow();
                self.print(&format!("{} {text}", yellow.apply_to("warning:")));
            }
        }
    }

    /// Nothing moves for a plan: its steps show themselves. It only tells how much there is.
    fn planned(&mut self, plan: &Plan) {
        let steps = plan.steps().count();
        if steps > 20 {
            self.print(&format!("{steps} steps"));
        }
    }

    fn begin(&mut self, subject: &str, text: &str) {
        let bar = self.running.entry(subject.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix:.bold} {msg} {elapsed:.dim}")
                .expect("the template is a constant that was tried");
            let bar =
                self.lines.add(ProgressBar::new_spinner().with_style(style).with_prefix(screen::told(subject).into_owned()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(screen::told(text).into_owned());
    }

    fn end(&mut self, subject: &str, mark: char, text: &str, milliseconds: Option<u64>) {
        if let Some(bar) = self.running.remove(subject) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
        let style = console::Style::new().for_stderr();
        let mark = if mark == '✓' { style.clone().green().apply_to(mark) } else { style.clone().red().apply_to(mark) };
        let time = milliseconds.map(|milliseconds| format!(" {}", style.dim().apply_to(took(milliseconds))));
        self.print(&format!("{mark} {text}{}", time.unwrap_or_default()));
    }

    fn print(&self, line: &str) {
        drop(self.lines.println(screen::told(line)));
    }

    fn finish(&mut self) {
        for (_, bar) in std::mem::take(&mut self.running) {
            bar.finish_and_clear();
        }
        drop(self.lines.clear());
    }
}

/// What a terminal would show of a line that its program began anew to tell how far it is.
fn latest(line: &str) -> &str {
    line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default()
}

/// Steps of one machine share a line.
fn subject(step: &Step) -> String {
    match step.action.machine() {
        Some(machine) => step.environment.machine(machine).to_string(),
        None => step.environment.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_exact_as_people_read_them() {
        for (milliseconds, text) in [(7, "7 ms"), (999, "999 ms"), (1_250, "1.2 s"), (61_000, "61.0 s"), (120_000, "120 s")] {
            assert_eq!(took(milliseconds), text);
        }
    }
}
