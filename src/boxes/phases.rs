//! What is run inside a machine to make a box of it, as values. Pure: `build` runs them in order.
//!
//! Programs for the shell are constants; whatever a recipe says reaches them as arguments, the environment or files.

use std::collections::BTreeMap;

use crate::model::{BuildStep, Exec};

/// Where a build's own files are. `/run` is a tmpfs of the machine, so they are never in a layer.
pub const DESK: &str = "/run/adt";

/// What removes an auxiliary program again, once the step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Ansible,
    Salt,
}

/// The environment of everything that a build runs.
pub fn environment(name: &str, vars: &BTreeMap<String, String>, host: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let bundle = format!("{DESK}/ca-bundle.crt");
    let mut env: BTreeMap<String, String> = host.clone();
    let fixed = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", "/root".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        ("APT_CONFIG", format!("{DESK}/apt.conf")),
        ("ADT_BOX", name.to_owned()),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
        ("PIP_NO_CACHE_DIR", "1".to_owned()),
    ];
    env.extend(fixed.map(|(key, value)| (key.to_owned(), value)));
    // Python, curl, git and Node each have a name of their own for the same file.
    let bundles = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"];
    env.extend(bundles.map(|key| (key.to_owned(), bundle.clone())));
    env.extend(vars.iter().map(|(key, value)| (variable(key), value.clone())));
    env.into_iter().collect()
}

/// `php-version` is `ADT_VAR_PHP_VERSION`.
pub fn variable(key: &str) -> String {
    let word: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("ADT_VAR_{word}")
}

/// `apt.conf` for the time of the build.
pub fn apt_conf(settings: &super::apt::Settings) -> String {
    let mut text = "Dpkg::Use-Pty \"false\";\nDPkg::Lock::Timeout \"120\";\nAPT::Keep-Downloaded-Packages \"true\";\n\
                    Acquire::Retries \"3\";\nAcquire::Languages \"none\";\n\
                    DPkg::Options { \"--force-confdef\"; \"--force-confold\"; };\n"
        .to_owned();
    text += &format!("Acquire::https::CaInfo \"{DESK}/ca-bundle.crt\";\n");
    for line in settings.transport.iter().chain(&settings.archive) {
        text += line;
        text.push('\n');
    }
    text
}

pub fn state() -> Exec {
    Exec::new(["systemctl", "is-system-running"])
}

/// The first thing on a new machine: nothing of its own uses apt meanwhile, and it trusts whom the host trusts. The bundle is
/// extended by hand, because `update-ca-certificates` takes seconds and writes 300 links into the layer.
pub fn prepare() -> Exec {
    shell(
        "systemctl stop apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service 2>/dev/null
         if [ -d /run/adt/ca ]; then
             mkdir -p /usr/local/share/ca-certificates
             cp /run/adt/ca/*.crt /usr/local/share/ca-certificates/
             if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
                 cp -p /etc/ssl/certs/ca-certificates.crt /run/adt/ca-before.crt
                 cat /run/adt/ca/*.crt >> /etc/ssl/certs/ca-certificates.crt
             fi
         fi
         exit 0",
        [],
    )
}

pub fn update() -> Exec {
    Exec::new(["apt-get", "update", "-q"])
}

pub fn install(packages: &[String]) -> Exec {
    let fixed = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--"];
    Exec::new(fixed.into_iter().map(str::to_owned).chain(packages.iter().cloned()))
}

/// Where step number `index` finds its material.
pub fn material(index: usize) -> String {
    format!("{DESK}/step-{index}")
}

/// The step itself. `file` is the playbook's, state's or script's name in its material, where it isn't the whole.
pub fn step(step: &BuildStep, index: usize, file: Option<&str>) -> Exec {
    let folder = material(index);
    match step {
        // `cp` stumbles over `/bin` being a link, and gives existing folders new modes.
        BuildStep::Files(_) => {
            shell("tar -C \"$1\" -cf - . | tar -C / -xf - --keep-directory-symlink --no-overwrite-dir --no-same-owner", [folder])
        }
        BuildStep::Script(_) => Exec::new([folder]),
        BuildStep::Seed { .. } => unreachable!("a seed is several commands, see `seed`"),
        BuildStep::Ansible(_) => {
            let mut exec = Exec::new(["ansible-playbook", "-c", "local", "-i", "localhost,", "-e", "@/run/adt/vars.json"]);
            exec.argv.push(file.unwrap_or("site.yml").to_owned());
            exec.cwd = Some(folder);
            let temporary = format!("{DESK}/ansible");
            for key in ["ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP", "ANSIBLE_HOME"] {
                exec.env.push((key.to_owned(), temporary.clone()));
            }
            exec.env.push(("ANSIBLE_NOCOLOR".to_owned(), "1".to_owned()));
            exec
        }
        BuildStep::Salt(_) => {
            let mut exec = shell(
                "PATH=$PATH:/opt/adt-salt/bin
                 exec salt-call --local --retcode-passthrough --no-color --log-file=/run/adt/salt.log --config-dir=/run/adt/salt \\
                     --file-root=\"$1\" --state-output=changes state.apply ${2:+\"$2\"} pillar=\"$(cat /run/adt/vars.json)\"",
                [folder],
            );
            exec.argv.extend(file.map(|file| file.trim_end_matches(".sls").to_owned()));
            exec
        }
    }
}

impl Tool {
    pub fn of(step: &BuildStep) -> Option<Self> {
        match step {
            BuildStep::Ansible(_) => Some(Self::Ansible),
            BuildStep::Salt(_) => Some(Self::Salt),
            BuildStep::Files(_) | BuildStep::Script(_) | BuildStep::Seed { .. } => None,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Ansible => "ansible",
            Self::Salt => "salt",
        }
    }

    /// Does nothing where the box has it already. What was installed before is written down for [`Tool::remove`].
    pub fn install(self) -> Exec {
        const BEFORE: &str = "dpkg-query -W -f '${Package}\\n' | sort > /run/adt/packages-before";
        match self {
            Self::Ansible => shell(
                &format!(
                    "set -e
                     if command -v ansible-playbook >/dev/null; then exit 0; fi
                     {BEFORE}
                     apt-get update -q
                     apt-get install -q -y --no-install-recommends ansible-core"
                ),
                [],
            ),
            // Debian dropped Salt after bullseye; elsewhere it comes from PyPI.
            Self::Salt => shell(
                &format!(
                    "set -e
                     mkdir -p /run/adt/salt
                     if command -v salt-call >/dev/null; then exit 0; fi
                     {BEFORE}
                     apt-get update -q
                     if apt-cache show salt-minion >/dev/null 2>&1; then
                         apt-get install -q -y --no-install-recommends salt-minion
                         systemctl disable --now salt-minion
                         exit 0
                     fi
                     # Some of what it stands on comes as source only.
                     apt-get install -q -y --no-install-recommends python3-venv python3-dev gcc libc6-dev
                     python3 -m venv /opt/adt-salt
                     /opt/adt-salt/bin/pip install --progress-bar off salt"
                ),
                [],
            ),
        }
    }

    /// Takes the tool and what came with it away again, but nothing that was there before or that the step's own packages need:
    /// what apt calls idle once the tool counts as brought in by others.
    pub fn remove(self) -> Exec {
        let (names, folder) = match self {
            Self::Ansible => ("ansible-core", "/root/.ansible"),
            Self::Salt => ("salt-minion python3-venv python3-dev gcc libc6-dev", "/opt/adt-salt"),
        };
        shell(
            "set -e
             rm -rf \"$2\"
             if [ ! -f /run/adt/packages-before ]; then exit 0; fi
             cd /run/adt
             for name in $1; do
                 if dpkg-query -W \"$name\" >/dev/null 2>&1 && ! grep -qx \"$name\" packages-before; then apt-mark -qq auto \"$name\"; fi
             done
             apt-get -s -o APT::AutoRemove::RecommendsImportant=0 -o APT::AutoRemove::SuggestsImportant=0 autoremove | sed -n 's/^Remv \\([^ :]*\\).*/\\1/p' | sort > packages-idle
             comm -13 packages-before packages-idle > packages-gone
             if [ -s packages-gone ]; then xargs apt-get purge -q -y < packages-gone; fi
             rm packages-before",
            [names.to_owned(), folder.to_owned()],
        )
    }
}

/// `systemctl` with the units of the recipe; nothing to do is no command.
pub fn units(verb: &str, units: &[String]) -> Option<Exec> {
    let words = ["systemctl", "--quiet", verb, "--"].into_iter().map(str::to_owned).chain(units.iter().cloned());
    (!units.is_empty()).then(|| Exec::new(words))
}

/// Takes away what belongs to this one machine or to its build: identities, logs, leftovers. Host keys come back at the first
/// start of the ssh server.
pub fn clean() -> Exec {
    shell(
        "rm -f /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
         if [ -d /run/adt/ca ]; then
             (cd /run/adt/ca && for file in *.crt; do rm -f \"/usr/local/share/ca-certificates/$file\"; done)
             if [ -L /etc/ssl/certs/adt-build-0.pem ]; then
                 update-ca-certificates --fresh >/dev/null
             elif [ -f /run/adt/ca-before.crt ]; then
                 cp -p /run/adt/ca-before.crt /etc/ssl/certs/ca-certificates.crt
             fi
         fi
         if [ -x /usr/sbin/sshd ]; then
             rm -f /etc/ssh/ssh_host_*
             mkdir -p /etc/systemd/system/ssh.service.d
             printf '[Service]\\nExecStartPre=\\nExecStartPre=/usr/bin/ssh-keygen -A\\nExecStartPre=/usr/sbin/sshd -t\\n' \\
                 > /etc/systemd/system/ssh.service.d/host-keys.conf
         fi
         rm -rf /root/.cache /root/.ansible /root/.wget-hsts
         rm -f /root/.*_history /var/lib/systemd/random-seed
         find /tmp /var/tmp -xdev -mindepth 1 -delete 2>/dev/null
         rm -rf /var/log/journal/*
         find /var/log -xdev -type f \\( -name '*.gz' -o -name '*.[0-9]' \\) -delete
         find /var/log -xdev -type f -exec truncate -s 0 {} +
         if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then rm -f /var/lib/dbus/machine-id; fi
         : > /etc/machine-id",
        [],
    )
}

pub(super) fn shell<const N: usize>(script: &str, args: [String; N]) -> Exec {
    Exec::new(["/bin/sh", "-c", script, "adt"].into_iter().map(str::to_owned).chain(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_recipe_says_is_never_read_by_a_shell() {
        let bad = ["x; reboot".to_owned(), "--purge".to_owned()];
        let exec = install(&bad);
        assert_eq!(exec.argv[exec.argv.len() - 3..], ["--", "x; reboot", "--purge"]);
        assert_eq!(units("enable", &bad).unwrap().argv[3..], ["--", "x; reboot", "--purge"]);
        assert_eq!(units("mask", &[]), None);
        let exec = step(&BuildStep::Salt("a/b c.sls".into()), 1, Some("b c.sls"));
        assert_eq!(exec.argv[3..], ["adt", "/run/adt/step-1", "b c"]);
    }

    #[test]
    fn the_scripts_are_good_shell() {
        let salt = step(&BuildStep::Salt("x".into()), 0, None);
        let files = step(&BuildStep::Files("x".into()), 0, None);
        let tools = [Tool::Ansible, Tool::Salt].map(|tool| [tool.install(), tool.remove()]).into_iter().flatten();
        for exec in tools.chain([salt, files, prepare(), clean()]) {
            crate::exec::Command::new("sh").args(["-n", "-c", &exec.argv[2]]).run().unwrap();
        }
    }

    #[test]
    fn variables_are_named_as_shells_can_read_them() {
        let vars = BTreeMap::from([("php-version".to_owned(), "8.2".to_owned())]);
        let host = BTreeMap::from([("https_proxy".to_owned(), "http://p:1".to_owned())]);
        let env = environment("web", &vars, &host);
        assert!(env.contains(&("ADT_VAR_PHP_VERSION".to_owned(), "8.2".to_owned())));
        assert!(env.contains(&("https_proxy".to_owned(), "http://p:1".to_owned())));
    }
}
