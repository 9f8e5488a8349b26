//! The architecture as a rule: which module may use which. See the crate's documentation.

use std::collections::BTreeMap;
use std::path::Path;

/// The top modules that others may use, the lowest layers first.
const LOWER: &[&str] = &[
    "model",
    "disk",
    "config",
    "plan",
    "shares",
    "wire",
    "exec",
    "template",
    "store",
    "boxes",
    "network",
    "bind",
    "resolver",
    "sources",
    "releases",
    "trust",
    "tls",
    "logs",
    "providers",
    "engine",
    "session",
    "dns",
    "proxy",
    "daemon",
];

/// Those of the list up to and including `last`.
fn up_to(last: &str) -> &'static [&'static str] {
    let end = LOWER.iter().position(|module| *module == last).expect("it is in the list");
    &LOWER[..=end]
}

/// Each top module with what it may use of the others.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("model", &[][..]),
        ("disk", &[][..]),
        ("config", &["model"][..]),
        ("plan", &["model"][..]),
        ("shares", &[][..]),
        ("wire", &["model"][..]),
        ("exec", &["model"][..]),
        ("template", &["model", "exec"][..]),
        ("store", &["model", "disk"][..]),
        ("boxes", &["model", "disk", "exec", "store", "template"][..]),
        ("network", &["model", "exec"][..]),
        ("bind", &["model", "disk", "exec", "store", "template"][..]),
        ("resolver", &["model", "disk", "exec", "store"][..]),
        ("sources", &["model", "disk", "exec", "store"][..]),
        ("releases", &["model", "disk", "exec", "store", "sources", "boxes"][..]),
        ("trust", &["model", "disk", "exec", "store"][..]),
        ("logs", &["model"][..]),
        ("providers", &["model", "disk", "exec", "network", "template"][..]),
        ("engine", up_to("providers")),
        ("session", up_to("engine")),
        ("dns", &["model", "template", "shares"][..]),
        ("proxy", &["model", "disk", "template", "shares"][..]),
        ("tls", &["model", "disk", "store"][..]),
        ("daemon", up_to("proxy")),
        ("cli", LOWER),
    ])
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
fn no_module_uses_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed = allowed();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten() {
        let path = entry.path().strip_prefix(&source).expect("it is below");
        if path.extension().is_none_or(|kind| kind != "rs") || path.components().count() < 2 {
            continue;
        }
        let module = path.iter().next().and_then(|name| name.to_str()).expect("module names are ASCII");
        let may = allowed.get(module).unwrap_or_else(|| panic!("`{module}` is a new module: give it a place in this table"));
        let text = std::fs::read_to_string(entry.path()).expect("sources are text");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for used in uses(line).into_iter().filter(|used| allowed.contains_key(used) && *used != module) {
                seen += 1;
                if !may.contains(&used) {
                    wrong.push(format!("{}:{}: {module} must not use {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} uses were found: this test reads the sources wrongly");
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
