//! "Go on?": what destroys shows first what will vanish, and waits for a yes.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::progress::Reader;
use super::{Session, screen};
use crate::model::response::Done;
use crate::model::{Event, Failure, Kind, Plan, Request, Response};

impl Session {
    /// Shows what will vanish, asks, then does it. Nothing is locked while the question waits, so what has come meanwhile is
    /// asked about as well.
    pub(super) fn destructive(&self, request: &dyn Fn(bool) -> Request, dry_run: bool, yes: bool) -> Result<ExitCode, Failure> {
        if dry_run || yes {
            return self.ask(request(dry_run));
        }
        let mut shown = self.preview(request(true))?;
        if shown.removes.is_empty() && shown.plan.as_ref().is_none_or(Plan::is_empty) {
            return self.ask(request(false));
        }
        loop {
            self.question(&shown)?;
            let now = self.preview(request(true))?;
            if now.removes.iter().all(|line| shown.removes.contains(line)) {
                return self.ask(request(false));
            }
            shown = now;
        }
    }

    fn preview(&self, request: Request) -> Result<Done, Failure> {
        let mut reader = Reader::new(&self.global);
        let preview = self.connection.run(&request, &mut |event| {
            // What would be done is asked about; for whom one waits must be seen at once.
            if matches!(event, Event::Waiting { .. }) {
                reader.read(&event);
            }
        });
        reader.finish();
        match preview? {
            Response::Done(preview) => Ok(preview),
            Response::Promotion(promotion) => {
                let lost = promotion.steps.into_iter().filter(|step| step.loses_data);
                Ok(Done { summary: promotion.summary, removes: lost.map(|step| step.what).collect(), ..Done::default() })
            }
            _ => Err(Failure::new(Kind::Internal, "read the preview")),
        }
    }

    fn question(&self, preview: &Done) -> Result<(), Failure> {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(Kind::Usage, "ask whether to go on")
                .cause(format!("{}, and there is no terminal", preview.summary))
                .hint("add `--yes` to do it without a question, or `--dry-run` to see what would go"));
        }
        // Not locked: what answers "yes" draws its progress from another thread, which would wait for us for ever.
        let mut terminal = std::io::stderr();
        let told = |error: std::io::Error| Failure::new(Kind::Host, "ask").because(&error);
        for line in &preview.removes {
            screen::err(&format!("  {line}")).map_err(told)?;
        }
        write!(terminal, "{}. Go on? [y/N] ", screen::told(&preview.summary)).map_err(told)?;
        terminal.flush().map_err(told)?;
        let refused = |why: &str| Err(Failure::new(Kind::Cancelled, "go on").cause(format!("{why}; nothing was changed")));
        match self.line().map_err(told)? {
            Some(line) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
            Some(_) => refused("you said no"),
            None => {
                writeln!(terminal).map_err(told)?;
                refused("you stopped it")
            }
        }
    }

    /// What is typed; `None` where Ctrl-C is, which elsewhere only asks to stop at the next step.
    fn line(&self) -> std::io::Result<Option<String>> {
        let keys = std::io::stdin();
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        loop {
            let ready = poll(&mut [PollFd::new(&keys, PollFlags::IN)], Some(&moment));
            if self.cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match ready {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    let mut line = String::new();
                    keys.read_line(&mut line)?;
                    return Ok(Some(line));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
