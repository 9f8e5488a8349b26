//! The front door, for anything that makes bytes.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use hickory_proto::op::{DEFAULT_MAX_PAYLOAD_LEN, Message, MessageType};

use super::front::{Asker, Transport, Verdict, respond};
use super::sample;
use super::zone::{Front, View, Zone};

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let front = Front { proxy_v4: Ipv4Addr::new(127, 0, 11, 61), proxy_v6: None, serial: 1 };
    Zone::new(&sample::routes(2, Ipv4Addr::new(10, 97, 0, 0)), &front)
});

/// Panics when an answer breaks a promise that holds for every packet whatsoever.
pub fn fuzz(packet: &[u8]) {
    let mut out = Vec::new();
    for view in [View::Host, View::Inside(1)] {
        for (transport, limit) in [(Transport::Udp, DEFAULT_MAX_PAYLOAD_LEN.into()), (Transport::Tcp, 65535)] {
            let asker = Asker { view, transport, forwards: true, turn: packet.len() };
            match respond(&ZONE, asker, packet, &mut out) {
                Verdict::Reply(code) => check(packet, &out, limit, code),
                Verdict::Forward => assert_ne!(view, View::Host, "only machines are forwarded for"),
                Verdict::Drop => assert!(out.is_empty()),
            }
        }
    }
}

fn check(packet: &[u8], answer: &[u8], limit: usize, code: hickory_proto::op::ResponseCode) {
    assert!(answer.len() <= limit, "{} bytes", answer.len());
    assert_eq!(answer[..2], packet[..2], "the id is repeated");
    let message = Message::from_vec(answer).expect("an answer is a message");
    assert_eq!(message.message_type, MessageType::Response);
    // Hickory has two words for code 16.
    assert_eq!(u16::from(message.response_code), u16::from(code));
}
