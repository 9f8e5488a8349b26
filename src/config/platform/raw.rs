//! `platform.toml`, key by key. These comments are the user's documentation: the JSON Schema carries them into editors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::At;

/// A product's production topology: its machines, the sites on them, their data and the places where it may live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "platform.toml")]
pub struct Document {
    /// What the product is called.
    pub platform: Header,
    /// The machines of each environment, by role: `[machines.web]`. They are listed and started in the order of this file.
    #[serde(default)]
    pub machines: BTreeMap<At<String>, Machine>,
    /// The applications that are reachable by name: `[sites.www]` answers at `www.<environment>.<platform>.<domain>`.
    #[serde(default)]
    pub sites: BTreeMap<At<String>, Site>,
    /// What seeds, snapshots, forks and backups mean by "the data": `[data.db]`.
    #[serde(default)]
    pub data: BTreeMap<At<String>, Data>,
    /// Which snapshots of its environments adt takes by itself, and how long it keeps these.
    pub snapshots: Option<Snapshots>,
    /// Where this platform may live besides the developer's own host: `[targets.production]`.
    #[serde(default)]
    pub targets: BTreeMap<At<String>, Target>,
}

/// What the product is called.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The platform's name, a DNS label: part of every host name below it.
    pub name: At<String>,
    /// One line that says what this is, shown by `platform:list`.
    #[serde(default)]
    pub summary: Option<At<String>>,
    /// The last labels of every name, e.g. `example.test`. Without it, the host's own domain. One on the internet is led to adt only
    /// where the host's `domains` name it.
    pub domain: Option<At<String>>,
}

/// Which snapshots of its environments adt takes by itself, and how long it keeps these. What somebody asked for by `env:snapshot`
/// stays until somebody removes it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshots {
    /// Whether one is taken before `site:deploy`, before an `env:reload` that makes machines anew, and before `env:rewind`; so it is
    /// without this key.
    pub automatic: Option<bool>,
    /// Only the newest so many of these are kept, 10 without this key.
    #[schemars(range(min = 1, max = 1000))]
    pub keep: Option<At<u32>>,
    /// None of these is kept for longer than so many days, 14 without this key.
    #[schemars(range(min = 1, max = 3650))]
    pub days: Option<At<u32>>,
}

/// A role and how many machines play it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The machine image: a folder of the platform's `boxes/`, or a box that comes with adt.
    #[serde(rename = "box")]
    pub boxed: At<String>,
    /// How many machines play this role. They are named `web1`, `web2`, …; without a count there is one, named like its role.
    #[schemars(range(min = 1, max = 61))]
    pub count: Option<At<u32>>,
    /// The most memory that each machine may use, e.g. `"512M"` or `"2G"`, or `"unlimited"`. Without it, 2 GiB, on a small host
    /// half of what it has.
    pub memory: Option<At<String>>,
    /// The most processor time that each machine may use, e.g. `1.5` processors.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 4096))]
    pub cpus: Option<f64>,
    /// The most processes that each machine may have at a time.
    #[schemars(range(min = 16, max = 4194304))]
    pub processes: Option<u32>,
    /// Roles that must answer before these machines start.
    #[serde(default)]
    pub after: Vec<At<String>>,
    /// Absolute folders inside the machine that hold its data.
    #[serde(default)]
    pub data: Vec<At<String>>,
    /// Scripts of the platform's folder that run once on top of the box. Their result is kept, so new environments start with it.
    #[serde(default)]
    pub provision: Vec<At<String>>,
    /// Log files of these machines besides their journal and what their box names, e.g. `"/var/log/shop/*.log"`.
    #[serde(default)]
    pub logs: Vec<At<String>>,
    /// What these machines run on. Without it, what the host's `provider` says when the environment is made; `env:init --on`
    /// puts all machines of its environment on one.
    pub provider: Option<At<String>>,
    /// Whether these machines are hosts themselves, in which adt runs machines of their own. What those are is a volume, `/var/lib/adt`.
    #[serde(default)]
    pub host: bool,
    /// One line that says what these machines do.
    #[serde(default)]
    pub summary: Option<At<String>>,
}

/// An application that is reachable by name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The role whose machines serve it; requests are balanced over all of them.
    pub on: At<String>,
    /// The port on which its machines answer plain HTTP.
    #[serde(default = "port_80")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The path that answers 200 to 399 when the site works.
    pub health: Option<At<String>>,
    /// Production's names for this site. Inside an environment they lead to the environment's own copy.
    #[serde(default)]
    pub aliases: Vec<At<String>>,
    /// Other sites of this platform that this one calls.
    #[serde(default)]
    pub needs: Vec<At<String>>,
    /// The address of the git repository that holds the site's code. Without it, the box serves what it holds.
    pub source: Option<At<String>>,
    /// A template for the branch to try first; the ticket's own branch is `{{ env }}`.
    pub branch: Option<At<String>>,
    /// The branch to use when the first does not exist. Without it, the one that the repository names.
    pub default_branch: Option<At<String>>,
    /// Where its machines look for the code, e.g. `/srv/www`: the symlink that a release is switched into, or the mounted checkout.
    pub path: Option<At<String>>,
    /// How the code gets onto the machines of a new environment: `live` mounts a checkout, `release` deploys as production does.
    #[serde(default)]
    pub mode: Mode,
    /// The user of its machines who owns the code and runs its programs; `www-data` where none is given.
    pub user: Option<At<String>>,
    /// Files and folders of the repository in which what ends in `.j2` is rendered, e.g. `["config"]`; `[]` is none. Without it,
    /// all of them are.
    pub templates: Option<Vec<At<String>>>,
    /// A program of the repository that builds a release: runs once, may use the network.
    pub buildpack: Option<At<String>>,
    /// A program of the repository that runs on each machine before the switch, without network, while the old release is live.
    pub predeploy: Option<At<String>>,
    /// A program of the repository that runs on each machine after the switch, without network.
    pub postdeploy: Option<At<String>>,
    /// A program of the repository that runs once for each deploy, on the first machine, before `predeploy` runs anywhere.
    pub before_deploy: Option<At<String>>,
    /// A program of the repository that runs once for each deploy, on the first machine, when all machines serve the release.
    pub after_deploy: Option<At<String>>,
    /// Services that these programs may reach, as role and port, e.g. `["db:3306"]`. Everything else but the site itself is cut off.
    #[serde(default)]
    pub network: Vec<At<String>>,
    /// Units of its machines that these programs may start, stop, restart and reload, e.g. `["apache2", "worker@"]`. Without it,
    /// those in `services` of the role's box and the boxes below it.
    pub units: Option<Vec<At<String>>>,
    /// Seconds that each of these programs may take; 1800 where none are given. What takes longer is ended with all that it
    /// started, and the release before stays.
    #[schemars(range(min = 1, max = 604_800))]
    pub phase_deadline: Option<u32>,
    /// How many releases stay on its machines and in the store.
    #[schemars(range(min = 2, max = 100))]
    pub keep: Option<u32>,
    /// `waves` gives a release to one machine after the other, `together` to all at once.
    #[serde(default)]
    pub rollout: Rollout,
    /// What its machines speak: `http1`, or `h2c` for HTTP/2 without TLS, as gRPC servers do.
    #[serde(default)]
    pub protocol: Protocol,
    /// A client stays with the machine that answered it first.
    #[serde(default)]
    pub sticky: bool,
    /// Whether http is answered with a redirect to https.
    #[serde(default = "yes")]
    pub https_only: bool,
    /// Variables for the site's programs. The values are templates.
    #[serde(default)]
    pub env: BTreeMap<At<String>, At<String>>,
    /// Log files of this site on its machines, e.g. `"/srv/www/var/log/*.log"`.
    #[serde(default)]
    pub logs: Vec<At<String>>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http1,
    H2c,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Live,
    Release,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rollout {
    #[default]
    Waves,
    Together,
}

fn yes() -> bool {
    true
}

fn port_80() -> u16 {
    80
}

/// A named piece of the platform's data.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The role whose machines hold it.
    pub machine: At<String>,
    /// What it is in: a database of `mariadb`, `mysql` or `postgresql`, `files` in a folder, or whatever a `script` makes. Without
    /// it, the role's data folders are copied.
    pub engine: Option<Engine>,
    /// What a new environment starts with, in the platform's folder: an SQL dump (plain, or packed by gzip, xz or zstd), a
    /// folder of files, or a script. It is loaded once, when the platform is built.
    pub seed: Option<At<String>>,
    /// The database; the platform's name where none is given.
    pub database: Option<At<String>>,
    /// The database's user, who gets a password of each environment's own: `secret('<name of this data set>')`. The platform's
    /// name where none is given. With `files`, the user of the machine who owns them.
    pub user: Option<At<String>>,
    /// With `files`: the folder inside the machine, e.g. `/srv/media`.
    pub target: Option<At<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Mariadb,
    Mysql,
    Postgresql,
    Files,
    Script,
}

/// A place besides the developer's own host where an environment of this platform may live: `env:promote 1161 production` brings a
/// ticket's environment there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its servers, as `ssh` reaches them: `"root@a.example"`, `"root@a.example:2222"`, `"root@[2001:db8::1]"`; or by a user who
    /// may use sudo there without a password, as `"debian@a.example"`. Your own `ssh` goes there, with its settings, keys and
    /// agent. The first one faces the world, and runs every machine of which `[targets.….machines]` says nothing else.
    pub servers: Vec<At<String>>,
    /// The fingerprint of the only server's host key, as `ssh-keygen -lf` shows it: `"SHA256:…"`. A server that shows another key
    /// is refused. Without it, your own `known_hosts` must know the key.
    pub host_key: Option<At<String>>,
    /// The same for each of several servers: `"a.example" = "SHA256:…"`.
    #[serde(default)]
    pub host_keys: BTreeMap<At<String>, At<String>>,
    /// What is otherwise there than on a developer's host, for each role.
    #[serde(default)]
    pub machines: BTreeMap<At<String>, TargetMachine>,
    /// The networks, or single addresses, from which its administrators come: nobody else reaches the server's ssh then, and
    /// nothing but its sites' ports is open to the world. Without it, its firewall stays as it is.
    #[serde(default)]
    pub admin: Vec<At<String>>,
    /// The domain below which the world reaches the sites there: with `"shop.example"`, the site `www` answers at
    /// `www.shop.example`. Its records lead to the server; `target:check` says which are missing.
    pub domain: Option<At<String>>,
    /// The exact names of a site, in the place of its name below `domain`: `www = ["shop.example", "www.shop.example"]`; with
    /// `[]`, it has none. Sites without any are reached on the server only.
    #[serde(default)]
    pub names: BTreeMap<At<String>, Vec<At<String>>>,
    /// Whom an authority on the internet writes to when it has something to say about the names' certificates, which adt then
    /// asks it for and renews. Without it, adt's own authority on the server signs them, whom browsers don't know.
    pub email: Option<At<String>>,
    /// The address of that authority's ACME directory, of https. Without it, Let's Encrypt's.
    pub acme: Option<At<String>>,
    /// Certificates of a private authority, in PEM, where `acme` names one that nobody else knows.
    pub acme_ca: Option<At<String>>,
    /// For so many seconds browsers shall ask for nothing but https at these names (HSTS): they refuse everything else for
    /// that time, whatever happens to the server. Begin with `300`.
    #[schemars(range(min = 1, max = 63_072_000))]
    pub hsts: Option<At<u32>>,
    /// The name server that takes the records of its names: `env:promote` then enters them, by RFC 2136, and proves that the zone's
    /// servers answer with them. Without it you enter them, and `env:promote` and `target:check` print those that are missing.
    pub records: Option<Records>,
    /// The networks, or single addresses, whose clients get nothing but 403 at these names: `["203.0.113.0/24"]`.
    #[serde(default)]
    pub deny: Vec<At<String>>,
    /// The addresses of load balancers in front that begin each connection with a header of the PROXY protocol, version 1 or
    /// 2: `["10.0.0.5"]`. A connection of theirs without it is closed; the client that it names counts in logs, in
    /// `X-Forwarded-For`, for `deny` and for every limit. Nobody else's header is believed.
    #[serde(default)]
    pub proxy_protocol: Vec<At<String>>,
    /// Who may see a site, each with the bcrypt hash of a password, as `htpasswd -nB -C 12 ada` prints both:
    /// `www = ["ada:$2y$12$…"]`. The site then asks for name and password. Without any, it is everybody's.
    #[serde(default)]
    pub users: BTreeMap<At<String>, Vec<At<String>>>,
    /// What one client, which is one address of IPv4 or one /64 of IPv6, may have of the sites there.
    pub limits: Option<ClientLimits>,
}

/// A zone, and the key by which adt may change it. Names of the target that are not in the zone are left to you.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// The name server that takes changes of the zone: `"ns1.shop.example"`, `"203.0.113.53:5353"`, `"[2001:db8::53]:53"`.
    pub server: At<String>,
    /// The zone: `"shop.example"`.
    pub zone: At<String>,
    /// The TSIG key that the server knows, in a file as `tsig-keygen` writes it, that only its owner and group may read: absolute,
    /// or below the platform's folder, but then nothing that you commit. It is read on your computer and goes nowhere.
    pub key_file: At<String>,
    /// For how many seconds an answer may be kept; 300 without it. For a move it is 60 for a while.
    #[schemars(range(min = 30, max = 604_800))]
    pub ttl: Option<At<u32>>,
}

/// What one client may have of a target's sites. Without these, it has what others leave it, half of all at most.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientLimits {
    /// So many requests a second for long, and ten times as many in one go. What is more gets 429.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: Option<At<u32>>,
    /// So many requests that are not over, WebSockets among them. What is more gets 429.
    #[schemars(range(min = 1, max = 16_384))]
    pub at_once: Option<At<u32>>,
}

/// A role on a target.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetMachine {
    /// The servers that its machines stand on, one after the other and from the first again: `["b.example", "c.example"]`, each
    /// as `servers` names it behind the `@`.
    #[serde(default)]
    pub on: Vec<At<String>>,
    /// How many of them there are, where the role has a `count`.
    #[schemars(range(min = 1, max = 61))]
    pub count: Option<At<u32>>,
    /// Memory of each of them: `"2G"`, or `"unlimited"`.
    pub memory: Option<At<String>>,
    /// Shares of a processor that each may use: `1.5`.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 4096))]
    pub cpus: Option<f64>,
    /// How many processes each may have.
    #[schemars(range(min = 16, max = 4194304))]
    pub processes: Option<u32>,
}
