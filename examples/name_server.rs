//! A name server for as many environments as wanted, to be measured: `name_server 127.0.53.1:5300 500`.
//! With a third argument, a folder, it also writes what dnsperf, dnsmasq and Bind need to be measured alike, from the same routes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use adt::dns::{Config, Server, sample};
use adt::model::route::Routes;

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 11, 61);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or("127.0.53.1:5300".into()).parse()?;
    let environments = arguments.next().map_or(Ok(500), |count| count.parse())?;
    let routes = sample::routes(environments, Ipv4Addr::new(10, 97, 0, 0));
    if let Some(folder) = arguments.next() {
        return Ok(write_peers(Path::new(&folder), &routes)?);
    }
    let config =
        Config { listen: vec![listen], gateway_port: 0, proxy_v4: PROXY, proxy_v6: None, upstreams: Vec::new(), serial: 1 };
    let server = Server::start(config, &routes)?;
    eprintln!("answering at {} for {environments} environments", server.addresses()[0]);
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}

fn write_peers(folder: &Path, routes: &Routes) -> std::io::Result<()> {
    let (mut queries, mut dnsmasq) = (String::new(), String::from("no-resolv\nno-hosts\nlocal=/example.test/\n"));
    let mut zone = String::from("$TTL 5\n@ SOA @ @ 1 3600 600 86400 5\n@ NS @\n@ A 127.0.11.61\n");
    for environment in routes.environments() {
        for machine in &environment.machines {
            let host = environment.machine_host(machine);
            writeln!(queries, "{host} A").expect("a string takes any text");
            writeln!(dnsmasq, "host-record={host},{},{},5", machine.v4, machine.v6).expect("as above");
            writeln!(zone, "{host}. A {}\n{host}. AAAA {}", machine.v4, machine.v6).expect("as above");
        }
        for site in &environment.sites {
            let host = &site.host;
            writeln!(queries, "{host} A").expect("as above");
            writeln!(dnsmasq, "host-record={host},{PROXY},5").expect("as above");
            writeln!(zone, "{host}. A {PROXY}\n*.{host}. A {PROXY}").expect("as above");
        }
    }
    std::fs::write(folder.join("queries"), queries)?;
    std::fs::write(folder.join("dnsmasq.conf"), dnsmasq)?;
    std::fs::write(folder.join("example.test.zone"), zone)
}
