//! The providers of this adt by their names: opened when somebody first needs one, each once.
//!
//! Must never know what any of them is: [`super::choose`] lists them, and everybody else asks for the one that a machine's
//! record names.

use std::sync::OnceLock;

use super::{Error, Provider, Result};
use crate::model::{MachineSpec, ProviderName};

/// Makes a provider. One that this host lacks is an error here, and so only for who asks for it.
pub type Open = Box<dyn Fn() -> Result<Box<dyn Provider>> + Send + Sync>;

pub struct Registry {
    entries: Vec<Entry>,
}

struct Entry {
    name: ProviderName,
    open: Open,
    opened: OnceLock<Box<dyn Provider>>,
}

impl Entry {
    fn provider(&self) -> Result<&dyn Provider> {
        if let Some(opened) = self.opened.get() {
            return Ok(&**opened);
        }
        let opened = (self.open)()?;
        Ok(&**self.opened.get_or_init(|| opened))
    }
}

impl Registry {
    /// Of these names, in this order; opens nothing.
    pub fn new(list: impl IntoIterator<Item = (&'static str, Open)>) -> Self {
        let entry = |(name, open)| Entry {
            name: ProviderName::new(name).expect("a constant that is a label"),
            open,
            opened: OnceLock::new(),
        };
        Self { entries: list.into_iter().map(entry).collect() }
    }

    /// Whether there is one of this name; opens nothing.
    pub fn knows(&self, name: &ProviderName) -> Result<()> {
        self.entry(name).map(drop)
    }

    pub fn get(&self, name: &ProviderName) -> Result<&dyn Provider> {
        self.entry(name)?.provider()
    }

    /// The same with its name.
    pub fn named(&self, name: &ProviderName) -> Result<(&ProviderName, &dyn Provider)> {
        let entry = self.entry(name)?;
        Ok((&entry.name, entry.provider()?))
    }

    /// The one that a machine is wanted on.
    pub fn of(&self, spec: &MachineSpec) -> Result<&dyn Provider> {
        self.get(&spec.provider)
    }

    /// All that this host has, for who looks for what nobody has a record of. What can't be opened here has nothing here.
    pub fn here(&self) -> impl Iterator<Item = (&ProviderName, &dyn Provider)> {
        self.entries.iter().filter_map(|entry| match entry.provider() {
            Ok(provider) => Some((&entry.name, provider)),
            Err(error) => {
                tracing::debug!(provider = %entry.name, %error, "it is not asked for leftovers");
                None
            }
        })
    }

    fn entry(&self, name: &ProviderName) -> Result<&Entry> {
        self.entries.iter().find(|entry| entry.name == *name).ok_or_else(|| Error::Unknown {
            name: name.clone(),
            known: self.entries.iter().map(|entry| entry.name.clone()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::providers::fake::Fake;

    fn lacking() -> Open {
        Box::new(|| Err(Error::HostLacks { what: "the other".into(), hint: "install it".into() }))
    }

    #[test]
    fn each_is_opened_once_and_only_when_it_is_asked_for() {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let open: Open = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Fake::default()))
        });
        let registry = Registry::new([("one", open), ("other", lacking())]);
        let one = ProviderName::new("one").unwrap();
        registry.knows(&one).unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 0);
        registry.get(&one).unwrap();
        registry.get(&one).unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_the_host_lacks_stops_only_who_asks_for_it() {
        let registry = Registry::new([("other", lacking()), ("one", Box::new(|| Ok(Box::new(Fake::default()))))]);
        let here: Vec<_> = registry.here().map(|(name, _)| name.as_str()).collect();
        assert_eq!(here, ["one"]);
        let error = registry.get(&ProviderName::new("other").unwrap()).err().expect("it is not there");
        assert!(matches!(error, Error::HostLacks { .. }), "{error}");
        let error = registry.get(&ProviderName::new("vm").unwrap()).err().expect("nobody listed it");
        assert!(matches!(&error, Error::Unknown { known, .. } if known.len() == 2), "{error}");
    }
}
