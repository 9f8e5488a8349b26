//! Networks in memory, for the engine's tests, with faults.
//!
//! A change happens in the same small steps as in the kernel, and [`Fake::on_checkpoint`]'s function is called before and
//! after each with its name. When it panics, the state is what a SIGKILL at that place leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::Route;
use super::{Error, Network, Result, Seen};
use crate::model::tie::PublicKey;
use crate::model::{NetworkSpec, Tag, Tie};

pub type Checkpoint = Arc<dyn Fn(&str) + Send + Sync>;

/// Clones share their state, like two processes on one host.
#[derive(Clone, Default)]
pub struct Fake {
    install: String,
    pub checkpoint: Option<Checkpoint>,
    kernel: Arc<Mutex<Kernel>>,
}

#[derive(Default)]
struct Kernel {
    /// With the owner's note.
    bridges: BTreeMap<Tag, (String, NetworkSpec)>,
    /// The tags whose isolation is in force.
    firewalls: BTreeSet<Tag>,
    routes: Vec<Route>,
    failures: Vec<String>,
    file: Option<PathBuf>,
}

impl Kernel {
    /// The kernel keeps its networks when adt dies; so does the file.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let bridges: Vec<_> = self.bridges.values().collect();
        let text = serde_json::to_string(&(bridges, &self.firewalls)).expect("networks are plain data");
        let new = file.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)).expect("a test's folder takes a file");
    }
}

impl Fake {
    pub fn new(install: impl Into<String>) -> Self {
        Self { install: install.into(), ..Self::default() }
    }

    /// Networks that outlive this process, like real ones: they are in `file` from each change on.
    pub fn kept_in(file: &Path, install: impl Into<String>) -> Self {
        let kept = std::fs::read_to_string(file).ok();
        let read = |text: String| serde_json::from_str(&text).expect("this type wrote it");
        let (bridges, firewalls): (Vec<(String, NetworkSpec)>, BTreeSet<Tag>) = kept.map(read).unwrap_or_default();
        let bridges = bridges.into_iter().map(|bridge| (bridge.1.tag.clone(), bridge)).collect();
        let kernel = Kernel { bridges, firewalls, file: Some(file.to_owned()), ..Kernel::default() };
        Self { install: install.into(), checkpoint: None, kernel: Arc::new(Mutex::new(kernel)) }
    }

    /// The same kernel, with `checkpoint` called around each change made through the returned value.
    pub fn on_checkpoint(&self, checkpoint: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { checkpoint: Some(Arc::new(checkpoint)), ..self.clone() }
    }

    /// The next time that `what` is reached it fails: a verb (`seen`, `list`, `connect`, `open`, `disconnect`, `routes`), or
    /// one of their steps (`connect:bridge`, `open:firewall`, `disconnect:bridge`, `disconnect:firewall`).
    pub fn fail_next(&self, what: &str) {
        self.kernel().failures.push(what.to_owned());
    }

    pub fn add_route(&self, route: Route) {
        self.kernel().routes.push(route);
    }

    /// What a reboot leaves of networks.
    pub fn reboot(&self) {
        let mut kernel = self.kernel();
        kernel.bridges.clear();
        kernel.firewalls.clear();
        kernel.keep();
    }

    /// The network that was connected for a tag, to compare it with what was wanted.
    pub fn connected(&self, tag: &Tag) -> Option<NetworkSpec> {
        self.kernel().bridges.get(tag).map(|(_, spec)| spec.clone())
    }

    /// A test that panics while it holds the lock is the point of this type.
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, what: &str) -> Result<()> {
        let mut kernel = self.kernel();
        match kernel.failures.iter().position(|failure| failure == what) {
            None => Ok(()),
            Some(place) => {
                kernel.failures.remove(place);
                Err(Error::Io { what: format!("could not {what}"), source: std::io::Error::other("a test wants it so") })
            }
        }
    }

    /// The lock is not held while the checkpoint runs: it may look at this very fake.
    fn step(&self, what: &str, change: impl FnOnce(&mut Kernel)) -> Result<()> {
        self.reach(&format!("{what} before"));
        self.fault(what)?;
        let mut kernel = self.kernel();
        change(&mut kernel);
        kernel.keep();
        drop(kernel);
        self.reach(&format!("{what} after"));
        Ok(())
    }

    fn reach(&self, place: &str) {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint(place);
        }
    }
}

impl Network for Fake {
    fn seen(&self, tag: &Tag, tie: Option<&Tie>) -> Result<Seen> {
        self.fault("seen")?;
        let kernel = self.kernel();
        let bridge = kernel.bridges.get(tag);
        let is_tied = bridge.is_none_or(|(_, spec)| spec.tie.as_ref() == tie);
        Ok(Seen { bridge: bridge.is_some(), firewall: kernel.firewalls.contains(tag) && is_tied })
    }

    fn list(&self) -> Result<Vec<(Tag, String)>> {
        self.fault("list")?;
        Ok(self.kernel().bridges.iter().map(|(tag, (note, _))| (tag.clone(), note.clone())).collect())
    }

    fn connect(&self, spec: &NetworkSpec) -> Result<()> {
        self.fault("connect")?;
        let note = format!("{} {}", self.install, spec.id);
        self.step("connect:bridge", |kernel| {
            kernel.bridges.insert(spec.tag.clone(), (note, spec.clone()));
        })
    }

    fn open(&self, spec: &NetworkSpec) -> Result<()> {
        self.fault("open")?;
        assert!(self.kernel().bridges.contains_key(&spec.tag), "only what was connected can be opened");
        self.step("open:firewall", |kernel| {
            kernel.firewalls.insert(spec.tag.clone());
        })
    }

    /// Everybody, long ago.
    fn heard(&self, tag: &Tag) -> Result<BTreeMap<PublicKey, i64>> {
        let kernel = self.kernel();
        let tie = kernel.bridges.get(tag).and_then(|(_, spec)| spec.tie.as_ref());
        Ok(tie.into_iter().flat_map(|tie| &tie.ends).map(|end| (end.key.clone(), 0)).collect())
    }

    fn retie(&self, spec: &NetworkSpec) -> Result<()> {
        self.step("retie", |kernel| {
            if let Some((_, there)) = kernel.bridges.get_mut(&spec.tag) {
                there.tie.clone_from(&spec.tie);
            }
        })
    }

    fn disconnect(&self, tag: &Tag) -> Result<()> {
        self.fault("disconnect")?;
        // The firewall goes last: while there is a bridge, it is isolated.
        self.step("disconnect:bridge", |kernel| {
            kernel.bridges.remove(tag);
        })?;
        self.step("disconnect:firewall", |kernel| {
            kernel.firewalls.remove(tag);
        })
    }

    fn routes(&self) -> Result<Vec<Route>> {
        self.fault("routes")?;
        Ok(self.kernel().routes.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::model::{EnvironmentId, EnvironmentName, PlatformName};

    fn spec() -> NetworkSpec {
        let id = EnvironmentId { platform: PlatformName::new("shop").unwrap(), name: EnvironmentName::new("1161").unwrap() };
        NetworkSpec {
            tag: Tag::of("i", &id),
            id,
            v4: "10.213.0.0/26".parse().unwrap(),
            v6: "fd00::/64".parse().unwrap(),
            tie: None,
        }
    }

    #[test]
    fn a_kill_anywhere_is_finished_by_the_next_call() {
        let spec = spec();
        let places = ["connect:bridge before", "connect:bridge after", "open:firewall before", "open:firewall after"];
        let bring_up = |fake: &Fake| fake.connect(&spec).and_then(|()| fake.open(&spec));
        for place in places {
            let fake = Fake::new("i");
            let deadly = fake.on_checkpoint(move |at| assert_ne!(at, place));
            assert!(catch_unwind(AssertUnwindSafe(|| bring_up(&deadly))).is_err(), "{place}");
            assert_eq!(fake.seen(&spec.tag, None).unwrap().complete(), place == "open:firewall after", "{place}");
            bring_up(&fake).unwrap();
            assert!(fake.seen(&spec.tag, None).unwrap().complete());
            assert_eq!(fake.list().unwrap(), [(spec.tag.clone(), "i shop/1161".to_owned())]);
            fake.disconnect(&spec.tag).unwrap();
            fake.disconnect(&spec.tag).unwrap();
            assert!(fake.seen(&spec.tag, None).unwrap().nothing());
        }
    }

    #[test]
    fn a_wanted_failure_comes_once() {
        let (fake, spec) = (Fake::new("i"), spec());
        fake.fail_next("open:firewall");
        fake.connect(&spec).unwrap();
        assert!(fake.open(&spec).is_err());
        assert_eq!(fake.seen(&spec.tag, None).unwrap(), Seen { bridge: true, firewall: false });
        assert!(fake.open(&spec).is_ok());
    }
}
