//! git as its users have set it up: the system's program, with their credentials, agents and helpers.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::address::{Address, LOGIN_FILE};
use super::beneath::Beneath;
use super::{Error, Result};
use crate::exec::{Account, Cancel, Command, Limits};

/// For whom git works: behind sudo the person, whose keys and folders these are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// `None` is root itself.
    pub account: Option<Account>,
    pub home: Option<PathBuf>,
    /// Never as anybody else, whomever a folder belongs to by now: what is worked on is known to be theirs.
    pub only: bool,
    /// They want no more of it.
    pub cancel: Cancel,
}

impl Person {
    /// As the kernel knows them.
    pub fn user(&self) -> u32 {
        self.account.as_ref().map_or(0, |account| account.user)
    }

    /// For work that takes long and that they may cut short.
    pub(super) fn limits(&self) -> Limits {
        Limits { cancel: Some(self.cancel.clone()), ..Limits::default() }
    }
}

/// Whether a word can only be meant as a git address.
pub fn is_address(word: &str) -> bool {
    let scp_like = || {
        let Some((host, path)) = word.split_once(':') else { return false };
        !path.is_empty() && !host.contains('/') && host.contains(['@', '.'])
    };
    word.contains("://") || word.ends_with(".git") || scp_like()
}

/// Clones into `folder`, which does not exist yet.
pub fn clone(person: &Person, address: &Address, branch: Option<&str>, folder: &Path) -> Result<()> {
    let mut command = address.log_in(git(person)).limits(person.limits()).arg("clone").arg("--quiet");
    if let Some(branch) = branch {
        command = command.arg(format!("--branch={branch}"));
    }
    command.arg("--").arg(&address.shown).arg(folder).run().map_err(|source| Error::Fetch {
        address: address.shown.clone(),
        branch: branch.map(str::to_owned),
        source,
    })?;
    if let Some((key, helper, _)) = address.kept() {
        for value in ["", helper] {
            git(person).arg("-C").arg(folder).args(["config", "--add", &key, value]).run()?;
        }
    }
    keep_login(person, address, folder)
}

/// Puts the login of an address beside a checkout's settings, for its person alone.
pub(super) fn keep_login(person: &Person, address: &Address, checkout: &Path) -> Result<()> {
    let Some((_, _, line)) = address.kept() else { return Ok(()) };
    let path = checkout.join(LOGIN_FILE);
    let kept = Beneath::open(checkout, Some(person.user()))
        .and_then(|below| below.replace(LOGIN_FILE, 0o600, line.expose_secret().as_bytes(), &format!("{LOGIN_FILE}.new")));
    kept.map_err(|source| Error::Io { what: "write", path, source })
}

/// What a checkout's settings have as its origin. One that its person gave a password stays as it is, and is not shown.
fn origin(person: &Person, folder: &Path) -> Result<Option<String>> {
    let (status, output) =
        git(person).arg("-C").arg(folder).args(["config", "--get", "remote.origin.url"]).run_any(&mut |_, _| {})?;
    Ok(status.success().then(|| output.text().trim().to_owned()))
}

/// Fast-forwards a checkout; what the user changed stays, a conflict is git's error. Returns what it printed.
pub fn pull(person: &Person, folder: &Path) -> Result<String> {
    if !folder.join(".git").exists() {
        return Err(Error::NoCheckout { folder: folder.to_owned() });
    }
    let before = head(person, folder)?;
    let full = origin(person, folder)?.unwrap_or_default();
    Address::new(&full)
        .log_in(git(person))
        .limits(person.limits())
        .arg("-C")
        .arg(folder)
        .args(["pull", "--quiet", "--ff-only"])
        .run()
        .map_err(|source| Error::Fetch { address: folder.display().to_string(), branch: None, source })?;
    let after = head(person, folder)?;
    Ok(if before == after { format!("already at {after}") } else { format!("{before} → {after}") })
}

fn head(person: &Person, folder: &Path) -> Result<String> {
    Ok(git(person).arg("-C").arg(folder).args(["rev-parse", "--short", "HEAD"]).run()?.text().trim().to_owned())
}

/// git with nobody's settings, for repositories that are adt's own.
pub(super) fn plain() -> Command {
    Command::new("git").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C.UTF-8")
}

/// The person's own way to call ssh, told not to ask. A shell reads it, once an address needs it; git adds the words `"$@"`.
const SSH: &str = r#"ask_nobody() {
    eval "${ADT_GIT_SSH:-$(git config core.sshCommand || echo ssh)} -oBatchMode=yes -oConnectTimeout=10 \"\$@\""
}; ask_nobody"#;

/// What every git of ours leaves alone. A machine writes in a checkout, and where the commit names a submodule it can put a
/// repository of its own there: git would read that one's settings, and run what they name. A word of the call outweighs
/// `diff.ignoreSubmodules`, and with it what a `.gitmodules` says, so `status` and `diff` need [`NO_SUBMODULES`], too.
///
/// Hooks, filters and `core.fsmonitor` of the checkout itself are its person's, who may want them; no machine reaches them.
const ALONE: [&str; 8] = [
    "-c",
    "submodule.recurse=false",
    "-c",
    "fetch.recurseSubmodules=false",
    "-c",
    "push.recurseSubmodules=no",
    "-c",
    "diff.ignoreSubmodules=all",
];

/// For `status` and `diff`.
pub(super) const NO_SUBMODULES: &str = "--ignore-submodules=all";

/// git as this person.
pub(super) fn git(person: &Person) -> Command {
    let mut command = Command::new("git")
        .args(ALONE)
        // `ext::` and friends would run programs that an address names.
        .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
        // There is nobody at our pipe to type a password: a helper or an agent has it, or git says so at once.
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_SSH_COMMAND", SSH)
        // Large files would be fetched one by one from a server that may be out of reach.
        .env("GIT_LFS_SKIP_SMUDGE", "1");
    if let Some(own) = std::env::var_os("GIT_SSH_COMMAND") {
        command = command.env("ADT_GIT_SSH", own);
    }
    if let Some(account) = &person.account {
        command = command.account(account.clone());
    }
    match (&person.home, &person.account) {
        (Some(home), _) => command.env("HOME", home),
        // Another's home is closed to them, and git fails where it can't look.
        (None, Some(_)) => command.env("HOME", "/nonexistent"),
        (None, None) => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_called_as_the_person_calls_it_and_asks_nobody() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a b");
        std::fs::create_dir(&folder).unwrap();
        plain().args(["init", "--quiet", "--bare"]).arg(folder.join("it's")).run().unwrap();
        // In place of ssh: notes its words, and runs here what should run there.
        let script =
            "#!/bin/sh\n[ \"$1\" = -G ] && exit\nprintf '%s|' \"$@\" >>\"$HOME/called\"\nfor last; do :; done\neval \"$last\"\n";
        let ssh = folder.join("ssh");
        std::fs::write(&ssh, script).unwrap();
        std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let config = format!("[core]\n\tsshCommand = \"'{}' -i 'my key'\"\n", ssh.display());
        std::fs::write(home.path().join(".gitconfig"), config).unwrap();
        let person = Person { home: Some(home.path().to_owned()), ..Person::default() };
        let address = format!("ssh://git.example.test{}", folder.join("it's").display());
        git(&person).args(["ls-remote", "--", &address]).run().unwrap();
        let called = std::fs::read_to_string(home.path().join("called")).unwrap();
        assert!(called.contains("-i|my key|-oBatchMode=yes|-oConnectTimeout=10|"), "{called}");
        assert!(called.contains("|git.example.test|git-upload-pack '"), "{called}");
    }

    #[test]
    fn addresses_are_told_from_names_and_folders() {
        for address in ["https://git.example.org/shop.git", "git@git.example.org:shop", "ssh://x/y", "file:///x", "host.org:a/b"]
        {
            assert!(is_address(address), "{address}");
        }
        for word in ["hello", "./hello", "/srv/shop", "a/b:c", "shop"] {
            assert!(!is_address(word), "{word}");
        }
    }
}
