//! Which providers the machines of an environment stand on: what its record says, and where they are seen.
//!
//! What concerns one machine goes to the provider of its specification. What concerns a whole environment goes to all that its
//! record names, and without a record to all that this host has. Nobody here asks which one a provider is.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Engine;
use crate::model::{EnvironmentId, Failure, MachineId, MachineName, MachineState, ProviderName};
use crate::providers::{Provider, Volumes};
use crate::store::Environment;
use crate::store::record::Definition;

/// What the machines of one environment are.
pub(in crate::engine) type States = BTreeMap<MachineName, MachineState>;

/// Providers with their names.
pub(in crate::engine) type Several<'a> = Vec<(&'a ProviderName, &'a dyn Provider)>;

/// Those that have volumes.
pub(in crate::engine) fn with_volumes<'a>(
    around: &[(&'a ProviderName, &'a dyn Provider)],
) -> impl Iterator<Item = (&'a ProviderName, &'a dyn Volumes)> {
    around.iter().filter_map(|(name, provider)| Some((*name, provider.volumes()?)))
}

/// A machine that is there.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) struct Found {
    /// Where something of it is: one, but for a store that was lost or put back while a machine moved.
    pub on: BTreeSet<ProviderName>,
    pub state: MachineState,
}

impl Found {
    fn also(&mut self, provider: &ProviderName) {
        self.on.insert(provider.clone());
        let all: Vec<_> = self.on.iter().map(ToString::to_string).collect();
        self.state = MachineState::Broken { reason: format!("it is on several providers: {}", all.join(", ")) };
    }
}

impl Engine {
    /// The provider of a machine that its environment has.
    pub fn provider_of(&self, id: &MachineId) -> Result<&dyn Provider, Failure> {
        let definition = self.environment(&id.environment)?.definition;
        let machines = definition.machines_here();
        let wanted = machines.get(&id.machine).map_or(&definition.providers.usual, |machine| definition.provider(machine));
        Ok(self.providers.get(wanted)?)
    }

    /// All that machines or data of an environment may be on.
    pub(in crate::engine) fn around(&self, id: &EnvironmentId) -> Result<Several<'_>, Failure> {
        self.around_known(self.known(id)?.as_ref())
    }

    /// The same by the record, where that is known.
    pub(in crate::engine) fn around_known(&self, record: Option<&Environment>) -> Result<Several<'_>, Failure> {
        match record {
            Some(environment) => self.around_of(&environment.definition),
            // Perhaps a damaged store was replaced, perhaps the record is damaged: what is there is found by name.
            None => Ok(self.providers.here().collect()),
        }
    }

    /// The record, if there is a sound one.
    pub(in crate::engine) fn known(&self, id: &EnvironmentId) -> Result<Option<Environment>, Failure> {
        match self.store.database.environment(id) {
            Err(crate::store::Error::BadEnvironment { .. }) => Ok(None),
            record => Ok(record?),
        }
    }

    pub(in crate::engine) fn around_of(&self, definition: &Definition) -> Result<Several<'_>, Failure> {
        definition.providers.ever.iter().map(|name| Ok(self.providers.named(name)?)).collect()
    }

    /// The machines of one environment that are there, on whichever of these providers.
    pub(in crate::engine) fn found(
        &self,
        id: &EnvironmentId,
        around: &[(&ProviderName, &dyn Provider)],
    ) -> Result<BTreeMap<MachineName, Found>, Failure> {
        let mut all: BTreeMap<MachineName, Found> = BTreeMap::new();
        for (name, provider) in around {
            for (machine, state) in provider.machines(id)? {
                add(&mut all, machine, name, state);
            }
        }
        Ok(all)
    }

    /// The machines of these environments and their states, for listings: one look at each provider that they name. One that
    /// can't be asked hides the machines of no other; who is on it is told why.
    pub(in crate::engine) fn survey(&self, environments: &[Environment]) -> Survey {
        let named = environments.iter().flat_map(|environment| &environment.definition.providers.ever);
        let mut survey = Survey::default();
        for name in named.collect::<BTreeSet<_>>() {
            match self.providers.get(name).and_then(Provider::list) {
                Ok(list) => {
                    for (id, state) in list {
                        add(survey.found.entry(id.environment).or_default(), id.machine, name, state);
                    }
                }
                Err(error) => drop(survey.silent.insert(name.clone(), error.to_string())),
            }
        }
        survey
    }
}

fn add(all: &mut BTreeMap<MachineName, Found>, machine: MachineName, provider: &ProviderName, state: MachineState) {
    match all.get_mut(&machine) {
        Some(found) => found.also(provider),
        None => drop(all.insert(machine, Found { on: [provider.clone()].into(), state })),
    }
}

/// What providers say of many environments.
#[derive(Debug, Default)]
pub(in crate::engine) struct Survey {
    found: BTreeMap<EnvironmentId, BTreeMap<MachineName, Found>>,
    /// Those that could not be asked, and why.
    silent: BTreeMap<ProviderName, String>,
}

impl Survey {
    pub fn of(&self, id: &EnvironmentId) -> States {
        states(self.found.get(id).into_iter().flatten())
    }

    /// Why nothing is known of some of an environment's machines.
    pub fn fault(&self, definition: &Definition) -> Option<String> {
        definition.providers.ever.iter().find_map(|name| self.silent.get(name)).cloned()
    }
}

/// The states alone.
pub(in crate::engine) fn states<'f>(found: impl IntoIterator<Item = (&'f MachineName, &'f Found)>) -> States {
    found.into_iter().map(|(name, found)| (name.clone(), found.state.clone())).collect()
}
