//! Probes of what is really there, step by step, each with a verdict and a remedy.

pub mod browser;
pub(in crate::engine) mod certificate;
pub(in crate::engine) mod environment;
pub(in crate::engine) mod head;
pub(in crate::engine) mod names_and_pages;
pub mod probe;
pub(in crate::engine) mod verbs;
mod world;
