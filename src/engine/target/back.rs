//! `env:rollback`, where its operator sits: every server of a target goes back to what all of them were.
//!
//! Where a promotion was cut off, some know of it and others don't. So its operator finds out which definition is meant, and says it to
//! each of them.

use crate::engine::Engine;
use crate::engine::at_once::for_each;
use crate::engine::events::Events;
use crate::engine::target::fleet::{self, Stand};
use crate::engine::target::promote::{is_done, told};
use crate::engine::target::releases;
use crate::model::request::TargetOf;
use crate::model::response::{Done, Promotion, Standing};
use crate::model::seat::Toward;
use crate::model::target::{Back, Deed, TargetStep};
use crate::model::{Edge, EnvironmentId, Failure, Kind, Request, Response};
use crate::plan::promotion;
use crate::servers::{Session, Way};
use crate::wire::Serve;

/// One of the servers, as it was found.
struct Entered<'a> {
    stand: &'a Stand,
    session: Session,
    standing: Standing,
}

/// One of the servers, and what going back is there.
struct Part<'a> {
    stand: &'a Stand,
    session: Session,
    back: Back,
    /// `None` where nothing was there before.
    planned: Option<Done>,
    steps: Vec<TargetStep>,
    /// The names that it leads the world to: those that it has or had, and those that it is to have.
    had: Vec<Edge>,
    then: Edge,
}

impl Engine {
    pub(in crate::engine) fn env_rollback(
        &self,
        of: &TargetOf,
        back: &Back,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let stands = fleet::stands(&self.target_of(of)?);
        let promotion = self.go_back(&of.id(), &stands, &self.way()?, back, dry_run, events)?;
        Ok(Response::Promotion(Box::new(promotion)))
    }

    pub(super) fn go_back(
        &self,
        id: &EnvironmentId,
        stands: &[Stand],
        way: &Way,
        back: &Back,
        dry_run: bool,
        events: &Events,
    ) -> Result<Promotion, Failure> {
        let entered = for_each(stands, |stand| self.enter_for_a_way_back(id, stand, way, dry_run, events))?;
        let entered: Vec<_> = entered.into_iter().flatten().collect();
        if entered.is_empty() {
            return Err(Failure::new(Kind::NotFound, format!("find what `{id}` was before its last promotion"))
                .cause("nothing was promoted")
                .hint("`adt env:promote` brings a ticket's environment"));
        }
        let back = &one_for_all(&entered, back);
        let looked = for_each(entered, |entered| self.look_back(id, entered, back, events))?;
        let parts = all_agree(looked, back)?;
        let steps: Vec<_> = parts.iter().flat_map(|part| part.steps.clone()).collect();
        let servers = fleet::quoted(parts.iter().map(|part| &part.stand.server));
        let summary = parts.iter().find_map(|part| part.planned.as_ref()).map(|done| done.summary.clone()).unwrap_or_default();
        let (had, then) = parts.first().map(|part| (part.had.clone(), part.then.clone())).unwrap_or_default();
        let had: Vec<_> = had.iter().collect();
        let facing = fleet::facing_the_world(stands);
        let data = if back.data { "volumes go back with it" } else { "volumes stay as they are" };
        let mut promotion = Promotion {
            summary: format!("nothing to do: {summary} on {servers}"),
            ..Promotion::planned(id.clone(), fleet::words(stands), dry_run, steps)
        };
        self.names_back(id, (&had, &then), &facing, way, events)?.tell(&mut promotion);
        if dry_run || promotion.steps.is_empty() {
            if !promotion.steps.is_empty() {
                promotion.summary = format!("`{id}` on {servers} would be rolled back; {data}");
            }
            return Ok(promotion);
        }
        if parts.len() > 1 {
            let tied = parts.iter().filter(|part| part.planned.is_some());
            for_each(tied, |part| part.session.tie(id, &Toward::Back(part.back.clone())))?;
        }
        // The one that faces the world last: it needs the others.
        for part in parts.iter().rev() {
            match part.planned {
                Some(_) => drop(self.back_there(id, part, false, events)?),
                None => drop(
                    part.session.run(&Request::EnvHalt { id: id.clone(), dry_run: false }, &mut told(&part.session, events))?,
                ),
            }
        }
        promotion.summary = format!("{summary} on {servers}; {data}");
        promotion.changed = true;
        let edge = parts.first().map(|part| part.session.standing(id, Vec::new())).transpose()?.unwrap_or_default().edge;
        let names = self.names_back(id, (&had, &edge), &facing, way, events)?;
        names.set(events)?;
        for part in parts.iter().filter(|part| part.planned.is_some()) {
            let standing = part.session.standing(id, Vec::new())?;
            let came = releases::came(&standing);
            let stands_on = standing.layers.into_iter().filter(|layer| standing.stands_on.contains(&layer.digest));
            let recorded: Vec<_> = stands_on.collect();
            self.proof(&part.session, (id, &recorded, &came), way, events)?.add_to(&mut promotion);
        }
        names.prove(&mut promotion, events);
        Ok(promotion)
    }

    /// `None` where nothing of the environment ever was, and others are there to go back.
    fn enter_for_a_way_back<'a>(
        &self,
        id: &EnvironmentId,
        stand: &'a Stand,
        way: &Way,
        dry_run: bool,
        events: &Events,
    ) -> Result<Option<Entered<'a>>, Failure> {
        let session = match self.enter_server(&stand.server, way, events) {
            Err(failure) if failure.kind == Kind::NotFound && stand.is_one_of_several => {
                events.note(format!("`{}` has nothing to go back from: {failure}", stand.server));
                return Ok(None);
            }
            session => session?,
        };
        if !dry_run {
            session.hold(id, &self.by())?;
        }
        let standing = session.standing(id, Vec::new())?;
        let is_part = standing.wanted.is_some() || !stand.is_one_of_several;
        Ok(is_part.then_some(Entered { stand, session, standing }))
    }

    /// What it would be; the failure is that of a server where nothing was before.
    fn look_back<'a>(
        &self,
        id: &EnvironmentId,
        Entered { stand, session, standing }: Entered<'a>,
        back: &Back,
        events: &Events,
    ) -> Result<(Part<'a>, Option<Failure>), Failure> {
        let Standing { edge, edge_last, promotions, .. } = standing;
        let (had, then) = (std::iter::once(edge.clone()).chain(edge_last).collect(), edge.clone());
        let mut part = Part { stand, session, back: back.clone(), planned: None, steps: Vec::new(), had, then };
        let was_there = |letters: &String| {
            promotions.iter().any(|one| one.finished.is_some() && one.definition.as_str().starts_with(letters.as_str()))
        };
        if stand.is_one_of_several && !back.to.as_ref().is_none_or(was_there) {
            let what = "halt its machines, since nothing was there before".to_owned();
            part.steps.push(stand.step(TargetStep { what, loses_data: false, bytes: 0 }));
            let failure = Failure::new(Kind::NotFound, format!("find what `{id}` was before on `{}`", stand.server));
            return Ok((part, Some(failure)));
        }
        let planned = match self.back_there(id, &part, true, events) {
            // Only servers with data take snapshots.
            Err(failure) if failure.kind == Kind::NotFound && back.data && stand.is_one_of_several => {
                part.back.data = false;
                self.back_there(id, &part, true, events)?
            }
            planned => planned?,
        };
        let step = |loses_data, what: String| stand.step(TargetStep { what, loses_data, bytes: 0 });
        part.then = planned.edge.as_deref().unwrap_or(&edge).clone();
        let names = edge.steps_to(&part.then);
        let lost = planned.removes.iter().map(|what| step(true, format!("lose {what}")));
        let plan = planned.plan.iter().flat_map(crate::model::Plan::steps).map(|one| one.action.to_string());
        part.steps = lost.chain(plan.chain(names).map(|what| step(false, what))).collect();
        part.planned = Some(planned);
        Ok((part, None))
    }

    fn back_there(&self, id: &EnvironmentId, part: &Part<'_>, dry_run: bool, events: &Events) -> Result<Done, Failure> {
        let serve = Serve::Rollback { id: id.clone(), by: self.by(), back: part.back.clone(), dry_run };
        is_done(match dry_run {
            true => part.session.serve(serve, &mut |_| ())?,
            false => part.session.serve(serve, &mut told(&part.session, events))?,
        })
    }
}

/// The definition that is meant, by the newest history that there is. A single server knows it by itself.
fn one_for_all(entered: &[Entered<'_>], back: &Back) -> Back {
    let [_, _, ..] = entered else { return back.clone() };
    let newest = entered
        .iter()
        .map(|one| &one.standing.promotions)
        .max_by_key(|all| all.iter().rfind(|one| matches!(one.deed, Deed::Promote { .. })).map(|one| one.begun));
    let newest = newest.map(Vec::as_slice).unwrap_or_default();
    let meant = match &back.to {
        Some(letters) => entered.iter().flat_map(|one| &one.standing.promotions).rfind(|one| {
            one.finished.is_some()
                && letters.len() >= promotion::FEWEST_LETTERS
                && one.definition.as_str().starts_with(letters.as_str())
        }),
        None => promotion::before_the_last(newest).map(|index| &newest[index]),
    };
    Back { to: meant.map(|one| one.definition.to_string()).or_else(|| back.to.clone()), data: back.data }
}

/// Where no server has anything to go back to, none goes; where data were asked for, one must have them.
fn all_agree<'a>(looked: Vec<(Part<'a>, Option<Failure>)>, back: &Back) -> Result<Vec<Part<'a>>, Failure> {
    let (parts, failures): (Vec<_>, Vec<_>) = looked.into_iter().unzip();
    let has_data = !back.data || parts.iter().any(|part| part.back.data);
    match failures.into_iter().flatten().next() {
        Some(failure) if parts.iter().all(|part| part.planned.is_none()) => Err(failure),
        _ if !has_data => Err(Failure::new(Kind::NotFound, "find the snapshot before the last promotion")
            .cause("no server of the target has one")
            .hint("without `--data`, volumes stay")),
        _ => Ok(parts),
    }
}
