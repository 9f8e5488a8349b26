//! The `adt` program.
fn main() {}
