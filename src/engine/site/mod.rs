//! The sites of an environment: their branches and checkouts, and their releases on machines.

pub(in crate::engine) mod code;
pub(in crate::engine) mod deploy;
pub(in crate::engine) mod release_on_machine;
pub(in crate::engine) mod rollout;
pub(in crate::engine) mod sites;
pub(in crate::engine) mod spares;
pub(in crate::engine) mod templates;
