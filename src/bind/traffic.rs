//! Routes → files for Apache and nginx.
//!
//! ```text
//! adt/main.conf                  reads conf/*
//! adt/modules.load               Apache's modules
//! adt/conf/0-default.conf        names that no one knows
//! adt/conf/1-<environment>.conf  its sites, its homepage, then what is below it and missing; see `shared` for nginx
//! adt/conf/2-apexes.conf         platforms and domains, deepest first
//! adt/pages/<host>.*.html        what they show
//! ```
//! Pages share one folder: each change makes the tree anew from links, and a thousand folders take seconds where four
//! thousand links take none.

use serde_json::{Value, json};

use super::front::{balancer, fronts, https_suffix};
use super::material::Material;
use super::{Facts, File, Home, Result, Server, file, page, shared};
use crate::model::route::{EnvironmentRoute, Protocol, SiteRoute};

/// In the order in which Apache has to load them, with the file where its name is not the module's.
const MODULES: &[&str] = &[
    "alias",
    "dir",
    "authz_core",
    "headers",
    "rewrite",
    "socache_shmcb",
    "ssl",
    "http2",
    "slotmem_shm",
    "proxy",
    "proxy_http",
    "proxy_http2",
    "proxy_wstunnel",
    "proxy_balancer",
    "lbmethod_byrequests",
];

pub fn files(home: &Home, facts: &Facts<'_>, material: &Material) -> Result<Vec<File>> {
    let (source, pages) = (material.of_server("environment.conf")?, material.page()?);
    let (source, pages) = (source.prepare()?, pages.prepare()?);
    let forward =
        if home.server == Server::Nginx { material.of_server("forward.conf")?.render(&json!({}))? } else { String::new() };
    let (front, routes) = (facts.front, facts.routes);
    // Of a thousand environments, the pages take as long as all the rest.
    let mut files = std::thread::scope(|scope| {
        let shown = scope.spawn(|| {
            let pages = routes.environments().map(|environment| page::environment(&pages, front, environment));
            pages.collect::<Result<Vec<_>>>()
        });
        let configured = |environment: &EnvironmentRoute| {
            let text = source.render(&environment_facts(home, facts, environment, &forward)?)?;
            Ok(file(format!("conf/1-{}.conf", environment.host()), text))
        };
        let mut files = routes.environments().map(configured).collect::<Result<Vec<_>>>()?;
        files.extend(shown.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?.into_iter().flatten());
        Ok::<_, super::Error>(files)
    })?;
    for platform in &facts.routes.platforms {
        files.extend(page::platform(&pages, facts.front, platform)?);
    }
    for domain in facts.routes.domains() {
        files.extend(page::domain(&pages, facts.front, facts.routes, domain.as_str())?);
    }
    files.push(page::stranger(&pages)?);
    files.push(file("conf/2-apexes.conf", material.of_server("apexes.conf")?.render(&apexes(home, facts)?)?));
    let certificate = fronts(facts, facts.routes.domain.as_str(), false)?;
    let default = json!({ "fronts": certificate, "pages": page_prefix(home, "_") });
    files.push(file("conf/0-default.conf", material.of_server("default.conf")?.render(&default)?));
    if home.server == Server::Nginx {
        files.extend(shared::files(home, facts, material, &forward)?);
    }
    let sizes = |prefix: &str| home.server == Server::Nginx && !sets_hash_sizes(home, prefix);
    let main = json!({ "adt": home.adt(), "set_hash_sizes": sizes("server_names_hash_"), "set_map_sizes": sizes("map_hash_") });
    files.push(file("main.conf", material.of_server("main.conf")?.render(&main)?));
    if home.server == Server::Apache {
        let modules: Vec<_> = MODULES.iter().map(|name| json!({ "name": name, "file": format!("mod_{name}.so") })).collect();
        let facts = json!({ "modules": modules, "modules_folder": "/usr/lib/apache2/modules" });
        files.push(file("modules.load", material.of_server("modules.load")?.render(&facts)?));
    }
    Ok(files)
}

/// What the paths of a host's pages begin with.
fn page_prefix(home: &Home, host: &str) -> String {
    home.adt().join("pages").join(host).display().to_string() + "."
}

fn environment_facts(home: &Home, facts: &Facts<'_>, environment: &EnvironmentRoute, forward: &str) -> Result<Value> {
    let host = environment.host();
    let sites = environment.sites.iter().map(|site| site_facts(facts, site)).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "id": environment.id.to_string(),
        "host": host,
        "pages": page_prefix(home, &host),
        "up": environment.up,
        "sites": sites,
        "fronts": fronts(facts, &host, false)?,
        "https_suffix": https_suffix(facts.front),
        "forward": forward,
    }))
}

fn site_facts(facts: &Facts<'_>, site: &SiteRoute) -> Result<Value> {
    let fronts = fronts(facts, &site.host, site.https_only)?;
    // nginx takes both ports in one server unless one of them only leads to the other.
    let servers: Vec<Value> = if site.https_only && fronts.len() > 1 {
        fronts.iter().map(|front| json!({ "fronts": [front], "redirect": front["redirect"] })).collect()
    } else {
        vec![json!({ "fronts": fronts, "redirect": false })]
    };
    let backends: Vec<_> = site
        .backends
        .iter()
        .map(|backend| json!({ "machine": backend.machine, "address": backend.address.to_string() }))
        .collect();
    Ok(json!({
        "host": site.host,
        "balancer": balancer(&site.host),
        "backends": backends,
        "sticky": site.sticky,
        "h2c": site.protocol == Protocol::H2c,
        "alone": shared::is_alone(site),
        "fronts": fronts,
        "servers": servers,
    }))
}

fn apexes(home: &Home, facts: &Facts<'_>) -> Result<Value> {
    let mut hosts: Vec<String> = facts.routes.platforms.iter().map(|platform| platform.host()).collect();
    hosts.extend(facts.routes.domains().iter().map(|domain| domain.to_string()));
    hosts.sort_by_key(|host| (std::cmp::Reverse(host.split('.').count()), host.clone()));
    hosts.dedup();
    let apex = |host: String| {
        let fronts = fronts(facts, &host, false)?;
        Ok(json!({ "pages": page_prefix(home, &host), "fronts": fronts, "host": host }))
    };
    let apexes = hosts.into_iter().map(apex).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "apexes": apexes }))
}

/// nginx refuses a second `server_names_hash_…` or `map_hash_…`, so a host that has its own keeps it.
fn sets_hash_sizes(home: &Home, prefix: &str) -> bool {
    let mut files = vec![home.main.clone()];
    let entries = std::fs::read_dir(home.root.join("conf.d")).into_iter().flatten().flatten();
    files.extend(entries.map(|entry| entry.path()).filter(|path| !path.ends_with("zz-adt.conf")));
    let sets = |text: String| text.lines().any(|line| line.trim_start().starts_with(prefix));
    files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).any(sets)
}
