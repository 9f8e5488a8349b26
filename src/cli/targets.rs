//! What a promotion did, and the proof of it, for people.

use super::checklist;
use super::table::{lines, table};
use crate::model::response::Promotion;
use crate::model::target::{Promoted, TargetSummary};
use crate::model::{Digest, Size};

pub fn list(targets: &[TargetSummary]) -> String {
    if targets.is_empty() {
        return "no targets; `[targets.production]` in a `platform.toml` names one".into();
    }
    let mut table = table(&["PLATFORM", "TARGET", "SERVER", "HOST KEY", "NAMES"]);
    for target in targets {
        for server in &target.servers {
            let key = server.host_key.as_ref().map_or("as your known_hosts knows it", |key| key.as_str());
            let names: Vec<_> = target.edge.all().map(|(_, name)| name.as_str()).collect();
            let names = if names.is_empty() { "-".to_owned() } else { names.join(", ") };
            table.add_row([target.platform.as_str(), target.name.as_str(), &server.to_string(), key, &names]);
        }
    }
    lines(&table)
}

pub fn history(all: &[Promoted]) -> String {
    if all.is_empty() {
        return "nothing was promoted there; `adt env:promote` brings a ticket's environment".into();
    }
    let mut table = table(&["BEGUN", "BY", "WHAT", "DEFINITION", "RESULT"]);
    for one in all {
        let begun = jiff::Timestamp::from_second(one.begun).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let result = one.finished.map_or("not finished".to_owned(), |end| format!("well, after {} s", end - one.begun));
        table.add_row([&begun, &one.by, &one.deed.to_string(), one.definition.short(), &result]);
    }
    lines(&table)
}

/// Steps where they are only told, and the proof where they were done.
pub fn promotion(promotion: &Promotion) -> String {
    if promotion.dry_run {
        return steps(promotion);
    }
    if promotion.layers.is_empty() {
        return String::new();
    }
    let mut layers = table(&["LAYER OF", "DIGEST", "CONTENT HERE", "CONTENT THERE", ""]);
    let short = |digest: &Option<Digest>| digest.as_ref().map_or("-", Digest::short).to_owned();
    for layer in &promotion.layers {
        let verdict = if layer.is_equal() { "equal" } else { "DIFFERS" };
        let (here, there) = (short(&layer.here), short(&layer.there));
        layers.add_row([layer.name.to_string(), layer.digest.short().to_owned(), here, there, verdict.to_owned()]);
    }
    format!("{}\n\n{}", lines(&layers), checklist::text(&promotion.checks))
}

fn steps(promotion: &Promotion) -> String {
    if promotion.steps.is_empty() {
        return String::new();
    }
    let mut table = table(&["LOSES DATA", "SENDS", "STEP"]);
    for step in &promotion.steps {
        let bytes = if step.bytes > 0 { Size(step.bytes).to_string() } else { "-".into() };
        table.add_row([if step.loses_data { "yes" } else { "no" }, &bytes, &step.what]);
    }
    lines(&table)
}
