//! `box:export`, `box:import`: the caller's own file, or standard output and input as `-`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::progress::Reader;
use super::{Session, answer};
use crate::disk;
use crate::model::request::Export;
use crate::model::{Digest, Event, Failure, Kind, Response};

/// The word for standard output and input.
const STANDARD: &str = "-";

/// What `--without` names, by either hash.
pub(super) fn digests(words: &[String]) -> Result<BTreeSet<Digest>, Failure> {
    let each = words.iter().map(|word| Digest::try_from(word.clone()));
    each.collect::<Result<_, _>>().map_err(|error| {
        let failure = Failure::new(Kind::Usage, "read the command line").because(&error);
        failure.hint("`adt box:show BOX --json` tells a layer's `digest` and `content` in full")
    })
}

/// What tells events while it works.
type Work<'a> = dyn FnMut(&mut dyn FnMut(Event)) -> Result<Response, Failure> + 'a;

impl Session {
    pub(super) fn box_export(&self, export: &Export, output: Option<PathBuf>) -> Result<ExitCode, Failure> {
        let output = output.unwrap_or_else(|| {
            let first = export.boxes.first().map(ToString::to_string);
            let platform = export.platform.as_ref().map(ToString::to_string);
            PathBuf::from(format!("{}.layers", first.or(platform).unwrap_or_default()))
        });
        if output == Path::new(STANDARD) {
            return self.export_to_stdout(export);
        }
        let engine = self.connection.engine()?;
        let path = self.surroundings.here.join(output);
        let failed = |error: io::Error| Failure::new(Kind::Host, format!("write `{}`", path.display())).because(&error);
        let file = disk::File::at(&path);
        let file = match &engine.caller.account {
            Some(account) => file.owner(account.user, account.group),
            None => file,
        };
        let mut draft = file.begin().map_err(failed)?;
        let response = self.carry(&mut |each| engine.box_export(export, draft.as_file_mut(), each))?;
        file.finish(draft).map_err(failed)?;
        answer::print(&response, &self.global)?;
        Ok(ExitCode::SUCCESS)
    }

    fn export_to_stdout(&self, export: &Export) -> Result<ExitCode, Failure> {
        let refused = |cause: &str| Failure::new(Kind::Usage, "write the layers to standard output").cause(cause);
        if self.global.json {
            return Err(refused("`--json` writes there, too").hint("name a file with `--output`"));
        }
        if io::stdout().is_terminal() {
            return Err(refused("it is a terminal").hint("name a file with `--output`, or lead it to a program or file"));
        }
        let engine = self.connection.engine()?;
        // The file itself: what the library has for text looks for lines.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(|error| refused("it is closed").because(&error))?;
        let mut stdout = File::from(stdout);
        let response = self.carry(&mut |each| engine.box_export(export, &mut stdout, each))?;
        // Standard output is the file; what became of each layer was told beside it.
        drop(response);
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn box_import(&self, file: &Path) -> Result<ExitCode, Failure> {
        let engine = self.connection.engine()?;
        let response = if file == Path::new(STANDARD) {
            if io::stdin().is_terminal() {
                return Err(Failure::new(Kind::Usage, "take in layers from standard input").cause("it is a terminal"));
            }
            self.carry(&mut |each| engine.box_import(&mut io::stdin(), Path::new("standard input"), each))?
        } else {
            let path = self.surroundings.here.join(file);
            let mut from = File::open(&path)
                .map_err(|error| Failure::new(Kind::Host, format!("read `{}`", path.display())).because(&error))?;
            self.carry(&mut |each| engine.box_import(&mut from, &path, each))?
        };
        answer::print(&response, &self.global)?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn carry(&self, work: &mut Work<'_>) -> Result<Response, Failure> {
        let mut reader = Reader::new(&self.global);
        let result = work(&mut |event| reader.read(&event));
        reader.finish();
        result
    }
}
