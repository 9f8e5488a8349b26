//! The name server: what [`Routes`](crate::model::route::Routes) says, as DNS, and nothing that routes don't say.
//!
//! ```text
//! Routes ──build──▶ Zone (immutable: name → answers in wire form)
//!                     ▲ swapped whole by Server::update
//! packet ─▶ front ────┘─▶ reply, refuse, drop, or forward (machines only) ─▶ known already, or asked of the host's name servers
//!   ▲ udp: some sockets per address, tcp: one listener per address, and one for TLS where the host's settings say so
//! ```
//!
//! It never asks a provider or the store: a name is right when routes are. Who asks is known by the source address alone.
//! A source in an environment's network is one of its machines and gets the inside view: short names, production's names for
//! sites, sites and homepages at the gateway, where the proxy listens for machines, and the rest of the world through the host's
//! own name servers. Everyone else gets the host's view, where a site is the proxy, and is refused all other names:
//! adt is never an open resolver.
//!
//! Packets are read and answered with hickory-proto. hickory-server (0.26.3) gives fewer answers than Bind for names that exist, more for
//! others, and takes more of a core for each than is taken here: it builds each from its records, in a task of its own. Here the part
//! after the question was written when the routes changed, and an answer is a header, the question as it came, and that part.
//! Side by side on a busy host, with the questions of `bench/names.rs` for 500 environments, and with records and their names
//! prepared for hickory-server; means of two rounds, answers a second and what one took of a core:
//!
//! | | here | hickory-server | Bind 9 |
//! |---|---|---|---|
//! | names that exist | 53725 (11 µs) | 34808 (19 µs) | 38302 (16 µs) |
//! | names below sites | 35973 (15 µs) | 30439 (20 µs) | 24300 (27 µs) |
//! | names that do not exist | 43819 (15 µs) | 38500 (19 µs) | 34203 (24 µs) |
//! | all of these | 49661 (16 µs) | 46655 (18 µs) | 33693 (21 µs) |
//!
//! It can't serve connections as they are served here. It takes each that comes, and nothing of ours is asked until the first
//! question of it is read: no client's or environment's connections could be counted, none be closed sooner where they are many. It
//! takes connections from a listener of tokio's only, so they can't be handed to it one by one. Out of files, it tries again without
//! a pause; a stop cuts off what is being answered.
//!
//! Why the answers of other name servers are kept without hickory-resolver is said in [`cache`].

mod build;
mod cache;
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
