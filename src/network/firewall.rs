//! The one nft table of adt: isolation, NAT and what machines may ask of their host.
//!
//! ```text
//!              machines of A ──╳── machines of B
//!                  │   ▲
//!     53, 80, 443  ▼   │ anything
//!                 host ───── NAT (IPv4) ─────▶ outside ──╳── (new) ──▶ machines
//! ```
//! No rule names an environment: bridges are matched by their common beginning, and "my own network" is a question to the
//! routing table. So there is one table for all environments instead of one each. That was weighed, because a table per
//! environment looks simpler: its chains hang in the host's hooks, every packet of the host walks through all of them (500
//! environments cost each packet about 1,500 rules), the kernel allows about 1,000 chains per hook, and each `connect`
//! pays for an `nft` process. A shared table costs the same for 1 and 1,000 environments, is there before the second
//! bridge is, and leaves with the last.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with, sockopt};
use sha2::{Digest, Sha256};

use super::{Error, Result};
use crate::exec::{Command, Limits};

/// `ct state` in `prerouting` is settled before these chains run, and so is DNAT: -90 is right after it.
///
/// `fib saddr . iif oif missing` is "no route leads back there through the bridge it came from". `fib daddr oifname "adt*"`
/// with `fib daddr . iif oif missing` is "to another environment": with br_netfilter (Docker loads it), frames between
/// neighbours pass here as well, and those must not be dropped.
///
/// A question for names that comes from outside with a machine's address is forged: the answer would go to the machine.
///
/// A machine may ask its host for names and pages: at the ports that it wrote, since a detour may have led it to others.
///
/// Where the host is a rented server, 169.254.169.254 would give a machine its keys. The same in IPv6 (fd00:ec2::254) never
/// leaves, like all of IPv6.
///
/// 58 is ICMPv6, whose name nft finds in `/etc/protocols` only, which a small host lacks.
///
/// `tieadt*` lead to the same environment's machines on other servers, who know each other by their own addresses; see
/// [`super::tie`], whose own rules keep each to its bridge.
///
/// Link-local and multicast never leave a bridge. Router advertisements are dropped: a machine must not become its host's
/// default router. IPv6 has no NAT, so a packet that would leave with a local address is told at once instead of lost.
const RULES: &str = r#"
    chain from_machines {
        type filter hook prerouting priority -90; policy accept;
        iifname != "adt*" accept
        ip6 saddr :: meta l4proto 58 accept
        fib saddr . iif oif missing drop
        ip daddr { 224.0.0.0/4, 255.255.255.255 } accept
        ip6 daddr { fe80::/10, ff00::/8 } accept
        fib daddr oifname "adt*" fib daddr . iif oif missing drop
    }
    chain to_host {
        type filter hook input priority 0; policy accept;
        iifname != "adt*" iifname != "lo" udp dport 53 fib saddr oifname { "adt*", "tieadt*" } drop
        iifname != "adt*" accept
        icmpv6 type { nd-router-advert, nd-redirect } drop
        ct state { established, related } accept
        icmp type echo-request accept
        icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } accept
        fib daddr . iif type local meta l4proto udp ct original proto-dst 53 accept
        fib daddr . iif type local meta l4proto tcp ct original proto-dst { 53, 80, 443 } accept
        reject with icmpx admin-prohibited
    }
    chain through_host {
        type filter hook forward priority 0; policy accept;
        oifname "adt*" iifname != "adt*" iifname != "tieadt*" ct state != { established, related } drop
        iifname "adt*" ip daddr 169.254.0.0/16 reject with icmpx admin-prohibited
        iifname "adt*" oifname != "adt*" meta nfproto ipv6 reject with icmpx no-route
        iifname "adt*" oifname != "adt*" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    }
    chain outward {
        type nat hook postrouting priority 100; policy accept;
        iifname "adt*" oifname != "adt*" oifname != "tieadt*" meta nfproto ipv4 masquerade
    }
"#;

/// The table's name tells its content, so "is it there" also answers "is it this version's".
pub fn table() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let hash = Sha256::digest(RULES.as_bytes());
        format!("adt_{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    })
}

/// Puts the table in force in one transaction; `add` before `delete` because deleting what is not there is an error.
pub fn install() -> Result<()> {
    let table = table();
    let text = format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{{RULES}}}\n");
    nft(text, "put the firewall in force")
}

/// Removes the table, and those of other versions of adt. This version's own also where there seems to be none: what a killed
/// process was about to put in force shows only when the kernel is done with it, and the kernel does one change at a time.
pub fn remove() -> Result<()> {
    let mut tables = tables()?;
    tables.push(table().to_owned());
    let text = tables.iter().map(|table| format!("add table inet {table}\ndelete table inet {table}\n")).collect();
    nft(text, "remove the firewall")
}

/// All tables of any version of adt.
pub fn tables() -> Result<Vec<String>> {
    let what = "list the firewall's tables";
    let output = Command::new("nft").args(["-j", "list", "tables"]).run().map_err(|source| kernel(what, source))?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|source| Error::Io { what: format!("could not {what}"), source: source.into() })?;
    let entries = answer["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = entries.iter().map(|entry| &entry["table"]).filter(|table| table["family"] == "inet");
    Ok(ours.filter_map(|table| table["name"].as_str()).filter(|name| name.starts_with("adt_")).map(str::to_owned).collect())
}

/// Whether this version's table is there. Asked for each environment that is looked at, so it is one netlink message
/// (some 10 µs) instead of an `nft` process (some 5 ms); the answer is one number, no parser is needed.
pub fn in_force() -> Result<bool> {
    is_there(INET, table())
}

/// Families of tables, from linux/netfilter.h.
pub(super) const INET: u8 = 1;
pub(super) const IPV4: u8 = 2;

pub(super) fn is_there(family: u8, table: &str) -> Result<bool> {
    match ask(&question(family, table)) {
        Ok(()) => Ok(true),
        // No such table, or no nf_tables in this kernel (yet).
        Err(Errno::NOENT | Errno::INVAL | Errno::PROTONOSUPPORT) => Ok(false),
        Err(errno) => Err(Error::Io { what: "could not look at the firewall".into(), source: errno.into() }),
    }
}

/// `NFT_MSG_GETTABLE`, from linux/netfilter/nf_tables.h.
fn question(family: u8, table: &str) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    const NFT_MSG_GETTABLE: u16 = (10 << 8) | 1;
    const NFTA_TABLE_NAME: u16 = 1;
    let attribute = 4 + table.len() + 1;
    let length = 16 + 4 + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&(length as u32).to_ne_bytes());
    message.extend_from_slice(&NFT_MSG_GETTABLE.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family, 0, 0, 0]);
    message.extend_from_slice(&(attribute as u16).to_ne_bytes());
    message.extend_from_slice(&NFTA_TABLE_NAME.to_ne_bytes());
    message.extend_from_slice(table.as_bytes());
    message.resize(length, 0);
    message
}

/// The kernel answers within milliseconds; whoever waits longer waits for what will not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// So does `nft`, but for the first time after a host's start: then the kernel loads a dozen modules, one after the other.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);

fn ask(message: &[u8]) -> std::result::Result<(), Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    sendto(&socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 1024];
    recv(&socket, &mut answer[..], RecvFlags::empty())?;
    const NLMSG_ERROR: u16 = 2;
    if u16::from_ne_bytes([answer[4], answer[5]]) != NLMSG_ERROR {
        return Ok(());
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(-code)),
    }
}

pub(super) fn nft(text: String, what: &str) -> Result<()> {
    let limits = Limits { within: Some(FIRST_PATIENCE), ..Limits::default() };
    Command::new("nft").args(["-f", "-"]).stdin(text).tied().limits(limits).run().map(drop).map_err(|source| kernel(what, source))
}

pub(super) fn kernel(what: &str, source: crate::exec::Error) -> Error {
    Error::Kernel { what: what.to_owned(), source }
}
