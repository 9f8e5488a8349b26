//! The name server: what [`Routes`](crate::model::route::Routes) says, as DNS, and nothing that routes don't say.
//!
//! ```text
//! Routes ──build──▶ Zone (immutable: name → answers in wire form)
//!                     ▲ swapped whole by Server::update
//! packet ─▶ front ────┘─▶ reply, refuse, drop, or forward (machines only)
//!   ▲ udp: some sockets per address, tcp: one listener per address
//! ```
//!
//! It never asks a provider or the store: a name is right when routes are. Who asks is known by the source address alone.
//! A source in an environment's network is one of its machines and gets the inside view: short names, production's names for
//! sites, sites and homepages at the gateway, where the proxy listens for machines, and the rest of the world through the host's
//! own name servers. Everyone else gets the host's view, where a site is the proxy, and is refused all other names:
//! adt is never an open resolver.
//!
//! Packets are read and answered with hickory-proto. Its server is not used: it builds each answer anew from its records, where
//! here the part after the question was written when the routes changed, and an answer is a header, the question as it came,
//! and that part.

mod build;
mod forward;
mod front;
mod fuzz;
mod listen;
mod posts;
mod ready;
#[doc(hidden)]
pub mod sample;
mod server;
mod shared;
mod stats;
mod tcp;
mod udp;
mod zone;

pub use front::{Asker, Transport, Verdict, respond};
#[doc(hidden)]
pub use fuzz::fuzz;
pub use listen::Error;
pub use posts::At;
pub use server::{Config, Server};
pub use stats::Stats;
pub use zone::{Front, View, Zone};

#[cfg(test)]
mod tests;
