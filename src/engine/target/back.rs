//! `env:rollback`, where its operator sits: every server of a target goes back to what it was.

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::target::fleet::{self, Stand};
use crate::engine::target::promote::{is_done, told};
use crate::engine::target::releases;
use crate::model::request::TargetOf;
use crate::model::response::{Done, Promotion, Standing};
use crate::model::seat::Toward;
use crate::model::target::{Back, TargetStep};
use crate::model::{Edge, EnvironmentId, Failure, Kind, Request, Response};
use crate::servers::{Session, Way};
use crate::wire::Serve;

/// One of the servers, and what going back is there.
struct Part<'a> {
    stand: &'a Stand,
    session: Session,
    back: Back,
    /// `None` where nothing was there before.
    planned: Option<Done>,
    steps: Vec<TargetStep>,
    /// The names that it leads the world to, now and then.
    edges: (Edge, Edge),
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
        let looked = fleet::for_each(stands, |stand| self.look_back(id, stand, way, back, dry_run, events))?;
        let parts = all_agree(looked, back)?;
        let steps: Vec<_> = parts.iter().flat_map(|part| part.steps.clone()).collect();
        let servers = parts.iter().map(|part| format!("`{}`", part.stand.server)).collect::<Vec<_>>().join(", ");
        let summary = parts.iter().find_map(|part| part.planned.as_ref()).map(|done| done.summary.clone()).unwrap_or_default();
        let (now, then) = parts.first().map(|part| part.edges.clone()).unwrap_or_default();
        let facing = fleet::facing_the_world(stands);
        let data = if back.data { "volumes go back with it" } else { "volumes stay as they are" };
        let mut promotion = Promotion {
            summary: format!("nothing to do: {summary} on {servers}"),
            ..Promotion::planned(id.clone(), fleet::words(stands), dry_run, steps)
        };
        self.names_back(id, (&now, &then), &facing, way, events)?.tell(&mut promotion);
        if dry_run || promotion.steps.is_empty() {
            if !promotion.steps.is_empty() {
                promotion.summary = format!("`{id}` on {servers} would be rolled back; {data}");
            }
            return Ok(promotion);
        }
        if parts.len() > 1 {
            let tied = parts.iter().filter(|part| part.planned.is_some());
            fleet::for_each(tied, |part| part.session.tie(id, &Toward::Back(part.back.clone())))?;
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
        let names = self.names_back(id, (&now, &edge), &facing, way, events)?;
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

    /// What it would be; the failure is that of a server where nothing was before.
    fn look_back<'a>(
        &self,
        id: &EnvironmentId,
        stand: &'a Stand,
        way: &Way,
        back: &Back,
        dry_run: bool,
        events: &Events,
    ) -> Result<(Part<'a>, Option<Failure>), Failure> {
        let session = self.enter_server(&stand.server, way, events)?;
        if !dry_run {
            session.hold(id, &self.by())?;
        }
        let Standing { edge, edge_before, seat, .. } = session.standing(id, Vec::new())?;
        let edges = (edge.clone(), edge_before.unwrap_or(edge));
        let mut part = Part { stand, session, back: back.clone(), planned: None, steps: Vec::new(), edges };
        let planned = match self.back_there(id, &part, true, events) {
            // Only servers with data take snapshots.
            Err(failure) if failure.kind == Kind::NotFound && back.data && seat.is_some() => {
                part.back.data = false;
                match self.back_there(id, &part, true, events) {
                    Ok(planned) => planned,
                    Err(_) => return Ok((part, Some(failure))),
                }
            }
            Err(failure) if failure.kind == Kind::NotFound && seat.is_some() => {
                let what = format!("{}: halt its machines, since nothing was there before", stand.name);
                part.steps.push(TargetStep { what, loses_data: false, bytes: 0 });
                return Ok((part, Some(failure)));
            }
            planned => planned?,
        };
        let step = |loses_data, what: String| {
            let what = if seat.is_some() { format!("{}: {what}", stand.name) } else { what };
            TargetStep { what, loses_data, bytes: 0 }
        };
        let names = part.edges.0.steps_to(&part.edges.1);
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
