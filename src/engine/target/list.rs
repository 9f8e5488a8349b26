//! `target:list`, and what a target's name means. Targets are what the platform's folder says now.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Engine;
use crate::model::request::TargetOf;
use crate::model::target::{Target, TargetSummary};
use crate::model::{Edge, Failure, Kind, PlatformName, Response};

impl Engine {
    pub(in crate::engine) fn target_list(&self, platform: Option<&PlatformName>) -> Result<Response, Failure> {
        let records = match platform {
            Some(name) => vec![self.platform(name)?],
            None => self.store.database.platforms()?,
        };
        let mut all = Vec::new();
        for record in records {
            let read = self.read_platform(&record);
            // Of all, one that can't be read hides no other: `platform:list` tells of it.
            let Some(known) = (if platform.is_some() { Some(read?) } else { read.ok() }) else { continue };
            all.extend(known.targets.into_iter().filter_map(|target| summary(&record.name, target)));
        }
        Ok(Response::Targets(all))
    }

    /// A target as its platform's folder says now.
    pub(super) fn target_of(&self, of: &TargetOf) -> Result<TargetSummary, Failure> {
        let targets = self.read_platform(&self.platform(&of.platform)?)?.targets;
        among(targets.into_iter().filter_map(|target| summary(&of.platform, target)).collect(), of)
    }

    /// The same, or one of which nothing is said.
    pub(super) fn target_if_any(&self, of: &TargetOf) -> Result<TargetSummary, Failure> {
        let targets = self.read_platform(&self.platform(&of.platform)?)?.targets;
        let named = targets.into_iter().find(|target| target.name == of.target.as_str());
        Ok(named.and_then(|target| summary(&of.platform, target)).unwrap_or_else(|| TargetSummary {
            platform: of.platform.clone(),
            name: of.target.clone(),
            servers: Vec::new(),
            admin: BTreeSet::new(),
            edge: Edge::default(),
            machines: BTreeMap::new(),
            records: None,
        }))
    }
}

/// One of a platform's targets.
pub fn among(targets: Vec<TargetSummary>, of: &TargetOf) -> Result<TargetSummary, Failure> {
    let failure = Failure::new(Kind::NotFound, format!("find the target `{}` of `{}`", of.target, of.platform));
    let failure = if targets.is_empty() {
        failure.cause("its `platform.toml` has none").hint(format!(
            "add `[targets.{}]` with `servers = [\"root@a.example\"]`; `adt target:rehearse` needs none",
            of.target
        ))
    } else {
        let known: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        failure.hint(format!("its targets are {}", known.join(", ")))
    };
    targets.into_iter().find(|target| target.name == of.target).ok_or(failure)
}

fn summary(platform: &PlatformName, target: Target) -> Option<TargetSummary> {
    let Target { name, servers, admin, edge, machines, records } = target;
    Some(TargetSummary { platform: platform.clone(), name: name.parse().ok()?, servers, admin, edge, machines, records })
}
