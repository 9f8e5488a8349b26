//! The architecture as a rule: which module may use which. See the crate's documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Each top module with what it may use of the others, as the drawing in `lib.rs` says.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("the library has a root");
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let Some((row, uses)) = line.strip_prefix("//!").and_then(|line| line.split_once('←')) else { continue };
        let name = row.split_whitespace().find(|word| word.chars().all(char::is_lowercase)).expect("a row names a module");
        let uses = match uses.trim() {
            "all above" => drawn.keys().cloned().collect(),
            "-" => BTreeSet::new(),
            some => some.split(' ').map(str::to_owned).collect(),
        };
        let unknown: Vec<_> = uses.iter().filter(|used| !drawn.contains_key(*used)).collect();
        assert!(unknown.is_empty(), "`{name}` uses what is not drawn above it: {unknown:?}");
        drawn.insert(name.to_owned(), uses);
    }
    drawn
}

/// `module` and the modules that a line of it uses.
fn uses(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, word) in line.match_indices("crate::") {
        let rest = &line[at + word.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group.split(',').filter_map(|part| part.trim().split([':', '}', ' ']).next())),
            None => found.extend(rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()),
        }
    }
    found
}

#[test]
fn modules_use_each_other_as_the_drawing_says() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let drawn = drawn();
    let mut wrong = Vec::new();
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten() {
        let path = entry.path().strip_prefix(&source).expect("it is below");
        if path.extension().is_none_or(|kind| kind != "rs") || path.components().count() < 2 {
            continue;
        }
        let module = path.iter().next().and_then(|name| name.to_str()).expect("module names are ASCII");
        let Some((module, may)) = drawn.get_key_value(module) else {
            panic!("`{module}` is a new module: give it a row in the drawing of `src/lib.rs`");
        };
        let text = std::fs::read_to_string(entry.path()).expect("sources are text");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for other in uses(line).into_iter().filter(|other| drawn.contains_key(*other) && other != module) {
                used.entry(module).or_default().insert(other.to_owned());
                if !may.contains(other) {
                    wrong.push(format!("{}:{}: {module} must not use {other}", path.display(), number + 1));
                }
            }
        }
    }
    // Who may use all above need not.
    for (module, may) in drawn.iter().filter(|(module, _)| !["engine", "session", "daemon", "cli"].contains(&module.as_str())) {
        let unused: Vec<_> =
            may.iter().filter(|other| !used.get(module.as_str()).is_some_and(|used| used.contains(*other))).collect();
        if !unused.is_empty() {
            wrong.push(format!("{module} is drawn with {unused:?}, which it does not use"));
        }
    }
    assert!(drawn.len() > 20 && used.len() > 15, "this test reads the sources wrongly: {drawn:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_screen_writes_to_a_terminal() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // What its writer spelled out, what is said in a machine, and what only adt reads.
    let allowed =
        ["cli/screen.rs", "cli/logs.rs", "providers/lxc/attach.rs", "template/process.rs"].map(|path| source.join(path));
    let ways = ["println!(", "eprintln!(", "stdout().lock()", "stderr().lock()", "writeln!(std::io::"];
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        if allowed.iter().any(|path| path == entry.path()) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let code = text.split("#[cfg(test)]").next().expect("a split has a first part");
        if ways.iter().any(|way| code.contains(way)) {
            wrong.push(entry.path().display().to_string());
        }
    }
    assert!(wrong.is_empty(), "these write to a terminal past `cli::screen`: {}", wrong.join(", "));
}

#[test]
fn only_exec_starts_processes() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        // Inside a machine, behind liblxc's attach, the helper is the program that starts the other.
        let inside = source.join("providers/lxc/attach.rs");
        if entry.path().starts_with(source.join("exec")) || entry.path() == inside {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("sources are text");
        let code = text.split("#[cfg(test)]").next().expect("a split has a first part");
        if code.contains("process::Command") {
            wrong.push(entry.path().display().to_string());
        }
    }
    assert!(wrong.is_empty(), "these start processes themselves: {}", wrong.join(", "));
}

/// A provider's own name, as a word or as a module.
const CONCRETE: [&str; 6] = ["\"lxc\"", "\"fake\"", "providers::lxc", "providers::fake", "lxc::", "Lxc"];

#[test]
fn nothing_above_the_providers_names_one() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let path = entry.path().strip_prefix(&source).expect("it is below");
        // What machines run on where nobody says otherwise is a name.
        if path.starts_with("providers") || path == Path::new("model/names.rs") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let code = text.split("#[cfg(test)]").next().expect("a split has a first part");
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let named = code.filter(|line| CONCRETE.iter().any(|name| line.contains(name)));
        wrong.extend(named.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    assert!(wrong.is_empty(), "ask the registry for the provider that a record names instead:\n{}", wrong.join("\n"));
}

/// What puts a file or a folder under its final name, by the ways that don't say whether it outlives a power cut.
const SILENT: [&str; 6] = ["fs::rename(", ".persist(", ".persist_noclobber(", "renameat_with(", ".sync_all(", "syncfs("];

/// Beside `disk`: machines' and persons' own folders, where every step is taken below an open folder; a file that is filled in
/// place; and the fakes, which no power cut reaches.
const BY_THEMSELVES: [&str; 5] =
    ["sources/beneath.rs", "providers/lxc/trust.rs", "engine/host/pool.rs", "providers/fake.rs", "network/fake.rs"];

#[test]
fn only_disk_puts_things_in_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let path = entry.path().strip_prefix(&source).expect("it is below");
        if path.starts_with("disk") || BY_THEMSELVES.iter().any(|own| path == Path::new(own)) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("sources are text");
        let code = text.split("#[cfg(test)]").next().expect("a split has a first part");
        wrong.extend(SILENT.iter().filter(|way| code.contains(**way)).map(|way| format!("{}: {way}…)", path.display())));
    }
    assert!(wrong.is_empty(), "use `disk` instead, and say what a power cut may do:\n{}", wrong.join("\n"));
}
