//! Questions in single packets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::net::UdpSocket;

use super::forward::{Errand, servfail};
use super::front::{Transport, Verdict, respond};
use super::shared::{Reader, Shared, Stop};

/// Longer questions don't exist: a name has 255 bytes, and options few.
const LONGEST: usize = 2048;
/// Other sockets have to get their turn while this one is flooded.
const BURST: usize = 64;
/// More than a socket's buffer holds when a stop comes; whoever goes on asking does not hold the stop up.
const LAST: usize = 4096;

/// Serves until `stop`; what the kernel has taken in by then is still answered.
pub(super) async fn serve(socket: UdpSocket, shared: Arc<Shared>, mut stop: Stop) {
    let Ok(own) = socket.local_addr() else { return };
    let mut desk = Desk { socket: Arc::new(socket), own, reader: Reader::new(shared), turn: 0, reply: Vec::with_capacity(512) };
    let mut packet = [0; LONGEST];
    loop {
        let stopping = tokio::select! {
            biased;
            ready = desk.socket.readable() => ready.is_err(),
            () = stop.stopped() => true,
        };
        let most = if stopping { LAST } else { BURST };
        let mut handled = 0;
        while handled < most {
            match desk.socket.try_recv_from(&mut packet) {
                Ok((length, from)) => desk.handle(&packet[..length], from).await,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // An earlier answer could not be delivered; says ICMP.
                Err(_) => {}
            }
            handled += 1;
        }
        if stopping {
            return;
        }
        if handled == most {
            tokio::task::yield_now().await;
        }
    }
}

struct Desk {
    socket: Arc<UdpSocket>,
    own: SocketAddr,
    reader: Reader,
    turn: usize,
    reply: Vec<u8>,
}

impl Desk {
    async fn handle(&mut self, packet: &[u8], from: SocketAddr) {
        self.turn = self.turn.wrapping_add(1);
        // Nothing listens on port 0, and only a forger sends from our own address.
        let is_forged = from.port() == 0 || from == self.own;
        let verdict = if is_forged || self.reader.keeps_out(self.own.ip(), from.ip()) {
            Verdict::Drop
        } else {
            let asker = self.reader.asker(from, Transport::Udp, self.turn);
            respond(self.reader.zone(), asker, packet, &mut self.reply)
        };
        let stats = &self.reader.shared.stats;
        match verdict {
            Verdict::Reply(code) => {
                stats.count(code);
                self.reply(from).await;
            }
            Verdict::Forward if self.reader.known(packet, Transport::Udp, from.ip(), &mut self.reply) => self.reply(from).await,
            Verdict::Forward => match self.reader.place(from.ip()) {
                Some(errand) => self.forward(packet.to_vec(), from, errand),
                None => self.crowded(packet, from),
            },
            Verdict::Drop => {
                stats.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// A full send buffer is waited for; any other failure is the asker's, who asks again.
    async fn reply(&self, from: SocketAddr) {
        if self.socket.try_send_to(&self.reply, from).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
            let _ = self.socket.send_to(&self.reply, from).await;
        }
    }

    /// Who has too many questions open hears so at once, while there is room to say it.
    fn crowded(&self, packet: &[u8], from: SocketAddr) {
        if let Some(answer) = servfail(packet) {
            let _ = self.socket.try_send_to(&answer, from);
        }
    }

    fn forward(&self, packet: Vec<u8>, from: SocketAddr, errand: Errand) {
        let (shared, socket) = (self.reader.shared.clone(), self.socket.clone());
        tokio::spawn(async move {
            let answer = shared.forwarder.ask(&packet, Transport::Udp, &shared.stats, &errand).await;
            if let Some(answer) = answer.or_else(|| servfail(&packet)) {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}
