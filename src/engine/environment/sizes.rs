//! What environments take of the disk beyond their layers. To know it of one that is up, each of its files is looked at, so where
//! many are up a listing tells what was found last and has them measured behind it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::engine::Engine;
use crate::engine::program;
use crate::exec::Command;
use crate::model::{EnvironmentId, Failure};
use crate::store::{Environment, Wanted};

/// As many machines as are looked at while somebody waits: some 10 ms.
const FEW: usize = 8;
/// Not again before this has passed, however often somebody lists.
const REST: Duration = Duration::from_secs(10);

impl Engine {
    /// Of each environment that it can be told of.
    pub(super) fn sizes(&self, environments: &[Environment]) -> BTreeMap<EnvironmentId, u64> {
        let machines = |one: &Environment| one.definition.numbers.len();
        // What is halted was measured when it halted; only what runs can have changed.
        let up = environments.iter().filter(|one| one.wanted == Wanted::Up);
        let many = up.map(machines).sum::<usize>() > FEW;
        if many && let Err(failure) = self.measure_behind() {
            tracing::debug!(%failure, "the next listing tries again");
        }
        let known = |one: &Environment| one.disk.filter(|_| many || one.wanted != Wanted::Up);
        let size = |one: &Environment| Some((one.id.clone(), known(one).or_else(|| self.disk(one))?));
        environments.iter().filter_map(size).collect()
    }

    /// Unless somebody's did a moment ago: its log is as old.
    fn measure_behind(&self) -> Result<(), Failure> {
        let log = self.store.folder.join("cache/sizes.log");
        let begun = std::fs::metadata(&log).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if begun.elapsed().is_ok_and(|age| age < REST) {
            return Ok(());
        }
        let command = Command::new(program()?).arg("internal:sizes").arg("--store").arg(&self.store.folder);
        drop(command.detach(&log)?);
        Ok(())
    }

    /// Measures what is up. For the background.
    pub fn measure(&self) -> Result<(), Failure> {
        for environment in self.environments(None)?.into_iter().filter(|one| one.wanted == Wanted::Up) {
            if let Some(bytes) = self.disk(&environment) {
                self.store.database.note_disk(&environment.id, bytes)?;
            }
        }
        Ok(())
    }

    /// Bytes that an environment has on disk beyond its layers.
    pub(super) fn disk(&self, environment: &Environment) -> Option<u64> {
        let definition = &environment.definition;
        let disk = |(name, machine)| {
            let provider = self.providers.get(definition.provider(machine)).ok()?;
            provider.disk(&environment.id.machine(&name)).ok()
        };
        definition.machines_here().into_iter().map(disk).sum()
    }
}
