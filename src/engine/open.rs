//! An engine with everything open: the store, the providers and the network that the host's settings name.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::check::probe;
use super::host::pool;
use super::{Caller, Engine, program};
use crate::config::HostSettings;
use crate::model::Failure;
use crate::network::Linux;
use crate::providers::choose;
use crate::template;

impl Engine {
    pub fn open(settings: HostSettings, caller: Caller, cancel: Arc<AtomicBool>) -> Result<Self, Failure> {
        let store = pool::open(&settings.store.value)?;
        let providers = choose::registry(choose::Host {
            store: store.folder.clone(),
            install: store.install().to_owned(),
            exe: program()?,
            ids: settings.pool_ids.value,
        });
        providers.knows(&settings.provider.value)?;
        template::process::by(program()?);
        Ok(Self {
            network: Box::new(Linux::new(store.install(), store.tie_key())),
            settings,
            store,
            providers,
            probe: Box::new(probe::Live),
            clock: now,
            caller,
            cancel,
        })
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
