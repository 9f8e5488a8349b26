//! What a process and whoever started it tell each other, in systemd's words: that it serves, and which sockets are to outlive it.
//!
//! [`notify`] speaks, and [`notify::Ear`] is the other side for a starter that is no systemd; [`inherited`] is what systemd kept for
//! this process; [`listeners`] are the sockets that come and go by these two.

mod inherited;
mod listeners;
pub mod notify;
mod place;

pub use listeners::Listeners;
pub use place::Place;
