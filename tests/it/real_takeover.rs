//! A store that the last adt before volumes wrote is taken over without losing a byte.
//!
//! `old_store/` is what that adt had on disk after `env:init old 1161`, work in `/srv/data` of its machine (files of several owners,
//! a hard link, a pipe, a removed file and a replaced folder of the seed) and `env:halt`: `store.tar.gz` holds the folders
//! `machines` and `secrets`, the store's identity and its history as they were, with numeric owners, whiteouts and overlay's own
//! marks; `store.sql` is its database, as SQLite dumps it. Left out are logs, the journal and the machine's copy of the host's
//! certificates. What depends on the host that a test runs on is put in: the platform's folder, and the names of the layers,
//! which are built here from the same recipes and the same seed.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::adt::Adt;

const PLATFORM: &str = r#"[platform]
name = "old"
[machines.db]
box = "debian"
memory = "128M"
data = ["/srv/data"]
[data.files]
machine = "db"
engine = "files"
target = "/srv/data"
seed = "seed"
"#;

/// Every name in the data with kind, mode, owners, links, what a link leads to and the beginning of its content's digest.
const LOOK: &str = r#"cd /srv/data && find . -printf '%P|%y|%m|%U:%G|%n|%l|' -exec sh -c 'if [ -f "$1" ] && [ ! -L "$1" ]; then md5sum < "$1" | cut -c1-8; else echo; fi' _ {} \; | LC_ALL=C sort"#;

/// What that said when the old adt's machine ran.
const DATA: &str = r#"both|f|644|0:0|1||d92bf619
dir/new|f|644|0:0|1||9cd599a3
dir|d|1777|0:0|2||
kept|f|644|7:8|1||0dabe0ac
sub/link|f|640|33:33|2||f659e88a
sub/odd "name|f|644|0:998|1||a2b6f2a6
sub/pipe|p|644|5:6|1||
sub/soft|l|777|0:998|1|../table|
sub|d|2750|999:998|2||
table|f|640|33:33|2||f659e88a
|d|755|0:0|1||
"#;

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/old_store")
}

/// A host on which the old store lies, and the layers that its machine stands on.
fn old_host() -> Option<Adt> {
    // The network that the environment has on record, which no other test uses.
    let adt = Adt::real()?.env("ADT_POOL_V4", "10.232.0.0/22");
    let folder = adt.platform_toml("old", PLATFORM);
    fs::create_dir_all(folder.join("seed/dir")).unwrap();
    for file in ["kept", "gone", "both", "dir/old", "dir/older"] {
        fs::write(folder.join("seed").join(file), "seed\n").unwrap();
    }
    adt.run("platform:init old").ok();
    adt.run("env:init old 1").ok();
    let layers = adt.run("env:show old 1 --json").ok().json()["machines"][0]["layers"].clone();
    let layers: Vec<_> = layers.as_array().expect("its layers").iter().map(|one| one.as_str().unwrap().to_owned()).collect();
    assert_eq!(layers.len(), 3, "the suite, the box and the seed");
    adt.run("env:destroy old 1 --yes").ok();
    for name in ["adt.db", "adt.db-wal", "adt.db-shm", "history.log", "install"] {
        drop(fs::remove_file(adt.store().join(name)));
    }
    let unpack = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--preserve-permissions", "--extract", "--gzip", "--file"];
    let tar = Command::new("tar").args(unpack).arg(fixture().join("store.tar.gz")).arg("-C").arg(adt.store()).status();
    assert!(tar.expect("tar is there").success());
    let raw = rusqlite::Connection::open(adt.store().join("adt.db")).unwrap();
    let old: Vec<String> = (0..3).map(|number| format!("@LAYER{number}@")).collect();
    let here = |text: String| {
        let text = text.replace("@FOLDER@", &folder.display().to_string());
        old.iter().zip(&layers).fold(text, |text, (old, new)| text.replace(old, new))
    };
    raw.execute_batch(&here(fs::read_to_string(fixture().join("store.sql")).unwrap())).unwrap();
    let spec = adt.store().join("machines/old/1161/db/spec.json");
    fs::write(&spec, here(fs::read_to_string(&spec).unwrap())).unwrap();
    Some(adt)
}

fn look(adt: &Adt) -> String {
    let output = adt.command(&["env:exec", "old", "1161", "db", "--", "sh", "-c", LOOK]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_environment_from_before_volumes_is_taken_over_to_the_last_byte() {
    let Some(adt) = old_host() else { return };
    let list = adt.run("env:list --json").ok().json();
    assert_eq!((&list[0]["name"], &list[0]["state"], &list[0]["owner"]), (&"1161".into(), &"halted".into(), &"root".into()));
    adt.run("env:up old 1161").ok();
    assert_eq!(look(&adt), DATA);
    let volumes = adt.run("env:show old 1161 --json").ok().json()["volumes"].clone();
    let named = |one: &serde_json::Value| (one["machine"].clone(), one["path"].clone(), one["used"].clone());
    let volumes: Vec<_> = volumes.as_array().expect("its volumes").iter().map(named).collect();
    assert_eq!(volumes, [("db".into(), "/srv/data".into(), true.into())]);
    // A machine made anew has it, too: the data is no longer among the machine's own files.
    adt.run("env:halt old 1161").ok();
    adt.run("env:share old 1161").ok();
    adt.run("env:reload old 1161").ok();
    adt.run("env:up old 1161").ok();
    assert_eq!(look(&adt), DATA);
    adt.run("env:destroy old 1161 --yes").ok().says("destroyed");
    assert_eq!(adt.run("env:list --json").ok().json(), serde_json::json!([]));
    let left: Vec<_> = walkdir::WalkDir::new(adt.store())
        .into_iter()
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.contains("/1161"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
