//! What the README and the book show: every command line is one that adt takes, every piece of a settings file one that it reads.

use std::path::{Path, PathBuf};

use adt::cli::args::Cli;
use adt::config::{self, HostFlags};
use clap::{CommandFactory, Parser};

/// A block between two lines of three backticks.
struct Block {
    file: PathBuf,
    line: usize,
    kind: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = walkdir::WalkDir::new(root.join("docs")).sort_by_file_name().into_iter().flatten().map(|entry| entry.into_path());
    let mut pages: Vec<_> = book.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "boxes/README.md"].map(|name| root.join(name)));
    pages
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for file in pages() {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open.as_mut()) {
                (Some(kind), None) => {
                    open = Some(Block { file: file.clone(), line: number + 1, kind: kind.to_owned(), text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without an end", file.display());
    }
    blocks
}

/// A line's words as a shell has them: quoted ones whole, without what follows `#`, up to `|`, `&&` or `>`.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_open, mut quote) = (String::new(), false, None);
    for sign in line.chars() {
        match (quote, sign) {
            (Some(end), sign) if sign == end => quote = None,
            (Some(_), sign) => word.push(sign),
            (None, '\'' | '"') => (quote, is_open) = (Some(sign), true),
            (None, '#') if !is_open => break,
            (None, '|' | '>' | ';') => break,
            (None, ' ') => {
                if std::mem::take(&mut is_open) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (None, sign) => {
                word.push(sign);
                is_open = true;
            }
        }
    }
    if is_open {
        words.push(word);
    }
    match words.iter().position(|word| word == "&&") {
        Some(end) => words[..end].to_vec(),
        None => words,
    }
}

/// What adt is given in a line that calls it.
fn call(line: &str) -> Option<Vec<String>> {
    let words = words(line.trim_start_matches("$ "));
    let start = words.iter().position(|word| word != "sudo" && !word.contains('='))?;
    (words[start] == "adt").then(|| words[start..].to_vec())
}

#[test]
fn every_command_that_is_shown_is_one() {
    let mut shown = 0;
    let mut wrong = Vec::new();
    for block in blocks().iter().filter(|block| block.kind == "sh") {
        for line in block.text.lines() {
            let Some(words) = call(line) else { continue };
            shown += 1;
            match Cli::try_parse_from(&words) {
                Ok(_) => {}
                Err(error) if !error.use_stderr() => {}
                Err(error) => wrong.push(format!("{}: `{}`: {error}", block.place(), words.join(" "))),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(shown >= 30, "{shown} commands are shown");
}

#[test]
fn every_piece_of_settings_that_is_shown_is_read() {
    let mut wrong = Vec::new();
    let mut kinds = [0; 3];
    for block in blocks().iter().filter(|block| block.kind == "toml") {
        let table: toml::Table = block.text.parse().unwrap_or_else(|error| panic!("{}: {error}", block.place()));
        let is_one_of = |names: &[&str]| table.keys().any(|key| names.contains(&key.as_str()));
        let (kind, faults) = if is_one_of(&["box"]) {
            let name = "shop".parse().expect("it is a name");
            (0, config::recipe::parse(&name, Path::new("box.toml"), &block.text).err())
        } else if is_one_of(&["platform", "machines", "sites", "data", "snapshots", "targets"]) {
            (1, config::platform::parse(Path::new("platform.toml"), &completed(table)).err())
        } else {
            (2, config::host::settle(Some((Path::new("adt.toml"), &block.text)), &|_| None, &HostFlags::default()).err())
        };
        kinds[kind] += 1;
        wrong.extend(faults.into_iter().flatten().map(|fault| format!("{}: {fault}", block.place())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
}

/// A piece of a platform's definition inside of a whole one.
fn completed(piece: toml::Table) -> String {
    let whole = "platform.name = \"shop\"\n\
        machines.web = { box = \"web-php\", count = 2 }\n\
        machines.db = { box = \"mariadb\" }\n\
        sites.www = { on = \"web\" }\n\
        sites.api = { on = \"web\" }\n";
    let mut whole: toml::Table = whole.parse().expect("it is TOML");
    merge(&mut whole, piece);
    toml::to_string(&whole).expect("tables can be written")
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[test]
fn a_line_is_read_as_a_shell_does() {
    let read = |line| call(line).map(|words| words.join("|"));
    assert_eq!(read("sudo adt env:list   # what is there"), Some("adt|env:list".into()));
    assert_eq!(read("adt env:logs 1161 --grep ' 50[0-9] ' | less"), Some("adt|env:logs|1161|--grep| 50[0-9] ".into()));
    assert_eq!(read("ADT_STORE=/srv adt host:check && echo"), Some("adt|host:check".into()));
    assert_eq!(read("make demo"), None);
}

/// The lines of a help text that show how the command is given.
fn examples(help: &str) -> Vec<&str> {
    help.lines().skip_while(|line| *line != "Examples:").skip(1).collect()
}

#[test]
fn every_command_has_an_example_that_it_takes() {
    let cli = Cli::command();
    let mut wrong = Vec::new();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = examples(&help);
        if lines.is_empty() {
            wrong.push(format!("{name}: no example"));
        }
        for line in lines {
            // Other programs of the line are not adt's to judge, an adt behind them is.
            let calls: Vec<_> =
                line.split(['|', '&']).filter_map(|part| call(part.trim_start().trim_start_matches("ssh other"))).collect();
            if calls.first().and_then(|words| words.iter().find(|word| word.as_str() == name)).is_none() {
                wrong.push(format!("{name}: `{line}` is no example of it"));
            }
            for words in calls {
                if let Err(error) = Cli::try_parse_from(&words) {
                    wrong.push(format!("{name}: `{}`: {error}", words.join(" ")));
                }
            }
            if line.len() > 98 {
                wrong.push(format!("{name}: `{line}` is too long for a terminal"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
