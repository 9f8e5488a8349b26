//! `[logs]`: who gets the logs of running environments.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{Origin, Setting, raw, values};
use crate::config::at::At;
use crate::config::check;
use crate::config::fault::Faults;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logs {
    pub syslog: Option<Setting<Syslog>>,
    pub splunk: Option<Setting<Splunk>>,
    /// Lines that wait for one receiver, in bytes.
    pub buffer: usize,
}

/// A syslog server that counts octets (RFC 6587).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Syslog {
    pub address: Address,
}

/// An HTTP Event Collector. Its token stays in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Splunk {
    pub address: Address,
    pub token_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

const BUFFER_MEGABYTES: u32 = 16;

impl Logs {
    pub fn are_sent(&self) -> bool {
        self.syslog.is_some() || self.splunk.is_some()
    }

    /// Only what is set: most hosts send nothing anywhere.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, String, &Origin)> {
        let scheme = |tls, plain: &'static str, secure: &'static str| if tls { secure } else { plain };
        let syslog = self.syslog.iter().map(move |setting| {
            let address = &setting.value.address;
            ("logs.syslog", format!("{}://{address}", scheme(address.tls, "tcp", "tls")), &setting.origin)
        });
        let splunk = self.splunk.iter().map(move |setting| {
            let address = &setting.value.address;
            ("logs.splunk", format!("{}://{address}", scheme(address.tls, "http", "https")), &setting.origin)
        });
        syslog.chain(splunk)
    }
}

pub fn settle(raw: &raw::Logs, faults: &mut Faults) -> Option<Logs> {
    let syslog = raw.syslog.as_ref().map(|word| {
        let address = address(word, ["tcp", "tls"], [601, 6514], faults)?;
        Some(Setting { value: Syslog { address }, origin: Origin::File(faults.place(word.span())) })
    });
    let splunk = raw.splunk.as_ref().map(|splunk| {
        let address = address(&splunk.url, ["http", "https"], [8088, 8088], faults);
        let token_file = match values::folder(&splunk.token_file) {
            Ok(path) => Some(path),
            Err(_) => {
                let message = format!("the token's file `{}` is no absolute path", splunk.token_file.escape_debug());
                faults.add_hint(splunk.token_file.span(), message, "write its whole path, e.g. `/etc/adt/splunk.token`");
                None
            }
        };
        let origin = Origin::File(faults.place(splunk.url.span()));
        Some(Setting { value: Splunk { address: address?, token_file: token_file? }, origin })
    });
    let megabytes = raw.buffer_megabytes.unwrap_or(BUFFER_MEGABYTES);
    Some(Logs { syslog: all(syslog)?, splunk: all(splunk)?, buffer: (megabytes as usize) << 20 })
}

/// An optional value whose check may have failed: `None` only if it did.
fn all<T>(checked: Option<Option<T>>) -> Option<Option<T>> {
    checked.map_or(Some(None), |result| result.map(Some))
}

/// `scheme://host[:port]`; of both pairs, the second is the one with TLS.
fn address(word: &At<String>, schemes: [&str; 2], ports: [u16; 2], faults: &mut Faults) -> Option<Address> {
    let found = word.split_once("://").and_then(|(scheme, rest)| {
        let which = schemes.iter().position(|known| *known == scheme)?;
        let (host, port) = check::host_and_port(rest.strip_suffix('/').unwrap_or(rest), ports[which])?;
        Some(Address { tls: which == 1, host, port })
    });
    if found.is_none() {
        let example = format!("write e.g. `{}://logs.example.org:{}`", schemes[1], ports[1]);
        faults.add_hint(word.span(), format!("`{}` is no address to send logs to", word.escape_debug()), example);
    }
    found
}
