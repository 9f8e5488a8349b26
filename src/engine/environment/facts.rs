//! What templates know of an environment, and what becomes of them. Facts are the same for everybody; secrets are asked for by
//! name, so that a sheet of facts never holds one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::ExposeSecret;
use serde_json::Value;

use crate::engine::Engine;
use crate::engine::environment::wanted;
use crate::model::facts::{CodeFacts, DataFacts, FactSheet, Facts, MachineFacts, NetworkFacts, SiteFacts};
use crate::model::{EnvironmentId, Failure, Kind, MachineName, Platform, Response, RoleName, Site};
use crate::store::Environment;
use crate::template::{self, Secret};

/// Stands for every secret where people look.
const MASK: &str = "********";

/// What holds for the whole environment. Pure: from the record alone.
pub fn facts(install: &str, environment: &Environment) -> Facts {
    let definition = &environment.definition;
    let platform = &definition.platform;
    let network = wanted::network(install, environment);
    let host = environment.id.fqdn(&definition.domain);
    let mut machines = BTreeMap::new();
    let mut roles: BTreeMap<RoleName, Vec<MachineFacts>> = BTreeMap::new();
    for machine in &platform.machines {
        for (index, name) in machine.names().into_iter().enumerate() {
            let attachment = network.attach(definition.numbers[&name]);
            let facts = MachineFacts {
                role: machine.role.clone(),
                number: index + 1,
                host: environment.id.machine(&name).fqdn(&definition.domain),
                v4: attachment.v4,
                v6: attachment.v6,
                name: name.clone(),
            };
            roles.entry(machine.role.clone()).or_default().push(facts.clone());
            machines.insert(name, facts);
        }
    }
    Facts {
        env: environment.id.name.clone(),
        platform: environment.id.platform.clone(),
        domain: definition.domain.clone(),
        owner: environment.owner.name.clone(),
        url: format!("https://{host}/"),
        network: NetworkFacts { v4: network.v4.to_string(), v6: network.v6.to_string(), gateway: network.gateway_v4() },
        sites: platform.sites.iter().map(|site| (site.name.clone(), site_facts(site, platform, &host))).collect(),
        data: data_facts(platform),
        host,
        machines,
        roles,
        machine: None,
        site: None,
    }
}

fn site_facts(site: &Site, platform: &Platform, environment: &str) -> SiteFacts {
    let host = format!("{}.{environment}", site.name);
    SiteFacts {
        name: site.name.clone(),
        url: format!("https://{host}/"),
        host,
        role: site.on.clone(),
        port: site.port,
        aliases: site.aliases.clone(),
        machines: platform.machine(&site.on).map(crate::model::Machine::names).unwrap_or_default(),
        code: None,
    }
}

fn data_facts(platform: &Platform) -> BTreeMap<String, DataFacts> {
    let sets = platform.data.iter().filter_map(|set| {
        let machine = platform.machine(&set.machine)?.names().into_iter().next()?;
        let sql = set.sql();
        let facts = DataFacts {
            role: set.machine.clone(),
            machine,
            engine: sql.map(|sql| sql.server.word().to_owned()),
            database: sql.map(|sql| sql.database.clone()),
            user: sql.map(|sql| sql.user.clone()),
        };
        Some((set.name.clone(), facts))
    });
    sets.collect()
}

impl Facts {
    /// The same for what is rendered for one machine.
    pub fn on(&self, machine: &MachineName) -> Self {
        Self { machine: self.machines.get(machine).cloned(), ..self.clone() }
    }

    /// The same for what is rendered for one site.
    pub fn of(&self, site: &Site) -> Self {
        Self { site: self.sites.get(&site.name).cloned(), ..self.clone() }
    }

    /// The same for the files of a site's code.
    pub fn of_code(&self, site: &Site, code: CodeFacts) -> Self {
        let site = self.sites.get(&site.name).map(|facts| SiteFacts { code: Some(code), ..facts.clone() });
        Self { site, ..self.clone() }
    }

    pub fn values(&self) -> Value {
        serde_json::to_value(self).expect("facts have string keys only, so they become JSON")
    }
}

/// A site's own variables, rendered, in the order in which the file names them.
pub fn variables(platform: &Platform, site: &Site, facts: &Facts, secret: &Secret) -> Result<Vec<(String, String)>, Failure> {
    let file = platform.folder.join("platform.toml");
    let values = facts.of(site).values();
    let render = |(key, template): &(String, String)| {
        let name = format!("{}: {key} of [sites.{}.env]", file.display(), site.name);
        Ok((key.clone(), template::render_with(&name, template, &values, secret).map_err(unknown)?))
    };
    site.env.iter().map(render).collect()
}

/// A template of a platform or a site that gave no text.
pub(in crate::engine) fn unknown(error: template::Error) -> Failure {
    let hint = error.hint();
    let failure = Failure::new(Kind::Config, "fill in a template").because(&error);
    failure.hint(hint.unwrap_or_else(|| "`adt env:show --facts` prints what templates know".to_owned()))
}

impl Engine {
    /// What `secret('…')` is in this environment.
    pub(in crate::engine) fn secret(&self, id: &EnvironmentId) -> Result<Secret, Failure> {
        let secrets = self.store.keys.of(id)?;
        Ok(Arc::new(move |name| secrets.get(name).expose_secret().to_owned()))
    }

    /// The declared variables of a site as its phases and processes get them on one machine. They hold secrets: hand them to
    /// programs, never to people.
    pub fn site_env(
        &self,
        environment: &Environment,
        site: &Site,
        machine: &MachineName,
    ) -> Result<Vec<(String, String)>, Failure> {
        self.store.keys.ensure(&environment.id)?;
        let facts = facts(self.store.install(), environment).on(machine);
        variables(&environment.definition.platform, site, &facts, &self.secret(&environment.id)?)
    }

    pub(in crate::engine) fn env_facts(&self, id: &EnvironmentId) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        let platform = &environment.definition.platform;
        let facts = facts(self.store.install(), &environment);
        let names: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let asked = Arc::clone(&names);
        let secret: Secret = Arc::new(move |name| {
            asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
            MASK.to_owned()
        });
        let mut variables = BTreeMap::new();
        for site in platform.sites.iter().filter(|site| !site.env.is_empty()) {
            // What differs between machines is shown for the first.
            let first = platform.machine(&site.on).and_then(|machine| machine.names().into_iter().next());
            let facts = first.map_or_else(|| facts.clone(), |machine| facts.on(&machine));
            let own = self::variables(platform, site, &facts, &secret)?;
            variables.insert(site.name.clone(), own.into_iter().collect());
        }
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        names.extend(platform.data.iter().filter(|set| set.sql().is_some()).map(|set| set.name.clone()));
        let secrets = names.into_iter().map(|name| (name, MASK.to_owned())).collect();
        Ok(Response::Facts(Box::new(FactSheet { facts, variables, secrets })))
    }
}

#[cfg(test)]
pub(in crate::engine) mod tests;
