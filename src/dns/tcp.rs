//! Questions over connections (RFC 7766), plain or in TLS (RFC 7858): many on one, answered as they become ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::shares::Share;

use super::forward::servfail;
use super::front::{Transport, Verdict, respond};
use super::shared::{Reader, Shared, Stop};

const IDLE: Duration = Duration::from_secs(10);
/// For who holds most of its share of connections.
const IDLE_WHEN_CROWDED: Duration = Duration::from_secs(1);
/// For an asker that doesn't read.
const WRITE: Duration = Duration::from_secs(5);
/// Forwarded questions of one connection that wait for their answer.
const OPEN: usize = 16;

/// With `tls`, nothing is said in plain.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>, mut stop: Stop) {
    // Each connection holds one end until it is over.
    let (alive, mut over) = mpsc::channel::<()>(1);
    let mut door = Reader::new(shared.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.stopped() => break,
        };
        let Ok((stream, from)) = accepted else {
            // Out of files, most likely: the connection stays queued, so trying again at once would only spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        shared.stats.connections.fetch_add(1, Relaxed);
        let Some(place) = door.account(from.ip()).take() else { continue };
        let (shared, alive, mut stop, tls) = (shared.clone(), alive.clone(), stop.clone(), tls.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let ends = Ends { from, own: stream.local_addr().ok() };
            match tls {
                None => Connection::new(stream.into_split(), ends, shared).serve(&place, stop).await,
                Some(tls) => {
                    let stream = tokio::select! {
                        stream = timeout(IDLE, tls.accept(stream)) => stream,
                        () = stop.stopped() => return,
                    };
                    if let Ok(Ok(stream)) = stream {
                        Connection::new(tokio::io::split(stream), ends, shared).serve(&place, stop).await;
                    }
                }
            }
            drop((place, alive));
        });
    }
    // Closed first, so that the address is free; then until each connection's last answer is out.
    drop((listener, alive));
    let _ = over.recv().await;
}

struct Ends {
    from: SocketAddr,
    /// `None` where the asker is gone already.
    own: Option<SocketAddr>,
}

struct Connection<R, W> {
    input: BufReader<R>,
    output: Arc<Mutex<W>>,
    ends: Ends,
    reader: Reader,
    open: Arc<Semaphore>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin + Send + 'static> Connection<R, W> {
    fn new((input, output): (R, W), ends: Ends, shared: Arc<Shared>) -> Self {
        Self {
            input: BufReader::with_capacity(1024, input),
            output: Arc::new(Mutex::new(output)),
            ends,
            reader: Reader::new(shared),
            open: Arc::new(Semaphore::new(OPEN)),
        }
    }

    /// Until the asker closes, is silent for too long, or sends what is no question.
    async fn serve(mut self, place: &Share, mut stop: Stop) {
        let mut reply = Vec::new();
        if self.ends.own.is_none_or(|own| self.reader.keeps_out(own.ip(), self.ends.from.ip())) {
            return;
        }
        for turn in 0.. {
            let idle = if place.account().is_crowded() { IDLE_WHEN_CROWDED } else { IDLE };
            let packet = tokio::select! {
                biased;
                packet = timeout(idle, frame(&mut self.input)) => packet,
                () = stop.stopped() => return,
            };
            let Ok(Ok(packet)) = packet else { return };
            if !self.handle(packet, turn, &mut reply).await {
                return;
            }
        }
    }

    /// Whether the connection goes on.
    async fn handle(&mut self, packet: Vec<u8>, turn: usize, reply: &mut Vec<u8>) -> bool {
        let asker = self.reader.asker(self.ends.from, Transport::Tcp, turn);
        let verdict = respond(self.reader.zone(), asker, &packet, reply);
        let stats = &self.reader.shared.stats;
        match verdict {
            Verdict::Reply(code) => {
                stats.count(code);
                send(&self.output, reply).await.is_ok()
            }
            Verdict::Forward if self.reader.known(&packet, Transport::Tcp, self.ends.from.ip(), reply) => {
                send(&self.output, reply).await.is_ok()
            }
            Verdict::Forward => {
                self.forward(packet).await;
                true
            }
            Verdict::Drop => {
                stats.dropped.fetch_add(1, Relaxed);
                false
            }
        }
    }

    async fn forward(&self, packet: Vec<u8>) {
        let open = self.open.clone().acquire_owned().await.expect("it is never closed");
        let errand = self.reader.place(self.ends.from.ip());
        let (shared, output) = (self.reader.shared.clone(), self.output.clone());
        tokio::spawn(async move {
            let answer = match &errand {
                Some(errand) => shared.forwarder.ask(&packet, Transport::Tcp, &shared.stats, errand).await,
                None => None,
            };
            if let Some(answer) = answer.or_else(|| servfail(&packet)) {
                let _ = send(&output, &answer).await;
            }
            drop(open);
        });
    }
}

async fn frame(input: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut packet = vec![0; input.read_u16().await?.into()];
    input.read_exact(&mut packet).await?;
    Ok(packet)
}

async fn send(output: &Mutex<impl AsyncWrite + Unpin>, reply: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(std::io::Error::other)?;
    // One segment: some clients read the length and the rest at once.
    let framed = [&length.to_be_bytes(), reply].concat();
    let mut output = output.lock().await;
    let written = async {
        output.write_all(&framed).await?;
        output.flush().await
    };
    timeout(WRITE, written).await?
}
