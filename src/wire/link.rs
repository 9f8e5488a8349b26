//! One connection: who may write when, and which channel a frame is for.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::channel::{Channel, State};
use super::frame::{self, Broken, Frame, Kind, Reader, Source};
use super::message::Open;
use super::{Stream, message};

/// So many channels one connection may have at a time. Each has threads and boxes of who answers; `env:exec` has one for each machine
/// of an environment, of which there are at most 61.
pub const CHANNELS: usize = 64;

/// One side of a connection whose greetings were exchanged.
#[derive(Clone)]
pub struct Link(pub(super) Arc<Shared>);

pub(super) struct Shared {
    out: Mutex<Box<dyn Write + Send>>,
    channels: Mutex<BTreeMap<u32, Arc<State>>>,
    next: AtomicU32,
    broken: AtomicBool,
}

/// The other side went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Link {
    pub fn new(out: impl Write + Send + 'static) -> Self {
        let (channels, next, broken) = Default::default();
        Self(Arc::new(Shared { out: Mutex::new(Box::new(out)), channels, next, broken }))
    }

    /// Asks for something on a new channel; so many bytes of each of these streams may come at first.
    pub fn open(&self, open: &Open, granted: &[(Stream, u32)]) -> Result<Channel, Gone> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let channel = self.channel(id);
        let body = serde_json::to_vec(open).expect("messages have string keys only, so they become JSON");
        self.0.write(Kind::Open, id, body)?;
        granted.iter().try_for_each(|(stream, count)| channel.grant(*stream, *count as usize))?;
        // One that broke before the channel was known told nobody.
        if self.0.broken.load(Ordering::SeqCst) {
            return Err(Gone);
        }
        Ok(channel)
    }

    /// Gives the way out back, which ends it where it is a pipe.
    pub(super) fn close(&self) {
        *self.0.out.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(std::io::sink());
    }

    fn channel(&self, id: u32) -> Channel {
        let state = Arc::new(State::new(id));
        self.0.channels().insert(id, Arc::clone(&state));
        Channel { shared: Arc::clone(&self.0), state }
    }

    /// Reads frames until the other side goes away or says what nobody may say; then every channel knows. It never waits for who
    /// takes what came. `opened` gets what the other side asks for.
    pub fn hear<S: Source>(
        &self,
        reader: &mut Reader<S>,
        opened: &mut dyn FnMut(Channel, Open) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let end = loop {
            match reader.read() {
                Ok(Some(frame)) => {
                    if let Err(broken) = self.take(frame, opened) {
                        break Err(broken);
                    }
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        self.0.broken.store(true, Ordering::SeqCst);
        self.0.channels().values().for_each(|state| state.leave());
        end
    }

    fn take(&self, frame: Frame, opened: &mut dyn FnMut(Channel, Open) -> Result<(), Broken>) -> Result<(), Broken> {
        if frame.kind == Kind::Open {
            let open = message(&frame.body)?;
            let known = self.0.channels();
            if known.contains_key(&frame.channel) {
                return Err(Broken::Wrong(format!("channel {} is open already", frame.channel)));
            }
            if known.len() >= CHANNELS {
                return Err(Broken::Wrong(format!("more than {CHANNELS} channels are open")));
            }
            drop(known);
            return opened(self.channel(frame.channel), open);
        }
        // Of one that has ended here, something may still be on its way.
        let Some(state) = self.0.channels().get(&frame.channel).cloned() else { return Ok(()) };
        match frame.kind {
            Kind::Hello => Err(Broken::Wrong("it greeted twice".into())),
            Kind::Control => state.controlled(message(&frame.body)?),
            Kind::Credit => match frame.body[..] {
                [stream, a, b, c, d] => {
                    state.credited(stream_of(stream)?, u32::from_be_bytes([a, b, c, d]));
                    Ok(())
                }
                _ => Err(Broken::Wrong("a credit is no number".into())),
            },
            Kind::Data => match frame.body.split_first() {
                Some((stream, bytes)) => state.came(stream_of(*stream)?, bytes.to_vec()),
                None => Err(Broken::Wrong("data is of no stream".into())),
            },
            Kind::Eof => match frame.body[..] {
                [stream] => {
                    state.over(stream_of(stream)?);
                    Ok(())
                }
                _ => Err(Broken::Wrong("an end is of no stream".into())),
            },
            Kind::Told => state.came(Stream::Told, frame.body),
            Kind::End => {
                state.ended(message::<message::End>(&frame.body)?);
                Ok(())
            }
            Kind::Open => unreachable!("taken before"),
        }
    }
}

fn stream_of(byte: u8) -> Result<Stream, Broken> {
    Stream::from_byte(byte).ok_or_else(|| Broken::Wrong(format!("there is no stream {byte}")))
}

fn message<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Broken> {
    serde_json::from_slice(body).map_err(|error| Broken::Wrong(format!("a message is unreadable: {error}")))
}

impl Shared {
    pub(super) fn write(&self, kind: Kind, channel: u32, body: Vec<u8>) -> Result<(), Gone> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *out, &Frame { kind, channel, body }).map_err(|_| Gone)
    }

    pub(super) fn forget(&self, id: u32) {
        self.channels().remove(&id);
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<State>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
