//! A promotion whose connection breaks at each of its steps goes on each time, and ends as one that was never broken.

use std::collections::BTreeSet;

use super::real_target::{is_proven, promotion, ticket};

#[test]
fn a_connection_that_breaks_at_each_step_ends_nothing() {
    let Some(adt) = ticket() else { return };
    let run = adt.run("target:rehearse production --from 1161 --faults=connection --json").ok();
    let promotion = promotion(&run);
    is_proven(&promotion);
    let broken = promotion["broken"].as_array().expect("a list");
    let steps: BTreeSet<_> = broken.iter().map(|one| one["step"].as_str().expect("a word")).collect();
    // Each step once; among them what comes first, what is sent, what is made of it, and the end.
    assert_eq!(steps.len(), broken.len(), "{broken:#?}");
    for wanted in [" ssh", " adt", " machines", "layer ", "hello/production: ", " proof"] {
        assert!(steps.iter().any(|step| step.contains(wanted)), "{wanted}: {steps:#?}");
    }
    let layers = steps.iter().filter(|step| step.starts_with("layer ")).count();
    assert_eq!(layers, promotion["layers"].as_array().expect("a list").len(), "{steps:#?}");
    assert!(broken.iter().all(|one| one["told"].as_str().is_some_and(|told| told.starts_with("could not "))), "{broken:#?}");
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn only_what_can_be_broken_is_named() {
    let adt = super::adt::Adt::new();
    adt.run("target:rehearse shop production --from 1161 --faults=moon").fails(2).says("connection, server, disk");
    adt.run("target:rehearse shop production --from 1161 --faults connection").fails(2).says("too many words");
}
