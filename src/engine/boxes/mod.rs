//! Boxes: building, showing, sending and removing them, and the machines in which they are built.

pub(in crate::engine) mod build_machine;
mod travel;
pub(in crate::engine) mod verbs;
