//! The program under test with a home of its own: `Adt::new().run("env:list").ok()`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

/// One store, one folder to stand in, one piece of address space; all gone when it is dropped.
pub struct Adt {
    home: tempfile::TempDir,
    pub store: PathBuf,
    pool: String,
    variables: Vec<(String, String)>,
    here: PathBuf,
    /// Keeps other tests out of our addresses.
    _slot: File,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub words: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Adt {
    /// A store with nothing in it.
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("adt-test-").tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
        let (slot, number) = slot();
        let here = home.path().join("here");
        std::fs::create_dir(&here).expect("a new folder takes another");
        Self {
            store: home.path().join("store"),
            pool: format!("10.231.{}.0/22", number * 4),
            variables: Vec::new(),
            here,
            home,
            _slot: slot,
        }
    }

    /// A store in which the boxes of the shipped platforms are built; `None`, said loudly, where that can't be.
    pub fn real() -> Option<Self> {
        if let Err(reason) = can_be_real() {
            assert!(std::env::var_os("CI").is_none(), "in CI a test with real machines must run: {reason}");
            eprintln!("NOT RUN, because {reason}: this test needs real machines");
            return None;
        }
        let adt = Self::new();
        std::fs::create_dir(&adt.store).expect("the home is new");
        std::os::unix::fs::symlink(built_boxes().join("layers"), adt.store.join("layers")).expect("the store is new");
        Some(adt)
    }

    /// A folder of this test's own.
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// The folder that the program is started in.
    pub fn here(&self) -> &Path {
        &self.here
    }

    pub fn stand_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.here = folder.into();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// A platform's folder with this definition.
    pub fn platform_toml(&self, name: &str, text: &str) -> PathBuf {
        let folder = self.here.join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the platform");
        std::fs::write(folder.join("platform.toml"), text).expect("a file in it");
        folder
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).current_dir(&self.here).stdin(Stdio::null());
        for name in ["ADT_PLATFORM", "ADT_CONFIG", "ADT_DOMAIN", "ADT_BOXES", "ADT_PROVIDER", "ADT_NAMESERVERS"] {
            command.env_remove(name);
        }
        command.env("ADT_STORE", &self.store).env("ADT_POOL_V4", &self.pool).env("NO_COLOR", "1");
        // No setting of this host may decide a test.
        let config = self.home.path().join("adt.toml");
        if !config.exists() {
            std::fs::write(&config, "").expect("a file in the home");
        }
        command.env("ADT_CONFIG", config).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program with words separated by spaces.
    pub fn run(&self, words: &str) -> Run {
        let split: Vec<_> = words.split_whitespace().collect();
        let output = self.command(&split).output().expect("the program starts");
        Run {
            words: words.into(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What of this store is left in the kernel and on disk besides its own bookkeeping.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let install = rusqlite::Connection::open(self.store.join("adt.db"))
            .and_then(|db| db.query_row("SELECT id FROM install", [], |row| row.get::<_, String>(0)));
        let Ok(install) = install else { return left };
        for entry in std::fs::read_dir("/sys/class/net").expect("there are links").flatten() {
            let alias = std::fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
            if alias.starts_with(&install) {
                left.push(format!("link {}", entry.file_name().to_string_lossy()));
            }
        }
        let store = self.store.display().to_string();
        for file in ["/proc/self/mounts", "/proc/net/unix"] {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            left.extend(text.lines().filter(|line| line.contains(&store)).map(|line| format!("{file}: {line}")));
        }
        for process in std::fs::read_dir("/proc").expect("there are processes").flatten() {
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if words.contains(&store) {
                left.push(format!("process {}: {words}", process.file_name().to_string_lossy()));
            }
        }
        for folder in ["locks", "machines"] {
            let entries = walkdir::WalkDir::new(self.store.join(folder)).min_depth(1).into_iter().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        left.extend(self.rows().into_iter().map(|row| format!("row {row}")));
        left.extend(self.groups(&install));
        left
    }

    fn rows(&self) -> Vec<String> {
        let db = rusqlite::Connection::open(self.store.join("adt.db")).expect("the store has a database");
        let sql = "SELECT platform || '/' || name FROM environments UNION ALL SELECT 'applied ' || machine FROM applied";
        let mut statement = db.prepare(sql).expect("the tables are known");
        let rows = statement.query_map([], |row| row.get(0)).expect("they can be read");
        rows.flatten().collect()
    }

    /// Control groups of environments that this store could have had.
    fn groups(&self, install: &str) -> Vec<String> {
        let tag = |name: &str| {
            let id = adt::model::EnvironmentId { platform: "hello".parse().unwrap(), name: name.parse().unwrap() };
            adt::model::Tag::of(install, &id)
        };
        let tags: Vec<_> = ["1161", "1", "2", "3", "7"].map(tag).to_vec();
        let entries = walkdir::WalkDir::new("/sys/fs/cgroup").max_depth(4).into_iter().flatten();
        let ours = entries.filter(|entry| tags.iter().any(|tag| entry.file_name().to_str() == Some(tag.as_str())));
        ours.map(|entry| format!("control group {}", entry.path().display())).collect()
    }
}

impl Drop for Adt {
    fn drop(&mut self) {
        if !self.store.join("adt.db").exists() {
            return;
        }
        // A test that failed must not leave machines for the next one to stumble over.
        let list = self.run("platform:list --json");
        let platforms: serde_json::Value = serde_json::from_str(&list.stdout).unwrap_or_default();
        for platform in platforms.as_array().into_iter().flatten() {
            let name = platform["name"].as_str().unwrap_or_default();
            self.run(&format!("platform:destroy {name} --yes"));
        }
    }
}

impl Run {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "`adt {}` failed\n{}{}", self.words, self.stdout, self.stderr);
        self
    }

    /// It failed with this exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, code, "`adt {}`\n{}{}", self.words, self.stdout, self.stderr);
        self
    }

    /// One of the two outputs says this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "`adt {}` does not say `{text}`\n{}{}", self.words, self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("`adt {}` printed no JSON: {error}\n{}", self.words, self.stdout))
    }
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_adt")
}

/// Why machines can't be started here.
fn can_be_real() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this is not root".into());
    }
    let output = Command::new(program()).args(["host:check", "--json"]).env("ADT_STORE", "/var/tmp/adt-test-check").output();
    let output = output.map_err(|error| error.to_string())?;
    let _ = std::fs::remove_dir_all("/var/tmp/adt-test-check");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let faults = list["items"].as_array().into_iter().flatten().filter(|item| item["verdict"] == "fault");
    let faults: Vec<_> = faults.map(|item| format!("{}: {}", item["subject"], item["seen"])).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join(", ")) }
}

/// A store with the boxes of the shipped platforms, built once for all tests and kept for the next run.
pub fn built_boxes() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::var_os("ADT_TEST_BOXES").map_or_else(|| "/var/tmp/adt-test-boxes".into(), PathBuf::from);
        std::fs::create_dir_all(&folder).expect("/var/tmp takes a folder");
        let lock = File::create(folder.join("test.lock")).expect("a file in it");
        flock(&lock, FlockOperation::LockExclusive).expect("an open file can be locked");
        for platform in ["hello", "wordpress"] {
            let adt = |words: &[&str]| {
                let mut command = Command::new(program());
                command.args(words).current_dir(&folder).stdin(Stdio::null());
                command.env("ADT_STORE", folder.join("store")).env("ADT_POOL_V4", "10.230.0.0/16");
                let output = command.output().expect("the program starts");
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{words:?}: {told}");
            };
            // The examples may have changed since the last run.
            let _ = std::fs::remove_dir_all(folder.join(platform));
            adt(&["platform:init", platform]);
            adt(&["platform:build", platform]);
        }
        folder.join("store")
    })
}

/// A number that no other test has at the moment, also among processes.
fn slot() -> (File, u32) {
    let folder = Path::new("/var/tmp/adt-test-slots");
    std::fs::create_dir_all(folder).expect("/var/tmp takes a folder");
    for number in 0..64 {
        let file = File::create(folder.join(number.to_string())).expect("a file in it");
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return (file, number);
        }
    }
    panic!("64 tests run at once")
}
