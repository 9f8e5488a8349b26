//! Commands without sudo: who is at the other end of a socket, whether he may come in, and the answer, by the engine, for that person.
//!
//! | file | what is there |
//! |---|---|
//! | [`accept`] | the socket, how many sessions there may be, a process for each |
//! | `peer` | who it is: the kernel says the user, the system's database says the rest |
//! | `check` | whether he may come in, and for whom the engine works then; what he may is [`crate::engine::permission`]'s |
//! | `patience` | how long work that holds locks waits for who takes what it tells |
//! | [`serve`] | one session: a greeting, then requests and their events |
//! | `program` | programs in machines, between pipes or at a terminal |
//!
//! A session is a process of its own, as root: one person's umask, folder, signals, memory and mistakes. It believes nothing that
//! the other side says about who he is. Paths that a request names are the person's; what the person's files hold comes and goes as
//! data, which the client reads and writes as the person.
//!
//! Of the client's environment nothing counts here but what it sends: the words of the command, shown to who waits for it, and
//! the kind of its terminal. Settings are those of whoever started the service, of whose environment sessions get no more than
//! settings: a token there would be every member's. (`ADT_STORE`, `ADT_CONFIG` and `--store` choose
//! the socket, `ADT_PLATFORM`, `ADT_LOG` and `NO_COLOR` are read by the client for itself; git gets no variable of the person's, so
//! keys come from files and settings in their home.)
//!
//! Not chosen: one process that answers all, whose umask and current folder would be everybody's, and which a single fault ends for
//! all; `sudo` rules, which let everything through or nothing.

pub mod accept;
mod check;
mod patience;
mod peer;
mod program;
pub mod serve;

pub use check::{GROUP, only_root};
