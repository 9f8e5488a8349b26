//! One conversation: its streams, each bounded by the credit that its reader gave, what is told to it, and its end.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Stream;
use super::frame::{Broken, Kind, PIECE};
use super::link::{Gone, Shared};
use super::message::{Control, End, Told};

/// So many bytes of a stream may be under way to a reader.
pub const WINDOW: u32 = 256 << 10;
/// So many words to a program may wait for it.
const CONTROLS: usize = 1024;

/// A handle of one side; what the other still sends once it is dropped is passed over.
pub struct Channel {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<State>,
}

pub(super) struct State {
    id: u32,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    streams: [Flow; 4],
    controls: VecDeque<Control>,
    end: Option<End>,
    /// This side has said its last word.
    done: bool,
    gone: bool,
}

/// Both ways of a stream.
#[derive(Default)]
struct Flow {
    came: VecDeque<Vec<u8>>,
    over: bool,
    /// What the other side may still send us.
    allowed: i64,
    /// What we may still send.
    credit: i64,
}

/// What one who runs something hears of who asked for it.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Control(Control),
    /// Nobody is there any more.
    Gone,
    /// The channel has ended.
    Done,
}

impl State {
    pub(super) fn new(id: u32) -> Self {
        Self { id, inner: Mutex::default(), changed: Condvar::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` finds what it looks for.
    fn wait<T>(&self, mut ready: impl FnMut(&mut Inner) -> Option<T>) -> T {
        let mut inner = self.inner();
        loop {
            if let Some(found) = ready(&mut inner) {
                return found;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.changed.notify_all();
    }

    pub(super) fn came(&self, stream: Stream, bytes: Vec<u8>) -> Result<(), Broken> {
        let mut inner = self.inner();
        let flow = &mut inner.streams[stream as usize];
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        // Credit bounds bytes, so what has none would be kept without end.
        if length == 0 {
            return Err(Broken::Wrong("it sent data of no bytes".into()));
        }
        // A message goes as a whole, so one may be longer than the credit; the next has to wait.
        let fits = if stream == Stream::Told { flow.allowed > 0 } else { length <= flow.allowed };
        if !fits || flow.over {
            return Err(Broken::Wrong(format!("it sent {length} bytes that nobody allowed")));
        }
        flow.allowed -= length;
        flow.came.push_back(bytes);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn over(&self, stream: Stream) {
        self.change(|inner| inner.streams[stream as usize].over = true);
    }

    pub(super) fn credited(&self, stream: Stream, count: u32) {
        self.change(|inner| {
            let flow = &mut inner.streams[stream as usize];
            flow.credit = flow.credit.saturating_add(count.into());
        });
    }

    pub(super) fn controlled(&self, control: Control) -> Result<(), Broken> {
        let mut inner = self.inner();
        if inner.controls.len() >= CONTROLS {
            return Err(Broken::Wrong(format!("more than {CONTROLS} words wait for one program")));
        }
        inner.controls.push_back(control);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn ended(&self, end: End) {
        self.change(|inner| inner.end = Some(end));
    }

    pub(super) fn leave(&self) {
        self.change(|inner| inner.gone = true);
    }
}

impl Channel {
    /// Sends all of it, as the other side allows.
    pub fn send(&self, stream: Stream, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let room = self.room(stream)?.min(bytes.len());
            self.give(stream, &bytes[..room])?;
            bytes = &bytes[room..];
        }
        Ok(())
    }

    /// Waits until something of a stream may be sent, and says how much; nothing may once its reader wants no more.
    pub fn room(&self, stream: Stream) -> Result<usize, Gone> {
        self.room_for(stream, 1)
    }

    /// The same, until so much may be sent.
    pub fn room_for(&self, stream: Stream, least: usize) -> Result<usize, Gone> {
        self.state.wait(|inner| {
            let flow = &inner.streams[stream as usize];
            match usize::try_from(flow.credit) {
                _ if inner.gone || inner.end.is_some() || flow.over => Some(Err(Gone)),
                Ok(credit) if credit >= least => Some(Ok(credit.min(PIECE))),
                _ => None,
            }
        })
    }

    /// Sends what there is room for.
    pub fn give(&self, stream: Stream, bytes: &[u8]) -> Result<(), Gone> {
        self.spend(stream, bytes.len());
        let mut body = Vec::with_capacity(1 + bytes.len());
        body.push(stream as u8);
        body.extend_from_slice(bytes);
        self.shared.write(Kind::Data, self.state.id, body)
    }

    fn spend(&self, stream: Stream, count: usize) {
        self.state.inner().streams[stream as usize].credit -= i64::try_from(count).unwrap_or(i64::MAX);
    }

    pub fn tell(&self, told: &Told) -> Result<(), Gone> {
        self.room(Stream::Told)?;
        let body = serde_json::to_vec(told).expect("messages have string keys only, so they become JSON");
        self.spend(Stream::Told, body.len());
        self.shared.write(Kind::Told, self.state.id, body)
    }

    /// Nothing more of this stream will come, or is wanted.
    pub fn finish(&self, stream: Stream) -> Result<(), Gone> {
        self.shared.write(Kind::Eof, self.state.id, vec![stream as u8])
    }

    /// Lets the other side send so many bytes more.
    pub fn grant(&self, stream: Stream, count: usize) -> Result<(), Gone> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.state.inner().streams[stream as usize].allowed += i64::from(count);
        let mut body = vec![stream as u8];
        body.extend_from_slice(&count.to_be_bytes());
        self.shared.write(Kind::Credit, self.state.id, body)
    }

    /// What comes next; `None` at the end of the stream, or where nothing can come any more.
    pub fn take(&self, stream: Stream) -> Option<Vec<u8>> {
        self.state.wait(|inner| {
            let flow = &mut inner.streams[stream as usize];
            match flow.came.pop_front() {
                Some(bytes) => Some(Some(bytes)),
                None if flow.over || inner.gone || inner.done || inner.end.is_some() => Some(None),
                None => None,
            }
        })
    }

    /// The same of what is told, and room for more of it.
    pub fn told(&self) -> Option<Result<Told, Broken>> {
        let body = self.take(Stream::Told)?;
        // Who went away is noticed where the next is waited for.
        let _ = self.grant(Stream::Told, body.len());
        Some(serde_json::from_slice(&body).map_err(|error| Broken::Wrong(format!("an event is unreadable: {error}"))))
    }

    pub fn control(&self, control: &Control) -> Result<(), Gone> {
        let body = serde_json::to_vec(control).expect("a control is a few words");
        self.shared.write(Kind::Control, self.state.id, body)
    }

    pub fn heard(&self) -> Heard {
        self.state.wait(|inner| match inner.controls.pop_front() {
            Some(control) => Some(Heard::Control(control)),
            None if inner.done => Some(Heard::Done),
            None if inner.gone => Some(Heard::Gone),
            None => None,
        })
    }

    /// The last word of this side; whoever still waits here is told.
    pub fn end(&self, end: &End) -> Result<(), Gone> {
        let body = serde_json::to_vec(end).expect("messages have string keys only, so they become JSON");
        self.done();
        self.shared.write(Kind::End, self.state.id, body)
    }

    pub fn is_gone(&self) -> bool {
        self.state.inner().gone
    }

    pub fn done(&self) {
        self.state.change(|inner| inner.done = true);
    }

    /// Waits for the last word of the other side.
    pub fn ended(&self) -> Result<End, Gone> {
        self.state.wait(|inner| match inner.end.clone() {
            Some(end) => Some(Ok(end)),
            None if inner.gone => Some(Err(Gone)),
            None => None,
        })
    }
}

/// A stream as something to read from.
pub struct Incoming<'a> {
    channel: &'a Channel,
    stream: Stream,
    piece: io::Cursor<Vec<u8>>,
}

impl Channel {
    pub fn incoming(&self, stream: Stream) -> Incoming<'_> {
        Incoming { channel: self, stream, piece: io::Cursor::default() }
    }

    pub fn outgoing(&self, stream: Stream) -> Outgoing<'_> {
        Outgoing { channel: self, stream }
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.position() == self.piece.get_ref().len() as u64 {
            let Some(piece) = self.channel.take(self.stream) else { return Ok(0) };
            // Who went away is noticed where the next is waited for.
            let _ = self.channel.grant(self.stream, piece.len());
            self.piece = io::Cursor::new(piece);
        }
        self.piece.read(buffer)
    }
}

/// And to write to. Its end is not told by dropping it.
pub struct Outgoing<'a> {
    channel: &'a Channel,
    stream: Stream,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.channel.send(self.stream, bytes).map_err(|Gone| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.forget(self.state.id);
    }
}
