//! What of a store is left in the kernel and on disk besides its own bookkeeping: after everything is destroyed, nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adt::model::{EnvironmentId, EnvironmentName, PlatformName, Tag};

use super::adt::Adt;

impl Adt {
    pub fn leftovers(&self) -> Vec<String> {
        let Some(install) = self.install() else { return Vec::new() };
        let tags = self.tags();
        self.removed_behind();
        let mut left = self.links(&install, &tags);
        left.extend(self.table());
        left.extend(self.sockets(&tags));
        left.extend(self.processes(&tags));
        left.extend(groups(&tags).into_iter().map(|folder| format!("control group {}", folder.display())));
        for folder in ["locks", "machines"] {
            let entries = walkdir::WalkDir::new(self.store().join(folder)).min_depth(1).into_iter().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        let halves = names(&self.store().join("layers")).into_iter().filter(|name| name.starts_with('.'));
        left.extend(halves.map(|name| format!("half a layer {name}")));
        left.extend(self.rows().into_iter().map(|row| format!("row {row}")));
        left
    }

    /// Waits for what no command waits for: that checkouts are removed, and those of next environments made ready.
    pub fn removed_behind(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        let aside = |path: &Path| path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(".gone-"));
        let runs = || {
            names(Path::new("/proc")).iter().any(|pid| {
                let words = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
                let words = words.split(|byte| *byte == 0);
                let prepares = words.clone().any(|word| word == b"internal:sources");
                let mut paths = words.map(|word| Path::new(std::ffi::OsStr::from_bytes(word)));
                paths.any(|path| path.starts_with(self.path()) && (prepares || aside(path)))
            })
        };
        while runs() {
            assert!(Instant::now() < until, "what is done behind commands does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn install(&self) -> Option<String> {
        std::fs::read_to_string(self.store().join("install")).ok()
    }

    fn rows(&self) -> Vec<String> {
        let db = rusqlite::Connection::open(self.store().join("adt.db")).expect("the store has a database");
        let sql = "SELECT platform || '/' || name FROM environments UNION ALL SELECT 'applied ' || machine FROM applied \
                   UNION ALL SELECT 'applied to site ' || site FROM sites";
        // A store that a full disk kept from being made has no tables, and so no rows.
        let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).expect("a database");
        if tables == 0 {
            return Vec::new();
        }
        let mut statement = db.prepare(sql).expect("the tables are known");
        let rows = statement.query_map([], |row| row.get(0)).expect("they can be read");
        rows.flatten().collect()
    }

    /// The name that kernel objects of an environment go by.
    pub fn tag(&self, environment: &str) -> Tag {
        let (platform, name) = environment.split_once('/').expect("platform/environment");
        let id = EnvironmentId {
            platform: PlatformName::new(platform).expect("a good name"),
            name: EnvironmentName::new(name).expect("a good name"),
        };
        Tag::of(&self.install().expect("the store was used"), &id)
    }

    /// The tags of all environments that this store ever had, those of box builds too.
    fn tags(&self) -> BTreeSet<String> {
        let history = fs::read_to_string(self.store().join("history.log")).unwrap_or_default();
        let entries = history.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut environments: BTreeSet<_> =
            entries.filter_map(|entry| entry["environment"].as_str().map(str::to_owned)).collect();
        environments.extend(self.rows().into_iter().filter(|row| !row.starts_with("applied ")));
        for name in names(&self.store().join("layers")) {
            let digest = name.rsplit('-').next().unwrap_or_default();
            environments.extend(digest.get(..12).map(|short| format!("box/{short}")));
        }
        environments.iter().map(|environment| self.tag(environment).to_string()).collect()
    }

    fn links(&self, install: &str, tags: &BTreeSet<String>) -> Vec<String> {
        let mut left = Vec::new();
        for name in names(&self.at("/sys/class/net")) {
            let alias = fs::read_to_string(self.at("/sys/class/net").join(&name).join("ifalias")).unwrap_or_default();
            let ours = name.strip_prefix("adt").and_then(|rest| rest.get(..8)).is_some_and(|tag| tags.contains(tag));
            if ours || alias.starts_with(install) {
                left.push(format!("link {name}"));
            }
        }
        left
    }

    /// The firewall's table leaves with the last network. On a shared host another's may be coming or going at the moment.
    fn table(&self) -> Option<String> {
        let until = Instant::now() + Duration::from_secs(if self.host.is_some() { 0 } else { 3 });
        loop {
            let bridges = names(&self.at("/sys/class/net")).iter().any(|name| name.starts_with("adt"));
            let output = self.program_there("nft").args(["list", "tables"]).output().expect("nft is there");
            let tables = String::from_utf8_lossy(&output.stdout).into_owned();
            let detour = self.install().map(|install| format!("ip adtdetour_{install}")).unwrap_or_default();
            if tables.contains(&detour) {
                return Some(format!("firewall table {detour}"));
            }
            let table = tables.lines().find(|line| line.contains("inet adt_")).filter(|_| !bridges)?;
            if Instant::now() >= until {
                return Some(format!("firewall {table}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn sockets(&self, tags: &BTreeSet<String>) -> Vec<String> {
        let file = self.host.as_ref().map_or("/proc/net/unix".into(), |host| format!("/proc/{}/net/unix", host.pid()));
        let text = fs::read_to_string(file).unwrap_or_default();
        let ours = |line: &&str| line.contains(&self.store_words()) || tags.iter().any(|tag| line.contains(tag.as_str()));
        text.lines().filter(ours).map(|line| format!("socket {line}")).collect()
    }

    /// Processes of machines, monitors, helpers, and mounts that any process still sees.
    fn processes(&self, tags: &BTreeSet<String>) -> Vec<String> {
        let store = self.store_words();
        let mut left = Vec::new();
        let mut namespaces = BTreeSet::new();
        for pid in names(Path::new("/proc")).iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            let folder = Path::new("/proc").join(pid);
            let text = |file: &str| String::from_utf8_lossy(&fs::read(folder.join(file)).unwrap_or_default()).replace('\0', " ");
            let dead = text("stat").rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']));
            if dead || *pid == std::process::id().to_string() {
                continue;
            }
            let (words, groups) = (text("cmdline"), text("cgroup"));
            let tagged = tags.iter().any(|tag| words.contains(tag.as_str()) || groups.contains(&format!("/{tag}/")));
            if tagged || words.contains(&store) || text("environ").contains(&format!("ADT_STORE={store}")) {
                left.push(format!("process {pid}: {words}"));
            }
            let namespace = fs::read_link(folder.join("ns/mnt")).unwrap_or_default();
            if namespaces.insert(namespace) {
                let mounts = text("mountinfo");
                let ours = mounts.lines().filter(|line| line.contains(&store) && !line.contains(" adt-test-disk "));
                left.extend(ours.map(|line| format!("mount seen by process {pid}: {line}")));
            }
        }
        left
    }

    fn store_words(&self) -> String {
        self.store.display().to_string()
    }

    /// The file of a machine's control group that holds a limit, whichever version this host has.
    pub fn limit(&self, environment: &str, machine: &str, files: [&str; 2]) -> String {
        let tag = self.tag(environment);
        let folders = groups(&[tag.to_string()].into());
        let found = folders.iter().flat_map(|folder| files.map(|file| folder.join(machine).join(file)));
        let text = found.filter_map(|file| fs::read_to_string(file).ok()).next();
        text.unwrap_or_else(|| panic!("no {files:?} of {environment} {machine}")).trim().to_owned()
    }

    /// Ends everything of an environment at once and takes its kernel objects away, as a power cut does.
    pub fn cut_power(&self, environment: &str) {
        let tags = BTreeSet::from([self.tag(environment).to_string()]);
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let folders = groups(&tags);
            let inner = folders.iter().flat_map(|folder| walkdir::WalkDir::new(folder).contents_first(true)).flatten();
            let inner: Vec<_> = inner.filter(|entry| entry.file_type().is_dir()).collect();
            for folder in &inner {
                for pid in fs::read_to_string(folder.path().join("cgroup.procs")).unwrap_or_default().lines() {
                    kill(pid.parse().expect("the kernel writes numbers"), rustix::process::Signal::KILL);
                }
            }
            for folder in &inner {
                drop(fs::remove_dir(folder.path()));
            }
            if groups(&tags).is_empty() {
                break;
            }
            assert!(Instant::now() < until, "processes of {environment} don't die");
            std::thread::sleep(Duration::from_millis(5));
        }
        for name in names(&self.at("/sys/class/net")) {
            if tags.iter().any(|tag| name.starts_with(&format!("adt{tag}"))) {
                drop(self.program_there("ip").args(["link", "delete", &name]).output());
            }
        }
    }
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("no process is number 0");
    let _ = rustix::process::kill_process(pid, signal);
}

/// The groups of these environments in every hierarchy.
fn groups(tags: &BTreeSet<String>) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new("/sys/fs/cgroup").max_depth(7).into_iter().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| tags.contains(name)));
    ours.map(walkdir::DirEntry::into_path).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned()).collect()
}
