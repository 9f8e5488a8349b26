//! The proxy on real sockets: backends of this test behind it, raw sockets, curl and hyper in front of it.

mod authority;
pub mod backend;
mod clients;
mod faults;
pub mod frames;
mod fuzz;
mod hostile;
mod introduced;
mod public;
mod routing;
mod streams;
mod visitors;
mod wire;
mod witness;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adt::model::{
    Backend, Domain, Edge, EnvironmentId, EnvironmentName, EnvironmentRoute, MachineName, MachineRoute, PlatformName,
    PlatformRoute, Protocol, Routes, SiteName, SiteRoute,
};
use adt::proxy::{Config, Limits, Server};
use adt::tls::{Certificates, system_clock};

pub const HOST: &str = "www.1161.shop.example.test";
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy on ports of its own, with one environment of the platform `shop`.
pub struct World {
    pub server: Server,
    pub routes: Routes,
    pub certificates: Arc<Certificates>,
    _folder: tempfile::TempDir,
}

pub fn routes(backends: &[SocketAddr]) -> Routes {
    let domain = Domain::new("example.test").unwrap();
    let name = PlatformName::new("shop").unwrap();
    let backend = |(index, address): (usize, &SocketAddr)| Backend {
        machine: MachineName::new(format!("web{}", index + 1)).unwrap(),
        address: *address,
    };
    let environment = |number: &str, up| {
        let id = EnvironmentId { platform: name.clone(), name: EnvironmentName::new(number).unwrap() };
        let site = |site: &str| SiteRoute {
            name: SiteName::new(site).unwrap(),
            host: format!("{site}.{}", id.fqdn(&domain)),
            aliases: Vec::new(),
            backends: backends.iter().enumerate().map(backend).collect(),
            health: "/healthz".into(),
            protocol: Protocol::Http1,
            sticky: false,
            https_only: false,
        };
        let db = MachineRoute {
            name: MachineName::new("db").unwrap(),
            v4: [10, 1, 2, 3].into(),
            v6: Some("fd00::3".parse().unwrap()),
        };
        EnvironmentRoute {
            sites: vec![site("api"), site("www")],
            id: id.clone(),
            domain: domain.clone(),
            up,
            owner: "<b>anna</b>".into(),
            created: 1_700_000_000,
            gateway_v4: [10, 1, 2, 1].into(),
            gateway_v6: "fd00::1".parse().unwrap(),
            machines: vec![db],
            edge: Edge::default(),
        }
    };
    let environments = vec![environment("1161", true), environment("1162", false)];
    let shop =
        PlatformRoute { name: name.clone(), summary: "<script>alert(1)</script>".into(), domain: domain.clone(), environments };
    let other = PlatformRoute {
        name: PlatformName::new("other").unwrap(),
        summary: String::new(),
        domain: domain.clone(),
        environments: Vec::new(),
    };
    Routes { domain: domain.clone(), platforms: vec![other, shop] }
}

/// The site `www` of environment 1161.
pub fn www(routes: &mut Routes) -> &mut SiteRoute {
    &mut routes.platforms[1].environments[0].sites[1]
}

pub fn world(backends: &[SocketAddr]) -> World {
    world_with(routes(backends), Limits::default())
}

pub fn world_with(routes: Routes, limits: Limits) -> World {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Arc::new(Certificates::open(folder.path(), &routes, system_clock()).unwrap());
    let any = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { http: any.clone(), https: any, limits, ..Config::default() };
    let server = Server::start(config, routes.clone(), certificates.clone()).unwrap();
    World { server, routes, certificates, _folder: folder }
}

impl World {
    pub fn http(&self) -> SocketAddr {
        self.server.http()[0]
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends bytes and reads one answer.
    pub fn say(&self, bytes: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        read(&mut BufReader::new(stream)).unwrap()
    }

    pub fn get(&self, host: &str, path: &str) -> Answer {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    /// Runs curl, which trusts the authority and finds the names here. Its output's last line is the status and HTTP version.
    pub fn curl(&self, args: &[&str], url: &str) -> String {
        let authority = &self.certificates.authorities()[0];
        let served = if url.starts_with("https:") { self.server.https() } else { self.server.http() };
        let port = served[0].port();
        let mut command = std::process::Command::new("curl");
        command
            .args(["-sS", "-m", "60", "-w", "\n%{http_code} %{http_version}", "--noproxy", "*"])
            .arg("--cacert")
            .arg(&authority.path);
        command.args(["--connect-to", &format!("::127.0.0.1:{port}")]);
        let url = url.replacen(".test", &format!(".test:{port}"), 1);
        let output = command.args(args).arg(url).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One HTTP/1.1 answer; `None` where the connection ended before it.
pub fn read(reader: &mut impl BufRead) -> Option<Answer> {
    let mut answer = Answer::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        answer.head.push_str(&line);
    }
    answer.status = answer.head.split(' ').nth(1)?.parse().ok()?;
    let mut body = Vec::new();
    if answer.header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = answer.header("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Some(answer)
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Of this process, in MB.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
