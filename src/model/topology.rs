//! A platform as it was meant: machines, sites, and what each needs. The settled form of `platform.toml`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::Place;
use super::limits::Limits;
use super::names::{BoxName, Domain, MachineName, PlatformName, ProviderName, RoleName, SiteName};
use super::route::Protocol;
use super::snapshot::Keep;
use super::target::Target;

/// Where a machine that is a host itself has its machines and their layers: a plain folder, since no overlay stands on another.
pub const HOST_FOLDER: &str = "/var/lib/adt";

/// A platform after every check of its file: names are unique, roles and sites that it mentions exist, `after` and `needs` have no cycle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    pub name: PlatformName,
    pub summary: String,
    /// Overrides the host's domain.
    pub domain: Option<Domain>,
    /// Roles in the order in which the file names them.
    pub machines: Vec<Machine>,
    pub sites: Vec<Site>,
    /// What seeds, snapshots, forks and backups mean by "the data".
    #[serde(default)]
    pub data: Vec<DataSet>,
    /// Where this platform may live besides the developer's own host.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Which automatic snapshots of its environments are taken and kept.
    #[serde(default)]
    pub snapshots: Keep,
    /// The folder that holds `platform.toml`.
    pub folder: PathBuf,
}

/// A role and how many machines play it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub role: RoleName,
    pub summary: String,
    pub boxed: BoxRef,
    /// `None` is a single machine without an index in its name.
    pub count: Option<u32>,
    pub limits: Limits,
    /// Roles that must answer before these start.
    pub after: Vec<RoleName>,
    /// Absolute folders inside the machine that survive when its box changes.
    pub data: Vec<String>,
    /// Scripts of the platform run once on top of the box; their result is the platform's golden layer.
    pub provision: Vec<PathBuf>,
    /// Log files inside the machine besides its journal: absolute paths, `*` and `?` stand for any characters of a name.
    #[serde(default)]
    pub logs: Vec<String>,
    /// What these machines run on; `None` leaves it to whoever makes the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderRef>,
    /// Whether its machines are hosts themselves, in which adt runs machines of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
}

impl Machine {
    /// The names of its machines, in order.
    pub fn names(&self) -> Vec<MachineName> {
        let indexes = match self.count {
            None => vec![None],
            Some(count) => (1..=count).map(Some).collect(),
        };
        indexes
            .into_iter()
            .map(|index| self.role.machine(index).expect("configuration refuses roles whose indexed names are too long"))
            .collect()
    }
}

/// Which recipe a machine or another recipe builds on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BoxRef {
    pub name: BoxName,
    /// Where it was written, for the message that no such box exists. Two references to one box are equal wherever they stand,
    /// and a stored platform keeps no place, because the file may have changed since.
    #[serde(skip)]
    pub place: Option<Place>,
}

impl BoxRef {
    pub fn new(name: BoxName) -> Self {
        Self { name, place: None }
    }
}

impl PartialEq for BoxRef {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for BoxRef {}

impl PartialOrd for BoxRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BoxRef {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

/// Which provider a role's machines want. Like a [`BoxRef`], it is equal to another of its name, and stored without its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderRef {
    pub name: ProviderName,
    #[serde(skip)]
    pub place: Option<Place>,
}

impl PartialEq for ProviderRef {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ProviderRef {}

/// An application reachable as `<site>.<environment>.<platform>.<domain>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    pub name: SiteName,
    pub on: RoleName,
    pub port: u16,
    /// Path that answers 200–399 when the site works.
    pub health: String,
    /// Production's names for it, valid inside the environment.
    pub aliases: Vec<String>,
    /// Other sites that this one calls.
    #[serde(default)]
    pub needs: Vec<SiteName>,
    #[serde(default)]
    pub traffic: Traffic,
    #[serde(default)]
    pub code: Code,
    /// Variables for the site's phases and processes, in the order in which the file names them; the values are templates.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Log files of this site on its machines, written as a machine's.
    #[serde(default)]
    pub logs: Vec<String>,
}

impl Site {
    /// A site with the values that a configuration may leave out.
    pub fn new(name: SiteName, on: RoleName) -> Self {
        Self {
            name,
            on,
            port: 80,
            health: "/".to_owned(),
            aliases: Vec::new(),
            needs: Vec::new(),
            traffic: Traffic::default(),
            code: Code::default(),
            env: Vec::new(),
            logs: Vec::new(),
        }
    }

    /// Where its code is inside its machines.
    pub fn code_path(&self) -> String {
        self.code.path.clone().unwrap_or_else(|| format!("/srv/{}", self.name))
    }
}

/// How the proxy treats a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub protocol: Protocol,
    pub sticky: bool,
    pub https_only: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { protocol: Protocol::Http1, sticky: false, https_only: true }
    }
}

/// Where a site's code comes from and how it gets onto its machines. A site without a source is served by its box as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// A git repository's address.
    pub source: Option<String>,
    /// A template; the branch of this name is tried first.
    pub branch: String,
    /// Used when there is no such branch; `None` is the branch that the repository itself names.
    pub default_branch: Option<String>,
    /// The symlink inside the machine that a release is switched into; in live mode, where the checkout is mounted.
    pub path: Option<String>,
    /// How the code gets onto the machines of a new environment.
    pub mode: Mode,
    /// The user of its machines who owns the code and runs its programs.
    pub user: String,
    /// Where in the repository files that end in `.j2` are rendered; `None` is everywhere.
    #[serde(default)]
    pub templates: Option<Vec<PathBuf>>,
    /// Programs of the repository, relative to its root.
    pub buildpack: Option<PathBuf>,
    pub predeploy: Option<PathBuf>,
    pub postdeploy: Option<PathBuf>,
    /// The same for programs that run once for each deploy, on the first machine: before and after all of them.
    pub before_deploy: Option<PathBuf>,
    pub after_deploy: Option<PathBuf>,
    /// What these programs may reach besides their own machine's site; the buildpack reaches everything.
    #[serde(default)]
    pub network: Vec<Reach>,
    /// The units of its machines that these programs may start, stop and reload; `None` is what the role's box enables.
    #[serde(default)]
    pub units: Option<Vec<String>>,
    /// So many seconds each of these programs may take.
    #[serde(default = "Code::phase_deadline")]
    pub phase_deadline: u32,
    /// How many releases stay on its machines and in the store.
    pub keep: u32,
    pub rollout: Rollout,
}

/// A service of another role, for programs that have no network otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub role: RoleName,
    pub port: u16,
}

/// How a site's code gets onto its machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The checkout in the user's own folder is mounted into every machine.
    #[default]
    Live,
    /// A built tree is unpacked on every machine, as in production.
    Release,
}

/// In what order a release reaches the machines of a site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rollout {
    /// One machine after the other; the rest serve meanwhile.
    #[default]
    Waves,
    Together,
}

impl Code {
    /// Whether a file of the repository is to be rendered.
    pub fn is_template(&self, path: &str) -> bool {
        let is_meant = |all: &Vec<PathBuf>| all.iter().any(|meant| Path::new(path).starts_with(meant));
        path.ends_with(".j2") && self.templates.as_ref().is_none_or(is_meant)
    }

    /// The branch named after the ticket.
    pub const BRANCH: &'static str = "{{ env }}";
    /// Debian's web servers run as this user.
    pub const USER: &'static str = "www-data";
    pub const KEEP: u32 = 3;

    /// A dump that a `predeploy` reads or a build of everything takes minutes; what takes longer than half an hour has hung.
    pub fn phase_deadline() -> u32 {
        30 * 60
    }
}

impl Default for Code {
    fn default() -> Self {
        Self {
            source: None,
            branch: Self::BRANCH.to_owned(),
            default_branch: None,
            path: None,
            mode: Mode::default(),
            user: Self::USER.to_owned(),
            templates: None,
            buildpack: None,
            predeploy: None,
            postdeploy: None,
            before_deploy: None,
            after_deploy: None,
            network: Vec::new(),
            units: None,
            phase_deadline: Self::phase_deadline(),
            keep: Self::KEEP,
            rollout: Rollout::default(),
        }
    }
}

/// A file of the platform's folder that lies over the root of each machine of a role: `files/<role>/etc/motd` is `/etc/motd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFile {
    /// Below the platform's folder.
    pub source: PathBuf,
    /// Below the machine's root, without the `.j2`; a template.
    pub path: String,
    pub executable: bool,
    /// Whether the text is a template.
    pub template: bool,
    pub text: String,
}

/// A named piece of a platform's data, e.g. one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSet {
    pub name: String,
    pub machine: RoleName,
    /// How it is dumped and loaded; `None` copies the machine's data folders.
    pub engine: Option<DataEngine>,
    /// A file or folder of the platform's folder that a new environment starts with.
    pub seed: Option<PathBuf>,
}

/// What a data set is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum DataEngine {
    Sql(Sql),
    /// A folder inside the machine.
    Files {
        target: String,
        /// The user of the machine who owns what is in it; root where none is given.
        user: Option<String>,
    },
    /// A program that makes the data itself.
    Script,
}

/// A database and the user that an environment's sites log in as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sql {
    pub server: Server,
    pub database: String,
    pub user: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    Mariadb,
    Mysql,
    Postgresql,
}

impl Server {
    pub fn word(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
            Self::Postgresql => "postgresql",
        }
    }

    /// Where Debian's packages of it keep what they are trusted with.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Mariadb | Self::Mysql => "/var/lib/mysql",
            Self::Postgresql => "/var/lib/postgresql",
        }
    }
}

impl DataSet {
    pub fn sql(&self) -> Option<&Sql> {
        match &self.engine {
            Some(DataEngine::Sql(sql)) => Some(sql),
            Some(DataEngine::Files { .. } | DataEngine::Script) | None => None,
        }
    }
}

/// How to tell that something answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The port accepts a connection.
    Tcp { port: u16 },
    /// `GET path` answers 200–399.
    Http {
        port: u16,
        path: String,
        /// Name to ask for; the machine's own where none is given.
        host: Option<String>,
    },
    /// The program exits with 0 inside the machine.
    Command { argv: Vec<String> },
    /// The machine's init has finished starting.
    Booted,
}

/// What must hold before a machine counts as up, and for how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub checks: Vec<Check>,
    pub deadline_seconds: u32,
}

impl Platform {
    /// Every machine of an environment with its role.
    pub fn machines_by_name(&self) -> BTreeMap<MachineName, &Machine> {
        self.machines.iter().flat_map(|machine| machine.names().into_iter().map(move |name| (name, machine))).collect()
    }

    pub fn machine(&self, role: &RoleName) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.role == *role)
    }

    /// Whether machines of this role have what a user would miss.
    pub fn holds_data(&self, machine: &Machine) -> bool {
        machine.host || !machine.data.is_empty() || self.data.iter().any(|set| set.machine == machine.role)
    }

    /// The folders of machines of this role that outlive them: those it names, and those that its data sets live in. One
    /// inside another is part of that one. The machines of a host are apart from all else that it has.
    pub fn volumes(&self, machine: &Machine) -> Vec<String> {
        let sets = self.data.iter().filter(|set| set.machine == machine.role).filter_map(|set| match set.engine.as_ref()? {
            DataEngine::Sql(sql) => Some(sql.server.folder().to_owned()),
            DataEngine::Files { target, .. } => Some(target.clone()),
            DataEngine::Script => None,
        });
        let mut paths: Vec<String> = machine.data.iter().cloned().chain(sets).collect();
        paths.iter_mut().for_each(|path| path.truncate(path.trim_end_matches('/').len()));
        paths.sort();
        // Sorted, whatever holds a folder comes before it.
        let mut outermost: Vec<String> = Vec::new();
        for path in paths.into_iter().filter(|path| !(machine.host && Path::new(path).starts_with(HOST_FOLDER))) {
            if !outermost.iter().any(|outer| Path::new(&path).starts_with(outer)) {
                outermost.push(path);
            }
        }
        outermost.extend(machine.host.then(|| HOST_FOLDER.to_owned()));
        outermost
    }

    pub fn domain_or<'a>(&'a self, host: &'a Domain) -> &'a Domain {
        self.domain.as_ref().unwrap_or(host)
    }
}
