//! What a running program prints, line by line.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::thread::JoinHandle;

use super::queue::Sender;
use crate::model::{Stream, Tail};

/// A longer line comes in pieces.
pub(super) const PIECE: usize = 64 << 10;
/// The same for who needs lines whole, e.g. records of a journal.
pub(super) const LONGEST: usize = 1 << 20;

/// How lines are told apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub longest: usize,
    /// A line also ends where a program goes back to its start, to say how far it is now.
    pub returns: bool,
}

/// Hands over each line of a pipe until it ends or nobody reads any more.
pub(super) fn send(pipe: impl Read, stream: &Stream, cut: Cut, sender: &Sender<(Stream, Vec<u8>)>) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        let bytes = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n' || (cut.returns && *byte == b'\r'));
        let count = end.map_or(bytes.len(), |end| end + 1);
        line.extend_from_slice(&bytes[..count]);
        reader.consume(count);
        let is_last = count == 0;
        if is_last && line.is_empty() {
            return;
        }
        let is_whole = end.is_some() || is_last || line.len() >= cut.longest;
        if is_whole {
            let bytes = line.len();
            if !sender.send((stream.clone(), std::mem::take(&mut line)), bytes) {
                return;
            }
        }
    }
}

/// The last lines of a pipe that is read while something else is done.
pub struct Reading(JoinHandle<Tail>);

impl Reading {
    pub fn of(mut pipe: impl Read + Send + 'static) -> Self {
        Self(std::thread::spawn(move || {
            let (mut end, mut buffer) = (Vec::new(), vec![0; PIECE]);
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => end.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
                end.drain(..end.len().saturating_sub(PIECE));
            }
            let mut tail = Tail::default();
            String::from_utf8_lossy(&end).lines().for_each(|line| tail.push(line));
            tail
        }))
    }

    /// Waits for the pipe's end.
    pub fn end(self) -> Tail {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
