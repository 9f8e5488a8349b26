//! What one server shows once all is done: its layers and releases by their files, the environment from inside, its names from here.

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::target::fleet;
use crate::engine::target::outside::Outside;
use crate::engine::target::releases;
use crate::model::response::{CheckItem, CheckStep, Checklist, LayerSummary, Promotion, Standing};
use crate::model::target::{LayerProof, ReleaseProof};
use crate::model::{EnvironmentId, Failure, Request, Response};
use crate::plan::promotion::Going;
use crate::servers::{Session, Way};

/// What one server shows once all is done.
pub(super) struct Proof {
    layers: Vec<LayerProof>,
    releases: Vec<ReleaseProof>,
    checks: Checklist,
}

impl Proof {
    pub fn add_to(self, promotion: &mut Promotion) {
        promotion.layers.extend(self.layers);
        promotion.releases.extend(self.releases);
        promotion.checks.items.extend(self.checks.items);
    }
}

impl Engine {
    /// What is on a server once all is done: its layers and releases by the files that are there now, the environment from inside, and
    /// its public names from here.
    pub(super) fn proof(
        &self,
        session: &Session,
        (id, layers, went): (&EnvironmentId, &[LayerSummary], &[Going]),
        way: &Way,
        events: &Events,
    ) -> Result<Proof, Failure> {
        let (server, address) = (&session.server, session.server.to_string());
        let digests = layers.iter().map(|layer| &layer.digest).chain(went.iter().map(|going| &going.release.digest));
        let read = || session.standing(id, digests.cloned().collect());
        let there = events.task(&fleet::task("proof", server), &format!("reading what is on {server} again"), read)?;
        let seen = Outside { id, server, standing: &there, is_rehearsal: way.is_rehearsal(), is_new: true }.look();
        let mut checks = inside(session.run(&Request::EnvCheck { id: id.clone() }, &mut |_| ())?);
        if there.seat.is_some() {
            fleet::say_where(&mut checks.items, id, server);
        }
        checks.items.extend(seen);
        Ok(Proof {
            layers: layers.iter().map(|layer| proof(&address, layer, &there)).collect(),
            releases: releases::proof(&address, went, &there),
            checks,
        })
    }
}

fn proof(server: &str, here: &LayerSummary, there: &Standing) -> LayerProof {
    let there = there.layers.iter().find(|layer| layer.digest == here.digest).and_then(|layer| layer.content.clone());
    let (name, digest, here) = (here.name.clone(), here.digest.clone(), here.content.clone());
    LayerProof { server: server.to_owned(), name, digest, here, there }
}

/// What a check says of machines and sites. The names that only the server itself knows are nobody's concern here.
pub(super) fn inside(response: Response) -> Checklist {
    let Response::Check(list) = response else { return Checklist { items: vec![unclear()] } };
    let outside = [CheckStep::Name, CheckStep::Address, CheckStep::Certificate, CheckStep::Proxy];
    let items = list.items.into_iter().filter(|item| !item.step.is_some_and(|step| outside.contains(&step)));
    let items: Vec<_> = items.collect();
    Checklist { items: if items.is_empty() { vec![unclear()] } else { items } }
}

fn unclear() -> CheckItem {
    CheckItem::fault("env:check", "said nothing of its machines", "look with `adt target:check`")
}
