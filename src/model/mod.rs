//! Words that every layer shares: names, what is wanted, what is seen, what is done about it, and how that is told.
//!
//! Only std and serde live here. A type of this module never does anything; it can be printed, compared, stored and sent.

pub mod access;
pub mod edge;
pub mod event;
pub mod facts;
pub mod failure;
pub mod limits;
pub mod machine;
pub mod mishap;
pub mod names;
pub mod network;
pub mod recipe;
pub mod records;
pub mod request;
pub mod response;
pub mod route;
pub mod seat;
pub mod size;
pub mod snapshot;
pub mod step;
pub mod tag;
pub mod tail;
pub mod target;
pub mod tie;
pub mod topology;
pub mod visible;

pub use edge::Edge;
pub use event::{Event, Stream};
pub use facts::Facts;
pub use failure::{Failure, Fault, Kind, Place};
pub use limits::Limits;
pub use machine::{BootId, Exec, IdPool, MachineSpec, MachineState};
pub use names::{
    BadName, BoxName, BranchName, Digest, Domain, EnvironmentId, EnvironmentName, MachineId, MachineName, PlatformName,
    ProviderName, RoleName, SiteName, SnapshotName,
};
pub use network::{Attachment, NetworkSpec};
pub use recipe::{BuildStep, Parent, Recipe};
pub use request::Request;
pub use response::Response;
pub use route::{Backend, EnvironmentRoute, MachineRoute, PlatformRoute, Protocol, Routes, SiteRoute};
pub use seat::Seat;
pub use size::Size;
pub use step::{Action, Plan, Step, Wave};
pub use tag::Tag;
pub use tail::Tail;
pub use target::Target;
pub use tie::Tie;
pub use topology::{BoxRef, Check, Health, Machine, Platform, ProviderRef, Site};
