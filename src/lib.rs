//! adt gives every ticket a whole private copy of a team's production: several real machines, at guessable names.
//!
//! ```text
//! L0 model       names, topology, specifications, states, steps, events          std + serde only
//!    disk        files and folders put in place whole, and for good                  nothing; all from L2 on may use it
//! L1 config      platform.toml, box.toml, adt.toml → model, with spans            model
//!    plan        (wanted, seen) → Plan; pure                                      model
//!    shares      who may hold how much of what all want; counters                 std + rustix only
//!    wire        requests, events and programs as frames over a stream of bytes   model
//! L2 exec        the only place that starts processes                             model
//!    template    minijinja; what others wrote, in a process of its own            model exec
//!    store       state folder: database, locks, history                           model
//!    boxes       recipe → layer                                                   model exec store template
//!    network     addresses, bridges, firewall                                     model exec
//!    bind        routes → configuration of Apache, nginx, Bind, dnsmasq           model exec store template
//!    resolver    the host's own name resolution, pointed at adt's                 model exec store
//!    sources     git mirrors, checkouts, what is rendered in these                model exec store
//!    logs        lines of journals and log files → records, in order; their forms on the wire       model
//!    releases    commit → built tree, and the rules for its programs              model exec store sources boxes
//!    providers   trait Provider, their registry, lxc, fake                        model exec network template
//! L3 engine      the verbs: inspect → plan → show → run; emits Events             L0–L2
//!                rooms: environment, site, platform, boxes, check, host, logs
//!    dns         routes → answers; forwards for machines                        model template shares
//!    proxy       routes → http and https                                         model template shares
//!    tls         local authorities, certificates on demand                       model store
//!    trust       who trusts them: system, browsers                               model exec store
//!    session     commands without sudo: the socket, who comes, what he may        L0–L2 engine
//!    daemon      serves names and pages; follows the store                       all but cli
//! L4 cli         arguments, one file per command, what a person reads             everything; nothing imports it
//! ```
//!
//! What always holds:
//! - Wanted state is in the store, seen state is asked of the kernel, the plan is the difference. There is no repair mode.
//! - Every kernel object carries the environment's tag, so a later run finds what a killed one left.
//! - Nothing below `cli` prints, and nothing but `exec` starts a process.
//! - `tests/layers.rs` reads the `use crate::` lines and fails on an edge that this table does not allow.

pub mod bind;
pub mod boxes;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod disk;
pub mod dns;
pub mod engine;
pub mod exec;
pub mod logs;
pub mod model;
pub mod network;
pub mod plan;
pub mod providers;
pub mod proxy;
pub mod releases;
pub mod resolver;
pub mod session;
pub mod shares;
pub mod sources;
pub mod store;
pub mod template;
pub mod tls;
pub mod trust;
pub mod wire;

/// What the fuzzers in here share with those in `tests/it`.
#[cfg(test)]
#[path = "../tests/it/dice.rs"]
mod dice;
