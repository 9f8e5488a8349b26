//! Servers: computers with an SSH door that the operator may enter as root, or as somebody whom sudo makes root, and adt there.
//!
//! Owns the way to a server by the operator's own `ssh`, how the host key is checked, how this adt's own program gets there, and the
//! greeting with it. Must never know what is asked of it then: requests are the engine's.
//!
//! ```text
//! ssh root@a.example  ──  a fixed script says what is there: who we are, which adt, how much room
//!                         put:   this program, by its SHA-256, beside the old one, then in its place
//!                         go:    becomes `adt internal:server`, and what follows are frames; see `wire`
//! ```
//! - One connection for all of it; no file, socket or process of `ssh` outlives the command that needed it.
//! - Nothing of a configuration becomes part of the script: it is a constant, and what it is told comes on its input.
//! - A server whose key nobody vouched for is never spoken to: either its fingerprint is in `platform.toml`, or the person's own
//!   `known_hosts` has it.
//! - `ssh` runs as the person, also behind sudo: their keys, agent, jump hosts and settings count.
//!
//! Not chosen: a library for SSH, which knows none of a person's settings; a control socket with several connections over it, which
//! has to be cleaned up after whoever is killed; a helper in another language on the server, which would be a second adt.

mod complaint;
pub mod door;
pub mod host_key;
mod script;
pub mod session;
pub mod way;

pub use door::{Door, Program, enter, knock};
pub use script::BEFORE;
pub use session::Session;
pub use way::Way;
