//! What every provider owes, whatever it is made of. It holds on the fake in each run, on LXC in `tests/lxc_provider.rs`; a new
//! provider comes through here too. What one of them does beyond this its own tests say.

use std::time::Duration;

use adt::exec::Cancel;
use adt::model::machine::{SeenVolume, Volume};
use adt::model::{Exec, MachineId, MachineSpec, MachineState, SnapshotName};
use adt::providers::{Error, Provider, Stdio, copies};

const GRACE: Duration = Duration::from_secs(30);

/// `spec` is a machine that is not there, whose layers are; in the end it is not there again.
pub fn holds(provider: &dyn Provider, spec: &MachineSpec) {
    what_is_absent_can_be_stopped_and_deleted(provider, spec);
    each_verb_given_twice_changes_nothing(provider, spec);
    programs_and_files_go_in_and_come_out(provider, spec);
    a_frozen_machine_goes_on_as_it_was(provider, spec);
    data_outlives_its_machine(provider, spec);
    only_a_sealed_snapshot_is_one(provider, spec);
}

fn boot(provider: &dyn Provider, id: &MachineId) -> adt::model::BootId {
    match provider.inspect(id).unwrap() {
        MachineState::Running { boot } => boot,
        other => panic!("`{id}` is {}", other.word()),
    }
}

fn shell(provider: &dyn Provider, id: &MachineId, program: &str, argument: &str) -> (i32, String) {
    let exec = Exec { cwd: Some("/".into()), ..Exec::new(["/bin/sh", "-c", program, "adt", argument]) };
    let mut text = String::new();
    let each = &mut |_, line: &str| text.push_str(line);
    let code = provider.exec(id, &exec, Stdio::Pipes { stdin: None, each }).unwrap().code;
    (code, text)
}

fn what_is_absent_can_be_stopped_and_deleted(provider: &dyn Provider, spec: &MachineSpec) {
    let id = &spec.id;
    assert_eq!(provider.inspect(id).unwrap(), MachineState::Absent);
    assert!(matches!(provider.start(id), Err(Error::Absent { .. })));
    assert!(matches!(provider.exec(id, &Exec::new(["true"]), Stdio::Caller), Err(Error::Absent { .. })));
    provider.stop(id, GRACE).unwrap();
    provider.delete(id).unwrap();
    assert!(provider.address(id).unwrap().is_empty());
    assert!(!provider.list().unwrap().iter().any(|(other, _)| other == id));
}

fn each_verb_given_twice_changes_nothing(provider: &dyn Provider, spec: &MachineSpec) {
    let id = &spec.id;
    for _ in 0..2 {
        provider.create(spec).unwrap();
        assert_eq!(provider.inspect(id).unwrap(), MachineState::Halted);
    }
    assert!(provider.list().unwrap().contains(&(id.clone(), MachineState::Halted)));
    assert_eq!(provider.machines(&id.environment).unwrap(), [(id.machine.clone(), MachineState::Halted)].into());
    assert_eq!(provider.address(id).unwrap(), [std::net::IpAddr::from(spec.network.v4), spec.network.v6.into()]);
    let error = provider.exec(id, &Exec::new(["true"]), Stdio::Caller).unwrap_err();
    assert!(matches!(error, Error::NotRunning { state: "halted", .. }), "{error}");
    provider.start(id).unwrap();
    let first = boot(provider, id);
    provider.start(id).unwrap();
    assert_eq!(boot(provider, id), first, "it is the same start");
    for _ in 0..2 {
        provider.stop(id, GRACE).unwrap();
        assert_eq!(provider.inspect(id).unwrap(), MachineState::Halted);
    }
    provider.start(id).unwrap();
    assert_ne!(boot(provider, id), first, "it is another start");
    for _ in 0..2 {
        provider.delete(id).unwrap();
        assert_eq!(provider.inspect(id).unwrap(), MachineState::Absent);
    }
}

fn programs_and_files_go_in_and_come_out(provider: &dyn Provider, spec: &MachineSpec) {
    let (id, never) = (&spec.id, Cancel::default());
    provider.create(spec).unwrap();
    provider.start(id).unwrap();
    assert_eq!(shell(provider, id, "echo \"$1\"; exit 3", "said"), (3, "said".into()));
    assert_eq!(shell(provider, id, "mkdir -p \"$1\"", "/srv/files").0, 0);
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(here("tree/empty")).unwrap();
    std::fs::write(here("tree/one"), "one").unwrap();
    std::os::unix::fs::symlink("one", here("tree/link")).unwrap();
    // Into a folder that is there, as a name that is not, and what is in a folder alone.
    copies::copy_in(provider, id, (&here("tree")).into(), "/srv/files", &never).unwrap();
    copies::copy_in(provider, id, (&here("tree")).into(), "/srv/files/other", &never).unwrap();
    copies::copy_in(provider, id, (&here("tree/.")).into(), "/srv/files", &never).unwrap();
    for name in ["tree/link", "other/link", "one"] {
        assert_eq!(shell(provider, id, "cat \"$1\"", &format!("/srv/files/{name}")), (0, "one".into()), "{name}");
    }
    copies::copy_out(provider, id, "/srv/files/other", (&here("back")).into(), &never).unwrap();
    assert_eq!(std::fs::read_to_string(here("back/link")).unwrap(), "one");
    assert!(here("back/empty").is_dir());
    copies::copy_out(provider, id, "/srv/files/one", folder.path().into(), &never).unwrap();
    assert_eq!(std::fs::read_to_string(here("one")).unwrap(), "one");
    copies::copy_out(provider, id, "/srv/files/nothing", (&here("nothing")).into(), &never).unwrap_err();
    copies::copy_in(provider, id, (&here("nowhere")).into(), "/srv/files", &never).unwrap_err();
    copies::copy_in(provider, id, (&here("tree")).into(), "/no/such/folder/x", &never).unwrap_err();
    provider.delete(id).unwrap();
    copies::copy_out(provider, id, "/srv/files/one", (&here("gone")).into(), &never).unwrap_err();
    copies::copy_in(provider, id, (&here("tree")).into(), "/srv/files", &never).unwrap_err();
}

fn a_frozen_machine_goes_on_as_it_was(provider: &dyn Provider, spec: &MachineSpec) {
    let Some(freezer) = provider.freezer() else { return };
    let id = &spec.id;
    provider.create(spec).unwrap();
    provider.start(id).unwrap();
    let before = boot(provider, id);
    for _ in 0..2 {
        freezer.freeze(id).unwrap();
        assert_eq!(provider.inspect(id).unwrap(), MachineState::Frozen { boot: before.clone() });
    }
    for _ in 0..2 {
        freezer.thaw(id).unwrap();
        assert_eq!(boot(provider, id), before);
    }
    freezer.freeze(id).unwrap();
    provider.start(id).unwrap();
    assert_eq!(boot(provider, id), before, "a start thaws");
    freezer.freeze(id).unwrap();
    provider.delete(id).unwrap();
}

fn data_outlives_its_machine(provider: &dyn Provider, spec: &MachineSpec) {
    let Some(volumes) = provider.volumes() else { return };
    let id = &spec.id;
    assert!(!volumes.any(&id.environment));
    let volume = Volume { path: "/srv/data".into(), seed: spec.layers.clone() };
    let with = MachineSpec { volumes: Some(vec![volume]), ..spec.clone() };
    provider.create(&with).unwrap();
    provider.delete(id).unwrap();
    let seen = SeenVolume { machine: id.machine.clone(), path: "/srv/data".into() };
    assert_eq!(volumes.seen(&id.environment).unwrap(), [seen]);
    assert!(volumes.held().unwrap().is_superset(&spec.layers.iter().cloned().collect()));
    for _ in 0..2 {
        volumes.erase(&id.environment).unwrap();
        assert!(!volumes.any(&id.environment));
    }
}

fn only_a_sealed_snapshot_is_one(provider: &dyn Provider, spec: &MachineSpec) {
    let Some(snapshots) = provider.snapshots() else { return };
    let (id, never) = (&spec.id, Cancel::default());
    let environment = &id.environment;
    let [whole, half] = ["whole", "half"].map(|name| SnapshotName::new(name).unwrap());
    provider.create(spec).unwrap();
    snapshots.copy(environment, &whole, &never).unwrap();
    assert!(snapshots.names(environment).unwrap().is_empty());
    snapshots.copy(environment, &whole, &never).unwrap();
    snapshots.seal(environment, &whole).unwrap();
    snapshots.copy(environment, &half, &never).unwrap();
    snapshots.sweep(environment).unwrap();
    assert_eq!(snapshots.names(environment).unwrap(), [whole.clone()].into());
    provider.start(id).unwrap();
    snapshots.copy(environment, &half, &never).expect_err("it runs, and could write meanwhile");
    provider.delete(id).unwrap();
    snapshots.restore(id, &whole, &never).unwrap();
    provider.create(spec).unwrap();
    assert_eq!(provider.inspect(id).unwrap(), MachineState::Halted);
    for _ in 0..2 {
        snapshots.remove(environment, &whole).unwrap();
        assert!(snapshots.names(environment).unwrap().is_empty());
    }
    provider.delete(id).unwrap();
    provider.volumes().expect("a snapshot has data").erase(environment).unwrap();
}
