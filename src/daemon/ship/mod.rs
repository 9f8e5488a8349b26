//! Sends what the machines of all environments say to the receivers that the host settings name.
//!
//! Each receiver has its own readers, its own memory and its own marks, so one that is away holds up nobody else:
//!
//! ```text
//! machines ── Follower ─> Ring (bounded) ── batch ─> Sink ── taken? ─> Kept (<store>/logs/<receiver>.json)
//! ```
//!
//! The journals themselves are what is kept for later: whoever starts again reads on behind the last record that was taken.
//! A spool on disk would keep every line a second time.

mod marks;
mod ring;
mod splunk;
mod syslog;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use self::marks::Kept;
use self::ring::Ring;
use crate::config::HostSettings;
use crate::engine::logs::{Follower, LOOK, running, subjects};
use crate::logs::Record;
use crate::model::{Failure, Kind};
use crate::providers::{Provider, choose};
use crate::store::{Store, Wanted};
use crate::trust;

/// How long a receiver may take for one step of its part.
const PATIENCE: Duration = Duration::from_secs(5);
/// One request to a receiver; Splunk's own limit is a megabyte.
const BATCH: usize = 500_000;
/// Between attempts, doubled from the first to the last.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// What became of a batch.
pub enum Sent {
    Taken,
    /// To be sent again, for this reason.
    NotYet(String),
    /// It will never be taken.
    Never(String),
}

/// A receiver.
trait Sink: Send {
    fn send(&mut self, records: &[Record]) -> Sent;
}

/// All of it, while it runs.
pub struct Shipper {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Shipper {
    /// Begins to send; does nothing where no receiver is named.
    pub fn start(settings: &HostSettings, store: &Store) -> Result<Self, Failure> {
        let failed = |error: &io::Error| Failure::new(Kind::Host, "send the logs").because(error);
        let mut sinks: Vec<(&'static str, String, Box<dyn Sink>)> = Vec::new();
        if let Some(setting) = &settings.logs.syslog {
            let address = setting.value.address.clone();
            sinks.push(("syslog", address.to_string(), Box::new(syslog::Server::new(address))));
        }
        if let Some(setting) = &settings.logs.splunk {
            let collector = splunk::Collector::new(setting.value.clone()).map_err(|error| failed(&error))?;
            sinks.push(("splunk", setting.value.address.to_string(), Box::new(collector)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (name, address, sink) in sinks {
            let exe = std::env::current_exe().map_err(|error| failed(&error))?;
            // Its own connection to the database and its own provider: nothing is shared with those who serve.
            let store = Store::open(&store.folder)?;
            let provider = choose::provider(
                &settings.provider.value,
                store.folder.clone(),
                store.install().to_owned(),
                exe,
                settings.pool_ids.value,
            )?;
            let file = store.folder.join("logs").join(format!("{name}.json"));
            let route = Route { address, file, store, provider, ring: Ring::new(settings.logs.buffer), stop: Arc::clone(&stop) };
            threads.push(std::thread::spawn(move || route.run(sink)));
        }
        Ok(Self { stop, threads })
    }

    /// Until it is cancelled.
    pub fn run(self, cancel: &AtomicBool) {
        while !cancel.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        self.stop();
    }

    /// What was read and not taken is read again by the next one.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("sending logs ended by a bug");
            }
        }
    }
}

/// From the machines to one receiver.
struct Route {
    address: String,
    file: PathBuf,
    store: Store,
    provider: Box<dyn Provider>,
    ring: Ring,
    stop: Arc<AtomicBool>,
}

impl Route {
    fn run(&self, mut sink: Box<dyn Sink>) {
        let kept = std::sync::Mutex::new(Kept::open(&self.file));
        let kept = &kept;
        let marks = || kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Ok(environments) = self.store.database.readable_environments(None) {
            marks().only(&environments);
        }
        let follower = Follower::new(&*self.provider, marks().all());
        let take = |record| if self.ring.push(record) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !self.stopped() {
                    if let Err(failure) = self.look(&mut marks(), |subjects, running| {
                        follower.reconcile(scope, subjects, running, &take);
                    }) {
                        tracing::error!(%failure, "the machines whose logs are sent stay as they were");
                    }
                    self.nap(LOOK);
                }
                follower.stop();
                self.ring.close();
            });
            while !self.stopped() {
                let batch = self.ring.take(BATCH, LOOK);
                if !batch.is_empty()
                    && self.deliver(&mut *sink, &batch)
                    && let Err(error) = marks().advance(&batch)
                {
                    tracing::error!(%error, "how far the logs were sent can't be kept");
                }
            }
        });
    }

    fn look(
        &self,
        kept: &mut Kept,
        reconcile: impl FnOnce(&[crate::engine::logs::Subject], &crate::engine::logs::Running),
    ) -> Result<(), Failure> {
        let environments = self.store.database.readable_environments(None)?;
        kept.only(&environments);
        let up = environments.sound.iter().filter(|environment| environment.wanted == Wanted::Up);
        let subjects: Vec<_> = up.flat_map(subjects).collect();
        reconcile(&subjects, &running(&*self.provider)?);
        Ok(())
    }

    /// Tries until it is taken, or will never be; false when stopped before.
    fn deliver(&self, sink: &mut dyn Sink, batch: &[Record]) -> bool {
        let mut pause = BACKOFF[0];
        let mut told = false;
        loop {
            match sink.send(batch) {
                Sent::Taken => {
                    self.ring.receiver(true);
                    if told {
                        tracing::error!("{} takes logs again", self.address);
                    }
                    return true;
                }
                Sent::Never(reason) => {
                    self.ring.receiver(true);
                    tracing::error!("{} refuses {} records: {reason}", self.address, batch.len());
                    return true;
                }
                Sent::NotYet(reason) => {
                    self.ring.receiver(false);
                    if !told {
                        tracing::error!("{} takes no logs, they wait: {reason}", self.address);
                        told = true;
                    }
                    self.nap(pause);
                    pause = (pause * 2).min(BACKOFF[1]);
                }
            }
            if self.stopped() {
                return false;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn nap(&self, length: Duration) {
        let until = Instant::now() + length;
        while !self.stopped() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(length));
        }
    }
}

/// Trusts what this host trusts.
fn trusted() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let bundle = trust::System::find().map_err(io::Error::other)?.bundle();
    let certificates = CertificateDer::pem_file_iter(bundle).map_err(io::Error::other)?;
    roots.add_parsable_certificates(certificates.flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::fake::Fake;

    #[test]
    fn a_record_that_can_not_be_read_stops_nobody_and_keeps_its_marks() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let raw = rusqlite::Connection::open(folder.path().join("adt.db")).unwrap();
        let row = "INSERT INTO environments (platform, name, wanted, created, updated, owner, network, definition)
            VALUES ('shop', '1', 'up', 7, 7, 'ada', '10.9.8.0/26', '{}')";
        raw.execute(row, []).unwrap();
        let file = folder.path().join("syslog.json");
        let mark =
            |name: &str| format!(r#"[{{"platform": "shop", "name": "{name}"}}, {{"created": 7, "machines": {{"web": {{}}}}}}]"#);
        std::fs::write(&file, format!("[{}, {}]", mark("1"), mark("2"))).unwrap();
        let mut kept = Kept::open(&file);
        let stop = Arc::new(AtomicBool::new(false));
        let (address, provider) = (String::new(), Box::new(Fake::default()));
        let route = Route { address, file: file.clone(), store, provider, ring: Ring::new(1), stop };
        let mut looked = false;
        route.look(&mut kept, |subjects, _| looked = subjects.is_empty()).unwrap();
        assert!(looked);
        kept.advance(&[]).unwrap();
        let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}");
        assert_eq!(kept[0][0]["name"], "1");
    }
}
