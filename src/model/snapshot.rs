//! Snapshots of an environment as a user sees them, and the rule by which automatic ones are kept. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{SiteName, SnapshotName};

/// Why a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Reason {
    /// Somebody asked for it: it stays until somebody removes it.
    Asked,
    BeforeDeploy {
        site: SiteName,
    },
    BeforeReload {
        data: bool,
    },
    BeforeRewind {
        to: SnapshotName,
    },
}

impl Reason {
    pub fn is_automatic(&self) -> bool {
        !matches!(self, Self::Asked)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => write!(f, "asked for"),
            Self::BeforeDeploy { site } => write!(f, "before a deploy of {site}"),
            Self::BeforeReload { data: true } => write!(f, "before the data went back to its seed"),
            Self::BeforeReload { data: false } => write!(f, "before a reload"),
            Self::BeforeRewind { to } => write!(f, "before a rewind to {to}"),
        }
    }
}

/// Which automatic snapshots of an environment are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Whether any are taken.
    pub automatic: bool,
    /// The newest so many.
    pub newest: u32,
    /// None older than so many days.
    pub days: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { automatic: true, newest: 10, days: 14 }
    }
}

/// What the rule needs to know of a snapshot.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    pub name: &'a SnapshotName,
    pub taken: i64,
    pub automatic: bool,
}

const DAY: i64 = 86_400;

impl Keep {
    /// The snapshots that go, of those of one environment. Whatever somebody asked for stays.
    pub fn surplus(&self, moments: &[Moment<'_>], now: i64) -> Vec<SnapshotName> {
        let mut automatic: Vec<_> = moments.iter().filter(|moment| moment.automatic).collect();
        automatic.sort_by(|a, b| (b.taken, b.name).cmp(&(a.taken, a.name)));
        let oldest = now - i64::from(self.days) * DAY;
        let goes = |(place, moment): &(usize, &&Moment<'_>)| *place >= self.newest as usize || moment.taken < oldest;
        automatic.iter().enumerate().filter(goes).map(|(_, moment)| moment.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_automatic_ones_and_all_that_were_asked_for_are_kept() {
        let names: Vec<SnapshotName> = (0..6).map(|number| SnapshotName::new(format!("s{number}")).unwrap()).collect();
        let taken = [0, 10 * DAY, 11 * DAY, 12 * DAY, 13 * DAY, 0];
        let moments: Vec<_> = names
            .iter()
            .zip(taken)
            .enumerate()
            .map(|(number, (name, taken))| Moment { name, taken, automatic: number < 5 })
            .collect();
        let now = 14 * DAY;
        let surplus = |newest, days| {
            let gone = Keep { automatic: true, newest, days }.surplus(&moments, now);
            gone.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(surplus(10, 14), "", "at the edge");
        assert_eq!(surplus(10, 13), "s0");
        assert_eq!(surplus(2, 14), "s2 s1 s0");
        assert_eq!(surplus(0, 14), "s4 s3 s2 s1 s0");
    }
}
