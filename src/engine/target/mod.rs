//! Targets: a ticket's environment on one server or several, the proof that it is the same, and the way back.
//!
//! | file | what is there |
//! |---|---|
//! | [`list`] | `target:list`, and what a target's name means |
//! | [`promote`] | `env:promote` where its operator sits: look, plan, show, do, prove |
//! | [`cargo`] | what a promotion carries, and each server's share of it |
//! | [`proof`] | what a server shows once all is done |
//! | [`back`] | `env:rollback` where its operator sits |
//! | [`fleet`] | the servers of a target as one: what each carries, in which order, what they agree on |
//! | [`receive`] | the same on the server: what is there, the lock, a definition that an environment becomes |
//! | [`seat`] | a server's place among several that carry an environment |
//! | [`releases`] | the releases of sites, on both sides: which go, how they travel, their roll-out |
//! | [`access`] | `target:access`, `grant`, `revoke`, and a promotion's firewall, where their operator sits |
//! | [`doors`] | the same on the server: a change on trial, kept or undone |
//! | [`outside`] | the names that the world shall know, asked for from where the operator sits |
//! | [`records`] | the records of these names, where adt enters them |
//! | [`check`] | `target:check`, `target:history` |
//! | [`rehearse`] | `target:rehearse`: a server that is a machine of this host, treated as any other |
//! | [`faults`] | the same, broken at each step in turn |
//!
//! What must be done is decided in [`crate::plan::promotion`], the way to a server is [`crate::servers`]. Who decides is the operator;
//! what is wanted, its history and the lock are on the server, so the operator's host can vanish at any moment.
//!
//! ```text
//! all servers at once: look ─ plan ─ show ─ put adt ─ hold ─ set up ─ send layers and releases
//! one after the other:                                                        ─ define ─ records ─ prove
//! ```
//! Killed anywhere, the same command goes on: what is there is asked anew, and each move is done whole or again.

mod access;
mod back;
mod cargo;
mod check;
mod doors;
mod faults;
mod fleet;
mod list;
mod outside;
mod promote;
mod proof;
mod receive;
mod records;
mod rehearse;
mod releases;
mod seat;

pub use list::among;
pub use receive::Brought;
