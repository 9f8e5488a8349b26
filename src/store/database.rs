//! Wanted state in SQLite: one file of root's alone, transactions, readable by anybody's tools when something is odd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};
use rustix::fs::{CWD, FileType, Mode, chmod, mknodat};
use rustix::io::Errno;

use super::record::{Damaged, Definition, Environment, Owner, PlatformRecord, Readable, SiteCode, Wanted};
use super::{Error, Result};
use crate::model::{BadName, EnvironmentId, EnvironmentName, MachineId, MachineName, MachineSpec, PlatformName, SiteName};

/// Raised with every change that an older adt could not read.
const FORMAT: i64 = 3;

const SCHEMA: &str = "
    CREATE TABLE platforms (
        name TEXT PRIMARY KEY, folder TEXT NOT NULL, source TEXT NOT NULL, branch TEXT, created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE environments (
        platform TEXT NOT NULL, name TEXT NOT NULL,
        wanted TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL, owner TEXT NOT NULL,
        network TEXT NOT NULL UNIQUE, definition TEXT NOT NULL, disk INTEGER,
        PRIMARY KEY (platform, name)
    ) STRICT;
    -- The specification that a machine was last created with; the difference to what is wanted is what a reload does.
    CREATE TABLE applied (
        platform TEXT NOT NULL, environment TEXT NOT NULL, machine TEXT NOT NULL, spec TEXT NOT NULL,
        PRIMARY KEY (platform, environment, machine)
    ) STRICT;
";

/// What format 2 has more than format 1.
const SITES: &str = "
    CREATE TABLE sites (
        platform TEXT NOT NULL, environment TEXT NOT NULL, site TEXT NOT NULL, code TEXT NOT NULL,
        PRIMARY KEY (platform, environment, site)
    ) STRICT;
";

/// What format 3 has more: who somebody is beside their name, and whom they let in.
const OWNERS: &str = "
    ALTER TABLE platforms ADD COLUMN keeper INTEGER;
    ALTER TABLE environments ADD COLUMN user INTEGER;
    ALTER TABLE environments ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;
";

/// Of an environment, in the order in which [`RawEnvironment::read`] takes them.
const COLUMNS: &str = "platform, name, wanted, created, updated, owner, user, shared, network, definition, disk";

#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    /// Steps of one environment run on several threads.
    connection: Mutex<Connection>,
}

/// So long one command waits for another's writing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Brings a database to this format; returns the one that it has then. Who turns the log of a new one on while another does is
/// refused at once, whatever the timeout, and comes again.
fn settle(connection: &mut Connection) -> rusqlite::Result<i64> {
    let since = Instant::now();
    loop {
        match try_to_settle(connection) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn try_to_settle(connection: &mut Connection) -> rusqlite::Result<i64> {
    let found = version(connection)?;
    if found == 0 {
        connection.pragma_update(None, "journal_mode", "wal")?;
    }
    if found < FORMAT { create(connection) } else { Ok(found) }
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self> {
        make_private(path)?;
        let fail = |source| classify(path, source);
        let mut connection = Connection::open(path).map_err(fail)?;
        connection.busy_timeout(PATIENCE).map_err(fail)?;
        let found = settle(&mut connection).map_err(fail)?;
        if found > FORMAT {
            return Err(Error::Newer { path: path.to_owned(), found, known: FORMAT });
        }
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Another number after each commit of somebody else's, and the same until then.
    pub fn commits(&self) -> Result<i64> {
        let asked = self.connection().pragma_query_value(None, "data_version", |row| row.get(0));
        asked.map_err(|source| self.fail(source))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked in the middle of a transaction rolled it back when it dropped it.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, source: rusqlite::Error) -> Error {
        classify(&self.path, source)
    }

    fn bad_row(&self, what: impl ToString) -> Error {
        Error::BadRow { path: self.path.clone(), what: what.to_string() }
    }

    pub fn platforms(&self) -> Result<Vec<PlatformRecord>> {
        let connection = self.connection();
        let mut statement = connection
            .prepare("SELECT name, folder, source, branch, created, keeper FROM platforms ORDER BY name")
            .map_err(|e| self.fail(e))?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))
            .map_err(|e| self.fail(e))?;
        let mut platforms = Vec::new();
        for row in rows {
            let (name, folder, source, branch, created, keeper): (String, String, _, _, _, _) = row.map_err(|e| self.fail(e))?;
            // One whose very name is damaged must not hide the others; see [`Self::nameless_platforms`].
            if let Ok(name) = PlatformName::new(name) {
                platforms.push(PlatformRecord { name, folder: folder.into(), source, branch, created, keeper });
            }
        }
        Ok(platforms)
    }

    /// What is written in the place of a platform's name and is none, with the folder of its record.
    pub fn nameless_platforms(&self) -> Result<Vec<(String, PathBuf)>> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT name, folder FROM platforms ORDER BY name").map_err(|e| self.fail(e))?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).map_err(|e| self.fail(e))?;
        let all: Vec<_> = rows.collect::<rusqlite::Result<_>>().map_err(|e| self.fail(e))?;
        let nameless = all.into_iter().filter(|(name, _)| PlatformName::new(name.as_str()).is_err());
        Ok(nameless.map(|(name, folder)| (name, folder.into())).collect())
    }

    /// Whether there was such a record.
    pub fn forget_nameless_platform(&self, name: &str) -> Result<bool> {
        let deleted = self.connection().execute("DELETE FROM platforms WHERE name = ?1", [name]).map_err(|e| self.fail(e))?;
        Ok(deleted > 0)
    }

    pub fn platform(&self, name: &PlatformName) -> Result<Option<PlatformRecord>> {
        Ok(self.platforms()?.into_iter().find(|platform| platform.name == *name))
    }

    pub fn put_platform(&self, platform: &PlatformRecord) -> Result<()> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO platforms (name, folder, source, branch, created, keeper) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    platform.name.as_str(),
                    platform.folder.to_str().expect("no platform is added whose folder's path is no text"),
                    platform.source,
                    platform.branch,
                    platform.created,
                    platform.keeper
                ],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// Forgets a platform unless it has an environment: one may have been made while the others were destroyed.
    pub fn forget_platform(&self, name: &PlatformName) -> Result<bool> {
        let sql = "DELETE FROM platforms WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM environments WHERE platform = ?1)";
        let deleted = self.connection().execute(sql, [name.as_str()]).map_err(|e| self.fail(e))?;
        Ok(deleted > 0)
    }

    /// All environments, or those of one platform.
    pub fn environments(&self, platform: Option<&PlatformName>) -> Result<Vec<Environment>> {
        self.rows(platform)?.into_iter().collect()
    }

    /// The same for whoever gets on without those that can't be read.
    pub fn readable_environments(&self, platform: Option<&PlatformName>) -> Result<Readable> {
        let mut readable = Readable::default();
        for row in self.rows(platform)? {
            match row {
                Ok(environment) => readable.sound.push(environment),
                Err(Error::BadEnvironment { platform, name, what, .. }) => {
                    readable.damaged.push(Damaged { platform, name, what });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(readable)
    }

    /// Each damaged row is an error of its own.
    fn rows(&self, platform: Option<&PlatformName>) -> Result<Vec<Result<Environment>>> {
        let connection = self.connection();
        let mut statement = connection
            .prepare(&format!("SELECT {COLUMNS} FROM environments WHERE ?1 IS NULL OR platform = ?1 ORDER BY platform, name"))
            .map_err(|e| self.fail(e))?;
        let rows = statement.query_map([platform.map(PlatformName::as_str)], RawEnvironment::read).map_err(|e| self.fail(e))?;
        let mut last = LastDefinition::default();
        rows.map(|row| Ok(row.map_err(|e| self.fail(e))?.settle(self, &mut last))).collect()
    }

    pub fn environment(&self, id: &EnvironmentId) -> Result<Option<Environment>> {
        let connection = self.connection();
        let row = connection
            .query_row(
                &format!("SELECT {COLUMNS} FROM environments WHERE platform = ?1 AND name = ?2"),
                [id.platform.as_str(), id.name.as_str()],
                RawEnvironment::read,
            )
            .optional()
            .map_err(|e| self.fail(e))?;
        row.map(|row| row.settle(self, &mut LastDefinition::default())).transpose()
    }

    /// Adds an environment with what its sites run, choosing its network in the same transaction: two that are made at once never get the same one.
    pub fn add_environment<E: From<Error>>(
        &self,
        choose: impl FnOnce(&[Ipv4Net]) -> std::result::Result<Ipv4Net, E>,
        make: impl FnOnce(Ipv4Net) -> Environment,
        codes: &BTreeMap<SiteName, SiteCode>,
    ) -> std::result::Result<Environment, E> {
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| E::from(self.fail(e)))?;
        let taken = self.networks(&transaction)?;
        let environment = make(choose(&taken)?);
        transaction
            .execute(
                &format!("INSERT INTO environments ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"),
                params![
                    environment.id.platform.as_str(),
                    environment.id.name.as_str(),
                    environment.wanted.word(),
                    environment.created,
                    environment.updated,
                    environment.owner.name,
                    environment.owner.user,
                    environment.shared,
                    environment.network.to_string(),
                    json(&environment.definition),
                    environment.disk.and_then(|bytes| i64::try_from(bytes).ok()),
                ],
            )
            .map_err(|e| E::from(self.fail(e)))?;
        for (site, code) in codes {
            put_code(&transaction, &environment.id, site, code).map_err(|e| E::from(self.fail(e)))?;
        }
        transaction.commit().map_err(|e| E::from(self.fail(e)))?;
        Ok(environment)
    }

    fn networks(&self, connection: &Connection) -> Result<Vec<Ipv4Net>> {
        let mut statement = connection.prepare("SELECT network FROM environments").map_err(|e| self.fail(e))?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(|e| self.fail(e))?;
        rows.map(|row| Ipv4Net::from_str(&row.map_err(|e| self.fail(e))?).map_err(|e| self.bad_row(e))).collect()
    }

    pub fn set_wanted(&self, id: &EnvironmentId, wanted: Wanted, now: i64) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE environments SET wanted = ?3, updated = ?4 WHERE platform = ?1 AND name = ?2",
                params![id.platform.as_str(), id.name.as_str(), wanted.word(), now],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    pub fn set_definition(&self, id: &EnvironmentId, definition: &Definition, now: i64) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE environments SET definition = ?3, updated = ?4 WHERE platform = ?1 AND name = ?2",
                params![id.platform.as_str(), id.name.as_str(), json(definition), now],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    pub fn set_shared(&self, id: &EnvironmentId, shared: bool) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE environments SET shared = ?3 WHERE platform = ?1 AND name = ?2",
                params![id.platform.as_str(), id.name.as_str(), shared],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// Writes down who an owner is of whom only the name is known.
    pub fn set_owner_user(&self, id: &EnvironmentId, user: u32) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE environments SET user = ?3 WHERE platform = ?1 AND name = ?2 AND user IS NULL",
                params![id.platform.as_str(), id.name.as_str(), user],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    pub fn set_disk(&self, id: &EnvironmentId, bytes: Option<u64>) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE environments SET disk = ?3 WHERE platform = ?1 AND name = ?2",
                params![id.platform.as_str(), id.name.as_str(), bytes.and_then(|bytes| i64::try_from(bytes).ok())],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// What one that is up had when it was looked at. Whoever halts it meanwhile knows better.
    pub fn note_disk(&self, id: &EnvironmentId, bytes: u64) -> Result<()> {
        self.connection()
            .execute(
                "UPDATE environments SET disk = ?3 WHERE platform = ?1 AND name = ?2 AND wanted = ?4",
                params![id.platform.as_str(), id.name.as_str(), i64::try_from(bytes).ok(), Wanted::Up.word()],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// Removes every row of an environment.
    pub fn forget_environment(&self, id: &EnvironmentId) -> Result<()> {
        self.forget_record(id.platform.as_str(), id.name.as_str()).map(drop)
    }

    /// The same for what may be no name; whether there was such a record.
    pub fn forget_record(&self, platform: &str, name: &str) -> Result<bool> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| self.fail(e))?;
        let key = [platform, name];
        transaction.execute("DELETE FROM applied WHERE platform = ?1 AND environment = ?2", key).map_err(|e| self.fail(e))?;
        transaction.execute("DELETE FROM sites WHERE platform = ?1 AND environment = ?2", key).map_err(|e| self.fail(e))?;
        let gone = transaction.execute("DELETE FROM environments WHERE platform = ?1 AND name = ?2", key);
        let gone = gone.map_err(|e| self.fail(e))?;
        transaction.commit().map_err(|e| self.fail(e))?;
        Ok(gone > 0)
    }

    /// The code of an environment's sites; of all environments with `None`.
    pub fn site_codes(&self, id: Option<&EnvironmentId>) -> Result<BTreeMap<EnvironmentId, BTreeMap<SiteName, SiteCode>>> {
        let connection = self.connection();
        let mut statement = connection
            .prepare(
                "SELECT platform, environment, site, code FROM sites WHERE ?1 IS NULL OR (platform = ?1 AND environment = ?2)",
            )
            .map_err(|e| self.fail(e))?;
        let rows = statement
            .query_map([id.map(|id| id.platform.as_str()), id.map(|id| id.name.as_str())], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
            })
            .map_err(|e| self.fail(e))?;
        let mut codes: BTreeMap<EnvironmentId, BTreeMap<SiteName, SiteCode>> = BTreeMap::new();
        for row in rows {
            let (platform, name, site, code) = row.map_err(|e| self.fail(e))?;
            // It belongs to a record whose own name is damaged, which is told where that is listed.
            let (Ok(platform), Ok(name)) = (PlatformName::new(platform), EnvironmentName::new(name)) else { continue };
            let id = EnvironmentId { platform, name };
            let site = SiteName::new(site).map_err(|e| self.bad_row(e))?;
            codes.entry(id).or_default().insert(site, serde_json::from_str(&code).map_err(|e| self.bad_row(e))?);
        }
        Ok(codes)
    }

    pub fn put_site_code(&self, id: &EnvironmentId, site: &SiteName, code: &SiteCode) -> Result<()> {
        put_code(&self.connection(), id, site, code).map_err(|e| self.fail(e))
    }

    pub fn forget_site_code(&self, id: &EnvironmentId, site: &SiteName) -> Result<()> {
        self.connection()
            .execute(
                "DELETE FROM sites WHERE platform = ?1 AND environment = ?2 AND site = ?3",
                [id.platform.as_str(), id.name.as_str(), site.as_str()],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    pub fn put_applied(&self, spec: &MachineSpec) -> Result<()> {
        let id = &spec.id;
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO applied VALUES (?1, ?2, ?3, ?4)",
                params![id.environment.platform.as_str(), id.environment.name.as_str(), id.machine.as_str(), json(spec)],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    pub fn forget_applied(&self, id: &MachineId) -> Result<()> {
        self.connection()
            .execute(
                "DELETE FROM applied WHERE platform = ?1 AND environment = ?2 AND machine = ?3",
                [id.environment.platform.as_str(), id.environment.name.as_str(), id.machine.as_str()],
            )
            .map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// The specifications that this environment's machines were created with; of all environments with `None`.
    pub fn applied(&self, id: Option<&EnvironmentId>) -> Result<Vec<(MachineName, MachineSpec)>> {
        let connection = self.connection();
        let mut statement = connection
            .prepare("SELECT machine, spec FROM applied WHERE ?1 IS NULL OR (platform = ?1 AND environment = ?2)")
            .map_err(|e| self.fail(e))?;
        let rows = statement
            .query_map([id.map(|id| id.platform.as_str()), id.map(|id| id.name.as_str())], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .map_err(|e| self.fail(e))?;
        let mut applied = Vec::new();
        for row in rows {
            let (machine, spec) = row.map_err(|e| self.fail(e))?;
            // A specification of another format reads as "never applied": the machine is configured anew, its files stay.
            if let Ok(spec) = serde_json::from_str(&spec) {
                applied.push((MachineName::new(machine).map_err(|e| self.bad_row(e))?, spec));
            }
        }
        Ok(applied)
    }
}

/// Definitions hold variables, files and addresses with passwords in them. SQLite gives what it keeps beside a database the
/// database's own mode.
fn make_private(path: &Path) -> Result<()> {
    let io = |source| Error::Io { what: "make", path: path.to_owned(), source };
    let own = Mode::RUSR | Mode::WUSR;
    // Nothing here may open the file: closing it would free the locks that this process holds on it by another connection.
    match mknodat(CWD, path, FileType::RegularFile, own, 0) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(io(errno.into())),
    }
    for ending in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(ending);
        match super::mode_of(Path::new(&file))? {
            Some(mode) if mode != own.as_raw_mode() => match chmod(&file, own) {
                // The last one to close the database removes what is beside it.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(io(errno.into())),
            },
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn put_code(connection: &Connection, id: &EnvironmentId, site: &SiteName, code: &SiteCode) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO sites VALUES (?1, ?2, ?3, ?4)";
    connection.execute(sql, params![id.platform.as_str(), id.name.as_str(), site.as_str(), json(code)])?;
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Makes the tables that are missing, unless another process was faster.
fn create(connection: &mut Connection) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let found = version(&transaction)?;
    if found >= FORMAT {
        return Ok(found);
    }
    for (format, tables) in [(1, SCHEMA), (2, SITES), (3, OWNERS)] {
        if found < format {
            transaction.execute_batch(tables)?;
        }
    }
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(FORMAT)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("our own types have string keys only, so they always become JSON")
}

fn classify(path: &Path, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    // What SQLite says when its shared memory, a file beside the database, does not fit on the disk.
    const NO_ROOM_FOR_SHARED_MEMORY: i32 = 4874;
    match source.sqlite_error_code() {
        _ if source.sqlite_error().is_some_and(|error| error.extended_code == NO_ROOM_FOR_SHARED_MEMORY) => Error::Full { path },
        Some(ErrorCode::DiskFull) => Error::Full { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Damaged { path, source },
        _ if matches!(&source, rusqlite::Error::SqliteFailure(_, Some(text)) if text.starts_with("no such")) => {
            Error::Damaged { path, source }
        }
        _ => Error::Database { path, source },
    }
}

/// The environments of a platform mostly have one and the same definition: it is read once, not five hundred times.
#[derive(Default)]
struct LastDefinition(Option<(String, Definition)>);

impl LastDefinition {
    fn read(&mut self, text: String) -> serde_json::Result<Definition> {
        if let Some((known, definition)) = &self.0
            && *known == text
        {
            return Ok(definition.clone());
        }
        let definition: Definition = serde_json::from_str(&text)?;
        self.0 = Some((text, definition.clone()));
        Ok(definition)
    }
}

/// A row before its words are checked.
struct RawEnvironment {
    platform: String,
    name: String,
    wanted: String,
    created: i64,
    updated: i64,
    owner: String,
    user: Option<u32>,
    shared: bool,
    network: String,
    definition: String,
    disk: Option<i64>,
}

impl RawEnvironment {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            platform: row.get(0)?,
            name: row.get(1)?,
            wanted: row.get(2)?,
            created: row.get(3)?,
            updated: row.get(4)?,
            owner: row.get(5)?,
            user: row.get(6)?,
            shared: row.get(7)?,
            network: row.get(8)?,
            definition: row.get(9)?,
            disk: row.get(10)?,
        })
    }

    fn settle(self, database: &Database, last: &mut LastDefinition) -> Result<Environment> {
        let bad = |what: String| Error::BadEnvironment {
            path: database.path.clone(),
            platform: self.platform.clone(),
            name: self.name.clone(),
            what,
        };
        let id = EnvironmentId {
            platform: self.platform.parse().map_err(|e: BadName| bad(e.to_string()))?,
            name: self.name.parse().map_err(|e: BadName| bad(e.to_string()))?,
        };
        Ok(Environment {
            wanted: Wanted::from_word(&self.wanted).ok_or_else(|| bad(format!("unknown wanted state `{}`", self.wanted)))?,
            created: self.created,
            updated: self.updated,
            owner: Owner { name: self.owner, user: self.user },
            shared: self.shared,
            network: Ipv4Net::from_str(&self.network).map_err(|e| bad(e.to_string()))?,
            definition: last.read(self.definition).map_err(|e| bad(e.to_string()))?,
            disk: self.disk.and_then(|bytes| u64::try_from(bytes).ok()),
            id,
        })
    }
}
