//! The state folder: what is wanted, kept so that a crash at any instant leaves the old truth or the new one.
//!
//! ```text
//! <store>/
//!   adt.db      wanted state (SQLite, write-ahead log); see `database`
//!   history.log who made and destroyed what
//!   install     the store's identity, part of every kernel name; apart from the database, so that a damaged one can be
//!               replaced and everything in the kernel still be found
//!   locks/      one flock'ed file per environment or build while a command works on it; see `lock`
//!   layers/     box layers, immutable, named by content; root's alone, machines get theirs by mounts
//!   sources/    mirrors of sites' repositories
//!   machines/   machines' own files, kept by the provider
//!   cache/      what can be fetched again
//!   secrets/    one key per environment that has credentials, root's alone; see `secrets`
//!   access.json who may reach this server, where it is a target's; see `access`
//!   promotions/ what environments of targets were, on the targets' own servers; see `promotions`
//!   snapshots/  what environments were at the moment of each of their snapshots; their files are the provider's
//!   logs/       how far each receiver of logs has got
//!   trusted.json  where authorities were installed, so that all are found again
//!   shipped/    recipes and platforms that came with this binary
//! ```
//! The folder may be the mount point of a pool; see `pool`. Nothing about the kernel is in here: bridges, processes and mounts are asked for each time.

pub mod access;
pub mod database;
pub mod history;
pub mod lock;
pub mod pool;
pub mod promotions;
pub mod record;
pub mod secrets;
pub mod snapshots;

use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::disk;
use crate::model::PlatformName;

pub use database::Database;
pub use lock::{Holder, Lock};
pub use record::{Damaged, Environment, Owner, PlatformRecord, Readable, SiteCode, Wanted};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store `{path}` was written by a newer adt (format {found}, this one knows {known})")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the store's database `{path}` is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the store's identity `{path}` is damaged")]
    BadIdentity { path: PathBuf },
    #[error("the store's database `{path}` holds a row that this adt can't read: {what}")]
    BadRow { path: PathBuf, what: String },
    /// Platform and name are as they are written there.
    #[error("the store's database `{path}` holds a row for `{platform}/{name}` that this adt can't read: {what}")]
    BadEnvironment { path: PathBuf, platform: String, name: String, what: String },
    #[error("there is no space left for the store `{path}`")]
    Full { path: PathBuf },
    #[error("use the store's database `{path}`")]
    Database {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the record `{path}` of a snapshot is damaged: {what}")]
    BadSnapshot { path: PathBuf, what: String },
    #[error("the record `{path}` of promotions is damaged: {what}")]
    BadPromotions { path: PathBuf, what: String },
    #[error("the record `{path}` of who may reach this server is damaged: {what}")]
    BadDoors { path: PathBuf, what: String },
    #[error("no free network is left in the pool {pool}: all {count} are taken")]
    PoolExhausted { pool: String, count: usize },
    #[error("the key `{path}` of an environment's secrets is damaged")]
    BadKey { path: PathBuf },
    #[error("the pool of the store `{path}` is not mounted")]
    PoolUnmounted { path: PathBuf },
    #[error("the store `{path}` is being moved or removed")]
    Moving { path: PathBuf },
    #[error("cancelled while waiting for `{what}`")]
    Cancelled { what: String },
}

/// The lock of the process that serves names and pages.
pub const SERVING: &str = "host";

/// An opened store.
#[derive(Debug)]
pub struct Store {
    pub folder: PathBuf,
    pub database: Database,
    install: String,
    pub history: history::History,
    pub keys: secrets::Keys,
    pub snapshots: snapshots::Snapshots,
    pub promotions: promotions::Promotions,
    /// Held as one of many as long as this store is open.
    entered: std::fs::File,
}

impl Store {
    /// Opens the store, making it where there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        make_folder(folder, mode_of(folder)?.map_or(PASSAGE, |mode| mode | PASSAGE))?;
        let entered = pool::enter(folder)?;
        for name in ["locks", "machines", "cache", "shipped"] {
            make_folder(&folder.join(name), PASSAGE)?;
        }
        // A box in the making has files of the host's root with the set-id bit, until its ids are shifted.
        make_folder(&folder.join("layers"), PRIVATE)?;
        let install = identity(&folder.join("install"))?;
        let database = Database::open(&folder.join("adt.db"))?;
        let history = history::History::new(folder.join("history.log"));
        let keys = secrets::Keys::new(folder.join("secrets"));
        let snapshots = snapshots::Snapshots::new(folder.join("snapshots"));
        let promotions = promotions::Promotions::new(folder.join("promotions"));
        Ok(Self { folder: folder.to_owned(), database, install, history, keys, snapshots, promotions, entered })
    }

    /// Made once for each store; part of every kernel name, so that two stores never touch each other's objects.
    pub fn install(&self) -> &str {
        &self.install
    }

    /// The file of this host's private key for what ties it to other servers; there only where something does.
    pub fn tie_key(&self) -> PathBuf {
        self.folder.join("tie.key")
    }

    /// Keeps every other command out of the store until this one ends. False where another one is in it.
    pub fn alone(&self) -> Result<bool> {
        pool::alone(&self.entered).map_err(|source| Error::Io { what: "lock the folder", path: self.folder.clone(), source })
    }

    /// The process that serves this store's names and pages.
    pub fn server(&self) -> Option<Holder> {
        lock::held::<Holder>(&self.folder.join("locks").join(format!("{SERVING}.lock"))).flatten()
    }

    /// Removes the lock files that dead processes left for a platform's environments; held ones stay.
    pub fn sweep_locks(&self, platform: &PlatformName, holder: &Holder) -> Result<()> {
        let folder = self.folder.join("locks");
        let entries = std::fs::read_dir(&folder).map_err(|source| Error::Io { what: "read", path: folder, source })?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| name.starts_with(&format!("{platform}."))) {
            if let Some(name) = name.strip_suffix(".lock") {
                drop(self.lock(name, holder).attempt()?);
            }
        }
        Ok(())
    }

    pub fn lock(&self, name: &str, holder: &Holder) -> lock::Request {
        lock::Request::new(self.folder.join("locks").join(format!("{name}.lock")), holder.clone())
    }
}

/// The identity in `path`, made where there is none. Two commands that make it at once agree on one.
fn identity(path: &Path) -> Result<String> {
    let io = |source| Error::Io { what: "read the identity", path: path.to_owned(), source };
    if !path.exists() {
        let mut bytes = [0; 8];
        std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(io)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Everything in the kernel carries it: a power cut must not leave its name without its text.
        disk::File::at(path).write_new(text).map_err(io)?;
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text)
    } else {
        Err(Error::BadIdentity { path: path.to_owned() })
    }
}

/// Others may pass through (machines' shifted root must reach its own files below) but not list. What lets them read more of
/// the store's own folder is the choice of whoever made it, e.g. as a mount point.
const PASSAGE: u32 = 0o711;
/// For what is root's alone.
pub const PRIVATE: u32 = 0o700;

/// A folder with this mode. One that a killed command left with another is mended.
pub fn make_folder(path: &Path, mode: u32) -> Result<()> {
    let io = |source| Error::Io { what: "make the folder", path: path.to_owned(), source };
    let found = mode_of(path)?;
    if found.is_some() && !path.is_dir() {
        return Err(io(std::io::ErrorKind::NotADirectory.into()));
    }
    if found.is_none() {
        std::fs::create_dir_all(path.parent().unwrap_or(path)).map_err(io)?;
        // Never open to others, not even for the moment before its mode is set against the umask.
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io)?;
    }
    if found == Some(mode) { Ok(()) } else { set_mode(path, mode).map_err(io) }
}

fn mode_of(path: &Path) -> Result<Option<u32>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.permissions().mode() & 0o777)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: "read the mode of", path: path.to_owned(), source }),
    }
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_of_somebody_elses_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let before = one.database.commits().unwrap();
        one.database.platforms().unwrap();
        assert_eq!(one.database.commits().unwrap(), before);
        let (name, source, branch) = ("shop".parse().unwrap(), "/srv/shop".to_owned(), None);
        let record = PlatformRecord { name, folder: "/srv/shop".into(), source, branch, created: 1, keeper: None };
        other.database.put_platform(&record).unwrap();
        assert_ne!(one.database.commits().unwrap(), before);
    }

    #[test]
    fn a_store_is_made_once_and_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/store");
        let install = Store::open(&path).unwrap().install().to_owned();
        assert_eq!(install.len(), 16);
        assert_eq!(Store::open(&path).unwrap().install(), install);
    }

    #[test]
    fn commands_that_come_first_at_once_agree_on_the_identity() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            let start = std::sync::Barrier::new(8);
            let identities: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
                let open = || {
                    start.wait();
                    Store::open(&path).unwrap().install().to_owned()
                };
                let all: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(identities.len(), 1, "{identities:?}");
            let drafts = std::fs::read_dir(&path).unwrap().flatten().filter(|entry| entry.file_name() != "install");
            let drafts: Vec<_> = drafts.filter(|entry| entry.file_name().to_string_lossy().contains("install")).collect();
            assert!(drafts.is_empty(), "{drafts:?}");
        }
    }

    #[test]
    fn other_users_can_pass_through_but_read_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/store");
        let mode = |name: &str| mode_of(&path.join(name)).unwrap().unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!((mode(""), mode("layers"), mode("adt.db")), (0o711, 0o700, 0o600));
        assert_eq!((mode("adt.db-wal"), mode("adt.db-shm")), (0o600, 0o600));
        // As a killed command, a strict umask or an older adt left them, while another process has the database open.
        set_mode(&path, 0o700).unwrap();
        for (name, wrong) in [("layers", 0o755), ("machines", 0o700), ("adt.db", 0o644), ("adt.db-wal", 0o644)] {
            set_mode(&path.join(name), wrong).unwrap();
        }
        Store::open(&path).unwrap();
        assert!(make_folder(&path.join("install"), PASSAGE).is_err());
        assert_eq!(mode("install"), 0o600, "a file is not opened to others");
        assert_eq!((mode(""), mode("layers"), mode("machines")), (0o711, 0o700, 0o711));
        assert_eq!((mode("adt.db"), mode("adt.db-wal")), (0o600, 0o600));
        drop(store);
    }

    #[test]
    fn a_newer_store_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap();
        let raw = rusqlite::Connection::open(folder.path().join("adt.db")).unwrap();
        raw.pragma_update(None, "user_version", 999).unwrap();
        drop(raw);
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 999, .. }), "{error}");
    }

    #[test]
    fn an_older_store_is_brought_up_to_date_and_keeps_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let platform = PlatformRecord {
            name: PlatformName::new("shop").unwrap(),
            folder: "/srv/shop".into(),
            source: "/srv/shop".into(),
            branch: None,
            created: 7,
            keeper: None,
        };
        Store::open(folder.path()).unwrap().database.put_platform(&platform).unwrap();
        let raw = rusqlite::Connection::open(folder.path().join("adt.db")).unwrap();
        let downgrade = "DROP TABLE sites; ALTER TABLE platforms DROP COLUMN keeper; ALTER TABLE environments DROP COLUMN user;
            ALTER TABLE environments DROP COLUMN shared; PRAGMA user_version = 1";
        raw.execute_batch(downgrade).unwrap();
        drop(raw);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.database.platforms().unwrap(), [platform]);
        assert!(store.database.site_codes(None).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_store_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adt.db"), "this is no database, it is a text of some length".repeat(40)).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}
