//! Ways around ports that somebody else holds: what comes for one of adt's addresses is led to the port where adt listens.
//!
//! ```text
//! curl ──▶ 127.77.77.77:443 ──(table `ip adtdetour_<install>`)──▶ 127.77.77.77:40123   adt
//! curl ──▶ 127.0.0.1:443 ───────────────────────────────────────▶ 0.0.0.0:443          Apache, untouched
//! ```
//! A program that listens at every address keeps all others from its port, on addresses too that it never heard of. Nobody is
//! asked to move: only packets for adt's own addresses are changed, and only while adt serves. Not chosen: one socket with
//! `IP_TRANSPARENT` and a `tproxy` rule, which works for packets that come in but not for the host's own.
//!
//! The table is written whole each time. Connections that run stay where they were led, because the kernel remembers that
//! for each of them, so a new table costs nobody anything.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::Result;
use super::firewall::{IPV4, is_there, kernel, nft};
use crate::exec::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

/// Whoever asks for `from` is answered by `port` of the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detour {
    pub transport: Transport,
    pub from: SocketAddrV4,
    pub port: u16,
}

/// Whether nobody but adt can mean this address: who asks at the host's usual ones wants the program that is there already.
pub fn may_lead(address: Ipv4Addr) -> bool {
    address.is_loopback() && address != Ipv4Addr::LOCALHOST
}

/// One for each installation, so that two of them on one host don't take each other's away.
pub fn table(install: &str) -> String {
    format!("adtdetour_{install}")
}

/// Exactly these are in force afterwards; without any, there is no table.
pub fn set(install: &str, detours: &[Detour]) -> Result<()> {
    if detours.is_empty() {
        return remove(install).map(drop);
    }
    nft(text(&table(install), detours), "lead taken ports elsewhere")
}

/// Whether the table is there: whoever loads a firewall of their own flushes everybody's.
pub fn in_force(install: &str) -> Result<bool> {
    is_there(IPV4, &table(install))
}

/// The port that what comes for `from` over TCP is led to.
pub fn led(install: &str, from: SocketAddrV4) -> Result<Option<u16>> {
    if !in_force(install)? {
        return Ok(None);
    }
    let listed = Command::new("nft").args(["list", "map", "ip", &table(install), "tcp_ports"]).run();
    let text = listed.map_err(|source| kernel("look at the detours around taken ports", source))?.text();
    Ok(destination(&text, from))
}

/// Reads what `nft` prints of a map: `127.77.77.77 . 443 : 127.77.77.77 . 40001`.
fn destination(text: &str, from: SocketAddrV4) -> Option<u16> {
    let (_, rest) = text.split_once(&format!("{ip} . {} : {ip} . ", from.port(), ip = from.ip()))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Also what a killed process left. Says whether there was anything.
pub fn remove(install: &str) -> Result<bool> {
    if !in_force(install)? {
        return Ok(false);
    }
    let table = table(install);
    nft(format!("add table ip {table}\ndelete table ip {table}\n"), "remove the detours around taken ports")?;
    Ok(true)
}

/// Before the usual priority of address translation: containers' published ports must not take what is for adt's addresses.
fn text(table: &str, detours: &[Detour]) -> String {
    let maps = [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")].map(|(transport, word)| map(transport, word, detours));
    let maps = maps.concat();
    format!(
        "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n{maps}\
         chain rules {{\n\
         dnat ip to ip daddr . tcp dport map @tcp_ports\n\
         dnat ip to ip daddr . udp dport map @udp_ports\n\
         }}\n\
         chain from_here {{\ntype nat hook output priority -101; policy accept;\njump rules\n}}\n\
         chain from_others {{\ntype nat hook prerouting priority -101; policy accept;\njump rules\n}}\n}}\n"
    )
}

fn map(transport: Transport, word: &str, detours: &[Detour]) -> String {
    let mut text = format!("map {word}_ports {{\ntype ipv4_addr . inet_service : ipv4_addr . inet_service\n");
    let elements = detours.iter().filter(|detour| detour.transport == transport);
    let elements: Vec<_> =
        elements.map(|Detour { from, port, .. }| format!("{ip} . {} : {ip} . {port}", from.port(), ip = from.ip())).collect();
    if !elements.is_empty() {
        writeln!(text, "elements = {{ {} }}", elements.join(", ")).expect("a string takes any text");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_has_its_own_ports() {
        let from = |port| SocketAddrV4::new([127, 77, 77, 77].into(), port);
        let detours = [
            Detour { transport: Transport::Tcp, from: from(443), port: 40_001 },
            Detour { transport: Transport::Udp, from: from(53), port: 40_002 },
        ];
        let text = text("t", &detours);
        let (tcp, udp) = text.split_once("map udp_ports").expect("two maps");
        assert!(tcp.contains("127.77.77.77 . 443 : 127.77.77.77 . 40001") && !tcp.contains("40002"), "{text}");
        assert!(udp.contains("127.77.77.77 . 53 : 127.77.77.77 . 40002") && !udp.contains("40001"), "{text}");
        assert_eq!(destination(tcp, from(443)), Some(40_001));
        assert_eq!(destination(tcp, from(44)), None);
    }
}
