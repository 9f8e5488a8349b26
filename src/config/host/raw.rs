//! `adt.toml`, key by key. These comments are the user's documentation: the JSON Schema carries them into editors.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::At;

/// Settings of one host. Each can be overridden by an `ADT_…` variable, and that by a flag.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "adt.toml")]
pub struct Document {
    /// The last labels of every name, e.g. `example.test`. Variable: `ADT_DOMAIN`.
    pub domain: Option<At<String>>,
    /// The folder that holds everything adt keeps: layers, machines, its database. Variable: `ADT_STORE`.
    pub store: Option<At<String>>,
    /// The private IPv4 network that environments get their addresses from, a /26 each. Variable: `ADT_POOL_V4`.
    pub pool_v4: Option<At<String>>,
    /// Name servers for the machines. Without it, the host's own. Variable: `ADT_NAMESERVERS`, separated by commas.
    pub nameservers: Option<At<Vec<At<String>>>>,
    /// More folders of box recipes, the first before the others. Variable: `ADT_BOXES`, separated by colons.
    pub boxes: Option<At<Vec<At<String>>>>,
    /// What machines run on: `lxc`, `docker` or `vm`. Variable: `ADT_PROVIDER`.
    pub provider: Option<At<String>>,
    /// How long a machine may take to shut down before it is forced. Variable: `ADT_GRACE_SECONDS`.
    #[schemars(range(min = 0, max = 3600))]
    pub grace_seconds: Option<At<u32>>,
    /// The IPv4 address on which names and pages are served; one of adt's own on the loopback unless a team shares this host.
    /// Variable: `ADT_LISTEN`.
    pub listen: Option<At<String>>,
}
