//! Why a backend gave no answer, and who is to blame for that.

use std::time::Duration;

use super::bodyless;
use super::pace::TooSlow;

/// Why a backend gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("it does not accept connections: {0}")]
    Connect(std::io::Error),
    #[error("it does not accept connections: there is no answer within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    #[error("it closed the connection without an answer: {0}")]
    Broken(hyper::Error),
    /// The same of a request without a body.
    #[error("it closed the connection without an answer: {0}")]
    Cut(std::io::Error),
    #[error("it answered with {0}")]
    Wrong(&'static str),
    #[error("it gave no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("it stopped accepting connections while it was waited for")]
    Gone,
    #[error("its environment has too many connections open: {0} of them")]
    Crowded(usize),
}

impl From<bodyless::Error> for Failure {
    fn from(error: bodyless::Error) -> Self {
        match error {
            bodyless::Error::Io(error) => Self::Cut(error),
            bodyless::Error::Wrong(what) => Self::Wrong(what),
        }
    }
}

impl Failure {
    /// A slow answer, or a body that the client did not finish, say something about the request rather than about the machine.
    pub fn is_the_backends(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Crowded(_) => false,
            Self::Broken(error) => !error.is_user(),
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Cut(_) | Self::Wrong(_) | Self::Gone => true,
        }
    }

    /// The client is to blame, which sent its body too slowly.
    pub fn is_too_slow(&self) -> bool {
        let Self::Broken(error) = self else { return false };
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        causes.into_iter().any(|cause| cause.is::<TooSlow>())
    }

    /// Nothing was sent to the backend.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_) | Self::Gone)
    }
}
