//! The way of a browser to a site, step by step: name → address → certificate → page. Each step has its own verdict, and the
//! first that fails tells what to do.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::probe;
use crate::model::response::{CheckItem, Verdict};
use crate::model::route::SiteRoute;

/// Where Debian and Ubuntu keep what the system trusts.
const SYSTEM_TRUST: &str = "/etc/ssl/certs/ca-certificates.crt";
const PATIENCE: Duration = Duration::from_secs(5);

/// Walks the way of one site; stops at the first step that fails, because the later ones need it.
pub fn walk(site: &SiteRoute, listen: Ipv4Addr, trust: &Path) -> Vec<CheckItem> {
    let mut items = Vec::new();
    let mut step = |what: &str, result: Result<String, Wrong>| {
        let subject = format!("{} {what}", site.host);
        let (verdict, seen, remedy) = match result {
            Ok(seen) => (Verdict::Ok, seen, None),
            Err(Wrong { seen, remedy }) => (Verdict::Fault, seen, Some(remedy)),
        };
        items.push(CheckItem { subject, verdict, seen, remedy });
        verdict == Verdict::Ok
    };
    if !step("name", name(&site.host, listen)) {
        return items;
    }
    let connected = connect(listen);
    let stream = match connected {
        Ok(stream) => {
            step("address", Ok(format!("{listen}:443 accepts")));
            stream
        }
        Err(wrong) => {
            step("address", Err(wrong));
            return items;
        }
    };
    match handshake(&site.host, stream, trust) {
        Ok(secure) => {
            step("certificate", Ok("trusted".to_owned()));
            step("page", request(site, secure));
        }
        Err(wrong) => {
            step("certificate", Err(wrong));
        }
    }
    items
}

struct Wrong {
    seen: String,
    remedy: String,
}

fn wrong(seen: impl ToString, remedy: &str) -> Wrong {
    Wrong { seen: seen.to_string(), remedy: remedy.to_owned() }
}

/// Asks the system's own resolver, as every program of this host does.
fn name(host: &str, listen: Ipv4Addr) -> Result<String, Wrong> {
    let remedy = "adt host:up --detach serves the names, adt host:bind-proxy points this host's resolver there";
    let addresses: Vec<IpAddr> = match (host, 443).to_socket_addrs() {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => return Err(wrong(format!("does not resolve: {error}"), remedy)),
    };
    if addresses.contains(&IpAddr::V4(listen)) {
        Ok(listen.to_string())
    } else {
        let found: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Err(wrong(format!("leads to {}, not to {listen}", found.join(", ")), remedy))
    }
}

fn connect(listen: Ipv4Addr) -> Result<TcpStream, Wrong> {
    let address = SocketAddr::from((listen, 443));
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| wrong(format!("{address}: {error}"), "adt host:up --detach"))?;
    let timeouts = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    timeouts.map_err(|error| wrong(error, "adt host:up --detach"))?;
    Ok(stream)
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

fn handshake(host: &str, stream: TcpStream, trust: &Path) -> Result<Secure, Wrong> {
    let remedy = "adt host:bind-proxy installs adt's authority where this host keeps its trust";
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(trust).map_err(|error| wrong(error, remedy))?;
    roots.add_parsable_certificates(certificates.flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error, remedy))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| wrong(error, remedy))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| wrong(error, remedy))?;
    let mut secure = StreamOwned::new(connection, stream);
    while secure.conn.is_handshaking() {
        secure.conn.complete_io(&mut secure.sock).map_err(|error| wrong(error, remedy))?;
    }
    Ok(secure)
}

/// One request for the page that tells whether the site works; the status line is all that is needed of the answer.
fn request(site: &SiteRoute, mut secure: Secure) -> Result<String, Wrong> {
    let remedy = "adt env:check shows which machine is at fault, adt env:ssh looks inside";
    let told = |error: std::io::Error| wrong(error, remedy);
    let (path, host) = (&site.health, &site.host);
    write!(secure, "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: adt\r\nConnection: close\r\n\r\n").map_err(told)?;
    let mut line = String::new();
    BufReader::new(secure).read_line(&mut line).map_err(told)?;
    match probe::judge(&line) {
        Ok(code) => Ok(format!("GET {path} answers {code}")),
        Err(reason) => Err(wrong(format!("GET {path} {reason}"), remedy)),
    }
}

/// The file that [`walk`] trusts on this host.
pub fn system_trust() -> &'static Path {
    Path::new(SYSTEM_TRUST)
}
