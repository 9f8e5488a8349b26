//! Certificates that an authority of the world gives to whoever answers at a name (RFC 8555): asked for, kept, renewed.
//!
//! ```text
//! names ─ own certificate? ─ no ─> one order for all of an environment ─> challenges at port 80 ─> tls/acme/<environment>.pem
//!                                   └ failed: why and when again, in tls/acme/<environment>.json
//! ```
//! What is known is in files, and each try is written down before it begins: a process that is killed at any moment has asked no
//! more often than it may, and the next one goes on. Keys and the account are readable by root only, and no log has them.
//!
//! Must never know who answers challenges, or how names come to be.

mod account;
mod client;
mod order;
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use crate::model::edge::Acme;
use crate::model::{Domain, EnvironmentId, Routes};
use crate::tls::{self, Challenges, Given, Public};

pub use record::{Record, record};

/// How often it is looked whether anything is to be done.
const LOOK: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In the authority's words.
    #[error("{0}")]
    Authority(#[from] instant_acme::Error),
    #[error("`{name}` was not found to be ours: {reason}")]
    NotProven { name: String, reason: String },
    #[error("the authority asks for another proof of `{name}` than an answer at port 80")]
    NoChallenge { name: String },
    #[error("keep it in `{}`", path.display())]
    Keep {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("what it gave is no certificate for these names: {0}")]
    Useless(String),
}

/// What a keeper needs.
pub struct Place {
    pub store: PathBuf,
    pub challenges: Arc<Challenges>,
    pub public: Arc<Public>,
    /// Finds the certificates, in PEM, of whom this host believes.
    pub believed: fn() -> Vec<u8>,
}

/// The task that sees to certificates. It ends after this is dropped, and nobody waits for it.
pub struct Keeper(Sender<Routes>);

impl Keeper {
    /// Does nothing before it is told of routes: an authority that is asked looks at once.
    pub fn start(place: Place) -> std::io::Result<Self> {
        let (news, heard) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || heard.recv().map_or((), |routes| work(&place, &runtime, routes, &heard));
        std::thread::Builder::new().name("acme".into()).spawn(work)?;
        Ok(Self(news))
    }

    pub fn follow(&self, routes: Routes) {
        // It ends with us only.
        let _ = self.0.send(routes);
    }
}

fn work(place: &Place, runtime: &tokio::runtime::Runtime, mut routes: Routes, heard: &Receiver<Routes>) {
    loop {
        for wish in wishes(&place.store, &routes) {
            if runtime.block_on(see_to(place, &wish)) {
                place.public.update(&routes);
            }
        }
        match heard.recv_timeout(LOOK) {
            Ok(newer) => routes = heard.try_iter().last().unwrap_or(newer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What one environment wants of an authority.
struct Wish {
    id: EnvironmentId,
    acme: Acme,
    names: Vec<Domain>,
}

/// Names that a team brought a certificate for need no other.
fn wishes(store: &Path, routes: &Routes) -> Vec<Wish> {
    let wish = |environment: &crate::model::EnvironmentRoute| {
        let acme = environment.edge.acme.clone()?;
        let names = environment.world().map(|(_, name)| name.clone());
        let names: Vec<_> = names.filter(|name| !tls::is_brought(store, name)).collect();
        (environment.up && !names.is_empty()).then(|| Wish { id: environment.id.clone(), acme, names })
    };
    routes.environments().filter_map(wish).collect()
}

/// Says whether there is a new certificate.
async fn see_to(place: &Place, wish: &Wish) -> bool {
    let now = seconds(SystemTime::now());
    let given = Given::of(&place.store, &wish.id).open(SystemTime::now());
    let mut record = record(&place.store, &wish.id).filter(|record| record.is_of(wish)).unwrap_or_else(|| Record::of(wish));
    let covers = given.as_ref().is_some_and(|given| wish.names.iter().all(|name| given.covers(name.as_str())));
    if let (true, Some(given)) = (covers, &given) {
        if record.asks_when(now) {
            record.ask_again = now + ASK_AGAIN;
            record.renew = order::suggested(place, wish, given).await.or(record.renew);
            keep(place, wish, &record);
        }
        if now < record.renew.unwrap_or_else(|| given.two_thirds()) {
            return false;
        }
    }
    if now < record.again {
        return false;
    }
    record.begin(now);
    if !keep(place, wish, &record) {
        return false;
    }
    match order::fulfil(place, wish).await {
        Ok(()) => {
            tracing::info!(environment = %wish.id, "a new certificate is shown");
            keep(place, wish, &Record::of(wish));
            true
        }
        Err(error) => {
            let told = std::error::Error::source(&error).map_or(error.to_string(), |source| format!("{error}: {source}"));
            tracing::error!(environment = %wish.id, "no certificate: {told}");
            record.trouble = Some(told);
            keep(place, wish, &record);
            false
        }
    }
}

/// How often an authority is asked when to renew.
const ASK_AGAIN: i64 = 6 * 3600;

/// Without a record nothing is asked of anybody: who forgets his tries asks too often.
fn keep(place: &Place, wish: &Wish, record: &Record) -> bool {
    let kept = record.keep(&place.store, &wish.id);
    if let Err(error) = &kept {
        tracing::error!(environment = %wish.id, "could not {error}");
    }
    kept.is_ok()
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
