//! Who has a port, for "port 80 is taken by nginx (process 123)".
//!
//! `/proc/net` tells the socket's inode, and a process that has the socket open has it among its descriptors. Another's
//! descriptors can be read by root only; anyone else learns nothing of other people's programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Process 1 of a host.
pub const SYSTEMD: u32 = 1;

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub pid: u32,
    pub program: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.program, self.pid)
    }
}

/// The processes that keep `address` from being listened at, over TCP or UDP: those at this very address, and those at
/// every address of its port. The one that came first stands first among a server's processes, being their parent.
pub fn who_listens(address: SocketAddr) -> Vec<Holder> {
    let inodes: BTreeSet<_> = sockets(address).into_iter().map(|(_, inode)| inode).collect();
    if inodes.is_empty() { Vec::new() } else { processes(&inodes) }
}

/// Whether somebody wants this very address, and not just every address of its port.
pub fn is_taken_itself(address: SocketAddr) -> bool {
    sockets(address).iter().any(|(local, _)| local.to_canonical() == address.ip().to_canonical())
}

/// The local addresses and inodes of all sockets that keep `address` from being listened at.
fn sockets(address: SocketAddr) -> Vec<(IpAddr, u64)> {
    let mut found = Vec::new();
    // State 0A is a TCP socket that listens, 07 a UDP socket that is not connected.
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let all = text.lines().skip(1).filter_map(|line| socket(line, state));
        let same = all.filter(|(local, _)| local.port() == address.port() && overlap(local.ip(), address.ip()));
        found.extend(same.map(|(local, inode)| (local.ip(), inode)));
    }
    found
}

/// A dual-stack socket at `::` holds IPv4 too. One that is IPv6 only can't be told apart here, and is rare.
fn overlap(held: IpAddr, asked: IpAddr) -> bool {
    let (held, asked) = (held.to_canonical(), asked.to_canonical());
    held == asked
        || match (held, asked) {
            (IpAddr::V6(held), _) if held.is_unspecified() => true,
            (_, IpAddr::V6(asked)) if asked.is_unspecified() => true,
            (IpAddr::V4(held), IpAddr::V4(asked)) => held.is_unspecified() || asked.is_unspecified(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), _) => false,
        }
}

/// The local address and the inode of one line of a table.
fn socket(line: &str, state: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    if *fields.get(3)? != state {
        return None;
    }
    let (ip, port) = fields.get(1)?.split_once(':')?;
    Some((SocketAddr::new(parse(ip)?, u16::from_str_radix(port, 16).ok()?), fields.get(9)?.parse().ok()?))
}

/// The kernel prints an address as words in the machine's own byte order.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if hex.len() == 8 {
        return word(0).map(|bytes| Ipv4Addr::from(bytes).into());
    }
    let mut all = [0; 16];
    for (at, chunk) in all.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(at * 8)?);
    }
    Some(Ipv6Addr::from(all).into())
}

fn processes(inodes: &BTreeSet<u64>) -> Vec<Holder> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let descriptors = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let has = descriptors.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|target| {
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            inode.is_some_and(|inode: u64| inodes.contains(&inode))
        });
        if has {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.insert(pid, Holder { pid, program: name.trim_end().to_owned() });
        }
    }
    // It keeps sockets for those who listen, and is who listens only where there is nobody else.
    if found.len() > 1 {
        found.remove(&SYSTEMD);
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_listener_is_found_over_tcp_and_udp_and_both_families() {
        let own = std::process::id();
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            assert_eq!(
                who_listens(listener.local_addr().unwrap()).iter().map(|holder| holder.pid).collect::<Vec<_>>(),
                [own],
                "{bind}"
            );
            let socket = UdpSocket::bind(bind).unwrap();
            assert_eq!(
                who_listens(socket.local_addr().unwrap()).iter().map(|holder| holder.pid).collect::<Vec<_>>(),
                [own],
                "{bind}"
            );
        }
    }

    #[test]
    fn everywhere_holds_each_address_and_each_address_holds_everywhere() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (held, asked, overlaps) in [
            ("0.0.0.0", "127.0.0.1", true),
            ("127.0.0.1", "0.0.0.0", true),
            ("::", "127.0.0.1", true),
            ("::", "::1", true),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("127.0.0.2", "127.0.0.1", false),
            ("0.0.0.0", "::1", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(overlap(ip(held), ip(asked)), overlaps, "{held} {asked}");
        }
    }

    #[test]
    fn no_one_listens_at_a_port_that_was_given_back() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(who_listens(address), []);
    }
}
