//! `box:list`, `box:build`, `box:show`, `box:prune`, `platform:build`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::boxes::schedule::{self, Options, Outcome};
use crate::boxes::{self, Context, Resolved, prune};
use crate::engine::Engine;
use crate::engine::at_once::combine;
use crate::engine::boxes::build_machine::MachineShop;
use crate::engine::environment::records::WORKSHOP;
use crate::engine::events::{Events, milliseconds};
use crate::exec::{Account, HostPath};
use crate::model::response::{BoxDetail, BoxSummary, BuildOutcome, Built, Done, LayerSummary};
use crate::model::topology::Code;
use crate::model::{BoxName, Digest, Event, Failure, Kind, Parent, Platform, PlatformName, Response, Size};
use crate::store::PlatformRecord;
use crate::store::record::Definition;
use crate::template;

/// A machine to build in boots in a second; a host under load may need longer, a broken one never gets there.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

impl Engine {
    /// Builds boxes with all that they stand on; unchanged ones cost nothing.
    pub(in crate::engine) fn build(
        &self,
        all: &[Resolved],
        force: &BTreeSet<BoxName>,
        events: &Events,
    ) -> Result<Vec<Built>, Failure> {
        let shop = MachineShop { engine: self };
        let render = |text: &str, file: &Path, values: &BTreeMap<String, String>| {
            let facts = serde_json::json!({ "vars": values });
            template::render(&file.display().to_string(), text, &facts).map_err(Failure::from)
        };
        let emit = |event: Event| events.emit(event);
        let context = Context {
            store: &self.store.folder,
            workshop: &shop,
            render: &render,
            emit: &emit,
            boot_deadline: BOOT_DEADLINE,
            cancel: &self.cancel,
        };
        let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let in_use = self.layers_in_use()?;
        let since = Instant::now();
        let outcomes = schedule::run(context, all, &Options { jobs, force, in_use: &in_use })
            .map_err(|error| error.failure("build boxes"))?;
        let mut built = Vec::new();
        let mut failures = Vec::new();
        for (resolved, outcome) in all.iter().zip(outcomes) {
            let name = resolved.recipe.name.to_string();
            let (word, digest) = match outcome {
                Outcome::Built(layer) => (BuildOutcome::Built, Some(layer.digest)),
                Outcome::Unchanged(layer) => (BuildOutcome::Unchanged, Some(layer.digest)),
                Outcome::Failed(error) => {
                    failures.push(error.failure(format!("build the box `{name}`")));
                    (BuildOutcome::Failed, None)
                }
                Outcome::Skipped { because } => {
                    events.warn(format!("box `{name}` is left out because `{because}`, which it stands on, failed"));
                    (BuildOutcome::Skipped, None)
                }
            };
            built.push(Built { name, outcome: word, digest, milliseconds: milliseconds(since) });
        }
        if failures.is_empty() { Ok(built) } else { Err(combine(failures)) }
    }

    pub(in crate::engine) fn platform_build(
        &self,
        platform: &PlatformName,
        force: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let record = self.platform(platform)?;
        let platform = self.read_platform(&record)?;
        let needed = self.platform_boxes(&platform, self.keeper(&record).as_ref())?;
        let force = if force { needed.all.iter().map(|one| one.recipe.name.clone()).collect() } else { BTreeSet::new() };
        Ok(Response::Built(self.build(&needed.all, &force, events)?))
    }

    pub(in crate::engine) fn box_build(
        &self,
        platform: Option<&PlatformName>,
        names: &[BoxName],
        force: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let platform = self.readable(platform)?;
        let all = self.with_catalogue(platform.as_ref().map(Kept::folder), |catalogue| {
            let known: Vec<_> = match names {
                [] => catalogue.files().map_err(|error| error.failure("find the recipes of boxes"))?.into_keys().collect(),
                some => some.to_vec(),
            };
            catalogue.resolve_all(&known).map_err(|error| error.failure("find what to build"))
        })?;
        let forced: BTreeSet<BoxName> = match (force, names) {
            (false, _) => BTreeSet::new(),
            (true, []) => all.iter().map(|one| one.recipe.name.clone()).collect(),
            // A forced box is built again, what it stands on is not.
            (true, some) => some.iter().cloned().collect(),
        };
        Ok(Response::Built(self.build(&all, &forced, events)?))
    }

    /// The definition of a platform that may be left out.
    pub(super) fn readable(&self, platform: Option<&PlatformName>) -> Result<Option<Kept>, Failure> {
        let Some(name) = platform else { return Ok(None) };
        let record = self.platform(name)?;
        Ok(Some(Kept { platform: self.read_platform(&record)?, keeper: self.keeper(&record) }))
    }

    pub(in crate::engine) fn box_list(&self, platform: Option<&PlatformName>) -> Result<Response, Failure> {
        let platform = self.readable(platform)?;
        self.with_catalogue(platform.as_ref().map(Kept::folder), |catalogue| {
            let files = catalogue.files().map_err(|error| error.failure("find the recipes of boxes"))?;
            let own = platform.as_ref().map(|kept| &kept.platform);
            let summaries = files.iter().map(|(name, file)| self.box_summary(catalogue, own, name, file));
            Ok(Response::Boxes(summaries.collect::<Result<_, _>>()?))
        })
    }

    fn box_summary(
        &self,
        catalogue: &boxes::Catalogue<'_>,
        platform: Option<&Platform>,
        name: &BoxName,
        file: &Path,
    ) -> Result<BoxSummary, Failure> {
        let origin = match platform {
            Some(platform) if file.starts_with(&platform.folder) => platform.name.to_string(),
            _ if file.starts_with(self.store.folder.join("shipped")) => "shipped".to_owned(),
            _ => "host".to_owned(),
        };
        let summary = BoxSummary {
            name: name.clone(),
            summary: String::new(),
            origin,
            from: String::new(),
            built: false,
            digest: None,
            size: None,
            fault: None,
        };
        let chain = match catalogue.resolve(name) {
            Ok(chain) => chain,
            Err(error) => return Ok(BoxSummary { fault: Some(error.failure("use it").to_string()), ..summary }),
        };
        let last = chain.last().expect("a resolved chain holds at least the box itself");
        let layers = self.layers()?;
        let layer = layers.get(&last.digest).ok();
        // A recipe from a suite is split in two; what its author wrote is the lower one's beginning.
        let written = chain.iter().find(|one| one.recipe.folder == last.recipe.folder).unwrap_or(last);
        let from = match &written.recipe.parent {
            Parent::Box(parent) => parent.name.to_string(),
            Parent::Suite(suite) => format!("suite {suite}"),
            Parent::Rootfs(archive) => format!("rootfs {}", archive.path.display()),
            Parent::Oci(archive) => format!("image {}", archive.path.display()),
        };
        Ok(BoxSummary {
            summary: last.recipe.summary.clone(),
            from,
            built: layer.is_some(),
            digest: Some(last.digest.clone()),
            size: layer.map(|layer| layer.size),
            ..summary
        })
    }

    pub(in crate::engine) fn box_show(&self, platform: Option<&PlatformName>, name: &BoxName) -> Result<Response, Failure> {
        let platform = self.readable(platform)?;
        self.with_catalogue(platform.as_ref().map(Kept::folder), |catalogue| {
            let find = |error: boxes::Error| error.failure(format!("show the box `{name}`"));
            let chain = catalogue.resolve(name).map_err(find)?;
            let last = chain.last().expect("a resolved chain holds at least the box itself");
            let own = platform.as_ref().map(|kept| &kept.platform);
            let summary = self.box_summary(catalogue, own, name, &last.recipe.folder.join("box.toml"))?;
            let layers = self.layers()?;
            let summary_of = |one: &Resolved| {
                let layer = layers.get(&one.digest).ok();
                LayerSummary {
                    name: one.recipe.name.clone(),
                    digest: one.digest.clone(),
                    size: layer.as_ref().map(|layer| layer.size),
                    content: layer.and_then(|layer| layer.content).map(|content| content.sha256),
                }
            };
            let users = self.environments(None)?;
            let users = users
                .iter()
                .filter(|environment| environment.definition.boxes.values().any(|boxed| boxed.layers.contains(&last.digest)));
            Ok(Response::BoxDetail(Box::new(BoxDetail {
                folder: last.recipe.folder.clone(),
                packages: last.recipe.packages.clone(),
                services: last.recipe.services.clone(),
                exposes: last.recipe.exposes.clone(),
                chain: chain.iter().map(summary_of).collect(),
                used_by: users.map(|environment| environment.id.to_string()).collect(),
                summary,
            })))
        })
    }

    /// Layers that machines and volumes stand on, those being made included.
    fn layers_in_use(&self) -> Result<BTreeSet<Digest>, Failure> {
        let environments = self.store.database.environments(None)?;
        let mut all: BTreeSet<Digest> =
            environments.iter().flat_map(|environment| environment.definition.layers()).cloned().collect();
        // A machine that is not reloaded yet may stand on others than its definition says.
        all.extend(self.store.database.applied(None)?.into_iter().flat_map(|(_, spec)| spec.layers));
        all.extend(self.store.snapshots.all()?.iter().flat_map(|(_, snapshot)| snapshot.definition.layers()).cloned());
        all.extend(self.store.promotions.definitions()?.iter().flat_map(Definition::layers).cloned());
        for name in environments.iter().flat_map(|environment| &environment.definition.providers.ever) {
            // Nobody knows what is held by one that can't be asked.
            self.providers.get(name)?;
        }
        for volumes in self.providers.here().filter_map(|(_, provider)| provider.volumes()) {
            all.extend(volumes.held()?);
        }
        Ok(all)
    }

    /// Layers that some present recipe stands for. A recipe that can't be read keeps nothing, but says so.
    fn layers_of_recipes(&self, without: Option<&PlatformName>, events: &Events) -> Result<BTreeSet<Digest>, Failure> {
        let mut all = BTreeSet::new();
        self.with_catalogue(None, |catalogue| {
            for name in catalogue.files().map_err(|error| error.failure("find the recipes of boxes"))?.keys() {
                match catalogue.resolve(name) {
                    Ok(chain) => all.extend(chain.into_iter().map(|one| one.digest)),
                    Err(error) => events.warn(format!("box `{name}` can't be used: {error}")),
                }
            }
            Ok(())
        })?;
        for record in self.store.database.platforms()? {
            if Some(&record.name) == without {
                continue;
            }
            let keeper = self.keeper(&record);
            match self.read_platform(&record).and_then(|platform| self.platform_boxes(&platform, keeper.as_ref())) {
                Ok(needed) => all.extend(needed.all.into_iter().map(|one| one.digest)),
                Err(failure) => events.warn(format!("platform `{}` can't be used: {failure}", record.name)),
            }
        }
        Ok(all)
    }

    pub(in crate::engine) fn box_prune(&self, dry_run: bool, events: &Events) -> Result<Response, Failure> {
        self.sweep_workshop(dry_run, events)?;
        let mut kept = self.layers_in_use()?;
        kept.extend(self.layers_of_recipes(None, events)?);
        let layers = self.layers()?;
        let told = |error: boxes::Error| error.failure("remove unused layers");
        let unused = prune::plan(&layers, &kept).map_err(told)?;
        let (shelf, releases) = self.unused_releases(Code::KEEP as usize)?;
        let bytes: u64 = unused.layers.iter().map(|layer| layer.size).sum::<u64>() + releases.size();
        let mut removes: Vec<_> = unused.layers.iter().map(named).collect();
        removes.extend(unused.halves.iter().map(|half| half.display().to_string()));
        removes.extend(releases.words());
        let count = removes.len();
        let summary = match (count, dry_run) {
            (0, _) => "every layer is in use or stands for a recipe".to_owned(),
            (_, true) => format!("{count} layers and releases would be removed, {}", Size(bytes)),
            (_, false) => format!("{count} layers and releases are removed, {}", Size(bytes)),
        };
        if !dry_run {
            prune::run(&layers, &unused).map_err(told)?;
            self.prune_releases(&shelf, &releases)?;
        }
        Ok(Response::Done(Done { summary, changed: !dry_run && count > 0, removes, ..Done::default() }))
    }

    /// What killed builds left and no build works on.
    fn sweep_workshop(&self, dry_run: bool, events: &Events) -> Result<(), Failure> {
        let workshop = PlatformName::new(WORKSHOP).expect("a constant that is a label");
        for environment in self.store.database.environments(Some(&workshop))? {
            let name = format!("{}.{}", environment.id.platform, environment.id.name);
            let Ok(_lock) = self.store.lock(&name, &self.holder()).attempt()? else { continue };
            events.note(format!("removing what an interrupted build left: {}", environment.id));
            if !dry_run {
                self.drive(&environment, crate::plan::Goal::Gone, false, events)?;
            }
        }
        Ok(())
    }

    /// Removes a platform's entry, and the layers that only its own recipes stand for.
    pub(in crate::engine) fn forget_platform(
        &self,
        record: &PlatformRecord,
        dry_run: bool,
        events: &Events,
    ) -> Result<Vec<String>, Failure> {
        let mut own = BTreeSet::new();
        let mut authors = BTreeSet::from([BTreeSet::from([record.folder.clone()])]);
        if let Ok(platform) = self.read_platform(record)
            && let Ok(needed) = self.platform_boxes(&platform, self.keeper(record).as_ref())
        {
            authors.extend(needed.all.iter().map(|one| one.authors.clone()).filter(|all| all.contains(&record.folder)));
            own.extend(needed.all.into_iter().map(|one| one.digest));
        }
        let mut kept = self.layers_of_recipes(Some(&record.name), events)?;
        if dry_run {
            // Its environments still stand, but they will not.
            let environments = self.store.database.environments(None)?;
            let others = environments.iter().filter(|environment| environment.id.platform != record.name);
            kept.extend(others.flat_map(|one| one.definition.layers()).cloned());
            let snapshots = self.store.snapshots.all()?;
            let others = snapshots.iter().filter(|(id, _)| id.platform != record.name);
            kept.extend(others.flat_map(|(_, snapshot)| snapshot.definition.layers()).cloned());
        } else {
            kept.extend(self.layers_in_use()?);
        }
        let layers = self.layers()?;
        let told = |error: boxes::Error| error.failure("remove the platform's layers");
        let mut unused = prune::plan(&layers, &kept).map_err(told)?;
        unused.layers.retain(|layer| own.contains(&layer.digest));
        unused.halves.clear();
        let mut gone: Vec<_> = unused.layers.iter().map(named).collect();
        gone.extend(self.forget_releases(&record.name, dry_run)?);
        if !dry_run {
            prune::run(&layers, &unused).map_err(told)?;
            authors.iter().try_for_each(|authors| boxes::cache::forget(&self.store.folder, authors)).map_err(told)?;
            // Of an environment that was gone before its process was killed, nobody else would know.
            self.store.sweep_locks(&record.name, &self.holder())?;
            // Before the row goes, as with an environment.
            self.remember("destroyed", record.name.as_str());
            if !self.store.database.forget_platform(&record.name)? {
                return Err(Failure::new(Kind::Conflict, format!("forget the platform `{}`", record.name))
                    .cause("an environment of it was made meanwhile")
                    .hint(format!("`adt platform:destroy {}` removes that one, too", record.name)));
            }
        }
        Ok(gone)
    }
}

/// A platform as its folder says, and whose folder that is.
pub(super) struct Kept {
    pub platform: Platform,
    pub keeper: Option<Account>,
}

impl Kept {
    pub fn folder(&self) -> HostPath<'_> {
        HostPath { path: &self.platform.folder, person: self.keeper.as_ref() }
    }
}

fn named(layer: &prune::Unused) -> String {
    let name = layer.name.as_ref().map_or("damaged", BoxName::as_str);
    format!("layer {} of box {name}", layer.digest.short())
}

impl From<template::Error> for Failure {
    fn from(error: template::Error) -> Self {
        let hint = error.hint();
        let failure = Self::new(Kind::Config, "fill in a template").because(&error);
        failure.hint(hint.unwrap_or_else(|| "give it a value under `[vars]` in `box.toml`".to_owned()))
    }
}
