//! How far a receiver has got, in a file that is the old one or the new one whatever happens: who comes after a kill goes on there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::logs::{Marks, Record};
use crate::model::{EnvironmentId, MachineId, MachineName};
use crate::store::{Damaged, Readable};

pub struct Kept {
    path: PathBuf,
    environments: BTreeMap<EnvironmentId, Got>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Got {
    /// An environment that is made anew under the same name starts from its own beginning.
    created: i64,
    machines: BTreeMap<MachineName, Marks>,
}

impl Kept {
    /// A file that can't be read means sending again what is still there, which is better than sending nothing.
    pub fn open(path: &Path) -> Self {
        let read = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Vec<(EnvironmentId, Got)>>(&bytes).ok());
        Self { path: path.to_owned(), environments: read.unwrap_or_default().into_iter().collect() }
    }

    /// Forgets what is gone, and what has only the name of what was. What can't be read may be mended.
    pub fn only(&mut self, environments: &Readable) {
        let created: BTreeMap<_, _> = environments.sound.iter().map(|one| (&one.id, one.created)).collect();
        let unknown: BTreeSet<_> = environments.damaged.iter().filter_map(Damaged::id).collect();
        self.environments.retain(|id, got| created.get(id) == Some(&got.created) || unknown.contains(id));
        for (id, created) in created {
            self.environments.entry(id.clone()).or_insert_with(|| Got { created, machines: BTreeMap::new() });
        }
    }

    pub fn all(&self) -> BTreeMap<MachineId, Marks> {
        let each = |(id, got): (&EnvironmentId, &Got)| {
            got.machines.iter().map(|(name, marks)| (id.machine(name), marks.clone())).collect::<Vec<_>>()
        };
        self.environments.iter().flat_map(each).collect()
    }

    /// After these were taken.
    pub fn advance(&mut self, records: &[Record]) -> std::io::Result<()> {
        for record in records {
            let id = &record.origin.id;
            if let (Some(mark), Some(got)) = (&record.mark, self.environments.get_mut(&id.environment)) {
                got.machines.entry(id.machine.clone()).or_default().advance(mark);
            }
        }
        self.save()
    }

    fn save(&self) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let list: Vec<_> = self.environments.iter().collect();
        disk::File::at(&self.path).write(serde_json::to_vec(&list)?)
    }
}
