//! The server's side of a promotion: what is there, who is at it, and an environment that becomes what it is told to be.
//!
//! The environment is no ticket's of this host: no platform's folder stands for it, only its definition, as it came. So it is never
//! built here, and `env:reload` has nothing to read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::config;
use crate::engine::Engine;
use crate::engine::environment::perform::done;
use crate::engine::environment::records::leaving;
use crate::engine::environment::reload::{refuse_moves_of_data, seeds_of};
use crate::engine::environment::snapshot::unfinished;
use crate::engine::environment::standing::with_volumes;
use crate::engine::environment::wanted;
use crate::engine::events::Events;
use crate::engine::host::service;
use crate::engine::permission::Right;
use crate::engine::site::code::Codes;
use crate::engine::site::sites::summary;
use crate::engine::target::seat::take_seat;
use crate::model::response::{Done, Standing};
use crate::model::snapshot::Reason;
use crate::model::target::{Back, Deed, Promoted};
use crate::model::{Digest, Edge, EnvironmentId, Event, Failure, Kind, Machine, MachineName, Response, Seat, SnapshotName};
use crate::network::address;
use crate::plan::promotion;
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
    /// Where several servers carry the environment.
    pub seat: Option<&'a Seat>,
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
        // What came has all names, and only one of several servers leads to them.
        let leads = definition.and_then(|definition| definition.seat.as_ref()).is_none_or(|seat| seat.edge);
        let last = entries.iter().rfind(|entry| matches!(entry.told.deed, Deed::Promote { .. }));
        let edge_last = last.and_then(|entry| entry.definition.as_ref()).map(|definition| definition.edge.clone());
        let [edge_before, edge_last] =
            [edge_before, edge_last].map(|edge| if leads { edge } else { edge.map(|_| Edge::default()) });
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
            releases: self.releases_there(read_again)?,
            serves: self.codes(id)?.iter().map(|(site, code)| (site.clone(), summary(code))).collect(),
            wanted: environment.as_ref().map(|environment| environment.wanted.word().to_owned()),
            promotions: entries.into_iter().map(|entry| entry.told).collect(),
            admin: self.admin_of(id)?,
            authorities: tls::authorities_of(&self.store.folder, &edge),
            seat: definition.and_then(|definition| definition.seat.clone()),
            placed: definition.map(|definition| definition.placed.clone()).unwrap_or_default(),
            holds: self.holds(environment.as_ref())?,
            edge,
            edge_before,
            edge_last,
            health,
        })
    }

    fn holds(&self, environment: Option<&Environment>) -> Result<BTreeSet<MachineName>, Failure> {
        let Some(environment) = environment else { return Ok(BTreeSet::new()) };
        let mut holds = BTreeSet::new();
        for (_, volumes) in with_volumes(&self.around_of(&environment.definition)?) {
            holds.extend(volumes.seen(&environment.id)?.into_iter().map(|seen| seen.machine));
        }
        Ok(holds)
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
        self.with_events(each, |events| self.become_defined(brought.id, &told, (&definition, brought.seat), dry_run, events))
    }

    /// Back to what was there before.
    pub fn undo_promotion(
        &self,
        id: &EnvironmentId,
        by: &str,
        back: &Back,
        dry_run: bool,
        each: &mut dyn FnMut(Event),
    ) -> Result<Response, Failure> {
        let (before, definition) = self.way_back(id, back)?;
        let told = Promoted {
            begun: self.now(),
            finished: None,
            by: by.to_owned(),
            deed: Deed::Rollback { from: before.deed.from().clone() },
            definition: before.definition.clone(),
        };
        if back.data {
            let snapshot = self.before_last_promotion(id, &self.store.promotions.list(id)?)?;
            return self.with_events(each, |events| self.rewind_promotion(id, &told, &definition, &snapshot, dry_run, events));
        }
        let seat = self.known(id)?.and_then(|environment| environment.definition.seat);
        self.with_events(each, |events| self.become_defined(id, &told, (&definition, seat.as_ref()), dry_run, events))
    }

    /// What a way back leads to.
    pub(super) fn way_back(&self, id: &EnvironmentId, back: &Back) -> Result<(Promoted, Definition), Failure> {
        let entries = self.store.promotions.list(id)?;
        let found = match &back.to {
            Some(letters) => that_begins(&entries, letters),
            None => before_the_last(&entries),
        };
        if let Some((before, definition)) = found {
            return Ok((before.clone(), definition.clone()));
        }
        let sought = match &back.to {
            Some(letters) => format!("find the definition `{}` of `{id}`", letters.escape_debug()),
            None => format!("find what `{id}` was before its last promotion"),
        };
        Err(Failure::new(Kind::NotFound, sought)
            .cause(if entries.is_empty() { "nothing was promoted" } else { "nothing was there, or it is too long ago" })
            .hint("`adt target:history` tells what was there; `adt env:promote` brings a ticket's environment"))
    }

    /// The snapshot that the last promotion took before it changed anything.
    fn before_last_promotion(&self, id: &EnvironmentId, entries: &[Entry]) -> Result<SnapshotName, Failure> {
        let last = entries.iter().rev().find(|entry| matches!(entry.told.deed, Deed::Promote { .. }));
        let during = last.map(|last| last.told.begun..=last.told.finished.unwrap_or(i64::MAX));
        let all = self.whole_snapshots(&self.environment(id)?)?;
        let taken = all
            .into_iter()
            .filter(|one| one.reason.is_automatic() && during.as_ref().is_some_and(|time| time.contains(&one.taken)));
        taken.min_by_key(|one| one.taken).map(|one| one.name).ok_or_else(|| {
            Failure::new(Kind::NotFound, format!("find the snapshot before the last promotion of `{id}`"))
                .cause("none was taken, since nothing of it could change data, or the rule for snapshots has removed it")
                .hint(format!(
                    "without `--data`, volumes stay; `adt env:snapshots -p {} -t {}` tells what else there is",
                    id.platform, id.name
                ))
        })
    }

    /// As a rewind does, which brings back what the environment was with its data, and is remembered as the way back.
    fn rewind_promotion(
        &self,
        id: &EnvironmentId,
        told: &Promoted,
        definition: &Definition,
        snapshot: &SnapshotName,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let mut entries = self.store.promotions.list(id)?;
        if !dry_run {
            entries.push(Entry { told: told.clone(), definition: Some(definition.clone()) });
            self.store.promotions.put(id, entries.clone())?;
        }
        let rewound = self.env_rewind(id, Some(snapshot), dry_run, events)?;
        if !dry_run {
            self.follow_bound(events);
            let last = entries.last_mut().expect("it was just written down");
            last.told.finished = Some(self.now());
            self.store.promotions.put(id, entries)?;
        }
        let leads = self.environment(id)?.definition.seat.is_none_or(|seat| seat.edge);
        match rewound {
            Response::Done(done) if leads => Ok(Response::Done(Done { edge: Some(Box::new(definition.edge.clone())), ..done })),
            other => Ok(other),
        }
    }

    fn become_defined(
        &self,
        id: &EnvironmentId,
        told: &Promoted,
        (definition, seat): (&Definition, Option<&Seat>),
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let mut definition = definition.clone();
        let entered = definition.clone();
        definition.platform.folder = self.store.folder.join("promoted").join(id.platform.as_str());
        take_seat(id, &mut definition, seat)?;
        self.can_stand_here(id, &definition)?;
        self.can_serve(id, &definition, dry_run)?;
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
                entries.push(Entry { told: told.clone(), definition: Some(entered) });
                self.store.promotions.put(id, entries.clone())?;
            }
        }
        let (environment, first) = match environment {
            Some(environment) => self.redefine(environment, dry_run, events)?,
            None => {
                self.nothing_is_left(id)?;
                let first = definition.promoted.clone();
                let environment = self.add(id, definition, &first, false, dry_run)?;
                if !dry_run {
                    self.remember("created", &id.to_string());
                }
                (environment, first)
            }
        };
        let plan = self.drive_promoted(&environment, first, dry_run, events);
        if !dry_run {
            self.follow_bound(events);
        }
        let plan = plan?;
        if !dry_run && environment.definition.seat.is_some() {
            // What moved away was here until now.
            self.network.retie(&wanted::network(self.store.install(), &environment))?;
        }
        if !dry_run && !environment.definition.edge.is_empty() {
            self.serve_the_world()?;
        }
        if let (false, Some(last)) = (dry_run, entries.last_mut())
            && last.told.finished.is_none()
        {
            last.told.finished = Some(self.now());
            self.store.promotions.put(id, entries)?;
        }
        match done(format!("`{id}` is {}", told.deed), plan, dry_run, Vec::new()) {
            Response::Done(done) => Ok(Response::Done(Done { edge: Some(Box::new(environment.definition.edge)), ..done })),
            other => Ok(other),
        }
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

    /// Writes down what an environment shall be from now on, and what sites begin with. Its data as it is now is kept where its
    /// boxes or releases change.
    fn redefine(&self, environment: Environment, dry_run: bool, events: &Events) -> Result<(Environment, Codes), Failure> {
        let id = environment.id.clone();
        let before = self.environment(&id)?;
        let first = self.beginning(&environment, &before.definition)?;
        if dry_run {
            return Ok((environment, first));
        }
        let (old, new) = (&before.definition, &environment.definition);
        let release =
            |definition: &Definition, site| definition.promoted.get(site).and_then(|code| code.releases.first()).cloned();
        if old.boxes != new.boxes {
            self.before(&before, Reason::BeforeReload { data: false }, events)?;
        } else if let Some(site) = new.promoted.keys().find(|site| release(old, site) != release(new, site)) {
            self.before(&before, Reason::BeforeDeploy { site: site.clone() }, events)?;
        }
        // First what they run: killed in between, the next run finds it decided.
        for (site, code) in &first {
            self.store.database.put_site_code(&id, site, code)?;
        }
        if before.definition != environment.definition {
            self.store.database.set_definition(&id, &environment.definition, self.now())?;
        }
        if before.wanted != Wanted::Up {
            self.store.database.set_wanted(&id, Wanted::Up, self.now())?;
        }
        Ok((Environment { wanted: Wanted::Up, ..environment }, first))
    }
}

/// The newest that went well and brought a definition that begins with these letters.
fn that_begins<'e>(entries: &'e [Entry], letters: &str) -> Option<(&'e Promoted, &'e Definition)> {
    let fits = |entry: &&Entry| entry.told.definition.as_str().starts_with(letters) && entry.told.finished.is_some();
    if letters.len() < promotion::FEWEST_LETTERS {
        return None;
    }
    entries.iter().rev().filter(fits).find_map(|entry| Some((&entry.told, entry.definition.as_ref()?)))
}

/// What was there before the last promotion, while it is kept.
fn before_the_last(entries: &[Entry]) -> Option<(&Promoted, &Definition)> {
    let told: Vec<_> = entries.iter().map(|entry| entry.told.clone()).collect();
    let before = &entries[promotion::before_the_last(&told)?];
    Some((&before.told, before.definition.as_ref()?))
}

/// An environment with another definition: machines that stay keep their addresses, volumes what they hold.
fn adopted(environment: Environment, new: Definition) -> Result<Environment, Failure> {
    let id = &environment.id;
    let before = &environment.definition;
    if before.rewound.is_some() {
        return Err(unfinished(id, &format!("change `{id}`")));
    }
    if let Some(seat) = new.seat.as_ref().filter(|seat| seat.network != environment.network) {
        return Err(Failure::new(Kind::Conflict, format!("change `{id}`"))
            .cause(format!("its network here is {}, and the other servers have it at {}", environment.network, seat.network)));
    }
    let numbers = match &new.seat {
        // All servers must give the same ones.
        Some(_) => new.numbers.clone(),
        None => {
            let names: Vec<_> = new.platform.machines.iter().flat_map(Machine::names).collect();
            address::host_numbers(&before.numbers, &names)
        }
    };
    let mut definition = Definition { numbers, ..new };
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
    fn a_definition_is_found_by_its_first_letters() {
        let entries = history(&["a", "b?", "c-", "a"]);
        let found =
            |letters: &str| that_begins(&entries, letters).map(|(told, _)| told.definition.as_str().chars().next().unwrap());
        assert_eq!(found("aaaaaa"), Some('a'));
        for letters in ["", "a", "aaaaab", "bbbbbb", "cccccc", "AAAAAA"] {
            assert_eq!(found(letters), None, "{letters}");
        }
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
