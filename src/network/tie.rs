//! From an environment's bridge to those of other servers that carry machines of it: WireGuard, one device `tieadt<tag>` each.
//!
//! ```text
//! web1 ── bridge ── tieadt… ══ udp, to its port ══ tieadt… ── bridge ── db
//!           └ answers for the addresses behind the tie, so machines find each other as on one cable
//! ```
//! Which addresses are behind which key is WireGuard's own table: what comes from another server has the addresses that are placed
//! there, or is dropped. A table of rules beside it keeps a tie to its own bridge, and its port to the servers at its ends. IPv4
//! alone: a host that forwards IPv6 stops listening to its router.
//!
//! A kernel without WireGuard has `wireguard-go`, as a unit of systemd, so that it outlives the session that started it and is made
//! again when it dies: under another unit's name, since the last one ends only after that. The device's alias is written last and says what it was made of: any other is made again.
//!
//! Not chosen: VXLAN over one tunnel, which is one network with the frames' size of its narrowest part, where packets that are too
//! large vanish without a word.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::device::{alias, class, entries, exists, ip, set as write};
use super::firewall::{INET, is_there, kernel, nft};
use super::{Error, Result};
use crate::disk;
use crate::exec::Command;
use crate::exec::unit_word::{Dollar, quoted};
use crate::model::tie::PublicKey;
use crate::model::{Digest, NetworkSpec, Tag, Tie};

/// The beginning of its devices' names.
pub const PREFIX: &str = "tieadt";
/// What comes to a tie's port from the server at its other end: the server's own firewall lets it in.
pub const MARK: &str = "0x74696501";
/// Where ports are looked for, from the first on.
pub const PORTS: std::ops::RangeInclusive<u16> = 51820..=52843;
/// Of a device; what WireGuard adds still fits into a packet of 1500.
const MTU: u16 = 1420;
/// An address translator forgets who spoke out after half a minute.
const KEEPALIVE: u8 = 25;
/// `wireguard-go` has its device within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that did not come is tried anew.
const TRIES: usize = 3;

pub fn device(tag: &Tag) -> String {
    format!("{PREFIX}{tag}")
}

fn table(tag: &Tag) -> String {
    format!("adttie_{tag}")
}

fn unit(tag: &Tag) -> String {
    format!("adt-tie-{tag}")
}

/// Whether exactly this is there, or nothing where nothing is wanted.
pub(super) fn is_as(tag: &Tag, tie: Option<&Tie>) -> Result<bool> {
    let there = alias(&device(tag))?;
    Ok(match tie {
        None => there.is_none(),
        Some(tie) => there.as_deref() == Some(&word(tie)) && is_there(INET, &table(tag))?,
    })
}

/// What a tie is known by.
fn word(tie: &Tie) -> String {
    let text = serde_json::to_vec(tie).expect("its keys are strings, so it becomes JSON");
    format!("tie {}", Digest::from_bytes(&Sha256::digest(text)))
}

/// Makes it so. `key` is the file of this server's private key.
pub(super) fn set(spec: &NetworkSpec, key: &Path) -> Result<()> {
    let Some(tie) = &spec.tie else { return remove(&spec.tag) };
    let device = device(&spec.tag);
    // Until all of it is there, it is nobody's.
    if exists(&device) {
        write(&class(&device).join("ifalias"), "\n")?;
    }
    // Before anything can come in.
    nft(rules(spec, tie), "put the rules of the way to other servers in force")?;
    if !exists(&device) {
        make(&spec.tag, key)?;
    }
    let private =
        fs::read_to_string(key).map_err(|source| Error::Io { what: format!("could not read `{}`", key.display()), source })?;
    wg(&["syncconf", &device, "/dev/stdin"], configuration(tie, private.trim()), "tell WireGuard of the other servers")?;
    let former = addresses(&device)?.into_iter().filter(|old| *old != tie.own);
    let stale = routes(&device)?.into_iter().filter(|old| !tie.ends.iter().any(|end| end.addresses.contains(old)));
    let mut lines = format!("address replace {}/32 dev {device}\nlink set dev {device} mtu {MTU} up\n", tie.own);
    for old in former {
        writeln!(lines, "address delete {old}/32 dev {device}").expect("a string takes any text");
    }
    for old in stale {
        writeln!(lines, "route delete {old}/32 dev {device}").expect("a string takes any text");
    }
    for address in tie.ends.iter().flat_map(|end| &end.addresses) {
        writeln!(lines, "route replace {address}/32 dev {device} src {}", tie.own).expect("a string takes any text");
    }
    ip(lines, &["-batch", "-"], &format!("lead {device} to the other servers"))?;
    let bridge = spec.bridge();
    write(&Path::new("/proc/sys/net/ipv4/neigh").join(&bridge).join("proxy_delay"), "0")?;
    write(&Path::new("/proc/sys/net/ipv4/conf").join(&bridge).join("proxy_arp"), "1")?;
    write(&class(&device).join("ifalias"), &word(tie))
}

pub(super) fn remove(tag: &Tag) -> Result<()> {
    let device = device(tag);
    if exists(&device) {
        // Ours is told to end, and takes its device along.
        if Path::new("/run/systemd/system").exists() {
            let _ = Command::new("systemctl").args(["stop", "--quiet", &format!("{}-*", unit(tag))]).run();
        }
        let removed = ip(format!("link delete dev {device}\n"), &["-batch", "-"], &format!("remove {device}"));
        if exists(&device) {
            removed?;
        }
    }
    let table = table(tag);
    if is_there(INET, &table)? {
        nft(format!("add table inet {table}\ndelete table inet {table}\n"), "remove the rules of the way to other servers")?;
    }
    Ok(())
}

/// When each end was last heard, in seconds since 1970.
pub(super) fn heard(tag: &Tag) -> Result<BTreeMap<PublicKey, i64>> {
    let device = device(tag);
    if !exists(&device) {
        return Ok(BTreeMap::new());
    }
    Ok(times(&wg(&["show", &device, "latest-handshakes"], String::new(), "ask WireGuard whom it heard")?))
}

/// One line for each key; 0 is never.
fn times(text: &str) -> BTreeMap<PublicKey, i64> {
    let time = |line: &str| {
        let (key, time) = line.split_once('\t')?;
        Some((PublicKey::new(key).ok()?, time.trim().parse().ok().filter(|time| *time > 0)?))
    };
    text.lines().filter_map(time).collect()
}

/// This server's public key; the private one is made where there is none.
pub fn public_key(key: &Path) -> Result<PublicKey> {
    let what = || format!("could not make the key `{}`", key.display());
    if !key.exists() {
        let made = wg(&["genkey"], String::new(), "make a key")?;
        disk::File::at(key).mode(0o600).write(made).map_err(|source| Error::Io { what: what(), source })?;
    }
    let private = fs::read_to_string(key).map_err(|source| Error::Io { what: what(), source })?;
    let public = wg(&["pubkey"], private, "read the key of this server")?;
    PublicKey::new(public.trim())
        .map_err(|reason| Error::Io { what: what(), source: std::io::Error::new(ErrorKind::InvalidData, reason) })
}

/// Whether this kernel or a program of this host has WireGuard, and what speaks for both.
pub fn is_possible() -> bool {
    let has =
        |program: &str| ["/usr/bin", "/usr/local/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(program).exists());
    has("wg") && (has("wireguard-go") || Path::new("/sys/module/wireguard").exists())
}

fn make(tag: &Tag, key: &Path) -> Result<()> {
    let device = device(tag);
    let Err(refused) = ip(format!("link add name {device} type wireguard\n"), &["-batch", "-"], &format!("make {device}")) else {
        return Ok(());
    };
    for number in 1..TRIES {
        match go(tag, key, number) {
            Ok(()) => return Ok(()),
            // Who knows of no WireGuard at all should learn that the kernel has none.
            Err(Error::Kernel { source: crate::exec::Error::Missing { .. }, .. }) => return Err(refused),
            Err(error) => tracing::warn!(%error, "once more"),
        }
    }
    go(tag, key, TRIES)
}

/// Starts `wireguard-go`, and waits until its device is there.
fn go(tag: &Tag, key: &Path, number: usize) -> Result<()> {
    let device = device(tag);
    let unit = Path::new("/run/systemd/system").exists().then(|| format!("{}-{}-{number}", unit(tag), std::process::id()));
    let command = match &unit {
        Some(unit) => {
            let again = format!("--property=ExecStopPost={}", again(key)?);
            // Who holds the environment while it ends may do so for long.
            let patient = "--property=TimeoutStopSec=infinity";
            let args = ["--quiet", "--collect", &format!("--unit={unit}"), &again, patient, "--", "wireguard-go", "-f", &device];
            Command::new("systemd-run").args(args.map(str::to_owned))
        }
        None => Command::new("wireguard-go").arg(&device),
    };
    command.run().map_err(|source| kernel("make a way to other servers by `wireguard-go`", source))?;
    let since = Instant::now();
    while wg(&["show", &device, "public-key"], String::new(), "ask `wireguard-go`").is_err() {
        if since.elapsed() > PATIENCE {
            let said = unit.map(|unit| last_words(&unit)).unwrap_or_default();
            let source =
                std::io::Error::new(ErrorKind::TimedOut, format!("nothing of it is there after {PATIENCE:?}; it said: {said}"));
            return Err(Error::Io { what: format!("`wireguard-go` does not make {device}"), source });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a unit printed last; it is ended then.
fn last_words(unit: &str) -> String {
    let said = Command::new("journalctl").args(["--quiet", "--no-pager", "--output=cat", "--lines=5", "--unit", unit]).run();
    // Its last act waits for whoever holds the environment, which may be us.
    let _ = Command::new("systemctl").args(["stop", "--quiet", "--no-block", unit]).run();
    said.map(|output| output.text().split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// What makes it again when it ends and nobody told it to, in the words of systemd's units. `key` lies in the store.
fn again(key: &Path) -> Result<String> {
    let program = std::env::current_exe().map_err(|source| Error::Io { what: "could not find adt itself".into(), source })?;
    let store = key.parent().unwrap_or(Path::new("/"));
    let word = |path: &Path| quoted(&path.display().to_string(), Dollar::IsExpanded);
    Ok(format!("{} --store {} internal:environments tie", word(&program), word(store)))
}

fn wg(args: &[&str], input: String, what: &str) -> Result<String> {
    let ran = Command::new("wg").args(args.iter().copied()).stdin(input).run();
    ran.map(|output| output.text()).map_err(|source| kernel(what, source))
}

fn configuration(tie: &Tie, private: &str) -> String {
    let mut text = format!("[Interface]\nPrivateKey = {private}\nListenPort = {}\n", tie.port);
    for end in &tie.ends {
        let behind: Vec<_> = end.addresses.iter().map(|address| format!("{address}/32")).collect();
        write!(
            text,
            "[Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = {}\nPersistentKeepalive = {KEEPALIVE}\n",
            end.key.as_str(),
            end.endpoint,
            behind.join(", ")
        )
        .expect("a string takes any text");
    }
    text
}

fn rules(spec: &NetworkSpec, tie: &Tie) -> String {
    let (table, device, bridge, port) = (table(&spec.tag), device(&spec.tag), spec.bridge(), tie.port);
    let mut others = String::new();
    for end in &tie.ends {
        let family = if matches!(end.endpoint.ip(), IpAddr::V4(_)) { "ip" } else { "ip6" };
        writeln!(others, "udp dport {port} {family} saddr {} meta mark set {MARK} accept", end.endpoint.ip())
            .expect("a string takes any text");
    }
    format!(
        "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
         chain to_server {{\n\
         type filter hook input priority 5; policy accept;\n\
         {others}\
         udp dport {port} drop\n\
         iifname \"{device}\" ct state {{ established, related }} accept\n\
         iifname \"{device}\" icmp type echo-request accept\n\
         iifname \"{device}\" reject with icmpx admin-prohibited\n\
         }}\n\
         chain through_server {{\n\
         type filter hook forward priority -5; policy accept;\n\
         iifname \"{device}\" oifname != \"{bridge}\" drop\n\
         oifname \"{device}\" iifname != \"{bridge}\" drop\n\
         }}\n}}\n"
    )
}

#[derive(Deserialize)]
struct Leads {
    dst: String,
}

#[derive(Deserialize)]
struct Addressed {
    #[serde(default)]
    addr_info: Vec<Local>,
}

#[derive(Deserialize)]
struct Local {
    local: Ipv4Addr,
}

/// This server's own ones on it.
fn addresses(device: &str) -> Result<Vec<Ipv4Addr>> {
    let all: Vec<Addressed> = told(&["-4", "-json", "address", "show", "dev", device])?;
    Ok(all.into_iter().flat_map(|one| one.addr_info).map(|one| one.local).collect())
}

/// The single addresses that are led there.
fn routes(device: &str) -> Result<Vec<Ipv4Addr>> {
    let all: Vec<Leads> = told(&["-4", "-json", "route", "show", "dev", device])?;
    Ok(all.into_iter().filter_map(|one| one.dst.parse().ok()).collect())
}

fn told<T: DeserializeOwned>(args: &[&str]) -> Result<Vec<T>> {
    let output = Command::new("ip").args(args.iter().copied()).run();
    let output = output.map_err(|source| kernel("ask what leads to other servers", source))?;
    entries(&output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tie::End;

    fn spec() -> NetworkSpec {
        let end = |letter: &str, endpoint: &str, addresses: &[&str]| End {
            key: PublicKey::new(format!("{}=", letter.repeat(43))).unwrap(),
            endpoint: endpoint.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let ends = vec![
            end("a", "203.0.113.7:51820", &["10.213.0.61", "10.213.0.3"]),
            end("b", "[2001:db8::7]:51821", &["10.213.0.60"]),
        ];
        let tie = Tie { own: "10.213.0.62".parse().unwrap(), port: 51822, ends };
        let id = crate::model::EnvironmentId { platform: "shop".parse().unwrap(), name: "production".parse().unwrap() };
        let (v4, v6) = ("10.213.0.0/26".parse().unwrap(), "fd00::/64".parse().unwrap());
        NetworkSpec { tag: Tag::of("i", &id), id, v4, v6, tie: Some(tie) }
    }

    #[test]
    fn each_end_has_the_addresses_behind_it_and_nothing_else_comes_to_the_port() {
        let spec = spec();
        let tie = spec.tie.as_ref().unwrap();
        let text = configuration(tie, "private");
        assert!(text.contains("Endpoint = 203.0.113.7:51820\nAllowedIPs = 10.213.0.61/32, 10.213.0.3/32\n"), "{text}");
        assert!(text.contains("Endpoint = [2001:db8::7]:51821\n"), "{text}");
        let rules = rules(&spec, tie);
        let (first, drop) = (rules.find("ip saddr 203.0.113.7 meta mark").unwrap(), rules.find("udp dport 51822 drop").unwrap());
        assert!(first < drop && rules.contains("ip6 saddr 2001:db8::7"), "{rules}");
        assert!(device(&spec.tag).len() <= 15);
    }

    #[test]
    fn an_end_that_never_spoke_was_never_heard() {
        let key = |letter: &str| format!("{}=", letter.repeat(43));
        let heard = times(&format!("{}\t1796095263\n{}\t0\nnonsense\n", key("a"), key("b")));
        assert_eq!(heard, [(PublicKey::new(key("a")).unwrap(), 1_796_095_263)].into());
    }

    #[test]
    fn another_tie_has_another_word() {
        let tie = spec().tie.unwrap();
        let mut other = tie.clone();
        other.ends[1].addresses.clear();
        assert_eq!(word(&tie), word(&tie.clone()));
        assert_ne!(word(&tie), word(&other));
    }
}
