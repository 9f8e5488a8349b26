//! How much of its host a machine may use.

use serde::{Deserialize, Serialize};

/// What a machine may use of its host. `None` means no limit, but for memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// `None` is what the host gives to a machine of which nobody said how much it needs.
    pub memory_bytes: Option<u64>,
    /// Shares of a processor, e.g. 1.5.
    pub cpus: Option<f64>,
    pub processes: Option<u32>,
}

impl Limits {
    /// As much memory as the host has.
    pub const ALL_MEMORY: u64 = u64::MAX;
}
