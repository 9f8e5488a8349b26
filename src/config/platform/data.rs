//! `[data.…]` → data sets.

use std::collections::BTreeMap;

use crate::model::topology::{DataEngine, DataSet, Server, Sql};

use super::machines::Roles;
use super::{all, label, raw, sites};
use crate::config::at::{At, in_order};
use crate::config::check;
use crate::config::fault::Faults;

pub fn settle(raw: &raw::Document, roles: &Roles, faults: &mut Faults) -> Vec<DataSet> {
    let entries = in_order(&raw.data);
    let sets = entries.iter().filter_map(|(name, data)| data_set(name, data, &raw.platform.name, roles, faults)).collect();
    apart(&entries, &sets, faults);
    sets
}

fn data_set(name: &At<String>, raw: &raw::Data, platform: &At<String>, roles: &Roles, faults: &mut Faults) -> Option<DataSet> {
    let label = label(name, "data", faults);
    let machine = roles.named(&raw.machine, faults);
    let seed = all(raw.seed.as_ref().map(|seed| check::inner_path(faults, seed, "the platform's folder")));
    if let (Some(seed), None) = (&raw.seed, raw.engine) {
        faults.add_hint(
            seed.span(),
            "nothing says what this seed is for",
            "add `engine`: `mariadb`, `mysql`, `postgresql`, `files` or `script`",
        );
    }
    let engine = all(raw.engine.map(|engine| match engine {
        raw::Engine::Mariadb => sql(Server::Mariadb, raw, platform, faults),
        raw::Engine::Mysql => sql(Server::Mysql, raw, platform, faults),
        raw::Engine::Postgresql => sql(Server::Postgresql, raw, platform, faults),
        raw::Engine::Files => files(name, raw, faults),
        raw::Engine::Script => script(name, raw, faults),
    }));
    Some(DataSet { name: label?, machine: machine?, engine: engine?, seed: seed? })
}

fn sql(server: Server, raw: &raw::Data, platform: &At<String>, faults: &mut Faults) -> Option<DataEngine> {
    useless(&raw.target, "target", "files", faults);
    let mut word = |word: &Option<At<String>>, noun: &str| match word {
        Some(word) => identifier(word, noun, faults),
        // A platform whose name is bad has its fault where it is given.
        None => Some(platform.replace(['-', '.'], "_")),
    };
    let (database, user) = (word(&raw.database, "database"), word(&raw.user, "database user"));
    Some(DataEngine::Sql(Sql { server, database: database?, user: user? }))
}

fn files(name: &At<String>, raw: &raw::Data, faults: &mut Faults) -> Option<DataEngine> {
    useless(&raw.database, "database", "databases", faults);
    let user = all(raw.user.as_ref().map(|user| sites::user_name(user, faults)));
    let Some(target) = &raw.target else {
        let message = format!("the data `{}` has no `target`", name.escape_debug());
        faults.add_hint(name.span(), message, "name the folder inside the machine, e.g. `target = \"/srv/media\"`");
        return None;
    };
    Some(DataEngine::Files { target: check::machine_path(faults, target)?, user: user? })
}

fn script(name: &At<String>, raw: &raw::Data, faults: &mut Faults) -> Option<DataEngine> {
    useless(&raw.database, "database", "databases", faults);
    useless(&raw.user, "user", "databases and files", faults);
    useless(&raw.target, "target", "files", faults);
    if raw.seed.is_none() {
        let message = format!("the data `{}` has no script", name.escape_debug());
        faults.add_hint(name.span(), message, "name it: `seed = \"seed/make.sh\"`");
    }
    Some(DataEngine::Script)
}

/// A key that says nothing with this engine was meant for another one.
fn useless(value: &Option<At<String>>, key: &str, used_by: &str, faults: &mut Faults) {
    if let Some(value) = value {
        faults.add_hint(value.span(), format!("`{key}` is for {used_by} only"), "remove it, or choose another `engine`");
    }
}

/// What both kinds of server take between quotes, and MariaDB as a user's name.
fn identifier(word: &At<String>, noun: &str, faults: &mut Faults) -> Option<String> {
    let starts = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && word.len() <= 32 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
        return Some(word.to_string());
    }
    let message = format!("`{}` is not the name of a {noun}", word.escape_debug());
    faults.add_hint(word.span(), message, "use at most 32 letters, digits, underscores and hyphens, a letter first");
    None
}

/// Two data sets in one database would overwrite each other, and one user can't have two passwords.
fn apart(entries: &[(&At<String>, &raw::Data)], sets: &Vec<DataSet>, faults: &mut Faults) {
    let mut databases = BTreeMap::new();
    let mut users = BTreeMap::new();
    for set in sets {
        let Some(sql) = set.sql() else { continue };
        let span = entries.iter().find(|(name, _)| name.as_str() == set.name).map_or(0..0, |(name, _)| name.span());
        if let Some(other) = databases.insert((&set.machine, &sql.database), &set.name) {
            let message = format!("the data `{other}` and `{}` are both in the database `{}`", set.name, sql.database);
            faults.add_hint(span.clone(), message, "give one of them another `database`");
        }
        if let Some(other) = users.insert((&set.machine, &sql.user), &set.name) {
            let message = format!("the data `{other}` and `{}` both have the user `{}`", set.name, sql.user);
            faults.add_hint(span, message, "give one of them another `user`: each has a password of its own");
        }
    }
}
