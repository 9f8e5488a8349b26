//! Whole builds on the fake workshop. The base is a layer made by hand; real ones are in `tests/boxes.rs`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::catalogue::tests::{parse, recipe};
use super::fake::FakeWorkshop;
use super::layer::tests::layer;
use super::schedule::{self, Options, Outcome};
use super::{Catalogue, Context, Error, Layers, Resolved, prune};
use crate::exec::Command;
use crate::model::topology::{DataEngine, Server, Sql};
use crate::model::{BoxName, BoxRef, BuildStep, Digest, Event, Parent, Recipe};

struct Site {
    folder: tempfile::TempDir,
    workshop: FakeWorkshop,
    events: Mutex<Vec<Event>>,
    cancel: AtomicBool,
}

impl Site {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            workshop: FakeWorkshop::default(),
            events: Mutex::default(),
            cancel: AtomicBool::new(false),
        }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn layers(&self) -> Layers {
        Layers::open(&self.store()).unwrap()
    }

    /// The chain of a recipe whose base is in the store already.
    fn chain(&self, recipe: Recipe) -> Vec<Resolved> {
        let boxes = self.folder.path().join("boxes");
        super::catalogue::tests::write(&boxes, "debian", "bookworm");
        let chain = Catalogue::of_folders(vec![boxes], &parse).resolve_recipe(recipe).unwrap();
        let layers = self.layers();
        if !layers.has(&chain[0].digest) {
            let draft = layers
                .begin(&chain[0].digest, layers.lock(&chain[0].digest, None, &AtomicBool::new(false), &|| {}).unwrap())
                .unwrap();
            std::fs::create_dir(draft.rootfs()).unwrap();
            draft.finish(super::Layer { digest: chain[0].digest.clone(), ..layer(1, None) }).unwrap();
        }
        chain
    }

    fn run(&self, boxes: &[Resolved], force: &[&str], in_use: &[&Digest]) -> Vec<Outcome> {
        let force: BTreeSet<_> = force.iter().map(|name| BoxName::new(*name).unwrap()).collect();
        let in_use: BTreeSet<_> = in_use.iter().map(|digest| (*digest).clone()).collect();
        let options = Options { jobs: NonZeroUsize::new(2).unwrap(), force: &force, in_use: &in_use };
        let context = Context {
            store: &self.store(),
            workshop: &self.workshop,
            render: &|text, _, vars| Ok(text.replace("{{ a }}", vars.get("a").map_or("", |value| value))),
            boot_deadline: Duration::from_millis(120),
            emit: &|event| self.events.lock().unwrap().push(event),
            cancel: &self.cancel,
        };
        schedule::run(context, boxes, &options).unwrap()
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.workshop.open.load(Ordering::SeqCst), 0);
        assert_eq!(self.layers().halves().unwrap(), Vec::<PathBuf>::new());
        let names = std::fs::read_dir(self.store().join("layers")).unwrap();
        assert!(names.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
    }
}

fn on(name: &str, parent: &str) -> Recipe {
    recipe(name, Parent::Box(BoxRef::new(BoxName::new(parent).unwrap())))
}

fn whole(folder: &Path) -> Recipe {
    std::fs::create_dir_all(folder.join("tree/etc")).unwrap();
    std::fs::write(folder.join("tree/etc/motd.j2"), "{{ a }}").unwrap();
    std::fs::write(folder.join("setup.sh"), "#!/bin/sh\n").unwrap();
    Recipe {
        packages: vec!["nginx".into()],
        services: vec!["nginx".into()],
        mask: vec!["getty@.service".into()],
        vars: [("a".to_owned(), "b".to_owned())].into(),
        steps: vec![BuildStep::Files("tree".into()), BuildStep::Script("setup.sh".into())],
        folder: folder.to_owned(),
        ..on("web", "debian")
    }
}

#[test]
fn a_layer_holds_the_files_that_it_is_named_by() {
    let sql = DataEngine::Sql(Sql { server: Server::Mariadb, database: "shop".into(), user: "shop".into() });
    let files = DataEngine::Files { target: "/srv/files".into(), user: None };
    let seed = |path: &str, engine: &DataEngine| BuildStep::Seed { path: path.into(), engine: engine.clone() };
    let cases = [
        (BuildStep::Files("tree".into()), "tree/etc/motd.j2"),
        (BuildStep::Files("tree".into()), "tree/plain"),
        (BuildStep::Script("setup.sh".into()), "setup.sh"),
        (BuildStep::Ansible("tree".into()), "tree/plain"),
        (seed("dump.sql", &sql), "dump.sql"),
        (seed("dump.sql.gz", &sql), "dump.sql.gz"),
        (seed("tree", &files), "tree/plain"),
    ];
    for (step, changed) in cases {
        let (site, folder) = (Site::new(), tempfile::tempdir().unwrap());
        let mut recipe = whole(folder.path());
        for (name, text) in [("tree/plain", "honest"), ("dump.sql", "SELECT 1;\n")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let packed = Command::new("gzip").args(["-c"]).arg(folder.path().join("dump.sql")).run().unwrap().stdout;
        std::fs::write(folder.path().join("dump.sql.gz"), packed).unwrap();
        recipe.steps = vec![step.clone()];
        let boxes = site.chain(recipe);
        let honest = std::fs::read(folder.path().join(changed)).unwrap();
        let mut other = honest.clone();
        *other.last_mut().unwrap() ^= 1;

        std::fs::write(folder.path().join(changed), other).unwrap();
        let outcomes = site.run(&boxes, &[], &[]);
        let Outcome::Failed(error) = &outcomes[1] else { panic!("{step:?}: {outcomes:?}") };
        assert!(matches!(error, Error::Changed { path } if path.ends_with(changed)), "{step:?}: {error}");
        site.assert_nothing_left();

        std::fs::write(folder.path().join(changed), honest).unwrap();
        let outcomes = site.run(&boxes, &[], &[]);
        assert!(matches!(outcomes[1], Outcome::Built(_)), "{step:?}: {outcomes:?}");
    }
}

#[test]
fn a_recipe_hands_no_package_to_other_builds() {
    // The fake machine leaves `new.deb` in apt's cache, as the script of a stranger's recipe can.
    let site = Site::new();
    let (evil, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let theirs = site.chain(whole(evil.path()));
    site.run(&theirs, &[], &[]);
    let ours = site.chain(whole(good.path()));
    let mounts = super::cache::mounts(&site.store(), &ours[1].authors).unwrap();
    assert!(super::cache::kept(&site.store(), &theirs[1].authors).join("new.deb").exists(), "the attempt itself is broken");
    assert!(!mounts[0].source.join("new.deb").exists());
    // mmdebstrap runs what it finds as this host's root.
    assert!(!super::cache::verified(&site.store()).join("new.deb").exists());
}

#[test]
fn a_build_goes_through_its_phases_in_order() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let chain = site.chain(whole(folder.path()));
    let outcomes = site.run(&chain, &[], &[]);
    assert!(matches!(outcomes[..], [Outcome::Unchanged(_), Outcome::Built(_)]), "{outcomes:?}");
    assert_eq!(
        site.workshop.verbs(),
        [
            "open 1",
            "copy /run/adt",
            "run /bin/sh",
            "run apt-get",
            "run apt-get",
            "copy /run/adt/step-0",
            "run /bin/sh",
            "copy /run/adt/step-1",
            "run /run/adt/step-1",
            "run systemctl",
            "run systemctl",
            "run /bin/sh",
            "halt",
            "harvest /var/cache/apt/archives",
            "commit"
        ]
    );
    let calls = site.workshop.calls.lock().unwrap().join("\n");
    assert!(calls.contains("copy /run/adt/step-0 etc/motd\n"), "{calls}");
    assert!(super::cache::kept(&site.store(), &chain[1].authors).join("new.deb").exists());
    assert_eq!(chain[1].authors.len(), 2, "a recipe of the folder, and one below it of the catalogue's");
    let layer = site.layers().get(&chain[1].digest).unwrap();
    assert_eq!((layer.name.as_str(), &layer.packages[..]), ("web", &["nginx".to_owned()][..]));
    site.assert_nothing_left();
    let events = site.events.lock().unwrap();
    let started = events.iter().filter(|event| matches!(event, Event::TaskStarted { .. })).count();
    assert_eq!(started, events.iter().filter(|event| matches!(event, Event::TaskDone { .. })).count());
    drop(events);
    site.workshop.calls.lock().unwrap().clear();
    // A build that was killed after its last step leaves its lock.
    std::fs::write(site.store().join(format!("layers/.lock-{}", chain[1].digest)), "{}").unwrap();
    assert!(matches!(site.run(&chain, &[], &[])[1], Outcome::Unchanged(_)));
    assert!(site.workshop.verbs().is_empty(), "an unchanged box is not built");
    site.assert_nothing_left();
}

#[test]
fn a_failing_step_says_which_and_leaves_nothing() {
    for word in ["open", "step-1", "apt-get install", "systemctl --quiet mask"] {
        let mut site = Site::new();
        site.workshop.fail = Some(word.to_owned());
        let folder = tempfile::tempdir().unwrap();
        let mut boxes = site.chain(whole(folder.path()));
        boxes.extend(site.chain(on("other", "debian")).into_iter().skip(1));
        let outcomes = site.run(&boxes, &[], &[]);
        let Outcome::Failed(error) = &outcomes[1] else { panic!("{word}: {outcomes:?}") };
        match word {
            "open" => assert!(matches!(error, Error::Bench { .. }), "{error}"),
            _ => {
                assert!(error.to_string().ends_with("of box `web` ended with exit code 3"), "{error}");
                assert_eq!(error.tail(), ["so far so good", "it broke"]);
                assert!(outcomes[2].is_there(), "{word}: the others finish");
            }
        }
        assert!(!site.layers().has(&boxes[1].digest));
        site.assert_nothing_left();
    }
}

#[test]
fn a_failure_skips_only_what_stands_on_it() {
    let mut site = Site::new();
    site.workshop.fail = Some("apt-get install -q -y --no-install-recommends -- broken".into());
    let boxes_folder = site.folder.path().join("boxes");
    for (name, parent) in [("middle", "@debian"), ("top", "@middle")] {
        super::catalogue::tests::write(&boxes_folder, name, parent);
    }
    let middle = Recipe { packages: vec!["broken".into()], ..on("middle", "debian") };
    let mut boxes = site.chain(middle);
    let parent = Some(boxes[1].digest.clone());
    let mut top = site.chain(on("top", "debian")).remove(1);
    top.parent = parent;
    boxes.push(top);
    boxes.extend(site.chain(on("aside", "debian")).into_iter().skip(1));
    let outcomes = site.run(&boxes, &[], &[]);
    assert!(matches!(&outcomes[1], Outcome::Failed(_)));
    assert!(matches!(&outcomes[2], Outcome::Skipped { because } if because.as_str() == "middle"), "{outcomes:?}");
    assert!(matches!(&outcomes[3], Outcome::Built(_)));
    site.assert_nothing_left();
}

#[test]
fn no_more_than_wanted_are_built_at_once() {
    let mut site = Site::new();
    // The first two wait for each other, however busy the host is: a third would be seen beside them.
    let arrived = std::sync::atomic::AtomicUsize::new(0);
    let meet = move || {
        arrived.fetch_add(1, Ordering::SeqCst);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while arrived.load(Ordering::SeqCst) < 2 && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    };
    site.workshop.hook = Some(("rm -f".into(), Box::new(meet)));
    let mut boxes = Vec::new();
    for number in 0..6 {
        super::catalogue::merge(&mut boxes, site.chain(on(&format!("box{number}"), "debian")));
    }
    assert!(site.run(&boxes, &[], &[]).iter().all(Outcome::is_there));
    assert_eq!(site.workshop.most.load(Ordering::SeqCst), 2);
    site.assert_nothing_left();
}

#[test]
fn force_builds_again_but_never_under_a_machine() {
    let site = Site::new();
    let boxes = site.chain(on("web", "debian"));
    assert!(matches!(site.run(&boxes, &[], &[])[1], Outcome::Built(_)));
    assert!(matches!(site.run(&boxes, &["web"], &[])[1], Outcome::Built(_)));
    let outcomes = site.run(&boxes, &["web"], &[&boxes[1].digest]);
    assert!(matches!(&outcomes[1], Outcome::Failed(Error::LayerInUse { .. })), "{outcomes:?}");
    assert!(site.layers().has(&boxes[1].digest));
    site.assert_nothing_left();
}

#[test]
fn a_damaged_layer_is_built_again() {
    let site = Site::new();
    let boxes = site.chain(on("web", "debian"));
    site.run(&boxes, &[], &[]);
    std::fs::write(site.layers().path(&boxes[1].digest).join("layer.json"), "{").unwrap();
    assert!(matches!(site.run(&boxes, &[], &[])[1], Outcome::Built(_)));
    assert!(site.layers().get(&boxes[1].digest).is_ok());
}

#[test]
fn a_machine_that_never_boots_is_given_up() {
    let mut site = Site::new();
    site.workshop.state = Some("starting");
    let boxes = site.chain(on("web", "debian"));
    let outcomes = site.run(&boxes, &[], &[]);
    assert!(matches!(&outcomes[1], Outcome::Failed(Error::BootDeadline { state, .. }) if state == "starting"), "{outcomes:?}");
    site.assert_nothing_left();
}

#[test]
fn a_cancelled_build_stops_before_its_next_step() {
    let mut site = Site::new();
    let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    site.workshop.hook = Some(("apt-get update".into(), Box::new(|| flag.store(true, Ordering::SeqCst))));
    let folder = tempfile::tempdir().unwrap();
    let boxes = site.chain(whole(folder.path()));
    let workshop = &site.workshop;
    let none = BTreeSet::new();
    let context = Context {
        store: &site.store(),
        workshop,
        render: &|text, _, _| Ok(text.to_owned()),
        boot_deadline: Duration::from_secs(1),
        emit: &|_| {},
        cancel: flag,
    };
    let options = Options { jobs: NonZeroUsize::MIN, force: &none, in_use: &BTreeSet::new() };
    let outcomes = schedule::run(context, &boxes, &options).unwrap();
    assert!(matches!(&outcomes[1], Outcome::Failed(Error::Ended { step, .. }) if step == "read package lists"), "{outcomes:?}");
    assert!(!workshop.calls.lock().unwrap().iter().any(|call| call.contains("apt-get install")));
    site.assert_nothing_left();
}

#[test]
fn what_a_killed_build_left_is_removed_by_the_next() {
    let site = Site::new();
    let boxes = site.chain(on("web", "debian"));
    let left = site.store().join("layers").join(format!(".build-{}", boxes[1].digest));
    std::fs::create_dir_all(left.join("rootfs/etc")).unwrap();
    std::fs::create_dir(site.layers().path(&boxes[1].digest)).unwrap();
    assert_eq!(prune::plan(&site.layers(), &BTreeSet::from([boxes[0].digest.clone()])).unwrap().halves.len(), 2);
    assert!(matches!(site.run(&boxes, &[], &[])[1], Outcome::Built(_)));
    site.assert_nothing_left();
}
