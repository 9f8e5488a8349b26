//! From a platform's folder to what an environment runs: every role's layers, built where they are missing.

use std::collections::{BTreeMap, BTreeSet};

use crate::boxes::{self, Catalogue, Layers, Resolved};
use crate::config;
use crate::engine::Engine;
use crate::engine::environment::files;
use crate::engine::events::Events;
use crate::engine::site::sites::with_needs;
use crate::exec::{Account, HostPath, on_files_of};
use crate::model::request::SiteWish;
use crate::model::topology::DataEngine;
use crate::model::{
    BoxName, BoxRef, BuildStep, Edge, EnvironmentId, EnvironmentName, Failure, Fault, Kind, Machine, MachineName, Parent,
    Platform, ProviderName, Recipe, RoleName, SiteName,
};
use crate::network::address;
use crate::store::PlatformRecord;
use crate::store::record::{BoxInUse, Definition, Providers};

/// Every box that a platform needs, and which of them each role stands on.
pub(in crate::engine) struct PlatformBoxes {
    /// Parents before children.
    pub all: Vec<Resolved>,
    /// The last of each role's chain: its golden layer, or its box where the platform adds nothing.
    pub roles: BTreeMap<RoleName, Resolved>,
}

/// What an environment brings with it that its platform does not say.
struct Basis<'a> {
    /// Machines keep their addresses.
    numbers: &'a BTreeMap<MachineName, u8>,
    /// And what they hold.
    seeded: &'a BTreeMap<RoleName, u32>,
    /// And stay on their providers.
    providers: Providers,
    sites: Choice<'a>,
}

enum Choice<'a> {
    /// As the user names them: a site without a branch among them means that only these are wanted.
    Named(&'a [SiteWish]),
    Without(&'a BTreeSet<SiteName>),
}

impl Engine {
    /// The definition as the platform's folder has it now, for an environment that is made now.
    pub(in crate::engine) fn definition(
        &self,
        record: &PlatformRecord,
        name: &EnvironmentName,
        sites: &[SiteWish],
        on: Option<&ProviderName>,
        dry_run: bool,
        events: &Events,
    ) -> Result<Definition, Failure> {
        let (numbers, seeded) = (BTreeMap::new(), BTreeMap::new());
        let providers = Providers::new(on.unwrap_or(&self.settings.provider.value).clone(), on.is_some());
        let basis = Basis { numbers: &numbers, seeded: &seeded, providers, sites: Choice::Named(sites) };
        self.define(record, name, &basis, dry_run, events)
    }

    /// The same for an environment that exists: machines that stay keep their addresses.
    pub(in crate::engine) fn definition_from(
        &self,
        record: &PlatformRecord,
        name: &EnvironmentName,
        before: &Definition,
        dry_run: bool,
        events: &Events,
    ) -> Result<Definition, Failure> {
        let providers = before.providers.clone();
        let sites = Choice::Without(&before.left_out);
        let basis = Basis { numbers: &before.numbers, seeded: &before.seeded, providers, sites };
        self.define(record, name, &basis, dry_run, events)
    }

    fn define(
        &self,
        record: &PlatformRecord,
        name: &EnvironmentName,
        basis: &Basis<'_>,
        dry_run: bool,
        events: &Events,
    ) -> Result<Definition, Failure> {
        let mut platform = self.read_platform(record)?;
        if platform.name != record.name {
            return Err(Failure::new(Kind::Conflict, format!("use the platform `{}`", record.name))
                .cause(format!("its folder `{}` now holds the platform `{}`", record.folder.display(), platform.name))
                .hint(format!("add it under its new name with `adt platform:init {}`", record.folder.display())));
        }
        let id = EnvironmentId { platform: record.name.clone(), name: name.clone() };
        config::platform::fits(&platform, &id, &self.settings.domain.value)
            .map_err(|fault| Failure::new(Kind::Usage, format!("give `{id}` its host names")).faults([fault]))?;
        self.check_providers(&platform)?;
        let keeper = self.keeper(record);
        self.check_domain(&platform, keeper.as_ref())?;
        let needed = self.platform_boxes(&platform, keeper.as_ref())?;
        self.build_missing(&needed, dry_run, events)?;
        let mut in_use = BTreeMap::new();
        for (role, resolved) in &needed.roles {
            let chain = needed.chain(resolved);
            let (health, logs, services) = (resolved.health.clone(), resolved.logs.clone(), resolved.services.clone());
            in_use.insert(role.clone(), BoxInUse { layers: chain, health, logs, services });
        }
        for machine in &mut platform.machines {
            machine.host |= needed.roles[&machine.role].host;
        }
        let left_out = leave_out(&mut platform, &basis.sites)?;
        let names: Vec<_> = platform.machines.iter().flat_map(Machine::names).collect();
        let mut definition = Definition {
            placed: BTreeMap::new(),
            seat: None,
            providers: basis.providers.clone(),
            domain: platform.domain_or(&self.settings.domain.value).clone(),
            numbers: address::host_numbers(basis.numbers, &names),
            seeded: basis.seeded.clone(),
            seeds: BTreeMap::new(),
            rewound: None,
            promoted: BTreeMap::new(),
            left_out,
            files: on_files_of(keeper.as_ref(), || files::read(&platform))?,
            boxes: in_use,
            edge: Edge::default(),
            platform,
        };
        let wanted: Vec<_> = definition.platform.machines.iter().map(|machine| definition.provider(machine).clone()).collect();
        for name in &wanted {
            // What this host lacks is told before there is anything, and so is a template that can't be filled in.
            self.providers.get(name)?;
        }
        self.can_be_hosts(&id, &definition)?;
        definition.providers.ever.extend(wanted);
        self.try_files(&id, &definition)?;
        Ok(definition)
    }

    /// Whether every role wishes a provider that there is.
    pub(in crate::engine) fn check_providers(&self, platform: &Platform) -> Result<(), Failure> {
        for wish in platform.machines.iter().filter_map(|machine| machine.provider.as_ref()) {
            if let Err(error) = self.providers.knows(&wish.name) {
                let Some(place) = wish.place.clone() else { return Err(error.into()) };
                let told = Failure::from(error);
                let fault = Fault { message: told.causes.join(": "), hint: Some(told.hints.join("; ")), place: Some(place) };
                let file = platform.folder.join("platform.toml");
                return Err(Failure::new(Kind::Config, format!("use `{}`", file.display())).faults([fault]));
            }
        }
        Ok(())
    }

    /// Machines that are hosts themselves can't be everywhere.
    fn can_be_hosts(&self, id: &EnvironmentId, definition: &Definition) -> Result<(), Failure> {
        for machine in definition.platform.machines.iter().filter(|machine| machine.host) {
            if !self.providers.get(definition.provider(machine))?.hosts() {
                return Err(Failure::new(Kind::Host, format!("make `{id}`, whose `{}` is to be a host itself", machine.role))
                    .cause("this host is a machine itself, and its own machines can't be hosts once more")
                    .hint("run this platform on the real host, or take `host = true` from the role or its box"));
            }
        }
        Ok(())
    }

    fn build_missing(&self, needed: &PlatformBoxes, dry_run: bool, events: &Events) -> Result<(), Failure> {
        let layers = self.layers()?;
        let missing: Vec<_> = needed.all.iter().filter(|one| !layers.has(&one.digest)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|one| one.recipe.name.to_string()).collect();
        events.note(format!("these boxes are not built yet and come first, once: {}", names.join(", ")));
        if dry_run {
            return Ok(());
        }
        // A build takes a while; what can't work is told before it.
        self.builder()?.1.ready()?;
        self.build(&needed.all, &BTreeSet::new(), events).map(drop)
    }

    /// Every box of a platform by name, and whether it is built as its recipe says now.
    pub(in crate::engine) fn boxes_of(
        &self,
        platform: &Platform,
        keeper: Option<&Account>,
    ) -> Result<Vec<(BoxName, bool)>, Failure> {
        let layers = self.layers()?;
        let needed = self.platform_boxes(platform, keeper)?;
        Ok(needed.all.iter().map(|one| (one.recipe.name.clone(), layers.has(&one.digest))).collect())
    }

    pub(in crate::engine) fn layers(&self) -> Result<Layers, Failure> {
        Layers::open(&self.store.folder).map_err(|error| error.failure("open the layers"))
    }

    /// `keeper`: whose rights count in the platform's folder.
    pub(in crate::engine) fn platform_boxes(
        &self,
        platform: &Platform,
        keeper: Option<&Account>,
    ) -> Result<PlatformBoxes, Failure> {
        let folder = HostPath { path: &platform.folder, person: keeper };
        self.with_catalogue(Some(folder), |catalogue| {
            let mut all = Vec::new();
            let mut roles = BTreeMap::new();
            for machine in &platform.machines {
                on_files_of(keeper, || find_seeds(platform, machine))?;
                let chain = resolve(catalogue, platform, machine)?;
                let last = chain.last().expect("a resolved chain holds at least the box itself").clone();
                roles.insert(machine.role.clone(), last);
                boxes::catalogue::merge(&mut all, chain);
            }
            Ok(PlatformBoxes { all, roles })
        })
    }

    /// The recipes that are visible from a platform, or from the host alone.
    pub(in crate::engine) fn with_catalogue<T>(
        &self,
        platform: Option<HostPath<'_>>,
        work: impl FnOnce(&Catalogue<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let catalogue = Catalogue::open(&self.store.folder, platform, &self.settings.boxes.value, &config::recipe::read)
            .map_err(|error| error.failure("find the recipes of boxes"))?;
        work(&catalogue)
    }
}

/// Takes the sites that are not wanted out of a platform, and tells which. What a wanted one needs stays.
fn leave_out(platform: &mut Platform, choice: &Choice<'_>) -> Result<BTreeSet<SiteName>, Failure> {
    let all: BTreeSet<_> = platform.sites.iter().map(|site| site.name.clone()).collect();
    let wanted = match choice {
        Choice::Named(wishes) => {
            let named = with_needs(platform, wishes.iter().map(|wish| &wish.site))?;
            if wishes.iter().any(|wish| wish.branch.is_none()) { named } else { all.clone() }
        }
        Choice::Without(left_out) => with_needs(platform, all.iter().filter(|name| !left_out.contains(*name)))?,
    };
    platform.sites.retain(|site| wanted.contains(&site.name));
    Ok(all.difference(&wanted).cloned().collect())
}

impl PlatformBoxes {
    /// The layers below and including one of them, the base first.
    fn chain(&self, last: &Resolved) -> Vec<crate::model::Digest> {
        let mut chain = vec![last.digest.clone()];
        let mut next = last.parent.as_ref();
        while let Some(parent) = next {
            chain.push(parent.clone());
            next = self.all.iter().find(|one| one.digest == *parent).and_then(|one| one.parent.as_ref());
        }
        chain.reverse();
        chain
    }
}

/// A role's chain: its box, and what the platform's own scripts make of it.
fn resolve(catalogue: &Catalogue<'_>, platform: &Platform, machine: &Machine) -> Result<Vec<Resolved>, Failure> {
    let chain = if machine.provision.is_empty() && seeds(platform, machine).next().is_none() {
        catalogue.resolve(&machine.boxed.name)
    } else {
        catalogue.resolve_recipe(golden(platform, machine))
    };
    chain.map_err(|error| unusable(platform, machine, &error))
}

/// The data that machines of this role start with, in the order of the file.
fn seeds(platform: &Platform, machine: &Machine) -> impl Iterator<Item = BuildStep> {
    let own = platform.data.iter().filter(|set| set.machine == machine.role);
    own.filter_map(|set| {
        let path = set.seed.clone()?;
        Some(match set.engine.clone()? {
            DataEngine::Script => BuildStep::Script(path),
            engine @ (DataEngine::Sql(_) | DataEngine::Files { .. }) => BuildStep::Seed { engine, path },
        })
    })
}

/// A seed that is not there is a fault of the platform, not of a box.
fn find_seeds(platform: &Platform, machine: &Machine) -> Result<(), Failure> {
    for set in platform.data.iter().filter(|set| set.machine == machine.role) {
        let Some(path) = set.seed.as_ref().map(|seed| platform.folder.join(seed)) else { continue };
        let (is_there, missing) = match &set.engine {
            Some(DataEngine::Files { .. }) => (path.is_dir(), "there is no such folder"),
            Some(DataEngine::Sql(_) | DataEngine::Script) | None => (path.is_file(), "there is no such file"),
        };
        if !is_there {
            return Err(Failure::new(Kind::Config, format!("find the seed `{}`", path.display()))
                .cause(missing)
                .hint(format!("put it there, or name another: `seed` of `[data.{}]` in `platform.toml`", set.name)));
        }
    }
    Ok(())
}

/// What a platform adds to a box for one role, in the form of a recipe: built, cached and pruned like any other.
fn golden(platform: &Platform, machine: &Machine) -> Recipe {
    let mut name = format!("{}-{}", platform.name, machine.role);
    if name == machine.boxed.name.as_str() {
        // A platform may call its own box so; the layer on top is another box.
        name = format!("{}-golden", name.chars().take(56).collect::<String>());
    }
    let name = BoxName::new(name.chars().take(63).collect::<String>().trim_end_matches('-'))
        .expect("two labels with a hyphen between them, cut to a label's length, are a label");
    let parent = Parent::Box(BoxRef::new(machine.boxed.name.clone()));
    Recipe {
        summary: format!("{} of {}", machine.role, platform.name),
        steps: machine.provision.iter().cloned().map(BuildStep::Script).chain(seeds(platform, machine)).collect(),
        ..Recipe::bare(name, parent, platform.folder.clone())
    }
}

/// A box that can't be used is a fault at the line that names it, or in its own recipe.
fn unusable(platform: &Platform, machine: &Machine, error: &boxes::Error) -> Failure {
    let (place, hint) = match error {
        boxes::Error::Recipe { source, .. } => return (**source).clone(),
        boxes::Error::Unknown { place: Some(place), .. } => (Some((**place).clone()), None),
        boxes::Error::Cycle { .. } => (None, Some("let one of them start from another box: `from` in its `box.toml`".to_owned())),
        _ => (None, None),
    };
    let Some(place) = place.or_else(|| machine.boxed.place.clone()) else {
        return error.failure(format!("use the box of machine `{}`", machine.role));
    };
    let hints = hint.into_iter().chain(error.hints()).collect::<Vec<_>>();
    let told = error.failure(String::new());
    let fault =
        Fault { message: told.causes.join(": "), place: Some(place), hint: (!hints.is_empty()).then(|| hints.join("; ")) };
    let file = fault.place.as_ref().map_or_else(|| platform.folder.join("platform.toml"), |place| place.file.clone());
    Failure::new(if told.kind == Kind::NotFound { Kind::Config } else { told.kind }, format!("use `{}`", file.display()))
        .faults([fault])
}
