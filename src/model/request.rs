//! request
pub enum Request {}
