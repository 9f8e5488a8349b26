//! What a promotion did, and the proof of it, for people.

use super::checklist;
use super::table::{lines, table};
use crate::model::access::AccessReport;
use crate::model::mishap::Broken;
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

pub fn access(reports: &[AccessReport]) -> String {
    match reports {
        [only] => access_of(only),
        several => {
            several.iter().map(|report| format!("{}\n\n{}", report.server, access_of(report))).collect::<Vec<_>>().join("\n\n")
        }
    }
}

fn access_of(report: &AccessReport) -> String {
    let time = |seconds| jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let mut told = Vec::new();
    if report.access.keeps_out() {
        let mut table = table(&["NETWORK", "WHY", "UNTIL", "BY"]);
        for (of, networks) in &report.access.admin {
            for network in networks {
                table.add_row([&network.to_string(), &format!("`admin` of {of}"), "-", "-"]);
            }
        }
        for grant in &report.access.grants {
            table.add_row([&grant.network.to_string(), "granted", &time(grant.until), &grant.by]);
        }
        told.push(lines(&table));
        if !report.in_force {
            told.push("its firewall is not in force: somebody took it away".into());
        }
    } else {
        told.push("everybody may try its ssh: the target has no `admin` networks".into());
    }
    if !report.log.is_empty() {
        let mut table = table(&["TIME", "BY", "WHAT"]);
        for entry in &report.log {
            table.add_row([&time(entry.time), &entry.by, &entry.what]);
        }
        told.push(lines(&table));
    }
    told.join("\n\n")
}

/// Steps where they are only told, and the proof where they were done.
pub fn promotion(promotion: &Promotion) -> String {
    if promotion.dry_run {
        return steps(promotion);
    }
    if promotion.layers.is_empty() {
        return String::new();
    }
    let several = promotion.layers.iter().any(|layer| layer.server != promotion.layers[0].server);
    let on = |server: &str, words: String| if several { format!("{words} on {server}") } else { words };
    let mut layers = table(&["LAYER OF", "DIGEST", "CONTENT HERE", "CONTENT THERE", ""]);
    let short = |digest: &Option<Digest>| digest.as_ref().map_or("-", Digest::short).to_owned();
    for layer in &promotion.layers {
        let verdict = if layer.is_equal() { "equal" } else { "DIFFERS" };
        let (here, there) = (short(&layer.here), short(&layer.there));
        layers.add_row([
            on(&layer.server, layer.name.to_string()),
            layer.digest.short().to_owned(),
            here,
            there,
            verdict.to_owned(),
        ]);
    }
    let mut releases = table(&["SITE", "COMMIT", "RELEASE", "CONTENT HERE", "CONTENT THERE", ""]);
    for release in &promotion.releases {
        let verdict = if release.is_equal() { "equal" } else { "DIFFERS" };
        let commit = release.commit.get(..10).unwrap_or(&release.commit);
        let (here, there) = (short(&release.here), short(&release.there));
        releases.add_row([
            on(&release.server, release.site.to_string()).as_str(),
            commit,
            release.digest.short(),
            &here,
            &there,
            verdict,
        ]);
    }
    let releases = if promotion.releases.is_empty() { String::new() } else { format!("{}\n\n", lines(&releases)) };
    format!("{}{}\n\n{releases}{}", broken(&promotion.broken), lines(&layers), checklist::text(&promotion.checks))
}

fn broken(all: &[Broken]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = table(&["BROKEN", "ON", "AT", "WHAT ITS OPERATOR WAS TOLD"]);
    for one in all {
        let told = one.told.as_deref().unwrap_or("nothing: it got through");
        table.add_row([&one.fault.to_string(), &one.server, &one.step, told]);
    }
    format!("{}\n\n", lines(&table))
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
