//! `box.toml` → [`Recipe`].

pub mod raw;
#[cfg(test)]
pub mod tests;

use std::path::{Path, PathBuf};

use crate::model::names::BoxName;
use crate::model::recipe::{Archive, BuildStep, Parent, Recipe};
use crate::model::{BoxRef, Check, Digest, Failure, Fault, Health, Kind};

use super::at::{At, in_order};
use super::check;
use super::document;
use super::fault::Faults;

/// Reads the `box.toml` of a folder; the box is named like the folder.
pub fn read(file: &Path) -> Result<Recipe, Failure> {
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = BoxName::new(folder).map_err(|error| {
        Failure::new(Kind::Config, format!("use `{}`", file.display()))
            .because(&error)
            .hint("rename the folder: a box is named like its folder")
    })?;
    document::read(file, |text| parse(&name, file, text))
}

/// `file` is for messages and for the recipe's folder; only `text` is looked at.
pub fn parse(name: &BoxName, file: &Path, text: &str) -> Result<Recipe, Vec<Fault>> {
    let mut faults = Faults::new(file, text);
    let raw = document::parse::<raw::Document>(&super::schema(super::Document::Recipe), &mut faults);
    let recipe = raw.and_then(|raw| settle(name, &raw, file, &mut faults));
    match recipe {
        Some(recipe) if faults.is_empty() => Ok(recipe),
        _ => Err(faults.into_list()),
    }
}

fn settle(name: &BoxName, raw: &raw::Document, file: &Path, faults: &mut Faults) -> Option<Recipe> {
    let parent = parent(name, &raw.boxed.from, faults);
    let packages = raw.boxed.packages.iter().filter_map(|word| package(word, faults)).collect();
    let services: Vec<_> = raw.boxed.services.iter().filter_map(|word| check::unit(faults, word)).collect();
    let mask: Vec<_> = raw.boxed.mask.iter().filter_map(|word| check::unit(faults, word)).collect();
    for word in &raw.boxed.mask {
        if raw.boxed.services.iter().any(|service| same_unit(service, word)) {
            faults.add_hint(
                word.span(),
                format!("unit `{}` is both started and masked", word.escape_debug()),
                "keep it in one of the two lists",
            );
        }
    }
    let health = raw.health.as_ref().map(|health| settle_health(health, faults));
    let steps = raw.steps.iter().filter_map(|each| step(each, faults)).collect();
    let vars = in_order(&raw.vars);
    for (key, value) in &vars {
        if !check::is_variable(key) {
            let message = format!("`{}` is not the name of a variable", key.escape_debug());
            faults.add_hint(key.span(), message, "use letters, digits and underscores, e.g. `document_root`");
        }
        if value.contains('\0') {
            faults
                .add(value.span(), format!("the value of `{}` holds a zero byte, which no environment can", key.escape_debug()));
        }
    }
    Some(Recipe {
        name: name.clone(),
        summary: check::summary(faults, raw.boxed.summary.as_ref()),
        parent: parent?,
        packages,
        services,
        mask,
        exposes: raw.boxed.exposes.clone(),
        logs: raw.boxed.logs.iter().filter_map(|path| check::log_path(faults, path)).collect(),
        host: raw.boxed.host,
        health,
        vars: vars.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        steps,
        folder: file.parent().unwrap_or(Path::new("")).to_owned(),
    })
}

/// The only key that is given, or a fault.
fn only<'a>(choices: &[(&'static str, &'a Option<At<String>>)]) -> Result<(&'static str, &'a At<String>), String> {
    let given: Vec<_> = choices.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?))).collect();
    match given.as_slice() {
        [one] => Ok(*one),
        [] => Err("none is given".to_owned()),
        several => {
            let keys: Vec<_> = several.iter().map(|(key, _)| format!("`{key}`")).collect();
            Err(format!("{} are given", keys.join(" and ")))
        }
    }
}

fn parent(name: &BoxName, from: &At<raw::From>, faults: &mut Faults) -> Option<Parent> {
    let choices = [("box", &from.boxed), ("suite", &from.suite), ("rootfs", &from.rootfs), ("oci", &from.oci)];
    let chosen = only(&choices);
    if let (Ok(("box" | "suite", _)), Some(word)) = (&chosen, &from.sha256) {
        faults.add_hint(
            word.span(),
            "only an archive has a SHA-256",
            "a suite is checked by its signature, a box by what it stands on; leave it out",
        );
    }
    match chosen {
        Ok(("box", word)) => {
            let parent = check::name(faults, word, BoxName::new)?;
            if parent == *name {
                faults.add_hint(word.span(), format!("box `{name}` starts from itself"), "name its parent, or a Debian suite");
            }
            Some(Parent::Box(BoxRef { name: parent, place: Some(faults.place(word.span())) }))
        }
        Ok(("suite", word)) => suite(word, faults).map(Parent::Suite),
        Ok(("rootfs", word)) => archive(word, from.sha256.as_ref(), faults).map(Parent::Rootfs),
        Ok((_, word)) => archive(word, from.sha256.as_ref(), faults).map(Parent::Oci),
        Err(reason) => {
            let hint = "give exactly one of `box`, `suite`, `rootfs`, `oci`, e.g. from = { suite = \"bookworm\" }";
            faults.add_hint(from.span(), format!("a box starts from one thing, but {reason}"), hint);
            None
        }
    }
}

fn archive(path: &At<String>, sha256: Option<&At<String>>, faults: &mut Faults) -> Option<Archive> {
    let path = recipe_path(path, faults);
    let sha256 = match sha256 {
        None => None,
        Some(word) => match Digest::try_from(word.to_ascii_lowercase()) {
            Ok(digest) => Some(digest),
            Err(_) => {
                let message = format!("`{}` is not a SHA-256", word.escape_debug());
                faults.add_hint(word.span(), message, "write the 64 characters that `sha256sum` prints");
                return None;
            }
        },
    };
    Some(Archive { path: path?, sha256 })
}

fn step(step: &At<raw::Step>, faults: &mut Faults) -> Option<BuildStep> {
    let choices = [("files", &step.files), ("script", &step.script), ("ansible", &step.ansible), ("salt", &step.salt)];
    match only(&choices) {
        Ok(("files", word)) => recipe_path(word, faults).map(BuildStep::Files),
        Ok(("script", word)) => recipe_path(word, faults).map(BuildStep::Script),
        Ok(("ansible", word)) => recipe_path(word, faults).map(BuildStep::Ansible),
        Ok((_, word)) => recipe_path(word, faults).map(BuildStep::Salt),
        Err(reason) => {
            let hint = "give exactly one of `files`, `script`, `ansible`, `salt`; begin another step with [[steps]]";
            faults.add_hint(step.span(), format!("a step does one thing, but {reason}"), hint);
            None
        }
    }
}

fn recipe_path(word: &At<String>, faults: &mut Faults) -> Option<PathBuf> {
    check::inner_path(faults, word, "the recipe's folder")
}

fn suite(word: &At<String>, faults: &mut Faults) -> Option<String> {
    let starts = word.starts_with(|c: char| c.is_ascii_lowercase());
    if starts && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-./".contains(&b)) && !word.contains("..")
    {
        return Some(word.to_string());
    }
    faults.add_hint(
        word.span(),
        format!("`{}` is not a Debian suite", word.escape_debug()),
        "write its code name, e.g. `bookworm`",
    );
    None
}

/// Debian Policy 5.6.1, with apt's `=version` or `/suite` behind it. Anything else could be read by apt as an option, a pattern
/// or a removal (`name-`).
fn package(word: &At<String>, faults: &mut Faults) -> Option<String> {
    let (name, rest) = word.split_at(word.find(['=', '/']).unwrap_or(word.len()));
    let (name, arch) = name.split_once(':').unwrap_or((name, "any"));
    let named = name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
        // apt takes this ending for "remove" where no package has the whole name.
        && !name.ends_with('-');
    let arched = !arch.is_empty() && arch.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let pinned =
        rest.is_empty() || rest.len() > 1 && rest[1..].bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b));
    if named && arched && pinned {
        return Some(word.to_string());
    }
    let hint = "write it as apt does, e.g. `apache2`, `php=2:8.2+93` or `nginx/bookworm-backports`";
    faults.add_hint(word.span(), format!("`{}` is not a Debian package", word.escape_debug()), hint);
    None
}

fn same_unit(one: &str, other: &str) -> bool {
    one == other || format!("{one}.service") == other || one == format!("{other}.service")
}

fn settle_health(raw: &raw::Health, faults: &mut Faults) -> Health {
    let mut checks = Vec::new();
    if let Some(http) = &raw.http {
        let path = http.path.as_ref().map_or("/".to_owned(), |path| check::url_path(faults, path));
        checks.push(Check::Http { port: http.port, path, host: None });
    }
    checks.extend(raw.tcp.map(|port| Check::Tcp { port }));
    if let Some(command) = &raw.command {
        if command.first().is_none_or(|program| program.is_empty()) || command.iter().any(|word| word.contains('\0')) {
            faults.add_hint(command.span(), "the health command names no program", "write e.g. [\"mysqladmin\", \"ping\"]");
        }
        checks.push(Check::Command { argv: command.to_vec() });
    }
    if checks.is_empty() {
        // Only the deadline was given: it is init's.
        checks.push(Check::Booted);
    }
    Health { checks, deadline_seconds: raw.deadline }
}
