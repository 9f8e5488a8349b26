//! `box:export`, `box:import`: layers as one file, to another store and from it.
//!
//! The file is a stream of the caller's own, so these are no requests that travel; what they tell are events and one response, as
//! everywhere.

use std::io::{BufReader, Read, Write};
use std::path::Path;

use crate::boxes::layer::Content;
use crate::boxes::packed::{Packing, Unpacked};
use crate::boxes::{self, Layer, Layers};
use crate::disk::marks::Marks;
use crate::engine::Engine;
use crate::engine::boxes::verbs::Kept;
use crate::engine::events::Events;
use crate::model::request::Export;
use crate::model::response::{Carried, CarryOutcome, LayerSummary};
use crate::model::{Digest, Event, Failure, Kind, Response};

impl Engine {
    /// Writes the layers of boxes, the lowest first, without those that are there already.
    pub fn box_export(
        &self,
        export: &Export,
        to: &mut (dyn Write + Send),
        each: &mut dyn FnMut(Event),
    ) -> Result<Response, Failure> {
        self.with_events(each, |events| {
            let layers = self.layers()?;
            let waiting = |layer: &Layer| events.emit(waits_for(layer));
            let packing = self.packing(&layers, &waiting);
            let mut carried = Vec::new();
            let mut left = export.without.clone();
            for digest in self.layers_to_export(export)? {
                let told = |error: boxes::Error| error.failure("pack the layers");
                let layer = packing.layer(&digest).map_err(told)?;
                // By what it was made of, or by what it is: whoever asks the receiver may know either.
                let names = [Some(&digest), layer.content.as_ref().map(|content| &content.sha256)];
                let known: Vec<_> = names.into_iter().flatten().filter(|name| export.without.contains(*name)).collect();
                left.retain(|name| !known.contains(&name));
                if !known.is_empty() {
                    carried.push(told_of(layer, CarryOutcome::LeftOut));
                    continue;
                }
                let layer = events.task(&task(&layer), "pack", || packing.pack(&digest, to)).map_err(told)?;
                carried.push(told_of(layer, CarryOutcome::Packed));
            }
            for digest in left {
                events.note(format!("`{digest}` is no layer of these boxes; nothing is left out for it"));
            }
            to.flush().map_err(|error| Failure::new(Kind::Host, "write the layers").because(&error))?;
            Ok(Response::Carried(carried))
        })
    }

    /// Puts the layers of a file into the store; `name` is the file's, for messages.
    pub fn box_import(
        &self,
        from: &mut (dyn Read + Send),
        name: &Path,
        each: &mut dyn FnMut(Event),
    ) -> Result<Response, Failure> {
        self.with_events(each, |events| {
            let layers = self.layers()?;
            let waiting = |layer: &Layer| events.emit(waits_for(layer));
            let packing = self.packing(&layers, &waiting);
            let mut from = BufReader::with_capacity(1 << 17, from);
            let mut carried = Vec::new();
            let told = |error: boxes::Error| error.failure(format!("take in the layers of `{}`", name.display()));
            while let Some(layer) = packing.unpack(&mut from, name).map_err(told)? {
                let (layer, outcome, word) = match layer {
                    Unpacked::New(layer) => (layer, CarryOutcome::Imported, "is here now"),
                    Unpacked::There(layer) => (layer, CarryOutcome::There, "was here already"),
                };
                events.note(format!("{} {word}", task(&layer)));
                carried.push(told_of(layer, outcome));
            }
            if carried.is_empty() {
                return Err(Failure::new(Kind::Config, format!("take in the layers of `{}`", name.display()))
                    .cause("it holds none")
                    .hint("`adt box:export` writes what can be imported"));
            }
            Ok(Response::Carried(carried))
        })
    }

    /// Writes these layers, each after what it stands on. For a connection of our own, which is no file that somebody named.
    pub(in crate::engine) fn send_layers(
        &self,
        digests: &[Digest],
        to: &mut (dyn Write + Send),
        events: &Events,
    ) -> Result<(), Failure> {
        let layers = self.layers()?;
        let waiting = |layer: &Layer| events.emit(waits_for(layer));
        let packing = self.packing(&layers, &waiting);
        let told = |error: boxes::Error| error.failure("pack the layers");
        for digest in digests {
            let layer = packing.layer(digest).map_err(told)?;
            events.task(&task(&layer), "send", || packing.pack(digest, to)).map_err(told)?;
        }
        to.flush().map_err(|error| Failure::new(Kind::Host, "send the layers").because(&error))
    }

    /// Layers with their contents, which are found out and kept where nobody asked before.
    pub(in crate::engine) fn contents(&self, digests: &[Digest], events: &Events) -> Result<Vec<LayerSummary>, Failure> {
        let layers = self.layers()?;
        let waiting = |layer: &Layer| events.emit(waits_for(layer));
        let packing = self.packing(&layers, &waiting);
        let read = |digest: &Digest| packing.layer(digest).map(summary).map_err(|error| error.failure("read the layers"));
        digests.iter().map(read).collect()
    }

    /// Every whole layer as its record tells it, and those that are named as their files are at this moment.
    pub(in crate::engine) fn layers_there(&self, read_again: &[Digest]) -> Result<Vec<LayerSummary>, Failure> {
        let layers = self.layers()?;
        let told = |error: boxes::Error| error.failure("read the layers");
        let packing = self.packing(&layers, &|_| ());
        let all = layers.list().map_err(told)?.into_iter().filter_map(Result::ok);
        let each = all.map(|layer| {
            let content = read_again.contains(&layer.digest).then(|| packing.read_again(&layer)).transpose().map_err(told)?;
            Ok(summary(Layer { content: content.or_else(|| layer.content.clone()), ..layer }))
        });
        each.collect()
    }

    fn packing<'a>(&'a self, layers: &'a Layers, waiting: &'a (dyn Fn(&Layer) + Sync)) -> Packing<'a> {
        Packing { layers, marks: Marks::here(), cancel: &self.cancel, waiting }
    }

    /// Each layer once, after what it stands on.
    fn layers_to_export(&self, export: &Export) -> Result<Vec<Digest>, Failure> {
        let platform = self.readable(export.platform.as_ref())?;
        let resolved = match (export.boxes.as_slice(), &platform) {
            ([], Some(kept)) => self.platform_boxes(&kept.platform, kept.keeper.as_ref())?.all,
            ([], None) => {
                return Err(Failure::new(Kind::Usage, "pack the layers")
                    .cause("no box is named")
                    .hint("name boxes, or a platform with `-p` for all that it needs; `adt box:list` shows them"));
            }
            (names, _) => self.with_catalogue(platform.as_ref().map(Kept::folder), |catalogue| {
                catalogue.resolve_all(names).map_err(|error| error.failure("find the boxes"))
            })?,
        };
        Ok(resolved.into_iter().map(|one| one.digest).collect())
    }
}

fn waits_for(layer: &Layer) -> Event {
    Event::Waiting { on: format!("box `{}`", layer.name), holder: "a build or import of it".into() }
}

/// A layer in the words of events.
fn task(layer: &Layer) -> String {
    format!("layer {} of box {}", layer.digest.short(), layer.name)
}

fn summary(layer: Layer) -> LayerSummary {
    let bytes = layer.content.as_ref().map_or(layer.size, |content| content.bytes);
    let content = layer.content.map(|Content { sha256, .. }| sha256);
    LayerSummary { name: layer.name, digest: layer.digest, content, size: Some(bytes) }
}

fn told_of(layer: Layer, outcome: CarryOutcome) -> Carried {
    let content = layer.content.map(|Content { sha256, .. }| sha256);
    Carried { name: layer.name, digest: layer.digest, content, size: layer.size, outcome }
}
