//! The crash walk: every verb is killed at every point between two changes to the world, and running it again must finish
//! the work, after which a destroy must leave nothing.
//!
//! The kill is a real SIGKILL: this test binary runs itself again with only [`victim`], which kills its own process in the
//! middle of the verb. A panic would run our own `Drop`s (locks are removed, transactions rolled back), which a dead
//! process does not. The fakes keep machines and networks in files, which the next process reads, as it would ask a kernel.
//! Each run of git is such a point, too: a program in its place kills its caller.
//! Points are first recorded in a run to the end, then killed at by name, so that a failure names the place and comes again.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use adt::model::request::{Deploy, SiteWish};
use adt::model::{Action, EnvironmentId, Event, Failure, Kind, Request, Response, SiteName};
use adt::providers::Provider;
use adt::providers::fake::Checkpoint;
use adt::store::Wanted;

use super::fakes::{CLOCK, Host, PLATFORM, Ran, id, init};

/// A verb, from where it starts, and what holds when it is done.
struct Scenario {
    words: &'static str,
    request: Request,
    prepare: fn(&Host),
    goal: &'static [(&'static str, Goal)],
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    /// These machines run, as they are defined now.
    Up(&'static [&'static str]),
    Halted(Wanted),
    Gone,
}

/// What the site `www` is at the end.
#[derive(Debug, Clone, Copy)]
enum Site {
    /// Of its box, or gone.
    NoCode,
    Checkout(&'static str),
    /// All machines serve one and the same of these versions.
    Release(&'static [&'static str]),
    /// The verb fails, and all machines serve what they served before.
    Refused(&'static str),
}

const ALL: &[&str] = &["db", "web1", "web2"];

fn make(host: &Host, name: &str) {
    host.process("env:init").done(init(name));
}

fn made(host: &Host) {
    make(host, "1161");
}

fn two_made(host: &Host) {
    made(host);
    make(host, "7");
}

fn halted(host: &Host) {
    made(host);
    host.process("env:halt").done(Request::EnvHalt { id: id("1161"), dry_run: false });
}

fn cut_off(host: &Host) {
    made(host);
    let process = host.process("power cut");
    process.machines.power_cut();
    process.networks.reboot();
}

/// One is up, one was halted by its user, and then the platform was halted.
fn paused(host: &Host) {
    two_made(host);
    make(host, "8");
    host.process("env:halt").done(Request::EnvHalt { id: id("8"), dry_run: false });
    host.process("platform:halt").done(platform_halt());
}

fn changed(host: &Host, from: &str, to: &str) {
    made(host);
    let text = PLATFORM.replace(from, to);
    assert_ne!(text, PLATFORM);
    host.define(&text);
}

/// The web servers are wanted on another provider than the one that they are on.
fn web_on_other(host: &Host) {
    changed(host, "[machines.web]", "[machines.web]\nprovider = \"other\"");
}

fn made_on_both(host: &Host) {
    host.define(&PLATFORM.replace("[machines.web]", "[machines.web]\nprovider = \"other\""));
    made(host);
}

/// A snapshot, and then the web servers on another provider.
fn moved_after_snapshot(host: &Host) {
    made(host);
    host.process("env:snapshot").done(Request::EnvSnapshot { id: id("1161"), name: Some("first".parse().unwrap()) });
    host.define(&PLATFORM.replace("[machines.web]", "[machines.web]\nprovider = \"other\""));
    host.process("env:reload").done(Request::EnvReload { id: id("1161"), data: false, dry_run: false });
}

fn other_box(host: &Host) {
    made(host);
    std::fs::write(host.shop().join("boxes/web/rootfs.tar"), "another web").unwrap();
    host.build_boxes();
}

fn other_box_of_data(host: &Host) {
    made(host);
    std::fs::write(host.shop().join("boxes/db/rootfs.tar"), "another db").unwrap();
    host.build_boxes();
}

/// A snapshot, and then another box and the seed again.
fn went_on(host: &Host) {
    made(host);
    host.process("env:snapshot").done(Request::EnvSnapshot { id: id("1161"), name: Some("first".parse().unwrap()) });
    std::fs::write(host.shop().join("boxes/db/rootfs.tar"), "another db").unwrap();
    host.build_boxes();
    host.process("env:reload").done(Request::EnvReload { id: id("1161"), data: true, dry_run: false });
}

fn made_from_source(host: &Host) {
    host.define_with_source();
    host.process("env:init").done(init_hotfix());
}

fn made_from_main(host: &Host) {
    host.define_with_source();
    let text = std::fs::read_to_string(host.shop().join("platform.toml")).expect("it was just written");
    host.define(&text.replace("source =", "default_branch = \"main\"\nsource ="));
    made(host);
}

fn without_site(host: &Host) {
    host.process("site:remove").done(site_remove());
}

fn made_from_release(host: &Host) {
    host.define_with_releases();
    host.process("env:init").done(init_hotfix());
}

/// Its newest commit is not deployed yet.
fn behind(host: &Host) {
    made_from_release(host);
    host.commit("two");
}

fn behind_together(host: &Host) {
    host.define_with_releases();
    let text = std::fs::read_to_string(host.shop().join("platform.toml")).expect("it was just written");
    host.define(&text.replace("keep =", "rollout = \"together\"\nkeep ="));
    host.process("env:init").done(init_hotfix());
    host.commit("two");
}

/// Its newest commit is one whose services do not take it.
fn behind_a_bad_one(host: &Host) {
    made_from_release(host);
    std::fs::write(host.origin().join("deploy/postdeploy"), "#!/bin/sh\ncp version ../.running\nexit 1\n")
        .expect("the folder is ours");
    host.commit("bad");
}

fn deployed_twice(host: &Host) {
    behind(host);
    host.process("site:deploy").done(deploy());
}

fn deploy() -> Request {
    Request::SiteDeploy { id: id("1161"), site: www(), what: Deploy::default(), dry_run: false }
}

fn site_remove() -> Request {
    Request::SiteRemove { id: id("1161"), site: www(), dry_run: false }
}

fn www() -> SiteName {
    "www".parse().expect("it is a label")
}

/// Its repository was fetched before, as it mostly is.
fn source_known(host: &Host) {
    made_from_source(host);
    host.process("env:destroy").done(Request::EnvDestroy { id: id("1161"), dry_run: false });
}

fn init_hotfix() -> Request {
    Request::EnvInit { id: id("1161"), sites: vec![www_hotfix()], on: None, shared: false, dry_run: false }
}

fn www_hotfix() -> SiteWish {
    SiteWish { site: www(), branch: Some("hotfix".parse().expect("it is a branch")) }
}

/// One file comes, one changes, one goes.
fn other_files(host: &Host) {
    let folder = host.shop().join("files/web/etc");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("the folder is ours");
    write("changes.j2", "{{ machine.name }}");
    write("goes", "");
    made(host);
    write("changes.j2", "{{ machine.v4 }} {{ secret('x') }}");
    write("comes", "");
    std::fs::remove_file(folder.join("goes")).expect("it was written above");
}

fn platform_halt() -> Request {
    Request::PlatformHalt { platform: "shop".parse().unwrap(), environments: Vec::new(), dry_run: false }
}

fn scenarios() -> Vec<(&'static str, Scenario)> {
    let id = || id("1161");
    let shop = || "shop".parse().unwrap();
    let reload = |prepare, machines: &'static [(&'static str, Goal)]| Scenario {
        words: "env:reload shop 1161",
        request: Request::EnvReload { id: id(), data: false, dry_run: false },
        prepare,
        goal: machines,
    };
    let up = |prepare| Scenario {
        words: "env:up shop 1161",
        request: Request::EnvUp { id: id(), dry_run: false },
        prepare,
        goal: &[("1161", Goal::Up(ALL))],
    };
    vec![
        (
            "init",
            Scenario { words: "env:init shop 1161", request: init("1161"), prepare: |_| {}, goal: &[("1161", Goal::Up(ALL))] },
        ),
        ("up-halted", up(halted)),
        ("up-after-power-cut", up(cut_off)),
        (
            "halt",
            Scenario {
                words: "env:halt shop 1161",
                request: Request::EnvHalt { id: id(), dry_run: false },
                prepare: made,
                goal: &[("1161", Goal::Halted(Wanted::Halted))],
            },
        ),
        (
            "reload-data",
            Scenario {
                words: "env:reload shop 1161 --data",
                request: Request::EnvReload { id: id(), data: true, dry_run: false },
                prepare: made,
                goal: &[("1161", Goal::Up(ALL))],
            },
        ),
        ("reload-limits", reload(|host| changed(host, "64M", "96M"), &[("1161", Goal::Up(ALL))])),
        (
            "reload-more",
            reload(|host| changed(host, "count = 2", "count = 3"), &[("1161", Goal::Up(&["db", "web1", "web2", "web3"]))]),
        ),
        ("reload-fewer", reload(|host| changed(host, "count = 2", "count = 1"), &[("1161", Goal::Up(&["db", "web1"]))])),
        (
            "reload-hosts",
            reload(
                |host| changed(host, "on = \"web\"", "on = \"web\"\naliases = [\"www.shop.com\"]"),
                &[("1161", Goal::Up(ALL))],
            ),
        ),
        ("reload-provider", reload(web_on_other, &[("1161", Goal::Up(ALL))])),
        (
            "snapshot-of-two-providers",
            Scenario {
                words: "env:snapshot shop 1161",
                request: Request::EnvSnapshot { id: id(), name: None },
                prepare: made_on_both,
                goal: &[("1161", Goal::Up(ALL))],
            },
        ),
        (
            "rewind-to-another-provider",
            Scenario {
                words: "env:rewind shop 1161 first",
                request: Request::EnvRewind { id: id(), name: Some("first".parse().unwrap()), dry_run: false },
                prepare: moved_after_snapshot,
                goal: &[("1161", Goal::Up(ALL))],
            },
        ),
        (
            "destroy-on-two-providers",
            Scenario {
                words: "env:destroy shop 1161",
                request: Request::EnvDestroy { id: id(), dry_run: false },
                prepare: made_on_both,
                goal: &[("1161", Goal::Gone)],
            },
        ),
        ("reload-box", reload(other_box, &[("1161", Goal::Up(ALL))])),
        ("reload-files", reload(other_files, &[("1161", Goal::Up(ALL))])),
        ("reload-box-of-data", reload(other_box_of_data, &[("1161", Goal::Up(ALL))])),
        (
            "snapshot",
            Scenario {
                words: "env:snapshot shop 1161",
                request: Request::EnvSnapshot { id: id(), name: None },
                prepare: made,
                goal: &[("1161", Goal::Up(ALL))],
            },
        ),
        (
            "rewind",
            Scenario {
                words: "env:rewind shop 1161 first",
                request: Request::EnvRewind { id: id(), name: Some("first".parse().unwrap()), dry_run: false },
                prepare: went_on,
                goal: &[("1161", Goal::Up(ALL))],
            },
        ),
        (
            "destroy",
            Scenario {
                words: "env:destroy shop 1161",
                request: Request::EnvDestroy { id: id(), dry_run: false },
                prepare: made,
                goal: &[("1161", Goal::Gone)],
            },
        ),
        (
            "platform-up",
            Scenario {
                words: "platform:up shop",
                request: Request::PlatformUp { platform: shop(), environments: Vec::new(), dry_run: false },
                prepare: paused,
                goal: &[("1161", Goal::Up(ALL)), ("7", Goal::Up(ALL)), ("8", Goal::Halted(Wanted::Halted))],
            },
        ),
        (
            "platform-halt",
            Scenario {
                words: "platform:halt shop",
                request: platform_halt(),
                prepare: two_made,
                goal: &[("1161", Goal::Halted(Wanted::Paused)), ("7", Goal::Halted(Wanted::Paused))],
            },
        ),
        (
            "platform-destroy",
            Scenario {
                words: "platform:destroy shop",
                request: Request::PlatformDestroy { platform: shop(), environments: Vec::new(), dry_run: false },
                prepare: two_made,
                goal: &[("1161", Goal::Gone), ("7", Goal::Gone)],
            },
        ),
    ]
}

/// Those with a site from a repository: each run calls git many times, so they are only walked.
fn with_sources() -> Vec<(&'static str, Scenario, Site)> {
    let up: &[_] = &[("1161", Goal::Up(ALL))];
    let verb = |words, request, prepare| Scenario { words, request, prepare, goal: up };
    let init = |prepare| verb("env:init shop 1161 www:hotfix", init_hotfix(), prepare);
    let deploy = |prepare| verb("site:deploy shop 1161 www", deploy(), prepare);
    let remove = |prepare| verb("site:remove shop 1161 www", site_remove(), prepare);
    let add = |prepare| {
        let request = Request::SiteAdd { id: id("1161"), site: www_hotfix(), dry_run: false };
        verb("site:add shop 1161 www:hotfix", request, prepare)
    };
    let branch = Request::SiteBranch { id: id("1161"), site: www(), branch: "hotfix".parse().unwrap(), dry_run: false };
    let rollback = Request::SiteRollback { id: id("1161"), site: www(), to: None, dry_run: false };
    let destroy = |prepare| Scenario {
        words: "env:destroy shop 1161",
        request: Request::EnvDestroy { id: id("1161"), dry_run: false },
        prepare,
        goal: &[("1161", Goal::Gone)],
    };
    vec![
        ("init-sources", init(source_known), Site::Checkout("one")),
        ("init-releases", init(Host::define_with_releases), Site::Release(&["one"])),
        (
            "site-add",
            add(|host| {
                made_from_source(host);
                without_site(host);
            }),
            Site::Checkout("one"),
        ),
        (
            "site-add-release",
            add(|host| {
                made_from_release(host);
                without_site(host);
            }),
            Site::Release(&["one"]),
        ),
        ("site-remove", remove(made_from_source), Site::NoCode),
        // What was deployed stays on the machines.
        ("site-remove-release", remove(made_from_release), Site::Release(&["one"])),
        ("site-branch", verb("site:branch shop 1161 www hotfix", branch, made_from_main), Site::Checkout("one")),
        ("deploy", deploy(behind), Site::Release(&["two"])),
        ("deploy-together", deploy(behind_together), Site::Release(&["two"])),
        ("deploy-bad", deploy(behind_a_bad_one), Site::Refused("one")),
        // Given again after it was done it leads to the other of the two.
        ("rollback", verb("site:rollback shop 1161 www", rollback, deployed_twice), Site::Release(&["one", "two"])),
        ("destroy-sources", destroy(made_from_source), Site::NoCode),
        ("destroy-releases", destroy(made_from_release), Site::NoCode),
    ]
}

fn scenario(name: &str) -> (Scenario, Site) {
    let plain = scenarios().into_iter().map(|(known, scenario)| (known, scenario, Site::NoCode));
    let known = plain.chain(with_sources()).find(|(known, _, _)| *known == name);
    known.map(|(_, scenario, site)| (scenario, site)).expect("a test names a known one")
}

/// A scenario's starting point, to which each kill goes back.
struct Walk {
    scenario: Scenario,
    site: Site,
    host: Host,
    start: BTreeMap<&'static str, Vec<u8>>,
    _home: tempfile::TempDir,
}

impl Walk {
    fn new(name: &str) -> Self {
        // Each case writes and syncs a small database many times; what is tested is order, not the disk.
        let memory = std::path::Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let home = tempfile::Builder::new().prefix("adt-crash-").tempdir_in(place).expect("a folder for the test");
        let (scenario, site) = scenario(name);
        let host = Host::new(home.path());
        (scenario.prepare)(&host);
        let start = host.save();
        let programs = host.folder.join("bin");
        std::fs::create_dir(&programs).expect("the folder is ours");
        std::fs::write(programs.join("git"), GIT).expect("the folder is ours");
        std::fs::set_permissions(programs.join("git"), PermissionsExt::from_mode(0o755)).expect("it is ours");
        Self { scenario, site, host, start, _home: home }
    }

    /// With the git that kills its caller before the real one.
    fn programs(&self) -> std::ffi::OsString {
        let others = std::env::var_os("PATH").expect("a test has a path");
        let all = std::iter::once(self.host.folder.join("bin")).chain(std::env::split_paths(&others));
        std::env::join_paths(all).expect("none has a colon")
    }

    /// Runs the verb in a process of its own that dies at `at`; true if it came there.
    fn kill(&self, at: &str) -> bool {
        for file in ["points", "git-points"] {
            std::fs::write(self.host.folder.join(file), "").expect("the folder is ours");
        }
        let output = Command::new(std::env::current_exe().expect("a test has a program"))
            .args(["crash::victim", "--exact", "--ignored", "--nocapture"])
            .env("ADT_VICTIM", &self.host.folder)
            .env("ADT_VICTIM_WORDS", self.scenario.words)
            .env("ADT_VICTIM_REQUEST", serde_json::to_string(&self.scenario.request).expect("requests are plain data"))
            .env("ADT_VICTIM_AT", at)
            .env("PATH", self.programs())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let killed = output.status.signal() == Some(9);
        let told = || String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // A child that it was about to become had its descriptors, and so its locks, a moment longer.
        let held = || self.host.locks().iter().any(|lock| adt::store::lock::held::<serde_json::Value>(lock).is_some());
        super::servers::until("the killed process's locks are free", || !held());
        let fails = matches!(self.site, Site::Refused(_));
        assert!(killed || output.status.success() != fails, "{at}: {}", told());
        killed
    }

    /// Every point of a run to the end.
    fn points(&self) -> Vec<String> {
        assert!(!self.kill(""));
        let read = |name: &str| std::fs::read_to_string(self.host.folder.join(name)).expect("the victim wrote it");
        let text = read("points") + "\n" + &read("git-points");
        self.host.restore(&self.start);
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What the site is on its machines and in its checkout; whatever is there is whole.
    fn versions(&self) -> Vec<String> {
        let process = self.host.process("look");
        let roots = ["web1", "web2"].map(|name| process.root(name));
        let folders = roots.iter().map(|root| root.join("srv/www")).chain([self.host.shop().join("1161/www")]);
        folders.filter_map(|folder| self.host.version(&folder)).collect()
    }

    /// All machines serve the same version, and it is also the one that their services were told of last.
    fn serve(&self, allowed: &[&str], after: &str) {
        let versions = self.versions();
        assert!(versions.len() == 2 && versions[0] == versions[1], "after {after} they serve {versions:?}");
        assert!(allowed.contains(&&*versions[0]), "after {after} they serve {versions:?}");
        let process = self.host.process("look");
        for name in ["web1", "web2"] {
            let running =
                std::fs::read_to_string(process.root(name).join("srv/www.releases/.running")).expect("postdeploy wrote it");
            assert_eq!(running, versions[0], "after {after} the services of {name} run another version than it serves");
        }
    }

    /// Whether the environment is there at any time of the verb, as the same machines.
    fn goes_on_with_up(&self) -> bool {
        use Request::{EnvReload, EnvRewind, EnvSnapshot, SiteBranch, SiteDeploy, SiteRollback};
        let request = &self.scenario.request;
        matches!(
            request,
            EnvReload { data: true, .. }
                | EnvSnapshot { .. }
                | EnvRewind { .. }
                | SiteBranch { .. }
                | SiteDeploy { .. }
                | SiteRollback { .. }
        )
    }

    /// Where nobody gives the verb again, an `env:up` leads forth or back, and says which.
    fn is_sound_with_up_alone(&self, after: &str) {
        let process = self.host.process("env:up shop 1161");
        let seeded = || process.machines.spec(&id("1161").machine(&"db".parse().unwrap())).map(|spec| spec.seeded);
        let before = seeded();
        let ran = process.run(Request::EnvUp { id: id("1161"), dry_run: false });
        let after = format!("{after} and an env:up");
        if let Err(failure) = ran.result {
            panic!("after {after}: {failure}");
        }
        let told = ran.events.iter().any(|event| matches!(event, Event::Note { text } if text.contains("env:reload --data")));
        // Nothing goes untold. Of a machine that was made anew just before the kill it is told once more: until that is on
        // record, nobody knows that it is done.
        let unrecorded = after.contains("create db") || after.contains("delete db");
        // A rewind brings the number back without a way to the seed.
        let rewinds = matches!(self.scenario.request, Request::EnvRewind { .. });
        assert!(rewinds || told == (before != seeded()) || told && unrecorded, "after {after}: {:?}", ran.events);
        drop(process);
        self.holds(&id("1161"), Goal::Up(ALL), &after);
        match self.site {
            Site::Release(["two"]) => self.serve(&["one", "two"], &after),
            Site::Release(allowed) => self.serve(allowed, &after),
            Site::Refused(old) => self.serve(&[old], &after),
            Site::NoCode | Site::Checkout(_) => {}
        }
    }

    /// Runs the verb again: it must reach its goal, then find nothing to do, then leave nothing when all is destroyed.
    fn converges(&self, after: &str) {
        self.reaches_its_goal(after);
        self.is_done(after);
        self.destroy_all(after);
    }

    fn reaches_its_goal(&self, after: &str) {
        let first = self.run();
        match (&first.result, self.site) {
            (Ok(_), Site::NoCode | Site::Checkout(_) | Site::Release(_)) | (Err(_), Site::Refused(_)) => {}
            (result, _) => panic!("after {after}: {result:?}"),
        }
        let waited = first.events.iter().find(|event| matches!(event, Event::Waiting { .. }));
        assert_eq!(waited, None, "after {after} a dead process still holds its lock");
        for (name, goal) in self.scenario.goal {
            self.holds(&id(name), *goal, after);
        }
        assert_eq!(self.host.locks(), Vec::<std::path::PathBuf>::new(), "after {after}");
        match self.site {
            Site::NoCode => assert_eq!(self.versions(), Vec::<String>::new(), "after {after}"),
            Site::Checkout(version) => assert_eq!(self.versions(), [version], "after {after}"),
            Site::Release(allowed) => self.serve(allowed, after),
            Site::Refused(old) => self.serve(&[old], after),
        }
    }

    fn run(&self) -> Ran {
        self.host.process(self.scenario.words).run(self.scenario.request.clone())
    }

    fn is_done(&self, after: &str) {
        // Going back to the seed or to the release before is done as often as it is asked for.
        let repeats = matches!(
            self.scenario.request,
            Request::EnvReload { data: true, .. }
                | Request::EnvSnapshot { .. }
                | Request::EnvRewind { .. }
                | Request::SiteRollback { .. }
        );
        match self.run().result {
            Err(_) if matches!(self.site, Site::Refused(_)) => {}
            Ok(Response::Done(done)) => assert!(done.changed == repeats, "after {after} and a run: {}", done.summary),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => panic!("after {after} and a run, again: {failure}"),
        }
    }

    fn holds(&self, id: &EnvironmentId, goal: Goal, after: &str) {
        let process = self.host.process("look");
        let row = process.engine.store.database.environment(id).expect("the store is sound");
        for code in process.engine.store.database.site_codes(Some(id)).expect("the store is sound").into_values() {
            let known = |branch: &str| branch == "hotfix" || matches!(self.scenario.request, Request::SiteBranch { .. });
            assert!(code.values().all(|code| known(&code.branch)), "after {after} the chosen branch is forgotten");
        }
        let machines = self.host.machines(id);
        let (wanted, network, word) = match goal {
            Goal::Up(names) => {
                assert_eq!(machines.keys().collect::<Vec<_>>(), names, "after {after}");
                let plan = process.done(Request::EnvUp { id: id.clone(), dry_run: true }).plan.expect("a dry run has a plan");
                assert!(plan.is_empty(), "after {after} `env:up` would {plan:?}");
                (Some(Wanted::Up), true, "running")
            }
            Goal::Halted(wanted) => (Some(wanted), false, "halted"),
            Goal::Gone => (None, false, "gone"),
        };
        assert_eq!(row.map(|row| row.wanted), wanted, "after {after}");
        assert!(machines.values().all(|state| *state == word), "after {after}: {machines:?}");
        let tag = adt::model::Tag::of(process.engine.store.install(), id);
        let seen = adt::network::Network::seen(&process.networks, &tag, None).unwrap();
        assert_eq!((seen.complete(), seen.nothing()), (network, !network), "after {after}");
    }

    fn destroy_all(&self, after: &str) {
        let process = self.host.process("env:destroy");
        for environment in process.engine.store.database.environments(None).expect("the store is sound") {
            process.done(Request::EnvDestroy { id: environment.id, dry_run: false });
        }
        drop(process);
        assert_eq!(self.host.leftovers(), Vec::<String>::new(), "after {after} and a destroy");
    }
}

/// Not a test: the process that a walk kills.
#[test]
#[ignore = "the crash walk starts it by itself"]
fn victim() {
    let Some(folder) = std::env::var_os("ADT_VICTIM") else { return };
    let host = Host { folder: folder.into() };
    let var = |name: &str| std::env::var(name).expect("the walk sets it");
    let at = var("ADT_VICTIM_AT");
    let request: Request = serde_json::from_str(&var("ADT_VICTIM_REQUEST")).expect("the walk wrote it");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let points = Arc::clone(&seen);
    let point: Checkpoint = Arc::new(move |name: &str| {
        let mut points = points.lock().expect("nobody panics here");
        let count = points.iter().filter(|point| point.rsplit_once('#').is_some_and(|(known, _)| known == name)).count();
        let point = format!("{name}#{count}");
        if point == at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).expect("it is ourselves");
            loop {
                std::thread::park();
            }
        }
        points.push(point);
    });
    let process = host.watched(&var("ADT_VICTIM_WORDS"), Some(Arc::clone(&point)));
    assert!(CLOCK.set(point).is_ok());
    std::fs::write(host.folder.join("pid"), std::process::id().to_string()).unwrap();
    let result = process.run(request).result;
    std::fs::write(host.folder.join("points"), seen.lock().unwrap().join("\n")).unwrap();
    result.unwrap();
}

/// Stands before the real git; it kills the process that is walked.
const GIT: &str = r#"#!/bin/sh
points=$ADT_VICTIM/git-points
name="git#$(grep -c . "$points")"
if [ "$name" = "$ADT_VICTIM_AT" ]; then
    kill -KILL "$(cat "$ADT_VICTIM/pid")"
    exit 1
fi
echo "$name" >> "$points"
PATH=${PATH#*:}
exec git "$@""#;

fn walk(name: &str) {
    let walk = Walk::new(name);
    let points = walk.points();
    assert!(points.len() >= 10, "{name} has only {points:?}");
    // `deploy` is killed everywhere; what only does the same in another order is killed at every second point.
    let step = if ["deploy-together", "deploy-bad", "init-releases"].contains(&name) { 2 } else { 1 };
    for (number, point) in points.iter().step_by(step).enumerate() {
        walk.host.restore(&walk.start);
        assert!(walk.kill(point), "{name} is not killed at `{point}`");
        let mut after = format!("a kill of {name} at `{point}`");
        // A sample of second kills, spread over the verb.
        if number % 4 == 1 {
            let second = &points[(number * 7 + 3) % points.len()];
            walk.kill(second);
            after.push_str(&format!(" and at `{second}`"));
        }
        // What is served is whole at any time.
        walk.versions();
        if number % 2 == 0 && walk.goes_on_with_up() {
            walk.is_sound_with_up_alone(&after);
            after.push_str(" and an env:up");
        }
        // Each run of a site's verb starts many programs, so a sample of the kills must do for what comes behind the goal.
        if number % 3 == 0 || matches!(walk.site, Site::NoCode) {
            walk.converges(&after);
        } else {
            walk.reaches_its_goal(&after);
        }
    }
}

macro_rules! walks {
    ($($test:ident $name:literal)*) => { $(
        #[test]
        fn $test() {
            walk($name);
        }
    )* };
}

walks! {
    init_survives "init"
    up_of_halted_survives "up-halted"
    up_after_a_power_cut_survives "up-after-power-cut"
    halt_survives "halt"
    reload_of_limits_survives "reload-limits"
    reload_to_more_machines_survives "reload-more"
    reload_to_fewer_machines_survives "reload-fewer"
    reload_of_hosts_survives "reload-hosts"
    reload_to_another_box_survives "reload-box"
    reload_of_files_survives "reload-files"
    destroy_survives "destroy"
    platform_up_survives "platform-up"
    platform_halt_survives "platform-halt"
    platform_destroy_survives "platform-destroy"
    init_with_sources_survives "init-sources"
    removal_of_a_site_survives "site-remove"
    destroy_with_checkouts_survives "destroy-sources"
    destroy_with_releases_survives "destroy-releases"
    init_with_releases_survives "init-releases"
    addition_of_a_site_survives "site-add"
    addition_of_a_site_with_releases_survives "site-add-release"
    removal_of_a_site_with_releases_survives "site-remove-release"
    another_branch_survives "site-branch"
    deploy_survives "deploy"
    deploy_on_all_machines_together_survives "deploy-together"
    deploy_that_is_taken_back_survives "deploy-bad"
    rollback_survives "rollback"
    reload_to_the_seed_survives "reload-data"
    reload_to_another_box_of_data_survives "reload-box-of-data"
    snapshot_survives "snapshot"
    rewind_survives "rewind"
}

fn told(failure: &Failure) -> (String, Vec<String>) {
    let mut hints = failure.hints.clone();
    for part in &failure.parts {
        hints.extend(told(part).1);
    }
    (failure.to_string(), hints)
}

/// Calls that fail, in place of processes that die.
#[test]
fn a_call_that_fails_is_named_and_the_verb_goes_on_later() {
    let mut failed = 0;
    for (name, _) in scenarios() {
        let walk = Walk::new(name);
        let calls =
            ["create", "start", "stop", "delete"].into_iter().flat_map(|verb| ALL.iter().map(move |machine| (verb, *machine)));
        let network =
            ["connect:bridge", "open:firewall", "disconnect:bridge", "disconnect:firewall"].map(|what| (what, "network"));
        for (verb, subject) in calls.chain(network) {
            walk.host.restore(&walk.start);
            let process = walk.host.process(walk.scenario.words);
            match subject {
                "network" => process.networks.fail_next(verb),
                machine => process.machines.fail_next(verb, machine),
            }
            let Err(failure) = process.run(walk.scenario.request.clone()).result else { continue };
            drop(process);
            failed += 1;
            let after = format!("a failing {verb} of {subject} in {name}");
            let (text, _) = told(&failure);
            assert!(text.contains(subject), "{after} says `{text}`");
            assert_ne!(failure.kind, Kind::Internal, "{after} says `{text}`");
            walk.converges(&after);
        }
    }
    assert!(failed > 60, "only {failed} calls failed");
}

#[test]
fn where_one_machine_fails_the_others_go_on() {
    let walk = Walk::new("init");
    let process = walk.host.process(walk.scenario.words);
    process.machines.fail_next("start", "web1");
    let failure = process.run(walk.scenario.request.clone()).result.unwrap_err();
    assert!(failure.to_string().contains("shop/1161/web1"), "{failure}");
    let states = process.machines.list().unwrap().into_iter().map(|(id, state)| format!("{} {}", id.machine, state.word()));
    assert_eq!(states.collect::<Vec<_>>(), ["db running", "web1 halted", "web2 running"]);
}

#[test]
fn where_the_network_stays_closed_nobody_waits_for_an_answer() {
    let walk = Walk::new("init");
    let process = walk.host.process(walk.scenario.words);
    process.networks.fail_next("open:firewall");
    let ran = process.run(walk.scenario.request.clone());
    let failure = ran.result.unwrap_err();
    assert!(failure.parts.is_empty() && failure.to_string().contains("open:firewall"), "{failure}");
    let waited = |event: &Event| matches!(event, Event::StepStarted { step } if matches!(step.action, Action::Await { .. }));
    assert!(!ran.events.iter().any(waited), "{:?}", ran.events);
    drop(process);
    walk.converges("a network that stayed closed");
}

/// Ctrl-C at every point: the step is finished, the rest is not begun, and the hint names the command that goes on.
#[test]
fn a_cancelled_verb_says_how_to_go_on() {
    for (name, _) in scenarios() {
        let walk = Walk::new(name);
        let points = walk.points();
        let mut cancelled = 0;
        // Every second one: what a step does is not cut in two by a flag, and the kills go everywhere.
        for at in points.iter().filter(|point| !point.starts_with("clock")).step_by(2) {
            walk.host.restore(&walk.start);
            let flag: Arc<Mutex<Option<Arc<std::sync::atomic::AtomicBool>>>> = Arc::default();
            let (setting, seen, wanted) = (Arc::clone(&flag), Mutex::new(Vec::<String>::new()), at.clone());
            let point: Checkpoint = Arc::new(move |name: &str| {
                let mut seen = seen.lock().unwrap();
                let count = seen.iter().filter(|known| *known == name).count();
                seen.push(name.to_owned());
                if format!("{name}#{count}") == wanted {
                    setting.lock().unwrap().as_ref().expect("set before the run").store(true, Ordering::Relaxed);
                }
            });
            let process = walk.host.watched(walk.scenario.words, Some(point));
            *flag.lock().unwrap() = Some(Arc::clone(&process.engine.cancel));
            let result = process.run(walk.scenario.request.clone()).result;
            drop(process);
            let after = format!("a Ctrl-C in {name} at `{at}`");
            if let Err(failure) = result {
                cancelled += 1;
                assert_eq!(failure.kind, Kind::Cancelled, "{after}: {failure}");
                let command = format!("`adt {}`", walk.scenario.words);
                let (_, hints) = told(&failure);
                assert!(hints.iter().any(|hint| hint.contains(&command)), "{after}: no hint names {command}: {hints:?}");
            }
            assert_eq!(walk.host.locks(), Vec::<std::path::PathBuf>::new(), "{after}");
            walk.converges(&after);
        }
        assert!(cancelled > 0, "{name} was never cancelled");
    }
}
