//! What machines' providers need of this host: asked, set up, taken out again, and proven by a machine that is started for nothing
//! else. What it is they say themselves; this knows no provider.

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::model::response::CheckItem;
use crate::model::{Failure, Kind, ProviderName};
use crate::providers::{Need, Setup};

const REMEDY: &str = "adt host:bootstrap";

impl Engine {
    fn setups(&self) -> impl Iterator<Item = (&ProviderName, &dyn Setup)> {
        self.providers.here().filter_map(|(name, provider)| Some((name, provider.setup()?)))
    }

    /// What any of them lacks here.
    pub(in crate::engine) fn machines_lack(&self) -> Vec<Need> {
        self.setups().flat_map(|(_, setup)| setup.needs()).filter(|need| need.state.is_err()).collect()
    }

    pub(in crate::engine) fn set_up_for_machines(&self) -> Result<(), Failure> {
        self.setups().try_for_each(|(_, setup)| Ok(setup.set_up()?))
    }

    /// The files that went, or would.
    pub(in crate::engine) fn take_out_of_host(&self, dry_run: bool) -> Result<Vec<String>, Failure> {
        let mut files = Vec::new();
        for (_, setup) in self.setups() {
            files.extend(setup.take_out(dry_run)?);
        }
        Ok(files)
    }

    /// A host on which no machine starts is not ready, whatever else it has.
    pub(in crate::engine) fn prove_machines(&self, events: &Events) -> Result<(), Failure> {
        let name = &self.settings.provider.value;
        let Some(setup) = self.providers.get(name)?.setup() else { return Ok(()) };
        let warning = events.task("machines", "a machine as a proof", || {
            setup.prove().map_err(|error| {
                let found = Failure::from(error);
                Failure { kind: Kind::Host, sentence: "run a machine on this host".into(), hints: Vec::new(), ..found }
                    .hint("`adt host:check` shows the state of each thing that machines need; all else is set up")
            })
        })?;
        if let Some(warning) = warning {
            events.warn(warning);
        }
        Ok(())
    }

    /// Rows of `host:check`. A provider that is not there has no machine to prove.
    pub(in crate::engine) fn check_machines(&self, name: &ProviderName) -> Vec<CheckItem> {
        let Ok(provider) = self.providers.get(name) else { return Vec::new() };
        let Some(setup) = provider.setup() else { return Vec::new() };
        let row = |need: Need| match need.state {
            Ok(seen) => CheckItem::ok(need.subject, seen),
            Err(seen) => CheckItem::fault(need.subject, seen, REMEDY),
        };
        let mut items: Vec<_> = setup.needs().into_iter().map(row).collect();
        if provider.ready().is_ok() {
            items.push(proof(name, setup));
        }
        items
    }
}

fn proof(name: &ProviderName, setup: &dyn Setup) -> CheckItem {
    let subject = format!("a machine of {name}");
    match setup.prove() {
        Ok(None) => CheckItem::ok(subject, "one was started, entered and taken away"),
        Ok(Some(warning)) => CheckItem::notice(subject, warning, Some(REMEDY.into())),
        Err(error) => {
            let failure = Failure::from(error);
            let causes = failure.causes.iter().chain(&failure.tail).map(String::as_str).collect::<Vec<_>>().join("; ");
            CheckItem::fault(subject, format!("does not run: {causes}"), REMEDY)
        }
    }
}
