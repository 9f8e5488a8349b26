//! `adt.toml`, variables and flags → [`HostSettings`], each with where it came from.
//!
//! Default < file < variable < flag. The value that counts is checked; one that is overridden only has to have the right shape.

mod logs;
pub mod raw;
#[cfg(test)]
pub mod tests;
mod values;

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::model::names::Domain;
use crate::model::{Failure, Fault, IdPool, Kind, Place, ProviderName};

use super::at::At;
use super::document;
use super::fault::Faults;

pub use logs::{Address, Logs, Splunk, Syslog};

/// Where the settings are looked for unless `--config` or `ADT_CONFIG` says otherwise.
pub const FILE: &str = "/etc/adt/adt.toml";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Default,
    File(Place),
    Variable(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "{place}"),
            Self::Variable(name) => write!(f, "{name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSettings {
    pub domain: Setting<Domain>,
    /// On the internet, and given to platforms all the same.
    pub domains: Setting<Vec<Domain>>,
    pub store: Setting<PathBuf>,
    pub pool_v4: Setting<Ipv4Net>,
    pub pool_ids: Setting<IdPool>,
    /// Empty: the host's own.
    pub nameservers: Setting<Vec<IpAddr>>,
    pub boxes: Setting<Vec<PathBuf>>,
    /// What new environments run on.
    pub provider: Setting<ProviderName>,
    pub grace_seconds: Setting<u32>,
    /// Where names and pages are served.
    pub listen: Setting<Ipv4Addr>,
    /// Whether names are also served over TLS there.
    pub dns_over_tls: Setting<bool>,
    /// Whether what was up when the host went down is started with it.
    pub bring_back: Setting<bool>,
    /// Where the logs of running environments are sent.
    pub logs: Logs,
}

impl HostSettings {
    /// Key, value and origin of each, in the order in which `host:check` prints them.
    pub fn rows(&self) -> Vec<(&'static str, String, &Origin)> {
        fn join<T: ToString>(list: impl IntoIterator<Item = T>) -> String {
            list.into_iter().map(|each| each.to_string()).collect::<Vec<_>>().join(", ")
        }
        let mut rows = vec![
            ("domain", self.domain.value.to_string(), &self.domain.origin),
            ("domains", join(&self.domains.value), &self.domains.origin),
            ("store", self.store.value.display().to_string(), &self.store.origin),
            ("pool_v4", self.pool_v4.value.to_string(), &self.pool_v4.origin),
            ("pool_ids", self.pool_ids.value.to_string(), &self.pool_ids.origin),
            ("nameservers", join(&self.nameservers.value), &self.nameservers.origin),
            ("boxes", join(self.boxes.value.iter().map(|folder| folder.display())), &self.boxes.origin),
            ("provider", self.provider.value.to_string(), &self.provider.origin),
            ("grace_seconds", self.grace_seconds.value.to_string(), &self.grace_seconds.origin),
            ("listen", self.listen.value.to_string(), &self.listen.origin),
            ("dns_over_tls", self.dns_over_tls.value.to_string(), &self.dns_over_tls.origin),
            ("bring_back", self.bring_back.value.to_string(), &self.bring_back.origin),
        ];
        rows.extend(self.logs.rows());
        rows
    }

    /// Whether this host may be led to adt for it: a platform's file can be anybody's, and must not take a bank's name over.
    pub fn may_have(&self, domain: &Domain) -> bool {
        let mut ours = [&self.domain.value].into_iter().chain(&self.domains.value);
        domain.is_nobodys() || ours.any(|own| domain == own || domain.is_below(own))
    }
}

/// What the command line said, as it said it. `domains` and `nameservers` are separated by commas and `boxes` by colons, as in
/// the variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFlags {
    pub config: Option<PathBuf>,
    pub domain: Option<String>,
    pub domains: Option<String>,
    pub store: Option<String>,
    pub pool_v4: Option<String>,
    pub pool_ids: Option<String>,
    pub nameservers: Option<String>,
    pub boxes: Option<String>,
    pub provider: Option<String>,
    pub grace_seconds: Option<String>,
    pub listen: Option<String>,
    pub dns_over_tls: Option<String>,
    pub bring_back: Option<String>,
}

impl HostFlags {
    /// One that does not only say which host's store is meant.
    pub fn of_the_service(&self) -> Option<&'static str> {
        let keys = &values::KEYS;
        // Taken apart, so that a new one can't be forgotten.
        let Self {
            config: _,
            store: _,
            domain,
            domains,
            pool_v4,
            pool_ids,
            nameservers,
            boxes,
            provider,
            grace_seconds,
            listen,
            dns_over_tls,
            bring_back,
        } = self;
        let others = [
            (domain, keys.domain.flag),
            (domains, keys.domains.flag),
            (pool_v4, keys.pool_v4.flag),
            (pool_ids, keys.pool_ids.flag),
            (nameservers, keys.nameservers.flag),
            (boxes, keys.boxes.flag),
            (provider, keys.provider.flag),
            (grace_seconds, keys.grace_seconds.flag),
            (listen, keys.listen.flag),
            (dns_over_tls, keys.dns_over_tls.flag),
            (bring_back, keys.bring_back.flag),
        ];
        others.into_iter().find(|(value, _)| value.is_some()).map(|(_, flag)| flag)
    }
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Finds and reads the file, then settles. Only a file that somebody named must exist.
pub fn read(env: Env, flags: &HostFlags) -> Result<HostSettings, Failure> {
    let named = flags.config.clone().or_else(|| variable(env, "ADT_CONFIG").map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| FILE.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => None,
        Err(error) => {
            return Err(Failure::new(Kind::Config, format!("read `{}`", path.display()))
                .because(&error)
                .hint("name the file of host settings with `--config` or `ADT_CONFIG`"));
        }
    };
    settle(text.as_deref().map(|text| (path.as_path(), text)), env, flags)
        // A flag or a variable may be at fault where there is no file at all.
        .map_err(|faults| Failure::new(Kind::Config, "use the host settings").faults(faults))
}

/// Layers the settings; pure.
pub fn settle(file: Option<(&Path, &str)>, env: Env, flags: &HostFlags) -> Result<HostSettings, Vec<Fault>> {
    let (path, text) = file.unwrap_or((Path::new(FILE), ""));
    let mut faults = Faults::new(path, text);
    let Some(raw) = document::parse::<raw::Document>(&super::schema(super::Document::Host), &mut faults) else {
        return Err(faults.into_list());
    };
    let mut layers = Layers { faults, env, wrong: Vec::new() };
    let keys = &values::KEYS;
    let domain = layers.pick(&keys.domain, &flags.domain, one(&raw.domain), values::domain);
    let domains = layers.list(&keys.domains, &flags.domains, many(&raw.domains), values::domain);
    let store = layers.pick(&keys.store, &flags.store, one(&raw.store), values::folder);
    let pool_v4 = layers.pick(&keys.pool_v4, &flags.pool_v4, one(&raw.pool_v4), values::pool);
    let pool_ids = layers.pick(&keys.pool_ids, &flags.pool_ids, one(&raw.pool_ids), values::ids);
    let nameservers = layers.list(&keys.nameservers, &flags.nameservers, many(&raw.nameservers), values::address);
    let boxes = layers.list(&keys.boxes, &flags.boxes, many(&raw.boxes), values::folder);
    let provider = layers.pick(&keys.provider, &flags.provider, one(&raw.provider), values::provider);
    let seconds = raw.grace_seconds.as_ref().map(|seconds| (seconds.to_string(), seconds.span()));
    let grace_seconds = layers.pick(&keys.grace_seconds, &flags.grace_seconds, seconds, values::seconds);
    let listen = layers.pick(&keys.listen, &flags.listen, one(&raw.listen), values::listen);
    let truth = |value: &Option<At<bool>>| value.as_ref().map(|truth| (truth.to_string(), truth.span()));
    let dns_over_tls = layers.pick(&keys.dns_over_tls, &flags.dns_over_tls, truth(&raw.dns_over_tls), values::truth);
    let bring_back = layers.pick(&keys.bring_back, &flags.bring_back, truth(&raw.bring_back), values::truth);
    let logs = logs::settle(&raw.logs, &mut layers.faults);
    let mut wrong = layers.faults.into_list();
    wrong.extend(layers.wrong);
    let served = (listen, dns_over_tls, bring_back, logs);
    match (domain, domains, store, pool_v4, pool_ids, nameservers, boxes, provider, grace_seconds, served) {
        (
            Some(domain),
            Some(domains),
            Some(store),
            Some(pool_v4),
            Some(pool_ids),
            Some(nameservers),
            Some(boxes),
            Some(provider),
            Some(grace_seconds),
            (Some(listen), Some(dns_over_tls), Some(bring_back), Some(logs)),
        ) => Ok(HostSettings {
            domain,
            domains,
            store,
            pool_v4,
            pool_ids,
            nameservers,
            boxes,
            provider,
            grace_seconds,
            listen,
            dns_over_tls,
            bring_back,
            logs,
        }),
        _ => Err(wrong),
    }
}

type Word = (String, Range<usize>);

fn one(value: &Option<At<String>>) -> Option<Word> {
    value.as_ref().map(|value| (value.to_string(), value.span()))
}

fn many(value: &Option<At<Vec<At<String>>>>) -> Option<(Vec<Word>, Range<usize>)> {
    value.as_ref().map(|list| (list.iter().map(|word| (word.to_string(), word.span())).collect(), list.span()))
}

/// An empty variable is as good as none, as for most programs.
fn variable(env: Env, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

/// A value as it was written, not yet checked.
struct Candidate {
    text: String,
    origin: Origin,
}

struct Layers<'a> {
    faults: Faults<'a>,
    env: Env<'a>,
    /// Faults of flags and variables, which have no place.
    wrong: Vec<Fault>,
}

impl Layers<'_> {
    fn outside(&self, key: &values::Key, flag: &Option<String>) -> Option<Candidate> {
        let flagged = flag.clone().map(|text| Candidate { text, origin: Origin::Flag(key.flag) });
        flagged.or_else(|| Some(Candidate { text: variable(self.env, key.variable)?, origin: Origin::Variable(key.variable) }))
    }

    fn pick<T>(
        &mut self,
        key: &values::Key,
        flag: &Option<String>,
        file: Option<Word>,
        check: values::Check<T>,
    ) -> Option<Setting<T>> {
        let candidate = self
            .outside(key, flag)
            .or_else(|| file.map(|(text, span)| Candidate { text, origin: Origin::File(self.faults.place(span)) }))
            .unwrap_or_else(|| Candidate { text: key.default.to_owned(), origin: Origin::Default });
        let value = self.checked(&candidate, check)?;
        Some(Setting { value, origin: candidate.origin })
    }

    fn list<T>(
        &mut self,
        key: &values::Key,
        flag: &Option<String>,
        file: Option<(Vec<Word>, Range<usize>)>,
        check: values::Check<T>,
    ) -> Option<Setting<Vec<T>>> {
        let (candidates, origin) = match (self.outside(key, flag), file) {
            (Some(Candidate { text, origin }), _) => {
                let words = text.split(key.separator).map(str::trim).filter(|word| !word.is_empty());
                (words.map(|word| Candidate { text: word.to_owned(), origin: origin.clone() }).collect(), origin)
            }
            (None, Some((words, whole))) => {
                let place = |span| Origin::File(self.faults.place(span));
                let list = words.into_iter().map(|(text, span)| Candidate { text, origin: place(span) }).collect();
                (list, place(whole))
            }
            (None, None) => (Vec::new(), Origin::Default),
        };
        // Every entry is checked before the answer, so that all faults are told.
        let values: Vec<Option<T>> = candidates.iter().map(|candidate| self.checked(candidate, check)).collect();
        Some(Setting { value: values.into_iter().collect::<Option<_>>()?, origin })
    }

    fn checked<T>(&mut self, candidate: &Candidate, check: values::Check<T>) -> Option<T> {
        let (message, hint) = match check(&candidate.text) {
            Ok(value) => return Some(value),
            Err(wrong) => wrong,
        };
        match &candidate.origin {
            Origin::File(place) => self.faults.push(place.span.clone(), message, Some(hint)),
            origin => self.wrong.push(Fault { message: format!("{origin}: {message}"), place: None, hint: Some(hint) }),
        }
        None
    }
}
