//! What people write — `platform.toml`, `box.toml`, `adt.toml` — into the model, with a place and a hint for every fault.
//!
//! Each document has two types: a raw one that mirrors the file key by key and knows where each word stands, and the settled
//! one in `model` that nobody below has to doubt. Reading goes
//!
//! ```text
//! text ── TOML ──> tree ── shape (the JSON Schema) ──> raw ── settle ──> model
//!            └─ syntax faults    └─ unknown keys, wrong types    └─ names, cycles, sums
//! ```
//!
//! Each stage reports all of its faults at once; a later stage runs only on what an earlier one found whole. The shape is
//! checked against the very schema that editors get, so the two can't drift apart. Nothing here starts a process, knows the
//! store, or touches a file besides the named one; whether a box, a script or a seed exists is asked by those who use it.

mod at;
mod check;
mod document;
pub mod fault;
pub mod host;
pub mod platform;
pub mod recipe;
mod shape;
pub mod snippet;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

pub use check::meant;
pub use fault::failure;
pub use host::{HostFlags, HostSettings, Origin, Setting};

/// The kinds of file that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    Platform,
    Host,
    Recipe,
}

/// The JSON Schema of a document, for editors and for the reference pages.
pub fn schema(which: Document) -> Value {
    match which {
        Document::Platform => schema_of::<platform::raw::Document>(),
        Document::Host => schema_of::<host::raw::Document>(),
        Document::Recipe => schema_of::<recipe::raw::Document>(),
    }
}

/// Inlined, because the shape check then needs no references, and editors show a key's text either way.
fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    without_null(&mut schema);
    schema
}

/// schemars says "or null" of everything optional, but TOML has no null: a key is left out.
fn without_null(value: &mut Value) {
    let null = Value::from("null");
    match value {
        Value::Object(map) => {
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|word| *word != null);
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type") != Some(&null));
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    // What the key says of itself goes before what its type says.
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(list) => list.iter_mut().for_each(without_null),
        _ => {}
    }
}

#[cfg(test)]
pub mod tests;
