//! What must be done so that a server has what a ticket has: (what is brought, what is there) → moves. Pure.

use std::collections::BTreeSet;

use crate::model::response::{LayerSummary, Standing};
use crate::model::target::{Deed, TargetStep};
use crate::model::{Digest, Edge, EnvironmentId, MachineName, Plan, Size};

/// What an operator brings.
#[derive(Debug, Clone, PartialEq)]
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
    pub machines: Vec<MachineName>,
    pub edge: Edge,
}

/// What is there, as far as somebody there can say it.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// Sends layers.
    Layers { digests: Vec<Digest>, bytes: u64 },
    /// The environment becomes what the ticket is.
    Define { is_new: bool },
}

/// Why nothing of it may be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("layer {} of box `{name}` is there with other files: its content is `{there}`, not `{here}`", digest.short())]
    OtherContent { name: String, digest: Digest, here: Digest, there: Digest },
    #[error("the layers need {needed} and the disk there has {free} left")]
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
    let missing = missing(brought, standing)?;
    let bytes = missing.iter().filter_map(|layer| layer.size).sum();
    if bytes > standing.free {
        return Err(Refused::NoRoom { needed: Size(bytes), free: Size(standing.free) });
    }
    if !missing.is_empty() {
        moves.push(Move::Layers { digests: missing.iter().map(|layer| layer.digest.clone()).collect(), bytes });
    }
    let is_all_up = found.machines.as_ref().is_some_and(Plan::is_empty);
    if !missing.is_empty() || !is_as_brought(brought, standing) || !is_all_up {
        moves.push(Move::Define { is_new: standing.wanted.is_none() });
    }
    Ok(moves)
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
    let edge = || {
        let before = found.standing.as_ref().map(|standing| standing.edge.clone()).unwrap_or_default();
        before.steps_to(&brought.edge).into_iter().map(|what| step(what, 0)).collect::<Vec<_>>()
    };
    let mut steps = Vec::new();
    for each in moves {
        match each {
            Move::Program { bytes } if found.program.is_some() => {
                steps.push(step(format!("put this adt on `{server}` in the place of the one there"), *bytes));
            }
            Move::Program { bytes } => steps.push(step(format!("put adt on `{server}`"), *bytes)),
            Move::SetUp => steps.push(step(format!("set `{server}` up for machines (`host:bootstrap`)"), 0)),
            Move::Layers { digests, bytes } => {
                let layers = if digests.len() == 1 { "1 layer".to_owned() } else { format!("{} layers", digests.len()) };
                steps.push(step(format!("send {layers} that `{server}` lacks"), *bytes));
            }
            Move::Define { is_new: true } => {
                let machines: Vec<_> = brought.machines.iter().map(ToString::to_string).collect();
                steps.push(step(
                    format!("make `{id}` of what `{from}` is: {}; its data begins from the seed", machines.join(", ")),
                    0,
                ));
                steps.extend(edge());
            }
            Move::Define { is_new: false } => {
                let what = format!("make `{id}` what `{from}` is; volumes stay, other files of machines that are made anew go");
                steps.push(step(what, 0));
                let plan = found.machines.iter().flat_map(Plan::steps);
                steps.extend(plan.map(|one| step(format!("  {}", one.action), 0)));
                steps.extend(edge());
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target::Promoted;

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
            machines: vec!["web1".parse().unwrap()],
            edge: Edge::default(),
        }
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
            Move::Define { is_new: true },
        ];
        assert_eq!(changed(|found, _| *found = Found::default()), Ok(all.clone()));
        let told = steps(&all, &brought(), &Found::default(), "root@a.example");
        assert_eq!(told.iter().map(|step| step.bytes).sum::<u64>(), 27);
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
            ("another ticket", changed(|_, brought| brought.from = id("1162")), vec![define()]),
            ("killed before it was through", changed(|found, _| standing(found).promotions[0].finished = None), vec![define()]),
            ("somebody halted it", changed(|found, _| standing(found).wanted = Some("halted".into())), vec![define()]),
        ];
        for (what, found, wanted) in cases {
            assert_eq!(found, Ok(wanted), "{what}");
        }
    }

    #[test]
    fn what_would_be_wrong_is_refused_before_anything_is_done() {
        let other = changed(|found, _| standing(found).layers[1].content = Some(digest('9')));
        assert!(matches!(other, Err(Refused::OtherContent { .. })), "{other:?}");
        let full = changed(|found, _| {
            standing(found).layers.clear();
            standing(found).free = 19;
        });
        assert_eq!(full, Err(Refused::NoRoom { needed: Size(20), free: Size(19) }));
        assert_eq!(changed(|found, _| standing(found).promotions.clear()), Err(Refused::Foreign));
    }
}
