//! A repository's address without the password that a person may have written into it.
//!
//! What git is given as a word stands in the process list for every user of the host, and git gives its helpers the whole
//! address as a word again; what adt prints stands in logs. So words and messages have [`Address::shown`], and git gets the
//! rest from a credential helper that reads it from the environment, which only its person and root can look into.
//!
//! In a checkout the person's own git asks a file beside its settings, `.git/adt-login`, that only they can read.
//!
//! Not chosen: `url.….insteadOf` from the environment alone, which hides the password from git's words but not from those of
//! the helper that git starts; the person's own store of passwords, which is not adt's to write.

use secrecy::{ExposeSecret, SecretString};

use crate::exec::Command;

/// Of a repository, as adt uses it.
#[derive(Debug, Clone)]
pub struct Address {
    /// For words and messages.
    pub shown: String,
    login: Option<Login>,
}

#[derive(Debug, Clone)]
struct Login {
    /// `https://git.example.org`, for whom it is.
    realm: String,
    user: SecretString,
    password: SecretString,
    whole: SecretString,
    /// As git keeps it in a file.
    line: SecretString,
}

/// Where a checkout's login is kept, below its folder.
pub const LOGIN_FILE: &str = ".git/adt-login";

/// Asked by git for one host only. The words have names of variables; a shell puts in what they hold, and `printf` is its own.
const FROM_ENVIRONMENT: &str =
    r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$ADT_GIT_USER" "$ADT_GIT_PASSWORD"; }; f"#;

/// The same for a checkout, also for its other working trees.
const FROM_FILE: &str = r#"!f() { git credential-store --file="$(git rev-parse --git-common-dir)/adt-login" "$@"; }; f"#;

impl Address {
    pub fn new(address: &str) -> Self {
        let parts = split(address);
        let Some((scheme, user, password, rest)) = parts else { return Self { shown: address.to_owned(), login: None } };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let login = matches!(scheme, "http" | "https").then(|| Login {
            realm: format!("{scheme}://{host}"),
            user: decoded(user).into(),
            password: decoded(password).into(),
            whole: address.to_owned().into(),
            line: format!("{scheme}://{user}:{password}@{host}\n").into(),
        });
        // No other kind of address takes a password from here, so that nothing is lost with it.
        let shown = if login.is_some() { format!("{scheme}://{rest}") } else { format!("{scheme}://{user}@{rest}") };
        Self { shown, login }
    }

    /// git that logs in there as the address says, and not as its person otherwise would. What a repository's settings have
    /// for an origin may be the whole address.
    pub fn log_in(&self, git: Command) -> Command {
        let Some(login) = &self.login else { return git };
        let helper = format!("credential.{}.helper", login.realm);
        let settings = [
            (helper.clone(), ""),
            (helper, FROM_ENVIRONMENT),
            (format!("url.{}.insteadOf", self.shown), login.whole.expose_secret()),
        ];
        // Behind those that the person has given in the same way.
        let first: usize = std::env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or_default();
        let git = git
            .env("GIT_CONFIG_COUNT", (first + settings.len()).to_string())
            .env("ADT_GIT_USER", login.user.expose_secret())
            .env("ADT_GIT_PASSWORD", login.password.expose_secret());
        settings.into_iter().enumerate().fold(git, |git, (at, (key, value))| {
            let at = first + at;
            git.env(format!("GIT_CONFIG_KEY_{at}"), key).env(format!("GIT_CONFIG_VALUE_{at}"), value)
        })
    }

    /// The setting with which a checkout's git finds [`LOGIN_FILE`], and what is in that.
    pub fn kept(&self) -> Option<(String, &'static str, &SecretString)> {
        self.login.as_ref().map(|login| (format!("credential.{}.helper", login.realm), FROM_FILE, &login.line))
    }
}

/// The same words without passwords, e.g. of a command that others see while they wait for it.
pub fn masked(words: &str) -> String {
    words.split(' ').map(|word| Address::new(word).shown).collect::<Vec<_>>().join(" ")
}

/// Scheme, user, password, and what comes after the `@`.
fn split(address: &str) -> Option<(&str, &str, &str, &str)> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (login, _) = authority.rsplit_once('@')?;
    let (user, password) = login.split_once(':')?;
    Some((scheme, user, password, &rest[login.len() + 1..]))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let digits = others.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_no_password() {
        for (address, shown) in [
            ("https://ada:se%3Acret@git.example.org/www.git", "https://git.example.org/www.git"),
            ("http://:secret@git.example.org:8080", "http://git.example.org:8080"),
            ("https://ada:sec@ret@git.example.org/x@y", "https://git.example.org/x@y"),
            ("ssh://git:secret@git.example.org/www", "ssh://git@git.example.org/www"),
            ("https://ada@git.example.org/www", "https://ada@git.example.org/www"),
            ("https://git.example.org/a:b@c", "https://git.example.org/a:b@c"),
            ("git@git.example.org:www", "git@git.example.org:www"),
            ("/srv/git/www", "/srv/git/www"),
        ] {
            let known = Address::new(address);
            assert_eq!(known.shown, shown);
            assert!(!format!("{known:?}").contains("secret"), "{known:?}");
        }
        assert_eq!(masked("platform:init https://a:b@c/d --into x"), "platform:init https://c/d --into x");
        assert_eq!(decoded("se%3Acr%et%"), "se:cr%et%");
    }
}
