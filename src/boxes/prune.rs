//! Which layers nobody needs any more.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::layer::remove_tree;
use super::{Layers, Result};
use crate::model::{BoxName, Digest};

/// What a prune removes; shown before it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Prune {
    pub layers: Vec<Unused>,
    /// Folders that interrupted builds left.
    pub halves: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unused {
    pub digest: Digest,
    /// `None` where the layer's description is damaged.
    pub name: Option<BoxName>,
    pub size: u64,
}

impl Prune {
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.halves.is_empty()
    }
}

/// `referenced` are the layers that machines stand on and that current recipes resolve to; whatever these stand on is kept too.
/// Builds that run beside it are left alone.
pub fn plan(layers: &Layers, referenced: &BTreeSet<Digest>) -> Result<Prune> {
    let mut kept = BTreeSet::new();
    for digest in referenced.iter().cloned().chain(layers.parents_of_builds()?) {
        let mut next = Some(digest);
        while let Some(digest) = next {
            next = layers.get(&digest).ok().and_then(|layer| layer.parent).filter(|parent| !kept.contains(parent));
            kept.insert(digest);
        }
    }
    let mut unused = Vec::new();
    for digest in layers.digests()?.into_iter().filter(|digest| !kept.contains(digest) && layers.has(digest)) {
        let layer = layers.get(&digest).ok();
        let size = layer.as_ref().map_or(0, |layer| layer.size);
        unused.push(Unused { digest, name: layer.map(|layer| layer.name), size });
    }
    Ok(Prune { layers: unused, halves: layers.halves()? })
}

pub fn run(layers: &Layers, prune: &Prune) -> Result<()> {
    for unused in &prune.layers {
        layers.remove(&unused.digest)?;
    }
    prune.halves.iter().try_for_each(|half| remove_tree(half))
}

#[cfg(test)]
mod tests {
    use super::super::layer::tests::{digest, make};
    use super::*;

    #[test]
    fn what_nothing_refers_to_goes_and_parents_stay() {
        let store = tempfile::tempdir().unwrap();
        let layers = Layers::open(store.path()).unwrap();
        for (number, parent) in [(1, None), (2, Some(1)), (3, Some(2)), (4, Some(1)), (5, None)] {
            make(&layers, number, parent);
        }
        std::fs::write(layers.path(&digest(5)).join("layer.json"), "damaged").unwrap();
        std::fs::create_dir(store.path().join("layers").join(format!(".build-{}", digest(9)))).unwrap();
        let prune = plan(&layers, &BTreeSet::from([digest(3), digest(8)])).unwrap();
        assert_eq!(prune.layers.iter().map(|unused| &unused.digest).collect::<Vec<_>>(), [&digest(4), &digest(5)]);
        assert_eq!(prune.halves.len(), 1);
        run(&layers, &prune).unwrap();
        run(&layers, &prune).unwrap();
        assert_eq!(layers.list().unwrap().len(), 3);
        assert!(plan(&layers, &BTreeSet::from([digest(3)])).unwrap().is_empty());
    }
}
