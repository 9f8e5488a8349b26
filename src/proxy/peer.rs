//! Who is at the other end of a connection.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use super::door::Whom;
use super::headers::Client;
use super::rate::Rate;
use super::shared::Shared;
use super::sweep::State;
use crate::shares::{Account, network};

/// Everything a request's handler knows about where it came from.
pub struct Peer {
    pub shared: Arc<Shared>,
    pub state: Arc<State>,
    pub client: Client,
    pub address: std::net::IpAddr,
    pub whom: Whom,
    /// The name that it was shown a certificate for.
    pub promised: Option<Box<str>>,
    /// Of its requests to all environments.
    pub asker: Arc<Account>,
    /// Of those to the environment that was asked last.
    pub within: Last<Account>,
    /// How often it asks this one.
    pub rate: Last<Rate>,
}

/// What a client has of the environment that it asked last: few ask more than one over a connection.
pub struct Last<T>(Mutex<Option<(Ipv4Addr, Arc<T>)>>);

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Last<T> {
    fn of(&self, environment: Ipv4Addr, find: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, found)) if *known == environment => found.clone(),
            _ => last.insert((environment, find())).1.clone(),
        }
    }
}

impl Peer {
    /// Of its requests to one environment.
    pub fn within(&self, environment: Ipv4Addr) -> Arc<Account> {
        self.within.of(environment, || self.shared.places.sites.member(environment, self.address))
    }

    /// How often it asks one environment.
    pub fn rate(&self, environment: Ipv4Addr) -> Arc<Rate> {
        self.rate.of(environment, || self.shared.rates.of((environment, network(self.address))))
    }
}
