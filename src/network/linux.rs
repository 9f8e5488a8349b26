//! Networks in the Linux kernel, through `ip` and `nft`.
//!
//! A bridge that is down is a closed network: machines start on it while `nft` works, whose first table on a host takes as
//! long as a machine's start. The bridge's alias is written last: one without it was interrupted, and the next `connect` and
//! `open` finish it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as PlainError, StrDeserializer};

use super::address::Route;
use super::announce::announce;
use super::device::{alias, class, entries, exists, ip, read, set};
use super::{Error, Network, Result, Seen, firewall, tie};
use crate::exec::Command;
use crate::model::tie::PublicKey;
use crate::model::{NetworkSpec, Tag, Tie};

/// The networks of this installation on this host.
#[derive(Debug, Clone)]
pub struct Linux {
    install: String,
    /// The file of this host's key for ties to other servers.
    key: PathBuf,
}

impl Linux {
    pub fn new(install: impl Into<String>, key: PathBuf) -> Self {
        Self { install: install.into(), key }
    }

    fn note(&self, spec: &NetworkSpec) -> String {
        format!("{} {}", self.install, spec.id)
    }

    /// Bridges of another installation are routes like any other. One without a note is half made and counts as ours: the
    /// environment whose `connect` was interrupted must not stand in its own way.
    fn is_ours(&self, note: &str) -> bool {
        note.is_empty() || note.split(' ').next() == Some(&self.install)
    }
}

impl Network for Linux {
    fn seen(&self, tag: &Tag, tie: Option<&Tie>) -> Result<Seen> {
        let device = format!("adt{tag}");
        let Some(note) = alias(&device)? else {
            // A `disconnect` that was killed between the last bridge and the table: whoever disconnects next finishes it.
            return Ok(Seen { bridge: false, firewall: !any_bridge()? && firewall::in_force()? });
        };
        let finished = !note.is_empty() && is_up(&device)?;
        Ok(Seen { bridge: true, firewall: finished && firewall::in_force()? && tie::is_as(tag, tie)? })
    }

    fn list(&self) -> Result<Vec<(Tag, String)>> {
        let mut found = Vec::new();
        for device in devices()? {
            if let (Some(tag), Some(note)) = (tag_of(&device), alias(&device)?) {
                found.push((tag, note));
            }
        }
        found.sort();
        Ok(found)
    }

    fn connect(&self, spec: &NetworkSpec) -> Result<()> {
        let device = spec.bridge();
        let make = |lines| ip(lines, &["-batch", "-"], &format!("make the bridge {device}"));
        if ipv6() == Ipv6::Off {
            // Off by default on this host, e.g. hardened; our bridge gets it, nothing else is touched.
            if !exists(&device) {
                make(add_line(spec))?;
            }
            set(&ipv6_folder(&device).join("disable_ipv6"), "0")?;
        }
        make(bridge_lines(spec, exists(&device), ipv6()))?;
        if ipv6() != Ipv6::Absent {
            settle(&device)?;
        }
        find_soon(&device)?;
        forward()
    }

    fn open(&self, spec: &NetworkSpec) -> Result<()> {
        let device = spec.bridge();
        // The bridge is there already, so that whoever tidies up after us sees that there is something to remove.
        ensure_firewall()?;
        raise(&device)?;
        // A `disconnect` of the last other network removes the table first and then looks for bridges.
        ensure_firewall()?;
        tie::set(spec, &self.key)?;
        set(&class(&device).join("ifalias"), &self.note(spec))
    }

    fn heard(&self, tag: &Tag) -> Result<BTreeMap<PublicKey, i64>> {
        tie::heard(tag)
    }

    fn retie(&self, spec: &NetworkSpec) -> Result<()> {
        let device = spec.bridge();
        if !exists(&device) || !is_up(&device)? {
            return Ok(());
        }
        if !tie::is_as(&spec.tag, spec.tie.as_ref())? {
            tie::set(spec, &self.key)?;
        }
        announce(&device, spec.tie.iter().flat_map(|tie| &tie.ends).flat_map(|end| &end.addresses))
    }

    fn disconnect(&self, tag: &Tag) -> Result<()> {
        tie::remove(tag)?;
        let bridge = format!("adt{tag}");
        let cable = format!("{bridge}-");
        let mine = |device: &String| *device == bridge || device.starts_with(&cable);
        let mut left: Vec<_> = devices()?.into_iter().filter(mine).collect();
        // Cables first, their names are longer; the other end of a veth may vanish between looking and deleting.
        left.sort_by_key(|device| std::cmp::Reverse(device.len()));
        if !left.is_empty() {
            let lines = left.iter().map(|device| format!("link delete dev {device}\n")).collect();
            let result = ip(lines, &["-force", "-batch", "-"], &format!("remove the bridge {bridge}"));
            if left.iter().any(|device| exists(device)) {
                result?;
            }
        }
        while !any_bridge()? {
            firewall::remove()?;
            // Another process may have opened its network meanwhile under the old table. It looks again as well, and were both
            // of us killed right here, `seen` tells the next verb what is missing. By the time that the firewall is back it may
            // be gone again.
            if !any_bridge()? {
                break;
            }
            firewall::install()?;
        }
        Ok(())
    }

    fn routes(&self) -> Result<Vec<Route>> {
        let output = Command::new("ip")
            .args(["-json", "route", "show", "table", "all"])
            .run()
            .map_err(|source| Error::Kernel { what: "list the routes".into(), source })?;
        let mut routes = parse_routes(&output.stdout)?;
        let ours = self.list()?.into_iter().filter(|(_, note)| self.is_ours(note));
        let ours: BTreeSet<_> = ours.flat_map(|(tag, _)| [format!("adt{tag}"), tie::device(&tag)]).collect();
        routes.retain(|route| !ours.contains(&route.device));
        Ok(routes)
    }
}

/// What `ip -batch` is told. `replace` and `set` are fine twice; only the bridge itself is not.
///
/// - The bridge keeps the hardware address of host number 1. By itself it would take one of its machines' and change it
///   whenever one comes or goes, and the others' neighbour caches would be wrong for a while.
/// - Without spanning tree and forward delay a machine's cable carries packets at once.
/// - Multicast snooping forgets IPv6 neighbours on a bridge where nobody sends queries.
/// - `nodad`: the address is usable at once; nobody else can have it.
fn bridge_lines(spec: &NetworkSpec, exists: bool, ipv6: Ipv6) -> String {
    let device = spec.bridge();
    let add = if exists { String::new() } else { add_line(spec) };
    let v6 = match ipv6 {
        Ipv6::Absent => String::new(),
        Ipv6::Off | Ipv6::On => {
            format!("address replace {}/{} dev {device} nodad\n", spec.gateway_v6(), spec.v6.prefix_len())
        }
    };
    format!(
        "{add}\
         link set dev {device} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         address replace {}/{} dev {device}\n\
         {v6}",
        spec.gateway_v4(),
        spec.v4.prefix_len(),
    )
}

fn add_line(spec: &NetworkSpec) -> String {
    format!("link add name {} address {} type bridge\n", spec.bridge(), spec.attach(1).mac)
}

/// What a new device of this host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    /// The kernel was started without it; environments then have IPv4 alone.
    Absent,
    Off,
    On,
}

fn ipv6() -> Ipv6 {
    match fs::read_to_string(ipv6_folder("default").join("disable_ipv6")) {
        Ok(text) if text.trim() == "0" => Ipv6::On,
        Ok(_) => Ipv6::Off,
        Err(_) => Ipv6::Absent,
    }
}

fn ipv6_folder(device: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv6/conf").join(device)
}

/// Who looks for a machine while it starts asks again after this, not after a second, and learns at once that it is down. The
/// answer comes from this very kernel.
const SOON_MS: &str = "25";

fn find_soon(device: &str) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        let path = Path::new("/proc/sys/net").join(family).join("neigh").join(device).join("retrans_time_ms");
        if path.exists() {
            set(&path, SOON_MS)?;
        }
    }
    Ok(())
}

/// The host takes no addresses and routes from its machines.
fn settle(device: &str) -> Result<()> {
    let folder = ipv6_folder(device);
    set(&folder.join("accept_ra"), "0")?;
    set(&folder.join("accept_redirects"), "0")
}

fn ensure_firewall() -> Result<()> {
    if firewall::in_force()? { Ok(()) } else { firewall::install() }
}

/// NAT needs forwarding. IPv6 is left alone: a host that forwards it stops listening to its router's advertisements.
fn forward() -> Result<()> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    if read(path)?.is_some_and(|text| text.trim() == "0") { set(path, "1") } else { Ok(()) }
}

/// One entry of `ip -json route`; there are many more fields.
#[derive(Deserialize)]
struct RouteEntry {
    dst: String,
    dev: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Routes somebody set or a device brought; the kernel's own bookkeeping (local, broadcast, multicast) follows from them.
fn parse_routes(json: &[u8]) -> Result<Vec<Route>> {
    Ok(entries(json)?.into_iter().filter_map(route).collect())
}

fn route(entry: RouteEntry) -> Option<Route> {
    let kind = entry.kind.unwrap_or_else(|| "unicast".into());
    if !["unicast", "blackhole", "unreachable", "prohibit"].contains(&kind.as_str()) {
        return None;
    }
    // `default` is no network and drops out here.
    let net: IpNet = entry.dst.parse().or_else(|_| entry.dst.parse::<IpAddr>().map(IpNet::from)).ok()?;
    // A route over several devices has no device of its own.
    let device = entry.dev.unwrap_or(kind);
    (net.prefix_len() > 0 && device != "lo").then_some(Route { net, device })
}

fn devices() -> Result<Vec<String>> {
    let what = || "could not list the network devices".to_owned();
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/class/net").map_err(|source| Error::Io { what: what(), source })? {
        let entry = entry.map_err(|source| Error::Io { what: what(), source })?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn any_bridge() -> Result<bool> {
    Ok(devices()?.iter().any(|device| tag_of(device).is_some()))
}

/// The tag in a bridge's name; `None` for cables and for other people's devices.
fn tag_of(device: &str) -> Option<Tag> {
    let text = device.strip_prefix("adt")?;
    let whole = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'v'));
    let deserializer: StrDeserializer<PlainError> = text.into_deserializer();
    whole.then(|| Tag::deserialize(deserializer).ok())?
}

/// The flag of a device that is up.
const UP: u32 = 1;

fn flags(device: &str) -> Result<u32> {
    let flags = read(&class(device).join("flags"))?.unwrap_or_default();
    Ok(u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0))
}

fn is_up(device: &str) -> Result<bool> {
    Ok(flags(device)? & UP == UP)
}

fn raise(device: &str) -> Result<()> {
    set(&class(device).join("flags"), &format!("{:#x}", flags(device)? | UP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bridges_have_a_tag() {
        assert_eq!(tag_of("adt0123abcv").map(|tag| tag.to_string()).as_deref(), Some("0123abcv"));
        for other in ["adt", "adt0", "adt0123abcv-2", "adt0123abcz", "eth0", "adt0123ABCV"] {
            assert_eq!(tag_of(other), None, "{other}");
        }
    }

    #[test]
    fn routes_are_those_that_lead_somewhere() {
        let json = r#"[
            {"dst":"default","gateway":"192.0.2.1","dev":"eth0"},
            {"dst":"0.0.0.0/0","dev":"eth0"},
            {"dst":"10.8.0.0/16","dev":"tun0","flags":[]},
            {"dst":"10.4.0.1","dev":"tun0"},
            {"type":"unreachable","dst":"10.9.0.0/16","flags":[]},
            {"type":"local","dst":"127.0.0.0/8","dev":"lo","table":"local"},
            {"type":"broadcast","dst":"10.8.255.255","dev":"tun0","table":"local"},
            {"dst":"fd00::/64","dev":"tun0"},
            {"type":"multicast","dst":"ff00::/8","dev":"tun0","table":"local"}
        ]"#;
        let found = parse_routes(json.as_bytes()).unwrap();
        let text: Vec<_> = found.iter().map(|route| format!("{} {}", route.net, route.device)).collect();
        assert_eq!(text, ["10.8.0.0/16 tun0", "10.4.0.1/32 tun0", "10.9.0.0/16 unreachable", "fd00::/64 tun0"]);
        assert!(parse_routes(b"\n").unwrap().is_empty());
    }
}
