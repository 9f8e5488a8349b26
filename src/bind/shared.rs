//! What nginx serves alike for all environments: maps in front of one server.
//!
//! ```text
//! adt/conf/1-<environment>.conf  its machines, and servers for the sites that are not like the others
//! adt/conf/2-names.conf          name → site, homepage, redirect
//! adt/conf/2-certificates.conf   name → certificate and key; only root reads it
//! adt/conf/2-environments.conf   the server
//! ```
//! nginx takes about a millisecond for each server with a certificate, and it reads all of them for a check, a start and a
//! reload: four seconds for a thousand environments. The same names in maps take a twentieth of a second; a handshake then
//! reads its certificate, a tenth of a millisecond. Apache has no such way: there a name's certificate is its virtual host's.

use std::path::Path;

use serde_json::{Value, json};

use super::front::{balancer, fronts, https_suffix};
use super::material::Material;
use super::{Certificate, Error, Facts, File, Home, Result, file};
use crate::model::route::{EnvironmentRoute, Protocol, SiteRoute};

/// nginx takes no longer word than 4,096 bytes.
const WORD: usize = 3500;

/// Whether a site needs a server of its own.
pub fn is_alone(site: &SiteRoute) -> bool {
    site.sticky || site.protocol == Protocol::H2c
}

pub fn files(home: &Home, facts: &Facts<'_>, material: &Material, forward: &str) -> Result<Vec<File>> {
    let hosts: Vec<_> = facts.routes.environments().map(EnvironmentRoute::host).collect();
    let names: Vec<_> = facts.routes.environments().map(|environment| names(facts, environment)).collect();
    let parts = certificates(facts)?;
    let variables: String = (0..parts.len()).map(variable).collect();
    let secure = fronts(facts, facts.routes.domain.as_str(), false)?;
    let server = json!({
        "environments": hosts,
        "fronts": if parts.is_empty() { &secure[..1] } else { &secure[..] },
        "certificate": variables,
        "https_suffix": https_suffix(facts.front),
        "adt": home.adt(),
        "forward": forward,
    });
    let parts: Vec<_> =
        parts.iter().enumerate().map(|(number, entries)| json!({ "variable": variable(number), "entries": entries })).collect();
    let render = |name: &str, facts: &Value| -> Result<File> {
        Ok(file(format!("conf/2-{name}"), material.of_server(name)?.render(facts)?))
    };
    Ok(vec![
        render("names.conf", &json!({ "environments": names }))?,
        File { mode: 0o600, ..render("certificates.conf", &json!({ "parts": parts }))? },
        render("environments.conf", &server)?,
    ])
}

fn names(facts: &Facts<'_>, environment: &EnvironmentRoute) -> Value {
    let site = |site: &SiteRoute| {
        let served = environment.up && !site.backends.is_empty();
        json!({
            "host": site.host,
            "target": if served { balancer(&site.host) } else { "halted".to_owned() },
            "redirect": site.https_only && (facts.certificate)(&site.host).is_some(),
        })
    };
    json!({ "host": environment.host(), "sites": environment.sites.iter().map(site).collect::<Vec<_>>() })
}

fn variable(number: usize) -> String {
    format!("$adt_certificate_{number}")
}

/// The first parts of all certificates, their second parts, and so on.
fn certificates(facts: &Facts<'_>) -> Result<Vec<Vec<Value>>> {
    let mut parts: Vec<Vec<Value>> = Vec::new();
    for environment in facts.routes.environments() {
        let own = (environment.host(), format!(".{}", environment.host()));
        let sites = environment.sites.iter().map(|site| (site.host.clone(), format!("*.{}", site.host)));
        for (level, name) in std::iter::once(own).chain(sites) {
            let Some(certificate) = (facts.certificate)(&level) else { continue };
            for (number, text) in words(&pem(&certificate)?).into_iter().enumerate() {
                if parts.len() == number {
                    parts.push(Vec::new());
                }
                parts[number].push(json!({ "name": name, "text": text }));
            }
        }
    }
    Ok(parts)
}

/// What of both files is PEM, which has no character that nginx takes for its own.
fn pem(certificate: &Certificate) -> Result<String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::io("read", path));
    let mut text = read(&certificate.chain)?;
    if certificate.key != certificate.chain {
        text += "\n";
        text += &read(&certificate.key)?;
    }
    let mut inside = false;
    let mut pem = String::with_capacity(text.len());
    for line in text.lines().map(str::trim_end) {
        let (begins, ends) = (line.starts_with("-----BEGIN "), line.starts_with("-----END "));
        inside |= begins;
        let plain = line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=- ".contains(&b));
        if inside && plain {
            pem.push_str(line);
            pem.push('\n');
        }
        inside &= !ends;
    }
    Ok(pem)
}

/// Cut between lines.
fn words(pem: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for line in pem.split_inclusive('\n') {
        if words.last().is_some_and(|word| word.len() + line.len() > WORD) {
            words.push(String::new());
        }
        words.last_mut().expect("there is always one").push_str(line);
    }
    words
}
