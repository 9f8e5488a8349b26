//! The host itself: what it must have, who serves names and pages on it, and the other servers that are led to these.

pub mod at_boot;
pub(in crate::engine) mod bind_proxy;
pub(in crate::engine) mod bootstrap;
pub(in crate::engine) mod browsers;
pub(in crate::engine) mod follow_bound;
pub mod group;
pub(in crate::engine) mod machines;
pub(in crate::engine) mod outdated;
pub mod pool;
pub(in crate::engine) mod pool_unit;
pub(in crate::engine) mod requirement;
pub mod service;
pub(in crate::engine) mod serving;
pub(in crate::engine) mod system_file;
pub(in crate::engine) mod upkeep;
