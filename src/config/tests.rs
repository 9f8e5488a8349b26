use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::fault::{failure, place};
use super::*;
use crate::model::names::BoxName;
use crate::model::{Fault, Kind};

/// `line:column message (hint)`, one for each fault.
pub fn told(faults: &[Fault]) -> Vec<String> {
    let one = |fault: &Fault| {
        let place = fault.place.as_ref().map(|place| format!("{}:{} ", place.line, place.column)).unwrap_or_default();
        let hint = fault.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{place}{}{hint}", fault.message)
    };
    faults.iter().map(one).collect()
}

/// Asserts that each text has exactly these faults.
pub fn table<T: std::fmt::Debug>(parse: impl Fn(&str) -> Result<T, Vec<Fault>>, cases: &[(&str, &[&str])]) {
    for (text, wanted) in cases {
        match parse(text) {
            Ok(value) => panic!("this was accepted:\n{text}\n{value:?}"),
            Err(faults) => assert_eq!(told(&faults), *wanted, "\n{text}"),
        }
    }
}

const DOCUMENTS: [Document; 3] = [Document::Platform, Document::Host, Document::Recipe];

#[test]
fn every_key_is_documented_and_nothing_else_is_allowed() {
    fn walk(schema: &Value, path: &str) {
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], Value::Bool(false), "{path}");
            for (key, inner) in properties {
                assert!(inner["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path}.{key} has no description");
                walk(inner, &format!("{path}.{key}"));
            }
        }
        if schema["additionalProperties"].is_object() {
            walk(&schema["additionalProperties"], &format!("{path}.*"));
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{path}[]"));
        }
    }
    for (which, title) in DOCUMENTS.into_iter().zip(["platform.toml", "adt.toml", "box.toml"]) {
        let schema = schema(which);
        assert_eq!(schema["title"], title);
        assert!(schema["description"].is_string(), "{title}");
        walk(&schema, title);
    }
}

/// The shape check would let pass what it does not know.
#[test]
fn the_schemas_hold_only_what_the_shape_check_knows() {
    const KNOWN: &[&str] = &[
        "$schema",
        "title",
        "description",
        "default",
        "type",
        "format",
        "properties",
        "additionalProperties",
        "required",
        "items",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "enum",
    ];
    fn walk(schema: &Value, path: &str) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path} is no object: {schema}"));
        for key in map.keys() {
            assert!(KNOWN.contains(&key.as_str()), "{path} has `{key}`");
        }
        assert!(schema["type"].is_string(), "{path}: {schema}");
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(inner, &format!("{path}.{key}"));
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                walk(&schema[key], &format!("{path}.{key}"));
            }
        }
    }
    DOCUMENTS.into_iter().for_each(|which| walk(&schema(which), &format!("{which:?}")));
}

#[test]
fn columns_count_characters_and_survive_odd_spans() {
    let text = "a = 1\r\n\"ä\" = é x\n";
    for (span, line, column) in [(0..1, 1, 1), (7..11, 2, 1), (14..16, 2, 7), (15..16, 2, 7), (17..18, 2, 9), (90..99, 3, 1)] {
        let place = place(Path::new("f"), text, span.clone());
        assert_eq!((place.line, place.column), (line, column), "{span:?}");
        assert!(text.get(place.span).is_some());
    }
}

#[test]
fn a_failure_keeps_every_fault() {
    let file = Path::new("shop/platform.toml");
    let faults = platform::parse(file, "[platform]\nname = \"A\"\nsumary = \"\"\nnam = 1\n").unwrap_err();
    let failure = failure(file, faults);
    assert_eq!(failure.kind, Kind::Config);
    assert_eq!(failure.place.as_ref().map(|place| place.line), Some(3));
    assert_eq!(
        failure.to_string(),
        "could not use `shop/platform.toml`\n\
         shop/platform.toml:3:1: unknown key `sumary` (did you mean `summary`?)\n\
         shop/platform.toml:4:1: unknown key `nam` (did you mean `name`?)"
    );
}

#[test]
fn a_missing_file_says_so() {
    let failure = platform::read(Path::new("/nowhere/platform.toml")).unwrap_err();
    assert_eq!(failure.kind, Kind::NotFound);
    assert!(failure.to_string().starts_with("could not read `/nowhere/platform.toml`: "), "{failure}");
}

/// What comes with adt must be right. There may be none in an early checkout.
#[test]
fn shipped_platforms_and_boxes_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in ["platforms", "boxes"].into_iter().flat_map(|folder| walkdir::WalkDir::new(root.join(folder))).flatten() {
        let result = match entry.file_name().to_str() {
            Some("platform.toml") => platform::read(entry.path()).map(drop),
            Some("box.toml") => recipe::read(entry.path()).map(drop),
            _ => Ok(()),
        };
        result.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

fn parse_all(text: &str) {
    let file = Path::new("f.toml");
    let check = |faults: Vec<Fault>| {
        assert!(!faults.is_empty(), "refused without a reason: {text:?}");
        for fault in faults {
            let place = fault.place.clone().expect("every fault of a file has a place");
            assert!(text.get(place.span.clone()).is_some(), "{place:?}");
            assert!(!snippet::fault(&fault, text, snippet::Style::Plain).is_empty());
        }
    };
    let _ = platform::parse(file, text).map_err(check);
    let _ = recipe::parse(&BoxName::new("web").unwrap(), file, text).map_err(check);
    let _ = settle_file(text).map_err(check);
}

fn settle_file(text: &str) -> Result<HostSettings, Vec<Fault>> {
    host::settle(Some((Path::new("f.toml"), text)), &|_| None, &HostFlags::default())
}

const VALID: [&str; 3] = [platform::tests::EXAMPLE, recipe::tests::EXAMPLE, host::tests::EXAMPLE];

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        parse_all(&text);
    }

    #[test]
    fn text_that_looks_like_toml_never_panics(text in "([a-z]{1,3}( = |\\.|\\[|\\]|\"|\n|[0-9]|\\{|\\}|,|ä)){0,40}") {
        parse_all(&text);
    }

    #[test]
    fn mutated_documents_never_panic(which in 0..3usize, at in any::<prop::sample::Index>(), cut in 0..12usize, put in ".{0,3}") {
        let mut chars: Vec<char> = VALID[which].chars().collect();
        let at = at.index(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, put.chars());
        parse_all(&chars.into_iter().collect::<String>());
    }
}
