//! A server's own firewall: who may come in, beside whoever asks its sites. One table, `adtwall_<install>`.
//!
//! ```text
//! everybody ──▶ 80, 443            networks of administrators, granted ones ──▶ ssh            else ──╳
//! ```
//! Only what comes to the server itself is looked at: what it forwards to machines, and what machines ask it, is the other table's
//! ([`super::firewall`]). Connections that are there stay. A grant is a set of its own, whose only element the kernel drops when it
//! is over: nobody has to be there then, and overlapping grants don't disturb each other.
//!
//! What comes over a tie to another server has rules of its own, which also mark what comes to its port: see [`super::tie`].
//! Loopback, answers, ICMP and the server's own DHCP always pass: without them it would be gone, not safe.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::Result;
use super::firewall::{INET, is_there, nft};
use super::tie::MARK;
use crate::model::access::Access;

fn table(install: &str) -> String {
    format!("adtwall_{install}")
}

/// Exactly this is in force afterwards. `ssh` are the ports that its sshd listens at.
pub fn set(install: &str, access: &Access, ssh: &BTreeSet<u16>, now: i64) -> Result<()> {
    match access.keeps_out() {
        true => nft(text(&table(install), access, ssh, now), "put the server's firewall in force"),
        false => remove(install),
    }
}

pub fn in_force(install: &str) -> Result<bool> {
    is_there(INET, &table(install))
}

pub fn remove(install: &str) -> Result<()> {
    let table = table(install);
    nft(format!("add table inet {table}\ndelete table inet {table}\n"), "remove the server's firewall")
}

fn text(table: &str, access: &Access, ssh: &BTreeSet<u16>, now: i64) -> String {
    let ports = ssh.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let (mut sets, mut rules) = (String::new(), String::new());
    let networks = IpNet::aggregate(&access.networks().into_iter().collect());
    for network in networks {
        writeln!(rules, "tcp dport {{ {ports} }} {} saddr {network} accept", family(&network)).expect("a string takes any text");
    }
    for (number, grant) in access.grants.iter().enumerate() {
        let (seconds, network) = (grant.until - now, &grant.network);
        if seconds <= 0 {
            continue;
        }
        let kind = if family(network) == "ip" { "ipv4_addr" } else { "ipv6_addr" };
        writeln!(
            sets,
            "set granted{number} {{ type {kind}; flags interval, timeout; elements = {{ {network} timeout {seconds}s }} }}"
        )
        .expect("a string takes any text");
        writeln!(rules, "tcp dport {{ {ports} }} {} saddr @granted{number} accept", family(network))
            .expect("a string takes any text");
    }
    format!(
        "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{sets}\
         chain to_server {{\n\
         type filter hook input priority 10; policy drop;\n\
         iifname {{ \"lo\", \"adt*\", \"tieadt*\" }} accept\n\
         meta mark {MARK} accept\n\
         ct state {{ established, related }} accept\n\
         ct state invalid drop\n\
         meta l4proto {{ 1, 58 }} accept\n\
         udp sport 67 udp dport 68 accept\n\
         ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept\n\
         tcp dport {{ 80, 443 }} accept\n\
         {rules}}}\n}}\n"
    )
}

fn family(network: &IpNet) -> &'static str {
    if matches!(network, IpNet::V4(_)) { "ip" } else { "ip6" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::Grant;

    #[test]
    fn each_network_is_let_in_at_ssh_and_a_grant_for_as_long_as_it_lasts() {
        let net = |word: &str| word.parse::<IpNet>().unwrap();
        let grant = |word: &str, until| Grant { network: net(word), until, by: "ada".into() };
        let access = Access {
            admin: [
                ("shop/a".into(), [net("192.0.2.0/25"), net("2001:db8::/48")].into()),
                ("shop/b".into(), [net("192.0.2.128/25")].into()),
            ]
            .into(),
            grants: vec![grant("203.0.113.7/32", 160), grant("2001:db8:1::7/128", 100)],
        };
        let text = text("t", &access, &[22, 2222].into(), 100);
        assert!(text.contains("tcp dport { 22, 2222 } ip saddr 192.0.2.0/24 accept\n"), "{text}");
        assert!(text.contains("tcp dport { 22, 2222 } ip6 saddr 2001:db8::/48 accept\n"), "{text}");
        assert!(
            text.contains("elements = { 203.0.113.7/32 timeout 60s }") && text.contains("ip saddr @granted0 accept"),
            "{text}"
        );
        assert!(!text.contains("granted1"), "one that is over: {text}");
        assert!(text.contains("policy drop;"));
    }
}
