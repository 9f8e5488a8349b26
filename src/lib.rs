//! adt
pub mod exec;
pub mod model;
pub mod network;
pub mod plan;
pub mod providers;
pub mod store;
