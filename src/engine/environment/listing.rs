//! `env:list` and `env:show`: one query, one pass over what runs, nothing per environment that grows with their number.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::engine::environment::routes;
use crate::engine::environment::standing::{States, states, with_volumes};
use crate::engine::environment::wanted;
use crate::engine::site::code::Codes;
use crate::engine::site::sites;
use crate::model::machine::SeenVolume;
use crate::model::response::{
    Checklist, EnvironmentDetail, EnvironmentState, EnvironmentSummary, MachineDetail, Url, VolumeDetail,
};
use crate::model::{EnvironmentId, Failure, MachineName, MachineState, PlatformName, ProviderName, Response};
use crate::store::{Damaged, Environment, Readable, Wanted};

/// One damaged record must not hide the others.
fn unreadable(record: Damaged) -> EnvironmentSummary {
    EnvironmentSummary {
        platform: record.platform,
        name: record.name,
        state: EnvironmentState::Broken,
        machines: BTreeMap::new(),
        sites: Vec::new(),
        code: BTreeMap::new(),
        owner: "?".into(),
        shared: false,
        created: 0,
        updated: 0,
        disk: None,
        fault: Some(record.what),
    }
}

/// One word for an environment, from what is wanted and what its machines are.
pub(in crate::engine) fn state_of(environment: &Environment, states: &States) -> EnvironmentState {
    let names = environment.definition.machines_here();
    let all = |test: &dyn Fn(&MachineState) -> bool| names.keys().all(|name| states.get(name).is_some_and(test));
    let any = |test: &dyn Fn(&MachineState) -> bool| states.values().any(test);
    let running = |state: &MachineState| matches!(state, MachineState::Running { .. });
    let frozen = |state: &MachineState| matches!(state, MachineState::Frozen { .. });
    let broken = |state: &MachineState| matches!(state, MachineState::Broken { .. });
    if environment.wanted == Wanted::Gone {
        EnvironmentState::Leaving
    } else if any(&broken) {
        EnvironmentState::Broken
    } else if all(&running) {
        EnvironmentState::Up
    } else if all(&frozen) {
        EnvironmentState::Frozen
    } else if any(&running) || any(&frozen) {
        EnvironmentState::Partial
    } else if environment.wanted == Wanted::Up {
        EnvironmentState::Down
    } else {
        EnvironmentState::Halted
    }
}

fn summary(environment: &Environment, states: &States, codes: &Codes) -> EnvironmentSummary {
    let state = |name: &MachineName| states.get(name).unwrap_or(&MachineState::Absent).word().to_owned();
    let platform = &environment.definition.platform;
    EnvironmentSummary {
        platform: environment.id.platform.to_string(),
        name: environment.id.name.to_string(),
        state: state_of(environment, states),
        machines: environment.definition.machines_here().into_keys().map(|name| (name.clone(), state(&name))).collect(),
        sites: platform.sites.iter().map(|site| site.name.clone()).collect(),
        code: codes.iter().map(|(site, code)| (site.clone(), sites::summary(code))).collect(),
        owner: environment.owner.name.clone(),
        shared: environment.shared,
        created: environment.created,
        updated: environment.updated,
        disk: None,
        fault: None,
    }
}

impl Engine {
    pub(in crate::engine) fn env_list(&self, platform: Option<&PlatformName>) -> Result<Response, Failure> {
        if let Some(platform) = platform {
            self.platform(platform)?;
        }
        let Readable { sound, damaged } = self.readable_environments(platform)?;
        let survey = self.survey(&sound);
        let codes = self.store.database.site_codes(None)?;
        let sizes = self.sizes(&sound);
        let no_codes = Codes::new();
        let own = |environment: &Environment| {
            let codes = codes.get(&environment.id).unwrap_or(&no_codes);
            let summary = EnvironmentSummary {
                disk: sizes.get(&environment.id).copied(),
                ..summary(environment, &survey.of(&environment.id), codes)
            };
            match survey.fault(&environment.definition) {
                None => summary,
                // Nobody knows whether its machines run.
                fault => EnvironmentSummary { state: EnvironmentState::Broken, fault, ..summary },
            }
        };
        let mut all: Vec<_> = sound.iter().map(own).collect();
        all.extend(damaged.into_iter().map(unreadable));
        Ok(Response::Environments(all))
    }

    pub(in crate::engine) fn env_urls(&self, id: &EnvironmentId, check: bool) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        if check {
            return Ok(Response::Check(Checklist { items: self.walk(&environment) }));
        }
        let route = routes::environment(self.store.install(), &environment);
        let home = Url { site: None, url: format!("https://{}/", route.host()) };
        let sites = route.sites.iter().map(|site| Url { site: Some(site.name.clone()), url: format!("https://{}/", site.host) });
        Ok(Response::Urls(std::iter::once(home).chain(sites).collect()))
    }

    pub(in crate::engine) fn env_show(&self, id: &EnvironmentId) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        let states = states(&self.found(id, &self.around_of(&environment.definition)?)?);
        let network = wanted::network(self.store.install(), &environment);
        let definition = &environment.definition;
        let machines = definition.machines_here().into_iter().map(|(name, machine)| {
            let machine_id = id.machine(&name);
            let attachment = network.attach(definition.numbers[&name]);
            MachineDetail {
                role: machine.role.clone(),
                state: states.get(&name).cloned().unwrap_or(MachineState::Absent),
                boxed: machine.boxed.name.clone(),
                fqdn: machine_id.fqdn(&definition.domain),
                addresses: vec![attachment.v4.into(), attachment.v6.into()],
                limits: machine.limits.clone(),
                provider: definition.provider(machine).clone(),
                disk: self.providers.get(definition.provider(machine)).and_then(|provider| provider.disk(&machine_id)).ok(),
                layers: definition.boxes.get(&machine.role).map(|boxed| boxed.layers.clone()).unwrap_or_default(),
                name,
            }
        });
        Ok(Response::Environment(Box::new(EnvironmentDetail {
            id: id.clone(),
            state: state_of(&environment, &states),
            owner: environment.owner.name.clone(),
            shared: environment.shared,
            created: environment.created,
            updated: environment.updated,
            folder: definition.platform.folder.clone(),
            network: environment.network.to_string(),
            machines: machines.collect(),
            sites: self.site_details(&environment)?,
            volumes: self.volume_details(&environment)?,
        })))
    }

    /// The volumes of an environment, those that no machine shows any more included.
    fn volume_details(&self, environment: &Environment) -> Result<Vec<VolumeDetail>, Failure> {
        let definition = &environment.definition;
        let platform = &definition.platform;
        let machines = definition.machines_here();
        let used = |provider: &ProviderName, name: &MachineName, path: &String| {
            let machine = machines.get(name).filter(|machine| definition.provider(machine) == provider);
            machine.is_some_and(|machine| platform.volumes(machine).contains(path))
        };
        let mut all = Vec::new();
        for (provider, volumes) in with_volumes(&self.around_of(definition)?) {
            for seen in volumes.seen(&environment.id)? {
                let size = volumes.size(&environment.id, &seen)?;
                let SeenVolume { machine, path } = seen;
                all.push(VolumeDetail { used: used(provider, &machine, &path), machine, path, size });
            }
        }
        Ok(all)
    }
}
