//! Several boxes at once: each as soon as what it stands on is there, some at a time, and a failure stops only what stands on it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::mpsc;

use super::packed::Packing;
use super::task::Teller;
use super::{Context, Error, Layer, Layers, Resolved, Result, base, build};
use crate::disk::marks::Marks;
use crate::model::{BoxName, Digest, Event};

pub struct Options<'a> {
    /// How many are built at the same time.
    pub jobs: NonZeroUsize,
    /// Built again although their layers are there.
    pub force: &'a BTreeSet<BoxName>,
    /// Layers that machines stand on; they are never replaced.
    pub in_use: &'a BTreeSet<Digest>,
}

#[derive(Debug)]
pub enum Outcome {
    Built(Layer),
    Unchanged(Layer),
    Failed(Error),
    /// What it stands on could not be built.
    Skipped {
        because: BoxName,
    },
}

impl Outcome {
    pub fn is_there(&self) -> bool {
        matches!(self, Self::Built(_) | Self::Unchanged(_))
    }
}

/// Builds all of them and tells what became of each, in the order of `boxes`; parents come before their children there, as
/// [`super::Catalogue::resolve_all`] returns them.
pub fn run(context: Context<'_>, boxes: &[Resolved], options: &Options<'_>) -> Result<Vec<Outcome>> {
    let layers = Layers::open(context.store)?;
    let mut outcomes: Vec<Option<Outcome>> = boxes.iter().map(|_| None).collect();
    let mut started = vec![false; boxes.len()];
    let (sender, done) = mpsc::channel();
    std::thread::scope(|scope| {
        let mut running = 0;
        loop {
            skip_orphans(boxes, &mut outcomes);
            for index in 0..boxes.len() {
                if running < options.jobs.get() && !started[index] && outcomes[index].is_none() && ready(boxes, &outcomes, index)
                {
                    started[index] = true;
                    running += 1;
                    let (layers, sender) = (&layers, sender.clone());
                    scope.spawn(move || {
                        let outcome = one(context, layers, &boxes[index], options).unwrap_or_else(Outcome::Failed);
                        sender.send((index, outcome)).expect("the receiver lives as long as the scope");
                    });
                }
            }
            if running == 0 {
                break;
            }
            let (index, outcome) = done.recv().expect("a sender lives as long as the scope");
            outcomes[index] = Some(outcome);
            running -= 1;
        }
    });
    Ok(outcomes.into_iter().map(|outcome| outcome.expect("parents come first, so every box had its turn")).collect())
}

fn parent_of(boxes: &[Resolved], index: usize) -> Option<usize> {
    let parent = boxes[index].parent.as_ref()?;
    boxes.iter().position(|one| one.digest == *parent)
}

/// A parent that isn't among them is in the store already, or the build says that it is missing.
fn ready(boxes: &[Resolved], outcomes: &[Option<Outcome>], index: usize) -> bool {
    parent_of(boxes, index).is_none_or(|parent| outcomes[parent].as_ref().is_some_and(Outcome::is_there))
}

fn skip_orphans(boxes: &[Resolved], outcomes: &mut [Option<Outcome>]) {
    for index in 0..boxes.len() {
        let Some(parent) = parent_of(boxes, index).filter(|_| outcomes[index].is_none()) else { continue };
        let because = match &outcomes[parent] {
            Some(Outcome::Failed(_)) => boxes[parent].recipe.name.clone(),
            Some(Outcome::Skipped { because }) => because.clone(),
            Some(Outcome::Built(_) | Outcome::Unchanged(_)) | None => continue,
        };
        outcomes[index] = Some(Outcome::Skipped { because });
    }
}

/// One box, unless its layer is there.
fn one(context: Context<'_>, layers: &Layers, resolved: &Resolved, options: &Options<'_>) -> Result<Outcome> {
    let Resolved { recipe, digest, parent, .. } = resolved;
    let teller = Teller::new(context, &recipe.name);
    let force = options.force.contains(&recipe.name);
    context.check_cancelled(recipe.name.as_str())?;
    if let Some(layer) = unchanged(layers, &teller, digest, force) {
        layers.drop_idle_lock(digest);
        return Ok(Outcome::Unchanged(layer));
    }
    let waiting =
        || (context.emit)(Event::Waiting { on: format!("box `{}`", recipe.name), holder: "another build of it".into() });
    let lock = layers.lock(digest, parent.as_ref(), context.cancel, &waiting)?;
    if let Some(layer) = unchanged(layers, &teller, digest, force) {
        return Ok(Outcome::Unchanged(layer));
    }
    let children = if layers.has(digest) { replaceable(layers, resolved, options.in_use)? } else { Vec::new() };
    let draft = layers.begin(digest, lock)?;
    let made = match parent {
        None => base::make(&teller, resolved, &draft),
        Some(_) => build::make(&teller, resolved, layers, &draft),
    };
    made.map_err(|error| teller.explain(error))?;
    // What stood on the old files doesn't fit the new ones.
    children.iter().try_for_each(|child| layers.remove(child))?;
    let layer = describe(resolved);
    let packing = Packing { layers, marks: Marks::here(), cancel: context.cancel, waiting: &|_| {} };
    let content = match packing.content(&layer, &draft.rootfs()) {
        // A box that no other host can take in serves this one.
        Err(Error::CantTravel { .. }) => None,
        found => Some(found?),
    };
    draft.finish(Layer { content, ..layer }).map(Outcome::Built).map_err(|error| teller.explain(error))
}

/// A damaged layer is as good as none: it is built again.
fn unchanged(layers: &Layers, teller: &Teller<'_>, digest: &Digest, force: bool) -> Option<Layer> {
    if force || !layers.has(digest) {
        return None;
    }
    layers.get(digest).inspect_err(|error| teller.warn(format!("box `{}` is built again: {error}", teller.name))).ok()
}

/// Every layer above one that is replaced, unless a machine stands on any of them.
fn replaceable(layers: &Layers, resolved: &Resolved, in_use: &BTreeSet<Digest>) -> Result<Vec<Digest>> {
    let stands_on = |digest: &Digest| layers.chain(digest).is_ok_and(|chain| chain.contains(&resolved.digest));
    let mut above = layers.digests()?;
    above.retain(|digest| *digest == resolved.digest || stands_on(digest));
    if let Some(digest) = above.iter().find(|digest| in_use.contains(digest)) {
        return Err(Error::LayerInUse { name: resolved.recipe.name.clone(), digest: digest.clone() });
    }
    above.retain(|digest| *digest != resolved.digest);
    Ok(above)
}

fn describe(resolved: &Resolved) -> Layer {
    let recipe = &resolved.recipe;
    Layer {
        name: recipe.name.clone(),
        digest: resolved.digest.clone(),
        parent: resolved.parent.clone(),
        created: jiff::Timestamp::now(),
        size: 0,
        summary: recipe.summary.clone(),
        packages: recipe.packages.clone(),
        exposes: recipe.exposes.clone(),
        health: resolved.health.clone(),
        content: None,
    }
}
