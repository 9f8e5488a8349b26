//! What is said on a channel: what is asked for, what is told meanwhile, how it ended.

use serde::{Deserialize, Serialize};

use crate::model::access::{AccessChange, AccessReport};
use crate::model::response::{
    BoxDetail, BoxSummary, Built, Carried, Checklist, Done, EnvironmentDetail, EnvironmentSummary, PlatformSummary, Promotion,
    SiteDetail, SnapshotSummary, Standing, Url,
};
use crate::model::seat::{Joining, Key, Seat, Toward};
use crate::model::target::{Back, TargetSummary};
use crate::model::{
    Digest, EnvironmentId, Event, Exec, Failure, MachineId, MachineName, PlatformName, Request, Response, SiteName,
};

/// What a channel is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    Ask(Request),
    /// What one must know to read a person's words.
    Look(Look),
    /// A program in a machine; a terminal's or pipes' data are the channel's.
    Run(Program),
    /// The machine's own console, at a terminal.
    Console(MachineId, Window),
    Logs(Logs),
    /// What the operator of a target asks of its server.
    Serve(Serve),
}

/// Answered only where root runs the program at the other end of the operator's `ssh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serve {
    /// The program that was put there answers: the one before it goes.
    Settle,
    /// Nobody else changes this environment as long as this connection lasts; `by` is who they are told is at it.
    Hold { id: EnvironmentId, by: String },
    /// What is there. `read`: the content of these layers is found out anew, from their files.
    Standing { id: EnvironmentId, read: Vec<Digest> },
    /// Layers, packed, are the input.
    Layers,
    /// Releases, packed, are the input.
    Releases,
    /// What it would be for this server to carry a part of an environment; with `make`, whatever that needs is made.
    Joining { id: EnvironmentId, make: bool },
    /// What the environment's secrets are made of.
    Key { id: EnvironmentId },
    /// The same of another server's, for an environment that is new here.
    TakeKey { id: EnvironmentId, key: Key },
    /// Ways to other servers as they will be, so that machines which come find the others.
    Tie { id: EnvironmentId, toward: Toward },
    /// A definition, as JSON of a store, is the input; the environment becomes it.
    Define { id: EnvironmentId, by: String, from: EnvironmentId, seat: Option<Seat>, dry_run: bool },
    /// Back to what was there before.
    Rollback { id: EnvironmentId, by: String, back: Back, dry_run: bool },
    /// Who may reach this server.
    Access,
    /// The same becomes another, on trial.
    TryAccess { change: AccessChange, by: String },
    /// Whoever says this came in over a new connection since, so what is on trial stays.
    KeepAccess { number: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    Platforms,
    Machines(EnvironmentId),
    /// The same machine, if there is one of this name.
    Machine(MachineId),
    Sites(PlatformName),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub machine: MachineId,
    pub exec: Exec,
    /// One of the machine's for it; else it gets pipes.
    pub terminal: Option<Window>,
    /// Its outputs go to one place, through one pipe that keeps their order.
    pub joined: bool,
}

/// A terminal as its person has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// `xterm-256color`
    pub kind: String,
    pub rows: u16,
    pub columns: u16,
}

/// Which records are wanted; see `engine::logs::Query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    pub id: EnvironmentId,
    pub machines: Vec<MachineName>,
    pub site: Option<SiteName>,
    pub since: Option<i64>,
    pub until: Option<i64>,
    /// A regular expression.
    pub grep: Option<String>,
    pub lines: Option<usize>,
    pub follow: bool,
}

/// What is told before the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    Event(Event),
    Record(Record),
    Note(String),
}

/// One thing that a program of a machine said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub time: i64,
    pub machine: MachineId,
    pub fqdn: String,
    pub unit: String,
    pub severity: u8,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// The first stops at the next step, a second at once.
    Cancel,
    Signal(Signal),
    Resize {
        rows: u16,
        columns: u16,
    },
}

/// What may be sent to a program; not any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    HangUp,
    Interrupt,
    Terminate,
}

/// The last word on a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    Answered(Answer),
    Found(Found),
    /// A program's exit code, and how much of its input it has read.
    Ended {
        code: i32,
        read: u64,
    },
    Failed(Box<Failure>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    Platforms(Vec<Platform>),
    Machines(Vec<MachineName>),
    Sites(Vec<SiteName>),
    Standing(Box<Standing>),
    Joining(Box<Joining>),
    Key(Key),
    Access(Box<AccessReport>),
    /// The number of what is on trial.
    Trial(u64),
    Nothing,
}

/// A platform as far as words mean it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub name: PlatformName,
    pub folder: std::path::PathBuf,
}

/// A [`Response`] that says which one it is: printed for programs it doesn't, and two empty lists would be one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer(#[serde(with = "Named")] pub Response);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Response", rename_all = "kebab-case")]
enum Named {
    Done(Done),
    Check(Checklist),
    Platforms(Vec<PlatformSummary>),
    Environments(Vec<EnvironmentSummary>),
    Environment(Box<EnvironmentDetail>),
    Facts(Box<crate::model::facts::FactSheet>),
    Sites(Vec<SiteDetail>),
    Urls(Vec<Url>),
    Boxes(Vec<BoxSummary>),
    BoxDetail(Box<BoxDetail>),
    Snapshots(Vec<SnapshotSummary>),
    Built(Vec<Built>),
    Carried(Vec<Carried>),
    Targets(Vec<TargetSummary>),
    History(Vec<crate::model::target::Promoted>),
    Promotion(Box<Promotion>),
    Access(Vec<AccessReport>),
}
