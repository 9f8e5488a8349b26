//! What each command that changes anything sees to first: things of the store that an older adt or a wrong clock left.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use crate::engine::site::code::address;
use crate::engine::{Engine, Events};
use crate::sources::mirror::{self, Mirror};
use crate::{tls, trust};

impl Engine {
    /// None of it may keep the command from its work; whatever fails is told or comes up again where it matters.
    pub(in crate::engine) fn upkeep(&self, events: &Events) {
        self.renew_authorities(events);
        self.close_mirrors(events);
    }

    fn renew_authorities(&self, events: &Events) {
        let renewed = tls::renew(&self.store.folder, SystemTime::now()).unwrap_or_default();
        let installed = trust::Installed::open(&self.store.folder);
        let places: Vec<_> = installed.iter().flat_map(|installed| installed.places()).collect();
        for domain in renewed {
            let is_trusted = places.iter().any(|place| place.domain == domain);
            events.warn(format!(
                "the authority of {domain} was made while the clock was ahead, or is about to end: it has a new certificate with \
                 the same key. {}Machines that run trust it after `adt env:reload`",
                if is_trusted { "Make this host's programs and browsers trust it: `adt host:bind-proxy`. " } else { "" }
            ));
        }
    }

    /// Mirrors of an older adt are open to every user who knows their names. Their people are those whose platforms fetch them.
    fn close_mirrors(&self, events: &Events) {
        let sources = self.store.folder.join("sources");
        let open = mirror::open_ones(&sources);
        if open.is_empty() {
            return;
        }
        let mut people = std::collections::BTreeMap::<_, BTreeSet<u32>>::new();
        for record in self.store.database.platforms().unwrap_or_default() {
            let Ok(owner) = std::fs::metadata(&record.folder).map(|meta| meta.uid()) else { continue };
            let sites = self.read_platform(&record).map(|platform| platform.sites).unwrap_or_default();
            for address in sites.iter().filter_map(|site| address(&record.folder, site)) {
                people.entry(Mirror::of(&self.store, &address).folder).or_default().insert(owner);
            }
        }
        for folder in open {
            let users = people.get(&folder).cloned().unwrap_or_default();
            if let Err(error) = mirror::close(&folder, users) {
                events.warn(format!("other users of this host can read `{}`: {error}", folder.display()));
            }
        }
    }
}
