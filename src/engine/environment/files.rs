//! Files for machines: the platform's `files/<role>/…`, the variables of sites, the logins of databases. The platform's are
//! read once and kept with the definition, so that an edit is in force after `env:reload` and not before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};

use crate::engine::Engine;
use crate::engine::environment::facts::{self, unknown, variables};
use crate::engine::environment::login;
use crate::model::topology::RoleFile;
use crate::model::{
    Digest, EnvironmentId, Facts, Failure, Kind, Machine, MachineName, MachineSpec, MachineState, Platform, RoleName, Site,
};
use crate::plan::Wanted;
use crate::providers::File;
use crate::store::record::Definition;
use crate::store::{self, Environment};
use crate::template::{self, Secret};

/// These files are kept in the database, once for each definition: they are meant for configuration.
const MOST_BYTES: usize = 1 << 20;

/// The platform's files by role.
pub fn read(platform: &Platform) -> Result<BTreeMap<RoleName, Vec<RoleFile>>, Failure> {
    let top = platform.folder.join("files");
    let mut all: BTreeMap<RoleName, Vec<RoleFile>> = BTreeMap::new();
    let mut bytes = 0;
    match std::fs::symlink_metadata(&top) {
        Ok(meta) if meta.is_dir() => {}
        // A link could lead to a folder of this host.
        Ok(_) => return Err(unfit(&top, "it is no folder")),
        Err(_) => return Ok(all),
    }
    for entry in walkdir::WalkDir::new(&top).min_depth(1).sort_by_file_name() {
        let told = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Kind::Config, format!("read `{}`", top.display())).because(error)
        };
        let entry = entry.map_err(|error| told(&error))?;
        let below = entry.path().strip_prefix(&top).expect("the walk stays below its start");
        let role = role_of(platform, below)?;
        if entry.file_type().is_dir() {
            continue;
        }
        let file = role_file(platform, entry.path(), below)?;
        bytes += file.text.len();
        if bytes > MOST_BYTES {
            return Err(unfit(entry.path(), "the files of a platform's machines may have 1M in all"));
        }
        all.entry(role).or_default().push(file);
    }
    Ok(all)
}

fn role_of(platform: &Platform, below: &Path) -> Result<RoleName, Failure> {
    let word = below.iter().next().expect("the walk leaves its start out").to_string_lossy();
    let role = platform.machines.iter().map(|machine| &machine.role).find(|role| role.as_str() == word);
    role.cloned().ok_or_else(|| {
        let known: Vec<_> = platform.machines.iter().map(|machine| format!("`files/{}`", machine.role)).collect();
        Failure::new(Kind::Config, format!("use `{}`", platform.folder.join("files").join(&*word).display()))
            .cause(format!("there is no machine `{word}`"))
            .hint(format!("the folders of this platform's machines are {}", known.join(", ")))
    })
}

fn role_file(platform: &Platform, file: &Path, below: &Path) -> Result<RoleFile, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let told = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Kind::Config, format!("read `{}`", file.display())).because(error)
    };
    let meta = std::fs::symlink_metadata(file).map_err(|error| told(&error))?;
    if !meta.is_file() {
        return Err(unfit(file, "it is no plain file"));
    }
    // Before reading what would not fit anyway.
    if meta.len() > MOST_BYTES as u64 {
        return Err(unfit(file, "the files of a platform's machines may have 1M in all"));
    }
    let bytes = std::fs::read(file).map_err(|error| told(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| unfit(file, "it is no text"))?;
    let inside: PathBuf = below.iter().skip(1).collect();
    let Some(path) = inside.to_str() else { return Err(unfit(file, "its name is no text")) };
    let template = path.strip_suffix(".j2");
    Ok(RoleFile {
        source: file.strip_prefix(&platform.folder).unwrap_or(file).to_owned(),
        path: template.unwrap_or(path).to_owned(),
        executable: meta.permissions().mode() & 0o100 != 0,
        template: template.is_some(),
        text,
    })
}

fn unfit(file: &Path, reason: &str) -> Failure {
    Failure::new(Kind::Config, format!("use `{}`", file.display()))
        .cause(reason)
        .hint("let a box bring it: `files` in a `box.toml` takes anything")
}

/// Every file that one machine gets, rendered.
pub(in crate::engine) fn of_machine(
    definition: &Definition,
    machine: &Machine,
    facts: &Facts,
    secret: &Secret,
) -> Result<Vec<File>, Failure> {
    let platform = &definition.platform;
    let values = facts.values();
    let mut files = login::files(platform, machine, secret);
    for site in platform.sites.iter().filter(|site| site.on == machine.role && !site.env.is_empty()) {
        files.push(variables_file(platform, site, facts, secret)?);
    }
    for file in definition.files.get(&machine.role).into_iter().flatten() {
        let name = platform.folder.join(&file.source).display().to_string();
        let path = template::render_path(&file.path, &values).map_err(unknown)?;
        let text = match file.template {
            true => template::render_with(&name, &file.text, &values, secret).map_err(unknown)?,
            false => file.text.clone(),
        };
        let mode = if file.executable { 0o755 } else { 0o644 };
        files.push(File { path, mode, group: None, text: text.into() });
    }
    Ok(files)
}

/// `/etc/adt/sites/<site>.env`: read by systemd's `EnvironmentFile=` and by shells alike.
fn variables_file(platform: &Platform, site: &Site, facts: &Facts, secret: &Secret) -> Result<File, Failure> {
    let lines = variables(platform, site, facts, secret)?.into_iter().map(|(key, value)| format!("{key}={}\n", quoted(&value)));
    let path = format!("etc/adt/sites/{}.env", site.name);
    Ok(File { path, mode: 0o640, group: Some(site.code.user.clone()), text: lines.collect::<String>().into() })
}

/// Between double quotes, both readers take a backslash before these four and nothing else.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            text.push('\\');
        }
        text.push(c);
    }
    text + "\""
}

fn digest(file: &File) -> Digest {
    let mut hash = Sha256::new();
    hash.update(format!("{:o} {}\n", file.mode, file.group.as_deref().unwrap_or_default()));
    hash.update(file.text.expose_secret());
    Digest::from_bytes(&hash.finalize())
}

impl Engine {
    fn files_of(&self, environment: &Environment, name: &MachineName, secret: &Secret) -> Result<Vec<File>, Failure> {
        let machines = environment.definition.machines_here();
        let Some(machine) = machines.get(name) else { return Ok(Vec::new()) };
        let facts = facts::facts(self.store.install(), environment).on(name);
        of_machine(&environment.definition, machine, &facts, secret)
    }

    /// Which files the machines are to have.
    pub(in crate::engine) fn add_files(&self, environment: &Environment, wanted: &mut Wanted) -> Result<(), Failure> {
        let secret = self.secret(&environment.id)?;
        for (name, machine) in &mut wanted.machines {
            let files = self.files_of(environment, name, &secret)?;
            machine.spec.files = files.iter().map(|file| (file.path.clone(), digest(file))).collect();
        }
        Ok(())
    }

    /// Whether every template of a definition can be filled in.
    pub(in crate::engine) fn try_files(&self, id: &EnvironmentId, definition: &Definition) -> Result<(), Failure> {
        let environment = self.rehearsal(id, definition);
        let secret: Secret = std::sync::Arc::new(|_| String::new());
        definition.machines_here().keys().try_for_each(|name| self.files_of(&environment, name, &secret).map(drop))
    }

    /// An environment that there is not yet, at any address.
    pub(in crate::engine) fn rehearsal(&self, id: &EnvironmentId, definition: &Definition) -> Environment {
        let pool = self.settings.pool_v4.value;
        Environment {
            id: id.clone(),
            wanted: store::Wanted::Up,
            created: 0,
            updated: 0,
            owner: self.owner_to_be(),
            shared: false,
            network: ipnet::Ipv4Net::new(pool.network(), 26).expect("26 is a prefix length"),
            definition: definition.clone(),
            disk: None,
        }
    }

    /// The step that makes a machine, with its files.
    pub(in crate::engine) fn make_machine(&self, environment: &Environment, spec: &MachineSpec) -> Result<(), Failure> {
        let id = &spec.id;
        let provider = self.providers.of(spec)?;
        provider.create(spec)?;
        // What runs has its files: where they change, the machine is stopped first.
        if matches!(provider.inspect(id)?, MachineState::Halted) {
            let before = self.store.database.applied(Some(&id.environment))?.into_iter().find(|(name, _)| *name == id.machine);
            let before = before.map(|(_, spec)| spec.files).unwrap_or_default();
            let gone: Vec<String> = before.into_keys().filter(|path| !spec.files.contains_key(path)).collect();
            if !spec.files.is_empty() || !gone.is_empty() {
                let files = self.files_of(environment, &id.machine, &self.secret(&id.environment)?)?;
                provider.place(id, &files, &gone)?;
            }
        }
        Ok(self.store.database.put_applied(spec)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_written() {
        let value = "a \"b\" $HOME `id` \\n 'c'\n#d";
        let script = format!("VALUE={}\nprintf %s \"$VALUE\"", quoted(value));
        let read = crate::exec::Command::new("sh").args(["-c", &script]).run().unwrap();
        assert_eq!(read.text(), value);
    }
}
