//! What a browser shows where no site answers: homepages, and the reasons why there is nothing.

use serde_json::{Value, json};

use super::{File, Front, Result, file};
use crate::model::route::{EnvironmentRoute, PlatformRoute, Routes};
use crate::template::Prepared;

/// The pages of an environment: its homepage, a name below it that it lacks, and a site that does not answer.
pub fn environment(source: &Prepared<'_>, front: &Front, environment: &EnvironmentRoute) -> Result<Vec<File>> {
    let (id, host) = (&environment.id, environment.host());
    let words = format!("{} {}", id.platform, id.name);
    let sites: Vec<_> = environment.sites.iter().map(|site| link(front, &site.host, &aliases(&site.aliases))).collect();
    let mut all = sites.clone();
    all.extend(environment.machines.iter().map(|machine| {
        json!({ "url": format!("ssh://root@{}", environment.machine_host(machine)), "name": environment.machine_host(machine),
            "note": machine.v4.to_string() })
    }));
    let state = if environment.up { "It is up." } else { "It is halted." };
    let owner = if environment.owner.is_empty() { String::new() } else { format!("Made by {}.", environment.owner) };
    let (why, command) = if environment.up {
        (format!("No machine of {id} answers for this site."), format!("adt env:check {words}"))
    } else {
        (format!("The environment {id} is halted."), format!("adt env:up {words}"))
    };
    let title = format!("Environment {id}");
    let ssh = environment.machines.first().map(|machine| format!("adt env:ssh {words} {}", machine.name));
    Ok(vec![
        page(source, &host, "index", &title, (&[state, &owner], ssh.as_deref(), &all))?,
        page(source, &host, "404", "There is no such site", (&[&format!("The environment {id} has:")], None, &sites))?,
        page(source, &host, "503", &why, (&["This command helps:"], Some(&command), &[]))?,
    ])
}

pub fn platform(source: &Prepared<'_>, front: &Front, platform: &PlatformRoute) -> Result<Vec<File>> {
    let links: Vec<_> = platform
        .environments
        .iter()
        .map(|environment| link(front, &environment.host(), if environment.up { "up" } else { "halted" }))
        .collect();
    let missing = format!("The platform {} has:", platform.name);
    Ok(vec![
        page(source, &platform.host(), "index", &format!("Platform {}", platform.name), (&[&platform.summary], None, &links))?,
        page(source, &platform.host(), "404", "There is no such environment", (&[&missing], None, &links))?,
    ])
}

pub fn domain(source: &Prepared<'_>, front: &Front, routes: &Routes, domain: &str) -> Result<Vec<File>> {
    let mine = routes.platforms.iter().filter(|platform| platform.domain.as_str() == domain);
    let links: Vec<_> = mine.map(|platform| link(front, &platform.host(), &platform.summary)).collect();
    Ok(vec![
        page(source, domain, "index", "Platforms", (&[], None, &links))?,
        page(source, domain, "404", "There is no such platform", (&["This host has:"], None, &links))?,
    ])
}

/// For names that are in none of the domains.
pub fn stranger(source: &Prepared<'_>) -> Result<File> {
    page(source, "_", "404", "No one here has this name", (&[], None, &[]))
}

type Content<'a> = (&'a [&'a str], Option<&'a str>, &'a [Value]);

fn page(source: &Prepared<'_>, host: &str, kind: &str, title: &str, (lines, command, links): Content<'_>) -> Result<File> {
    let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).map(|line| escape(line)).collect();
    let facts = json!({ "title": escape(title), "lines": lines, "command": command.map(escape), "links": links });
    Ok(file(format!("pages/{host}.{kind}.html"), source.render(&facts)?))
}

fn link(front: &Front, host: &str, note: &str) -> Value {
    let port = if front.http == 80 { String::new() } else { format!(":{}", front.http) };
    json!({ "url": format!("http://{host}{port}/"), "name": host, "note": escape(note) })
}

/// Here and not in the template, so that a template of one's own can't forget it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn aliases(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("inside also {}", names.join(", ")) }
}
