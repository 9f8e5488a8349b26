//! `box.toml`, key by key. These comments are the user's documentation: the JSON Schema carries them into editors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::At;

/// How a machine image is built: what it starts from, its packages, and the steps that make it what it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "box.toml")]
pub struct Document {
    /// What the box is made of. Its name is that of its folder.
    #[serde(rename = "box")]
    pub boxed: Header,
    /// How to tell that a machine of this box works; all that is given must hold. Without it, what the parent box says.
    pub health: Option<Health>,
    /// Values for the templates among the box's files; its scripts find them as `ADT_VAR_…`.
    #[serde(default)]
    pub vars: BTreeMap<At<String>, At<String>>,
    /// What is done after the packages, in this order. Each `[[steps]]` has exactly one key.
    #[serde(default)]
    pub steps: Vec<At<Step>>,
}

/// What the box is made of.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// One line that says what this is, shown by `box:list`.
    #[serde(default)]
    pub summary: Option<At<String>>,
    /// What the box starts from: exactly one of `box`, `suite`, `rootfs` and `oci`.
    pub from: At<From>,
    /// Debian packages to install, each perhaps with `=version` or `/suite`.
    #[serde(default)]
    pub packages: Vec<At<String>>,
    /// systemd units that start at boot.
    #[serde(default)]
    pub services: Vec<At<String>>,
    /// systemd units that must never start.
    #[serde(default)]
    pub mask: Vec<At<String>>,
    /// TCP ports on which the box answers.
    #[serde(default)]
    #[schemars(inner(range(min = 1, max = 65535)))]
    pub exposes: Vec<u16>,
    /// Log files that the box's programs write besides the journal, e.g. `"/var/log/apache2/*.log"`. Boxes on top keep them.
    #[serde(default)]
    pub logs: Vec<At<String>>,
    /// Whether its machines are hosts themselves, in which adt runs machines of their own. Boxes on top keep it.
    #[serde(default)]
    pub host: bool,
}

/// What a box starts from: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// Another box.
    #[serde(rename = "box")]
    pub boxed: Option<At<String>>,
    /// A Debian suite, e.g. `bookworm`, from the host's own package sources.
    pub suite: Option<At<String>>,
    /// A root file system in a tar archive of this folder.
    pub rootfs: Option<At<String>>,
    /// An OCI image in a tar archive of this folder, or a folder with its layout.
    pub oci: Option<At<String>>,
    /// What `rootfs` or `oci` must be: the archive's SHA-256, of a folder that of its `index.json`. Anything else is refused.
    pub sha256: Option<At<String>>,
}

/// How to tell that a machine works.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// A web server answers 200 to 399.
    pub http: Option<Http>,
    /// This TCP port accepts connections.
    #[schemars(range(min = 1, max = 65535))]
    pub tcp: Option<u16>,
    /// This program exits with 0 inside the machine. No shell reads it: write each word as its own entry.
    pub command: Option<At<Vec<String>>>,
    /// How many seconds to wait for all of it.
    #[serde(default = "a_minute")]
    #[schemars(range(min = 1, max = 86400))]
    pub deadline: u32,
}

fn a_minute() -> u32 {
    60
}

/// A request that must succeed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The port to ask.
    #[serde(default = "port_80")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The path to ask for.
    pub path: Option<At<String>>,
}

fn port_80() -> u16 {
    80
}

/// One step of the build: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// A folder to copy onto `/`. Files ending in `.j2` are templates and lose the ending; file names may be templates too.
    pub files: Option<At<String>>,
    /// A program of this folder to run as root in the machine.
    pub script: Option<At<String>>,
    /// An Ansible playbook of this folder to apply in the machine.
    pub ansible: Option<At<String>>,
    /// A folder of Salt states with a `top.sls` to apply in the machine.
    pub salt: Option<At<String>>,
}
