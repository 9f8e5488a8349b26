//! The program under test with a home of its own: `Adt::new().run("env:list").ok()`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

use super::host::Host;

/// One store, one folder to stand in, one piece of address space; all gone when it is dropped.
pub struct Adt {
    home: tempfile::TempDir,
    pub store: PathBuf,
    pool: String,
    variables: Vec<(String, String)>,
    here: PathBuf,
    /// Where the program runs when it is not on everybody's host.
    pub host: Option<Host>,
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
            host: None,
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
        adt.link_layers();
        Some(adt)
    }

    /// Every layer by a link of its own: what this store removes or adds is nobody else's.
    fn link_layers(&self) {
        let (from, to) = (built_boxes().join("layers"), self.store().join("layers"));
        std::fs::create_dir(&to).expect("the store is new");
        for entry in std::fs::read_dir(from).expect("boxes were built").flatten() {
            if !entry.file_name().to_string_lossy().starts_with('.') {
                std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name())).expect("the store is new");
            }
        }
        std::os::unix::fs::symlink(built_boxes().join("cache"), self.store().join("cache")).expect("the store is new");
    }

    /// Puts this test on a host of its own: links, firewall, mounts, settings, trust and browsers are nobody else's. Outside of it
    /// is nothing.
    pub fn alone(mut self) -> Self {
        self.host = Some(Host::new());
        let home = self.home.path().join("root");
        std::fs::create_dir(&home).expect("the home is new");
        let home = home.display().to_string();
        self.env("HOME", &home)
    }

    /// A disk of this size for the store, on a host of its own.
    pub fn disk(mut self, megabytes: u32) -> Self {
        let host = self.host.get_or_insert_with(Host::new);
        host.run(&format!("mount -t tmpfs -o size={megabytes}m adt-test-disk {}", self.store.display()));
        self.link_layers();
        self
    }

    /// A disk for the store that can't show its files under other owners, on a host of its own.
    pub fn plain_disk(mut self) -> Self {
        let host = self.host.get_or_insert_with(Host::new);
        host.run(&format!("mount -t ramfs adt-test-disk {}", self.store.display()));
        self.link_layers();
        self
    }

    /// A path of the host that the program runs on, as the test sees it.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        match &self.host {
            None => path.as_ref().to_owned(),
            Some(host) => host.root().join(path.as_ref().strip_prefix("/").expect("an absolute path")),
        }
    }

    /// The store as the test sees it.
    pub fn store(&self) -> PathBuf {
        self.at(&self.store)
    }

    /// Where the system is told to trust this store's authority of a domain.
    pub fn authority_file(&self, domain: &str) -> PathBuf {
        let install = std::fs::read_to_string(self.store().join("install")).expect("the store is open");
        self.at(format!("/usr/local/share/ca-certificates/adt-{}-{domain}.crt", install.trim()))
    }

    /// Another program on the same host.
    pub fn program_there(&self, program: &str) -> Command {
        self.host.as_ref().map_or_else(|| Command::new(program), |host| host.command(program))
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
        self.command_by(&[program()], words)
    }

    /// The same by other words that start the program, e.g. as somebody else.
    pub fn command_by(&self, before: &[&str], words: &[&str]) -> Command {
        // Entering another mount namespace leaves the current folder.
        let mut command = self.program_there("env");
        command.arg("--chdir").arg(&self.here).args(before).args(words).stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ADT_")) {
            command.env_remove(name);
        }
        // Nor who started the tests: environments and files would be theirs, and their browsers would be looked at.
        for name in ["SUDO_USER", "SUDO_UID", "SUDO_GID"] {
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
        Run::of(&mut self.command(&split), words)
    }
}

impl Run {
    pub fn of(command: &mut Command, words: &str) -> Self {
        let output = command.output().expect("the program starts");
        Self {
            words: words.into(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Adt {
    fn drop(&mut self) {
        if !self.store().join("adt.db").exists() {
            return;
        }
        // A test that failed must not leave a server or machines for the next one to stumble over.
        if self.store().join("locks/host.lock").exists() {
            self.run("host:halt");
        }
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

    /// A check, as JSON, of an environment that is well where nobody serves its names.
    #[track_caller]
    pub fn well_but_for_names(self) -> Self {
        let list = self.json();
        let items = list["items"].as_array().expect("a check has items").iter();
        let outside = ["name", "address", "certificate"];
        let inside = items.filter(|item| !outside.contains(&item["step"].as_str().unwrap_or_default()));
        let verdicts: Vec<_> = inside.map(|item| item["verdict"].as_str().unwrap_or_default()).collect();
        assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == "ok"), "{list:#}");
        self.fails(13)
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
    // A folder of this test's own: another test would remove a shared one in the middle of the check.
    let home = tempfile::Builder::new().prefix("adt-test-").tempdir_in("/var/tmp").map_err(|error| error.to_string())?;
    let output = Command::new(program()).args(["host:check", "--json"]).env("ADT_STORE", home.path().join("store")).output();
    let output = output.map_err(|error| error.to_string())?;
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let faults = list["items"].as_array().into_iter().flatten().filter(|item| item["verdict"] == "fault");
    let faults: Vec<_> = faults.map(|item| format!("{}: {}", item["subject"], item["seen"])).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join(", ")) }
}

/// Boxes that no shipped platform stands on, and that take minutes to build.
const STACKS: &str = "[platform]
name = \"stacks\"
[machines.node]
box = \"web-node\"
[machines.python]
box = \"web-python\"
[machines.host]
box = \"adt-host\"
[machines.rehearsed]
box = \"rehearsed-server\"
[machines.bare]
box = \"bare\"
";

/// Raised when tests may have left something in the store that is kept.
const BOXES: &str = "2";

/// A store with the boxes of the shipped platforms and of `STACKS`, built once for all tests and kept for the next run.
pub fn built_boxes() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::var_os("ADT_TEST_BOXES").map_or_else(|| "/var/tmp/adt-test-boxes".into(), PathBuf::from);
        std::fs::create_dir_all(&folder).expect("/var/tmp takes a folder");
        let lock = File::create(folder.join("test.lock")).expect("a file in it");
        flock(&lock, FlockOperation::LockExclusive).expect("an open file can be locked");
        let made_by = folder.join("made-by");
        if std::fs::read_to_string(&made_by).ok().as_deref() != Some(BOXES) {
            let _ = std::fs::remove_dir_all(folder.join("store"));
            std::fs::write(&made_by, BOXES).expect("the folder is ours");
        }
        for platform in ["hello", "wordpress", "stacks"] {
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
            if platform == "stacks" {
                std::fs::create_dir(folder.join(platform)).expect("the folder is ours");
                std::fs::write(folder.join(platform).join("platform.toml"), STACKS).expect("the folder is ours");
                take_box(&folder.join(platform), "adt-host");
                take_box(&folder.join(platform), "bare");
            }
            adt(&["platform:init", platform]);
            adt(&["platform:build", platform]);
        }
        folder.join("store")
    })
}

/// Gives a platform one of the boxes in `tests/boxes`, all of which is one file.
pub fn take_box(platform: &Path, name: &str) {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes").join(name), platform.join("boxes").join(name));
    std::fs::create_dir_all(&to).expect("the folder is ours");
    std::fs::copy(from.join("box.toml"), to.join("box.toml")).expect("the recipe is there");
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
