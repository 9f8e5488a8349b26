//! Where platforms and sites come from: git repositories, folders, and the examples inside this binary.

pub mod address;
pub mod beneath;
pub mod branch;
pub mod checkout;
pub mod export;
#[cfg(test)]
mod fuzz;
pub mod git;
pub mod kept;
pub mod mirror;
pub mod ready;
pub mod rendered;
pub mod shipped;
pub mod spare;
pub mod stock;
pub mod workspace;

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("git could not fetch `{address}`{}", branch.as_ref().map(|branch| format!(" at branch `{branch}`")).unwrap_or_default())]
    Fetch {
        address: String,
        branch: Option<String>,
        #[source]
        source: crate::exec::Error,
    },
    #[error("`{address}` has no branch `{branch}`")]
    NoBranch { address: String, branch: String, known: Vec<String> },
    #[error("several branches of `{address}` fit `{pattern}`: {}", found.join(", "))]
    SeveralBranches { address: String, pattern: String, found: Vec<String> },
    #[error("`{folder}` is no git checkout, so there is nothing to pull")]
    NoCheckout { folder: PathBuf },
    #[error("`{folder}` exists already and is not empty")]
    Occupied { folder: PathBuf },
    /// A site's own; the path is below its folder.
    #[error("`{file}` can't be used: {reason}")]
    Unfit { file: PathBuf, reason: String },
    #[error("nothing is rendered over `{file}`: {reason}")]
    InTheWay { file: PathBuf, reason: &'static str },
    #[error("the filesystem of `{folder}` has no access lists, and without one every user could read it")]
    NoAccessLists { folder: PathBuf },
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Exec(#[from] crate::exec::Error),
}
