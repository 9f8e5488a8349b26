//! What adt is made of, held against `deny.toml` without network: where each crate comes from, its licence, banned ones, and
//! versions of one crate side by side. Known flaws are the one part that takes network: `make audit`.
//!
//! cargo-deny reads the same file. It is not called here because it takes minutes to build, and the tests run on hosts that have
//! nothing but Rust; what is asked of it here is little.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

const CRATES_IO: &str = "https://github.com/rust-lang/crates.io-index";

fn read(name: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = std::fs::read_to_string(&path).expect("it is part of the repository");
    text.parse().expect("it is TOML")
}

fn words(value: &toml::Value) -> BTreeSet<String> {
    let list = value.as_array().expect("it is a list");
    list.iter().map(|word| word.as_str().expect("it is a word").to_owned()).collect()
}

/// The crates of a list in `deny.toml`, each with why it is there.
fn reasoned(value: &toml::Value) -> BTreeMap<String, String> {
    let entries = value.as_array().expect("it is a list").iter();
    let text = |entry: &toml::Value, key: &str| entry.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let all: BTreeMap<_, _> = entries.map(|entry| (text(entry, "crate"), text(entry, "reason"))).collect();
    let silent: Vec<_> = all.iter().filter(|(name, reason)| name.is_empty() || reason.is_empty()).collect();
    assert!(silent.is_empty(), "each needs a crate and a reason: {silent:?}");
    all
}

/// The packages that a program for this kind of host is built of.
fn packages() -> Vec<Value> {
    let cargo = |words: &[&str]| {
        let output = Command::new(env!("CARGO")).args(words).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = output.expect("cargo built this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let about = String::from_utf8(cargo(&["-vV"])).expect("cargo writes text");
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo tells its host");
    let metadata = cargo(&["metadata", "--offline", "--locked", "--format-version=1", "--filter-platform", host]);
    let mut metadata: Value = serde_json::from_slice(&metadata).expect("cargo writes JSON");
    let Value::Array(packages) = metadata["packages"].take() else { panic!("cargo tells no packages") };
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// Whether a licence's terms can be met with these. `/` is how older crates write `OR`, and `AND` binds closer than it.
fn is_met(terms: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = terms.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    let met = any(&mut words, allowed);
    met && words.is_empty()
}

fn any(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while let Some(("OR", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) {
        *words = rest;
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while let Some(("AND", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) {
        *words = rest;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let Some((word, rest)) = words.split_first() else { return false };
    *words = rest;
    if *word == "(" {
        let met = any(words, allowed);
        let Some((")", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) else { return false };
        *words = rest;
        return met;
    }
    match words {
        ["WITH", exception, rest @ ..] => {
            let whole = format!("{word} WITH {exception}");
            *words = rest;
            allowed.contains(&whole)
        }
        _ => allowed.contains(*word),
    }
}

#[test]
fn terms_are_read_as_spdx_has_them() {
    let allowed = ["MIT", "ISC", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for terms in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "(GPL-3.0 OR MIT) AND ISC",
        "GPL-3.0 AND BSL-1.0 OR ISC",
        "ISC OR GPL-3.0 AND BSL-1.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_met(terms, &allowed), "{terms}");
    }
    for terms in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "Apache-2.0", "(MIT", "MIT)", "MIT ISC", "OR MIT"]
    {
        assert!(!is_met(terms, &allowed), "{terms}");
    }
}

#[test]
fn every_crate_has_a_licence_that_adt_can_be_given_away_with() {
    let rules = &read("deny.toml")["licenses"];
    let allowed = words(&rules["allow"]);
    let exceptions = rules["exceptions"].as_array().expect("it is a list");
    let mut met = BTreeSet::new();
    let mut refused = Vec::new();
    for package in packages() {
        let (name, terms) = (text(&package, "name"), text(&package, "license"));
        if is_met(terms, &allowed) {
            continue;
        }
        let exception = exceptions.iter().find(|one| one["crate"].as_str() == Some(name));
        match exception {
            Some(one) if is_met(terms, &words(&one["allow"])) => drop(met.insert(name.to_owned())),
            _ => refused.push(format!("{name} {}: `{terms}`", text(&package, "version"))),
        }
    }
    assert!(refused.is_empty(), "deny.toml does not allow the licence of {}", refused.join(", "));
    assert_eq!(met.len(), exceptions.len(), "an exception of deny.toml is for no crate any more");
}

#[test]
fn every_crate_comes_from_the_default_registry_with_its_digest() {
    let sources = &read("deny.toml")["sources"];
    assert_eq!(words(&sources["allow-registry"]), BTreeSet::from([CRATES_IO.to_owned()]));
    assert!(words(&sources["allow-git"]).is_empty());
    let lock = read("Cargo.lock");
    let all = lock["package"].as_array().expect("it is a list");
    let registry = format!("registry+{CRATES_IO}");
    let field = |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let strange = all.iter().filter(|package| {
        let is_ours = field(package, "name") == env!("CARGO_PKG_NAME") && package.get("source").is_none();
        !is_ours && (field(package, "source") != registry || field(package, "checksum").len() != 64)
    });
    let strange: Vec<_> =
        strange.map(|package| format!("{} from `{}`", field(package, "name"), field(package, "source"))).collect();
    assert!(strange.is_empty(), "neither from the default registry nor with a digest: {}", strange.join(", "));
    let banned = reasoned(&read("deny.toml")["bans"]["deny"]);
    let found: Vec<_> = all.iter().map(|package| field(package, "name")).filter(|name| banned.contains_key(name)).collect();
    assert!(found.is_empty(), "banned by deny.toml: {found:?}");
}

#[test]
fn a_crate_is_there_in_one_version_or_for_a_reason() {
    let known = reasoned(&read("deny.toml")["bans"]["skip"]);
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(text(&package, "name").to_owned()).or_default().insert(text(&package, "version").to_owned());
    }
    let is_known = |name: &str, version: &str| known.contains_key(&format!("{name}@{version}"));
    let twice: Vec<_> = versions
        .iter()
        .filter(|(name, all)| all.iter().filter(|version| !is_known(name, version)).count() > 1)
        .map(|(name, all)| format!("{name} {all:?}"))
        .collect();
    assert!(twice.is_empty(), "in several versions, without a reason in deny.toml: {}", twice.join(", "));
    let present = |entry: &str| {
        entry
            .split_once('@')
            .is_some_and(|(name, version)| versions.get(name).is_some_and(|all| all.len() > 1 && all.contains(version)))
    };
    let old: Vec<_> = known.keys().filter(|entry| !present(entry)).collect();
    assert!(old.is_empty(), "deny.toml has reasons for what is gone: {old:?}");
}
