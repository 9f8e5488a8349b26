//! Targets: a ticket's environment on a server, the proof that it is the same, and the way back.
//!
//! | file | what is there |
//! |---|---|
//! | [`list`] | `target:list`, and which server a target means |
//! | [`promote`] | `env:promote`, `env:rollback` where their operator sits: look, plan, show, do, prove |
//! | [`receive`] | the same on the server: what is there, the lock, a definition that an environment becomes |
//! | [`releases`] | the releases of sites, on both sides: which go, how they travel, their roll-out |
//! | [`access`] | `target:access`, `grant`, `revoke`, and a promotion's firewall, where their operator sits |
//! | [`doors`] | the same on the server: a change on trial, kept or undone |
//! | [`outside`] | the names that the world shall know, asked for from where the operator sits |
//! | [`records`] | the records of these names, where adt enters them |
//! | [`check`] | `target:check`, `target:history` |
//! | [`rehearse`] | `target:rehearse`: a server that is a machine of this host, treated as any other |
//!
//! What must be done is decided in [`crate::plan::promotion`], the way to a server is [`crate::servers`]. Who decides is the operator;
//! what is wanted, its history and the lock are on the server, so the operator's host can vanish at any moment.
//!
//! ```text
//! look ─ plan ─ show ─ put adt ─ hold ─ set up ─ send layers and releases ─ define ─ records ─ prove
//! ```
//! Killed anywhere, the same command goes on: what is there is asked anew, and each move is done whole or again.

mod access;
mod check;
mod doors;
mod list;
mod outside;
mod promote;
mod receive;
mod records;
mod rehearse;
mod releases;

pub use list::server_among;
pub use receive::Brought;
