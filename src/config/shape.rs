//! Does a TOML tree have the shape that a JSON Schema describes? Finds all unknown keys and wrong types in one pass, where serde
//! stops at the first. Knows as much of JSON Schema as our own types produce.

use std::ops::Range;

use serde_json::{Map, Value};
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::nearest;
use super::fault::Faults;

pub fn check(schema: &Value, tree: &Spanned<DeTable>, faults: &mut Faults) {
    table(schema, tree.get_ref(), tree.span(), "the file", faults);
}

fn table(schema: &Value, table: &DeTable, span: Range<usize>, label: &str, faults: &mut Faults) {
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for (key, entry) in table.iter() {
        let name = key.get_ref().as_ref();
        if let Some(inner) = properties.get(name) {
            value(inner, entry, &format!("`{name}`"), faults);
        } else if schema["additionalProperties"].is_object() {
            value(&schema["additionalProperties"], entry, &format!("`{name}`"), faults);
        } else {
            unknown(name, key.span(), properties, faults);
        }
    }
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !table.iter().any(|(key, _)| key.get_ref() == required) {
            faults.push(span.clone(), format!("{label} lacks `{required}`"), example(required, &properties[required]));
        }
    }
}

fn unknown(name: &str, span: Range<usize>, properties: &Map<String, Value>, faults: &mut Faults) {
    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", list(&known)),
    };
    faults.add_hint(span, format!("unknown key `{name}`"), hint);
}

/// How a missing key looks when it is there.
fn example(key: &str, schema: &Value) -> Option<String> {
    match schema["type"].as_str()? {
        "string" => Some(format!("add `{key} = \"…\"`")),
        "object" => Some(format!("add `[{key}]`")),
        _ => Some(format!("add `{key}`")),
    }
}

fn value(schema: &Value, entry: &Spanned<DeValue>, label: &str, faults: &mut Faults) {
    let span = entry.span();
    let wanted = schema["type"].as_str().unwrap_or_default();
    match (wanted, entry.get_ref()) {
        ("object", DeValue::Table(inner)) => table(schema, inner, span, label, faults),
        ("array", DeValue::Array(items)) => {
            for item in items.iter() {
                value(&schema["items"], item, &format!("each entry of {label}"), faults);
            }
        }
        ("integer" | "number", DeValue::Integer(number)) => {
            match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => range(schema, number as f64, span, label, faults),
                Err(_) => faults.add(span, format!("{label} is too large a number")),
            };
        }
        ("number", DeValue::Float(number)) => {
            range(schema, number.as_str().parse().unwrap_or(f64::NAN), span, label, faults);
        }
        ("string", DeValue::String(text)) => one_of(schema, text, span, label, faults),
        ("boolean", DeValue::Boolean(_)) => {}
        (_, found) => faults.push(
            span,
            format!("{label} must be {}, not {}", wanted_word(wanted), found_word(found)),
            type_hint(wanted, found),
        ),
    }
}

/// A word of a closed list.
fn one_of(schema: &Value, text: &str, span: Range<usize>, label: &str, faults: &mut Faults) {
    let Some(words) = schema["enum"].as_array() else { return };
    let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
    if !words.contains(&text) {
        faults.add_hint(span, format!("{label} is `{}`", text.escape_debug()), format!("it must be one of {}", list(&words)));
    }
}

/// The bounds that the schema gives, so that editors and adt refuse the same numbers.
fn range(schema: &Value, number: f64, span: Range<usize>, label: &str, faults: &mut Faults) {
    let bound = |key: &str| schema[key].as_f64();
    let too_small =
        bound("minimum").is_some_and(|least| number < least) || bound("exclusiveMinimum").is_some_and(|least| number <= least);
    let too_large = bound("maximum").is_some_and(|most| number > most);
    if !number.is_finite() || too_small || too_large {
        let rule = match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum")) {
            (Some(least), _, Some(most)) => format!("between {least} and {most}"),
            (Some(least), _, None) => format!("at least {least}"),
            (None, Some(least), Some(most)) => format!("more than {least} and at most {most}"),
            (None, Some(least), None) => format!("more than {least}"),
            _ => "a finite number".to_owned(),
        };
        faults.add_hint(span, format!("{label} is {number}"), format!("it must be {rule}"));
    }
}

fn wanted_word(kind: &str) -> &'static str {
    match kind {
        "object" => "a table",
        "array" => "a list",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "text",
    }
}

fn found_word(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn type_hint(wanted: &str, found: &DeValue) -> Option<String> {
    match (wanted, found) {
        ("integer" | "number", DeValue::String(text)) if text.parse::<f64>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        ("array", DeValue::String(text)) => Some(format!("write [\"{text}\"]")),
        ("string", DeValue::Integer(number)) => Some(format!("write \"{}\"", number.as_str())),
        ("string", DeValue::Float(number)) => Some(format!("write \"{}\"", number.as_str())),
        ("string", DeValue::Boolean(word)) => Some(format!("write \"{word}\"")),
        _ => None,
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
