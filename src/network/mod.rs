//! Addresses, bridges, firewall: the network of an environment.
//!
//! Everything in the kernel carries the environment's tag ([`crate::model::Tag`]): the bridge `adt<tag>`, the cables
//! `adt<tag>-<number>`, the nft table `adt_<tag>`. Nothing is remembered; [`Network::seen`] asks the kernel.

pub mod address;
pub mod fake;
pub mod linux;

use crate::model::{NetworkSpec, Tag};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the network {wanted} overlaps the live route `{route}`")]
    Overlap { wanted: String, route: String },
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
    pub bridge: bool,
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
    fn seen(&self, tag: &Tag) -> Result<Seen>;

    /// The tags of all networks of any adt on this host, with the owner's note (`<install> <platform>/<environment>`).
    fn list(&self) -> Result<Vec<(Tag, String)>>;

    /// Bridge up with its addresses, isolation and NAT in force.
    fn connect(&self, spec: &NetworkSpec) -> Result<()>;

    /// Removes bridge, cables and table.
    fn disconnect(&self, tag: &Tag) -> Result<()>;

    /// Live routes of this host that are not adt's own bridges, to refuse an overlap.
    fn routes(&self) -> Result<Vec<address::Route>>;
}
