//! The way to the engine: in this process for root, in a session at the other end of a socket for everybody else. Verbs don't know
//! which one they have; this file alone decides.

mod files;
mod fleet;
mod local;
mod program;
mod remote;
mod service;
mod target;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::{Global, Verb};
use crate::config;
use crate::engine::Engine;
use crate::engine::logs::{Query, Said};
use crate::model::{
    EnvironmentId, Event, Exec, Failure, MachineId, MachineName, PlatformName, Request, Response, SiteName, Stream,
};
use crate::wire::message::Platform;

/// Where a program inside a machine gets its input from, and where what it prints goes.
pub enum Io<'a> {
    /// The caller's terminal.
    Terminal,
    /// The caller's pipes and files.
    Caller,
    /// No input, each line as it comes.
    Lines(&'a (dyn Fn(Stream, &str) + Sync)),
}

/// Takes a record or a note, and says whether to go on.
pub type EachSaid<'a> = dyn FnMut(Said) -> std::ops::ControlFlow<()> + 'a;

pub trait Connection: Sync {
    fn platforms(&self) -> Result<Vec<Platform>, Failure>;
    fn machine_names(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure>;
    fn machine(&self, id: &EnvironmentId, name: &MachineName) -> Result<MachineId, Failure>;
    /// None where the platform's definition can't be read.
    fn site_names(&self, platform: &PlatformName) -> Vec<SiteName>;
    fn run(&self, request: &Request, each: &mut dyn FnMut(Event)) -> Result<Response, Failure>;
    /// What is better done once nobody waits any more, of a request that went well.
    fn refresh_behind(&self, request: &Request) -> Result<(), Failure>;
    /// The program's exit code.
    fn exec(&self, machine: &MachineId, exec: &Exec, io: Io<'_>) -> Result<i32, Failure>;
    fn console(&self, machine: &MachineId) -> Result<(), Failure>;
    fn logs(&self, query: &Query, each: &mut EachSaid<'_>) -> Result<(), Failure>;
    /// For what only root may, which is done in this process.
    fn engine(&self) -> Result<&Engine, Failure>;
    /// After everything.
    fn leave(&self);
}

pub fn open(global: &Global, cancel: &Arc<AtomicBool>) -> Result<Box<dyn Connection>, Failure> {
    let flags = global.host_flags();
    let settings = || config::host::read(&|name| std::env::var(name).ok(), &flags);
    if rustix::process::geteuid().is_root() {
        return Ok(Box::new(local::Local::open(settings()?, Arc::clone(cancel))?));
    }
    // Of this person's settings only the store counts, which says whose socket is meant.
    if let Some(flag) = flags.of_the_service() {
        return Err(service::need_root()
            .cause(format!("`{flag}` is a setting of the service"))
            .hint("leave it out, or run the same command with `sudo`"));
    }
    Ok(Box::new(remote::Remote::open(&settings()?.store.value, cancel)?))
}

pub use local::session;
pub use target::{is_for_targets, of_target};
