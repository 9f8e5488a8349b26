//! The greeting: which protocol and which adt each side speaks, and what one says to who speaks another.

use std::io::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::{self, Broken, Frame, Kind as FrameKind, Reader, Source};
use crate::model::{Failure, Kind};

/// Raised with every change that the other side could misread.
pub const PROTOCOL: u32 = 1;
/// So long a peer may take for its greeting.
pub const WITHIN: Duration = Duration::from_secs(10);

/// The first frame of each side. Unknown fields are passed over, so that the greeting itself never needs a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// `0.1.0`
    pub adt: String,
    /// The words that others read while they wait for who asks; only of who asks.
    #[serde(default)]
    pub command: String,
    /// Of who answers: why this peer gets no further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Failure>,
}

impl Hello {
    pub fn ours() -> Self {
        Self { protocol: PROTOCOL, adt: env!("CARGO_PKG_VERSION").to_owned(), ..Self::default() }
    }

    pub fn send(&self, out: &mut impl Write) -> std::io::Result<()> {
        let body = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        frame::write(out, &Frame { kind: FrameKind::Hello, channel: 0, body })
    }

    /// What the other side begins with.
    pub fn receive<S: Source>(reader: &mut Reader<S>) -> Result<Self, Broken> {
        let frame = reader.read_within(WITHIN)?.ok_or(Broken::CutShort)?;
        if frame.kind != FrameKind::Hello {
            return Err(Broken::Wrong("it did not begin with a greeting".into()));
        }
        serde_json::from_slice(&frame.body).map_err(|error| Broken::Wrong(format!("its greeting is unreadable: {error}")))
    }

    /// What one who asks says about the adt that answers.
    pub fn suits_who_asks(&self) -> Result<(), Failure> {
        if let Some(failure) = &self.refused {
            return Err(failure.clone());
        }
        self.suits("this adt", "the one that answers")
    }

    /// What one who answers says to the adt that asks.
    pub fn suits_who_answers(&self) -> Result<(), Failure> {
        self.suits("the service", "the adt that asks")
    }

    /// Two builds of one version speak alike only if their protocol says so; two versions with one protocol understand each other.
    fn suits(&self, us: &str, them: &str) -> Result<(), Failure> {
        if self.protocol == PROTOCOL {
            return Ok(());
        }
        let ours = env!("CARGO_PKG_VERSION");
        let failure = Failure::new(Kind::Conflict, "understand the other adt").cause(format!(
            "{us} is {ours} and speaks protocol {PROTOCOL}, {them} is {} and speaks protocol {}",
            self.adt.escape_debug(),
            self.protocol
        ));
        Err(failure.hint("after an update, `sudo adt host:bootstrap` (or `sudo adt host:halt; sudo adt host:up --detach`) starts the service anew"))
    }
}
