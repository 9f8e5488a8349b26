//! Routes to test, fuzz and measure with.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::route::{Backend, EnvironmentRoute, MachineRoute, PlatformRoute, Protocol, Routes, SiteRoute};
use crate::model::{Domain, Edge, EnvironmentId, EnvironmentName, MachineName, PlatformName, SiteName};

/// `shop.example.test` with environments `1000`, `1001`, …: each a database and two web servers, with two sites.
/// Environment number 0 has `base`'s network, the next one the /26 behind it.
pub fn routes(environments: u32, base: Ipv4Addr) -> Routes {
    let domain = Domain::new("example.test").expect("it is one");
    let platform = PlatformName::new("shop").expect("it is one");
    let environments = (0..environments).map(|number| {
        let name = EnvironmentName::new((1000 + number).to_string()).expect("digits are a label");
        let id = EnvironmentId { platform: platform.clone(), name };
        environment(id, &domain, Ipv4Addr::from(u32::from(base) + number * 64), number)
    });
    let environments = environments.collect();
    let summary = String::from("a shop");
    let platforms = vec![PlatformRoute { name: platform, summary, domain: domain.clone(), environments }];
    Routes { domain, platforms }
}

fn environment(id: EnvironmentId, domain: &Domain, network: Ipv4Addr, number: u32) -> EnvironmentRoute {
    let v4 = |host: u32| Ipv4Addr::from(u32::from(network) + host);
    let v6 = |host: u128| Ipv6Addr::from(0xfd00_0ad7_0000_0000_u128 << 64 | u128::from(number) << 64 | host);
    let machine = |name: &str, host: u8| MachineRoute {
        name: MachineName::new(name).expect("it is a label"),
        v4: v4(host.into()),
        v6: Some(v6(host.into())),
    };
    let machines = vec![machine("db", 2), machine("web1", 3), machine("web2", 4)];
    let web = &machines[1..];
    let backends: Vec<_> = web.iter().map(|web| Backend { machine: web.name.clone(), address: (web.v4, 80).into() }).collect();
    let site = |name: &str, aliases: &[&str]| SiteRoute {
        name: SiteName::new(name).expect("it is a label"),
        host: format!("{name}.{}", id.fqdn(domain)),
        aliases: aliases.iter().map(|alias| alias.to_string()).collect(),
        backends: backends.clone(),
        health: "/".into(),
        protocol: Protocol::Http1,
        sticky: false,
        https_only: false,
    };
    let sites = vec![site("www", &["www.shop.example.org"]), site("admin", &[])];
    EnvironmentRoute {
        domain: domain.clone(),
        up: true,
        owner: "root".into(),
        created: 0,
        gateway_v4: v4(1),
        gateway_v6: v6(1),
        machines,
        sites,
        edge: Edge::default(),
        id,
    }
}
