//! A failure as a person reads it: one sentence, the place with a caret, the last lines of what failed, the remedy.

use std::io::IsTerminal;

use super::screen;
use crate::config::snippet::{self, Style};
use crate::model::{Failure, Kind};

pub fn print(failure: &Failure, json: bool) {
    if json {
        let line = serde_json::json!({ "event": "failed", "failure": failure, "exit_code": failure.kind.exit_code() });
        // Somebody who closed our output has no use for the reason either.
        drop(screen::out_json(line.to_string()));
        return;
    }
    drop(screen::err(text(failure).trim_end()));
}

fn style() -> Style {
    let coloured = std::io::stderr().is_terminal() && console::colors_enabled_stderr();
    if coloured { Style::Color } else { Style::Plain }
}

fn text(failure: &Failure) -> String {
    let mut text = String::new();
    let red = console::Style::new().for_stderr().red().bold();
    let head = if failure.kind == Kind::Cancelled { "stopped:" } else { "error:" };
    text.push_str(&format!("{} could not {}", red.apply_to(head), failure.sentence));
    for cause in &failure.causes {
        text.push_str(&format!(": {cause}"));
    }
    text.push('\n');
    for fault in &failure.faults {
        let source = fault.place.as_ref().and_then(|place| std::fs::read_to_string(&place.file).ok());
        match source {
            Some(source) => text.push_str(&snippet::fault(fault, &source, style())),
            None => text.push_str(&format!("  {fault}\n")),
        }
    }
    for part in &failure.parts {
        text.push_str(&self::text(part));
    }
    if failure.faults.is_empty()
        && let Some(place) = &failure.place
    {
        text.push_str(&format!("  at {place}\n"));
    }
    let dim = console::Style::new().for_stderr().dim();
    for line in &failure.tail {
        text.push_str(&format!("  {} {line}\n", dim.apply_to("|")));
    }
    let green = console::Style::new().for_stderr().green();
    for hint in &failure.hints {
        text.push_str(&format!("{} {hint}\n", green.apply_to("hint:")));
    }
    text
}
