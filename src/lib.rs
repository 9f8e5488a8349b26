//! adt
pub mod config;
pub mod exec;
pub mod model;
pub mod network;
pub mod providers;
pub mod template;
