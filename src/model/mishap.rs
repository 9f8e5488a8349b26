//! What a rehearsal breaks on purpose, and what became of that.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that goes wrong on a server or on the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mishap {
    /// The server closes each ssh connection.
    Connection,
    /// The server loses its power, and is switched on again.
    Server,
    /// The disk that the server's adt has its store on is full, and then is not.
    Disk,
}

impl Mishap {
    pub const ALL: [Self; 3] = [Self::Connection, Self::Server, Self::Disk];

    pub fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One of them, made while a promotion was at a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    pub fault: Mishap,
    pub server: String,
    pub step: String,
    /// What the promotion's operator was told; `None` where it got through nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
}
