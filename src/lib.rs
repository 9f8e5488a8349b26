//! adt
pub mod boxes;
pub mod exec;
pub mod model;
pub mod network;
pub mod providers;
