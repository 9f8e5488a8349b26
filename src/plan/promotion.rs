//! What must be done so that a server has what a ticket has: (what is brought, what is there) → moves. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::model::access::words;
use crate::model::response::{LayerSummary, ReleaseSummary, Standing};
use crate::model::target::{Deed, Promoted, TargetStep};
use crate::model::{Action, Digest, Edge, EnvironmentId, MachineName, Plan, Seat, SiteName, Size};

/// What an operator brings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Brought {
    /// The environment there.
    pub id: EnvironmentId,
    /// The ticket's.
    pub from: EnvironmentId,
    /// Of this adt's program.
    pub program: Digest,
    pub program_bytes: u64,
    /// Of the definition.
    pub definition: Digest,
    /// What its machines stand on, parents before children, with contents.
    pub layers: Vec<LayerSummary>,
    pub releases: Vec<Going>,
    pub machines: Vec<MachineName>,
    /// Who may come to the server's ssh; none is everybody.
    pub admin: BTreeSet<IpNet>,
    pub edge: Edge,
    /// The other servers that carry it, by name.
    pub others: Vec<String>,
    /// What this one must know of them; `None` until all of them could be asked.
    pub seat: Option<Seat>,
}

/// The release that a site is to serve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Going {
    pub site: SiteName,
    pub commit: String,
    /// Without content where it is not built yet, as in a dry run.
    pub release: ReleaseSummary,
    /// Bytes that it takes there: packed, and unpacked on each machine.
    pub room: u64,
}

/// What is there, as far as somebody there can say it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Found {
    pub program: Option<Digest>,
    /// The program there has not proven itself, or the host was not set up for it.
    pub is_pending: bool,
    /// `None` where no adt is there that understands us.
    pub standing: Option<Standing>,
    /// What bringing up the environment would do there, where that could be asked.
    pub machines: Option<Plan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Puts this adt there.
    Program { bytes: u64 },
    /// Makes the host ready for it.
    SetUp,
    /// Lets these networks in, and nobody else.
    Admit { networks: BTreeSet<IpNet> },
    /// Sends layers.
    Layers { digests: Vec<Digest>, bytes: u64 },
    /// Sends releases.
    Releases { digests: Vec<Digest> },
    /// The environment becomes what the ticket is.
    Define { is_new: bool },
}

/// Why nothing of it may be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("layer {} of box `{name}` is there with other files: its content is `{there}`, not `{here}`", digest.short())]
    OtherContent { name: String, digest: Digest, here: Digest, there: Digest },
    #[error("release {} of site `{site}` is there with other files: its content is `{there}`, not `{here}`", digest.short())]
    OtherRelease { site: SiteName, digest: Digest, here: Digest, there: Digest },
    #[error("what is sent needs {needed} and the disk there has {free} left")]
    NoRoom { needed: Size, free: Size },
    #[error("an environment of this name is there which nobody promoted")]
    Foreign,
}

/// Empty where all is as it shall be.
pub fn plan(brought: &Brought, found: &Found) -> Result<Vec<Move>, Refused> {
    let mut moves = Vec::new();
    let has_program = found.program.as_ref() == Some(&brought.program);
    if !has_program {
        moves.push(Move::Program { bytes: brought.program_bytes });
    }
    if !has_program || found.is_pending {
        moves.push(Move::SetUp);
    }
    let nothing = Standing { free: u64::MAX, ..Standing::default() };
    let standing = found.standing.as_ref().unwrap_or(&nothing);
    if standing.wanted.is_some() && standing.promotions.is_empty() {
        return Err(Refused::Foreign);
    }
    // Before anything is there that could be reached.
    if standing.admin != brought.admin {
        moves.push(Move::Admit { networks: brought.admin.clone() });
    }
    let missing = missing(brought, standing)?;
    let bytes: u64 = missing.iter().filter_map(|layer| layer.size).sum();
    let releases = missing_releases(brought, standing)?;
    let needed = bytes + releases.iter().map(|going| going.room).sum::<u64>();
    if needed > standing.free {
        return Err(Refused::NoRoom { needed: Size(needed), free: Size(standing.free) });
    }
    if !missing.is_empty() {
        moves.push(Move::Layers { digests: missing.iter().map(|layer| layer.digest.clone()).collect(), bytes });
    }
    if !releases.is_empty() {
        moves.push(Move::Releases { digests: releases.iter().map(|going| going.release.digest.clone()).collect() });
    }
    let is_all_up = found.machines.as_ref().is_some_and(Plan::is_empty);
    let is_seated = standing.seat == brought.seat;
    if !missing.is_empty() || !releases.is_empty() || !is_as_brought(brought, standing) || !is_all_up || !is_seated {
        moves.push(Move::Define { is_new: standing.wanted.is_none() });
    }
    Ok(moves)
}

/// What a plan is decided from, in one word: another one means that what was planned may not be what would be done. How much room a
/// disk has left is no part of it.
pub fn seen<'a>(servers: impl IntoIterator<Item = (&'a Brought, &'a Found)>) -> Digest {
    let each = servers.into_iter().map(|(brought, found)| {
        let mut found = found.clone();
        if let Some(standing) = &mut found.standing {
            standing.free = 0;
        }
        (brought, found)
    });
    let text = serde_json::to_vec(&each.collect::<Vec<_>>()).expect("its keys are strings, so it becomes JSON");
    Digest::from_bytes(&Sha256::digest(&text))
}

/// The layers that are not there. One that is there must be the same.
fn missing<'b>(brought: &'b Brought, standing: &Standing) -> Result<Vec<&'b LayerSummary>, Refused> {
    let mut missing = Vec::new();
    let mut seen = BTreeSet::new();
    for layer in brought.layers.iter().filter(|layer| seen.insert(&layer.digest)) {
        let Some(known) = standing.layers.iter().find(|known| known.digest == layer.digest) else {
            missing.push(layer);
            continue;
        };
        if let (Some(here), Some(there)) = (&layer.content, &known.content)
            && here != there
        {
            return Err(Refused::OtherContent {
                name: layer.name.to_string(),
                digest: layer.digest.clone(),
                here: here.clone(),
                there: there.clone(),
            });
        }
    }
    Ok(missing)
}

/// The releases that are not there, each once: two sites may serve one. One that is there must be the same.
fn missing_releases<'b>(brought: &'b Brought, standing: &Standing) -> Result<Vec<&'b Going>, Refused> {
    let mut missing: Vec<&Going> = Vec::new();
    for going in &brought.releases {
        let Going { site, release, .. } = going;
        let Some(known) = standing.releases.iter().find(|known| known.digest == release.digest) else {
            if !missing.iter().any(|other| other.release.digest == release.digest) {
                missing.push(going);
            }
            continue;
        };
        if let (Some(here), Some(there)) = (&release.content, &known.content)
            && here != there
        {
            let (site, digest, here, there) = (site.clone(), release.digest.clone(), here.clone(), there.clone());
            return Err(Refused::OtherRelease { site, digest, here, there });
        }
    }
    Ok(missing)
}

/// So many letters of a definition are looked for at least: fewer could be anything.
pub const FEWEST_LETTERS: usize = 6;

/// The place of the newest promotion that went well before the last one, and is another.
pub fn before_the_last(promotions: &[Promoted]) -> Option<usize> {
    let last = promotions.iter().rposition(|one| matches!(one.deed, Deed::Promote { .. }))?;
    promotions[..last].iter().rposition(|one| one.definition != promotions[last].definition && one.finished.is_some())
}

/// Whether the last promotion went well and is this one.
pub fn is_as_brought(brought: &Brought, standing: &Standing) -> bool {
    standing.wanted.as_deref() == Some("up")
        && standing.promotions.last().is_some_and(|last| {
            let deed = Deed::Promote { from: brought.from.clone() };
            last.definition == brought.definition && last.deed == deed && last.finished.is_some()
        })
}

/// The moves as their operator reads them.
pub fn steps(moves: &[Move], brought: &Brought, found: &Found, server: &str) -> Vec<TargetStep> {
    let Brought { id, from, .. } = brought;
    let step = |what: String, bytes: u64| TargetStep { what, loses_data: false, bytes };
    let sites = changed_sites(brought, found);
    let edge = || {
        let before = found.standing.as_ref().map(|standing| standing.edge.clone()).unwrap_or_default();
        before.steps_to(&brought.edge).into_iter().map(|what| step(what, 0)).collect::<Vec<_>>()
    };
    let tie = || {
        let there = found.standing.as_ref().and_then(|standing| standing.seat.as_ref());
        let is_new = !brought.others.is_empty() && (there.is_none() || there != brought.seat.as_ref());
        let others: Vec<_> = brought.others.iter().map(|name| format!("`{name}`")).collect();
        is_new.then(|| step(format!("tie `{server}` to {} by WireGuard", others.join(", ")), 0))
    };
    let mut steps = Vec::new();
    for each in moves {
        if matches!(each, Move::Define { .. }) {
            steps.extend(tie());
        }
        match each {
            Move::Program { bytes } if found.program.is_some() => {
                steps.push(step(format!("put this adt on `{server}` in the place of the one there"), *bytes));
            }
            Move::Program { bytes } => steps.push(step(format!("put adt on `{server}`"), *bytes)),
            Move::SetUp => steps.push(step(format!("set `{server}` up for machines (`host:bootstrap`)"), 0)),
            Move::Admit { networks } if networks.is_empty() => {
                steps.push(step(format!("let everybody try the ports of `{server}`: the target has no `admin`"), 0));
            }
            Move::Admit { networks } => {
                let networks = words(networks);
                steps.push(step(format!("let only {networks} come to the ssh of `{server}`, and all others to its sites"), 0));
            }
            Move::Layers { digests, bytes } => {
                let layers = if digests.len() == 1 { "1 layer".to_owned() } else { format!("{} layers", digests.len()) };
                steps.push(step(format!("send {layers} that `{server}` lacks"), *bytes));
            }
            // Told below, for each site that gets one.
            Move::Releases { .. } => {}
            Move::Define { is_new: true } => {
                let machines: Vec<_> = brought.machines.iter().map(ToString::to_string).collect();
                steps.push(step(
                    format!("make `{id}` of what `{from}` is: {}; its data begins from the seed", machines.join(", ")),
                    0,
                ));
                steps.extend(edge());
            }
            Move::Define { is_new: false } => {
                let plan = found.machines.iter().flat_map(Plan::steps);
                let is_told = |release: &Digest| sites.iter().any(|going| going.release.digest == *release);
                let is_of_a_release = |action: &Action| matches!(action, Action::Deploy { release, .. } if is_told(release));
                let own: Vec<_> = plan.filter(|one| !is_of_a_release(&one.action)).collect();
                if sites.is_empty() || found.machines.is_none() || !own.is_empty() {
                    let what =
                        format!("make `{id}` what `{from}` is; volumes stay, other files of machines that are made anew go");
                    steps.push(step(what, 0));
                    steps.extend(own.iter().map(|one| step(format!("  {}", one.action), 0)));
                }
                steps.extend(edge());
            }
        }
        if matches!(each, Move::Define { .. }) {
            steps.extend(sites.iter().map(|going| gets(going, found)));
        }
    }
    steps
}

/// The sites that do not serve yet what they are to serve.
fn changed_sites<'b>(brought: &'b Brought, found: &Found) -> Vec<&'b Going> {
    let standing = found.standing.as_ref();
    let is_served = |going: &Going| {
        standing.and_then(|standing| standing.serves.get(&going.site)).and_then(|code| code.release.as_ref())
            == Some(&going.release.digest)
    };
    brought.releases.iter().filter(|going| !is_served(going)).collect()
}

fn gets(going: &Going, found: &Found) -> TargetStep {
    let Going { site, commit, release, .. } = going;
    let known = found.standing.iter().flat_map(|standing| &standing.releases);
    let is_there = known.map(|known| &known.digest).any(|digest| *digest == release.digest);
    let built = if release.content.is_none() { ", which is built first" } else { "" };
    let commit = commit.get(..10).unwrap_or(commit);
    TargetStep {
        what: format!("site `{site}` gets release {} of commit {commit}{built}", release.digest.short()),
        loses_data: false,
        bytes: if is_there { 0 } else { release.size },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::response::CodeSummary;
    use crate::model::topology::Mode;

    fn digest(letter: char) -> Digest {
        Digest::try_from(letter.to_string().repeat(64)).unwrap()
    }

    fn layer(letter: char, content: Option<char>) -> LayerSummary {
        LayerSummary { name: "web".parse().unwrap(), digest: digest(letter), content: content.map(digest), size: Some(10) }
    }

    fn id(name: &str) -> EnvironmentId {
        EnvironmentId { platform: "shop".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn brought() -> Brought {
        Brought {
            id: id("production"),
            from: id("1161"),
            program: digest('0'),
            program_bytes: 7,
            definition: digest('d'),
            layers: vec![layer('a', Some('1')), layer('b', Some('2')), layer('a', Some('1'))],
            releases: vec![going('5', '3')],
            machines: vec!["web1".parse().unwrap()],
            admin: BTreeSet::new(),
            edge: Edge::default(),
            others: Vec::new(),
            seat: None,
        }
    }

    fn release(letter: char, content: char) -> ReleaseSummary {
        ReleaseSummary { digest: digest(letter), content: Some(digest(content)), size: 5 }
    }

    fn going(letter: char, content: char) -> Going {
        Going { site: "www".parse().unwrap(), commit: "c0ffee".repeat(6), release: release(letter, content), room: 11 }
    }

    fn serves(letter: char) -> BTreeMap<SiteName, CodeSummary> {
        let release = Some(digest(letter));
        let (branch, why, commit) = ("main".to_owned(), "chosen".to_owned(), "c0ffee".repeat(6));
        [("www".parse().unwrap(), CodeSummary { branch, why, commit, mode: Mode::Release, release })].into()
    }

    /// Everything done.
    fn done() -> Found {
        let last = Promoted {
            begun: 1,
            finished: Some(2),
            by: "ada@laptop".into(),
            deed: Deed::Promote { from: id("1161") },
            definition: digest('d'),
        };
        let standing = Standing {
            free: 1000,
            layers: vec![layer('a', Some('1')), layer('b', Some('2'))],
            releases: vec![release('5', '3')],
            serves: serves('5'),
            wanted: Some("up".into()),
            promotions: vec![last],
            ..Standing::default()
        };
        Found { program: Some(digest('0')), is_pending: false, standing: Some(standing), machines: Some(Plan::default()) }
    }

    fn changed(change: impl FnOnce(&mut Found, &mut Brought)) -> Result<Vec<Move>, Refused> {
        let (mut found, mut brought) = (done(), brought());
        change(&mut found, &mut brought);
        plan(&brought, &found)
    }

    fn standing(found: &mut Found) -> &mut Standing {
        found.standing.as_mut().unwrap()
    }

    #[test]
    fn nothing_is_done_where_all_is_as_it_shall_be() {
        assert_eq!(changed(|_, _| ()), Ok(Vec::new()));
    }

    #[test]
    fn an_empty_server_gets_everything_once() {
        let all = vec![
            Move::Program { bytes: 7 },
            Move::SetUp,
            Move::Layers { digests: vec![digest('a'), digest('b')], bytes: 20 },
            Move::Releases { digests: vec![digest('5')] },
            Move::Define { is_new: true },
        ];
        assert_eq!(changed(|found, _| *found = Found::default()), Ok(all.clone()));
        let told = steps(&all, &brought(), &Found::default(), "root@a.example");
        assert_eq!(told.iter().map(|step| step.bytes).sum::<u64>(), 32);
        assert!(told.iter().all(|step| !step.loses_data));
    }

    #[test]
    fn each_difference_has_its_moves() {
        let define = || Move::Define { is_new: false };
        let cases = [
            ("another adt", changed(|found, _| found.program = Some(digest('1'))), vec![Move::Program { bytes: 7 }, Move::SetUp]),
            ("killed before it was set up", changed(|found, _| found.is_pending = true), vec![Move::SetUp]),
            (
                "a layer is missing",
                changed(|found, _| drop(standing(found).layers.remove(1))),
                vec![Move::Layers { digests: vec![digest('b')], bytes: 10 }, define()],
            ),
            (
                "who may come in",
                changed(|_, brought| brought.admin.extend(["192.0.2.0/24".parse::<IpNet>().unwrap()])),
                vec![Move::Admit { networks: ["192.0.2.0/24".parse().unwrap()].into() }],
            ),
            ("another ticket", changed(|_, brought| brought.from = id("1162")), vec![define()]),
            ("killed before it was through", changed(|found, _| standing(found).promotions[0].finished = None), vec![define()]),
            ("somebody halted it", changed(|found, _| standing(found).wanted = Some("halted".into())), vec![define()]),
        ];
        for (what, found, wanted) in cases {
            assert_eq!(found, Ok(wanted), "{what}");
        }
    }

    #[test]
    fn a_saved_plan_knows_whether_the_world_moved() {
        let now = |change: &dyn Fn(&mut Found, &mut Brought)| {
            let (mut found, mut brought) = (done(), brought());
            change(&mut found, &mut brought);
            seen([(&brought, &found)])
        };
        let then = now(&|_, _| ());
        assert_eq!(then, now(&|found, _| standing(found).free = 7), "the disk is fuller");
        for moved in [
            now(&|found, _| found.program = None),
            now(&|found, _| standing(found).wanted = None),
            now(&|found, _| standing(found).promotions.clear()),
            now(&|found, _| drop(standing(found).layers.pop())),
            now(&|_, brought| brought.definition = digest('e')),
            now(&|_, brought| brought.program = digest('e')),
        ] {
            assert_ne!(then, moved);
        }
    }

    #[test]
    fn a_new_release_is_a_step_of_its_own() {
        let (mut found, mut brought) = (done(), brought());
        brought.releases = vec![going('6', '3')];
        brought.definition = digest('e');
        let moves = plan(&brought, &found).unwrap();
        assert_eq!(moves, [Move::Releases { digests: vec![digest('6')] }, Move::Define { is_new: false }]);
        let told = |found: &Found, brought: &Brought| -> Vec<(String, u64)> {
            let steps = steps(&plan(brought, found).unwrap(), brought, found, "root@a.example");
            steps.into_iter().map(|step| (step.what, step.bytes)).collect()
        };
        let gets = "site `www` gets release 666666666666 of commit c0ffeec0ff".to_owned();
        assert_eq!(told(&found, &brought), [(gets.clone(), 5)]);
        // One that is there, as before a way back, is not sent again; a machine that changes, too, is told before.
        standing(&mut found).releases.push(release('6', '3'));
        let action = Action::Start { machine: "web1".parse().unwrap() };
        let step = crate::model::Step { environment: id("production"), action };
        let mut machines = Plan::default();
        machines.then([vec![step]]);
        found.machines = Some(machines);
        let steps = told(&found, &brought);
        assert_eq!((steps.len(), steps[2].clone()), (3, (gets.clone(), 0)));
        brought.releases[0].release = ReleaseSummary { content: None, size: 0, ..release('7', '3') };
        assert!(told(&found, &brought)[2].0.ends_with("which is built first"));
    }

    #[test]
    fn what_would_be_wrong_is_refused_before_anything_is_done() {
        let other = changed(|found, _| standing(found).layers[1].content = Some(digest('9')));
        assert!(matches!(other, Err(Refused::OtherContent { .. })), "{other:?}");
        let full = changed(|found, _| {
            standing(found).layers.clear();
            standing(found).releases.clear();
            standing(found).free = 30;
        });
        assert_eq!(full, Err(Refused::NoRoom { needed: Size(31), free: Size(30) }));
        let other = changed(|found, _| standing(found).releases[0].content = Some(digest('9')));
        assert!(matches!(other, Err(Refused::OtherRelease { .. })), "{other:?}");
        assert_eq!(changed(|found, _| standing(found).promotions.clear()), Err(Refused::Foreign));
    }
}
