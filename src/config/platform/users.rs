//! Who may see the sites of a target: lines of `htpasswd -nB`, by site.

use std::collections::BTreeMap;

use bcrypt::HashParts;

use crate::config::at::{At, in_order};
use crate::config::check;
use crate::config::fault::Faults;
use crate::model::{Domain, SiteName};

/// Below, a password that somebody can remember is found from its hash; above, each guess costs the server seconds.
const COSTS: std::ops::RangeInclusive<u32> = 10..=14;

const MAKE: &str = "let `htpasswd -nB -C 12 NAME` print the line";

/// `names` are those of the target's sites.
pub fn users(
    raw: &BTreeMap<At<String>, Vec<At<String>>>,
    names: &BTreeMap<SiteName, Vec<Domain>>,
    faults: &mut Faults,
) -> BTreeMap<SiteName, BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (site, lines) in in_order(raw) {
        let Some((site, _)) = names.iter().find(|(known, _)| known.as_str() == site.as_str()) else {
            let known = names.keys().map(SiteName::as_str);
            let hint = check::meant(site, known, "give it one in `names`, or all sites by `domain`");
            faults.add_hint(site.span(), format!("no site `{}` has a name in the world", site.escape_debug()), hint);
            continue;
        };
        let mut own = BTreeMap::new();
        for line in lines {
            if let Some((name, hash)) = user(line, faults)
                && own.insert(name.to_owned(), hash.to_owned()).is_some()
            {
                faults.add_hint(line.span(), format!("user `{name}` is named twice"), "keep one of the two");
            }
        }
        let costs: std::collections::BTreeSet<_> =
            own.values().filter_map(|hash| hash.parse::<HashParts>().ok()).map(|parts| parts.get_cost()).collect();
        if costs.len() > 1 {
            let message =
                format!("the passwords of site `{site}` are hashed at different costs, by which names can be found out");
            faults.add_hint(raw_span(raw, site), message, MAKE);
        }
        if lines.is_empty() {
            faults.add_hint(raw_span(raw, site), format!("nobody could see site `{site}`"), MAKE);
        }
        all.insert(site.clone(), own);
    }
    all
}

fn raw_span(raw: &BTreeMap<At<String>, Vec<At<String>>>, site: &SiteName) -> std::ops::Range<usize> {
    raw.keys().find(|key| key.as_str() == site.as_str()).map_or(0..0, At::span)
}

/// The message never repeats what may be a password.
fn user<'l>(line: &'l At<String>, faults: &mut Faults) -> Option<(&'l str, &'l str)> {
    let fault = match line.split_once(':') {
        Some((name, hash)) if !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_graphic()) => {
            match hash_fault(hash) {
                None => return Some((name, hash)),
                Some(fault) => format!("the password of `{name}` {fault}"),
            }
        }
        Some(_) => "a user's name is empty, longer than 64 characters, or none of plain letters, digits and signs".to_owned(),
        None => "a user is a name, `:` and the hash of a password".to_owned(),
    };
    faults.add_hint(line.span(), fault, MAKE);
    None
}

fn hash_fault(hash: &str) -> Option<String> {
    let parts = ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind)).then(|| hash.parse::<HashParts>());
    match parts {
        Some(Ok(parts)) if COSTS.contains(&parts.get_cost()) => None,
        Some(Ok(parts)) => {
            Some(format!("is hashed at cost {}, which is not from {} to {}", parts.get_cost(), COSTS.start(), COSTS.end()))
        }
        Some(Err(_)) => Some("is no whole bcrypt hash".to_owned()),
        None => Some("is not there as a bcrypt hash, which begins with `$2y$`".to_owned()),
    }
}
