//! Addresses, bridges, firewall: the network of an environment.
//!
//! An environment's devices carry its tag ([`crate::model::Tag`]): the bridge `adt<tag>`, the cables `adt<tag>-<number>`.
//! One nft table `adt_<rules>` isolates all of them; it comes with the first network and leaves with the last. Nothing is
//! remembered; [`Network::seen`] asks the kernel. Ports that others hold have a table of their own: see [`detour`]; so has the firewall
//! of a target's server: see [`wall`]. Where several servers carry an environment, [`tie`] leads from one's bridge to the others'.

pub mod address;
mod announce;
pub mod detour;
mod device;
pub mod fake;
mod firewall;
pub mod linux;
pub mod tie;
mod trouble;
pub mod wall;

pub use linux::Linux;
pub use trouble::forward_trouble;

use std::collections::BTreeMap;

use crate::model::tie::PublicKey;
use crate::model::{NetworkSpec, Tag, Tie};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the network {wanted} overlaps the live route `{route}`")]
    Overlap { wanted: String, route: String },
    #[error("the network {wanted} is another environment's here, which has {other}")]
    Taken { wanted: String, other: String },
    #[error("no free network is left in the pool {pool}: all {count} are taken")]
    PoolExhausted { pool: String, count: usize },
    #[error("the kernel refused to {what}")]
    Kernel {
        what: String,
        #[source]
        source: crate::exec::Error,
    },
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

/// What is in the kernel for a tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The bridge is there, maybe half made.
    pub bridge: bool,
    /// The bridge is finished and open, the rules are in force for it, and its way to other servers is as it shall be.
    pub firewall: bool,
}

impl Seen {
    pub fn complete(self) -> bool {
        self.bridge && self.firewall
    }

    pub fn nothing(self) -> bool {
        !self.bridge && !self.firewall
    }
}

/// Same rules as for a provider's verbs: twice is fine, and a call that is killed anywhere is finished by the next.
pub trait Network: Send + Sync {
    /// What is there, and whether it goes on to other servers as `tie` wants it.
    fn seen(&self, tag: &Tag, tie: Option<&Tie>) -> Result<Seen>;

    /// The tags of all networks of any adt on this host, with the owner's note (`<install> <platform>/<environment>`).
    fn list(&self) -> Result<Vec<(Tag, String)>>;

    /// The bridge with its addresses, closed: machines can be plugged in, and nothing passes. One that is open stays so.
    fn connect(&self, spec: &NetworkSpec) -> Result<()>;

    /// Isolation and NAT in force, the ways to other servers there, and then the bridge open. Machines may be starting on it meanwhile.
    fn open(&self, spec: &NetworkSpec) -> Result<()>;

    /// When each other server was last heard at a tie, in seconds since 1970; one that never was is not in it.
    fn heard(&self, tag: &Tag) -> Result<BTreeMap<PublicKey, i64>>;

    /// Leads an open network to other servers as `spec` wants it now, and tells the machines here; what is closed stays as it is.
    fn retie(&self, spec: &NetworkSpec) -> Result<()>;

    /// Removes bridge and cables, and with the last network the firewall.
    fn disconnect(&self, tag: &Tag) -> Result<()>;

    /// Live routes of this host that are not adt's own bridges, to refuse an overlap.
    fn routes(&self) -> Result<Vec<address::Route>>;
}
