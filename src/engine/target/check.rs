//! `target:check`: is the server as the last promotion left it? `target:history`: what were they?

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::engine::at_once::for_each;
use crate::engine::events::Events;
use crate::engine::target::fleet;
use crate::engine::target::outside::Outside;
use crate::engine::target::proof::inside;
use crate::engine::target::releases;
use crate::model::request::TargetOf;
use crate::model::response::{CheckItem, Checklist, LayerSummary, Standing};
use crate::model::target::{Server, TargetSummary};
use crate::model::{Digest, EnvironmentId, Failure, Request, Response, Size};
use crate::plan::promotion::Going;
use crate::servers::Way;

/// Below this the next promotion may not fit.
const LOW_SPACE: u64 = 2 << 30;

impl Engine {
    pub(in crate::engine) fn target_check(&self, of: &TargetOf, events: &Events) -> Result<Response, Failure> {
        let (target, way) = (self.target_of(of)?, self.way()?);
        let each = for_each(&target.servers, |server| self.check_one(&target, server, &of.id(), &way, events))?;
        let (each, last): (Vec<_>, Vec<_>) = each.into_iter().unzip();
        let mut items: Vec<_> = each.into_iter().flatten().collect();
        let known: BTreeSet<_> = last.into_iter().flatten().collect();
        if known.len() > 1 {
            let remedy = format!("adt env:promote {} <environment> {}, or adt env:rollback", of.platform, of.target);
            items.push(CheckItem::fault(of.id().to_string(), "its servers are at different promotions", remedy));
        }
        Ok(Response::Check(Checklist { items }))
    }

    /// What is to be said of it, and the definition that it had last.
    fn check_one(
        &self,
        target: &TargetSummary,
        server: &Server,
        id: &EnvironmentId,
        way: &Way,
        events: &Events,
    ) -> Result<(Vec<CheckItem>, Option<Digest>), Failure> {
        let remedy = format!("adt env:promote {} <environment> {}", id.platform, id.name);
        let session = match self.enter_server(server, way, events) {
            Ok(session) => session,
            Err(failure) => return Ok((vec![fault(server, &failure, &remedy)], None)),
        };
        let mut items = vec![CheckItem::ok(server.to_string(), host_key(server))];
        let standing = session.standing(id, Vec::new())?;
        items.extend(self.check_access(&session, id, target, &remedy)?);
        items.push(history(id, &standing, &remedy));
        if standing.wanted.is_some() {
            let went = releases::came(&standing);
            let read = standing.stands_on.iter().chain(went.iter().map(|going| &going.release.digest)).cloned().collect();
            let now = session.standing(id, read)?;
            items.extend(check_releases(&standing, &went, &now, &remedy));
            items.extend(self.check_layers(&standing, now.layers, &remedy));
            items.extend(inside(session.run(&Request::EnvCheck { id: id.clone() }, &mut |_| ())?).items);
            items.extend(self.check_records(id, &standing, server, &remedy, events));
            items.extend(Outside { id, server, standing: &standing, is_rehearsal: false, is_new: false }.look());
        }
        let free = format!("{} free", Size(standing.free));
        items.push(match standing.free < LOW_SPACE {
            true => CheckItem::notice("space for layers", free, None),
            false => CheckItem::ok("space for layers", free),
        });
        if target.servers.len() > 1 {
            fleet::say_where(&mut items, id, server);
        }
        Ok((items, standing.promotions.last().map(|last| last.definition.clone())))
    }

    pub(in crate::engine) fn target_history(&self, of: &TargetOf) -> Result<Response, Failure> {
        // A listing is one document, so nothing is told on the way.
        let target = self.target_of(of)?;
        let first = target.servers.first().expect("configuration refuses targets without a server");
        let session = self.enter_server(first, &self.way()?, &Events::unread())?;
        Ok(Response::History(session.standing(&of.id(), Vec::new())?.promotions))
    }

    /// The layers that it stands on, by what came there and by what their files are at this moment.
    fn check_layers(&self, came: &Standing, now: Vec<LayerSummary>, remedy: &str) -> Vec<CheckItem> {
        let content = |all: &[LayerSummary], digest: &Digest| {
            all.iter().find(|layer| layer.digest == *digest).map(|layer| (layer.name.to_string(), layer.content.clone()))
        };
        let each = came.stands_on.iter().map(|digest| {
            let subject = |name: &str| format!("layer {} of box {name}", digest.short());
            match (content(&came.layers, digest), content(&now, digest)) {
                (Some((name, Some(then))), Some((_, Some(now)))) if then == now => {
                    CheckItem::ok(subject(&name), format!("its files are those that came: {}", now.short()))
                }
                (Some((name, Some(_))), Some(_)) => CheckItem::fault(subject(&name), "its files were changed there", remedy),
                (Some((name, None)), _) => CheckItem::notice(subject(&name), "it was built there", None),
                (None, _) | (_, None) => CheckItem::fault(subject("?"), "is not there", remedy),
            }
        });
        each.collect()
    }
}

/// What each site serves, by what came there and by what lies on the shelf at this moment.
fn check_releases(came: &Standing, went: &[Going], now: &Standing, remedy: &str) -> Vec<CheckItem> {
    let lost = came.serves.iter().filter(|(site, _)| !went.iter().any(|going| going.site == **site));
    let lost = lost.map(|(site, _)| CheckItem::fault(format!("site {site}"), "the release that it serves is not there", remedy));
    let each = releases::proof("", went, now).into_iter().map(|proof| {
        let commit = proof.commit.get(..10).unwrap_or(&proof.commit);
        let subject = format!("release {} of site {}, commit {commit}", proof.digest.short(), proof.site);
        match &proof.there {
            Some(content) if proof.is_equal() => {
                CheckItem::ok(subject, format!("its files are those that came: {}", content.short()))
            }
            Some(_) | None => CheckItem::fault(subject, "its files were changed there", remedy),
        }
    });
    lost.chain(each).collect()
}

fn host_key(server: &Server) -> String {
    match &server.host_key {
        Some(fingerprint) => format!("reached; its host key is {fingerprint}"),
        None => "reached; your `known_hosts` knows its host key".to_owned(),
    }
}

fn fault(server: &Server, failure: &Failure, remedy: &str) -> CheckItem {
    let remedy = failure.hints.first().map_or(remedy, String::as_str);
    let seen = failure.causes.iter().chain(&failure.tail).map(String::as_str).collect::<Vec<_>>().join("; ");
    CheckItem::fault(server.to_string(), seen, remedy)
}

fn history(id: &EnvironmentId, standing: &Standing, remedy: &str) -> CheckItem {
    let subject = id.to_string();
    let Some(last) = standing.promotions.last() else {
        return CheckItem::fault(subject, "nothing was promoted there", remedy);
    };
    let time = |seconds| jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string());
    let told = format!("{} by {}, {}", last.deed, last.by, time(last.finished.unwrap_or(last.begun)));
    match last.finished {
        Some(_) => CheckItem::ok(subject, told),
        None => CheckItem::fault(subject, format!("{told}, and it was cut off"), remedy),
    }
}
