//! `[sites.…]` → sites.

use std::collections::BTreeMap;
use std::path::Component;

use crate::model::names::{BranchName, SiteName};
use crate::model::route::Protocol;
use crate::model::topology::{Code, Mode, Reach, Rollout, Traffic};
use crate::model::{RoleName, Site};

use super::machines::Roles;
use super::{all, once, raw};
use crate::config::at::{At, in_order};
use crate::config::check::{self, Node};
use crate::config::fault::Faults;

pub fn settle(raw: &raw::Document, roles: &Roles, faults: &mut Faults) -> Vec<Site> {
    let entries = in_order(&raw.sites);
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    let nodes: Vec<Node> = entries.iter().map(|(name, raw)| Node { name: name.as_str(), to: &raw.needs }).collect();
    if let Some((cycle, span)) = check::cycle(&nodes) {
        faults.add_hint(span, format!("sites need each other: {}", cycle.join(" -> ")), "remove one of these from `needs`");
    }
    aliases_apart(&entries, faults);
    entries.iter().filter_map(|(name, raw)| site(name, raw, &names, roles, faults)).collect()
}

/// Two sites can't answer to one name of production.
fn aliases_apart(entries: &[(&At<String>, &raw::Site)], faults: &mut Faults) {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, raw) in entries {
        for alias in &raw.aliases {
            if let Some(owner) = owners.insert(alias, name) {
                let message = format!("alias `{}` already belongs to site `{owner}`", alias.escape_debug());
                faults.add_hint(alias.span(), message, "keep one of the two");
            }
        }
    }
}

fn site(name: &At<String>, raw: &raw::Site, sites: &[&str], roles: &Roles, faults: &mut Faults) -> Option<Site> {
    let label = check::name(faults, name, SiteName::new);
    let on: Option<RoleName> = roles.named(&raw.on, faults);
    once(&raw.needs, "site", faults);
    let needs = raw.needs.iter().filter_map(|site| needed(site, sites, faults)).collect();
    for alias in &raw.aliases {
        if !check::is_host_name(alias) {
            let message = format!("the alias `{}` is not a host name", alias.escape_debug());
            faults.add_hint(alias.span(), message, "write only the name, in lower case, e.g. `www.example.org`");
        }
    }
    let health = raw.health.as_ref().map_or("/".to_owned(), |path| check::url_path(faults, path));
    let code = code(raw, roles, faults);
    let env = in_order(&raw.env).into_iter().filter_map(|(key, value)| variable(key, value, faults)).collect();
    let aliases = raw.aliases.iter().map(|alias| alias.to_string()).collect();
    let protocol = match raw.protocol {
        raw::Protocol::Http1 => Protocol::Http1,
        raw::Protocol::H2c => Protocol::H2c,
    };
    let traffic = Traffic { protocol, sticky: raw.sticky, https_only: raw.https_only };
    once(&raw.logs, "log file", faults);
    let logs = raw.logs.iter().filter_map(|path| check::log_path(faults, path)).collect();
    Some(Site { name: label?, on: on?, port: raw.port, health, aliases, needs, traffic, code: code?, env, logs })
}

fn needed(site: &At<String>, sites: &[&str], faults: &mut Faults) -> Option<SiteName> {
    if sites.contains(&site.as_str()) {
        return SiteName::new(site.as_str()).ok();
    }
    let hint = check::meant(site, sites.iter().copied(), "add it as `[sites.…]`");
    faults.add_hint(site.span(), format!("there is no site `{}`", site.escape_debug()), hint);
    None
}

fn code(raw: &raw::Site, roles: &Roles, faults: &mut Faults) -> Option<Code> {
    once(raw.templates.as_deref().unwrap_or_default(), "path", faults);
    let mut inside = |path| {
        let path = check::inner_path(faults, path, "the site's repository")?;
        // `./config` is `config`, and `.` is all of it.
        Some(path.components().filter(|part| *part != Component::CurDir).collect())
    };
    let templates = raw.templates.as_ref().map(|paths| paths.iter().filter_map(&mut inside).collect());
    let mut program =
        |path: &Option<At<String>>| all(path.as_ref().map(|path| check::inner_path(faults, path, "the site's repository")));
    let (buildpack, predeploy, postdeploy) = (program(&raw.buildpack), program(&raw.predeploy), program(&raw.postdeploy));
    let (before_deploy, after_deploy) = (program(&raw.before_deploy), program(&raw.after_deploy));
    once(&raw.network, "service", faults);
    let network = raw.network.iter().filter_map(|word| reach(word, roles, faults)).collect();
    once(raw.units.as_deref().unwrap_or_default(), "unit", faults);
    let units = raw.units.as_ref().map(|units| units.iter().filter_map(|unit| check::unit(faults, unit)).collect());
    let path = all(raw.path.as_ref().map(|path| check::machine_path(faults, path)));
    let source = all(raw.source.as_ref().map(|source| address(source, faults)));
    let default_branch = all(raw.default_branch.as_ref().map(|branch| branch_name(branch, faults)));
    let branch = match &raw.branch {
        Some(branch) if branch.trim().is_empty() => {
            faults.add_hint(branch.span(), "the branch is empty", "leave the key out to use the ticket's own branch");
            None
        }
        Some(branch) => Some(branch.to_string()),
        None => Some(Code::BRANCH.to_owned()),
    };
    let user = raw.user.as_ref().map_or_else(|| Some(Code::USER.to_owned()), |user| user_name(user, faults));
    let keep = raw.keep.unwrap_or(Code::KEEP);
    Some(Code {
        source: source?,
        branch: branch?,
        default_branch: default_branch?,
        path: path?,
        mode: match raw.mode {
            raw::Mode::Live => Mode::Live,
            raw::Mode::Release => Mode::Release,
        },
        user: user?,
        templates,
        buildpack: buildpack?,
        predeploy: predeploy?,
        postdeploy: postdeploy?,
        before_deploy: before_deploy?,
        after_deploy: after_deploy?,
        network,
        units,
        phase_deadline: raw.phase_deadline.unwrap_or_else(Code::phase_deadline),
        keep,
        rollout: match raw.rollout {
            raw::Rollout::Waves => Rollout::Waves,
            raw::Rollout::Together => Rollout::Together,
        },
    })
}

/// `db:3306`
fn reach(word: &At<String>, roles: &Roles, faults: &mut Faults) -> Option<Reach> {
    let parts = word.split_once(':').and_then(|(role, port)| Some((role, port.parse::<u16>().ok().filter(|port| *port > 0)?)));
    let Some((role, port)) = parts else {
        let message = format!("`{}` is no service of a role", word.escape_debug());
        faults.add_hint(word.span(), message, "write the role and its port, e.g. `db:3306`");
        return None;
    };
    Some(Reach { role: roles.known(role, word.span(), faults)?, port })
}

/// What Debian's `adduser` takes.
pub(super) fn user_name(user: &At<String>, faults: &mut Faults) -> Option<String> {
    let starts = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if starts && user.len() <= 32 && user.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)) {
        return Some(user.to_string());
    }
    let message = format!("`{}` is not the name of a user", user.escape_debug());
    faults.add_hint(user.span(), message, "write it as the machine's `/etc/passwd` does, e.g. `www-data`");
    None
}

/// git takes a leading hyphen for an option, and its `ext::` addresses run programs.
fn address(source: &At<String>, faults: &mut Faults) -> Option<String> {
    let reason = if source.is_empty() {
        "is empty"
    } else if source.starts_with('-') {
        "starts with a hyphen"
    } else if source.split_once("::").is_some_and(|(helper, _)| helper.bytes().all(|b| b.is_ascii_alphanumeric())) {
        "names a remote helper, which could run any program"
    } else if source.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "holds a blank"
    } else {
        return Some(source.to_string());
    };
    let message = format!("the source `{}` {reason}", source.escape_debug());
    faults.add_hint(source.span(), message, "write a git address, e.g. `https://git.example.org/shop/www.git`");
    None
}

fn branch_name(branch: &At<String>, faults: &mut Faults) -> Option<String> {
    if BranchName::new(branch.as_str()).is_err() {
        let message = format!("`{}` is not a branch that git allows", branch.escape_debug());
        faults.add_hint(branch.span(), message, "write it as `git branch` shows it, e.g. `main`");
        return None;
    }
    Some(branch.to_string())
}

fn variable(key: &At<String>, value: &At<String>, faults: &mut Faults) -> Option<(String, String)> {
    if !check::is_variable(key) {
        let message = format!("`{}` is not the name of a variable", key.escape_debug());
        faults.add_hint(key.span(), message, "use letters, digits and underscores, e.g. `DATABASE_URL`");
        return None;
    }
    if value.contains('\0') {
        faults.add(value.span(), format!("the value of `{}` holds a zero byte, which no environment can", **key));
        return None;
    }
    Some((key.to_string(), value.to_string()))
}
