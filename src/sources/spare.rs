//! Working trees without an environment, kept ready for the next ones of a platform.
//!
//! ```text
//! <platform>/.adt/
//!   www-3f2a…            taken first, with one rename, by whoever makes an environment
//!   www-3f2a….2          for who makes another before that one is made anew; so on up to [`stock`]'s number
//!   .www-3f2a….draft     half made, and never taken; the next run removes what a killed one left
//! ```
//! All are made behind commands, by one process at a time, which holds the platform's lock. What is of no use any more is put
//! away, as a checkout that goes.
//!
//! Not chosen: one tree below an overlay for each environment (it must be mounted before anybody edits, after each start of the
//! host too, and is no folder that its person could move); a copy of the first at the moment when it is wanted (0.6 of a
//! `git clone`, measured: what costs is making the files, whether blocks are shared or not).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checkout::{self, Part, Stand, beside, fresh, head, hold, io, names, put_away, remove, switch};
use super::git::Person;
use super::mirror::Mirror;
use super::ready::{What, parse, place, stem};
use super::stock::{self, Tree};
use super::workspace::Place;
use super::{Error, Result};
use crate::disk;
use crate::exec::Command;

/// The spares of one repository in the folder of a platform.
pub struct Spares<'a> {
    pub mirror: &'a Mirror,
    pub person: &'a Person,
    /// Whose the platform's folder is.
    pub keeper: u32,
    /// [`super::ready::SPARES`] in the folder of the platform.
    pub folder: &'a Path,
}

impl Spares<'_> {
    /// Makes as many as are wanted, brings those that are there to where their branch is now (the less differs, the sooner one is
    /// taken), and puts those away that are too many. Beyond the first, only what has room is made.
    pub fn keep(&self, stand: &Stand<'_>, wanted: &dyn Fn() -> usize, has_room: &dyn Fn(&Tree) -> bool) -> Result<()> {
        self.mirror.admit(self.person)?;
        remove(&self.draft())?;
        // Some are taken meanwhile, and what the takers start behind them leaves all to whoever holds the lock: so look again
        // after each. Not forever: there may be one who takes without end.
        for _ in 0..4 * stock::MOST {
            let count = wanted();
            self.put_away_from(count)?;
            let Some(next) = (0..count).find(|number| !self.is_ready(*number, stand)) else { break };
            if next > 0 && !checkout::exists(&self.place(next)) {
                match self.measure() {
                    Ok(tree) if has_room(&tree) => {}
                    Ok(_) => break,
                    // It was taken as it was measured, so it is the first to be made.
                    Err(_) if !checkout::exists(&self.place(0)) => continue,
                    Err(error) => return Err(error),
                }
            }
            self.make(&self.place(next), stand)?;
        }
        Ok(())
    }

    fn place(&self, number: usize) -> PathBuf {
        place(self.folder, self.mirror, number)
    }

    fn draft(&self) -> PathBuf {
        beside(&self.place(0), "draft")
    }

    fn is_ready(&self, number: usize, stand: &Stand<'_>) -> bool {
        let place = self.place(number);
        checkout::exists(&place) && self.is_at(&place, stand)
    }

    fn is_at(&self, folder: &Path, stand: &Stand<'_>) -> bool {
        head(self.person, folder).is_ok_and(|(_, commit)| commit == stand.commit)
    }

    fn make(&self, spare: &Path, stand: &Stand<'_>) -> Result<()> {
        let draft = self.draft();
        remove(&draft)?;
        // Under another name meanwhile: nobody takes it half changed.
        let moved =
            disk::put_spare(spare, &draft).is_ok() && switch(self.person, &draft, stand).is_ok() && self.is_at(&draft, stand);
        if !moved {
            remove(&draft)?;
            if let Err(error) = fresh(self.mirror, self.person, &draft, stand) {
                // What fills a disk must not stay until somebody tries again.
                remove(&draft)?;
                return Err(error);
            }
        }
        // git says whether it is whole when it is taken, and it reaches the disk with the checkout that is made of it.
        disk::put_spare(&draft, spare).map_err(io("move the checkout to", spare))
    }

    /// What the first takes of the disk.
    fn measure(&self) -> Result<Tree> {
        let first = self.place(0);
        let held = hold(self.person, &first)?;
        let sum = |what: &str| {
            let du = Command::new("du").args(["--summarize", "--one-file-system", what, "."]);
            let text = held.command(du).run()?.text();
            let number = text.split_whitespace().next().and_then(|number| number.parse().ok());
            number.ok_or_else(|| io("measure", &first)(std::io::ErrorKind::InvalidData.into()))
        };
        Ok::<_, Error>(Tree { bytes: sum("--block-size=1")?, files: sum("--inodes")? })
    }

    fn put_away_from(&self, count: usize) -> Result<()> {
        let own = stem(self.mirror);
        put_away_all(
            self.folder,
            self.keeper,
            self.person,
            &|name| matches!(parse(name), Some((stem, What::Ready(number))) if stem == own && number >= count),
        )
    }
}

/// Puts away what was prepared of repositories that are not `remembered`, by the names of their mirrors: nobody looks after the
/// spares of a site that changed its source, or of a platform without environments. The caller holds the platform's lock.
pub fn put_away_forgotten(spares: &Path, keeper: u32, person: &Person, remembered: &dyn Fn(&str) -> bool) -> Result<()> {
    put_away_all(spares, keeper, person, &|name| parse(name).is_some_and(|(stem, _)| !remembered(stem)))
}

fn put_away_all(spares: &Path, keeper: u32, person: &Person, which: &dyn Fn(&str) -> bool) -> Result<()> {
    let Some(place) = Place::open(spares, keeper, person)?.filter(Place::is_ours) else { return Ok(()) };
    for name in names(&place.workspace).map_err(|error| io("look into", spares)(error.into()))? {
        if name.to_str().is_ok_and(which) {
            put_away(&place, person, spares, OsStr::from_bytes(name.to_bytes()), Part::Whole)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "spare_tests.rs"]
mod tests;
