//! What machines have to say, as records in the order of time: from the journal and from log files, to a person's terminal and to
//! receivers on the wire.
//!
//! Pure: text in, text out. Who runs `journalctl` and reads files is [`crate::engine::logs`], who sends is the daemon.
//!
//! ```text
//! journal JSON ─> journal ┐                      ┌> show    a line for a person
//!                         ├> Record ─> merge, ───┼> syslog  RFC 5424
//! file lines ──> file ────┘            window    └> splunk  HTTP Event Collector
//!                └ stamp: when a line was written
//! ```

pub mod access;
pub mod file;
pub mod journal;
pub mod merge;
pub mod show;
pub mod splunk;
pub mod stamp;
pub mod syslog;
pub mod when;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::MachineId;

/// Microseconds since 1970.
pub type Micros = i64;

/// One thing that one program of one machine said, perhaps in several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub time: Micros,
    pub origin: Arc<Origin>,
    /// What wrote it: a systemd unit without `.service`, a program, or a file's name.
    pub unit: String,
    /// As syslog numbers them: 0 is the worst, 7 is for debugging.
    pub severity: u8,
    pub message: String,
    /// How far its source has been read with it; none for what adt itself has to say.
    pub mark: Option<Mark>,
}

/// Which machine a record is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub id: MachineId,
    /// `web1.1161.shop.example.test`
    pub fqdn: String,
}

/// A place in one source, behind a record of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    Journal { cursor: String },
    File { path: Arc<str>, place: Place },
}

/// A place in a file that may be renamed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub inode: u64,
    pub offset: u64,
}

/// How far a machine's sources have been read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Place>,
}

/// Of a machine, whose places are known.
pub const MOST_FILES: usize = 4096;

impl Marks {
    pub fn advance(&mut self, mark: &Mark) {
        match mark {
            Mark::Journal { cursor } => self.journal = Some(cursor.clone()),
            Mark::File { path, place } => {
                let is_full = self.files.len() >= MOST_FILES;
                match self.files.get_mut(&**path) {
                    Some(known) => *known = *place,
                    // Whoever has new files all the time is not remembered for ever.
                    None if is_full => {}
                    None => drop(self.files.insert(path.to_string(), *place)),
                }
            }
        }
    }
}

/// What severities are called, by their number.
pub const SEVERITIES: [&str; 8] = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];
/// For lines that don't say how bad they are.
pub const INFO: u8 = 6;
pub const WARNING: u8 = 4;

impl Record {
    /// What it takes in memory, without what it shares with others.
    pub fn bytes(&self) -> usize {
        self.message.len() + self.unit.len()
    }

    pub fn severity_word(&self) -> &'static str {
        SEVERITIES[usize::from(self.severity.min(7))]
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn record(machine: &str, time: Micros, message: &str) -> Record {
        let id = MachineId { environment: environment(), machine: machine.parse().unwrap() };
        let fqdn = format!("{machine}.1161.shop.example.test");
        Record {
            time,
            origin: Arc::new(Origin { id, fqdn }),
            unit: "apache2".into(),
            severity: INFO,
            message: message.into(),
            mark: None,
        }
    }

    fn environment() -> crate::model::EnvironmentId {
        crate::model::EnvironmentId { platform: "shop".parse().unwrap(), name: "1161".parse().unwrap() }
    }

    #[test]
    fn marks_survive_being_kept() {
        let mut marks = Marks::default();
        marks.advance(&Mark::Journal { cursor: "s=1".into() });
        let place = Place { inode: 7, offset: 9 };
        marks.advance(&Mark::File { path: "/var/log/a".into(), place: Place { inode: 7, offset: 1 } });
        marks.advance(&Mark::File { path: "/var/log/a".into(), place });
        assert_eq!(marks.files["/var/log/a"], place);
        let kept: Marks = serde_json::from_str(&serde_json::to_string(&marks).unwrap()).unwrap();
        assert_eq!(kept, marks);
    }
}
