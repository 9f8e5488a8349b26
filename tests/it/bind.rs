//! Generated configuration on the servers that it is for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use adt::bind::{self, Bound, Certificate, Error, Facts, Front, Home, Reloaded, Scope, Server};
use adt::model::route::Routes;

use super::front::{Town, dig, expectations, get, id, name_expectations, routes, site};
use super::servers::{Place, installed, until};

fn owner() -> bind::Owner<'static> {
    bind::Owner { install: "test", store: Path::new("/var/lib/adt") }
}

fn none(_: &str) -> Option<Certificate> {
    None
}

fn facts<'a>(routes: &'a Routes, front: &'a Front) -> Facts<'a> {
    Facts { owner: owner(), routes, front, certificate: &none, templates: None, now: 1000 }
}

/// Every file, link and folder with its content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        let content = match std::fs::read_link(entry.path()) {
            Ok(target) => format!("link {}", target.display()),
            Err(_) => std::fs::read_to_string(entry.path()).unwrap_or_default(),
        };
        all.insert(entry.path().strip_prefix(folder).expect("it is below").to_owned(), content);
    }
    all
}

const PROGRAMS: &[(Server, &[&str])] = &[
    (Server::Apache, &["apache2", "apache2ctl"]),
    (Server::Nginx, &["nginx"]),
    (Server::Bind, &["named", "named-checkconf", "named-checkzone", "dig"]),
    (Server::Dnsmasq, &["dnsmasq", "dig"]),
];

fn places() -> impl Iterator<Item = Place> {
    PROGRAMS.iter().filter(|(_, programs)| installed(programs)).map(|(server, _)| Place::new(*server))
}

fn serves_the_town(server: Server) {
    if !PROGRAMS.iter().any(|(one, programs)| *one == server && installed(programs)) {
        return;
    }
    let (town, mut place) = (Town::new(), Place::new(server));
    bind::apply(&place.home, &facts(&town.routes, &place.front), &Scope::All)
        .unwrap_or_else(|error| panic!("{error}: {:#?}", error.tail()));
    place.start();
    expectations(place.address());
    // A change while it runs: 1162 comes up.
    let mut changed = town.routes.clone();
    changed.platforms[0].environments[1].up = true;
    let outcome = bind::apply(&place.home, &facts(&changed, &place.front), &Scope::Again).unwrap();
    assert_eq!(outcome.reloaded, Reloaded::Done);
    assert!(outcome.written.contains(&"conf/1-1162.shop.example.test.conf".to_owned()), "{outcome:?}");
    assert!(!outcome.written.iter().any(|path| path.contains("1161")), "{outcome:?}");
    until("1162 answers", || get(place.address(), "www.1162.shop.example.test", "/").status == 200);
}

#[test]
fn apache_serves_the_town() {
    serves_the_town(Server::Apache);
}

#[test]
fn nginx_serves_the_town() {
    serves_the_town(Server::Nginx);
}

#[test]
fn https_with_given_certificates() {
    for server in [Server::Apache, Server::Nginx] {
        if !installed(PROGRAMS.iter().find(|(one, _)| *one == server).expect("it is listed").1) || !installed(&["curl"]) {
            continue;
        }
        let (mut town, mut place) = (Town::new(), Place::new(server));
        town.routes.platforms[0].environments[0].sites[4].https_only = true;
        let made = rcgen::generate_simple_self_signed(vec!["www.1161.shop.example.test".to_owned()]).unwrap();
        let certificate = Certificate { chain: place.folder.path().join("chain.pem"), key: place.folder.path().join("key.pem") };
        // As long as a public authority's chain: longer than nginx takes as one word.
        std::fs::write(&certificate.chain, made.cert.pem().repeat(10)).unwrap();
        std::fs::write(&certificate.key, made.signing_key.serialize_pem()).unwrap();
        let given = |_: &str| Some(certificate.clone());
        let facts = Facts { certificate: &given, ..facts(&town.routes, &place.front) };
        bind::apply(&place.home, &facts, &Scope::All).unwrap_or_else(|error| panic!("{error}: {:#?}", error.tail()));
        for entry in walkdir::WalkDir::new(place.home.root.join("adt")).into_iter().flatten() {
            use std::os::unix::fs::PermissionsExt;
            let holds_key = std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("PRIVATE KEY"));
            let mode = entry.metadata().unwrap().permissions().mode();
            assert!(!holds_key || mode & 0o077 == 0, "others may read {}", entry.path().display());
        }
        place.start();
        let port = place.front.https;
        for (host, version) in [("www.1161", "--http2"), ("any.www.1161", "--http1.1"), ("grpc.1161", "--http2")] {
            let url = format!("https://{host}.shop.example.test:{port}/");
            let to = format!("::127.0.0.1:{port}");
            let out = Command::new("curl")
                .args(["-sSk", "-w", "%{http_version}", version, "--connect-to", &to, &url])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success() && text.contains("machine "), "{server} {url}: {out:?}");
            assert!(host.starts_with("grpc") || text.contains("proto https\n"), "{server}: {text}");
            assert!(text.ends_with(if version == "--http2" { "2" } else { "1.1" }), "{server}: {text}");
        }
        let moved = get(place.address(), "any.www.1161.shop.example.test", "/a?b=c");
        assert_eq!(moved.status, 308);
        assert_eq!(moved.headers["location"], format!("https://any.www.1161.shop.example.test:{port}/a?b=c"));
    }
}

#[test]
fn names_from_bind_and_dnsmasq() {
    for mut place in places().filter(|place| matches!(place.home.server, Server::Bind | Server::Dnsmasq)) {
        let (town, mut front) = (Town::new(), place.front.clone());
        front.v6 = Some("fd00::7".parse().unwrap());
        bind::apply(&place.home, &facts(&town.routes, &front), &Scope::All)
            .unwrap_or_else(|error| panic!("{error}: {:#?}", error.tail()));
        place.start();
        name_expectations(place.address());
        let mut changed = town.routes.clone();
        drop(changed.platforms[0].environments.pop());
        let outcome = bind::apply(&place.home, &facts(&changed, &front), &Scope::Again).unwrap();
        if place.home.server == Server::Bind {
            assert_eq!(outcome.reloaded, Reloaded::Done);
            assert!(outcome.written.contains(&"zones/example.test.db".to_owned()), "{outcome:?}");
            assert_eq!(outcome.removed, Vec::<String>::new());
            until("1162 is gone", || dig(place.address(), "www.1162.shop.example.test", "A").is_empty());
            assert_eq!(dig(place.address(), "www.1161.shop.example.test", "A"), ["10.9.8.7"]);
        } else {
            assert!(matches!(outcome.reloaded, Reloaded::ByHand(_)), "{outcome:?}");
            assert_eq!(outcome.removed, ["conf/1-1162.shop.example.test.conf"]);
        }
    }
}

#[test]
fn zones_pass_the_checkers_without_a_warning() {
    if !installed(PROGRAMS[2].1) {
        return;
    }
    let (town, place) = (Town::new(), Place::new(Server::Bind));
    bind::apply(&place.home, &facts(&town.routes, &place.front), &Scope::All).unwrap();
    let adt = place.home.root.join("adt");
    let mut seen = 0;
    for entry in std::fs::read_dir(adt.join("zones")).unwrap().flatten() {
        let zone = entry.file_name().to_string_lossy().trim_end_matches(".db").to_owned();
        let out = Command::new("named-checkzone").args(["-i", "local", &zone]).arg(entry.path()).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("zone {zone}/IN: loaded serial 1000\nOK\n"));
        assert!(std::fs::read(entry.path()).unwrap().ends_with(b"\n"));
        seen += 1;
    }
    assert_eq!(seen, 3);
    let out = Command::new("named-checkconf").arg(&place.home.main).output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn serial_numbers_grow_with_the_content_only() {
    if !installed(PROGRAMS[2].1) {
        return;
    }
    let (town, place) = (Town::new(), Place::new(Server::Bind));
    let zone = || std::fs::read_to_string(place.home.root.join("adt/zones/example.test.db")).unwrap();
    let serial = || zone().lines().find(|line| line.contains("SOA")).unwrap().split(' ').nth(5).unwrap().parse::<u32>().unwrap();
    let apply = |routes: &Routes, now| {
        bind::apply(&place.home, &Facts { now, ..facts(routes, &place.front) }, &Scope::All).unwrap();
        serial()
    };
    let mut other = town.routes.clone();
    other.platforms[0].environments[1].sites.clear();
    let mut third = town.routes.clone();
    third.platforms[0].environments[1].machines.clear();
    assert_eq!(apply(&town.routes, 1000), 1000);
    assert_eq!(apply(&town.routes, 2000), 1000);
    assert_eq!(apply(&other, 2000), 2000);
    assert_eq!(apply(&third, 2000), 2001, "twice in a second");
    assert_eq!(apply(&town.routes, 1500), 2002, "the clock went back");
}

#[test]
fn the_second_time_nothing_is_touched_and_unbinding_leaves_nothing() {
    for place in places() {
        let (town, server) = (Town::new(), place.home.server);
        let before = tree(&place.home.root);
        let apply = |scope| bind::apply(&place.home, &facts(&town.routes, &place.front), &scope).unwrap();
        assert_eq!(bind::bound(&place.home).unwrap(), None);
        assert_eq!(apply(Scope::Again).reloaded, Reloaded::Unneeded);
        assert_eq!(tree(&place.home.root), before, "{server}: nothing is bound");
        let outcome = apply(Scope::All);
        assert!(!outcome.written.is_empty() && outcome.reloaded == Reloaded::NotRunning, "{outcome:?}");
        let bound = tree(&place.home.root);
        let again = apply(Scope::All);
        assert!(again.written.is_empty() && again.removed.is_empty() && again.reloaded == Reloaded::Unneeded, "{again:?}");
        assert_eq!(tree(&place.home.root), bound, "{server}");
        // A hand that was in it.
        let main = place.home.root.join("adt/main.conf");
        std::fs::write(&main, "broken").unwrap();
        assert_eq!(apply(Scope::Again).written, ["main.conf"]);
        assert_eq!(tree(&place.home.root), bound, "{server}");
        assert!(!bind::unbind(&place.home, owner()).unwrap().removed.is_empty());
        assert_eq!(tree(&place.home.root), before, "{server}");
        assert_eq!(bind::unbind(&place.home, owner()).unwrap().reloaded, Reloaded::Unneeded, "{server}");
    }
}

#[test]
fn one_environment_at_a_time() {
    for place in places() {
        let town = Town::new();
        let before = tree(&place.home.root);
        let apply = |scope| bind::apply(&place.home, &facts(&town.routes, &place.front), &scope).unwrap();
        apply(Scope::Add(id("1161")));
        let one = tree(&place.home.root);
        assert!(!one.values().any(|text| text.contains("www.1162")), "{}", place.home.server);
        apply(Scope::Add(id("1162")));
        assert_eq!(bind::bound(&place.home).unwrap(), Some(Bound::Only(vec![id("1161"), id("1162")])));
        apply(Scope::Remove(id("1162")));
        let serial = |tree: BTreeMap<PathBuf, String>| -> BTreeMap<PathBuf, String> {
            tree.into_iter().filter(|(path, _)| !path.to_string_lossy().ends_with(".db")).collect()
        };
        assert_eq!(serial(tree(&place.home.root)), serial(one), "{}", place.home.server);
        apply(Scope::Remove(id("1161")));
        assert_eq!(tree(&place.home.root), before, "{}: the last one is gone", place.home.server);
    }
}

#[test]
fn what_the_checker_refuses_replaces_nothing() {
    for place in places() {
        let town = Town::new();
        let (folder, server) = (tempfile::tempdir().unwrap(), place.home.server);
        let name = if server == Server::Bind { "zone.db" } else { "environment.conf" };
        let own = folder.path().join(server.as_str()).join(name);
        std::fs::create_dir(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "no server knows these words\n").unwrap();
        let broken = Facts { templates: Some(folder.path()), ..facts(&town.routes, &place.front) };
        let before = tree(&place.home.root);
        let error = bind::apply(&place.home, &broken, &Scope::All).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{server}: {error}");
        assert!(!error.tail().is_empty(), "{server}");
        assert_eq!(tree(&place.home.root), before, "{server}: it was never there");
        bind::apply(&place.home, &facts(&town.routes, &place.front), &Scope::All).unwrap();
        let good = tree(&place.home.root);
        bind::apply(&place.home, &broken, &Scope::All).unwrap_err();
        assert_eq!(tree(&place.home.root), good, "{server}: the old one stays");
        // A template that lacks a value never gets as far as the checker.
        std::fs::write(&own, "{{ nosuch }}\n").unwrap();
        assert!(matches!(bind::apply(&place.home, &broken, &Scope::All), Err(Error::Template(_))), "{server}");
    }
}

#[test]
fn what_does_not_go_with_the_hosts_own_files_is_swapped_back() {
    for place in places() {
        let town = Town::new();
        bind::apply(&place.home, &facts(&town.routes, &place.front), &Scope::Add(id("1161"))).unwrap();
        match place.home.server {
            Server::Bind => {
                let own = "zone \"example.test\" { type master; file \"/dev/null\"; };\n";
                std::fs::write(&place.home.main, std::fs::read_to_string(&place.home.main).unwrap() + own).unwrap();
            }
            Server::Apache | Server::Nginx | Server::Dnsmasq => {
                let main = std::fs::read_to_string(&place.home.main).unwrap();
                std::fs::write(&place.home.main, main + "nonsense here;\n").unwrap();
            }
        }
        let before = tree(&place.home.root);
        let error = bind::apply(&place.home, &facts(&town.routes, &place.front), &Scope::All).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && !error.tail().is_empty(), "{error}");
        assert_eq!(tree(&place.home.root), before, "{}", place.home.server);
        // And it can still be taken out.
        bind::unbind(&place.home, owner()).unwrap();
        assert!(!place.home.root.join("adt").exists());
    }
}

#[test]
fn a_killed_run_is_made_good() {
    for place in places() {
        let town = Town::new();
        let apply = |scope| bind::apply(&place.home, &facts(&town.routes, &place.front), &scope).unwrap();
        let (adt, staged) = (place.home.root.join("adt"), place.home.root.join(".adt-new"));
        std::fs::create_dir(&staged).unwrap();
        std::fs::write(staged.join("main.conf"), "half").unwrap();
        apply(Scope::All);
        let good = tree(&place.home.root);
        // Killed between the swap and the check.
        std::fs::rename(&adt, &staged).unwrap();
        std::fs::create_dir(&adt).unwrap();
        std::fs::write(adt.join("pending"), "").unwrap();
        std::fs::write(adt.join("main.conf"), "broken").unwrap();
        let outcome = apply(Scope::Again);
        assert_eq!(outcome.reloaded, Reloaded::NotRunning, "the server may have read either");
        assert_eq!(tree(&place.home.root), good, "{}", place.home.server);
        // Killed the first time, with nothing to go back to.
        std::fs::write(adt.join("pending"), "").unwrap();
        apply(Scope::All);
        assert_eq!(tree(&place.home.root), good, "{}", place.home.server);
    }
}

#[test]
fn what_another_installation_wrote_stays() {
    for place in places() {
        let town = Town::new();
        let own = facts(&town.routes, &place.front);
        bind::apply(&place.home, &own, &Scope::All).unwrap();
        let before = tree(&place.home.root);
        let other = bind::Owner { install: "other", store: Path::new("/srv/other") };
        for scope in [Scope::All, Scope::Add(id("1161")), Scope::Remove(id("1161")), Scope::Again] {
            let error = bind::apply(&place.home, &Facts { owner: other, ..own }, &scope).unwrap_err();
            assert!(error.to_string().contains("`/var/lib/adt`"), "{error}");
        }
        assert!(matches!(bind::unbind(&place.home, other), Err(Error::Taken { .. })));
        assert_eq!(tree(&place.home.root), before);
    }
}

#[test]
fn a_folder_that_is_not_adts_is_left_alone() {
    for place in places() {
        std::fs::create_dir(place.home.root.join("adt")).unwrap();
        std::fs::write(place.home.root.join("adt/mine"), "").unwrap();
        let (town, before) = (Town::new(), tree(&place.home.root));
        let error = bind::apply(&place.home, &facts(&town.routes, &place.front), &Scope::All).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert!(matches!(bind::unbind(&place.home, owner()), Err(Error::Foreign { .. })));
        assert_eq!(tree(&place.home.root), before);
    }
}

#[test]
fn hostile_hosts_and_paths_are_refused() {
    let front = Front { v4: [127, 0, 0, 1].into(), v6: None, http: 80, https: 443, listen: Vec::new() };
    for server in Server::ALL {
        let home = Home::debian(server);
        for host in ["a\nListen 81", "www.1161.shop.example.test; }", "\"", "*", "www.1162.shop.example.test", "$(id)", ""] {
            let mut bad = routes(&[("1161", true, vec![site("1161", "www", &[])])]);
            bad.platforms[0].environments[0].sites[0].host = host.to_owned();
            let error = bind::files(&home, &facts(&bad, &front), &|_| None).unwrap_err();
            assert!(matches!(error, Error::Unsafe { .. }), "{server} {host:?}: {error}");
        }
    }
    let good = routes(&[("1161", true, vec![site("1161", "www", &[])])]);
    let given = |_: &str| Some(Certificate { chain: "/a b;".into(), key: "/k".into() });
    let facts = Facts { certificate: &given, ..facts(&good, &front) };
    assert!(matches!(bind::files(&Home::debian(Server::Nginx), &facts, &|_| None), Err(Error::Unsafe { .. })));
}

#[test]
fn the_files_of_a_small_host() {
    let front =
        Front { v4: [192, 0, 2, 1].into(), v6: Some("2001:db8::1".parse().unwrap()), http: 80, https: 443, listen: Vec::new() };
    let backends = ["10.77.0.3:80".parse().unwrap(), "10.77.0.4:80".parse().unwrap()];
    let small = routes(&[("1161", true, vec![site("1161", "www", &backends)]), ("1162", false, Vec::new())]);
    for server in Server::ALL {
        let home = Home::debian(server);
        let make = || bind::files(&home, &facts(&small, &front), &|_| None).unwrap();
        let files = make();
        assert_eq!(files, make(), "the same routes give the same bytes");
        let mut text = String::new();
        for file in files.iter().filter(|file| !file.path.starts_with("pages/")) {
            text += &format!("==> {} {:o}\n{}", file.path, file.mode, String::from_utf8_lossy(&file.bytes));
        }
        insta::assert_snapshot!(server.as_str(), text);
    }
}

#[test]
fn a_tree_to_look_at() {
    for server in Server::ALL {
        let (town, folder) = (Town::new(), tempfile::tempdir().unwrap());
        let front = Front { v4: [127, 0, 0, 1].into(), v6: None, http: 80, https: 443, listen: Vec::new() };
        let write = || bind::output(&Home::debian(server), &facts(&town.routes, &front), folder.path().into()).unwrap();
        let files = write();
        assert!(files.iter().all(|file| file.symlink_metadata().is_ok()), "{files:?}");
        let before = tree(folder.path());
        assert_eq!(write(), files);
        assert_eq!(tree(folder.path()), before);
    }
}

/// `cargo test --release --test it -- --ignored --nocapture thousand`
#[test]
#[ignore = "it measures"]
fn a_thousand_environments() {
    let backends = ["10.77.0.3:80".parse().unwrap(), "10.77.0.4:80".parse().unwrap()];
    let names: Vec<_> = (1000..2000).map(|number| number.to_string()).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), true, vec![site(name, "api", &backends), site(name, "www", &backends)]))
        .collect();
    let many = routes(&all);
    let mut more = many.clone();
    more.platforms[0].environments[7].up = false;
    more.platforms[0].environments[7].machines.clear();
    for place in places() {
        let timed = |what: &str, routes: &Routes| {
            let start = std::time::Instant::now();
            let outcome = bind::apply(&place.home, &facts(routes, &place.front), &Scope::All).unwrap();
            eprintln!(
                "{:8} {what:10} {:4} ms, {} written",
                place.home.server,
                start.elapsed().as_millis(),
                outcome.written.len()
            );
        };
        let start = std::time::Instant::now();
        let count = bind::files(&place.home, &facts(&many, &place.front), &|_| None).unwrap().len();
        eprintln!("{:8} {:10} {:4} ms, {count} files", place.home.server, "generated", start.elapsed().as_millis());
        timed("first", &many);
        timed("unchanged", &many);
        timed("one more", &more);
    }
}
