//! Platforms: how a host comes to know one, what its folder says, and verbs over all its environments.

pub(in crate::engine) mod definition;
mod domain;
pub(in crate::engine) mod fleet;
pub(in crate::engine) mod init;
