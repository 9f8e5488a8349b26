//! What clients and environments share of the proxy, and who has how much of it.
//!
//! ```text
//! connections   of clients, by their address; machines by their environment and their address in it
//! requests      that are not over, WebSockets among them, by who asks
//! sites         the same requests by the environment that is asked, and in it by who asks
//! backends      connections to machines, those being made and idle ones too, by their environment
//! ```
//! A request needs one of each, so whatever a client does to one environment, it holds at most half of the requests and a quarter
//! of what the environments' sites have: other clients reach that environment, and this client and others reach the others.

use std::sync::Arc;

use super::Limits;
use crate::shares::{self, Shares};

/// Refused connections that are told why, all at once.
const TOLD: usize = 256;

#[derive(Debug)]
pub struct Places {
    pub connections: Arc<Shares>,
    pub requests: Arc<Shares>,
    pub sites: Arc<Shares>,
    pub backends: Arc<Shares>,
    pub told: Arc<Shares>,
}

impl Places {
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: Shares::new(limits.connections.min(shares::files() / 8 * 5)),
            requests: Shares::new(limits.requests),
            sites: Shares::new(limits.requests),
            backends: Shares::new(limits.backends.min(shares::files() / 8)),
            told: Shares::new(TOLD),
        }
    }

    /// In Prometheus' text format.
    pub fn metrics(&self) -> String {
        let Self { connections, requests, sites, backends, told: _ } = self;
        let all = [("connections", connections), ("requests", requests), ("sites", sites), ("backends", backends)];
        shares::metrics("adt_proxy", &all.map(|(name, shares)| (name, &**shares)))
    }
}
