//! `host:up`: one process that serves names and pages of all environments.
//!
//! It owns no state: what it serves is computed from the store, when it starts and whenever the store changes. So it may start
//! before or after environments, may be killed at any instant, and its successor loses nothing.
//!
//! ```text
//! store ─ changed? (inotify) ─> Routes ─> dns    listen:53, and each environment's gateway for its machines
//!                                      ├> tls    a certificate per name, made when it is asked for
//!                                      └> proxy  listen:80 and listen:443
//! machines ─ journals, log files ─> ship ─> the receivers of logs that the settings name
//! ```

mod ship;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::config::HostSettings;
use crate::engine::routes::routes;
use crate::exec;
use crate::model::{Failure, Kind, Routes};
use crate::resolver::holder::who_listens;
use crate::store::{Holder, Store, lock};
use crate::{dns, proxy, tls};

/// The lock that says whether a daemon of this store runs, and which process it is.
const LOCK: &str = "host";
/// Requests that run when a stop begins may take this long.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a daemon may take to serve, and to end after it drained.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `host:up` serves, once it does.
pub struct Running {
    routes: Routes,
    certificates: Arc<tls::Certificates>,
    proxy: proxy::Server,
    dns: dns::Server,
    runtime: tokio::runtime::Runtime,
    /// Of the zones; grows with each change.
    serial: u32,
}

impl Running {
    /// Binds everything before anything is served.
    pub fn start(settings: &HostSettings, store: &Store, upstreams: &[IpAddr]) -> Result<Self, Failure> {
        let routes = routes(store, &settings.domain.value)?;
        let certificates = tls::Certificates::open(&store.folder, &routes, tls::system_clock());
        let certificates =
            Arc::new(certificates.map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))?);
        let listen = settings.listen.value;
        let at = |port| vec![SocketAddr::from((listen, port))];
        let config = proxy::Config { http: at(80), https: at(443), ..proxy::Config::default() };
        let proxy = proxy::Server::start(config, routes.clone(), certificates.clone()).map_err(taken_by_proxy)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Kind::Host, "start the name server").because(&error))?;
        let serial = now();
        let config = dns::Config {
            listen: at(53),
            gateway_port: 53,
            proxy_v4: listen,
            proxy_v6: None,
            upstreams: upstreams.iter().map(|address| SocketAddr::from((*address, 53))).collect(),
            serial,
        };
        let entered = runtime.enter();
        let dns = dns::Server::start(config, &routes).map_err(|error| taken(error.address(), &error))?;
        drop(entered);
        Ok(Self { routes, certificates, proxy, dns, runtime, serial })
    }

    /// Takes over what the store says now. A request that runs keeps the routes it began with.
    fn follow(&mut self, settings: &HostSettings, store: &Store) -> Result<(), Failure> {
        let routes = routes(store, &settings.domain.value)?;
        if routes == self.routes {
            return Ok(());
        }
        self.certificates.update(&routes).map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))?;
        self.proxy.update(routes.clone());
        self.serial = now().max(self.serial + 1);
        let entered = self.runtime.enter();
        for error in self.dns.update(&routes, self.serial) {
            tracing::debug!(%error, "a gateway is not there yet");
        }
        drop(entered);
        self.routes = routes;
        Ok(())
    }

    fn stop(self) {
        self.runtime.block_on(self.dns.stop());
        if !self.proxy.stop(DRAIN) {
            tracing::warn!("requests were cut off after {} s", DRAIN.as_secs());
        }
    }
}

/// Serves until `cancel`. `ready` is called once everything listens.
pub fn serve(
    settings: &HostSettings,
    store: &Store,
    holder: &Holder,
    upstreams: &[IpAddr],
    cancel: &AtomicBool,
    ready: impl FnOnce(),
) -> Result<(), Failure> {
    let _lock = match store.lock(LOCK, holder).attempt()? {
        Ok(lock) => lock,
        Err(other) => return Err(running_already(other)),
    };
    let watch = watch::Watch::new(&store.folder).map_err(|error| Failure::new(Kind::Host, "watch the store").because(&error))?;
    let mut running = Running::start(settings, store, upstreams)?;
    let shipper = ship::Shipper::start(settings, store)?;
    ready();
    while watch.changed(cancel) {
        // A store that can't be read right now (a full disk, say) must not end what is served; the next change tries again.
        if let Err(failure) = running.follow(settings, store) {
            tracing::error!(%failure, "the routes stay as they were");
        }
    }
    shipper.stop();
    running.stop();
    Ok(())
}

fn running_already(other: Option<Holder>) -> Failure {
    let failure = Failure::new(Kind::Conflict, "serve names and pages").hint("stop that one with `adt host:halt`");
    match other {
        Some(other) => failure.cause(format!("process {} does it already", other.pid)),
        None => failure.cause("another process does it already"),
    }
}

/// The process that serves this store's names and pages.
pub fn holder(store: &Store) -> Option<Holder> {
    lock::held::<Holder>(&lock_path(store)).flatten()
}

fn lock_path(store: &Store) -> std::path::PathBuf {
    store.folder.join("locks").join(format!("{LOCK}.lock"))
}

/// Starts the daemon as a process of its own and returns when it serves. False when one did already.
pub fn detach(settings: &HostSettings, store: &Store, command: &exec::Command) -> Result<bool, Failure> {
    if holder(store).is_some() {
        return Ok(false);
    }
    let log = store.folder.join("daemon.log");
    let mut child = command.detach(&log)?;
    let until = Instant::now() + PATIENCE;
    let listens = || {
        let address = SocketAddr::from((settings.listen.value, 443));
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    };
    while holder(store).is_none_or(|holder| holder.pid != child.id()) || !listens() {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > until {
            return Err(Failure::new(Kind::Host, "serve names and pages")
                .cause(if ended.is_some() { "the process ended at once" } else { "it does not serve in time" })
                .tail(last_lines(&log)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

fn last_lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(10)..].to_vec()
}

/// Asks the daemon to drain and end, and waits for it. False when none runs.
pub fn halt(store: &Store) -> Result<bool, Failure> {
    let Some(holder) = holder(store) else { return Ok(false) };
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new(Kind::Store, "stop the daemon").cause("its lock names no process"))?;
    kill_process(pid, Signal::TERM).map_err(|error| Failure::new(Kind::Host, "stop the daemon").because(&error))?;
    let until = Instant::now() + DRAIN + PATIENCE;
    while self::holder(store).is_some_and(|now| now.pid == holder.pid) {
        if Instant::now() > until {
            return Err(Failure::new(Kind::Deadline, "stop the daemon")
                .cause(format!("process {} does not end", holder.pid))
                .hint(format!("end it with `kill -9 {}`; nothing is lost by that", holder.pid)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

fn taken_by_proxy(error: proxy::Error) -> Failure {
    match error.address() {
        Some(address) => taken(address, &error),
        None => Failure::new(Kind::Host, "start the proxy").because(&error),
    }
}

/// Who has the address that is needed: fighting over it helps nobody, knowing does.
fn taken(address: SocketAddr, error: &(dyn std::error::Error + 'static)) -> Failure {
    let holders: Vec<_> = who_listens(address).iter().map(ToString::to_string).collect();
    let failure = Failure::new(Kind::Conflict, format!("listen at {address}"));
    if holders.is_empty() {
        return failure.because(error).hint("choose another `listen` address in /etc/adt/adt.toml");
    }
    failure
        .cause(format!("{} listens there, or at every address", holders.join(", ")))
        .hint("let it listen at its own addresses only, or let it serve adt's sites too with `adt host:bind-proxy --with …`")
}

fn now() -> u32 {
    u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or(u32::MAX)
}
