//! The wire: a request or a program in a machine, what comes of it, and its end, as frames over any stream of bytes.
//!
//! Owns the form of frames, the greeting with its versions, the messages, and how much each side may have under way. Must never know
//! who is at the other end, what he may, or what a request does; nothing in a message assumes that both ends share a host or its
//! files, or pass descriptors. So a socket, an `ssh` that runs a session, and an agent in a virtual machine are the same to it.
//!
//! ```text
//! one that asks                                        one that answers
//!   Hello {protocol, adt, command}         ───>
//!                                          <───  Hello {protocol, adt, refused?}
//!   Open 7 {request | program | look | logs | serve} ──>
//!   Credit 7 of streams out, err, told     ───>
//!                                          <───  Told 7 (events, records)         as far as there is credit
//!   Data 7 in, Eof 7 in                    ───>  as far as there is credit
//!                                          <───  Credit 7 in; Data 7 out, err; Eof 7
//!   Control 7 {cancel | signal | resize}   ───>
//!                                          <───  End 7 {response | code | failure}
//! ```
//!
//! - A frame is `length: u32, kind: u8, channel: u32`, big-endian, and that many bytes. Whoever sends one that is longer than it may
//!   be, of an unknown kind, without credit, of no bytes, or half of one and then nothing for [`frame::PATIENCE`], is hung up on.
//! - Nobody sends bytes of a stream that the other side did not grant, so a slow reader makes the writer wait and costs no memory.
//!   Reading frames never waits for anybody's consumer: what came is kept in a box that its credit bounds.
//! - An end of the stream without an `End` is a peer that vanished; what it asked for is cancelled, as by a first Ctrl-C.
//! - Files travel as tar data, in and out of a `tar` that runs as a program: a copy needs no frames of its own, and whoever can run
//!   programs and pass their data can copy.
//!
//! Not chosen: HTTP/2 or gRPC, whose streams would do, but which are an asynchronous runtime and half a megabyte in an agent, and which
//! don't know terminals; passing descriptors, which is quicker for programs and ends at the host's border.

pub mod asker;
pub mod channel;
pub mod frame;
pub mod hello;
pub mod link;
pub mod message;

pub use asker::Asker;
pub use channel::Channel;
pub use frame::Broken;
pub use hello::Hello;
pub use link::Link;
pub use message::{Answer, Control, End, Found, Look, Open, Program, Serve, Signal, Told};

#[cfg(test)]
mod tests;

/// The streams of a channel. What is told has a stream too, so that a reader bounds it as he bounds a program's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    In = 0,
    Out = 1,
    Err = 2,
    Told = 3,
}

impl Stream {
    pub const ALL: [Self; 4] = [Self::In, Self::Out, Self::Err, Self::Told];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| *stream as u8 == byte)
    }
}
