//! Frames: how they are written, and how they are read from somebody who may send anything.
//!
//! What is read grows as it comes: a length that is claimed costs nothing.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The most bytes of a stream in one frame.
pub const PIECE: usize = 32 << 10;
/// The longest message to who answers: requests are words of a command line.
pub const ASKED: usize = 1 << 20;
/// The longest message to who asks: a listing of everything there is.
pub const ANSWERED: usize = 64 << 20;
/// So long a frame that has begun may take to come.
pub const PATIENCE: Duration = Duration::from_secs(60);

const HEADER: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hello = 1,
    Open = 2,
    Control = 3,
    Credit = 4,
    Data = 5,
    Eof = 6,
    Told = 7,
    End = 8,
}

impl Kind {
    pub const ALL: [Self; 8] =
        [Self::Hello, Self::Open, Self::Control, Self::Credit, Self::Data, Self::Eof, Self::Told, Self::End];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The most bytes of one of this kind, where a message may have so many.
    fn most(self, message: usize) -> usize {
        match self {
            Self::Hello => 64 << 10,
            Self::Open | Self::Told | Self::End => message,
            Self::Control => 1 << 10,
            Self::Credit => 5,
            Self::Data => 1 + PIECE,
            Self::Eof => 1,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub channel: u32,
    pub body: Vec<u8>,
}

/// Why nothing more can be heard from the other side.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle of a frame")]
    CutShort,
    #[error("a frame did not come, or not whole, in time")]
    Slow,
    #[error("a frame has the unknown kind {0}")]
    Unknown(u8),
    #[error("a frame of {length} bytes came where {most} are the most")]
    Long { length: usize, most: usize },
    #[error("{0}")]
    Wrong(String),
}

/// Writes a frame at once, so that frames of several threads don't mix.
pub fn write(out: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let length = u32::try_from(frame.body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(HEADER + frame.body.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(frame.kind as u8);
    bytes.extend_from_slice(&frame.channel.to_be_bytes());
    bytes.extend_from_slice(&frame.body);
    out.write_all(&bytes)?;
    out.flush()
}

/// What frames are read from: something that can be told not to wait for ever.
pub trait Source: Read {
    /// From now on reads fail as timed out after this time; `None` waits.
    fn hurry(&mut self, within: Option<Duration>);
}

impl Source for &[u8] {
    fn hurry(&mut self, _: Option<Duration>) {}
}

/// A descriptor that is waited for with a deadline: a socket, or a pipe as `ssh` gives it.
pub struct Patient {
    file: std::fs::File,
    until: Option<Instant>,
}

impl From<OwnedFd> for Patient {
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into(), until: None }
    }
}

impl Source for Patient {
    fn hurry(&mut self, within: Option<Duration>) {
        self.until = within.map(|within| Instant::now() + within);
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
                match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&left)) {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.file.read(buffer)
    }
}

/// Reads frames one by one.
pub struct Reader<S> {
    source: S,
    message: usize,
    patience: Duration,
}

impl<S: Source> Reader<S> {
    /// `message` is the longest message that is taken.
    pub fn new(source: S, message: usize) -> Self {
        Self { source, message, patience: PATIENCE }
    }

    #[cfg(test)]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The next frame, which may begin whenever it likes; `None` where the stream ended between two.
    pub fn read(&mut self) -> Result<Option<Frame>, Broken> {
        self.source.hurry(None);
        self.frame()
    }

    /// The same, where it has to come within this time.
    pub fn read_within(&mut self, within: Duration) -> Result<Option<Frame>, Broken> {
        self.source.hurry(Some(within));
        self.frame()
    }

    fn frame(&mut self) -> Result<Option<Frame>, Broken> {
        let mut header = [0; HEADER];
        let count = loop {
            match self.source.read(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(slow)?,
            }
        };
        if count == 0 {
            return Ok(None);
        }
        self.source.hurry(Some(self.patience));
        self.fill(&mut header[count..])?;
        let [a, b, c, d, kind, e, f, g, h] = header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let kind = Kind::from_byte(kind).ok_or(Broken::Unknown(kind))?;
        let most = kind.most(self.message);
        if length > most {
            return Err(Broken::Long { length, most });
        }
        let mut body = Vec::new();
        let took = (&mut self.source).take(length as u64).read_to_end(&mut body);
        took.map_err(slow)?;
        if body.len() < length {
            return Err(Broken::CutShort);
        }
        Ok(Some(Frame { kind, channel: u32::from_be_bytes([e, f, g, h]), body }))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Broken> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Broken::CutShort,
            _ => slow(error),
        })
    }
}

fn slow(error: io::Error) -> Broken {
    if error.kind() == io::ErrorKind::TimedOut { Broken::Slow } else { Broken::Io(error) }
}
