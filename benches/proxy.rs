//! adt's proxy against nginx as a reverse proxy, in front of the same backend, with the same certificate kind and clients.
//!
//! Needs `nginx`, `wrk` and `h2load`. One process each, as many workers as threads here; run it alone on an idle host.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use adt::model::{
    Backend, Domain, EnvironmentId, EnvironmentName, EnvironmentRoute, MachineName, PlatformName, PlatformRoute, Protocol,
    Routes, SiteName, SiteRoute,
};
use adt::{proxy, tls};

const BACKEND: &str = "127.0.0.1:19080";
const HOST: &str = "www.1161.shop.example.test";
/// As many as the largest example of a busy host.
const ENVIRONMENTS: usize = 500;

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // nginx's master ends its workers on SIGTERM, which kill() would not let it.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder for the run");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let routes = routes();
    let certificates = Arc::new(tls::Certificates::open(folder.path(), &routes, tls::system_clock()).expect("certificates"));
    certificates.certificate(Some(HOST)).expect("a leaf");
    let leaf = folder.path().join("tls/leaf/1161.shop.example.test.pem");
    let _backend = nginx(folder.path(), "backend", &backend());
    let _peer = nginx(folder.path(), "peer", &peer(threads, &leaf));
    let local = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
    let config = proxy::Config { http: local(19082), https: local(19445), ..Default::default() };
    let server = proxy::Server::start(config, routes, certificates).expect("the proxy starts");
    if let Some(seconds) = std::env::var("HOLD").ok().and_then(|seconds| seconds.parse().ok()) {
        std::thread::sleep(Duration::from_secs(seconds));
        return;
    }
    std::thread::sleep(Duration::from_millis(500));
    println!("resident before load: {} MB", resident());
    for (name, path, close) in [("keep-alive", "/", false), ("new connections", "/", true), ("64 KiB body", "/64k", false)] {
        for (scheme, ours, theirs) in [("http", 19082, 19081), ("https", 19445, 19444)] {
            for (who, port) in [("adt", ours), ("nginx", theirs), ("adt", ours), ("nginx", theirs)] {
                println!("{who:6} {scheme:5} {name:16} {}", wrk(scheme, port, path, close));
            }
        }
    }
    for (who, port) in [("adt", 19445), ("nginx", 19444), ("adt", 19445), ("nginx", 19444)] {
        println!("{who:6} h2    10 streams       {}", h2load(port));
    }
    println!("resident after load: {} MB", resident());
    drop(server);
}

fn wrk(scheme: &str, port: u16, path: &str, close: bool) -> String {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c32", "-d4s", "--latency", "-H", &format!("Host: {HOST}")]);
    if close {
        command.args(["-H", "Connection: close"]);
    }
    let output = command.arg(format!("{scheme}://127.0.0.1:{port}{path}")).output().expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pick = |word: &str| text.lines().find(|line| line.trim().starts_with(word)).map(str::trim).unwrap_or_default().to_owned();
    let mut line = format!("{} | p50 {} | p99 {}", pick("Requests/sec"), pick("50%"), pick("99%"));
    for bad in ["Non-2xx", "Socket errors"] {
        let _ = write!(line, " {}", pick(bad));
    }
    line
}

fn h2load(port: u16) -> String {
    let mut command = Command::new("h2load");
    command.args([
        "-n60000",
        "-c8",
        "-m10",
        "-t1",
        &format!("--connect-to=127.0.0.1:{port}"),
        &format!("https://{HOST}:{port}/"),
    ]);
    let output = command.output().expect("h2load is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pick = |word: &str| text.lines().find(|line| line.starts_with(word)).unwrap_or_default().to_owned();
    format!("{} | {}", pick("finished in"), pick("requests:"))
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("it has our size");
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("in kB") / 1024
}

fn nginx(folder: &Path, name: &str, servers: &str) -> Stopped {
    let path = folder.join(format!("{name}.conf"));
    let workers = if name == "peer" { "auto" } else { "1" };
    let text = format!(
        "daemon off; worker_processes {workers}; pid {0}/{name}.pid; error_log {0}/{name}.log; user root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; sendfile on; tcp_nodelay on;\n\
         client_body_temp_path {0}/{name}-b; proxy_temp_path {0}/{name}-p; fastcgi_temp_path {0}/{name}-f;\n\
         uwsgi_temp_path {0}/{name}-u; scgi_temp_path {0}/{name}-s;\n{servers} }}",
        folder.display()
    );
    std::fs::write(&path, text).expect("a configuration");
    Stopped(Command::new("nginx").arg("-c").arg(&path).spawn().expect("nginx is installed"))
}

fn backend() -> String {
    let large = "x".repeat(64 << 10);
    let folder = std::env::temp_dir().join("adt-bench-64k");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("64k"), large).expect("a file");
    format!(
        "server {{ listen {BACKEND} backlog=4096; root {}; location = / {{ return 200 \"hello from the backend\\n\"; }} }}",
        folder.display()
    )
}

fn peer(_threads: usize, leaf: &Path) -> String {
    let forward = "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
        proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
        proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; }";
    let leaf = leaf.display();
    format!(
        "upstream up {{ server {BACKEND}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:19081 backlog=4096 reuseport; {forward} }}\n\
         server {{ listen 127.0.0.1:19444 ssl http2 backlog=4096 reuseport; ssl_certificate {leaf}; ssl_certificate_key {leaf};\n\
         ssl_session_tickets on; {forward} }}"
    )
}

fn routes() -> Routes {
    let domain = Domain::new("example.test").expect("a domain");
    let platform = PlatformName::new("shop").expect("a name");
    let environment = |number: usize| {
        let id = EnvironmentId { platform: platform.clone(), name: EnvironmentName::new(number.to_string()).expect("a name") };
        let machine = MachineName::new("web1").expect("a name");
        let site = |name: &str| SiteRoute {
            name: SiteName::new(name).expect("a name"),
            host: format!("{name}.{}", id.fqdn(&domain)),
            aliases: Vec::new(),
            backends: vec![Backend { machine: machine.clone(), address: BACKEND.parse().expect("an address") }],
            health: "/".into(),
            protocol: Protocol::Http1,
            sticky: false,
            https_only: false,
        };
        EnvironmentRoute {
            sites: vec![site("www"), site("api")],
            id: id.clone(),
            domain: domain.clone(),
            up: true,
            owner: "somebody".into(),
            created: 0,
            gateway_v4: [10, 0, 0, 1].into(),
            gateway_v6: std::net::Ipv6Addr::LOCALHOST,
            machines: Vec::new(),
        }
    };
    let environments = (1000..1000 + ENVIRONMENTS).map(environment).collect();
    let platforms = vec![PlatformRoute { name: platform.clone(), summary: String::new(), domain: domain.clone(), environments }];
    Routes { domain: domain.clone(), platforms }
}
