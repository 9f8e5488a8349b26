//! No circles between files: two files that need each other are one noun in two parts, or have a border in the wrong place.
//!
//! What lies beside a folder's files in its `mod.rs` is what these share: that they use it makes no circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

/// A module by its words below the crate: `["dns", "udp"]`.
type Module = Vec<String>;

/// Circles that stay, each the beginning of its files' paths, and why.
const KNOWN: [(&str, &str); 2] = [
    (
        "src/providers/lxc/",
        "the helper's verbs and its words name each other: a verb is one file on both sides of the process border; and where a \
         machine's ids begin is a setting of its configuration",
    ),
    ("src/wire/", "a channel sends over its link, which keeps what came for each channel"),
];

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut found = Vec::new();
    for (folder, least) in [("src", 500), ("bench", 50)] {
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let uses: BTreeMap<&Module, BTreeSet<&Module>> =
            files.iter().map(|(module, text)| (module, uses(module, text, &files))).collect();
        let count: usize = uses.values().map(BTreeSet::len).sum();
        assert!(count > least, "only {count} uses were found in `{folder}`: this test reads the sources wrongly");
        let named = |module: &&Module| format!("{folder}/{}", module.join("/"));
        found.extend(circles(&uses).iter().map(|circle| circle.iter().map(named).collect::<Vec<_>>()));
    }
    let is_of = |circle: &Vec<String>, known: &str| circle.iter().all(|file| file.starts_with(known));
    for (known, _) in KNOWN {
        assert!(
            found.iter().any(|circle| is_of(circle, known)),
            "there is no circle in `{known}` any more: take it off the list"
        );
    }
    found.retain(|circle| !KNOWN.iter().any(|(known, _)| is_of(circle, known)));
    let told: Vec<_> = found.iter().map(|circle| circle.join(" ⇄ ")).collect();
    assert!(told.is_empty(), "these files use each other; move what they share to a third:\n{}", told.join("\n"));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let house = |parts: [(&str, &str); 5]| -> BTreeMap<Module, String> {
        parts.map(|(name, text)| (name.split_terminator('/').map(str::to_owned).collect(), text.to_owned())).into()
    };
    for (there, back) in [
        ("use super::two::Name;", "use crate::room::one;"),
        ("use crate::{other, room::{two::{Name, more}}};", "fn f() { super::one::g() }"),
        ("fn f() -> crate::room::two::Name {}", "use super::{\n    one::Name as N,\n};"),
    ] {
        let files = house([("", ""), ("other", ""), ("room", "pub use one::Name;"), ("room/one", there), ("room/two", back)]);
        let uses = files.iter().map(|(module, text)| (module, uses(module, text, &files))).collect();
        assert_eq!(circles(&uses).len(), 1, "{there} {back}");
    }
    let tests = "use crate::room::Error;\n// crate::room::one\n#[cfg(test)]\nmod tests {\n    use crate::room::one;\n}\n";
    let files = house([
        ("", ""),
        ("other", ""),
        ("room", "mod one;\nuse one::Name;"),
        ("room/one", "use super::{Error, two};"),
        ("room/two", tests),
    ]);
    let uses = files.iter().map(|(module, text)| (module, uses(module, text, &files))).collect();
    assert_eq!(circles(&uses), Vec::<Vec<&Module>>::new());
}

/// Each module's text by its name. The binary's own root uses the library from outside.
fn files(folder: &Path) -> BTreeMap<Module, String> {
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let path = entry.path().strip_prefix(folder).expect("it is below").with_extension("");
        let is_source = entry.path().extension().is_some_and(|kind| kind == "rs");
        if !is_source || (path == Path::new("main") && folder.join("lib.rs").exists()) {
            continue;
        }
        let mut module: Module = path.iter().map(|word| word.to_str().expect("module names are ASCII").to_owned()).collect();
        if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            module.pop();
        }
        files.insert(module, std::fs::read_to_string(entry.path()).expect("sources are text"));
    }
    files
}

/// The modules that a module's text names, without those that it lies in.
fn uses<'a>(module: &Module, text: &str, files: &'a BTreeMap<Module, String>) -> BTreeSet<&'a Module> {
    static COMMENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"//[^\n]*").expect("it is right"));
    static IMPORT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))?\s+)?use\s+([^;]+);").expect("it is right"));
    static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b\w+(?:::\w+)+").expect("it is right"));
    let code = text.split("#[cfg(test)]\nmod tests").next().expect("a split has a first part");
    let code = COMMENT.replace_all(code, "");
    let imports = IMPORT.captures_iter(&code).flat_map(|found| leaves(&found[1]));
    let rest = IMPORT.replace_all(&code, "");
    let paths = PATH.find_iter(&rest).map(|found| found.as_str().to_owned());
    let named = imports.chain(paths).filter_map(|path| target(module, &path, files));
    named.filter(|used| !module.starts_with(used)).collect()
}

/// `a::{b, c::{d, e}}` → `a::b`, `a::c::d`, `a::c::e`
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().to_owned()];
    };
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, sign) in inside.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(leaves).map(|leaf| format!("{before}{leaf}")).collect()
}

/// The module that a path in `module` leads into.
fn target<'a>(module: &Module, path: &str, files: &'a BTreeMap<Module, String>) -> Option<&'a Module> {
    let mut words = path.split("::").map(str::trim).peekable();
    let mut at: Module = match *words.peek()? {
        "crate" => Vec::new(),
        _ => module.clone(),
    };
    while let Some(word) = words.next_if(|word| ["crate", "self", "super"].contains(word)) {
        if word == "super" {
            at.pop()?;
        }
    }
    for word in words {
        at.push(word.to_owned());
        if !files.contains_key(&at) {
            at.pop();
            break;
        }
    }
    files.get_key_value(&at).map(|(module, _)| module)
}

/// The groups of modules that lead to each other.
fn circles<'a>(uses: &BTreeMap<&'a Module, BTreeSet<&'a Module>>) -> Vec<Vec<&'a Module>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = uses.keys().map(|from| (*from, reached(from, uses))).collect();
    let mut circles: Vec<Vec<&Module>> = Vec::new();
    for (module, reached) in &reach {
        let is_new = !circles.iter().any(|circle| circle.contains(module));
        if is_new && reached.contains(module) {
            circles.push(reached.iter().filter(|other| reach[*other].contains(module)).copied().collect());
        }
    }
    circles
}

fn reached<'a>(from: &Module, uses: &BTreeMap<&'a Module, BTreeSet<&'a Module>>) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&Module> = uses[from].iter().copied().collect();
    while let Some(next) = left.pop() {
        if reached.insert(next) {
            left.extend(&uses[next]);
        }
    }
    reached
}
