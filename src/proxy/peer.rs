//! Who is at the other end of a connection.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use super::door::Whom;
use super::headers::Client;
use super::shared::Shared;
use super::sweep::State;
use crate::shares::Account;

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
    pub within: Mutex<Option<(Ipv4Addr, Arc<Account>)>>,
}

impl Peer {
    /// Of its requests to one environment.
    pub fn within(&self, environment: Ipv4Addr) -> Arc<Account> {
        let mut last = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, account)) if *known == environment => account.clone(),
            _ => last.insert((environment, self.shared.places.sites.member(environment, self.address))).1.clone(),
        }
    }
}
