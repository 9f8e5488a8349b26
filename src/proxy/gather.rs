//! Gathers what HTTP/2 writes while its connection is polled once.
//!
//! hyper hands over each answer by itself and wants it flushed, although the answers of other streams are ready behind it: each
//! became a TLS record, a system call and a packet of its own. Here a flush waits until the connection has said all that it has
//! to say at this moment, which is at the end of the same poll.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// From here on the client has to take some of it first: the plain text of one TLS record.
const FULL: usize = 16 << 10;
/// Pieces of this size are not worth a copy.
const LARGE: usize = 8 << 10;

/// The connection's end of a stream; [`Gathered`] has the other.
pub struct Gatherer<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    stream: S,
    waiting: Vec<u8>,
    /// So many bytes of it are sent.
    sent: usize,
}

/// A connection, and what it wrote.
pub struct Gathered<C, S> {
    pub connection: Pin<Box<C>>,
    stream: Gatherer<S>,
}

pub fn gather<C, S>(stream: S, connect: impl FnOnce(Gatherer<S>) -> C) -> Gathered<C, S> {
    let inner = Arc::new(Mutex::new(Inner { stream, waiting: Vec::new(), sent: 0 }));
    Gathered { connection: Box::pin(connect(Gatherer(inner.clone()))), stream: Gatherer(inner) }
}

impl<C: Future, S: Write + Unpin> Future for Gathered<C, S> {
    type Output = Option<C::Output>;

    /// `None` where the client is gone.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = self.connection.as_mut().poll(cx);
        match (self.stream.inner().flush(cx), done) {
            // The end of a connection waits for its last words by itself.
            (_, Poll::Ready(output)) => Poll::Ready(Some(output)),
            (Poll::Ready(Err(_)), Poll::Pending) => Poll::Ready(None),
            (Poll::Ready(Ok(())) | Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }
}

impl<S> Gatherer<S> {
    /// Both ends are polled by one task.
    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Write + Unpin> Inner<S> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.sent = 0;
        self.waiting.clear();
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn write(&mut self, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if self.waiting.len() + length > FULL {
            ready!(self.send(cx))?;
        }
        if length >= LARGE && self.waiting.is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        }
        parts.iter().for_each(|part| self.waiting.extend_from_slice(part));
        Poll::Ready(Ok(length))
    }
}

impl<S: Read + Unpin> Read for Gatherer<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_read(cx, buffer)
    }
}

impl<S: Write + Unpin> Write for Gatherer<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.flush(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.inner().write(cx, parts)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes before it is asked again, and remembers each write.
    #[derive(Default)]
    struct Client {
        takes: Option<usize>,
        got: Vec<Vec<u8>>,
    }

    impl Write for Client {
        fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = self.takes.map_or(bytes.len(), |most| most.min(bytes.len()));
            if count == 0 {
                return Poll::Pending;
            }
            self.takes = self.takes.map(|most| most - count);
            self.got.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Said = fn(&mut Gatherer<Client>, &mut Context<'_>) -> Poll<()>;

    /// Polls a connection that says this each time; what the client got by then.
    fn after(polls: usize, client: Client, say: Said) -> (Gatherer<Client>, Vec<Vec<u8>>, bool) {
        let connect = |mut stream: Gatherer<Client>| poll_fn(move |cx| say(&mut stream, cx));
        let mut gathered = std::pin::pin!(gather(client, connect));
        let stream = Gatherer(gathered.stream.0.clone());
        let mut cx = Context::from_waker(Waker::noop());
        let ended = (0..polls).any(|_| gathered.as_mut().poll(&mut cx).is_ready());
        let got = stream.inner().stream.got.clone();
        (stream, got, ended)
    }

    fn say(stream: &mut Gatherer<Client>, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        let mut stream = Pin::new(stream);
        let said = stream.as_mut().poll_write(cx, bytes).is_ready();
        assert!(stream.poll_flush(cx).is_ready());
        said
    }

    #[test]
    fn what_is_said_in_one_poll_is_sent_once() {
        let answers: Said = |stream, cx| {
            (0..10).for_each(|number| assert!(say(stream, cx, &[number; 1000])));
            Poll::Pending
        };
        let (_, got, _) = after(2, Client::default(), answers);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [10_000, 10_000]);
        assert_eq!(got[0], (0..10).flat_map(|number| [number; 1000]).collect::<Vec<_>>());
    }

    #[test]
    fn a_client_that_takes_nothing_is_waited_for() {
        let endless: Said = |stream, cx| {
            while say(stream, cx, &[7; 1000]) {}
            Poll::Pending
        };
        let (stream, got, ended) = after(3, Client { takes: Some(500), ..Client::default() }, endless);
        assert!(!ended && got == [[7; 500]]);
        assert!(stream.inner().waiting.len() <= FULL);
    }

    #[test]
    fn large_pieces_are_not_copied_and_never_overtake() {
        let pieces: Said = |stream, cx| {
            let _ = (say(stream, cx, &[1; 100]), say(stream, cx, &[2; LARGE]), say(stream, cx, &[3; FULL]));
            Poll::Pending
        };
        let (_, got, _) = after(1, Client::default(), pieces);
        assert_eq!(got.iter().map(|one| (one[0], one.len())).collect::<Vec<_>>(), [(1, 100 + LARGE), (3, FULL)]);
    }

    #[test]
    fn the_last_words_are_sent_before_the_end() {
        let bye: Said = |stream, cx| {
            assert!(say(stream, cx, b"bye"));
            Pin::new(stream).poll_shutdown(cx).map(|done| done.unwrap())
        };
        let (_, got, ended) = after(1, Client::default(), bye);
        assert!(ended && got == [b"bye"]);
    }
}
