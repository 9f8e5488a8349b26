//! The book's reference pages are what the types say: each is made here and compared with the one in `docs/reference`.
//! `ADT_WRITE_REFERENCE=1` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use adt::cli::args::Cli;
use adt::config::{self, Document};
use clap::CommandFactory;
use serde_json::Value;

#[test]
fn the_reference_says_what_the_types_say() {
    let settings = |document, title: &str, lead: &str| {
        let schema = config::schema(document);
        let mut text = format!("# {title}\n\n{lead}\n");
        tables(&schema, "", &mut text);
        text
    };
    let pages = [
        ("commands.md", commands()),
        (
            "platform.md",
            settings(Document::Platform, "`platform.toml`", "What a platform's folder says of its machines, sites and data."),
        ),
        ("box.md", settings(Document::Recipe, "`box.toml`", "How a machine image is built.")),
        ("host.md", settings(Document::Host, "`adt.toml`", "The settings of this host, in `/etc/adt/adt.toml`.")),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    let mut stale = Vec::new();
    for (name, text) in pages {
        let path = folder.join(name);
        if std::env::var_os("ADT_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "run `ADT_WRITE_REFERENCE=1 cargo nextest run reference` and look at the change of {stale:?}");
}

/// Each command with its own help.
fn commands() -> String {
    let mut text =
        "# Commands\n\nWhat `adt COMMAND --help` says. The words and flags of all commands are at the end.\n".to_owned();
    let mut cli = Cli::command().term_width(100);
    // Settings from the surroundings of whoever runs this are no part of the page.
    cli = cli.mut_args(|arg| arg.hide_env_values(true));
    cli.build();
    for command in cli.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
        let name = command.get_name().to_owned();
        let all = command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg }).render_long_help();
        write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", all.to_string().trim_end()).expect("a string takes all");
    }
    let globals = cli.get_arguments().filter(|arg| arg.is_global_set());
    text.push_str("\n## With every command\n\n| flag | what it does |\n|---|---|\n");
    for arg in globals {
        let long = arg.get_long().map(|long| format!("`--{long}`")).unwrap_or_default();
        let short = arg.get_short().map(|short| format!(", `-{short}`")).unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(text, "| {long}{short} | {} |", cell(&help)).expect("a string takes all");
    }
    text
}

/// A table for each group of keys, outer ones first.
fn tables(schema: &Value, path: &str, text: &mut String) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !path.is_empty() {
        write!(text, "\n## `{path}`\n\n{}\n", sentence(schema)).expect("a string takes all");
    }
    text.push_str("\n| key | kind | what it says |\n|---|---|---|\n");
    for (key, value) in properties {
        let must = if required.contains(&key.as_str()) { ", required" } else { "" };
        writeln!(text, "| `{key}` | {}{must} | {} |", kind(value), cell(&sentence(value))).expect("a string takes all");
    }
    for (key, value) in properties {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        tables(value, &below(key), text);
        tables(&value["additionalProperties"], &below(&format!("{key}.NAME")), text);
        tables(&value["items"], &below(&format!("{key}[]")), text);
    }
}

fn sentence(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A vertical bar ends a cell, also inside of backticks.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn kind(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let one_of = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(kinds) = one_of {
        let mut kinds: Vec<_> = kinds.iter().map(kind).filter(|kind| !kind.is_empty()).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    let name = |word: &str| match word {
        "string" => "text",
        "integer" => "whole number",
        "number" => "number",
        "boolean" => "`true` or `false`",
        "array" => "list",
        "object" => "table",
        _ => "",
    };
    let words: Vec<_> = match &schema["type"] {
        Value::String(word) => vec![name(word)],
        Value::Array(words) => words.iter().filter_map(Value::as_str).map(name).filter(|word| !word.is_empty()).collect(),
        _ => vec![],
    };
    let least = schema["minimum"].as_f64().map(|least| format!(" from {least}")).unwrap_or_default();
    let most = schema["maximum"].as_f64().map(|most| format!(" to {most}")).unwrap_or_default();
    format!("{}{least}{most}", words.join(" or "))
}
