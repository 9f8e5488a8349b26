//! Clients and servers that others wrote: Python's `websockets`, and gRPC's own library on both ends.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use adt::model::Protocol;

use super::{HOST, World, routes, world, world_with, www};

/// Debian's, which has Debian's modules: another may come first in the path.
const PYTHON: &str = "/usr/bin/python3";

fn script(name: &str) -> String {
    format!("{}/tests/it/proxy/clients/{name}.py", env!("CARGO_MANIFEST_DIR"))
}

/// Whether the module is there. Says so loudly if not, and fails in CI.
fn has(module: &str) -> bool {
    let import = Command::new(PYTHON).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    if import.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "Python's `{module}` is not installed");
    eprintln!("SKIPPED: Python's `{module}` is not installed; `make test-packages` installs it");
    false
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(name: &str) -> Self {
        let mut process = Command::new(PYTHON).args([&script(name), "serve"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap();
        Self { process, address: (Ipv4Addr::LOCALHOST, port).into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn ask(name: &str, world: &World) {
    let port = |addresses: &[SocketAddr]| addresses[0].port().to_string();
    let (http, https) = (port(world.server.http()), port(world.server.https()));
    let authority = world.certificates.authorities()[0].path.to_string_lossy().into_owned();
    let args = [&script(name), "ask", &http, &https, HOST, &authority].map(str::to_owned);
    let output = Command::new(PYTHON).args(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn websockets_of_another_hand() {
    if !has("websockets") {
        return;
    }
    let server = Server::start("websocket");
    ask("websocket", &world(&[server.address]));
}

#[test]
fn grpc_of_another_hand() {
    if !has("grpc") {
        return;
    }
    let server = Server::start("rpc");
    let mut routes = routes(&[server.address]);
    www(&mut routes).protocol = Protocol::H2c;
    ask("rpc", &world_with(routes, Default::default()));
}
