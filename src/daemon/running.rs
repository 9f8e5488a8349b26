//! What `host:up` serves, once it does: the servers, the routes that they have, and the ways around ports that others hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::limit;
use crate::config::HostSettings;
use crate::engine::environment::routes::{routes, unreachable};
use crate::model::{Failure, Kind, Routes};
use crate::network::detour::{self, Detour, Transport};
use crate::resolver::holder::{is_taken_itself, who_listens};
use crate::store::{Damaged, Store};
use crate::systemd::Listeners;
use crate::{acme, dns, proxy, tls, trust};

const NAMES: u16 = 53;
/// RFC 7858.
const NAMES_OVER_TLS: u16 = 853;
const PORTS: proxy::Ports = proxy::Ports { http: 80, https: 443 };
/// Requests that run when a stop begins may take this long.
pub const DRAIN: Duration = Duration::from_secs(10);
/// The name server ends sooner, unless something is wrong with it.
const NAMES_END: Duration = Duration::from_secs(3);
const THREADS_END: Duration = Duration::from_secs(1);
/// Of the access log; the one before is kept too.
const LOG_BYTES: u64 = 32 << 20;

pub struct Running {
    install: String,
    listen: Ipv4Addr,
    routes: Routes,
    /// Of the store, before these were read.
    commits: i64,
    /// Whose record could not be read; told once.
    unreachable: Vec<Damaged>,
    certificates: Arc<tls::Certificates>,
    /// Of names that the world knows.
    public: Arc<tls::Public>,
    keeper: acme::Keeper,
    /// Why the world can't come in, although it should.
    closed: Option<String>,
    listeners: Arc<Listeners>,
    proxy: proxy::Server,
    dns: dns::Server,
    runtime: tokio::runtime::Runtime,
    /// Of the zones; grows with each change.
    serial: u32,
    detours: Vec<Detour>,
    /// What the starter should know, although everything is served.
    pub notices: Vec<String>,
}

impl Running {
    /// Binds everything before anything is served.
    pub fn start(
        settings: &HostSettings,
        store: &Store,
        upstreams: Vec<IpAddr>,
        listeners: Arc<Listeners>,
    ) -> Result<Self, Failure> {
        let commits = store.database.commits()?;
        let (routes, damaged) = routes(store, &settings.domain.value)?;
        let certificates = tls::Certificates::open(&store.folder, &routes, tls::system_clock());
        let certificates =
            Arc::new(certificates.map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))?);
        let renewed = certificates.authorities().into_iter().filter(|authority| authority.is_renewed);
        let renewed = renewed.map(|authority| {
            format!(
                "the authority of {} was made while the clock was ahead, or is about to end: it has a new certificate; make this \
                 host trust it with `adt host:bind-proxy`",
                authority.domain
            )
        });
        // Those of a process that was killed lead to ports where nobody listens any more.
        detour::remove(store.install())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Kind::Host, "start the name server").because(&error))?;
        let listen = settings.listen.value;
        let mut around = Around { notices: renewed.collect(), table: detour::table(store.install()) };
        let serial = now();
        let config = dns::Config {
            listen: vec![(listen, NAMES).into()],
            gateway_port: NAMES,
            proxy_v4: listen,
            proxy_v6: None,
            upstreams: at_their_port(upstreams),
            serial,
            listeners: listeners.clone(),
        };
        let entered = runtime.enter();
        let dns = around.names(config, &routes)?;
        drop(entered);
        if settings.dns_over_tls.value {
            names_over_tls(&dns, (listen, NAMES_OVER_TLS).into(), &certificates)?;
        }
        let names = dns.metrics();
        let path = store.folder.join("access.log");
        let log = proxy::Log::open(&path, LOG_BYTES)
            .map_err(|error| Failure::new(Kind::Store, format!("open `{}`", path.display())).because(&error))?;
        let public = tls::Public::open(&store.folder, &routes, tls::system_clock());
        let public = Arc::new(public.map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))?);
        let challenges = Arc::new(tls::Challenges::default());
        let config = proxy::Config {
            http: vec![(listen, PORTS.http).into()],
            https: vec![(listen, PORTS.https).into()],
            ports: Some(PORTS),
            gateways: Some(PORTS),
            world: Some(proxy::World { ports: PORTS, certificates: public.clone(), challenges: challenges.clone() }),
            log: Some(log),
            metrics: Some(proxy::MoreMetrics(Arc::new(names))),
            listeners: listeners.clone(),
            ..proxy::Config::default()
        };
        let proxy = around.pages(config, &routes, &certificates)?;
        let mut notices = around.notices;
        notices.extend(limit::trouble(routes.environments().count()));
        notices.extend(damaged.iter().map(unreachable));
        let (folder, believed) = (store.folder.clone(), trust::System::believed);
        let place = acme::Place { store: folder, challenges, public: public.clone(), believed };
        let keeper =
            acme::Keeper::start(place).map_err(|error| Failure::new(Kind::Host, "see to certificates").because(&error))?;
        let mut new = Self {
            install: store.install().to_owned(),
            listen,
            routes,
            commits,
            unreachable: damaged,
            certificates,
            public,
            keeper,
            closed: None,
            listeners,
            proxy,
            dns,
            runtime,
            serial,
            detours: Vec::new(),
            notices,
        };
        new.settle()?;
        new.keeper.follow(new.routes.clone());
        new.notices.extend(new.closed.clone());
        Ok(new)
    }

    /// Takes over what the store says now. A request that runs keeps the routes it began with.
    pub fn follow(&mut self, settings: &HostSettings, store: &Store) -> Result<(), Failure> {
        // Before they are read: what comes in between is looked for again.
        self.commits = store.database.commits()?;
        let (routes, damaged) = routes(store, &settings.domain.value)?;
        for record in damaged.iter().filter(|record| !self.unreachable.contains(record)) {
            tracing::error!("{}", unreachable(record));
        }
        self.unreachable = damaged;
        if routes == self.routes {
            return Ok(());
        }
        self.certificates.update(&routes).map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))?;
        self.public.update(&routes);
        self.proxy.update(routes.clone());
        self.serial = now().max(self.serial + 1);
        self.dns.update(&routes, self.serial);
        self.routes = routes;
        if let Some(trouble) = limit::trouble(self.routes.environments().count()) {
            tracing::error!("{trouble}");
        }
        self.settle()?;
        self.keeper.follow(self.routes.clone());
        Ok(())
    }

    /// When nothing was heard of for a while. A slow disk ends a commit long after its first write, which is all that the kernel
    /// tells of: what was read then was what had been before.
    pub fn look_around(&mut self, settings: &HostSettings, store: &Store) -> Result<(), Failure> {
        if store.database.commits()? != self.commits {
            self.follow(settings, store)?;
        }
        self.settle()
    }

    /// Follows the host from one network into the next. In between, where it has no name servers, the former ones will do.
    pub fn forward_to(&self, upstreams: Vec<IpAddr>) {
        if !upstreams.is_empty() {
            self.dns.forward_to(at_their_port(upstreams));
        }
    }

    /// Every gateway is listened at, and what comes for a port that somebody holds is led around it. Also called when nothing
    /// changed: a port may be free now, and whoever loads a firewall flushes everybody's.
    pub fn settle(&mut self) -> Result<(), Failure> {
        let mut taken = self.open(proxy::At::ItsPort, dns::At::ItsPort);
        // A gateway that went and came back at once may still be closed by ourselves.
        for _ in 0..5 {
            if !taken {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            taken = self.open(proxy::At::ItsPort, dns::At::ItsPort);
        }
        if taken {
            self.open(proxy::At::AnyPort, dns::At::AnyPort);
        }
        let wanted = self.wanted_detours();
        if wanted != self.detours || !wanted.is_empty() && !detour::in_force(&self.install)? {
            detour::set(&self.install, &wanted)?;
            self.detours = wanted;
        }
        self.settle_world();
        // Last: what is not listened at by now is closed for good.
        self.listeners.settle();
        Ok(())
    }

    /// The door to the world is open for as long as there are names that it knows.
    fn settle_world(&mut self) {
        self.public.refresh(&self.routes);
        let closed = match self.routes.has_world() {
            true => open_to_world(&self.proxy).err(),
            false => {
                self.proxy.close_to_world();
                None
            }
        };
        if let Some(trouble) = closed.as_ref().filter(|_| closed != self.closed) {
            tracing::error!("{trouble}");
        }
        self.closed = closed;
    }

    /// Says whether somebody holds a port of a gateway that isn't listened at yet.
    fn open(&self, pages: proxy::At, names: dns::At) -> bool {
        let mut taken = false;
        for error in self.proxy.open_gateways(pages) {
            taken |= matches!(error, proxy::Error::InUse { .. });
            tracing::debug!(%error, "a gateway without pages");
        }
        for error in self.dns.open_gateways(names) {
            taken |= matches!(error, dns::Error::InUse { .. });
            tracing::debug!(%error, "a gateway without names");
        }
        taken
    }

    fn wanted_detours(&self) -> Vec<Detour> {
        let own = |addresses: &[SocketAddr], port| addresses.iter().map(|address| (*address, port)).collect::<Vec<_>>();
        let pages = [own(self.proxy.http(), PORTS.http), own(self.proxy.https(), PORTS.https), self.proxy.gateways()].concat();
        let names = [own(self.dns.addresses(), NAMES), self.dns.gateways()].concat();
        let mut detours: Vec<_> = pages.into_iter().filter_map(|pair| way(Transport::Tcp, pair)).collect();
        for transport in [Transport::Tcp, Transport::Udp] {
            detours.extend(names.iter().filter_map(|pair| way(transport, *pair)));
        }
        detours.sort();
        detours
    }

    /// In words, for `systemctl status`.
    pub fn status(&self) -> String {
        format!("names and pages of {} environments are served at {}", self.routes.environments().count(), self.listen)
    }

    /// Finishes what runs, and waits for nothing without end. The ways around ports go last: who waits for an answer still needs
    /// them.
    pub fn stop(self) -> Result<(), Failure> {
        let (dns, (ended, end)) = (self.dns, mpsc::channel());
        self.runtime.spawn(async move {
            dns.stop().await;
            let _ = ended.send(());
        });
        // Not by the runtime's own clock: whatever keeps its threads from ending the server keeps them from looking at it.
        if end.recv_timeout(NAMES_END).is_err() {
            tracing::warn!("the name server did not end within {} s", NAMES_END.as_secs());
        }
        if !self.proxy.stop(DRAIN) {
            tracing::warn!("requests were cut off after {} s", DRAIN.as_secs());
        }
        detour::remove(&self.install)?;
        self.runtime.shutdown_timeout(THREADS_END);
        Ok(())
    }
}

fn open_to_world(proxy: &proxy::Server) -> Result<(), String> {
    if proxy.is_open_to_world() {
        return Ok(());
    }
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    for port in [PORTS.http, PORTS.https].into_iter().filter(|_| !proxy.was_open_to_world()) {
        // Two servers that share a port take each other's connections in turn, and nothing would say so.
        if everywhere.into_iter().any(|ip| is_taken_itself(SocketAddr::new(ip, port))) {
            return Err(no_door(port));
        }
    }
    proxy.open_to_world().map_err(|error| match error.address() {
        Some(address) => no_door(address.port()),
        None => format!("the world can't come in: {error}"),
    })
}

fn no_door(port: u16) -> String {
    let own = std::process::id();
    let others = who_listens((Ipv4Addr::UNSPECIFIED, port).into()).into_iter().filter(|holder| holder.pid != own);
    let who = others.map(|holder| holder.to_string()).next().unwrap_or_else(|| "another program".to_owned());
    format!("the world can't come in: {who} holds port {port}; stop it, and adt listens there by itself")
}

/// Somebody asked for it, so a port that another program holds is no reason to go without.
fn names_over_tls(dns: &dns::Server, at: SocketAddr, certificates: &Arc<tls::Certificates>) -> Result<(), Failure> {
    let failed = |kind| Failure::new(kind, format!("serve names over TLS at {at}"));
    let acceptor = tls::acceptor(certificates.clone(), &[b"dot"]).map_err(|error| failed(Kind::Host).because(&error))?;
    dns.serve_over_tls(at, acceptor).map(drop).map_err(|error| {
        let (failure, holders) = (failed(Kind::Conflict), holders(at));
        let failure = match holders.as_str() {
            "" => failure.because(&error),
            holders => failure.cause(format!("{holders} listens there, or at every address")),
        };
        failure.hint("free that port, or do without `dns_over_tls`")
    })
}

fn at_their_port(servers: Vec<IpAddr>) -> Vec<SocketAddr> {
    servers.into_iter().map(|address| (address, NAMES).into()).collect()
}

/// `None` where the port is the one that is asked for.
fn way(transport: Transport, (at, port): (SocketAddr, u16)) -> Option<Detour> {
    match at {
        SocketAddr::V4(at) if at.port() != port => {
            Some(Detour { transport, from: SocketAddrV4::new(*at.ip(), port), port: at.port() })
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => None,
    }
}

/// Starts servers where their ports are free, else at others.
struct Around {
    notices: Vec<String>,
    table: String,
}

impl Around {
    fn names(&mut self, mut config: dns::Config, routes: &Routes) -> Result<dns::Server, Failure> {
        loop {
            match dns::Server::start(config.clone(), routes) {
                Ok(server) => return Ok(server),
                Err(error @ dns::Error::InUse { address }) => self.give_way(&mut config.listen, address, &error)?,
                Err(error @ dns::Error::Listen { address, .. }) => return Err(refused(address, &error)),
            }
        }
    }

    fn pages(
        &mut self,
        mut config: proxy::Config,
        routes: &Routes,
        certificates: &Arc<tls::Certificates>,
    ) -> Result<proxy::Server, Failure> {
        loop {
            match proxy::Server::start(config.clone(), routes.clone(), certificates.clone()) {
                Ok(server) => return Ok(server),
                Err(error @ proxy::Error::InUse { address }) => {
                    let addresses = if address.port() == PORTS.http { &mut config.http } else { &mut config.https };
                    self.give_way(addresses, address, &error)?;
                }
                Err(error @ proxy::Error::Listen { address, .. }) => return Err(refused(address, &error)),
                Err(error @ (proxy::Error::Start(_) | proxy::Error::Tls(_))) => {
                    return Err(Failure::new(Kind::Host, "start the proxy").because(&error));
                }
            }
        }
    }

    /// Whoever listens at every address keeps its port, and adt takes another. Who listens at this very address means it.
    fn give_way(
        &mut self,
        addresses: &mut [SocketAddr],
        taken: SocketAddr,
        error: &(dyn std::error::Error + 'static),
    ) -> Result<(), Failure> {
        let SocketAddr::V4(v4) = taken else { return Err(refused(taken, error)) };
        let Some(address) = addresses.iter_mut().find(|address| **address == taken) else { return Err(refused(taken, error)) };
        if !detour::may_lead(*v4.ip()) || is_taken_itself(taken) {
            return Err(refused(taken, error));
        }
        address.set_port(0);
        let holders = holders(taken);
        let whose = if holders.is_empty() { "another program".to_owned() } else { holders };
        self.notices.push(format!(
            "port {} belongs to {whose}, which stays as it is: what comes for {taken} is led around it by the firewall's table `ip {}`",
            taken.port(),
            self.table
        ));
        Ok(())
    }
}

/// Of a server with many processes, the first.
fn holders(address: SocketAddr) -> String {
    let mut holders = who_listens(address);
    let mut seen = std::collections::BTreeSet::new();
    holders.retain(|holder| seen.insert(holder.program.clone()));
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Who has the address that is needed: fighting over it helps nobody, knowing does.
fn refused(address: SocketAddr, error: &(dyn std::error::Error + 'static)) -> Failure {
    let holders = holders(address);
    let failure = Failure::new(Kind::Conflict, format!("listen at {address}"));
    if holders.is_empty() {
        return failure.because(error).hint("choose another `listen` address in /etc/adt/adt.toml");
    }
    failure
        .cause(format!("{holders} listens there, or at every address"))
        .hint("choose another `listen` address in /etc/adt/adt.toml: 127.77.77.77 is adt's own and gives way to nobody's port")
}

fn now() -> u32 {
    u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or(u32::MAX)
}
