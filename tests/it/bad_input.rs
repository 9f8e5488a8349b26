//! What people get wrong: one clear error with a place and a remedy, the documented exit code, and nothing changed.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use adt::model::{EnvironmentId, Event, Request, Response};

use super::adt::{Adt, program};
use super::fakes::{Host, PLATFORM, id, init};

const WEB: &str = "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"debian\"\n";

/// Files and rows: everything that a refused command must leave as it was.
fn everything(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    // SQLite's own files come and go with every reader, and the shipped recipes are written when they are first needed.
    let ours = files.filter(|entry| {
        let path = entry.path().to_string_lossy().into_owned();
        !path.contains("/adt.db-") && !path.contains("/shipped/") && !path.ends_with("/adt.toml")
    });
    ours.map(|entry| (entry.path().display().to_string(), std::fs::read(entry.path()).unwrap_or_default())).collect()
}

/// What no output of adt may hold.
#[track_caller]
fn decent(text: &str) {
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "\u{1b}[", "Error {", "Some("] {
        assert!(!text.contains(word), "the output holds `{word}`:\n{text}");
    }
}

/// The command fails with this code, says all of this, and changes nothing.
#[track_caller]
fn refused(adt: &Adt, words: &str, code: i32, says: &[&str]) {
    let before = everything(adt.path());
    let mut run = adt.run(words).fails(code);
    for text in says {
        run = run.says(text);
    }
    decent(&run.stdout);
    decent(&run.stderr);
    assert!(run.stderr.contains("error: "), "{}", run.stderr);
    let after = everything(adt.path());
    let changed: Vec<_> = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "`adt {words}` changed {changed:?}");
}

/// A program that knows `shop` with these boxes built, and one environment of it that nobody started.
fn known() -> (Adt, Host) {
    let adt = Adt::new();
    let host = Host::new(adt.path());
    (adt, host)
}

#[test]
fn a_wrong_platform_file_is_told_with_its_place() {
    let long = "a".repeat(64);
    let cases: &[(&str, String, &[&str])] = &[
        ("unknown key", format!("{WEB}cuont = 2\n"), &["unknown key `cuont`", "platform.toml:5:1", "did you mean `count`?"]),
        ("wrong type", format!("{WEB}count = \"two\"\n"), &["`count` must be a whole number", "platform.toml:5:9"]),
        ("count 0", format!("{WEB}count = 0\n"), &["`count` is 0", "between 1 and 61"]),
        ("syntax", format!("{WEB}count = \n"), &["not valid TOML", "platform.toml:5"]),
        (
            "unknown box",
            WEB.replace("debian", "debain"),
            &["no box is called `debain`", "platform.toml:4:7", "did you mean `debian`?"],
        ),
        (
            "twice",
            format!("{WEB}[machines.web]\nbox = \"debian\"\n"),
            &["duplicate key", "platform.toml:5", "keep one of the two"],
        ),
        (
            "same name",
            format!("{WEB}count = 2\n[machines.web1]\nbox = \"debian\"\n"),
            &["would both have a machine `web1`", "platform.toml:6", "rename one"],
        ),
        (
            "platform name",
            WEB.replace("shop", "sh_op"),
            &["`sh_op` is not a platform name", "platform.toml:2:8", "write `sh-op`"],
        ),
        ("long platform", WEB.replace("shop", &long), &["longer than the 63 characters", "platform.toml:2:8"]),
        ("role name", WEB.replace("machines.web", "machines.Web"), &["`Web` is not a machine name", "platform.toml:3"]),
        ("long role", WEB.replace("machines.web", &format!("machines.{long}")), &["longer than the 63 characters"]),
        ("site name", format!("{WEB}[sites.w_w]\non = \"web\"\n"), &["`w_w` is not a site name", "platform.toml:5:8"]),
        ("site nowhere", format!("{WEB}[sites.www]\non = \"wbe\"\n"), &["there is no machine `wbe`", "did you mean `web`?"]),
        ("local", WEB.replace("[machines", "domain = \"shop.local\"\n[machines"), &["multicast DNS", "platform.toml:3:10"]),
        ("reserved", WEB.replace("shop", "box"), &["`box` is reserved", "choose another name"]),
    ];
    let adt = Adt::new();
    adt.run("env:list").ok();
    for (what, text, says) in cases {
        eprintln!("{what}");
        adt.platform_toml("shop", text);
        refused(&adt, "platform:init shop", 3, says);
    }
    // One mistake is one error.
    adt.platform_toml("shop", &cases[5].1);
    let told = adt.run("platform:init shop").stderr;
    assert_eq!(told.matches("duplicate").count(), 1, "{told}");
}

#[test]
fn a_wrong_recipe_is_told_with_its_place() {
    let adt = Adt::new();
    adt.run("env:list").ok();
    let folder = adt.platform_toml("shop", &WEB.replace("debian", "x"));
    let recipe = |name: &str, text: &str| {
        std::fs::create_dir_all(folder.join("boxes").join(name)).unwrap();
        std::fs::write(folder.join("boxes").join(name).join("box.toml"), text).unwrap();
    };
    recipe("x", "[box]\nfrom = { box = \"y\" }\n");
    recipe("y", "[box]\nfrom = { box = \"x\" }\n");
    refused(&adt, "platform:init shop", 3, &["x -> y -> x", "platform.toml:4:7", "`from` in its `box.toml`"]);
    recipe("y", "[box]\nfrom = { box = \"z\" }\n");
    refused(&adt, "platform:init shop", 3, &["no box is called `z`", "boxes/y/box.toml:2"]);
    recipe("y", "[box]\nform = { box = \"z\" }\n");
    refused(&adt, "platform:init shop", 3, &["unknown key `form`", "boxes/y/box.toml:2:1", "did you mean `from`?"]);
    recipe("y", "[box]\nfrom = { rootfs = \"../../../../etc/passwd\" }\n");
    refused(&adt, "platform:init shop", 3, &["boxes/y/box.toml"]);
}

#[test]
fn a_template_without_its_value_names_file_line_and_word() {
    let (adt, host) = known();
    let folder = host.shop().join("boxes/web2");
    std::fs::create_dir_all(folder.join("files")).unwrap();
    std::fs::write(folder.join("box.toml"), "[box]\nfrom = { box = \"web\" }\n[[steps]]\nfiles = \"files\"\n").unwrap();
    std::fs::write(folder.join("files/a.conf.j2"), "fine\nport = {{ vars.prot }}\n").unwrap();
    host.define(&PLATFORM.replace("box = \"web\"", "box = \"web2\""));
    let run = adt.run("env:init shop 1161").fails(3).says("files/a.conf.j2:2").says("vars.prot").says("hint: ");
    decent(&run.stderr);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn host_settings_are_told_with_where_they_came_from() {
    let adt = Adt::new();
    adt.run("env:list").ok();
    refused(&adt, "--domain shop.local env:list", 3, &["--domain", "multicast DNS", "example.test"]);
    refused(&adt, "--store here env:list", 3, &["--store", "not absolute"]);
    refused(&adt, "--provider docker env:list", 3, &["no provider `docker`", "hint: known here: `lxc`"]);
    refused(&adt, "--pool-v4 8.8.8.0/24 env:list", 3, &["--pool-v4", "not private"]);
    refused(&adt, "--config /nowhere/adt.toml env:list", 3, &["/nowhere/adt.toml", "hint: "]);
    std::fs::write(adt.path().join("adt.toml"), "domian = \"a.test\"\n").unwrap();
    refused(&adt, "env:list", 3, &["unknown key `domian`", "adt.toml:1:1", "did you mean `domain`?"]);
    std::fs::write(adt.path().join("adt.toml"), "domain = \"a.local\"\n").unwrap();
    refused(&adt, "env:list", 3, &["adt.toml:1:10", "multicast DNS"]);
    std::fs::write(adt.path().join("adt.toml"), "").unwrap();
    let adt = adt.env("ADT_DOMAIN", "a.local");
    refused(&adt, "env:list", 3, &["ADT_DOMAIN", "multicast DNS"]);
}

#[test]
fn addresses_that_are_taken_are_refused() {
    let (adt, host) = known();
    host.process("env:init").done(init("1"));
    refused(&adt, "--pool-v4 10.213.0.0/26 env:init shop 2", 10, &["no free network", "10.213.0.0/26", "`pool_v4`"]);
    // A route that every host has or, failing that, nothing to be in the way.
    let routes = Command::new("ip").args(["-4", "route"]).output().expect("ip is there");
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    let mut lines = routes.lines().filter(|line| !line.contains("dev adt"));
    let private = |line: &&str| ["10.", "192.168.", "172.16."].iter().any(|start| line.starts_with(start)) && line.contains('/');
    if let Some(route) = lines.find(private).and_then(|line| line.split_whitespace().next()) {
        refused(&adt, &format!("--pool-v4 {route} env:init shop 2"), 5, &["overlaps the live route", route]);
    }
}

#[test]
fn an_overlapping_route_is_named() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let process = host.process("env:init shop 1");
    process.networks.add_route(adt::network::address::Route { net: "10.0.0.0/8".parse().unwrap(), device: "tun0".into() });
    let failure = process.run(init("1")).result.unwrap_err();
    assert_eq!(failure.kind, adt::model::Kind::Conflict);
    assert!(failure.to_string().contains("10.0.0.0/8 dev tun0") && !failure.hints.is_empty(), "{failure}");
    drop(process);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_platform_that_can_not_come_is_told() {
    let adt = Adt::new();
    adt.run("env:list").ok();
    refused(&adt, "platform:init https://127.0.0.1:1/shop.git", 8, &["https://127.0.0.1:1/shop.git", "hint: "]);
    std::fs::create_dir(adt.here().join("empty")).unwrap();
    refused(&adt, "platform:init empty", 4, &["no folder with a `platform.toml`", "the examples are"]);
    std::fs::create_dir(adt.here().join("full")).unwrap();
    std::fs::write(adt.here().join("full/mine"), "mine").unwrap();
    refused(&adt, "platform:init hello full", 5, &["exists already and is not empty", "hint: "]);
    refused(&adt, "platform:init hello /nowhere/deep/hello", 7, &["there is no such folder", "mkdir -p /nowhere/deep"]);
    let odd = adt.here().join(std::ffi::OsStr::from_bytes(b"b\xfcro"));
    std::fs::create_dir_all(odd.join("shop")).unwrap();
    std::fs::write(odd.join("shop/platform.toml"), WEB).unwrap();
    let adt = adt.stand_in(odd);
    for words in ["platform:init shop", "platform:init hello"] {
        refused(&adt, words, 2, &["is not UTF-8", "hint: put it into a folder"]);
    }
}

#[test]
fn names_that_nothing_has_are_told() {
    let (adt, host) = known();
    host.process("env:init").done(init("1161"));
    let longest = "a".repeat(63);
    for (words, code, says) in [
        ("platform:up nosuch 1", 4, "could not find the environment `shop/nosuch`"),
        ("-p nosuch env:up 1", 4, "could not find the environment `nosuch/1`"),
        ("platform:build nosuch", 4, "known are shop"),
        ("env:up shop 77", 4, "adt env:init shop 77"),
        ("env:show 77", 4, "adt env:list"),
        ("env:init A_B", 2, "is not an environment name"),
        (&format!("env:init {longest}a"), 2, "longer than the 63 characters"),
        ("env:ssh 1161", 2, "name one of db, web1, web2"),
        ("env:ssh 1161 nosuch", 4, "its machines are db, web1, web2"),
        ("env:ssh 1161 db -- true", 4, "hint: "),
        ("env:cp 1161 a b", 2, "neither side is in a machine"),
        ("env:cp 1161 db:/a web1:/b", 2, "both sides are in machines"),
        ("env:cp 1161 nosuch db:/b", 4, "nosuch"),
        ("env:cp 1161 nosuch:/a b", 4, "its machines are"),
        ("env:destroy 1161", 2, "add `--yes`"),
        ("platform:destroy shop", 2, "add `--yes`"),
        ("box:build nosuch", 4, "no box is called `nosuch`"),
        ("box:show nosuch", 4, "known are"),
        ("frobnicate", 2, "unrecognized subcommand"),
        ("env:up --frobnicate", 2, "unexpected argument"),
        ("env:up", 2, "name it, e.g."),
    ] {
        refused(&adt, words, code, &[says]);
    }
}

#[test]
fn the_folder_one_stands_in_says_which_platform_is_meant() {
    let (adt, host) = known();
    adt.run("platform:init hello").ok();
    refused(&adt, "env:up 1", 2, &["this host knows several", "name one of hello, shop"]);
    let shop = host.shop();
    refused(&adt.stand_in(shop), "env:up 1", 4, &["shop/1"]);
}

#[test]
fn a_host_name_that_dns_has_no_room_for_is_refused_before_anything_is_made() {
    let adt = Adt::new();
    let (name, role) = ("p".repeat(40), "r".repeat(62));
    adt.platform_toml("long", &format!("[platform]\nname = \"{name}\"\n[machines.{role}]\nbox = \"debian\"\n"));
    adt.run("platform:init long").ok();
    let domain = ["a"; 60].join(".");
    refused(&adt, &format!("--domain {domain} env:init {}", "e".repeat(63)), 2, &["DNS allows 253", "shorter name"]);
}

#[test]
fn a_platform_whose_folder_went_can_still_be_left() {
    let (adt, host) = known();
    let process = host.process("env:init");
    process.done(init("1"));
    drop(process);
    std::fs::rename(host.shop(), host.folder.join("elsewhere")).unwrap();
    for words in ["env:init 2", "env:reload 1", "platform:build shop"] {
        refused(&adt, words, 4, &["shop/platform.toml", "adt platform:destroy shop"]);
    }
    adt.run("platform:list").ok().says("could not read");
    adt.run("env:list").ok().says("shop");
    adt.run("platform:check").fails(13).says("put the platform's folder back");
    std::fs::create_dir(host.shop()).unwrap();
    host.define("[platform\n");
    refused(&adt, "env:reload 1", 3, &["platform.toml:1"]);
    adt.run("platform:destroy shop --yes").ok().says("is forgotten");
    adt.run("platform:destroy shop --yes").ok().says("forgotten already");
}

#[test]
fn a_store_that_can_not_be_used_is_left_alone() {
    let (adt, host) = known();
    let open = || rusqlite::Connection::open(host.store().join("adt.db")).unwrap();
    let known: i64 = open().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    open().pragma_update(None, "user_version", 999).unwrap();
    refused(&adt, "env:list", 11, &["written by a newer adt", "update adt"]);
    open().pragma_update(None, "user_version", known).unwrap();
    adt.run("env:list").ok();
    let sound = std::fs::read(host.store().join("adt.db")).unwrap();
    std::fs::write(host.store().join("adt.db"), "no database at all ".repeat(500)).unwrap();
    refused(&adt, "env:list", 11, &["is damaged", "adt.db", "hint: "]);
    std::fs::write(host.store().join("adt.db"), sound).unwrap();
    std::fs::write(adt.path().join("file"), "").unwrap();
    let words = format!("--store {} env:list", adt.path().join("file").display());
    refused(&adt, &words, 11, &["it must be a folder"]);
}

#[test]
fn a_damaged_row_hides_nothing_and_can_be_removed() {
    let (adt, host) = known();
    for name in ["1", "2"] {
        host.process("env:init").done(init(name));
    }
    let open = || rusqlite::Connection::open(host.store().join("adt.db")).unwrap();
    open().execute("UPDATE environments SET definition = '{}' WHERE name = '1'", []).unwrap();
    let list = adt.run("env:list").ok().says("`shop/1` can't be read").says("adt env:destroy shop 1");
    assert!(list.stdout.contains("shop      2"), "{}", list.stdout);
    let list = adt.run("env:list --json").ok().json();
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    refused(&adt, "env:up 1", 11, &["a row for `shop/1`", "adt env:destroy shop 1"]);
    adt.run("platform:list").ok();
    let check = adt.run("host:check");
    assert!(check.stdout.contains("adt env:destroy shop 1"), "{}{}", check.stdout, check.stderr);
    // With the machines that the fake still has, as a damaged store on a real host would find them.
    let process = host.process("env:destroy shop 1");
    assert!(process.done(Request::EnvDestroy { id: id("1"), dry_run: false }).summary.contains("its record was damaged"));
    process.done(Request::EnvDestroy { id: id("2"), dry_run: false });
    drop(process);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_damaged_row_leaves_no_checkout_but_one_with_work() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    host.define_with_source();
    let workspace = host.shop().join("1161");
    let destroy_damaged = |work: bool| {
        host.process("env:init").done(init("1161"));
        if work {
            std::fs::write(workspace.join("www/notes"), "work").unwrap();
        }
        rusqlite::Connection::open(host.store().join("adt.db"))
            .and_then(|database| database.execute("UPDATE environments SET definition = '{}'", []))
            .unwrap();
        host.process("env:destroy").run(Request::EnvDestroy { id: id("1161"), dry_run: false })
    };
    let ran = destroy_damaged(true);
    let kept = format!("`{}` is kept: 1 changed file", workspace.join("www").display());
    assert!(ran.result.is_ok());
    assert!(ran.events.iter().any(|event| matches!(event, Event::Warning { text } if *text == kept)), "{:?}", ran.events);
    assert!(workspace.join("www/notes").exists());
    std::fs::remove_dir_all(&workspace).unwrap();
    assert!(destroy_damaged(false).result.is_ok());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn what_is_being_destroyed_comes_back_only_through_init() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let process = host.process("env:destroy shop 1");
    process.done(init("1"));
    process.machines.fail_next("delete", "web1");
    assert!(process.run(Request::EnvDestroy { id: id("1"), dry_run: false }).result.is_err());
    let named = |name: &EnvironmentId| Request::PlatformUp {
        platform: name.platform.clone(),
        environments: vec![name.name.clone()],
        dry_run: false,
    };
    for request in [
        Request::EnvUp { id: id("1"), dry_run: false },
        Request::EnvReload { id: id("1"), data: false, dry_run: false },
        named(&id("1")),
    ] {
        let failure = process.run(request).result.unwrap_err();
        assert!(failure.to_string().contains("its destroy was interrupted"), "{failure}");
        assert!(failure.hints[0].contains("adt env:destroy shop 1"), "{failure:?}");
    }
    let all = Request::PlatformUp { platform: "shop".parse().unwrap(), environments: Vec::new(), dry_run: false };
    assert!(!process.done(all).changed);
    assert!(process.done(init("1")).summary.contains("is up"));
}

#[test]
fn a_check_sees_what_an_interrupted_halt_left() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let process = host.process("env:halt shop 1");
    process.done(init("1"));
    process.machines.fail_next("stop", "web1");
    assert!(process.run(Request::EnvHalt { id: id("1"), dry_run: false }).result.is_err());
    let Ok(Response::Check(list)) = process.run(Request::EnvCheck { id: id("1") }).result else { panic!("no list") };
    assert!(!list.healthy());
    assert!(list.items[0].seen.contains("stop web1"), "{list:?}");
    assert_eq!(list.items[0].remedy.as_deref(), Some("adt env:halt shop 1"));
    process.done(Request::EnvHalt { id: id("1"), dry_run: false });
    let Ok(Response::Check(list)) = process.run(Request::EnvCheck { id: id("1") }).result else { panic!("no list") };
    assert!(list.healthy());
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn without_root_it_says_so() {
    let adt = Adt::new();
    // The program's own folder may be closed to others.
    let copy = adt.path().join("adt");
    std::fs::copy(program(), &copy).unwrap();
    std::fs::set_permissions(adt.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["env:list"])
        .env("ADT_STORE", &adt.store)
        .current_dir("/")
        .output()
        .expect("setpriv is there");
    assert_eq!(output.status.code(), Some(6), "{}", text(&output));
    assert!(text(&output).contains("needs root") && text(&output).contains("`sudo`"), "{}", text(&output));
    assert!(!adt.store.exists());
}

#[test]
fn without_liblxc_it_says_so_and_how_to_get_it() {
    let libraries = Command::new("ldconfig").arg("-p").output().expect("ldconfig is there");
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    let library = libraries.lines().find(|line| line.contains("liblxc.so.1 ")).and_then(|line| line.rsplit(' ').next());
    let (adt, host) = known();
    let run = |words: &[&str]| {
        let inner = adt.command(words);
        let mut command = Command::new("unshare");
        let hide = library.map_or("true".to_owned(), |path| format!("mount --bind /dev/null {path}"));
        command.args(["-m", "sh", "-c", &format!("{hide} && exec \"$@\""), "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(adt.here());
        command.output().expect("unshare is there")
    };
    let check = run(&["host:check"]);
    assert_eq!(check.status.code(), Some(13), "{}", text(&check));
    assert!(text(&check).contains("liblxc") && text(&check).contains("adt host:bootstrap"), "{}", text(&check));
    for words in [&["env:init", "shop", "1161"][..], &["env:init", "shop", "1161", "--json"]] {
        let init = run(words);
        assert!(matches!(init.status.code(), Some(7 | 12)), "{}", text(&init));
        assert!(text(&init).contains("liblxc is missing") && text(&init).contains("adt host:bootstrap"), "{}", text(&init));
        decent(&text(&init));
    }
    // Reading needs no library.
    assert_eq!(run(&["env:list"]).status.code(), Some(0));
    drop(host);
}

#[test]
fn a_record_without_a_valid_name_hides_no_other_and_can_be_removed() {
    let adt = Adt::new();
    adt.run("env:list").ok();
    let raw = rusqlite::Connection::open(adt.store().join("adt.db")).unwrap();
    let rows = "
        INSERT INTO platforms VALUES ('shop', '/srv/shop', '/srv/shop', NULL, 0, NULL), ('BAD NAME', '/srv/x', '/srv/x', NULL, 0, NULL);
        INSERT INTO environments (platform, name, wanted, created, updated, owner, network, definition) VALUES
            ('shop', 'A ''b', 'up', 0, 0, 'ada', '10.1.0.0/26', '{}'), ('shop', '7', 'up', 0, 0, 'ada', '10.1.0.64/26', '{}'),
            ('BAD NAME', '7', 'up', 0, 0, 'ada', '10.1.0.128/26', '{}');
        INSERT INTO sites VALUES ('shop', 'A ''b', 'www', '{}');
        INSERT INTO applied VALUES ('shop', 'A ''b', 'WEB_1', '{}');";
    raw.execute_batch(rows).unwrap();
    let names = |words: &str| {
        let list = adt.run(words).ok().json();
        let names = list.as_array().expect("a list").iter().map(|one| {
            assert!(one["name"] == "shop" || one["fault"].is_string() || one["fault"].is_object(), "{one}");
            one["name"].as_str().expect("it is a text").to_owned()
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("env:list --json"), ["7", "7", "A 'b"]);
    assert_eq!(names("platform:list --json"), ["shop", "BAD NAME"]);
    adt.run("env:list").ok().says("`adt env:destroy shop 'A '\\''b'` removes it").says("`adt env:destroy shop 7` removes it");
    adt.run("platform:list").ok().says("BAD NAME");
    let destroy = |words: &[&str]| {
        let output = adt.command(words).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for words in [["env:destroy", "shop", "A 'b"], ["env:destroy", "BAD NAME", "7"]] {
        let (code, told) = destroy(&words);
        assert!(code == Some(0) && told.contains("it had no valid name"), "{told}");
        assert_eq!(destroy(&words).0, Some(2), "now it is a word that is no name");
    }
    assert_eq!(destroy(&["platform:destroy", "BAD NAME"]).0, Some(0));
    assert_eq!((names("env:list --json"), names("platform:list --json")), (vec!["7".to_owned()], vec!["shop".to_owned()]));
    let left: i64 =
        raw.query_row("SELECT (SELECT count(*) FROM sites) + (SELECT count(*) FROM applied)", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}
