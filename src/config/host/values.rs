//! The host settings' keys and what their values may be. A check answers with a sentence and a hint.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};

use ipnet::Ipv4Net;

use crate::model::names::Domain;
use crate::model::{IdPool, ProviderName};

const IDS_OF_A_MACHINE: u32 = 65_536;
const LEAST_ID: u32 = 200_000;

/// What is wrong and what to do about it.
pub type Wrong = (String, String);
pub type Check<T> = fn(&str) -> Result<T, Wrong>;

/// How one setting is called in each layer.
pub struct Key {
    pub variable: &'static str,
    pub flag: &'static str,
    pub default: &'static str,
    /// Between the entries of a list in a variable or flag.
    pub separator: char,
}

pub struct Keys {
    pub domain: Key,
    pub domains: Key,
    pub store: Key,
    pub pool_v4: Key,
    pub pool_ids: Key,
    pub nameservers: Key,
    pub boxes: Key,
    pub provider: Key,
    pub grace_seconds: Key,
    pub listen: Key,
    pub dns_over_tls: Key,
    pub bring_back: Key,
}

pub const KEYS: Keys = Keys {
    domain: Key { variable: "ADT_DOMAIN", flag: "--domain", default: "example.test", separator: ',' },
    domains: Key { variable: "ADT_DOMAINS", flag: "--domains", default: "", separator: ',' },
    store: Key { variable: "ADT_STORE", flag: "--store", default: "/var/lib/adt", separator: ',' },
    pool_v4: Key { variable: "ADT_POOL_V4", flag: "--pool-v4", default: "10.213.0.0/16", separator: ',' },
    // No user's, no distribution's and no container manager's by any convention; enough for 4,094 machines that run.
    pool_ids: Key { variable: "ADT_POOL_IDS", flag: "--pool-ids", default: "1879048192-2147352575", separator: ',' },
    nameservers: Key { variable: "ADT_NAMESERVERS", flag: "--nameservers", default: "", separator: ',' },
    boxes: Key { variable: "ADT_BOXES", flag: "--boxes", default: "", separator: ':' },
    provider: Key { variable: "ADT_PROVIDER", flag: "--provider", default: ProviderName::FIRST, separator: ',' },
    grace_seconds: Key { variable: "ADT_GRACE_SECONDS", flag: "--grace-seconds", default: "10", separator: ',' },
    // An address of adt's own on the loopback: it fights nobody for ports 53, 80 and 443.
    listen: Key { variable: "ADT_LISTEN", flag: "--listen", default: "127.77.77.77", separator: ',' },
    dns_over_tls: Key { variable: "ADT_DNS_OVER_TLS", flag: "--dns-over-tls", default: "false", separator: ',' },
    bring_back: Key { variable: "ADT_BRING_BACK", flag: "--bring-back", default: "true", separator: ',' },
};

pub fn domain(text: &str) -> Result<Domain, Wrong> {
    Domain::new(text)
        .map_err(|error| (error.to_string(), "write e.g. `example.test`; `.test` is nobody's on the internet".into()))
}

pub fn truth(text: &str) -> Result<bool, Wrong> {
    text.parse().map_err(|_| (format!("`{}` is neither true nor false", text.escape_debug()), "write `true` or `false`".into()))
}

pub fn listen(text: &str) -> Result<Ipv4Addr, Wrong> {
    match text.parse::<Ipv4Addr>() {
        Ok(address) if !address.is_multicast() && !address.is_broadcast() => Ok(address),
        Ok(_) | Err(_) => {
            let text = text.escape_debug();
            Err((
                format!("`{text}` is no IPv4 address to listen on"),
                "write an address of this host, e.g. `127.77.77.77`".into(),
            ))
        }
    }
}

pub fn folder(text: &str) -> Result<PathBuf, Wrong> {
    let path = Path::new(text);
    let wrong = |reason: &str| {
        Err((format!("the folder `{}` {reason}", text.escape_debug()), "write its whole path, e.g. `/var/lib/adt`".into()))
    };
    if !path.is_absolute() {
        return wrong("is not absolute");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("holds `..`");
    }
    if path.components().count() == 1 {
        return wrong("is the whole host");
    }
    if text.chars().any(char::is_control) {
        return wrong("holds a control character");
    }
    Ok(path.to_owned())
}

pub fn pool(text: &str) -> Result<Ipv4Net, Wrong> {
    let wrong = |reason: &str, hint: String| Err((format!("the address pool `{}` {reason}", text.escape_debug()), hint));
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return wrong("is not an IPv4 network", "write e.g. `10.213.0.0/16`".into());
    };
    if net.trunc() != net {
        return wrong("has host bits", format!("write `{}`", net.trunc()));
    }
    if net.prefix_len() > 26 {
        return wrong("is too small for one environment", "give it a /26 or more, e.g. `10.213.0.0/16`".into());
    }
    let private = [(Ipv4Addr::new(10, 0, 0, 0), 8), (Ipv4Addr::new(172, 16, 0, 0), 12), (Ipv4Addr::new(192, 168, 0, 0), 16)];
    let inside = private.into_iter().any(|(address, prefix)| Ipv4Net::new_assert(address, prefix).contains(&net));
    if !inside {
        return wrong("is not private", "take a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16".into());
    }
    Ok(net)
}

pub fn ids(text: &str) -> Result<IdPool, Wrong> {
    let wrong = |reason: &str, hint: &str| Err((format!("the ids `{}` {reason}", text.escape_debug()), hint.to_owned()));
    let ends = text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = ends.filter(|(first, last): &(u32, u32)| first <= last) else {
        return wrong("are no range", "write the first and the last, e.g. `1879048192-2147352575`");
    };
    if last - first < IDS_OF_A_MACHINE - 1 {
        return wrong("are too few for one machine", "give it 65536 or more for each machine that runs");
    }
    // The first are this host's users, those after them are machines' files on disk; the last is no id.
    if first < LEAST_ID || last == u32::MAX {
        return wrong("are this host's own", "take them between 200000 and 4294967294");
    }
    Ok(IdPool { first, last })
}

pub fn address(text: &str) -> Result<IpAddr, Wrong> {
    let hint = "write only IP addresses, e.g. `192.0.2.53`";
    let address: IpAddr =
        text.parse().map_err(|_| (format!("the name server `{}` is not an IP address", text.escape_debug()), hint.to_owned()))?;
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        // In a machine, 127.0.0.53 is the machine itself.
        return Err((
            format!("no machine can reach the name server `{address}`"),
            "name one by an address that machines can reach".into(),
        ));
    }
    Ok(address)
}

/// Which ones there are, this adt's registry knows.
pub fn provider(text: &str) -> Result<ProviderName, Wrong> {
    let wrong =
        |_| (format!("`{}` is not a provider", text.escape_debug()), format!("write a name, e.g. `{}`", ProviderName::FIRST));
    ProviderName::new(text).map_err(wrong)
}

pub fn seconds(text: &str) -> Result<u32, Wrong> {
    text.parse().ok().filter(|seconds| *seconds <= 3600).ok_or_else(|| {
        (format!("`{}` is not a number of seconds between 0 and 3600", text.escape_debug()), "write e.g. `10`".into())
    })
}
