//! The caller's terminal: its settings, put back however what used it ends.

use std::io;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// The caller's terminal settings, put back when this goes.
pub struct Saved(Option<Termios>);

impl Saved {
    pub fn now() -> Self {
        Self(if isatty(stdin()) { tcgetattr(stdin()).ok() } else { None })
    }

    pub fn raw(&self) -> io::Result<()> {
        if let Some(settings) = &self.0 {
            let mut raw = settings.clone();
            raw.make_raw();
            tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        }
        Ok(())
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Now, settings);
        }
    }
}
