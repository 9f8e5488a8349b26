//! Where a host's name is answered: at which addresses and ports, with which certificate, and under which name its machines
//! are balanced.

use std::net::IpAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Facts, Front, Result, safe};

/// Where a name is answered: over http, and over https if there is a certificate for it.
pub fn fronts(facts: &Facts<'_>, host: &str, https_only: bool) -> Result<Vec<Value>> {
    let front = facts.front;
    let certificate = (facts.certificate)(host);
    let plain = json!({ "bind": bind(front, front.http), "listens": listens(front, front.http), "scheme": "http", "tls": null,
        "redirect": https_only && certificate.is_some() });
    let Some(certificate) = certificate else { return Ok(vec![plain]) };
    let tls =
        json!({ "chain": safe::path("the certificate", &certificate.chain)?, "key": safe::path("the key", &certificate.key)? });
    let secure = json!({ "bind": bind(front, front.https), "listens": listens(front, front.https), "scheme": "https", "tls": tls,
        "redirect": false });
    Ok(vec![plain, secure])
}

pub fn https_suffix(front: &Front) -> String {
    if front.https == 443 { String::new() } else { format!(":{}", front.https) }
}

/// For Apache's `<VirtualHost …>`.
fn bind(front: &Front, port: u16) -> String {
    if front.listen.is_empty() { format!("*:{port}") } else { listens(front, port).join(" ") }
}

/// For nginx' `listen …`.
fn listens(front: &Front, port: u16) -> Vec<String> {
    if front.listen.is_empty() {
        return vec![format!("{port}"), format!("[::]:{port}")];
    }
    let one = |address: &IpAddr| std::net::SocketAddr::new(*address, port).to_string();
    front.listen.iter().map(one).collect()
}

/// Apache cuts a balancer's name at 64 characters, a host may have 253.
pub fn balancer(host: &str) -> String {
    let digest = Sha256::digest(host.as_bytes());
    digest[..8].iter().fold("adt-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}
