//! The command line as one definition: help, man page and shell completions are all made from it.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::examples;
use crate::config::HostFlags;
use crate::model::mishap::Mishap;
use crate::model::{PlatformName, Size};

#[derive(Debug, Parser)]
#[command(
    name = "adt",
    version,
    about = "A private copy of your team's production for every ticket",
    long_about = "adt gives every ticket a whole private copy of a team's production on your own machine: several real \
machines (web servers, database, queue), started in about a second, at names everyone can guess.\n\n\
Begin with:  adt host:bootstrap,  adt platform:init hello,  adt env:init 1161\n\n\
Root gives commands, and members of the group adt, which host:bootstrap makes.",
    after_help = "PLATFORM may be left out inside a platform's folder, with -p or ADT_PLATFORM, or when there is only one.\n\
Doing something twice is fine and says so. Exit codes are in docs/trouble.md.",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Print data only, as JSON: one document for listings and checks, one line per event for verbs
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors and data
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// The platform that is meant where a command leaves it out
    #[arg(short, long, global = true, env = "ADT_PLATFORM", value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Do it on the server of this target, with the environment there, which is then not named
    #[arg(short, long, global = true, value_name = "TARGET")]
    pub target: Option<String>,
    /// File of host settings (variable ADT_CONFIG) [default: /etc/adt/adt.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Host settings")]
    pub config: Option<PathBuf>,
    /// Folder that holds everything adt keeps (ADT_STORE)
    #[arg(long, global = true, value_name = "FOLDER", help_heading = "Host settings")]
    pub store: Option<String>,
    /// Last labels of every name (ADT_DOMAIN)
    #[arg(long, global = true, value_name = "NAME", help_heading = "Host settings")]
    pub domain: Option<String>,
    /// Domains on the internet that platforms may have on this host, separated by commas (ADT_DOMAINS)
    #[arg(long, global = true, value_name = "NAMES", help_heading = "Host settings")]
    pub domains: Option<String>,
    /// Private IPv4 network for environments (ADT_POOL_V4)
    #[arg(long, global = true, value_name = "NETWORK", help_heading = "Host settings")]
    pub pool_v4: Option<String>,
    /// Ids of this host's for running machines (ADT_POOL_IDS)
    #[arg(long, global = true, value_name = "FIRST-LAST", help_heading = "Host settings")]
    pub pool_ids: Option<String>,
    /// Name servers for machines, separated by commas (ADT_NAMESERVERS)
    #[arg(long, global = true, value_name = "ADDRESSES", help_heading = "Host settings")]
    pub nameservers: Option<String>,
    /// More folders of box recipes, separated by colons (ADT_BOXES)
    #[arg(long, global = true, value_name = "FOLDERS", help_heading = "Host settings")]
    pub boxes: Option<String>,
    /// What machines of new environments run on (ADT_PROVIDER)
    #[arg(long, global = true, value_name = "NAME", help_heading = "Host settings")]
    pub provider: Option<String>,
    /// Seconds that a machine may take to shut down (ADT_GRACE_SECONDS)
    #[arg(long, global = true, value_name = "SECONDS", help_heading = "Host settings")]
    pub grace_seconds: Option<String>,
    /// IPv4 address on which names and pages are served (ADT_LISTEN)
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Host settings")]
    pub listen: Option<String>,
    /// Whether names are served over TLS too: true or false (ADT_DNS_OVER_TLS)
    #[arg(long, global = true, value_name = "BOOLEAN", help_heading = "Host settings")]
    pub dns_over_tls: Option<String>,
    /// Whether environments that were up come back when this host starts: true or false (ADT_BRING_BACK)
    #[arg(long, global = true, value_name = "BOOLEAN", help_heading = "Host settings")]
    pub bring_back: Option<String>,
}

impl Global {
    pub fn host_flags(&self) -> HostFlags {
        HostFlags {
            config: self.config.clone(),
            domain: self.domain.clone(),
            domains: self.domains.clone(),
            store: self.store.clone(),
            pool_v4: self.pool_v4.clone(),
            pool_ids: self.pool_ids.clone(),
            nameservers: self.nameservers.clone(),
            boxes: self.boxes.clone(),
            provider: self.provider.clone(),
            grace_seconds: self.grace_seconds.clone(),
            listen: self.listen.clone(),
            dns_over_tls: self.dns_over_tls.clone(),
            bring_back: self.bring_back.clone(),
        }
    }
}

/// `[PLATFORM] ENV`
#[derive(Debug, Args)]
pub struct EnvironmentWords {
    /// The environment, e.g. `1161`, `shop 1161` or `shop/1161`
    #[arg(value_name = "[PLATFORM] ENV", num_args = 0..=2)]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DryRun {
    /// Print what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Yes {
    /// Don't ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct LogWords {
    #[command(flatten)]
    pub words: EnvironmentWords,
    /// Go on with what comes, across restarts of machines, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Only this machine; may be given several times
    #[arg(short, long, value_name = "NAME")]
    pub machine: Vec<String>,
    /// Only the log files of this site on its machines, and the lines of others that name its host
    #[arg(short, long, value_name = "NAME")]
    pub site: Option<String>,
    /// From this time on: `10m`, `2h`, `2024-05-17 09:30`, `09:30`, `2024-05-17T09:30:00Z`
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<String>,
    /// Only what matches this regular expression
    #[arg(short, long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// The last so many [default: all with --since, else 200, or 10 before what --follow brings]
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub lines: Option<usize>,
}

/// A platform and, where not all are meant, some of its environments.
#[derive(Debug, Args)]
pub struct FleetWords {
    /// The platform, then the environments that are meant [default: all of it]
    #[arg(value_name = "[PLATFORM] [ENV]...")]
    pub words: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// platform.toml
    Platform,
    /// adt.toml
    Host,
    /// box.toml
    Box,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Install what machines need of this host
    #[command(name = "host:bootstrap", after_help = examples::HOST_BOOTSTRAP)]
    HostBootstrap {
        #[command(flatten)]
        dry_run: DryRun,
        /// Take adt's files out of the system's configuration again
        #[arg(long)]
        remove: bool,
        /// With --remove: halt environments and keep them, boxes, a pool and the group for whoever sets adt up here again
        #[arg(long, requires = "remove", conflicts_with = "remove_pool")]
        keep_data: bool,
        /// Without downloads: say what must be installed, and set up the rest
        #[arg(long, conflicts_with = "remove")]
        no_packages: bool,
        /// Without the services that serve names and pages and answer the group's members from the host's start on
        #[arg(long)]
        no_service: bool,
        /// Move the store into a file of its own, at most this large, in which first writes to large files copy nothing
        #[arg(long, value_name = "SIZE", value_parser = pool_size, conflicts_with = "remove")]
        pool: Option<u64>,
        /// With --remove: also a pool that still holds boxes and platforms
        #[arg(long, requires = "remove")]
        remove_pool: bool,
    },
    /// Show the settings, where each came from, and whether this host can run machines
    #[command(name = "host:check", after_help = examples::HOST_CHECK)]
    HostCheck,

    /// Serve names and pages of all environments until stopped
    #[command(name = "host:up", after_help = examples::HOST_UP)]
    HostUp {
        /// Return once it serves, and let it run on
        #[arg(long)]
        detach: bool,
        /// Leave sending logs, and the commands of the group's members, to processes of their own, as the service does
        #[arg(long, hide = true, alias = "no-logs")]
        names_only: bool,
    },
    /// Stop serving names and pages; requests that run are finished first
    #[command(name = "host:halt", after_help = examples::HOST_HALT)]
    HostHalt,
    /// Lead this host's programs to adt's names and certificates, or let other servers serve them
    #[command(name = "host:bind-proxy", after_help = examples::HOST_BIND_PROXY)]
    HostBindProxy {
        #[command(flatten)]
        words: EnvironmentWords,
        /// Servers whose configuration is written instead: apache, nginx, bind, dnsmasq
        #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
        with: Vec<String>,
        /// Write the files into this folder, to look at; nothing else is touched
        #[arg(long, value_name = "FOLDER", requires = "with")]
        output: Option<PathBuf>,
    },
    /// Undo `host:bind-proxy`, for one environment or altogether
    #[command(name = "host:unbind-proxy", after_help = examples::HOST_UNBIND_PROXY)]
    HostUnbindProxy {
        #[command(flatten)]
        words: EnvironmentWords,
    },

    /// Add a platform: from a git address, a folder, or a shipped example (hello, wordpress)
    #[command(name = "platform:init", after_help = examples::PLATFORM_INIT)]
    PlatformInit {
        /// Git address, folder, or name of an example
        source: String,
        /// Folder for it [default: its name, here]
        folder: Option<PathBuf>,
        /// Branch or tag of the git repository
        #[arg(short, long)]
        branch: Option<String>,
    },
    /// List the platforms that this host knows
    #[command(name = "platform:list", after_help = examples::PLATFORM_LIST)]
    PlatformList,
    /// Fetch a platform's newest definition with git
    #[command(name = "platform:pull", after_help = examples::PLATFORM_PULL)]
    PlatformPull {
        #[arg(value_name = "PLATFORM")]
        of: Option<String>,
    },
    /// Build every box of a platform
    #[command(name = "platform:build", after_help = examples::PLATFORM_BUILD)]
    PlatformBuild {
        #[arg(value_name = "PLATFORM")]
        of: Option<String>,
        /// Build boxes that have not changed, too
        #[arg(long)]
        force: bool,
    },
    /// Start what was up, or the named environments
    #[command(name = "platform:up", after_help = examples::PLATFORM_UP)]
    PlatformUp {
        #[command(flatten)]
        words: FleetWords,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Stop environments; `platform:up` brings back exactly those that were up
    #[command(name = "platform:halt", after_help = examples::PLATFORM_HALT)]
    PlatformHalt {
        #[command(flatten)]
        words: FleetWords,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Destroy environments, or all of them and the platform's entry with them
    #[command(name = "platform:destroy", after_help = examples::PLATFORM_DESTROY)]
    PlatformDestroy {
        #[command(flatten)]
        words: FleetWords,
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },
    /// Probe a platform's definition, boxes and environments
    #[command(name = "platform:check", after_help = examples::PLATFORM_CHECK)]
    PlatformCheck {
        #[command(flatten)]
        words: FleetWords,
    },

    /// Create an environment and start it
    #[command(name = "env:init", after_help = examples::ENV_INIT)]
    EnvInit {
        /// The environment, then perhaps sites: SITE:BRANCH chooses a branch, SITE alone means only these and what they need
        #[arg(value_name = "[PLATFORM] ENV [SITE[:BRANCH]]...")]
        words: Vec<String>,
        /// Put all of its machines on this provider, whatever `platform.toml` says
        #[arg(long, value_name = "PROVIDER")]
        on: Option<String>,
        /// Let everybody in the group adt do with it what you may
        #[arg(long)]
        shared: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Let everybody in the group adt do with an environment what its owner may
    #[command(name = "env:share", after_help = examples::ENV_SHARE)]
    EnvShare {
        #[command(flatten)]
        words: EnvironmentWords,
        /// Keep it to its owner again
        #[arg(long)]
        off: bool,
    },
    /// Start an environment, repairing what an interrupted command left
    #[command(name = "env:up", after_help = examples::ENV_UP)]
    EnvUp {
        #[command(flatten)]
        words: EnvironmentWords,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Stop an environment; its files stay
    #[command(name = "env:halt", after_help = examples::ENV_HALT)]
    EnvHalt {
        #[command(flatten)]
        words: EnvironmentWords,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Remove an environment and everything it had
    #[command(name = "env:destroy", after_help = examples::ENV_DESTROY)]
    EnvDestroy {
        #[command(flatten)]
        words: EnvironmentWords,
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },
    /// Take over what changed in the platform, restarting only what changed
    #[command(name = "env:reload", after_help = examples::ENV_RELOAD)]
    EnvReload {
        #[command(flatten)]
        words: EnvironmentWords,
        /// Bring its data back to the seed: machines that hold data are made anew, after a question
        #[arg(long)]
        data: bool,
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },
    /// Keep an environment as it is at this moment: data, machines' files, releases and branches
    #[command(name = "env:snapshot", after_help = examples::ENV_SNAPSHOT)]
    EnvSnapshot {
        /// The environment, and perhaps a name for the snapshot; without one it is named after the time
        #[arg(value_name = "[PLATFORM] ENV [NAME]", num_args = 0..=3)]
        words: Vec<String>,
    },
    /// List an environment's snapshots with age, reason and the space that each alone takes
    #[command(name = "env:snapshots", after_help = examples::ENV_SNAPSHOTS)]
    EnvSnapshots {
        #[command(flatten)]
        words: EnvironmentWords,
        /// Remove this one instead, after a question
        #[arg(long, value_name = "NAME")]
        remove: Option<String>,
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },
    /// Bring an environment back to a snapshot, the newest where none is named, after a question
    #[command(name = "env:rewind", after_help = examples::ENV_REWIND)]
    EnvRewind {
        /// The environment, and perhaps the snapshot's name
        #[arg(value_name = "[PLATFORM] ENV [NAME]", num_args = 0..=3)]
        words: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },
    /// Probe an environment: network, machines, services, sites
    #[command(name = "env:check", after_help = examples::ENV_CHECK)]
    EnvCheck {
        #[command(flatten)]
        words: EnvironmentWords,
    },
    /// List environments with state, machines, sites, age, owner and disk
    #[command(name = "env:list", after_help = examples::ENV_LIST)]
    EnvList {
        #[arg(value_name = "PLATFORM")]
        of: Option<String>,
    },
    /// Show one environment in full
    #[command(name = "env:show", after_help = examples::ENV_SHOW)]
    EnvShow {
        #[command(flatten)]
        words: EnvironmentWords,
        /// Print what templates know of it, as JSON; secrets are masked
        #[arg(long)]
        facts: bool,
    },
    /// Print the addresses of an environment's pages, or try each the way a browser would
    #[command(name = "env:urls", after_help = examples::ENV_URLS)]
    EnvUrls {
        #[command(flatten)]
        words: EnvironmentWords,
        /// Try each: name, address, certificate, page
        #[arg(long)]
        check: bool,
    },
    /// Open a shell in a machine, or run a command there
    #[command(name = "env:ssh", after_help = examples::ENV_SSH)]
    EnvSsh {
        /// The environment and the machine, e.g. `1161 web1` or `shop 1161 web1`
        #[arg(value_name = "[PLATFORM] ENV [MACHINE]", num_args = 0..=3)]
        words: Vec<String>,
        /// Log in as this user of the machine
        #[arg(short, long, default_value = "root")]
        user: String,
        /// Join the machine's own console instead (leave with Ctrl-] twice)
        #[arg(long, conflicts_with = "command")]
        console: bool,
        /// A command instead of a shell
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Run a command on every machine of an environment, or on the named ones
    #[command(name = "env:exec", after_help = examples::ENV_EXEC)]
    EnvExec {
        /// The environment and perhaps machines, e.g. `1161` or `shop 1161 web1 web2`
        #[arg(value_name = "[PLATFORM] ENV [MACHINE]...")]
        words: Vec<String>,
        /// Run as this user of the machine
        #[arg(short, long, default_value = "root")]
        user: String,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Show what the machines of an environment say: their journals and log files, merged by time
    #[command(name = "env:logs", after_help = examples::ENV_LOGS)]
    EnvLogs(LogWords),
    /// Copy files to or from a machine; a path there is written MACHINE:PATH
    #[command(name = "env:cp", after_help = examples::ENV_CP)]
    EnvCp {
        /// The environment, then source and target, e.g. `1161 dump.sql db:/tmp/`
        #[arg(value_name = "[PLATFORM] ENV SOURCE TARGET", num_args = 2..=4)]
        words: Vec<String>,
    },

    /// Build a release of a site once and put it on all its machines, or on none
    #[command(name = "site:deploy", after_help = examples::SITE_DEPLOY)]
    SiteDeploy {
        /// The environment and the site, e.g. `1161 www`
        #[arg(value_name = "[PLATFORM] [ENV] SITE", required = true, num_args = 1..=3)]
        words: Vec<String>,
        /// Deploy the newest commit of this branch, now and from now on
        #[arg(short, long, conflicts_with = "commit")]
        branch: Option<String>,
        /// Deploy this commit
        #[arg(short, long)]
        commit: Option<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Switch a site back to the release before, or to another that is kept
    #[command(name = "site:rollback", after_help = examples::SITE_ROLLBACK)]
    SiteRollback {
        /// The environment and the site, e.g. `1161 www`
        #[arg(value_name = "[PLATFORM] [ENV] SITE", required = true, num_args = 1..=3)]
        words: Vec<String>,
        /// The beginning of the release's name
        #[arg(long, value_name = "RELEASE")]
        to: Option<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Add one of the platform's sites, and what it needs, to an environment
    #[command(name = "site:add", after_help = examples::SITE_ADD)]
    SiteAdd {
        /// The environment and the site, e.g. `1161 www` or `shop 1161 www:hotfix`
        #[arg(value_name = "[PLATFORM] [ENV] SITE[:BRANCH]", required = true, num_args = 1..=3)]
        words: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Take a site out of an environment; a checkout that holds work is kept
    #[command(name = "site:remove", after_help = examples::SITE_REMOVE)]
    SiteRemove {
        /// The environment and the site, e.g. `1161 www`
        #[arg(value_name = "[PLATFORM] [ENV] SITE", required = true, num_args = 1..=3)]
        words: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Bring a site's checkout to another branch
    #[command(name = "site:branch", after_help = examples::SITE_BRANCH)]
    SiteBranch {
        /// The environment, the site and the branch, e.g. `1161 www hotfix`
        #[arg(value_name = "[PLATFORM] [ENV] SITE BRANCH", required = true, num_args = 2..=4)]
        words: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// List an environment's sites: branch, commit, and what was changed since
    #[command(name = "site:list", after_help = examples::SITE_LIST)]
    SiteList {
        #[command(flatten)]
        words: EnvironmentWords,
    },
    /// Send what machines say until stopped; what the service of the logs runs
    #[command(name = "internal:logs", hide = true)]
    InternalLogs,
    /// Halt environments before this host goes down, or bring them back; what their service runs
    #[command(name = "internal:environments", hide = true)]
    InternalEnvironments { moment: Moment },
    /// Answer commands of the group's members until stopped; what the service of the commands runs
    #[command(name = "internal:commands", hide = true)]
    InternalCommands,
    /// Work for whoever is at standard input and output
    #[command(name = "internal:session", hide = true)]
    InternalSession,
    /// The same for a target's operator, whose `ssh` runs this as root
    #[command(name = "internal:server", hide = true)]
    InternalServer,
    /// Undo a change of who may reach this server, or put in force what was kept; what its units run
    #[command(name = "internal:access", hide = true)]
    InternalAccess {
        moment: AccessMoment,
        /// Of the change that is undone
        #[arg(default_value_t = 0)]
        number: u64,
    },
    /// Tell `ssh` whether a server's host key is the one that is meant
    #[command(name = "internal:host-key", hide = true)]
    InternalHostKey { wanted: String, why: String, fingerprint: String, host: String, kind: String, key: String },
    /// Measure what environments take of the disk; what `env:list` leaves to be done behind it
    #[command(name = "internal:sizes", hide = true)]
    InternalSizes,
    /// What `env:init` and `platform:build` leave to be done behind them: mirrors and spare checkouts
    #[command(name = "internal:sources", hide = true)]
    InternalSources {
        /// Its next environment is prepared for even where it has none yet
        #[arg(value_name = "PLATFORM")]
        of: Option<PlatformName>,
    },

    /// List the boxes that can be built
    #[command(name = "box:list", after_help = examples::BOX_LIST)]
    BoxList {
        #[arg(value_name = "PLATFORM")]
        of: Option<String>,
    },
    /// Build boxes; without names all that this host knows
    #[command(name = "box:build", after_help = examples::BOX_BUILD)]
    BoxBuild {
        #[arg(value_name = "BOX")]
        names: Vec<String>,
        /// Build even what has not changed
        #[arg(long)]
        force: bool,
    },
    /// Show a box's recipe, layers and users
    #[command(name = "box:show", after_help = examples::BOX_SHOW)]
    BoxShow { name: String },
    /// Write boxes, with all layers that they stand on, into one file for another host's store
    #[command(name = "box:export", after_help = examples::BOX_EXPORT)]
    BoxExport {
        /// The boxes [default: all that the platform needs]
        #[arg(value_name = "BOX")]
        names: Vec<String>,
        /// The file, or `-` for standard output [default: the first box, or the platform, with `.layers`]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Layers that who receives it has already, by the digest or content that `box:show --json` tells; may be given several times
        #[arg(long, value_name = "DIGEST", value_delimiter = ',')]
        without: Vec<String>,
    },
    /// Take layers from a file of `box:export` into the store; what platforms build of them is built then
    #[command(name = "box:import", after_help = examples::BOX_IMPORT)]
    BoxImport {
        /// The file, or `-` for standard input
        file: PathBuf,
    },
    /// Remove layers that nothing uses, and what interrupted builds left
    #[command(name = "box:prune", after_help = examples::BOX_PRUNE)]
    BoxPrune {
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },

    /// List the targets of platforms: where environments may live besides this host
    #[command(name = "target:list", after_help = examples::TARGET_LIST)]
    TargetList {
        #[arg(value_name = "PLATFORM")]
        of: Option<String>,
    },
    /// Ask a target's servers whether they are as the last promotion left them
    #[command(name = "target:check", after_help = examples::TARGET_CHECK)]
    TargetCheck {
        /// The target, e.g. `production` or `shop production`
        #[arg(value_name = "[PLATFORM] TARGET", required = true, num_args = 1..=2)]
        words: Vec<String>,
    },
    /// Tell what was promoted to a target, when, by whom, and how it ended
    #[command(name = "target:history", after_help = examples::TARGET_HISTORY)]
    TargetHistory {
        /// The target, e.g. `production` or `shop production`
        #[arg(value_name = "[PLATFORM] TARGET", required = true, num_args = 1..=2)]
        words: Vec<String>,
    },
    /// Tell who may reach the ssh of a target's servers, and who changed that
    #[command(name = "target:access", after_help = examples::TARGET_ACCESS)]
    TargetAccess {
        /// The target, e.g. `production` or `shop production`
        #[arg(value_name = "[PLATFORM] TARGET", required = true, num_args = 1..=2)]
        words: Vec<String>,
    },
    /// Let an address or a network reach the ssh of a target's servers for a while
    #[command(name = "target:grant", after_help = examples::TARGET_GRANT)]
    TargetGrant {
        /// The target, then an address or network, e.g. `production 203.0.113.7`
        #[arg(value_name = "[PLATFORM] TARGET NETWORK", required = true, num_args = 2..=3)]
        words: Vec<String>,
        /// How long, e.g. `8h`, `30m` or `2d`, at most 30 days
        #[arg(long = "for", value_name = "TIME", default_value = "8h")]
        time: String,
    },
    /// End what `target:grant` gave
    #[command(name = "target:revoke", after_help = examples::TARGET_REVOKE)]
    TargetRevoke {
        /// The target, then the address or network, e.g. `production 203.0.113.7`
        #[arg(value_name = "[PLATFORM] TARGET NETWORK", required = true, num_args = 2..=3)]
        words: Vec<String>,
    },
    /// Promote an environment to servers that are made here for it, and take them away again
    #[command(name = "target:rehearse", after_help = examples::TARGET_REHEARSE)]
    TargetRehearse {
        /// The target, e.g. `production` or `shop production`; the platform need not have it yet
        #[arg(value_name = "[PLATFORM] TARGET", required = true, num_args = 1..=2)]
        words: Vec<String>,
        /// The environment that is promoted
        #[arg(long, value_name = "ENV")]
        from: String,
        /// Leave the servers there, for a look and for the next rehearsal
        #[arg(long)]
        keep: bool,
        /// Break the promotion at each of its steps, and show that the same command goes on: all kinds, or these
        #[arg(long, value_name = "KIND", num_args = 0.., require_equals = true, value_delimiter = ',')]
        #[arg(value_parser = mishaps(), default_missing_value = "connection,server,disk")]
        faults: Vec<Mishap>,
    },
    /// Show what a promotion would do, and save that for `target:apply`
    #[command(name = "target:plan", after_help = examples::TARGET_PLAN)]
    TargetPlan {
        /// The environment and the target, e.g. `1161 production` or `shop 1161 production`
        #[arg(value_name = "[PLATFORM] ENV TARGET", required = true, num_args = 2..=3)]
        words: Vec<String>,
        /// Save the plan in this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Do what `target:plan` saved, unless the ticket, the target or its server changed since
    #[command(name = "target:apply", after_help = examples::TARGET_APPLY)]
    TargetApply { file: PathBuf },
    /// Bring an environment to a target's server, with its very layers, and prove that it is the same
    #[command(name = "env:promote", after_help = examples::ENV_PROMOTE)]
    EnvPromote {
        /// The environment and the target, e.g. `1161 production` or `shop 1161 production`
        #[arg(value_name = "[PLATFORM] ENV TARGET", required = true, num_args = 2..=3)]
        words: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Bring a target back to what was there before its last promotion
    #[command(name = "env:rollback", after_help = examples::ENV_ROLLBACK)]
    EnvRollback {
        /// The target, e.g. `production` or `shop production`
        #[arg(value_name = "[PLATFORM] TARGET", required = true, num_args = 1..=2)]
        words: Vec<String>,
        /// Back to this definition, by the letters that `target:history` shows
        #[arg(long, value_name = "DEFINITION", conflicts_with = "data")]
        to: Option<String>,
        /// With the data of then: volumes go back to the snapshot before the last promotion
        #[arg(long)]
        data: bool,
        #[command(flatten)]
        dry_run: DryRun,
        #[command(flatten)]
        yes: Yes,
    },

    /// Print the JSON Schema of a configuration file, for editors
    #[command(after_help = examples::SCHEMA)]
    Schema { document: Document },
    /// Print completions for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions { shell: clap_complete::Shell },
    /// Print the man page of adt or of a command
    #[command(after_help = examples::MAN)]
    Man {
        /// The command, e.g. `env:init`
        #[arg(value_name = "COMMAND", conflicts_with = "output")]
        of: Option<String>,
        /// Write the pages of adt and of all commands into this folder instead
        #[arg(short, long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
}

/// When the host starts, when it goes down, and when what ties it to other servers has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Moment {
    Up,
    Halt,
    Tie,
}

/// When the host starts, and when nobody has kept a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessMoment {
    Boot,
    Undo,
}

/// What can be broken on purpose, by its word.
fn mishaps() -> impl TypedValueParser<Value = Mishap> {
    let read = |word: String| Mishap::ALL.into_iter().find(|each| each.word() == word).ok_or("it is none of these");
    PossibleValuesParser::new(Mishap::ALL.map(Mishap::word)).try_map(read)
}

/// `50G`, in bytes.
fn pool_size(word: &str) -> Result<u64, String> {
    let size = Size::parse(&word.to_uppercase()).ok_or("write a whole number and its unit, e.g. `50G`")?;
    (Size(1 << 30)..=Size(1 << 50)).contains(&size).then_some(size.0).ok_or("choose a size from 1G to 1024T".into())
}
