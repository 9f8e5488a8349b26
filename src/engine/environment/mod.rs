//! One environment: its life, its machines as they are wanted and seen, its data and what its templates know.

pub mod facts;
pub(in crate::engine) mod files;
pub(in crate::engine) mod lifecycle;
pub(in crate::engine) mod listing;
pub(in crate::engine) mod login;
pub(in crate::engine) mod ownership;
pub(in crate::engine) mod perform;
pub(in crate::engine) mod records;
pub(in crate::engine) mod reload;
pub mod routes;
pub(in crate::engine) mod seen;
pub(in crate::engine) mod sizes;
pub(in crate::engine) mod snapshot;
pub(in crate::engine) mod standing;
pub(in crate::engine) mod wanted;
