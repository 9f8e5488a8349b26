//! The answer at the end: tables and sentences for people, the same types as JSON for programs.

use std::process::ExitCode;

use super::args::Global;
use super::table::{lines, table};
use super::{checklist, screen, targets};
use crate::model::response::Promotion;
use crate::model::response::{
    BoxDetail, BoxSummary, Built, Carried, CarryOutcome, Done, EnvironmentDetail, EnvironmentSummary, LayerSummary,
    MachineDetail, PlatformSummary, SiteDetail, SnapshotSummary,
};
use crate::model::topology::Mode;
use crate::model::{Digest, Failure, Kind, Limits, Response, SiteName, Size};
use crate::store::record::removal;

/// That nobody reads the rest (`adt schema platform | head`) is no failure of ours.
fn told(printed: std::io::Result<()>) -> Result<(), Failure> {
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Kind::Host, "print the answer").because(&error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("answers have string keys only, so they become JSON");
    told(screen::out_json(text))
}

/// What another program reads: a script of a shell's, a page of the manual.
pub fn print_text(text: &str) -> Result<(), Failure> {
    told(screen::out_as_is(text.trim_end()))
}

/// A check that found a fault is not a success.
pub fn exit_code(response: &Response) -> ExitCode {
    match response {
        Response::Check(list) if !list.healthy() => Kind::Unhealthy.exit_code().into(),
        Response::Promotion(promotion) if !promotion.holds() => Kind::Unhealthy.exit_code().into(),
        Response::Promotion(promotion) if promotion.dry_run && !promotion.steps.is_empty() => Kind::Differs.exit_code().into(),
        _ => ExitCode::SUCCESS,
    }
}

pub fn print(response: &Response, global: &Global) -> Result<(), Failure> {
    if global.json {
        return match response {
            // The last of the JSON lines that the verb's events began.
            Response::Done(_) | Response::Built(_) | Response::Carried(_) | Response::Promotion(_) => {
                let line = serde_json::json!({ "event": "finished", "response": response });
                told(screen::out_json(line.to_string()))
            }
            listing => print_json(listing),
        };
    }
    match response {
        Response::Done(done) => finished(done, global.quiet),
        Response::Built(built) => finished_build(built, global.quiet),
        Response::Carried(carried) => finished_carrying(carried, global.quiet),
        Response::Check(list) => data(&checklist::text(list)),
        Response::Platforms(platforms) => data(&platform_table(platforms)),
        Response::Environments(environments) => data(&environment_table(environments)),
        Response::Environment(environment) => data(&environment_sheet(environment)),
        Response::Facts(sheet) => print_json(sheet),
        Response::Sites(sites) => data(&site_table(sites)),
        Response::Urls(urls) => data(&urls.iter().map(|url| url.url.as_str()).collect::<Vec<_>>().join("\n")),
        Response::Snapshots(snapshots) => data(&snapshot_table(snapshots)),
        Response::Boxes(boxes) => data(&box_table(boxes)),
        Response::BoxDetail(detail) => data(&box_sheet(detail)),
        Response::Targets(list) => data(&targets::list(list)),
        Response::History(all) => data(&targets::history(all)),
        Response::Access(report) => data(&targets::access(report)),
        Response::Promotion(promotion) => finished_promotion(promotion, global.quiet),
    }
}

fn data(text: &str) -> Result<(), Failure> {
    told(screen::out(text.trim_end()))
}

fn finished(done: &Done, quiet: bool) -> Result<(), Failure> {
    if let Some(plan) = &done.plan {
        let steps: Vec<_> = plan.steps().map(ToString::to_string).collect();
        data(&if steps.is_empty() { "nothing to do".to_owned() } else { steps.join("\n") })?;
    }
    if quiet {
        return Ok(());
    }
    told(screen::err(&done.summary))?;
    told(done.next.iter().try_for_each(|line| screen::err(&format!("  {line}"))))
}

fn finished_promotion(promotion: &Promotion, quiet: bool) -> Result<(), Failure> {
    let text = targets::promotion(promotion);
    if !text.is_empty() {
        data(&text)?;
    }
    if !promotion.holds() {
        return told(screen::err("it is not proven: what is above differs, or does not work"));
    }
    if quiet {
        return Ok(());
    }
    told(screen::err(&promotion.summary))?;
    told(promotion.next.iter().try_for_each(|line| screen::err(&format!("  {line}"))))
}

fn finished_build(built: &[Built], quiet: bool) -> Result<(), Failure> {
    use crate::model::response::BuildOutcome;
    if quiet {
        return Ok(());
    }
    let count = |outcome| built.iter().filter(|one| one.outcome == outcome).count();
    let boxes = |count: usize| if count == 1 { "1 box is".to_owned() } else { format!("{count} boxes are") };
    let text = match (count(BuildOutcome::Built), count(BuildOutcome::Unchanged)) {
        (0, unchanged) => format!("nothing to build: {} as the recipes say", boxes(unchanged)),
        (built, 0) => format!("{} built", boxes(built)),
        (built, unchanged) => format!("{} built; {} as the recipes say already", boxes(built), boxes(unchanged)),
    };
    told(screen::err(text.as_str()))
}

fn finished_carrying(carried: &[Carried], quiet: bool) -> Result<(), Failure> {
    if quiet {
        return Ok(());
    }
    let layers = |outcome: CarryOutcome, end: &str| match carried.iter().filter(|one| one.outcome == outcome).count() {
        0 => None,
        1 => Some(format!("1 layer is {end}")),
        count => Some(format!("{count} layers are {end}")),
    };
    let parts = [
        layers(CarryOutcome::Packed, "packed"),
        layers(CarryOutcome::LeftOut, "left out"),
        layers(CarryOutcome::Imported, "imported"),
        layers(CarryOutcome::There, "here already"),
    ];
    told(screen::err(&parts.into_iter().flatten().collect::<Vec<_>>().join("; ")))
}

fn platform_table(platforms: &[PlatformSummary]) -> String {
    if platforms.is_empty() {
        return "no platforms yet; add one with `adt platform:init`, e.g. `adt platform:init hello`".into();
    }
    let mut table = table(&["PLATFORM", "ENVIRONMENTS", "UP", "FOLDER", "SUMMARY"]);
    for platform in platforms {
        let summary = match &platform.fault {
            None => platform.summary.clone(),
            Some(failure) => format!("({})", failure.to_string().lines().next().unwrap_or_default()),
        };
        table.add_row([
            platform.name.to_string(),
            platform.environments.to_string(),
            platform.up.to_string(),
            platform.folder.display().to_string(),
            summary,
        ]);
    }
    lines(&table)
}

fn environment_table(environments: &[EnvironmentSummary]) -> String {
    if environments.is_empty() {
        return "no environments yet; make one with `adt env:init`, e.g. `adt env:init 1161`".into();
    }
    let now = jiff::Timestamp::now().as_second();
    let mut table = table(&["PLATFORM", "ENV", "STATE", "MACHINES", "SITES", "AGE", "OWNER", "DISK"]);
    for environment in environments {
        let running = environment.machines.values().filter(|state| *state == "running").count();
        let branch = |site: &SiteName| environment.code.get(site).map(|code| format!("@{}", code.branch)).unwrap_or_default();
        let sites: Vec<_> = environment.sites.iter().map(|site| format!("{site}{}", branch(site))).collect();
        table.add_row([
            environment.platform.to_string(),
            environment.name.to_string(),
            environment.state.word().to_owned(),
            format!("{running}/{}", environment.machines.len()),
            sites.join(","),
            environment.fault.as_ref().map_or_else(|| age(now - environment.created), |_| "?".into()),
            owner(&environment.owner, environment.shared),
            environment.disk.map_or_else(|| "?".into(), size),
        ]);
    }
    let mut text = lines(&table);
    for environment in environments {
        if let Some(fault) = &environment.fault {
            let (platform, name) = (&environment.platform, &environment.name);
            let removal = removal(platform, name);
            text.push_str(&format!("\n`{platform}/{name}` can't be read ({fault}); `{removal}` removes it"));
        }
    }
    text
}

fn owner(name: &str, shared: bool) -> String {
    if shared { format!("{name} (shared)") } else { name.to_owned() }
}

/// One unit is enough to know how old something is.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn environment_sheet(environment: &EnvironmentDetail) -> String {
    let now = jiff::Timestamp::now().as_second();
    let mut text = format!(
        "{}: {}\n  owner    {}\n  age      {}\n  network  {}\n  platform {}\n",
        environment.id,
        environment.state.word(),
        owner(&environment.owner, environment.shared),
        age(now - environment.created),
        environment.network,
        environment.folder.display()
    );
    let provider = |machine: &MachineDetail| match environment.machines.iter().all(|other| other.provider == machine.provider) {
        true => String::new(),
        false => format!(" on {}", machine.provider),
    };
    let mut machines = table(&["MACHINE", "STATE", "ADDRESS", "BOX", "MEMORY", "CPUS", "DISK", "NAME"]);
    for machine in &environment.machines {
        machines.add_row([
            machine.name.to_string(),
            machine.state.word().to_owned(),
            machine.addresses.first().map(ToString::to_string).unwrap_or_default(),
            format!("{}{}", machine.boxed, provider(machine)),
            memory(machine.limits.memory_bytes),
            machine.limits.cpus.map_or_else(|| "-".into(), |cpus| cpus.to_string()),
            machine.disk.map_or_else(|| "?".into(), size),
            machine.fqdn.clone(),
        ]);
    }
    text.push_str(&format!("\n{}\n", lines(&machines)));
    if !environment.volumes.is_empty() {
        let mut volumes = table(&["DATA OF", "FOLDER", "SIZE", ""]);
        for volume in &environment.volumes {
            let word = if volume.used { "" } else { "no longer in use; goes with the environment" };
            volumes.add_row([volume.machine.to_string(), volume.path.clone(), Size(volume.size).to_string(), word.to_owned()]);
        }
        text.push_str(&format!("\n{}\n", lines(&volumes)));
    }
    if !environment.sites.is_empty() {
        let mut sites = table(&["SITE", "HOST", "SERVED AT", "ALIASES"]);
        for site in &environment.sites {
            sites.add_row([site.name.to_string(), site.host.clone(), site.addresses.join(" "), site.aliases.join(" ")]);
        }
        text.push_str(&format!("\n{}\n", lines(&sites)));
        if environment.sites.iter().any(|site| site.code.is_some()) {
            text.push_str(&format!("\n{}\n", site_table(&environment.sites)));
        }
    }
    text
}

fn snapshot_table(snapshots: &[SnapshotSummary]) -> String {
    if snapshots.is_empty() {
        return "no snapshots; `adt env:snapshot` takes one".into();
    }
    let now = jiff::Timestamp::now().as_second();
    let mut table = table(&["SNAPSHOT", "AGE", "REASON", "ALONE"]);
    for snapshot in snapshots {
        let alone = snapshot.alone.map_or_else(|| "?".into(), size);
        table.add_row([snapshot.name.to_string(), age(now - snapshot.taken), snapshot.reason.clone(), alone]);
    }
    lines(&table)
}

fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

fn memory(limit: Option<u64>) -> String {
    match limit {
        None => "default".into(),
        Some(Limits::ALL_MEMORY) => "unlimited".into(),
        Some(limit) => size(limit),
    }
}

fn site_table(sites: &[SiteDetail]) -> String {
    if sites.is_empty() {
        return "no sites; `adt site:add` adds one of the platform's".into();
    }
    let mut table = table(&["SITE", "BRANCH", "WHY", "COMMIT", "MODE", "SINCE", "FOLDER"]);
    for site in sites {
        let Some(code) = &site.code else {
            table.add_row([site.name.to_string(), "-".into(), "comes with its box".into()]);
            continue;
        };
        let summary = &code.summary;
        let commit = summary.commit.get(..10).unwrap_or(&summary.commit);
        table.add_row([
            site.name.to_string(),
            summary.branch.clone(),
            summary.why.clone(),
            summary.release.as_ref().map_or_else(|| commit.to_owned(), |release| format!("{commit} ({})", release.short())),
            match summary.mode {
                Mode::Live => "live".to_owned(),
                Mode::Release => "release".to_owned(),
            },
            if code.drift.is_empty() { "clean".to_owned() } else { code.drift.join(", ") },
            code.folder.as_ref().map(|folder| folder.display().to_string()).unwrap_or_default(),
        ]);
    }
    lines(&table)
}

fn box_table(boxes: &[BoxSummary]) -> String {
    let mut table = table(&["BOX", "FROM", "ORIGIN", "BUILT", "SIZE", "SUMMARY"]);
    for one in boxes {
        table.add_row([
            one.name.to_string(),
            one.from.clone(),
            one.origin.clone(),
            if one.built { "yes".to_owned() } else { "no".to_owned() },
            one.size.map_or_else(|| "-".into(), size),
            one.fault.clone().unwrap_or_else(|| one.summary.clone()),
        ]);
    }
    lines(&table)
}

fn box_sheet(detail: &BoxDetail) -> String {
    let summary = &detail.summary;
    let ports: Vec<_> = detail.exposes.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{}: {}\n  from      {}\n  recipe    {}\n  packages  {}\n  services  {}\n  exposes   {}\n  built     {}\n  used by   {}\n\n",
        summary.name,
        summary.summary,
        summary.from,
        detail.folder.display(),
        detail.packages.join(" "),
        detail.services.join(" "),
        ports.join(" "),
        if summary.built { "yes" } else { "no" },
        if detail.used_by.is_empty() { "nothing".to_owned() } else { detail.used_by.join(" ") },
    );
    let mut layers = table(&["LAYER OF", "DIGEST", "CONTENT", "SIZE"]);
    for LayerSummary { name, digest, content, size: bytes } in &detail.chain {
        let content = content.as_ref().map_or("-", Digest::short);
        let size = bytes.map_or_else(|| "not built".into(), size);
        layers.add_row([name.to_string(), digest.short().to_owned(), content.to_owned(), size]);
    }
    text.push_str(&lines(&layers));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [(-5, "0s"), (59, "59s"), (120, "2m"), (7_200, "2h"), (200_000, "2d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
