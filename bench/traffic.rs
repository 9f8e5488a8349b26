//! Traffic: adt's proxy against nginx, Apache and HAProxy, in front of the same small backend, with the same certificate.
//!
//! adt has the routes of 500 environments, the others know one site and nothing else. Whatever makes each of them fast is on:
//! connections to the backend are kept, nobody writes a log, TLS sessions may be resumed by ticket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::adt::dns::sample;
use ::adt::exec::Command;
use ::adt::model::Routes;
use ::adt::{proxy, tls};

use super::process::{Meter, Process};
use super::report::{Contest, Report, Score};
use super::{HOME, Result, note, sweep};

pub const PACKAGES: &[(&str, &str)] =
    &[("nginx", "nginx-light"), ("apache2", "apache2"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("h2load", "nghttp2-client")];

const ENVIRONMENTS: u32 = 500;
const HOST: &str = "www.1161.shop.example.test";
const SECONDS: u32 = 2;
const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;

#[derive(Clone, Copy)]
enum Kind {
    /// HTTP/1.1: the scheme, and whether each request has a connection of its own.
    One { secure: bool, close: bool },
    /// HTTP/2 over TLS.
    Two,
}

const KINDS: [(&str, Kind); 5] = [
    ("http, connections kept", Kind::One { secure: false, close: false }),
    ("http, new connections", Kind::One { secure: false, close: true }),
    ("https, connections kept", Kind::One { secure: true, close: false }),
    ("https, new connections", Kind::One { secure: true, close: true }),
    ("https, HTTP/2", Kind::Two),
];

pub fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let folder = Path::new(HOME).join("traffic");
    sweep::folder(&folder)?;
    let backend = SocketAddr::from(([127, 77, 80, 100], HTTP));
    let routes = routes(backend);
    let certificates = Arc::new(tls::Certificates::open(&folder, &routes, tls::system_clock())?);
    let leaf = certificates.files("1161.shop.example.test")?.0;
    let setup = Setup { folder, leaf, backend };
    let address = |number: u8| move |port: u16| SocketAddr::from(([127, 77, 80, number], port));
    let at = [1, 2, 3, 4].map(address);
    let _backend = setup.backend()?;
    let config = proxy::Config { http: vec![at[0](HTTP)], https: vec![at[0](HTTPS)], ..proxy::Config::default() };
    let _own = proxy::Server::start(config, routes, certificates)?;
    let peers = [setup.nginx(&at[1])?, setup.apache(&at[2])?, setup.haproxy(&at[3])?];
    let sides = ["adt", "nginx", "Apache", "HAProxy"];
    let meters: Vec<_> = std::iter::once(Meter::Threads("proxy-")).chain(peers.iter().map(Process::meter)).collect();
    let mut contest = Contest::new("requests a second (99th percentile, of a core for each)", sides);
    for round in 0..=rounds {
        for (what, kind) in KINDS {
            for (side, name) in sides.iter().enumerate() {
                let measure = || -> Result<Score> {
                    let before = meters[side].read()?;
                    let mut score = ask(kind, &at[side]).map_err(|error| format!("{name}, {what}: {error}"))?;
                    score.cpu = (meters[side].read()? - before).div_f64(score.rate * f64::from(SECONDS));
                    Ok(score)
                };
                // A peer that loses a request may try again; adt may not.
                let score = if side == 0 { measure() } else { measure().or_else(|_| measure()).or_else(|_| measure()) }?;
                note(&format!("round {round}: {name}, {what}: {:.0}/s", score.rate));
                if round > 0 {
                    contest.push(what, side, score);
                }
            }
        }
    }
    report.contest(contest);
    Ok(())
}

fn routes(backend: SocketAddr) -> Routes {
    let mut routes = sample::routes(ENVIRONMENTS, [10, 97, 0, 0].into());
    let sites = routes.platforms.iter_mut().flat_map(|platform| &mut platform.environments).flat_map(|one| &mut one.sites);
    for site in sites {
        site.https_only = false;
        site.backends.truncate(1);
        site.backends[0].address = backend;
    }
    routes
}

struct Setup {
    folder: PathBuf,
    leaf: PathBuf,
    backend: SocketAddr,
}

impl Setup {
    fn start(&self, name: &str, text: &str, command: Command, at: SocketAddr) -> Result<Process> {
        let main = self.folder.join(format!("{name}.conf"));
        std::fs::write(&main, text)?;
        Process::start(&command.arg(&main), &self.folder.join(format!("{name}.log")), at)
    }

    fn serve_nginx(&self, name: &str, workers: &str, servers: &str, at: SocketAddr) -> Result<Process> {
        let folder = self.folder.join(name);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}-{kind};\n", folder.display()))
            .concat();
        let text = format!(
            "daemon off; worker_processes {workers}; pid {0}.pid; error_log {0}.error crit; user root;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on;\n{temporary}{servers}\n}}\n",
            folder.display()
        );
        self.start(name, &text, Command::new("nginx").arg("-c"), at)
    }

    /// One kilobyte from memory, the same for everybody.
    fn backend(&self) -> Result<Process> {
        let at = self.backend;
        let servers = format!("server {{ listen {at} backlog=4096; location / {{ return 200 \"{}\"; }} }}", "x".repeat(1024));
        self.serve_nginx("backend", "1", &servers, at)
    }

    fn nginx(&self, at: &dyn Fn(u16) -> SocketAddr) -> Result<Process> {
        let (backend, leaf, http, https) = (self.backend, self.leaf.display(), at(HTTP), at(HTTPS));
        let forward = "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host;\n\
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Port $server_port; }";
        let servers = format!(
            "upstream up {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}\n\
             server {{ listen {http} backlog=4096 reuseport; {forward} }}\n\
             server {{ listen {https} ssl http2 backlog=4096 reuseport; ssl_certificate {leaf}; ssl_certificate_key {leaf};\n\
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on; http2_max_requests 1000000000; {forward} }}"
        );
        self.serve_nginx("nginx", "auto", &servers, http)
    }

    fn apache(&self, at: &dyn Fn(u16) -> SocketAddr) -> Result<Process> {
        let modules = ["mpm_event", "authz_core", "headers", "socache_shmcb", "ssl", "http2", "proxy", "proxy_http"];
        let modules: String =
            modules.map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")).concat();
        let (folder, leaf, http, https) = (self.folder.display(), self.leaf.display(), at(HTTP), at(HTTPS));
        let text = format!(
            "ServerRoot {folder}\nServerName localhost\nPidFile {folder}/apache.pid\nErrorLog {folder}/apache.error\n\
             DefaultRuntimeDir {folder}\n{modules}User www-data\nGroup www-data\nListen {http}\nListen {https}\nListenBacklog 4096\n\
             KeepAlive On\nMaxKeepAliveRequests 0\nProxyPreserveHost On\nRequestHeader set X-Forwarded-Proto expr=%{{REQUEST_SCHEME}}\n\
             ProxyPass / http://{}/ keepalive=On\n<VirtualHost {https}>\nSSLEngine on\nSSLCertificateFile {leaf}\n\
             SSLCertificateKeyFile {leaf}\nProtocols h2 http/1.1\nProxyPass / http://{0}/ keepalive=On\nProxyPreserveHost On\n\
             </VirtualHost>\n",
            self.backend
        );
        self.start("apache", &text, Command::new("apache2").args(["-DFOREGROUND", "-f"]), http)
    }

    fn haproxy(&self, at: &dyn Fn(u16) -> SocketAddr) -> Result<Process> {
        let (http, https, leaf) = (at(HTTP), at(HTTPS), self.leaf.display());
        let text = format!(
            "global\n    maxconn 4096\ndefaults\n    mode http\n    timeout connect 2s\n    timeout client 60s\n    timeout server 60s\n\
             http-reuse always\n    option forwardfor\nfrontend sites\n    bind {http}\n    bind {https} ssl crt {leaf} alpn h2,http/1.1\n\
             http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n    \
             http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n    default_backend machines\n\
             backend machines\n    server web1 {}\n",
            self.backend
        );
        self.start("haproxy", &text, Command::new("haproxy").args(["-db", "-f"]), http)
    }
}

fn ask(kind: Kind, at: &dyn Fn(u16) -> SocketAddr) -> Result<Score> {
    match kind {
        Kind::One { secure: false, close } => wrk("http", at(HTTP), close),
        Kind::One { secure: true, close } => wrk("https", at(HTTPS), close),
        Kind::Two => h2load(at(HTTPS)),
    }
}

fn wrk(scheme: &str, at: SocketAddr, close: bool) -> Result<Score> {
    let mut command = Command::new("wrk").args(["-t1", "-c32", &format!("-d{SECONDS}s"), "--latency", "-H"]);
    command = command.arg(format!("Host: {HOST}"));
    if close {
        command = command.args(["-H", "Connection: close"]);
    }
    let text = command.arg(format!("{scheme}://{at}/")).run()?.text();
    let after = |word: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(word)).map(str::trim).map(str::to_owned)
    };
    let p99 = after("99%").and_then(|word| latency(&word));
    let (Some(rate), Some(p99)) = (after("Requests/sec:").and_then(|word| word.parse().ok()), p99) else {
        return Err(format!("wrk said something else: {text}").into());
    };
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("requests failed: {text}").into());
    }
    Ok(Score { rate, p99: Some(p99), cpu: Duration::ZERO })
}

/// `1.23ms` and the like.
fn latency(word: &str) -> Option<Duration> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, unit) = units.iter().find_map(|(unit, seconds)| Some((word.strip_suffix(unit)?, seconds)))?;
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * unit))
}

fn h2load(at: SocketAddr) -> Result<Score> {
    let seconds = format!("-D{SECONDS}");
    let to = format!("--connect-to={at}");
    let log = Path::new(HOME).join("traffic/h2load.log");
    let _ = std::fs::remove_file(&log);
    let command = Command::new("h2load").args([&seconds, "-c8", "-m10", "-t1", &to]);
    let command = command.arg(format!("--log-file={}", log.display())).arg(format!("https://{HOST}:{HTTPS}/"));
    let text = command.run()?.text();
    let status = text.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
    let rate = text.lines().find_map(|line| line.strip_prefix("finished in")?.split(',').nth(1)?.split_whitespace().next());
    let Some(rate) = rate.and_then(|rate| rate.parse().ok()) else {
        return Err(format!("h2load said something else: {text}").into());
    };
    if !status.contains("0 3xx, 0 4xx, 0 5xx") || text.contains("TLSv1.2") {
        return Err(format!("requests failed: {text}").into());
    }
    // Of each request: when it began, its status, how many microseconds it took.
    let log = std::fs::read_to_string(&log)?;
    let mut took: Vec<u64> = log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).ok_or("h2load logged no request")?;
    Ok(Score { rate, p99: Some(Duration::from_micros(*p99)), cpu: Duration::ZERO })
}
