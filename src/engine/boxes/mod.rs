//! Boxes: building, showing and removing them, and the machines in which they are built.

pub(in crate::engine) mod build_machine;
pub(in crate::engine) mod verbs;
