//! Two commands at once: on one environment the second waits and says for whom, on two they run at the same time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use adt::model::{Event, Kind, Request};
use adt::providers::fake::Checkpoint;

use super::fakes::{Host, id, init};

/// A thing that does not happen in this time does not happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A door in a verb: whoever comes to it waits until it is open.
#[derive(Default)]
struct Door {
    /// How many came, and whether it is open.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Door {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, DEADLINE, |(_, open)| !*open).unwrap());
    }

    /// Waits until so many have come to it.
    fn reached(&self, count: usize) -> bool {
        let state = self.state.lock().unwrap();
        !self.changed.wait_timeout_while(state, DEADLINE, |(came, _)| *came < count).unwrap().1.timed_out()
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

fn door_at(place: &'static str) -> (Arc<Door>, Checkpoint) {
    let door = Arc::new(Door::default());
    let inner = Arc::clone(&door);
    let point = Arc::new(move |name: &str| {
        if name == place {
            inner.pass();
        }
    });
    (door, point)
}

#[test]
fn the_second_on_one_environment_waits_and_says_for_whom() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let (door, point) = door_at("create db before");
    let first = host.watched("env:init shop 1161", Some(point));
    let second = host.sharing("env:halt shop 1161", None, &first.machines, &first.networks);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| first.done(init("1161")));
        assert!(door.reached(1));
        let (tell, told) = mpsc::channel();
        let second = scope.spawn(move || {
            second.engine.run(Request::EnvHalt { id: id("1161"), dry_run: false }, &mut |event| drop(tell.send(event)))
        });
        let Ok(Event::Waiting { on, holder }) = told.recv_timeout(DEADLINE) else { panic!("the second does not wait") };
        assert_eq!(on, "shop/1161");
        assert!(holder.contains("`env:init shop 1161` of ada (process "), "{holder}");
        door.open();
        assert_eq!(first.join().unwrap().summary, "`shop/1161` is up");
        // The wait was for the whole of the first: what the second halts is the finished environment.
        assert!(second.join().unwrap().is_ok());
        assert!(told.iter().any(|event| matches!(event, Event::StepDone { step, .. } if step.to_string().contains("stop web1"))));
    });
    assert!(host.locks().is_empty());
}

#[test]
fn ctrl_c_ends_the_waiting() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let (door, point) = door_at("create db before");
    let first = host.watched("env:init shop 1161", Some(point));
    let second = host.sharing("env:up shop 1161", None, &first.machines, &first.networks);
    std::thread::scope(|scope| {
        scope.spawn(|| first.done(init("1161")));
        assert!(door.reached(1));
        let cancel = Arc::clone(&second.engine.cancel);
        let mut waits = |_| cancel.store(true, Ordering::Relaxed);
        let failure = second.engine.run(Request::EnvUp { id: id("1161"), dry_run: false }, &mut waits).unwrap_err();
        assert_eq!(failure.kind, Kind::Cancelled);
        door.open();
    });
}

#[test]
fn an_environment_made_while_its_platform_goes_is_not_lost() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let destroy = || Request::PlatformDestroy { platform: "shop".parse().unwrap(), environments: Vec::new(), dry_run: false };
    let (door, point) = door_at("delete db before");
    let first = host.watched("platform:destroy shop", Some(point));
    first.done(init("1"));
    let second = host.sharing("env:init shop 2", None, &first.machines, &first.networks);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| first.run(destroy()).result);
        assert!(door.reached(1));
        second.done(init("2"));
        door.open();
        let failure = first.join().unwrap().unwrap_err();
        assert_eq!(failure.kind, Kind::Conflict);
        assert!(failure.hints[0].contains("adt platform:destroy shop"), "{failure:?}");
    });
    second.done(destroy());
    drop((first, second));
    assert_eq!(host.leftovers(), Vec::<String>::new());
    assert!(!host.process("again").done(destroy()).changed);
}

#[test]
fn two_environments_are_made_at_the_same_time() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    let (door, point) = door_at("create db half");
    let first = host.watched("env:init shop 1", Some(Arc::clone(&point)));
    let second = host.sharing("env:init shop 2", Some(point), &first.machines, &first.networks);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| first.done(init("1")));
        let second = scope.spawn(|| second.done(init("2")));
        assert!(door.reached(2), "one waits for the other");
        door.open();
        assert!(first.join().unwrap().changed && second.join().unwrap().changed);
    });
    let rows = host.process("look").engine.store.database.environments(None).unwrap();
    assert_ne!(rows[0].network, rows[1].network);
    for name in ["1", "2"] {
        assert_eq!(host.machines(&id(name)).into_values().collect::<Vec<_>>(), ["running"; 3]);
    }
}
