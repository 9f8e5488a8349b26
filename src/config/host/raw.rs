//! `adt.toml`, key by key. These comments are the user's documentation: the JSON Schema carries them into editors.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::At;

/// Settings of one host. Each single value can be overridden by an `ADT_…` variable, and that by a flag.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "adt.toml")]
pub struct Document {
    /// The last labels of every name, e.g. `example.test`. Variable: `ADT_DOMAIN`.
    pub domain: Option<At<String>>,
    /// Domains on the internet that a platform may have on this host, with all below them, e.g. `dev.example.org`. Those that are
    /// nobody's there, as `.test`, need no mention. Variable: `ADT_DOMAINS`, separated by commas.
    pub domains: Option<At<Vec<At<String>>>>,
    /// The folder that holds everything adt keeps: layers, machines, its database. Variable: `ADT_STORE`.
    pub store: Option<At<String>>,
    /// The private IPv4 network that environments get their addresses from, a /26 each. Variable: `ADT_POOL_V4`.
    pub pool_v4: Option<At<String>>,
    /// The ids of this host's that running machines get theirs from, 65,536 each, e.g. `1879048192-2147352575`. Files on disk
    /// have others. Variable: `ADT_POOL_IDS`.
    pub pool_ids: Option<At<String>>,
    /// Name servers for the machines. Without it, the host's own. Variable: `ADT_NAMESERVERS`, separated by commas.
    pub nameservers: Option<At<Vec<At<String>>>>,
    /// More folders of box recipes, the first before the others. Variable: `ADT_BOXES`, separated by colons.
    pub boxes: Option<At<Vec<At<String>>>>,
    /// What the machines of new environments run on where their role names nothing. Variable: `ADT_PROVIDER`.
    pub provider: Option<At<String>>,
    /// How long a machine may take to shut down before it is forced. Variable: `ADT_GRACE_SECONDS`.
    #[schemars(range(min = 0, max = 3600))]
    pub grace_seconds: Option<At<u32>>,
    /// The IPv4 address on which names and pages are served; one of adt's own on the loopback unless a team shares this host.
    /// Variable: `ADT_LISTEN`.
    pub listen: Option<At<String>>,
    /// Whether names are served over TLS too, on port 853 of the address above, with certificates of adt's authority. Variable:
    /// `ADT_DNS_OVER_TLS`.
    pub dns_over_tls: Option<At<bool>>,
    /// Whether environments that were up when this host went down are started with it, by `adt-environments.service`; so it is
    /// unless this says `false`. It halts them before the end in either case. Variable: `ADT_BRING_BACK`.
    pub bring_back: Option<At<bool>>,
    /// Where `host:up` sends the logs of all running environments.
    #[serde(default)]
    pub logs: Logs,
}

/// Where `host:up` sends the logs of all running environments.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// A syslog server that takes RFC 5424 over TCP, e.g. `tcp://logs.example.org:601`, or `tls://logs.example.org:6514`.
    pub syslog: Option<At<String>>,
    /// A Splunk HTTP Event Collector.
    pub splunk: Option<Splunk>,
    /// How many megabytes of lines may wait in memory for each receiver. When it is full and the receiver is away, the oldest are
    /// dropped and counted.
    #[schemars(range(min = 1, max = 4096))]
    pub buffer_megabytes: Option<u32>,
}

/// A Splunk HTTP Event Collector.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splunk {
    /// Its address, e.g. `https://splunk.example.org:8088`.
    pub url: At<String>,
    /// The file that holds its token; only root should be able to read it.
    pub token_file: At<String>,
}
