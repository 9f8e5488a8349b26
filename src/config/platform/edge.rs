//! The names of a target's sites to the world, and whom their certificates are asked of.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::model::edge::{Acme, ClientLimits, Edge};
use crate::model::{Domain, SiteName};

use super::users::users;
use super::{networks, raw};
use crate::config::at::{At, in_order};
use crate::config::check;
use crate::config::fault::Faults;

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// `sites` are those of the platform.
pub fn edge(raw: &raw::Target, sites: &BTreeMap<At<String>, raw::Site>, faults: &mut Faults) -> Edge {
    let known: Vec<&str> = in_order(sites).into_iter().map(|(name, _)| name.as_str()).collect();
    let mut seen = Seen::default();
    let mut names: BTreeMap<SiteName, Vec<Domain>> = BTreeMap::new();
    for (site, own) in in_order(&raw.names) {
        if !known.contains(&site.as_str()) {
            let hint = check::meant(site, known.iter().copied(), "add it as `[sites.…]`");
            faults.add_hint(site.span(), format!("there is no site `{}`", site.escape_debug()), hint);
            continue;
        }
        let Ok(name) = SiteName::new(site.as_str()) else { continue };
        names.insert(name, own.iter().filter_map(|word| seen.take(public(word, faults)?, word, site, faults)).collect());
    }
    if let Some(word) = &raw.domain
        && let Some(domain) = public(word, faults)
    {
        for site in known {
            let Ok(name) = SiteName::new(site) else { continue };
            if names.contains_key(&name) {
                continue;
            }
            let below = match Domain::new(format!("{site}.{domain}")) {
                Ok(below) => seen.take(below, word, site, faults),
                Err(error) => {
                    faults.add_hint(word.span(), error.to_string(), "shorten the domain, or give this site other `names`");
                    None
                }
            };
            names.insert(name, below.into_iter().collect());
        }
    }
    names.retain(|_, names| !names.is_empty());
    let (acme, hsts) = (acme(raw, faults), raw.hsts.as_ref().map(|seconds| **seconds));
    let deny = networks(&raw.deny, "of clients to refuse", faults);
    let proxy_protocol = networks(&raw.proxy_protocol, "of load balancers", faults);
    let users = users(&raw.users, &names, faults);
    if names.is_empty() {
        let single = [raw.email.as_ref().map(At::span), raw.hsts.as_ref().map(At::span)];
        let lists = [&raw.deny, &raw.proxy_protocol].map(|words| words.first().map(At::span));
        let limits = raw.limits.iter().flat_map(|limits| [limits.requests.as_ref(), limits.at_once.as_ref()]);
        let limits = limits.map(|limit| limit.map(At::span));
        for key in single.into_iter().chain(lists).chain(limits).flatten() {
            faults.add_hint(key, "no site of this target has a name", "give them names with `domain = \"shop.example\"`");
        }
        return Edge::default();
    }
    let limits = raw.limits.as_ref().map_or_else(ClientLimits::default, |limits| ClientLimits {
        requests: limits.requests.as_ref().map(|limit| **limit),
        at_once: limits.at_once.as_ref().map(|limit| **limit),
    });
    Edge { names, acme, hsts, deny, proxy_protocol, users, limits }
}

/// Whose names are whose: one name leads to one site.
#[derive(Default)]
struct Seen(BTreeMap<Domain, String>);

impl Seen {
    fn take(&mut self, name: Domain, word: &At<String>, site: &str, faults: &mut Faults) -> Option<Domain> {
        if let Some(owner) = self.0.insert(name.clone(), site.to_owned()) {
            faults.add_hint(word.span(), format!("the name `{name}` already belongs to site `{owner}`"), "keep one of the two");
            return None;
        }
        Some(name)
    }
}

/// A name of the internet has a domain.
fn public(word: &At<String>, faults: &mut Faults) -> Option<Domain> {
    let name = check::name(faults, word, Domain::new)?;
    if !name.as_str().contains('.') {
        let message = format!("`{name}` has no domain, so nobody in the world can reach it");
        faults.add_hint(word.span(), message, "write the whole name, e.g. `www.shop.example`");
        return None;
    }
    if name.as_str().parse::<std::net::Ipv4Addr>().is_ok() {
        faults.add_hint(word.span(), format!("`{name}` is an address"), "write a name, e.g. `www.shop.example`");
        return None;
    }
    Some(name)
}

fn acme(raw: &raw::Target, faults: &mut Faults) -> Option<Acme> {
    let Some(email) = &raw.email else {
        for key in [&raw.acme, &raw.acme_ca].into_iter().flatten() {
            faults.add_hint(key.span(), "nobody is named whom the authority writes to", "add `email = \"ops@shop.example\"`");
        }
        return None;
    };
    let is_address = email.split_once('@').is_some_and(|(user, host)| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        !user.is_empty() && user.len() <= 64 && user.bytes().all(plain) && host.contains('.') && check::is_host_name(host)
    });
    if !is_address {
        let message = format!("`{}` is no address of mail", email.escape_debug());
        faults.add_hint(email.span(), message, "write one in lower case, e.g. `ops@shop.example`");
    }
    let directory = raw.acme.as_ref().map_or(LETS_ENCRYPT, |address| {
        // Whoever stands between could answer for the authority, so there is no other way than https.
        let rest = address.strip_prefix("https://").unwrap_or_default();
        if rest.is_empty() || !rest.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}@#".contains(&b)) {
            let message = format!("`{}` is no https address of a directory", address.escape_debug());
            faults.add_hint(address.span(), message, "write it as its authority does, e.g. `https://acme.example/directory`");
        }
        address
    });
    let ca = raw.acme_ca.as_ref().map(|pem| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        if !all.is_ok_and(|all| !all.is_empty()) {
            let hint = "paste the file's lines between `\"\"\"`, from `-----BEGIN CERTIFICATE-----` on";
            faults.add_hint(pem.span(), "`acme_ca` holds no certificate in PEM", hint);
        }
        pem.to_string()
    });
    Some(Acme { directory: directory.to_owned(), email: email.to_string(), ca })
}
