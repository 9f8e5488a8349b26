//! Every state a machine can be in, and every goal: applying the plan reaches the goal, and then there is nothing to do.

use proptest::prelude::*;

use super::*;
use crate::model::machine::Volume;
use crate::model::{BootId, Digest, EnvironmentName, Health, Limits, NetworkSpec, PlatformName, Tag};

fn id() -> EnvironmentId {
    EnvironmentId { platform: PlatformName::new("shop").unwrap(), name: EnvironmentName::new("1161").unwrap() }
}

fn on() -> BTreeSet<ProviderName> {
    [ProviderName::first()].into()
}

fn spec(name: &str, number: u8, layer: u8, memory: u64, hosts: &str) -> MachineSpec {
    let id = id();
    let network = NetworkSpec {
        tie: None,
        tag: Tag::of("test", &id),
        id: id.clone(),
        v4: "10.9.0.0/26".parse().unwrap(),
        v6: "fd00::/64".parse().unwrap(),
    };
    MachineSpec {
        id: id.machine(&MachineName::new(name).unwrap()),
        provider: ProviderName::first(),
        hostname: name.into(),
        fqdn: format!("{name}.1161.shop.example.test"),
        layers: vec![Digest::from_bytes(&[layer; 32])],
        seeded: 0,
        limits: Limits { memory_bytes: Some(memory), ..Limits::default() },
        network: network.attach(number),
        hosts: hosts.into(),
        nameservers: Vec::new(),
        search: Vec::new(),
        trusted: Default::default(),
        mounts: Vec::new(),
        volumes: None,
        rewound: None,
        files: [].into(),
        health: Health { checks: Vec::new(), deadline_seconds: 60 },
        host: false,
        spare: false,
    }
}

#[test]
fn data_that_goes_back_to_its_seed_makes_the_machine_anew() {
    let applied = spec("db", 2, 1, 512, "a");
    let wanted = MachineSpec { seeded: 1, ..applied.clone() };
    assert_eq!(Change::between(&applied, &wanted), Change::Recreate);
    assert_eq!(Change::between(&wanted, &wanted), Change::None);
}

#[test]
fn what_holds_data_is_deleted_only_when_that_is_safe() {
    let name = MachineName::new("db").unwrap();
    let volume = Volume { path: "/var/lib/mysql".into(), seed: vec![Digest::from_bytes(&[1; 32])] };
    let spec = MachineSpec { volumes: Some(vec![volume]), ..spec("db", 2, 2, 512, "a") };
    let machine = WantedMachine { spec: spec.clone(), after: Vec::new(), releases: BTreeMap::new() };
    let wanted = Wanted { id: id(), machines: [(name.clone(), machine)].into(), checkouts: BTreeMap::new() };
    let steps = |state: MachineState, applied: Option<MachineSpec>| {
        let machine = SeenMachine { state, on: on(), applied, answers: true, releases: BTreeMap::new() };
        let seen = Seen { network: SeenNetwork::Complete, machines: [(name.clone(), machine)].into(), ..Seen::default() };
        let plan = plan(Goal::Up, &wanted, &seen);
        plan.steps().map(|step| step.action.to_string()).collect::<Vec<_>>()
    };
    let (running, broken) = (MachineState::Running { boot: BootId::new(7) }, MachineState::Broken { reason: "x".into() });
    let other_box = MachineSpec { layers: vec![Digest::from_bytes(&[1; 32])], volumes: None, ..spec.clone() };
    let all = ["stop db", "keep the data of db", "delete db", "create db", "start db", "wait until db answers"];
    assert_eq!(steps(running.clone(), Some(other_box.clone())), all);
    assert_eq!(steps(MachineState::Halted, Some(other_box.clone())), all[1..]);
    assert_eq!(steps(broken, None), all[1..]);
    let seeded_before = MachineSpec { seeded: 7, ..other_box };
    assert_eq!(steps(running.clone(), Some(seeded_before)), all[2..], "what goes back to its seed keeps nothing");
    // A machine from before there were volumes is not stopped for them.
    let applied = MachineSpec { volumes: None, ..spec.clone() };
    assert_eq!(steps(running, Some(applied)), ["create db", "wait until db answers"]);
}

fn release(number: u8) -> BTreeMap<SiteName, Digest> {
    BTreeMap::from([(SiteName::new("www").unwrap(), Digest::from_bytes(&[number; 32]))])
}

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn wanted() -> Wanted {
    let machine = |name: &str, number, after: &[&str]| {
        let after = after.iter().map(|name| MachineName::new(*name).unwrap()).collect();
        // A site on the web servers serves releases.
        let releases = if name.starts_with("web") { release(1) } else { BTreeMap::new() };
        (MachineName::new(name).unwrap(), WantedMachine { spec: spec(name, number, 1, 512, "a"), after, releases })
    };
    Wanted {
        id: id(),
        machines: [machine("db", 2, &[]), machine("web1", 3, &["db"]), machine("web2", 4, &["db"])].into(),
        checkouts: ["www", "api"].map(|name| (site(name), name.into())).into(),
    }
}

/// What the engine and the world make of a step.
fn apply(seen: &mut Seen, wanted: &Wanted, step: &Step) {
    match &step.action {
        Action::Connect => seen.network = SeenNetwork::Partly { bridge: true },
        Action::Open => {
            assert_ne!(seen.network, SeenNetwork::Nothing, "only what was connected can be opened");
            seen.network = SeenNetwork::Complete;
        }
        Action::Disconnect => seen.network = SeenNetwork::Nothing,
        Action::Erase => {
            let gone = |machine: &SeenMachine| machine.state == MachineState::Absent;
            assert!(seen.machines.values().all(gone), "volumes outlive their machines");
            seen.volumes = false;
        }
        Action::Keep { machine } => {
            let runs = matches!(seen.machines[machine].state, MachineState::Running { .. } | MachineState::Frozen { .. });
            assert!(!runs, "what runs holds its files");
            seen.volumes = true;
        }
        Action::Restore { machine, .. } => {
            let seen = seen.machines.get(machine).map(|seen| &seen.state);
            assert!(matches!(seen, None | Some(MachineState::Absent | MachineState::Halted)), "only what lies still is put back");
        }
        Action::Forget => seen.remembered = false,
        Action::Checkout { site } => assert!(seen.checkouts.insert(site.clone()), "a checkout must not be there yet"),
        Action::Render { site } => assert!(seen.stale.remove(site), "only what lacks something is given it"),
        Action::Discard { site } => assert!(seen.checkouts.remove(site), "only what is there can go"),
        Action::Switch { .. } => unreachable!("no goal needs it"),
        Action::Create { machine } => {
            let state = match seen.machines.get(machine).map(|seen| seen.state.clone()) {
                None | Some(MachineState::Absent | MachineState::Broken { .. }) => MachineState::Halted,
                Some(state) => state,
            };
            let applied = Some(wanted.machines[machine].spec.clone());
            let releases = seen.machines.get(machine).map(|seen| seen.releases.clone()).unwrap_or_default();
            seen.machines.insert(machine.clone(), SeenMachine { state, on: on(), applied, answers: false, releases });
        }
        Action::Start { machine } => {
            let seen = seen.machines.get_mut(machine).expect("only created machines are started");
            assert_eq!(seen.state, MachineState::Halted, "a start must find a halted machine");
            seen.state = MachineState::Running { boot: BootId::new(1) };
        }
        Action::Thaw { machine } => {
            seen.machines.get_mut(machine).unwrap().state = MachineState::Running { boot: BootId::new(1) };
        }
        Action::Await { machine } => {
            let seen = seen.machines.get_mut(machine).unwrap();
            assert!(matches!(seen.state, MachineState::Running { .. }), "only running machines answer");
            seen.answers = true;
        }
        Action::Deploy { machine, site, release } => {
            let seen = seen.machines.get_mut(machine).unwrap();
            assert!(matches!(seen.state, MachineState::Running { .. }), "only a running machine can be given a release");
            seen.releases.insert(site.clone(), release.clone());
        }
        Action::Stop { machine } => {
            let seen = seen.machines.get_mut(machine).unwrap();
            seen.answers = false;
            seen.state = MachineState::Halted;
        }
        Action::Delete { machine } => {
            seen.machines.remove(machine);
        }
    }
}

fn any_state() -> impl Strategy<Value = MachineState> {
    prop_oneof![
        Just(MachineState::Absent),
        Just(MachineState::Halted),
        Just(MachineState::Running { boot: BootId::new(1) }),
        Just(MachineState::Frozen { boot: BootId::new(1) }),
        Just(MachineState::Broken { reason: "x".into() }),
    ]
}

fn any_machine(name: &'static str) -> impl Strategy<Value = (MachineName, SeenMachine)> {
    let served = prop::option::of(1..3u8);
    (any_state(), prop::option::of((1..3u8, 512..514u64, "[ab]")), any::<bool>(), served).prop_map(
        move |(state, applied, answers, served)| {
            let applied = applied.map(|(layer, memory, hosts)| spec(name, 2, layer, memory, &hosts));
            let answers = answers && matches!(state, MachineState::Running { .. });
            let releases = match state {
                MachineState::Running { .. } if name.starts_with("web") => served.map(release).unwrap_or_default(),
                _ => BTreeMap::new(),
            };
            (MachineName::new(name).unwrap(), SeenMachine { state, on: on(), applied, answers, releases })
        },
    )
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let network = prop_oneof![
        Just(SeenNetwork::Nothing),
        any::<bool>().prop_map(|bridge| SeenNetwork::Partly { bridge }),
        Just(SeenNetwork::Complete),
    ];
    let machines = (
        prop::option::of(any_machine("db")),
        prop::option::of(any_machine("web1")),
        prop::option::of(any_machine("web2")),
        prop::option::of(any_machine("surplus")),
    );
    let checkouts = prop::collection::btree_set(prop::sample::select(vec!["www", "api", "old"]).prop_map(site), 0..3);
    let stale = prop::collection::btree_set(prop::sample::select(vec!["www", "api", "old"]).prop_map(site), 0..3);
    let rest = (any::<bool>(), any::<bool>());
    (network, machines, checkouts, stale, rest).prop_map(|(network, (a, b, c, d), checkouts, stale, (volumes, remembered))| {
        Seen {
            network,
            machines: [a, b, c, d].into_iter().flatten().collect(),
            stale: stale.intersection(&checkouts).cloned().collect(),
            checkouts,
            volumes,
            remembered,
        }
    })
}

proptest! {
    #[test]
    fn a_plan_reaches_its_goal_and_then_has_nothing_to_do(seen in any_seen(), goal in 0..3usize) {
        let goal = [Goal::Up, Goal::Halted, Goal::Gone][goal];
        let wanted = wanted();
        let mut now = seen;
        for step in plan(goal, &wanted, &now.clone()).steps() {
            apply(&mut now, &wanted, step);
        }
        prop_assert!(plan(goal, &wanted, &now).is_empty(), "{now:?}");
        if goal == Goal::Gone {
            prop_assert!(now.machines.values().all(|machine| machine.state == MachineState::Absent));
            prop_assert!(now.checkouts.is_empty() && !now.volumes && !now.remembered && now.network == SeenNetwork::Nothing);
        }
    }

    #[test]
    fn a_plan_cut_off_anywhere_is_finished_by_the_next(seen in any_seen(), goal in 0..3usize, cut in 0..20usize) {
        let goal = [Goal::Up, Goal::Halted, Goal::Gone][goal];
        let wanted = wanted();
        let mut now = seen;
        for step in plan(goal, &wanted, &now.clone()).steps().take(cut) {
            apply(&mut now, &wanted, step);
        }
        for step in plan(goal, &wanted, &now.clone()).steps() {
            apply(&mut now, &wanted, step);
        }
        prop_assert!(plan(goal, &wanted, &now).is_empty(), "{now:?}");
    }
}

#[test]
fn machines_start_after_those_they_need_and_stop_before_them() {
    let wanted = wanted();
    let up = plan(Goal::Up, &wanted, &Seen::default());
    let text: Vec<Vec<String>> =
        up.waves.iter().map(|wave| wave.chains.iter().map(|chain| chain[0].action.to_string()).collect()).collect();
    assert_eq!(
        text,
        [
            vec!["connect the network", "create db", "create web1", "create web2", "check out api", "check out www"],
            vec!["open the network", "start db"],
            vec!["start web1", "start web2"],
        ]
    );

    let mut now = Seen::default();
    for step in up.steps() {
        apply(&mut now, &wanted, step);
    }
    let down = plan(Goal::Halted, &wanted, &now);
    assert_eq!(down.waves[0].chains.len(), 2);
    assert_eq!(down.waves[1].chains[0][0].action.to_string(), "stop db");
}

#[test]
fn only_what_changed_is_touched() {
    let mut wanted = wanted();
    let mut now = Seen::default();
    for step in plan(Goal::Up, &wanted, &now.clone()).steps() {
        apply(&mut now, &wanted, step);
    }
    for machine in wanted.machines.values_mut() {
        machine.spec.hosts = "b".into();
    }
    let db = wanted.machines.get_mut(&MachineName::new("db").unwrap()).unwrap();
    db.spec.limits.memory_bytes = Some(1024);
    let steps: Vec<_> = plan(Goal::Up, &wanted, &now).steps().map(|step| step.action.to_string()).collect();
    assert_eq!(
        steps,
        [
            "stop db",
            "create db",
            "start db",
            "wait until db answers",
            "create web1",
            "wait until web1 answers",
            "create web2",
            "wait until web2 answers"
        ]
    );
}

#[test]
fn a_machine_that_serves_another_release_gets_the_wanted_one_and_a_new_one_too() {
    let wanted = wanted();
    let mut now = Seen::default();
    for step in plan(Goal::Up, &wanted, &now.clone()).steps() {
        apply(&mut now, &wanted, step);
    }
    now.machines.get_mut(&MachineName::new("web1").unwrap()).unwrap().releases = release(2);
    now.machines.remove(&MachineName::new("web2").unwrap());
    let steps: Vec<_> = plan(Goal::Up, &wanted, &now).steps().map(|step| step.action.to_string()).collect();
    let deploy = |machine: &str| format!("deploy release {} of www on {machine}", "01".repeat(6));
    let (first, second) = (deploy("web1"), deploy("web2"));
    let wait = ["wait until web1 answers", "wait until web2 answers"];
    assert_eq!(steps, ["create web2", &first, wait[0], "start web2", &second, wait[1]]);
}
