//! What programs read: JSON with stable keys, one line per event, no escape codes where nobody looks at a terminal.

use std::process::Command;

use serde_json::Value;

use super::adt::{Adt, program};
use super::fakes::{Host, init};

fn known() -> (Adt, Host) {
    let adt = Adt::new();
    let host = Host::new(adt.path());
    host.process("env:init").done(init("1161"));
    (adt, host)
}

#[track_caller]
fn keys(value: &Value, wanted: &str) {
    let found = value.as_object().unwrap_or_else(|| panic!("{value} is no object"));
    let mut found: Vec<_> = found.keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found.join(" "), wanted);
}

#[test]
fn listings_have_stable_keys() {
    let (adt, _host) = known();
    let json = |words: &str| adt.run(&format!("{words} --json")).ok().json();
    keys(&json("platform:list")[0], "environments folder name source summary up");
    keys(&json("env:list")[0], "created disk machines name owner platform shared sites state updated");
    assert_eq!(json("env:list shop"), json("env:list -p shop"));
    let shown = json("env:show 1161");
    keys(&shown, "created folder id machines network owner shared sites state updated volumes");
    keys(&shown["machines"][0], "addresses boxed disk fqdn layers limits name provider role state");
    keys(&shown["sites"][0], "addresses aliases host name");
    keys(&json("box:list")[0], "built digest from name origin size summary");
    keys(&json("box:show web"), "built chain digest exposes folder from name origin packages services size summary used_by");
}

#[test]
fn checks_have_stable_keys_and_tell_by_their_code() {
    let (adt, _host) = known();
    for words in ["host:check", "platform:check shop", "env:check 1161"] {
        let run = adt.run(&format!("{words} --json"));
        let list = run.json();
        keys(&list, "items");
        let items = list["items"].as_array().expect("items are a list");
        assert!(!items.is_empty(), "{words}");
        for item in items {
            assert!(item["subject"].is_string() && item["seen"].is_string(), "{item}");
            assert!(["ok", "notice", "fault"].contains(&item["verdict"].as_str().unwrap_or_default()), "{item}");
        }
        let sound = items.iter().all(|item| item["verdict"] != "fault");
        assert_eq!(run.code, if sound { 0 } else { 13 }, "{words}");
    }
    // The environment is only a fake's: the real host has no machine of it.
    adt.run("env:check 1161").fails(13).says("adt env:up shop 1161");
}

#[test]
fn empty_listings_are_empty_lists() {
    let adt = Adt::new();
    for words in ["platform:list", "env:list"] {
        assert_eq!(adt.run(&format!("{words} --json")).ok().json(), Value::Array(Vec::new()), "{words}");
        assert_eq!(adt.run(words).ok().stdout.lines().count(), 1);
    }
    assert!(adt.run("box:list --json").ok().json().as_array().is_some_and(|boxes| boxes.len() > 5));
    assert!(adt.run("host:check --json").json()["items"].is_array());
}

/// The lines of a verb, each parsed.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in `{line}`"))).collect()
}

#[test]
fn verbs_print_a_line_per_event_and_end_with_one_that_tells_the_end() {
    let (adt, host) = known();
    for (words, code, last) in [
        ("platform:init ../shop", 0, "finished"),
        ("env:init 7 --dry-run", 0, "finished"),
        ("env:destroy 1161 --dry-run", 0, "finished"),
        ("env:halt 77", 4, "failed"),
        ("env:up A_B", 2, "failed"),
        ("env:destroy 1161", 2, "failed"),
        ("--domain x.local env:up 1", 3, "failed"),
        ("env:frobnicate", 2, "failed"),
        ("env:destroy 1161 --yes", 0, "finished"),
        ("env:destroy 1161 --yes", 0, "finished"),
        ("box:prune --yes", 0, "finished"),
    ] {
        let run = adt.run(&format!("{words} --json")).fails(code);
        let lines = lines(&run.stdout);
        let end = lines.last().unwrap_or_else(|| panic!("`{words}` prints nothing: {}", run.stderr));
        assert_eq!(end["event"], last, "{words}");
        match last {
            "finished" => keys(end, "event response"),
            _ => {
                keys(end, "event exit_code failure");
                assert_eq!(end["exit_code"], code);
                assert!(end["failure"]["kind"].is_string() && end["failure"]["sentence"].is_string(), "{end}");
            }
        }
        assert!(lines[..lines.len() - 1].iter().all(|line| line["event"].is_string()), "{words}");
        assert_eq!(run.stderr, "", "{words}");
    }
    drop(host);
}

#[test]
fn schemas_completions_and_the_man_page_are_printed() {
    let adt = Adt::new();
    for (document, title) in [("platform", "platform.toml"), ("host", "adt.toml"), ("box", "box.toml")] {
        let schema = adt.run(&format!("schema {document}")).ok().json();
        assert_eq!(schema["title"], title);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema["properties"].is_object() && schema["additionalProperties"] == false, "{document}");
    }
    for shell in ["bash", "zsh", "fish"] {
        adt.run(&format!("completions {shell}")).ok().says("env:init");
    }
    adt.run("man").ok().says(".TH").says("env:init");
    assert!(!adt.store.exists(), "printing a text needs no store");
}

#[test]
fn every_command_has_help_with_its_words() {
    use clap::CommandFactory;
    let adt = Adt::new();
    let cli = adt::cli::args::Cli::command();
    let mut seen = 0;
    for command in cli.get_subcommands() {
        let name = command.get_name();
        let help = adt.run(&format!("{name} --help")).ok().stdout;
        let about = command.get_about().unwrap_or_else(|| panic!("{name} says nothing of itself")).to_string();
        assert!(help.contains(&about) && help.contains(&format!("adt {name}")), "{help}");
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let words = argument.get_long().map(|long| format!("--{long}"));
            let words = words.or_else(|| argument.get_value_names().map(|names| names[0].to_string()));
            assert!(help.contains(&words.clone().expect("an argument has a name")), "{name}: {words:?} is not in\n{help}");
        }
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
    adt.run("--help").ok().says("env:init").says("--json");
    adt.run("--version").ok().says("adt ");
}

#[test]
fn nothing_is_coloured_where_nobody_looks() {
    let (adt, _host) = known();
    for words in ["env:list", "env:show 1161", "host:check", "env:up 77", "env:check 1161", "--help", "frobnicate"] {
        let mut command = adt.command(&words.split(' ').collect::<Vec<_>>());
        // Not told by a variable: a pipe is enough.
        let output = command.env_remove("NO_COLOR").output().expect("the program starts");
        let text = [output.stdout, output.stderr].concat();
        assert!(!text.contains(&0x1b), "{words}: {}", String::from_utf8_lossy(&text));
    }
}

/// Runs it in a terminal of its own.
fn on_a_terminal(adt: &Adt, words: &str, no_color: bool) -> (i32, String) {
    let inner = adt.command(&[]);
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{} {words}", program()), "/dev/null"]).current_dir(adt.here());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    if !no_color {
        command.env_remove("NO_COLOR");
    }
    let output = command.stdin(std::process::Stdio::null()).output().expect("script is there");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_failing_command_leaves_the_terminal_whole() {
    let (adt, host) = known();
    std::fs::create_dir_all(host.shop().join("boxes/web/files")).unwrap();
    let recipe = host.shop().join("boxes/web/box.toml");
    std::fs::write(&recipe, "[box]\nfrom = { rootfs = \"rootfs.tar\" }\n[[steps]]\nfiles = \"files\"\n").unwrap();
    for words in ["platform:init https://127.0.0.1:1/x.git", "platform:build shop", "env:up 77"] {
        let (code, text) = on_a_terminal(&adt, words, false);
        assert_ne!(code, 0, "{words}");
        assert!(text.ends_with('\n'), "{words}: the last line is not complete: {text:?}");
        let (hidden, shown) = (text.matches("\u{1b}[?25l").count(), text.matches("\u{1b}[?25h").count());
        assert!(shown >= hidden, "{words}: the cursor stays hidden: {text:?}");
        // After the complaint nothing moves any more.
        let complaint = text.rfind("error:").unwrap_or_else(|| panic!("{words}: {text:?}"));
        assert!(!text[complaint..].contains(['⠋', '⠙', '⠹', '\u{8}']), "{text:?}");
    }
    let (_, text) = on_a_terminal(&adt, "env:up 77", true);
    assert!(text.contains("error: could not find") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn who_reads_only_the_beginning_hears_no_complaint() {
    let mut adt = Command::new(program());
    adt.args(["schema", "platform"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut adt = adt.spawn().expect("the program starts");
    // Nobody has read anything: more is written than a pipe holds once nobody can.
    drop(adt.stdout.take());
    let ended = adt.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert!(ended.status.success(), "{ended:?}");
}
