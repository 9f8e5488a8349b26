//! The edge of an environment: by which names the world reaches its sites, and who vouches for these names.
//!
//! It is part of what a promotion brings, so that changing a name is planned, proven and rolled back like any other change.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::access::words;
use super::names::{Domain, SiteName};

/// The path at which a load balancer finds out whether the host answers at all.
pub const HEALTH: &str = "/.well-known/adt/health";

/// Empty for every environment that nobody but its host reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// No name is there twice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<SiteName, Vec<Domain>>,
    /// Whom certificates are asked of. Without it, adt's own authority signs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// For so many seconds browsers shall ask for nothing but https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<u32>,
    /// Clients at these addresses are refused.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub deny: BTreeSet<IpNet>,
    /// Those who begin each connection with the address of the client that they speak for, and are believed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proxy_protocol: BTreeSet<IpNet>,
    /// Who may see a site, each with the bcrypt hash of a password. A site without any is everybody's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<SiteName, BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "ClientLimits::is_empty")]
    pub limits: ClientLimits,
}

/// What one client may have of all sites together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLimits {
    /// So many requests a second for long, and ten times as many in one go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Requests that are not over, WebSockets among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
}

impl ClientLimits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An authority that gives certificates to whoever answers at a name (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// The address of its directory.
    pub directory: String,
    /// Whom it writes to.
    pub email: String,
    /// Certificates of a private one, in PEM: it is spoken to, and what it signs is believed, by these alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl Edge {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every name with its site.
    pub fn all(&self) -> impl Iterator<Item = (&SiteName, &Domain)> {
        self.names.iter().flat_map(|(site, names)| names.iter().map(move |name| (site, name)))
    }

    /// The domain whose local authority signs for a name: the shortest name that it is or is below of, so that few are to be
    /// trusted where somebody wants that.
    pub fn authority_of<'a>(&'a self, name: &'a Domain) -> &'a Domain {
        let above = self.all().map(|(_, other)| other).filter(|other| name.is_below(other));
        above.min_by_key(|other| other.as_str().len()).unwrap_or(name)
    }

    /// What of it is about these sites.
    pub fn of_sites(&self, is_there: impl Fn(&SiteName) -> bool) -> Self {
        let mut edge = self.clone();
        edge.names.retain(|site, _| is_there(site));
        edge.users.retain(|site, _| is_there(site));
        if edge.names.is_empty() { Self::default() } else { edge }
    }

    /// The ways from one edge to another, each as a step that a person reads.
    pub fn steps_to(&self, next: &Self) -> Vec<String> {
        let pairs = |edge: &Self| edge.all().map(|(site, name)| (name.clone(), site.clone())).collect::<BTreeSet<_>>();
        let (before, after) = (pairs(self), pairs(next));
        let new = after.difference(&before).map(|(name, site)| format!("serve `{site}` to the world as `{name}`"));
        let mut steps: Vec<_> = new.collect();
        let kept = |name: &Domain| after.iter().any(|(other, _)| other == name);
        let gone = before.iter().filter(|(name, _)| !kept(name));
        steps.extend(gone.map(|(name, site)| format!("serve `{site}` no longer as `{name}`")));
        if self.acme != next.acme {
            steps.push(match &next.acme {
                Some(acme) => format!("ask `{}` for certificates, as {}", acme.directory, acme.email),
                None => "let adt's own authority sign certificates".to_owned(),
            });
        }
        if self.hsts != next.hsts {
            steps.push(match next.hsts {
                Some(seconds) => format!("tell browsers to use nothing but https for {seconds} s"),
                None => "tell browsers no longer to use nothing but https".to_owned(),
            });
        }
        let sites: BTreeSet<_> = self.users.keys().chain(next.users.keys()).collect();
        steps.extend(sites.into_iter().filter_map(|site| users_step(site, self.users.get(site), next.users.get(site))));
        if self.limits != next.limits {
            let ClientLimits { requests, at_once } = next.limits;
            let limit = |limit: Option<u32>, what| limit.map(|limit| format!("{limit} requests {what}"));
            let all: Vec<_> = [limit(requests, "a second"), limit(at_once, "at a time")].into_iter().flatten().collect();
            let given = if all.is_empty() { "as many requests as others leave it".to_owned() } else { all.join(" and ") };
            steps.push(format!("give each client {given}"));
        }
        steps.extend(changed(&self.deny, &next.deny, |networks| format!("refuse clients at {networks}")));
        let believe = |networks| format!("let {networks} say by the PROXY protocol which client it speaks for");
        steps.extend(changed(&self.proxy_protocol, &next.proxy_protocol, believe));
        steps
    }
}

/// Passwords themselves are told to nobody, not even as hashes.
fn users_step(
    site: &SiteName,
    before: Option<&BTreeMap<String, String>>,
    after: Option<&BTreeMap<String, String>>,
) -> Option<String> {
    let Some(after) = after else { return Some(format!("show `{site}` to everybody, without a password")) };
    let names = |users: &BTreeMap<String, String>| users.keys().cloned().collect::<Vec<_>>();
    match before {
        Some(before) if before == after => None,
        Some(before) if names(before) == names(after) => Some(format!("change passwords that `{site}` asks for")),
        Some(_) | None => Some(format!("show `{site}` to {} only, by password", names(after).join(", "))),
    }
}

/// What is done with the networks that came, and no longer with those that went.
fn changed(before: &BTreeSet<IpNet>, after: &BTreeSet<IpNet>, step: impl Fn(String) -> String) -> Vec<String> {
    let only = |these: &BTreeSet<IpNet>, those: &BTreeSet<IpNet>| {
        let networks: Vec<_> = these.difference(those).copied().collect();
        (!networks.is_empty()).then(|| step(words(&networks)))
    };
    let gone = only(before, after).map(|step| format!("no longer {step}"));
    only(after, before).into_iter().chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(names: &[(&str, &str)], hsts: Option<u32>) -> Edge {
        let mut edge = Edge { hsts, ..Edge::default() };
        for (site, name) in names {
            edge.names.entry(site.parse().unwrap()).or_default().push(name.parse().unwrap());
        }
        edge
    }

    #[test]
    fn each_difference_is_one_step() {
        let none = Edge::default();
        let one = edge(&[("www", "shop.example"), ("api", "api.shop.example")], None);
        assert_eq!(none.steps_to(&none), Vec::<String>::new());
        assert_eq!(none.steps_to(&one).len(), 2);
        let swapped = edge(&[("www", "api.shop.example"), ("api", "shop.example")], None);
        assert_eq!(one.steps_to(&swapped).len(), 2, "a name that changes its site is no name that goes");
        assert_eq!(
            one.steps_to(&none),
            ["serve `api` no longer as `api.shop.example`", "serve `www` no longer as `shop.example`"]
        );
        assert_eq!(one.steps_to(&Edge { hsts: Some(300), ..one.clone() }).len(), 1);
        let networks = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<BTreeSet<IpNet>>();
        let denies = Edge { deny: networks(&["192.0.2.7/32", "203.0.113.0/24"]), ..one.clone() };
        let fewer = Edge { deny: networks(&["203.0.113.0/24", "2001:db8::/32"]), ..one.clone() };
        assert_eq!(one.steps_to(&denies), ["refuse clients at 192.0.2.7/32, 203.0.113.0/24"]);
        assert_eq!(denies.steps_to(&fewer), ["refuse clients at 2001:db8::/32", "no longer refuse clients at 192.0.2.7/32"]);
        let users = |list: &[(&str, &str)]| Edge {
            users: [("www".parse().unwrap(), list.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect())]
                .into(),
            ..one.clone()
        };
        let (ada, other, both) = (users(&[("ada", "1")]), users(&[("ada", "2")]), users(&[("ada", "1"), ("bob", "3")]));
        assert_eq!(one.steps_to(&ada), ["show `www` to ada only, by password"]);
        assert_eq!(ada.steps_to(&other), ["change passwords that `www` asks for"]);
        assert_eq!(ada.steps_to(&both), ["show `www` to ada, bob only, by password"]);
        assert_eq!(both.steps_to(&one), ["show `www` to everybody, without a password"]);
        let limited = Edge { limits: ClientLimits { requests: Some(20), at_once: Some(50) }, ..one.clone() };
        assert_eq!(one.steps_to(&limited), ["give each client 20 requests a second and 50 requests at a time"]);
        assert_eq!(limited.steps_to(&one), ["give each client as many requests as others leave it"]);
        let behind = Edge { proxy_protocol: networks(&["10.0.0.5/32"]), ..one.clone() };
        assert_eq!(one.steps_to(&behind), ["let 10.0.0.5/32 say by the PROXY protocol which client it speaks for"]);
    }

    #[test]
    fn an_environment_without_the_sites_has_no_edge() {
        let one = edge(&[("www", "shop.example")], Some(300));
        assert!(one.of_sites(|_| false).is_empty());
        assert_eq!(one.of_sites(|_| true), one);
    }
}
