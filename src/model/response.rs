//! response
pub enum Response {}
