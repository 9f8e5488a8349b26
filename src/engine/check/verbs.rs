//! `host:check`, `platform:check`, `env:check`: probes of what is really there, each with a verdict and a remedy.

use std::collections::BTreeSet;
use std::path::Path;

use crate::engine::Engine;
use crate::engine::host::requirement::REQUIREMENTS;
use crate::model::response::{CheckItem, Checklist};
use crate::model::{EnvironmentId, EnvironmentName, Failure, PlatformName, ProviderName, Response, Size};
use crate::network::{address, forward_trouble};
use crate::providers::Provider;
use crate::store::{PlatformRecord, pool};

/// Below this a box build may not fit.
const LOW_SPACE: u64 = 5 << 30;

/// A check that could not be made is a fault among the others, not the end of the list.
fn told(subject: impl Into<String>, failure: &Failure, remedy: &str) -> CheckItem {
    CheckItem::fault(subject, failure.to_string(), failure.hints.first().map_or(remedy, String::as_str))
}

fn check_space(what: &Path, folder: &Path) -> CheckItem {
    let subject = format!("space for {}", what.display());
    match rustix::fs::statvfs(folder) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let seen = format!("{} free", Size(free));
            if free < LOW_SPACE {
                CheckItem::notice(subject, seen, Some("adt box:prune".into()))
            } else {
                CheckItem::ok(subject, seen)
            }
        }
        Err(error) => CheckItem::fault(subject, error.to_string(), "choose another `store` in /etc/adt/adt.toml"),
    }
}

impl Engine {
    pub(in crate::engine) fn host_check(&self) -> Result<Response, Failure> {
        let mut items: Vec<_> = self
            .settings
            .rows()
            .into_iter()
            .map(|(key, value, origin)| {
                let value = if value.is_empty() { "none".to_owned() } else { value };
                CheckItem::ok(format!("setting {key}"), format!("{value} ({origin})"))
            })
            .collect();
        items.extend(REQUIREMENTS.iter().map(|requirement| requirement.item()));
        let environments = self.store.database.readable_environments(None)?.sound;
        let mut used: BTreeSet<_> = environments.iter().flat_map(|environment| &environment.definition.providers.ever).collect();
        used.insert(&self.settings.provider.value);
        for name in &used {
            items.push(self.check_provider(name));
            items.extend(self.check_machines(name));
        }
        items.extend(self.check_ids(&used));
        items.push(check_space(&self.store.folder, &self.store.folder));
        if self.has_pool() {
            // A pool can be full before it says so: its disk gives out.
            let file = pool::file(&self.store.folder);
            items.push(check_space(&file, file.parent().unwrap_or(Path::new("/"))));
        }
        items.push(self.check_sharing());
        items.push(self.check_pool().unwrap_or_else(|failure| told("store", &failure, "adt env:list")));
        items.push(match self.nameservers().as_slice() {
            [] => CheckItem::fault(
                "name servers for machines",
                "none that a machine can reach",
                "set `nameservers` in /etc/adt/adt.toml",
            ),
            some => {
                CheckItem::ok("name servers for machines", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        });
        items.push(match forward_trouble() {
            None => CheckItem::ok("other firewalls", "none drops machines' traffic"),
            Some(trouble) => CheckItem::notice("other firewalls", trouble, None),
        });
        items.extend(self.check_orphans().unwrap_or_else(|failure| vec![told("networks", &failure, "adt env:list")]));
        items.extend(self.check_entrance().unwrap_or_else(|failure| vec![told("names and pages", &failure, "adt env:list")]));
        Ok(Response::Check(Checklist { items }))
    }

    fn check_provider(&self, name: &ProviderName) -> CheckItem {
        match self.providers.get(name).and_then(Provider::ready) {
            Ok(seen) => CheckItem::ok(format!("provider {name}"), seen),
            Err(error) => CheckItem::fault(format!("provider {name}"), error.to_string(), "adt host:bootstrap"),
        }
    }

    fn check_ids(&self, used: &BTreeSet<&ProviderName>) -> Vec<CheckItem> {
        let subject = "ids of machines";
        let used = used.iter().filter_map(|name| self.providers.get(name).ok());
        let troubles: Vec<_> = used.flat_map(|provider| provider.troubles()).collect();
        if troubles.is_empty() {
            return vec![CheckItem::ok(subject, format!("{} and those on disk are nobody else's", self.settings.pool_ids.value))];
        }
        troubles.into_iter().map(|trouble| CheckItem::notice(subject, trouble.seen, Some(trouble.remedy))).collect()
    }

    fn check_pool(&self) -> Result<CheckItem, Failure> {
        let pool = self.settings.pool_v4.value;
        let taken: Vec<_> = self.store.database.environments(None)?.iter().map(|environment| environment.network).collect();
        let subject = format!("address pool {pool}");
        Ok(match address::allocate(pool, &taken, &self.network.routes()?) {
            Ok(next) => CheckItem::ok(subject, format!("{} networks in use, {next} is next", taken.len())),
            Err(error) => CheckItem::fault(subject, error.to_string(), "choose another `pool_v4` in /etc/adt/adt.toml"),
        })
    }

    /// Kernel objects of this store that no environment accounts for.
    fn check_orphans(&self) -> Result<Vec<CheckItem>, Failure> {
        let known = self.store.database.environments(None)?;
        let install = self.store.install();
        let orphans = self.network.list()?.into_iter().filter_map(|(_, note)| {
            let (owner, name) = note.split_once(' ')?;
            let mine = owner == install && !known.iter().any(|environment| environment.id.to_string() == name);
            mine.then(|| {
                let remedy = format!("adt env:destroy {}", name.replace('/', " "));
                CheckItem::fault(format!("network of {name}"), "there, but the environment is not", remedy)
            })
        });
        Ok(orphans.collect())
    }

    pub(in crate::engine) fn env_check(&self, id: &EnvironmentId) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        Ok(Response::Check(Checklist { items: self.examine(&environment)? }))
    }

    pub(in crate::engine) fn platform_check(
        &self,
        platform: &PlatformName,
        names: &[EnvironmentName],
    ) -> Result<Response, Failure> {
        let record = self.platform(platform)?;
        let file = record.folder.join("platform.toml");
        let mut items = vec![match self.read_platform(&record) {
            Ok(_) => CheckItem::ok(format!("{}", file.display()), "sound"),
            Err(failure) => told(file.display().to_string(), &failure, "correct the file"),
        }];
        items.extend(self.check_boxes(&record));
        for environment in self.chosen(platform, names)? {
            let examined = self.examine(&environment)?;
            items.extend(examined.into_iter().map(|item| CheckItem { environment: Some(environment.id.clone()), ..item }));
        }
        Ok(Response::Check(Checklist { items }))
    }

    fn check_boxes(&self, record: &PlatformRecord) -> Vec<CheckItem> {
        let Ok(definition) = self.read_platform(record) else { return Vec::new() };
        let platform = &record.name;
        match self.boxes_of(&definition, self.keeper(record).as_ref()) {
            Ok(boxes) => boxes
                .into_iter()
                .map(|(name, built)| {
                    let subject = format!("box {name}");
                    if built {
                        CheckItem::ok(subject, "built")
                    } else {
                        let remedy = format!("adt platform:build {platform}");
                        CheckItem::notice(subject, "not built in its present form", Some(remedy))
                    }
                })
                .collect(),
            Err(failure) => vec![CheckItem::fault("boxes", failure.to_string(), "correct the recipe")],
        }
    }
}
