//! Several providers in one environment: each machine is where its record says, moves when that changes, and is found wherever
//! something of it is. On two fakes of different names.

use adt::model::response::EnvironmentDetail;
use adt::model::{Event, Failure, Kind, ProviderName, Request, Response};
use adt::providers::fake::Fake;
use adt::providers::{Error, Open, Provider, Registry};

use super::adt::Adt;
use super::fakes::{self, Host, PLATFORM, Process, id};

/// The platform with its web servers on the other provider.
fn web_on_other() -> String {
    PLATFORM.replace("[machines.web]", "[machines.web]\nprovider = \"other\"")
}

fn db_on_other() -> String {
    PLATFORM.replace("[machines.db]", "[machines.db]\nprovider = \"other\"")
}

fn host() -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let host = Host::new(folder.path());
    (folder, host)
}

fn init(on: Option<&str>) -> Request {
    let on = on.map(|name| ProviderName::new(name).unwrap());
    Request::EnvInit { id: id("1161"), sites: Vec::new(), on, shared: false, dry_run: false }
}

fn reload(data: bool) -> Request {
    Request::EnvReload { id: id("1161"), data, dry_run: false }
}

fn snapshot(name: &str) -> Request {
    Request::EnvSnapshot { id: id("1161"), name: Some(name.parse().unwrap()) }
}

fn destroy() -> Request {
    Request::EnvDestroy { id: id("1161"), dry_run: false }
}

/// The names of machines, with their states.
fn on(machines: &Fake) -> String {
    let list = machines.list().unwrap();
    list.into_iter().map(|(id, state)| format!("{} {}", id.machine, state.word())).collect::<Vec<_>>().join(", ")
}

fn shown(process: &Process) -> EnvironmentDetail {
    match process.run(Request::EnvShow { id: id("1161") }).result {
        Ok(Response::Environment(detail)) => *detail,
        other => panic!("{other:?}"),
    }
}

fn refused(process: &Process, request: Request) -> Failure {
    process.run(request).result.expect_err("it is refused")
}

#[test]
fn an_environment_lives_on_two_providers() {
    let (_folder, host) = host();
    host.define(&web_on_other());
    let process = host.process("env:init");
    process.done(init(None));
    assert_eq!((on(&process.machines), on(&process.other)), ("db running".into(), "web1 running, web2 running".into()));
    let places: Vec<_> = shown(&process).machines.iter().map(|one| format!("{} {}", one.name, one.provider)).collect();
    assert_eq!(places, ["db lxc", "web1 other", "web2 other"]);
    let Ok(Response::Environments(list)) = process.run(Request::EnvList { platform: None }).result else { panic!("no list") };
    assert!(list[0].machines.values().all(|state| state == "running"), "{list:?}");

    process.done(Request::EnvHalt { id: id("1161"), dry_run: false });
    assert_eq!((on(&process.machines), on(&process.other)), ("db halted".into(), "web1 halted, web2 halted".into()));
    process.done(Request::EnvUp { id: id("1161"), dry_run: false });
    assert_eq!((on(&process.machines), on(&process.other)), ("db running".into(), "web1 running, web2 running".into()));
    assert!(!process.done(Request::EnvUp { id: id("1161"), dry_run: false }).changed);

    process.done(snapshot("first"));
    process.done(Request::EnvRewind { id: id("1161"), name: Some("first".parse().unwrap()), dry_run: false });
    assert_eq!((on(&process.machines), on(&process.other)), ("db running".into(), "web1 running, web2 running".into()));
    for machines in [&process.machines, &process.other] {
        assert!(machines.snapshots().unwrap().names(&id("1161")).unwrap().contains(&"first".parse().unwrap()));
    }
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_role_moves_and_comes_back_with_a_rewind() {
    let (_folder, host) = host();
    let process = host.process("env:reload");
    process.done(init(None));
    process.done(snapshot("before"));
    host.define(&web_on_other());
    let done = process.done(reload(false));
    assert!(done.summary.contains("web1 made anew, web2 made anew"), "{}", done.summary);
    assert_eq!((on(&process.machines), on(&process.other)), ("db running".into(), "web1 running, web2 running".into()));
    assert!(!process.done(reload(false)).changed);

    // The snapshot has its whole part on the only provider that there was; halted, so that nothing is deleted for running.
    process.done(Request::EnvHalt { id: id("1161"), dry_run: false });
    process.done(Request::EnvRewind { id: id("1161"), name: Some("before".parse().unwrap()), dry_run: false });
    process.done(Request::EnvUp { id: id("1161"), dry_run: false });
    assert_eq!((on(&process.machines), on(&process.other)), ("db running, web1 running, web2 running".into(), String::new()));
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn data_is_not_left_behind_by_a_move() {
    let (_folder, host) = host();
    let process = host.process("env:reload");
    process.done(init(None));
    host.define(&db_on_other());
    let failure = refused(&process, reload(false));
    assert_eq!(failure.kind, Kind::Conflict);
    assert!(failure.sentence.contains("move `db` of `shop/1161` from `lxc` to `other`"), "{failure}");
    assert!(failure.hints[0].contains("leave the role on `lxc`"), "{failure:?}");
    assert!(!process.done(Request::EnvUp { id: id("1161"), dry_run: false }).changed, "nothing moved");

    process.done(reload(true));
    assert_eq!((on(&process.machines), on(&process.other)), ("web1 running, web2 running".into(), "db running".into()));
    let volumes: Vec<_> = shown(&process).volumes.into_iter().map(|volume| (volume.machine.to_string(), volume.used)).collect();
    assert_eq!(volumes, [("db".to_owned(), false), ("db".to_owned(), true)], "the one that nobody uses is told");
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn one_provider_for_all_stays_it() {
    let (_folder, host) = host();
    host.define(&web_on_other());
    let process = host.process("env:init");
    process.done(init(Some("lxc")));
    assert_eq!(on(&process.other), "");
    process.done(reload(false));
    assert_eq!(on(&process.other), "");
    let ran = process.run(init(Some("other")));
    ran.result.unwrap();
    assert!(ran.events.iter().any(|event| matches!(event, Event::Warning { text } if text.contains("stay where they are"))));
    assert_eq!(on(&process.other), "");
    process.done(destroy());
    process.done(init(Some("other")));
    assert_eq!(on(&process.machines), "");
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_move_that_was_cut_off_and_taken_back_leaves_nothing() {
    let (_folder, host) = host();
    let process = host.process("env:reload");
    process.done(init(None));
    host.define(&web_on_other());
    process.other.fail_next("create", "web2");
    refused(&process, reload(false));
    host.define(PLATFORM);
    process.done(reload(false));
    assert_eq!((on(&process.machines), on(&process.other)), ("db running, web1 running, web2 running".into(), String::new()));
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn what_is_on_two_providers_is_removed_from_both() {
    let (_folder, host) = host();
    let process = host.process("env:up");
    process.done(init(None));
    // As after a store that was put back while a machine moved.
    let spec = process.machines.spec(&id("1161").machine(&"web1".parse().unwrap())).unwrap();
    host.define(&web_on_other());
    process.done(reload(false));
    process.machines.create(&spec).unwrap();
    process.done(Request::EnvUp { id: id("1161"), dry_run: false });
    assert_eq!((on(&process.machines), on(&process.other)), ("db running".into(), "web1 running, web2 running".into()));
    process.machines.create(&spec).unwrap();
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn without_a_record_all_are_looked_at() {
    let (_folder, host) = host();
    host.define(&web_on_other());
    let process = host.process("env:destroy");
    process.done(init(None));
    process.done(snapshot("first"));
    process.engine.store.database.forget_environment(&id("1161")).unwrap();
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_provider_that_the_host_lacks_stops_only_who_is_on_it() {
    let (_folder, host) = host();
    let process = host.process("env:init");
    process.done(init(None));
    host.define(&web_on_other());
    process.done(fakes::init("7"));

    let mut process = host.process("env:list");
    let lacking: Open = Box::new(|| Err(Error::HostLacks { what: "the other".into(), hint: "install it".into() }));
    let machines = process.machines.clone();
    let usual: Open = Box::new(move || Ok(Box::new(machines.clone())));
    process.engine.providers = Registry::new([(ProviderName::FIRST, usual), ("other", lacking)]);
    let Ok(Response::Environments(list)) = process.run(Request::EnvList { platform: None }).result else { panic!("no list") };
    let faults: Vec<_> = list.iter().map(|one| (one.name.to_string(), one.fault.clone())).collect();
    let lacks = Some("the other is missing on this host".to_owned());
    assert_eq!(faults, [("1161".to_owned(), None), ("7".to_owned(), lacks)]);
    let halt = |name| Request::EnvHalt { id: id(name), dry_run: false };
    process.done(halt("1161"));
    for request in [halt("7"), Request::EnvDestroy { id: id("7"), dry_run: false }] {
        let failure = refused(&process, request);
        assert!(failure.kind == Kind::Host && failure.hints == ["install it"], "{failure:?}");
    }
    // Nobody knows which layers it holds.
    refused(&process, Request::BoxPrune { dry_run: true });

    let process = host.process("env:destroy");
    for name in ["1161", "7"] {
        process.done(Request::EnvDestroy { id: id(name), dry_run: false });
    }
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_word_that_is_no_provider_is_told_where_it_stands() {
    let adt = Adt::new();
    let host = Host::new(adt.path());
    host.define(&PLATFORM.replace("[machines.db]", "[machines.db]\nprovider = \"othr\""));
    let failure = refused(&host.process("env:init"), init(None));
    let fault = &failure.faults[0];
    assert_eq!(fault.hint.as_deref(), Some("did you mean `other`?"), "{fault:?}");
    let place = fault.place.as_ref().expect("it stands somewhere");
    assert!(place.file.ends_with("platform.toml") && place.line == 10, "{place:?}");

    host.define(PLATFORM);
    let failure = refused(&host.process("env:init"), init(Some("docker")));
    assert_eq!(failure.hints, ["known here: `lxc`, `other`"]);
    assert_eq!(host.leftovers(), Vec::<String>::new());

    adt.run("env:init shop 1161 --on docker").fails(3).says("no provider `docker`").says("known here: `lxc`");
    adt.run("env:init shop 1161 --on no.name").fails(2).says("no.name");
}

/// As adt wrote them before machines had a provider.
#[test]
fn records_without_a_provider_are_taken_over() {
    let (_folder, host) = host();
    host.process("env:init").done(init(None));
    let raw = rusqlite::Connection::open(host.store().join("adt.db")).unwrap();
    for (table, column, key) in [("environments", "definition", "providers"), ("applied", "spec", "provider")] {
        let path = format!("$.{key}");
        let there = format!("SELECT count(*) FROM {table} WHERE json_extract({column}, ?1) IS NOT NULL");
        let count = || raw.query_row(&there, [&path], |row| row.get::<_, u32>(0)).unwrap();
        assert!(count() > 0, "{table} had no `{key}`");
        raw.execute(&format!("UPDATE {table} SET {column} = json_remove({column}, ?1)"), [&path]).unwrap();
        assert_eq!(count(), 0);
    }
    drop(raw);
    let process = host.process("env:reload");
    let done = process.done(reload(false));
    assert!(!done.changed && done.summary.contains("nothing to reload"), "{}", done.summary);
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn the_fake_keeps_the_contract_of_all_providers() {
    let (_folder, host) = host();
    let process = host.process("contract");
    process.done(init(None));
    let spec = process.machines.spec(&id("1161").machine(&"web1".parse().unwrap())).unwrap();
    super::contract::holds(&process.other, &spec);
    process.done(destroy());
    assert_eq!(host.leftovers(), Vec::<String>::new());
}
