//! The only way of text to standard output and standard error: what it quotes of machines, repositories and programs (names, lines,
//! reasons) can't steer the terminal that shows it, and what is read by programs holds no control characters either.

use std::io::{self, IsTerminal, Write};

use crate::model::visible::{Colours, spelled_json, visible};

/// An answer, with its newline.
pub fn out(text: &str) -> io::Result<()> {
    let colours = of(io::stdout().is_terminal() && console::colors_enabled());
    writeln!(io::stdout().lock(), "{}", visible(text, colours))
}

/// What is told besides, with its newline.
pub fn err(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{}", told(text))
}

/// The same for who writes it himself.
pub fn told(text: &str) -> std::borrow::Cow<'_, str> {
    visible(text, of(io::stderr().is_terminal() && console::colors_enabled_stderr()))
}

/// A line of a program that somebody else reads stays as it is; only a terminal's is an [`out`].
pub fn out_as_is(line: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { out(line) } else { io::stdout().lock().write_all(format!("{line}\n").as_bytes()) }
}

pub fn err_as_is(line: &str) -> io::Result<()> {
    if io::stderr().is_terminal() { err(line) } else { io::stderr().lock().write_all(format!("{line}\n").as_bytes()) }
}

pub fn out_json(text: String) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", spelled_json(text))
}

fn of(coloured: bool) -> Colours {
    if coloured { Colours::Stay } else { Colours::Go }
}
