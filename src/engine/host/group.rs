//! The group whose members need no sudo: made where there is none, and taken away only by whoever made it.

use std::path::Path;

use super::system_file::write;
use crate::exec::{Command, people};
use crate::model::{Failure, Kind};

pub const NAME: &str = "adt";
/// In the store that made it.
const MADE: &str = "bootstrap.group";

/// In the system's database, wherever that has it from.
pub fn is_there() -> bool {
    people::group(NAME).is_ok_and(|group| group.is_some())
}

pub fn make(store: &Path) -> Result<(), Failure> {
    // Before it is there: one that was killed in between takes away no more than is there.
    write(store.join(MADE), &format!("{NAME}\n"))?;
    Ok(Command::new("groupadd").args(["--system", NAME]).run().map(drop)?)
}

/// Whether a bootstrap of this store made it.
pub fn is_ours(store: &Path) -> bool {
    store.join(MADE).exists()
}

pub fn remove(store: &Path) -> Result<(), Failure> {
    if is_there() {
        Command::new("groupdel").arg(NAME).run()?;
    }
    let path = store.join(MADE);
    std::fs::remove_file(&path).map_err(|error| Failure::new(Kind::Host, format!("remove `{}`", path.display())).because(&error))
}
