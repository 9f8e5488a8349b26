//! Files of the system's own configuration that adt writes.

use std::path::Path;

use crate::disk;
use crate::model::{Failure, Kind};

pub(in crate::engine) fn write(path: impl AsRef<Path>, text: &str) -> Result<(), Failure> {
    let path = path.as_ref();
    let told = |error: std::io::Error| Failure::new(Kind::Host, format!("write `{}`", path.display())).because(&error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(told)?;
    }
    disk::File::at(path).mode(0o644).write(text).map_err(told)
}
