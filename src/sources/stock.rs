//! How many working trees are kept ready of a repository: as many as are likely to be taken soon, and as the disk has room for.
//!
//! | of a repository | trees |
//! |---|---|
//! | whose last checkout or build is more than 30 days ago | none |
//! | the same with 7 days, or where less than a tenth of the disk is free | 1 |
//! | any other | 2, or as many as were taken within 8 hours, but no more than 4 |
//!
//! The first is worth its place to everybody. Each further one is made only where it takes at most a fiftieth of what is free,
//! and an eighth of the disk is, so that however many platforms there are they never fill it. Between the eighth and the tenth
//! what is there stays: else trees of one repository would come and go with those of another.
//!
//! Not chosen: a fixed number (one is too few for who starts two tickets, and four are too many for who starts one a week); a
//! settings key (nobody knows the answer, and adt sees it).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::disk;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Nothing is kept for whoever did not come back for so long.
const FORGOTTEN: i64 = 30 * DAY;
/// So long two are expected to be wanted soon after each other.
const BUSY: i64 = 7 * DAY;
/// What was taken in this time is what the next hours may take.
const RECENT: i64 = 8 * HOUR;
const FEW: usize = 2;
pub(super) const MOST: usize = 4;

/// The file in a mirror that tells when it was used: `1700000000 checkout`, a line each.
const FILE: &str = "adt-used";
/// Beyond this only what still counts is kept.
const LONG: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A tree was made for an environment.
    Checkout,
    /// Nobody has one yet, but a platform that has it was built.
    Build,
}

/// When a repository was used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses(Vec<(i64, Use)>);

impl Uses {
    /// What can't be read counts for nothing: it is a guess at what comes.
    pub fn of(mirror: &Path) -> Self {
        Self::parse(&fs::read_to_string(mirror.join(FILE)).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| match line.split_once(' ')? {
            (time, "checkout") => Some((time.parse().ok()?, Use::Checkout)),
            (time, "build") => Some((time.parse().ok()?, Use::Build)),
            _ => None,
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Several commands may at once: each adds a line in one write.
    pub fn note(mirror: &Path, now: i64, kind: Use) -> io::Result<()> {
        let path = mirror.join(FILE);
        let word = match kind {
            Use::Checkout => "checkout",
            Use::Build => "build",
        };
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?
            .write_all(format!("{now} {word}\n").as_bytes())?;
        let text = fs::read_to_string(&path)?;
        if text.len() <= LONG {
            return Ok(());
        }
        // A line that comes in between is lost, and with it one tree at most is not made in time.
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(4 * MOST)..];
        disk::File::at(&path).write_spare(last.join("\n") + "\n")
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything is kept of it at all.
    pub fn is_remembered(&self, now: i64) -> bool {
        self.within(now, FORGOTTEN).next().is_some()
    }

    fn within(&self, now: i64, time: i64) -> impl Iterator<Item = Use> {
        self.0.iter().filter(move |(at, _)| now.saturating_sub(*at) < time).map(|(_, kind)| *kind)
    }

    /// How many trees are to be there.
    pub fn trees(&self, now: i64, disk: &Disk) -> usize {
        if !self.is_remembered(now) {
            return 0;
        }
        if disk.is_low() || self.within(now, BUSY).next().is_none() {
            return 1;
        }
        self.within(now, RECENT).filter(|kind| *kind == Use::Checkout).count().clamp(FEW, MOST)
    }
}

/// Bytes, or files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    pub free: u64,
    pub whole: u64,
}

impl Share {
    fn takes(self, more: u64) -> bool {
        // A filesystem that makes files as it needs them says that it has none.
        self.whole == 0 || (self.free > self.whole / 8 && more <= self.free / 50)
    }
}

/// What whoever is not root can use of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub bytes: Share,
    pub files: Share,
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tree {
    pub bytes: u64,
    pub files: u64,
}

impl Disk {
    /// As one counts that can't be asked.
    pub const FULL: Self = {
        let none = Share { free: 0, whole: u64::MAX };
        Self { bytes: none, files: none }
    };

    pub fn of(folder: &Path) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(folder)?;
        let kept = disk.f_bfree.saturating_sub(disk.f_bavail);
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let whole = bytes(disk.f_blocks.saturating_sub(kept));
        Ok(Self { bytes: Share { free: bytes(disk.f_bavail), whole }, files: Share { free: disk.f_favail, whole: disk.f_files } })
    }

    fn is_low(&self) -> bool {
        [self.bytes, self.files].iter().any(|share| share.free < share.whole / 10)
    }

    pub fn has_room_for(&self, tree: &Tree) -> bool {
        self.bytes.takes(tree.bytes) && self.files.takes(tree.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn disk(free: u64) -> Disk {
        Disk { bytes: Share { free, whole: 1000 }, files: Share { free: 0, whole: 0 } }
    }

    #[test]
    fn as_many_as_were_taken_lately() {
        let taken = |hours: &[i64]| Uses(hours.iter().map(|ago| (NOW - ago * HOUR, Use::Checkout)).collect());
        let built = |hours: &[i64]| Uses(hours.iter().map(|ago| (NOW - ago * HOUR, Use::Build)).collect());
        for (uses, free, trees) in [
            (Uses::default(), 900, 0),
            (taken(&[24 * 31]), 900, 0),
            (taken(&[24 * 8]), 900, 1),
            (taken(&[24 * 6]), 900, 2),
            (built(&[1, 2, 3, 4, 5]), 900, 2),
            (taken(&[1]), 900, 2),
            (taken(&[1, 2, 3]), 900, 3),
            (taken(&[1, 2, 3, 9]), 900, 3),
            (taken(&[0, 0, 0, 0, 0, 0, 0]), 900, 4),
            (taken(&[0, 0, 0, 0, 0, 0, 0]), 99, 1),
            (taken(&[0, 0, 0, 0, 0, 0, 0]), 100, 4),
            // The clock was set back.
            (taken(&[-5]), 900, 2),
        ] {
            assert_eq!(uses.trees(NOW, &disk(free)), trees, "{uses:?} with {free} of 1000 free");
        }
    }

    #[test]
    fn further_trees_never_fill_a_disk() {
        let tree = |bytes| Tree { bytes, files: 1 };
        for (free, bytes, fits) in [(900, 18, true), (900, 19, false), (126, 2, true), (126, 3, false), (125, 1, false)] {
            assert_eq!(disk(free).has_room_for(&tree(bytes)), fits, "{bytes} of {free}");
        }
        let few = Disk { files: Share { free: 200, whole: 1000 }, ..disk(900) };
        assert!(few.has_room_for(&Tree { bytes: 1, files: 4 }) && !few.has_room_for(&Tree { bytes: 1, files: 5 }));
        // Whatever is made one after the other, of however many repositories: an eighth stays free.
        let mut free = 1000;
        while disk(free).has_room_for(&tree(free / 50)) && free / 50 > 0 {
            free -= free / 50;
        }
        assert!(free >= 123, "{free}");
    }

    #[test]
    fn uses_are_noted_and_old_ones_forgotten() {
        let mirror = tempfile::tempdir().unwrap();
        assert!(Uses::of(mirror.path()).is_empty());
        Uses::note(mirror.path(), NOW, Use::Build).unwrap();
        Uses::note(mirror.path(), NOW + 1, Use::Checkout).unwrap();
        assert_eq!(Uses::of(mirror.path()), Uses(vec![(NOW, Use::Build), (NOW + 1, Use::Checkout)]));
        for at in 0..1000 {
            Uses::note(mirror.path(), NOW + at, Use::Checkout).unwrap();
        }
        let uses = Uses::of(mirror.path());
        assert!(uses.0.len() < 300 && uses.0.last() == Some(&(NOW + 999, Use::Checkout)), "{}", uses.0.len());
        fs::write(mirror.path().join(FILE), "soon checkout\n\n7 other\n8 build").unwrap();
        assert_eq!(Uses::of(mirror.path()), Uses(vec![(8, Use::Build)]));
    }
}
