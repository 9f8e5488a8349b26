//! The server's side of a promotion: what is there, who is at it, and an environment that becomes what it is told to be.
//!
//! The environment is no ticket's of this host: no platform's folder stands for it, only its definition, as it came. So it is never
//! built here, and `env:reload` has nothing to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::config;
use crate::engine::Engine;
use crate::engine::environment::perform::done;
use crate::engine::environment::records::leaving;
use crate::engine::environment::reload::{refuse_moves_of_data, seeds_of};
use crate::engine::environment::snapshot::unfinished;
use crate::engine::events::Events;
use crate::engine::host::service;
use crate::engine::permission::Right;
use crate::engine::site::code::Codes;
use crate::model::response::Standing;
use crate::model::snapshot::Reason;
use crate::model::target::{Deed, Promoted};
use crate::model::{Digest, EnvironmentId, Event, Failure, Kind, Machine, Response};
use crate::network::address;
use crate::plan::Goal;
use crate::store::promotions::Entry;
use crate::store::record::Definition;
use crate::store::{Environment, Holder, Lock, Wanted};
use crate::tls;

/// So long one waits for a holder who may just be leaving.
const LEAVING: Duration = Duration::from_secs(5);

/// What comes from an operator.
pub struct Brought<'a> {
    pub id: &'a EnvironmentId,
    pub by: &'a str,
    pub from: &'a EnvironmentId,
    /// A definition as JSON.
    pub text: &'a [u8],
}

/// What a definition is known by.
pub(super) fn digest(text: &[u8]) -> Digest {
    Digest::from_bytes(&Sha256::digest(text))
}

impl Engine {
    /// Nobody else changes an environment of a target until this goes.
    pub fn hold_target(&self, id: &EnvironmentId, by: &str) -> Result<Lock, Failure> {
        let holder = Holder { user: by.chars().filter(|c| !c.is_control()).take(100).collect(), ..self.holder() };
        let request = self.store.lock(&format!("target.{}.{}", id.platform, id.name), &holder);
        let since = Instant::now();
        loop {
            let holder = match request.attempt()? {
                Ok(lock) => return Ok(lock),
                Err(holder) => holder,
            };
            if since.elapsed() > LEAVING {
                let failure = Failure::new(Kind::Conflict, format!("change `{id}`"));
                let holder = holder.map_or("another operator".to_owned(), |holder| {
                    format!("{holder}, since {} s,", self.now().saturating_sub(holder.since))
                });
                return Err(failure.cause(format!("{holder} is at it")).hint("wait until that command ends, or end it"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is there of an environment, and of all that it could stand on.
    pub fn standing(&self, id: &EnvironmentId, read_again: &[Digest]) -> Result<Standing, Failure> {
        let environment = self.known(id)?;
        let free = rustix::fs::statvfs(&self.store.folder).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let entries = self.store.promotions.list(id)?;
        let edge_before = before_the_last(&entries).map(|(_, before)| before.edge.clone());
        let definition = environment.as_ref().map(|environment| &environment.definition);
        let edge = definition.map(|definition| definition.edge.clone()).unwrap_or_default();
        let sites = definition.into_iter().flat_map(|definition| &definition.platform.sites);
        let health = sites.map(|site| (site.name.clone(), site.health.clone())).collect();
        let mut stands_on = Vec::new();
        for layer in environment.iter().flat_map(|environment| environment.definition.layers()) {
            if !stands_on.contains(layer) {
                stands_on.push(layer.clone());
            }
        }
        Ok(Standing {
            free: free.map_err(|error| Failure::new(Kind::Host, "look at the disk").because(&error))?,
            layers: self.layers_there(read_again)?,
            stands_on,
            wanted: environment.map(|environment| environment.wanted.word().to_owned()),
            promotions: entries.into_iter().map(|entry| entry.told).collect(),
            authorities: tls::authorities_of(&self.store.folder, &edge),
            edge,
            edge_before,
            health,
        })
    }

    /// The environment becomes what it is told to be.
    pub fn define_target(&self, brought: &Brought<'_>, dry_run: bool, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        let definition: Definition = serde_json::from_slice(brought.text).map_err(|error| {
            Failure::new(Kind::Conflict, "understand the definition").because(&error).hint("bring the adt here up to date")
        })?;
        let told = Promoted {
            begun: self.now(),
            finished: None,
            by: brought.by.to_owned(),
            deed: Deed::Promote { from: brought.from.clone() },
            definition: digest(brought.text),
        };
        self.with_events(each, |events| self.become_defined(brought.id, &told, &definition, dry_run, events))
    }

    /// Back to what was there before the last promotion.
    pub fn undo_promotion(
        &self,
        id: &EnvironmentId,
        by: &str,
        dry_run: bool,
        each: &mut dyn FnMut(Event),
    ) -> Result<Response, Failure> {
        let entries = self.store.promotions.list(id)?;
        let Some((before, definition)) = before_the_last(&entries) else {
            return Err(Failure::new(Kind::NotFound, format!("find what `{id}` was before its last promotion"))
                .cause(if entries.is_empty() { "nothing was promoted" } else { "nothing was there, or it is too long ago" })
                .hint("`adt env:promote` brings a ticket's environment there"));
        };
        let told = Promoted {
            begun: self.now(),
            finished: None,
            by: by.to_owned(),
            deed: Deed::Rollback { from: before.deed.from().clone() },
            definition: before.definition.clone(),
        };
        self.with_events(each, |events| self.become_defined(id, &told, definition, dry_run, events))
    }

    fn become_defined(
        &self,
        id: &EnvironmentId,
        told: &Promoted,
        definition: &Definition,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let mut definition = definition.clone();
        definition.platform.folder = self.store.folder.join("promoted").join(id.platform.as_str());
        self.can_stand_here(id, &definition)?;
        let environment = match self.store.database.environment(id)? {
            Some(environment) if environment.wanted == Wanted::Gone => {
                return Err(leaving(id, "change"));
            }
            Some(environment) => Some(adopted(environment, definition.clone())?),
            None => None,
        };
        let mut entries = self.store.promotions.list(id)?;
        if environment.is_some() && entries.is_empty() {
            return Err(Failure::new(Kind::Conflict, format!("make `{id}`"))
                .cause("an environment of this name is there which nobody promoted")
                .hint("give the target another name, or end that one"));
        }
        if !dry_run {
            let is_same = |last: &Entry| last.told.definition == told.definition && last.told.deed == told.deed;
            if !entries.last().is_some_and(is_same) {
                entries.push(Entry { told: told.clone(), definition: Some(definition.clone()) });
                self.store.promotions.put(id, entries.clone())?;
            }
        }
        let environment = match environment {
            Some(environment) => self.redefine(environment, dry_run, events)?,
            None => {
                self.nothing_is_left(id)?;
                let environment = self.add(id, definition, &Codes::new(), false, dry_run)?;
                if !dry_run {
                    self.remember("created", &id.to_string());
                }
                environment
            }
        };
        let plan = self.drive_with(&environment, Goal::Up, Codes::new(), dry_run, events);
        if !dry_run {
            self.follow_bound(events);
        }
        let plan = plan?;
        if !dry_run && !environment.definition.edge.is_empty() {
            self.serve_the_world()?;
        }
        if let (false, Some(last)) = (dry_run, entries.last_mut())
            && last.told.finished.is_none()
        {
            last.told.finished = Some(self.now());
            self.store.promotions.put(id, entries)?;
        }
        Ok(done(format!("`{id}` is {}", told.deed), plan, dry_run, Vec::new()))
    }

    /// The unit that the host was set up with begins by itself at the next boot only.
    fn serve_the_world(&self) -> Result<(), Failure> {
        match self.store.server() {
            None if service::serves(&self.store) => service::start().map(drop),
            None | Some(_) => Ok(()),
        }
    }

    /// What would fail later is told before anything is written down.
    fn can_stand_here(&self, id: &EnvironmentId, definition: &Definition) -> Result<(), Failure> {
        if definition.platform.name != id.platform {
            return Err(Failure::new(Kind::Conflict, format!("make `{id}`"))
                .cause(format!("the definition is one of `{}`", definition.platform.name)));
        }
        for machine in &definition.platform.machines {
            self.providers.get(definition.provider(machine))?;
            if machine.names().iter().any(|name| !definition.numbers.contains_key(name))
                || !definition.boxes.contains_key(&machine.role)
            {
                return Err(Failure::new(Kind::Conflict, format!("make `{id}`"))
                    .cause(format!("its definition does not say what `{}` stands on", machine.role)));
            }
        }
        let layers = self.layers()?;
        if let Some(missing) = definition.layers().find(|digest| !layers.has(digest)) {
            return Err(Failure::new(Kind::NotFound, format!("make `{id}`"))
                .cause(format!("the layer {} is not here", missing.short()))
                .hint("`adt env:promote` sends what is missing"));
        }
        for other in self.store.database.readable_environments(None)?.sound.iter().filter(|other| other.id != *id) {
            let taken = |(_, name): &(_, _)| other.definition.edge.all().any(|(_, own)| own == *name);
            if let Some((_, name)) = definition.edge.all().find(taken) {
                return Err(Failure::new(Kind::Conflict, format!("make `{id}`"))
                    .cause(format!("`{name}` is a name of `{}`, which is on this server too", other.id))
                    .hint("give the site another name in `[targets.…]`, or take the name from that one first"));
            }
        }
        config::platform::fits(&definition.platform, id, &definition.domain)
            .map_err(|fault| Failure::new(Kind::Usage, format!("give `{id}` its host names")).faults([fault]))?;
        self.try_files(id, definition)
    }

    /// Writes down what an environment shall be from now on. Its data as it is now is kept where its boxes change.
    fn redefine(&self, environment: Environment, dry_run: bool, events: &Events) -> Result<Environment, Failure> {
        let id = environment.id.clone();
        let before = self.environment(&id)?;
        if dry_run {
            return Ok(environment);
        }
        if before.definition.boxes != environment.definition.boxes {
            self.before(&before, Reason::BeforeReload { data: false }, events)?;
        }
        if before.definition != environment.definition {
            self.store.database.set_definition(&id, &environment.definition, self.now())?;
        }
        if before.wanted != Wanted::Up {
            self.store.database.set_wanted(&id, Wanted::Up, self.now())?;
        }
        Ok(Environment { wanted: Wanted::Up, ..environment })
    }
}

/// The newest promotion that went well before the last one, and is another.
fn before_the_last(entries: &[Entry]) -> Option<(&Promoted, &Definition)> {
    let last = entries.iter().rposition(|entry| matches!(entry.told.deed, Deed::Promote { .. }))?;
    let others = entries[..last].iter().rev().filter(|entry| entry.told.definition != entries[last].told.definition);
    others.filter(|entry| entry.told.finished.is_some()).find_map(|entry| Some((&entry.told, entry.definition.as_ref()?)))
}

/// An environment with another definition: machines that stay keep their addresses, volumes what they hold.
fn adopted(environment: Environment, new: Definition) -> Result<Environment, Failure> {
    let id = &environment.id;
    let before = &environment.definition;
    if before.rewound.is_some() {
        return Err(unfinished(id, &format!("change `{id}`")));
    }
    let names: Vec<_> = new.platform.machines.iter().flat_map(Machine::names).collect();
    let mut definition = Definition { numbers: address::host_numbers(&before.numbers, &names), ..new };
    definition.seeded = before.seeded.clone();
    definition.providers.ever.extend(before.providers.ever.iter().cloned());
    definition.seeds = BTreeMap::new();
    refuse_moves_of_data(id, before, &definition)?;
    for machine in definition.platform.machines.clone() {
        let role = &machine.role;
        let (Some(old), Some(new)) = (before.boxes.get(role), definition.boxes.get(role)) else { continue };
        let paths = definition.platform.volumes(&machine);
        if old.layers != new.layers && paths.is_empty() && definition.platform.holds_data(&machine) {
            return Err(Failure::new(Kind::Conflict, format!("change `{id}`"))
                .cause(format!("`{role}` has another box, and nothing says which folders its data is in"))
                .hint(format!("name them in `data` of `[machines.{role}]`")));
        }
        let seeds = seeds_of(before, role, paths, &new.layers);
        if !seeds.is_empty() {
            definition.seeds.insert(role.clone(), seeds);
        }
    }
    Ok(Environment { definition, ..environment })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(letter: char, deed: Deed, finished: bool, kept: bool) -> Entry {
        let text = r#"{"platform":{"name":"shop","summary":"","domain":null,"machines":[],"sites":[],"folder":""},"domain":"example.test","boxes":{},"numbers":{}}"#;
        let definition = Digest::try_from(letter.to_string().repeat(64)).unwrap();
        let told = Promoted { begun: 1, finished: finished.then_some(2), by: "ada".into(), deed, definition };
        Entry { told, definition: kept.then(|| serde_json::from_str(text).unwrap()) }
    }

    fn id() -> EnvironmentId {
        EnvironmentId { platform: "shop".parse().unwrap(), name: "1161".parse().unwrap() }
    }

    /// Letters of definitions: a capital one is a rollback to it, one with a `?` is unfinished, with a `-` too old.
    fn history(words: &[&str]) -> Vec<Entry> {
        let read = |word: &&str| {
            let letter = word.chars().next().unwrap();
            let deed = if letter.is_uppercase() { Deed::Rollback { from: id() } } else { Deed::Promote { from: id() } };
            entry(letter.to_ascii_lowercase(), deed, !word.contains('?'), !word.contains('-'))
        };
        words.iter().map(read).collect()
    }

    #[test]
    fn the_way_back_leads_before_the_last_promotion_and_no_further() {
        for (words, wanted) in [
            (&[][..], None),
            (&["a"], None),
            (&["a?"], None),
            (&["a", "b"], Some('a')),
            (&["a", "b?"], Some('a')),
            (&["a?", "b"], None),
            (&["a", "b", "A"], Some('a')),
            (&["a", "b", "A?"], Some('a')),
            (&["a", "b", "A", "c"], Some('a')),
            (&["a", "b", "b"], Some('a')),
            (&["a", "b?", "c"], Some('a')),
            (&["a-", "b"], None),
            (&["a", "b", "A", "b"], Some('a')),
        ] {
            let entries = history(words);
            let found = before_the_last(&entries).map(|(told, _)| told.definition.as_str().chars().next().unwrap());
            assert_eq!(found, wanted, "{words:?}");
        }
    }
}
