//! Whether the world can come in: the ports at which names that it knows are asked for, and the certificates of these names.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use crate::acme;
use crate::engine::Engine;
use crate::engine::host::serving::{Held, held};
use crate::model::Edge;
use crate::model::response::{CheckItem, CheckStep};
use crate::store::Environment;
use crate::tls::{self, Given};

impl Engine {
    /// Nothing for an environment that the world does not know.
    pub(super) fn check_world(&self, environment: &Environment) -> Vec<CheckItem> {
        if environment.definition.edge.is_empty() {
            return Vec::new();
        }
        // An address at which adt listens only because it does so at all of them.
        let address = match self.settings.listen.value {
            Ipv4Addr::LOCALHOST => Ipv4Addr::new(127, 0, 0, 2),
            _ => Ipv4Addr::LOCALHOST,
        };
        let serving = self.pages_served();
        let port = |port: u16| {
            let subject = format!("port {port}");
            let item = match held(&serving, address, port) {
                Held::Right(who) => CheckItem::ok(subject, format!("{who}, for the world")),
                Held::Foreign(who) => {
                    let who = who.join(", ");
                    let remedy = "stop it there, and adt takes the port by itself";
                    CheckItem::fault(subject, format!("{who} holds it, so the world can't come in"), remedy)
                }
                Held::Nobody => CheckItem::fault(subject, "nobody listens there for the world", serving.start()),
            };
            item.at(CheckStep::World)
        };
        let mut items = vec![port(80), port(443)];
        items.extend(self.check_given(environment).map(|item| item.at(CheckStep::World)));
        items
    }

    /// What became of the certificates that an authority is asked for.
    fn check_given(&self, environment: &Environment) -> Option<CheckItem> {
        let Edge { acme, .. } = &environment.definition.edge;
        let (directory, id) = (&acme.as_ref()?.directory, &environment.id);
        let names = environment.definition.edge.all().map(|(_, name)| name);
        let asked: Vec<_> = names.filter(|name| !tls::is_brought(&self.store.folder, name)).collect();
        if asked.is_empty() {
            return None;
        }
        let day = |seconds| jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default();
        let record = acme::record(&self.store.folder, id);
        let trouble = record.and_then(|record| Some((record.trouble?, day(record.again))));
        let given = Given::of(&self.store.folder, id).open(SystemTime::now());
        let given = given.filter(|given| asked.iter().all(|name| given.covers(name.as_str())));
        let remedy = "let all its names lead to this server, whose port 80 the authority asks";
        Some(match (given, trouble) {
            (Some(given), None) => CheckItem::ok("certificate", format!("given by {directory}, until {}", day(given.ends))),
            (Some(given), Some((trouble, again))) => {
                let seen =
                    format!("{directory} renews none: {trouble}; asked again at {again}, and it lasts until {}", day(given.ends));
                CheckItem::notice("certificate", seen, Some(remedy.to_owned()))
            }
            (None, Some((trouble, again))) => {
                CheckItem::fault("certificate", format!("{directory} gives none: {trouble}; asked again at {again}"), remedy)
            }
            (None, None) => CheckItem::notice("certificate", format!("{directory} is asked for it"), None),
        })
    }
}
