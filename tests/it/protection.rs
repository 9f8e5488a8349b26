//! The page on what adt protects from: each sentence of it names tests that are there.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_sentence_on_protection_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/protection.md")).expect("the page is part of the book");
    let promises = page.split_once("\nNot protected:").expect("the page says what is not protected").0;
    let code = code(root);
    let mut named = BTreeSet::new();
    for sentence in promises.split("\n- ").skip(1) {
        let tests: Vec<_> = sentence.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() >= 3).collect();
        assert!(!tests.is_empty(), "no test holds this:\n{sentence}");
        named.extend(tests);
    }
    assert!(named.len() >= 50, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "named, but nowhere: {missing:?}");
}

fn code(root: &Path) -> String {
    let folders = ["src", "tests"].map(|name| walkdir::WalkDir::new(root.join(name)));
    let files = folders.into_iter().flatten().flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "rs"));
    files.map(|entry| std::fs::read_to_string(entry.path()).expect("a source file is text")).collect()
}
