//! What is known of the tries for one environment: `tls/acme/<platform>.<target>.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Wish};
use crate::disk;
use crate::model::{Domain, EnvironmentId};

/// Seconds after the first failure, the second and so on; at most four tries in the first hour.
const AGAIN: [i64; 6] = [300, 900, 1800, 3600, 4 * 3600, 12 * 3600];

/// Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub names: Vec<Domain>,
    pub directory: String,
    /// Tries since the last success.
    pub tries: usize,
    /// Not before this.
    pub again: i64,
    /// Of the last try that ended.
    pub trouble: Option<String>,
    /// The authority's suggestion.
    pub renew: Option<i64>,
    /// When it is asked for one.
    pub ask_again: i64,
}

impl Record {
    pub(super) fn of(wish: &Wish) -> Self {
        let (names, directory) = (wish.names.clone(), wish.acme.directory.clone());
        Self { names, directory, tries: 0, again: 0, trouble: None, renew: None, ask_again: 0 }
    }

    /// Another name, or another authority, is another matter.
    pub(super) fn is_of(&self, wish: &Wish) -> bool {
        self.names == wish.names && self.directory == wish.acme.directory
    }

    pub(super) fn asks_when(&self, now: i64) -> bool {
        now >= self.ask_again
    }

    pub(super) fn begin(&mut self, now: i64) {
        self.again = now + AGAIN[self.tries.min(AGAIN.len() - 1)];
        self.tries += 1;
    }

    pub(super) fn keep(&self, store: &Path, id: &EnvironmentId) -> Result<(), Error> {
        let text = serde_json::to_string(self).expect("it is names and numbers");
        write(&path(store, id), text.as_bytes())
    }
}

fn path(store: &Path, id: &EnvironmentId) -> PathBuf {
    folder(store).join(format!("{}.{}.json", id.platform, id.name))
}

/// `None` where nothing was tried.
pub fn record(store: &Path, id: &EnvironmentId) -> Option<Record> {
    serde_json::from_str(&std::fs::read_to_string(path(store, id)).ok()?).ok()
}

pub(super) fn folder(store: &Path) -> PathBuf {
    store.join("tls/acme")
}

/// Whole or not at all, for root only.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    let done = disk::make_folders(folder, 0o700).and_then(|()| disk::File::at(path).mode(0o600).write(bytes));
    done.map_err(|source| Error::Keep { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_less_and_less_often() {
        let mut record =
            Record { names: vec![], directory: String::new(), tries: 0, again: 0, trouble: None, renew: None, ask_again: 0 };
        let (mut now, mut times) = (0, Vec::new());
        while now < 48 * 3600 {
            record.begin(now);
            times.push(now);
            now = record.again;
        }
        let most = times.iter().map(|from| times.iter().filter(|at| (*from..from + 3600).contains(*at)).count()).max();
        assert!(most <= Some(4) && times.len() <= 10, "{times:?}");
    }
}
