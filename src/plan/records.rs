//! What must be done so that a target's names lead to its servers: (names, what their zone says) → changes. Pure.
//!
//! ```text
//! seen ─ lower its life ─ … the promotion … ─ lead it elsewhere ─ proof ─ its usual life
//! ```
//! Only a name that moves takes the whole way. Who asked before the first step keeps the old answer as long as it said then; who asks
//! after it, for [`SHORT`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::model::records::{Entry, Seen, mark, mark_of};
use crate::model::{Domain, EnvironmentId};

/// How many seconds an answer may be kept while its name moves.
pub const SHORT: u32 = 60;

/// One name that is not what it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub name: Domain,
    pub seen: Seen,
    /// In the end.
    pub wanted: Entry,
}

/// Why nothing of it may be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("`{name}` leads to {} already, and adt did not enter that", words(there))]
    Foreign { name: Domain, there: BTreeSet<IpAddr> },
    #[error("`{name}` stands for `{alias}`, and adt did not enter that")]
    Alias { name: Domain, alias: String },
    #[error("`{name}` is kept by another: its mark `{}` says `{mark}`", mark_of(name))]
    Others { name: Domain, mark: String },
}

impl Refused {
    pub fn name(&self) -> &Domain {
        match self {
            Self::Foreign { name, .. } | Self::Alias { name, .. } | Self::Others { name, .. } => name,
        }
    }

    /// What helps, for this environment.
    pub fn remedy(&self, id: &EnvironmentId) -> String {
        let (name, mark) = (self.name(), mark(id));
        match self {
            Self::Foreign { .. } => {
                format!("remove it, or give it to adt by the record `{}. 300 IN TXT \"{mark}\"`", mark_of(name))
            }
            Self::Alias { .. } => "remove that CNAME record, or take the name out of the target".to_owned(),
            Self::Others { .. } => {
                "take the name out of one of the two targets; one that is gone left its mark: remove that".to_owned()
            }
        }
    }
}

impl Change {
    /// Whether somebody may have been told another address.
    pub fn is_move(&self) -> bool {
        !self.seen.addresses.is_empty() && !self.wanted.addresses.is_empty() && self.seen.addresses != self.wanted.addresses
    }

    /// Whether only its life is another.
    pub fn is_life(&self) -> bool {
        !self.wanted.addresses.is_empty() && self.seen.addresses == self.wanted.addresses
    }

    /// Before a move: the same addresses for less long, unless that is so already.
    pub fn lowered(&self) -> Option<Entry> {
        (self.is_move() && self.seen.ttl > SHORT).then(|| Entry { addresses: self.seen.addresses.clone(), ttl: SHORT })
    }

    /// The addresses that it shall have. What moves stays short until all is proven.
    pub fn set(&self) -> Option<Entry> {
        let ttl = if self.is_move() { self.wanted.ttl.min(SHORT) } else { self.wanted.ttl };
        (!self.is_life()).then(|| Entry { ttl, ..self.wanted.clone() })
    }

    /// Once all is proven.
    pub fn settled(&self) -> Option<Entry> {
        let is_short = self.is_life() || self.is_move() && self.wanted.ttl > SHORT;
        is_short.then(|| self.wanted.clone())
    }

    /// As its operator reads it.
    pub fn step(&self) -> String {
        let Self { name, seen, wanted } = self;
        let (before, after) = (words(&seen.addresses), words(&wanted.addresses));
        match (seen.addresses.is_empty(), wanted.addresses.is_empty()) {
            (_, true) => format!("remove the record of `{name}`, which leads to {before}"),
            (true, false) => format!("record: `{name}` leads to {after}"),
            (false, false) if self.is_life() => {
                format!("record: answers for `{name}` may be kept for {} s, not {}", wanted.ttl, seen.ttl)
            }
            (false, false) => format!(
                "record: `{name}` leads to {after} instead of {before}, which who asked before may keep for {} s",
                seen.ttl
            ),
        }
    }
}

/// `wanted` has each name with its addresses, and without any those that go. Of a name that is refused nothing is said beside why.
pub fn plan(
    id: &EnvironmentId,
    wanted: &BTreeMap<Domain, BTreeSet<IpAddr>>,
    seen: &BTreeMap<Domain, Seen>,
    ttl: u32,
) -> (Vec<Change>, Vec<Refused>) {
    let (mut changes, mut refused) = (Vec::new(), Vec::new());
    for (name, addresses) in wanted {
        let seen = seen.get(name).cloned().unwrap_or_default();
        match of_one(id, name, addresses, &seen, ttl) {
            Ok(true) => {
                let wanted = Entry { addresses: addresses.clone(), ttl };
                changes.push(Change { name: name.clone(), seen, wanted });
            }
            Ok(false) => {}
            Err(reason) => refused.push(reason),
        }
    }
    (changes, refused)
}

/// Whether anything is to be done.
fn of_one(id: &EnvironmentId, name: &Domain, wanted: &BTreeSet<IpAddr>, seen: &Seen, ttl: u32) -> Result<bool, Refused> {
    let is_ours = seen.owner.as_ref().is_some_and(|owner| *owner == mark(id));
    if wanted.is_empty() {
        return Ok(is_ours && seen.alias.is_none());
    }
    if let Some(owner) = &seen.owner
        && !is_ours
    {
        // It came from the network, and goes to a terminal.
        let owner: String = owner.chars().take(100).collect();
        return Err(Refused::Others { name: name.clone(), mark: owner.escape_debug().to_string() });
    }
    if let Some(alias) = &seen.alias {
        return Err(Refused::Alias { name: name.clone(), alias: alias.escape_debug().to_string() });
    }
    match (is_ours, seen.addresses == *wanted) {
        (true, true) => Ok(seen.ttl != ttl),
        // Somebody else's that is right needs nobody.
        (false, true) => Ok(false),
        (false, false) if !seen.addresses.is_empty() => {
            Err(Refused::Foreign { name: name.clone(), there: seen.addresses.clone() })
        }
        (true, false) | (false, false) => Ok(true),
    }
}

pub fn words(addresses: &BTreeSet<IpAddr>) -> String {
    match addresses.is_empty() {
        true => "nowhere".to_owned(),
        false => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "198.51.100.9";
    const NEW: &str = "203.0.113.7";

    fn id() -> EnvironmentId {
        EnvironmentId { platform: "shop".parse().unwrap(), name: "production".parse().unwrap() }
    }

    fn addresses(words: &[&str]) -> BTreeSet<IpAddr> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    fn seen(owner: Option<&str>, there: &[&str], ttl: u32) -> Seen {
        Seen { addresses: addresses(there), ttl, alias: None, owner: owner.map(str::to_owned) }
    }

    fn planned(seen: Seen, wanted: &[&str]) -> (Vec<Change>, Vec<Refused>) {
        let name: Domain = "www.shop.example".parse().unwrap();
        plan(&id(), &[(name.clone(), addresses(wanted))].into(), &[(name, seen)].into(), 300)
    }

    const OURS: Option<&str> = Some("adt shop/production");

    #[test]
    fn a_name_is_changed_only_where_it_is_nobodys_or_ours() {
        for (what, seen, wanted, told) in [
            ("nothing there", seen(None, &[], 0), &[NEW][..], "record: `www.shop.example` leads to 203.0.113.7"),
            ("as it shall be", seen(OURS, &[NEW], 300), &[NEW], ""),
            ("somebody's, and right", seen(None, &[NEW], 3600), &[NEW], ""),
            (
                "ours, elsewhere",
                seen(OURS, &[OLD], 300),
                &[NEW],
                "record: `www.shop.example` leads to 203.0.113.7 instead of 198.51.100.9, which who asked before may keep for 300 s",
            ),
            (
                "ours, a shorter life",
                seen(OURS, &[NEW], 60),
                &[NEW],
                "record: answers for `www.shop.example` may be kept for 300 s, not 60",
            ),
            ("ours, and emptied", seen(OURS, &[], 0), &[NEW], "record: `www.shop.example` leads to 203.0.113.7"),
            (
                "ours, and goes",
                seen(OURS, &[OLD], 300),
                &[],
                "remove the record of `www.shop.example`, which leads to 198.51.100.9",
            ),
            ("somebody's, and goes", seen(None, &[OLD], 300), &[], ""),
            ("another target's, and goes", seen(Some("adt shop/staging"), &[OLD], 300), &[], ""),
            (
                "somebody's",
                seen(None, &[OLD], 300),
                &[NEW],
                "refused: `www.shop.example` leads to 198.51.100.9 already, and adt did not enter that",
            ),
            (
                "somebody's, beside the right one",
                seen(None, &[NEW, "2001:db8::1"], 300),
                &[NEW],
                "refused: `www.shop.example` leads to 203.0.113.7 and 2001:db8::1 already, and adt did not enter that",
            ),
            (
                "another target's",
                seen(Some("adt shop/staging"), &[NEW], 300),
                &[NEW],
                "refused: `www.shop.example` is kept by another: its mark `_adt.www.shop.example` says `adt shop/staging`",
            ),
            (
                "a mark beside another text",
                seen(Some("adt shop/production; x\u{1b}"), &[OLD], 300),
                &[NEW],
                "refused: `www.shop.example` is kept by another: its mark `_adt.www.shop.example` says `adt shop/production; x\\u{1b}`",
            ),
            (
                "another name's",
                Seen { alias: Some("cdn.example".into()), ..seen(OURS, &[], 0) },
                &[NEW],
                "refused: `www.shop.example` stands for `cdn.example`, and adt did not enter that",
            ),
        ] {
            let (changes, refused) = planned(seen, wanted);
            let mut all: Vec<_> = changes.iter().map(Change::step).collect();
            all.extend(refused.iter().map(|reason| format!("refused: {reason}")));
            assert_eq!(all.join("\n"), told, "{what}");
        }
    }

    #[test]
    fn what_moves_is_short_until_all_is_proven() {
        let only = |seen, wanted: &[&str]| planned(seen, wanted).0.remove(0);
        let ttls = |change: &Change| [change.lowered(), change.set(), change.settled()].map(|entry| entry.map(|entry| entry.ttl));
        let moved = only(seen(OURS, &[OLD], 3600), &[NEW]);
        assert_eq!(ttls(&moved), [Some(SHORT), Some(SHORT), Some(300)]);
        assert_eq!(moved.lowered().unwrap().addresses, addresses(&[OLD]));
        assert!(moved.set().unwrap().addresses == addresses(&[NEW]) && moved.settled().unwrap().addresses == addresses(&[NEW]));
        assert_eq!(ttls(&only(seen(OURS, &[OLD], SHORT), &[NEW])), [None, Some(SHORT), Some(300)], "it was cut off before");
        assert_eq!(ttls(&only(seen(None, &[], 0), &[NEW])), [None, Some(300), None]);
        assert_eq!(ttls(&only(seen(OURS, &[NEW], SHORT), &[NEW])), [None, None, Some(300)]);
        assert_eq!(ttls(&only(seen(OURS, &[OLD], 300), &[])), [None, Some(300), None]);
    }

    #[test]
    fn done_is_done() {
        for before in [seen(None, &[], 0), seen(OURS, &[OLD], 3600), seen(OURS, &[NEW], 60)] {
            let change = planned(before, &[NEW]).0.remove(0);
            let Entry { addresses, ttl } = change.settled().or(change.set()).unwrap();
            let after = Seen { addresses, ttl, alias: None, owner: Some(mark(&id())) };
            assert_eq!(planned(after, &[NEW]), (Vec::new(), Vec::new()));
        }
    }
}
