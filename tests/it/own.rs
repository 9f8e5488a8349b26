//! adt's own servers under the expectations that Apache, nginx, Bind and dnsmasq are under: no second list, no second truth.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use adt::tls::{Certificates, system_clock};
use adt::{dns, proxy};

use super::front::{LOOPBACK, Town, dig, expectations, get, name_expectations};
use super::servers::installed;

#[test]
fn the_proxy_serves_the_town() {
    let (town, folder) = (Town::new(), tempfile::tempdir().unwrap());
    let certificates = Arc::new(Certificates::open(folder.path(), &town.routes, system_clock()).unwrap());
    let config = proxy::Config { http: vec![SocketAddr::from((LOOPBACK, 0))], ..Default::default() };
    let server = proxy::Server::start(config, town.routes.clone(), certificates).unwrap();
    let address = server.http()[0];
    expectations(address);
    let mut changed = town.routes.clone();
    changed.platforms[0].environments[1].up = true;
    server.update(changed);
    assert_eq!(get(address, "www.1162.shop.example.test", "/").status, 200, "1162 came up");
}

#[test]
fn the_name_server_knows_the_towns_names() {
    if !installed(&["dig"]) {
        return;
    }
    let town = Town::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = dns::Config {
        listen: vec![SocketAddr::from((LOOPBACK, 0))],
        gateway_port: 0,
        proxy_v4: Ipv4Addr::new(10, 9, 8, 7),
        proxy_v6: Some("fd00::7".parse().unwrap()),
        upstreams: Vec::new(),
        serial: 1000,
        listeners: Default::default(),
    };
    let _entered = runtime.enter();
    let server = dns::Server::start(config, &town.routes).unwrap();
    let address = server.addresses()[0];
    name_expectations(address);
    let mut changed = town.routes.clone();
    drop(changed.platforms[0].environments.pop());
    // The town's gateways are on no link of this host.
    drop(server.update(&changed, 1001));
    assert_eq!(dig(address, "www.1162.shop.example.test", "A"), Vec::<String>::new());
    assert_eq!(dig(address, "www.1161.shop.example.test", "A"), ["10.9.8.7"]);
}
