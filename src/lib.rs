//! adt gives every ticket a whole private copy of a team's production: several real machines, at guessable names.
//!
//! Each module, and after the arrow what it uses of the others:
//!
//! ```text
//! L0 model       names, topology, specifications, states, steps, requests, events       ← -
//!    disk        files and folders put in place whole, and for good                     ← -
//! L1 config      platform.toml, box.toml, adt.toml → model, with spans                  ← model
//!    plan        (wanted, seen) → Plan; pure                                            ← model
//!    systemd     what a process and its starter tell each other: it serves, sockets that outlive it  ← -
//!    shares      who may hold how much of what all want; counters                       ← -
//!    wire        requests, events and programs as frames over a stream of bytes         ← model
//! L2 exec        the only place that starts processes; a person's rights on files       ← model
//!    template    minijinja; what others wrote, in a process of its own                  ← exec
//!    store       state folder: database, locks, history, secrets, records of snapshots  ← model disk
//!    boxes       recipe → layer; layers in a form that travels                          ← model disk exec store
//!    network     addresses, bridges, firewall                                           ← model disk exec
//!    bind        routes → configuration of Apache, nginx, Bind, dnsmasq                 ← model disk exec template
//!    resolver    the host's own name resolution, pointed at adt's                       ← model disk exec
//!    sources     git mirrors, checkouts, what is rendered and kept of these             ← model disk exec store
//!    servers     the way to adt on a rented server, by the operator's own ssh            ← model exec wire
//!    logs        lines of journals and files → records, in order; forms on the wire     ← model
//!    releases    commit → built tree, and the rules for its programs                    ← model disk exec store sources boxes
//!    tls         local authorities, certificates on demand                              ← model disk
//!    acme        certificates that authorities of the world give                     ← model disk tls
//!    records     names of targets, changed and looked up at their zone's own servers    ← model
//!    trust       who trusts them: system, browsers                                      ← model disk exec
//!    providers   what machines run on: the contract, the registry, lxc, fake            ← model disk exec
//! L3 engine      the verbs: inspect → plan → show → run; emits Events                   ← all above
//!    session     commands without sudo: the socket, who comes in, and for whom          ← all above
//!    dns         routes → answers; forwards for machines                                ← model shares systemd
//!    proxy       routes → http and https                                                ← model disk template shares systemd tls
//!    daemon      one process that serves names and pages, sends logs, lets sessions in  ← all above
//! L4 cli         arguments, the way to an engine, what a person reads                   ← all above
//! ```
//!
//! | to look for | go to |
//! |---|---|
//! | a command | its words in `cli/args.rs`; `model::request`; its verb in the room of [`engine`] that has its noun |
//! | what somebody may do | `engine/permission.rs`, for every request however it came; who comes in over the socket is `session/check.rs` |
//! | a provider of machines | the contract in [`providers`], their list in `providers/choose.rs` |
//! | a snapshot | `engine/environment/snapshot.rs` takes it, `providers/lxc/snapshot.rs` copies, `store/snapshots.rs` knows it |
//! | the steps of a change | [`plan`], which is pure; `engine/environment/perform.rs` does them |
//! | which layers travel | `engine/boxes/travel.rs`; their form is `boxes/packed` |
//! | which releases travel | `engine/target/releases.rs`; their form is `releases/packed.rs` |
//! | what goes over a socket | [`wire`] |
//! | a name that the world knows | `model/edge.rs`; its door `proxy/world.rs`; its certificate `tls/public.rs`, [`acme`] |
//! | a record of such a name | [`records`]; what is to be done `plan/records.rs`; when `engine/target/records.rs` |
//! | who may see a site of a target | `proxy/world.rs`, which asks `proxy/password.rs` and `proxy/rate.rs` |
//! | who may reach a server | `model/access.rs`; a change on trial `engine/target/doors.rs`; the firewall `network/wall.rs` |
//! | one environment on several servers | `engine/target/fleet.rs`; what each knows `model/seat.rs`; the ways between them `network/tie.rs` |
//! | a socket that outlives its process | [`systemd`]; what is kept is `proxy/worker.rs` and `dns/listen.rs` |
//! | a target | `engine/target`; what must be done there `plan/promotion.rs`; the way to its server [`servers`]; its history `store/promotions.rs` |
//!
//! What always holds:
//! - Wanted state is in the store, seen state is asked of the kernel, the plan is the difference. There is no repair mode.
//! - Whatever adt makes in the kernel carries the tag of its environment or installation, so a later run finds what a killed one left.
//! - Nothing below `cli` prints, and nothing but `exec` starts a program; what liblxc needs forked is in `providers/lxc`.
//! - `tests/it/layers.rs` reads the drawing above and the `use crate::` lines, and fails where they are not the same.

pub mod acme;
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
pub mod records;
pub mod releases;
pub mod resolver;
pub mod servers;
pub mod session;
pub mod shares;
pub mod sources;
pub mod store;
pub mod systemd;
pub mod template;
pub mod tls;
pub mod trust;
pub mod wire;

/// What the fuzzers in here share with those in `tests/it`.
#[cfg(test)]
#[path = "../tests/it/dice.rs"]
mod dice;
