//! What recipes inherit from the host's own apt: where its distribution comes from, proxies, checks of dates.
//!
//! A recipe says `bookworm`, never an address. On a host of that distribution the host's addresses are taken, with the suite put
//! in; a third party's repository beside them is the host's business, not the box's.

use std::path::Path;

use crate::exec::Command;

/// One archive and suite of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    /// Paths of keyrings, or the key itself in several lines.
    pub signed_by: Option<String>,
    pub trusted: bool,
}

/// A distribution as far as its archive's layout goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Distribution {
    name: &'static str,
    suites: &'static [&'static str],
    components: &'static [&'static str],
}

const DISTRIBUTIONS: [Distribution; 2] = [
    Distribution {
        name: "debian",
        suites: &[
            "stretch",
            "buster",
            "bullseye",
            "bookworm",
            "trixie",
            "forky",
            "duke",
            "sid",
            "oldoldstable",
            "oldstable",
            "stable",
            "testing",
            "unstable",
        ],
        components: &["main", "contrib", "non-free", "non-free-firmware"],
    },
    Distribution {
        name: "ubuntu",
        suites: &["bionic", "focal", "jammy", "mantic", "noble", "oracular", "plucky", "questing"],
        components: &["main", "restricted", "universe", "multiverse"],
    },
];

/// Suites of which nothing is updated beside them.
const ROLLING: [&str; 2] = ["sid", "unstable"];
/// Until buster, security updates were called `buster/updates`.
const OLD_SECURITY: [&str; 2] = ["stretch", "buster"];

impl Distribution {
    pub fn of_suite(suite: &str) -> Option<&'static Self> {
        DISTRIBUTIONS.iter().find(|distribution| distribution.suites.contains(&suite))
    }

    /// The part behind the code name: "", "-updates" or "-security".
    fn pocket(&self, suite: &str) -> Option<&'static str> {
        let suite = suite.trim_end_matches('/');
        if self.suites.contains(&suite) {
            return Some("");
        }
        let pockets = [("-updates", "-updates"), ("-security", "-security"), ("/updates", "-security")];
        pockets
            .into_iter()
            .find_map(|(end, pocket)| suite.strip_suffix(end).filter(|stem| self.suites.contains(stem)).map(|_| pocket))
    }

    /// Whether an entry is of the distribution's own archive. What the archive says of itself decides; where the host has no
    /// copy of that, its key and its address do.
    fn serves(&self, source: &Source, origin: Option<&str>) -> bool {
        if !source.components.iter().all(|component| self.components.contains(&component.as_str())) {
            return false;
        }
        if let Some(origin) = origin {
            return origin.eq_ignore_ascii_case(self.name);
        }
        match source.signed_by.as_deref().filter(|key| key.starts_with('/')) {
            Some(paths) => paths.split_whitespace().all(|path| {
                let file = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
                file.starts_with(&format!("{}-archive", self.name))
            }),
            None => source.uri.trim_end_matches('/').rsplit('/').take(2).any(|part| part.contains(self.name)),
        }
    }
}

/// The host's entries that serve `suite`'s distribution, with `suite` put in. Empty where its main archive isn't among them.
pub fn inherited(sources: &[Source], suite: &str, origin: &dyn Fn(&Source) -> Option<String>) -> Vec<Source> {
    let Some(distribution) = Distribution::of_suite(suite) else { return Vec::new() };
    let mut found: Vec<Source> = Vec::new();
    for source in sources {
        let Some(pocket) = distribution.pocket(&source.suite) else { continue };
        if !distribution.serves(source, origin(source).as_deref()) || (!pocket.is_empty() && ROLLING.contains(&suite)) {
            continue;
        }
        let new = match pocket {
            "-security" if OLD_SECURITY.contains(&suite) => format!("{suite}/updates"),
            pocket => format!("{suite}{pocket}"),
        };
        let new = Source { suite: new, ..source.clone() };
        if !found.contains(&new) {
            found.push(new);
        }
    }
    if found.iter().any(|source| source.suite == suite) { found } else { Vec::new() }
}

/// The host's entries; a file that can't be read is as if it were empty.
pub fn host_sources(etc: &Path) -> Vec<Source> {
    let mut files = vec![etc.join("sources.list")];
    let parts = std::fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    files.extend(parts);
    let mut sources = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|end| end.to_str()) {
            Some("list") => sources.extend(one_line(&text)),
            Some("sources") => sources.extend(deb822(&text)),
            _ => {}
        }
    }
    sources
}

/// `deb [signed-by=/x.gpg] https://… bookworm main`
pub fn one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let mut rest = line.strip_prefix([' ', '\t'])?.trim();
    let mut source = Source::default();
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        rest = after;
        for option in options.split_whitespace() {
            match option.split_once('=') {
                Some(("signed-by", value)) => source.signed_by = Some(value.replace(',', " ")),
                Some(("trusted", value)) => source.trusted = value == "yes",
                _ => {}
            }
        }
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    source.uri = words.next()?;
    source.suite = words.next()?;
    source.components = words.collect();
    Some(source)
}

/// Stanzas of `Key: value` with continuation lines.
pub fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            let start =
                stanza.iter().position(|line| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name)))?;
            let first = stanza[start].split_once(':').map_or("", |(_, value)| value.trim());
            let more = stanza[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
            Some(more.fold(first.to_owned(), |all, line| format!("{all}\n{line}")))
        };
        let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no") || value.eq_ignore_ascii_case("false"));
        if off || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in words("URIs") {
            for suite in words("Suites") {
                sources.push(Source {
                    uri: uri.clone(),
                    suite,
                    components: words("Components"),
                    signed_by: field("Signed-By"),
                    trusted: field("Trusted").is_some_and(|value| value.eq_ignore_ascii_case("yes")),
                });
            }
        }
    }
    sources
}

/// Who vouches for what comes from the entries: each address once, and what its signature is compared with. `None` is nothing.
pub fn vouched(sources: &[Source]) -> Vec<(String, Option<String>)> {
    let mut all: Vec<(String, Option<String>)> = Vec::new();
    for source in sources {
        let keys = match source.signed_by.as_deref() {
            _ if source.trusted => None,
            Some(paths) if paths.starts_with('/') => Some(paths.split_whitespace().collect::<Vec<_>>().join(", ")),
            Some(_) => Some("the key in the host's entry for it".to_owned()),
            None => Some("the keys in /etc/apt/trusted.gpg.d".to_owned()),
        };
        let one = (source.uri.clone(), keys);
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// A file for `sources.list.d`.
pub fn to_deb822(sources: &[Source]) -> String {
    let mut text = String::new();
    for source in sources {
        text += &format!("Types: deb\nURIs: {}\nSuites: {}\n", source.uri, source.suite);
        text += &format!("Components: {}\n", source.components.join(" "));
        if let Some(key) = &source.signed_by {
            text += &format!("Signed-By: {key}\n");
        }
        text += if source.trusted { "Trusted: yes\n\n" } else { "\n" };
    }
    text
}

/// What the archive says it is, from the host's copy of its `InRelease`.
pub fn origin(lists: &Path, source: &Source) -> Option<String> {
    let uri = source.uri.split_once("://").map_or(source.uri.as_str(), |(_, rest)| rest);
    let name = format!("{}_dists_{}_", uri.trim_end_matches('/'), source.suite).replace('/', "_");
    let text = ["InRelease", "Release"].iter().find_map(|end| std::fs::read(lists.join(format!("{name}{end}"))).ok())?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| line.strip_prefix("Origin:")).map(|origin| origin.trim().to_owned())
}

/// The host's apt settings that a machine needs too, as lines of an `apt.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Good only where the host is: proxies. Given to builds, never left in a layer.
    pub transport: Vec<String>,
    /// Properties of the archives that the host uses, e.g. a snapshot whose dates have passed.
    pub archive: Vec<String>,
}

pub fn host_settings() -> Settings {
    // A host without apt has no settings to inherit.
    Command::new("apt-config").arg("dump").run().map(|output| settings(&output.text())).unwrap_or_default()
}

pub fn settings(dump: &str) -> Settings {
    let mut settings = Settings::default();
    for line in dump.lines() {
        let Some((key, value)) = line.trim_end_matches(';').split_once(' ') else { continue };
        let lower = key.to_ascii_lowercase();
        let transport = ["acquire::http::", "acquire::https::", "acquire::ftp::"].iter().any(|prefix| lower.starts_with(prefix));
        // A program of the host that finds a proxy, and files of the host, mean nothing inside a machine.
        let of_host = lower.contains("proxy-auto-detect") || lower.contains("proxyautodetect") || value.starts_with("\"/");
        if value == "\"\"" || of_host {
            continue;
        }
        if transport {
            settings.transport.push(format!("{key} {value};"));
        } else if ["acquire::check-valid-until", "acquire::check-date", "acquire::max-validtime"].contains(&lower.as_str()) {
            settings.archive.push(format!("{key} {value};"));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src
# a comment
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main
";

    fn suites(sources: &[Source]) -> Vec<String> {
        sources.iter().map(|source| format!("{} {}", source.uri, source.suite)).collect()
    }

    #[test]
    fn the_hosts_addresses_are_taken_with_the_suite_put_in() {
        let sources = deb822(DEB822);
        assert_eq!(sources.len(), 4);
        let wanted = |suite: &str| suites(&inherited(&sources, suite, &|_| None));
        assert_eq!(
            wanted("trixie"),
            [
                "http://mirror.example.org/debian trixie",
                "http://mirror.example.org/debian trixie-updates",
                "http://mirror.example.org/debian-security trixie-security"
            ]
        );
        assert_eq!(wanted("buster")[2], "http://mirror.example.org/debian-security buster/updates");
        assert_eq!(wanted("sid"), ["http://mirror.example.org/debian sid"]);
        assert!(wanted("noble").is_empty());
        assert!(wanted("no-such-suite").is_empty());
        assert_eq!(deb822(&to_deb822(&sources)), sources);
    }

    #[test]
    fn each_address_has_somebody_who_vouches_for_it_or_nobody() {
        let mut sources = deb822(DEB822);
        sources.extend(one_line("deb [trusted=yes signed-by=/x.gpg] http://evil.example.org/debian bookworm main"));
        sources.extend(one_line("deb [allow-insecure=yes] http://old.example.org/debian bookworm main"));
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let wanted = [
            ("http://mirror.example.org/debian", Some(keyring)),
            ("http://mirror.example.org/debian-security", Some("the key in the host's entry for it")),
            ("http://evil.example.org/debian", None),
            ("http://old.example.org/debian", Some("the keys in /etc/apt/trusted.gpg.d")),
        ];
        assert_eq!(vouched(&sources), wanted.map(|(address, keys)| (address.to_owned(), keys.map(str::to_owned))));
        // A host that takes unsigned lists does not make a box take them.
        assert!(!to_deb822(&sources).contains("nsecure"));
        let insecure = settings("Acquire::AllowInsecureRepositories \"true\";\nAPT::Get::AllowUnauthenticated \"true\";\n");
        assert_eq!(insecure, Settings::default());
    }

    #[test]
    fn third_parties_stay_out() {
        let sources = one_line(
            "deb http://mirror.example.org/debian bookworm main # yes
             deb [signed-by=/usr/share/keyrings/php.gpg arch=amd64] https://php.example.org/php bookworm main
             deb [signed-by=/etc/apt/keyrings/db.gpg] https://db.example.org/repo/debian bookworm main
             deb https://containers.example.org/linux/debian bookworm stable
             deb https://db.example.org/pub bookworm-db main
             deb-src http://mirror.example.org/debian bookworm main
             # deb http://mirror.example.org/debian bookworm main",
        );
        assert_eq!(sources.len(), 5);
        assert_eq!(suites(&inherited(&sources, "bookworm", &|_| None)), ["http://mirror.example.org/debian bookworm"]);
        assert!(inherited(&sources, "bookworm", &|_| Some("Somebody".into())).is_empty());
        let own_key =
            one_line("deb [signed-by=/etc/apt/keyrings/firm.gpg trusted=yes] https://firm.example.org/apt bookworm main");
        assert!(inherited(&own_key, "bookworm", &|_| None).is_empty());
        assert!(inherited(&own_key, "bookworm", &|_| Some("Debian".into()))[0].trusted);
    }

    #[test]
    fn the_archive_is_asked_for_its_origin() {
        let lists = tempfile::tempdir().unwrap();
        let file = lists.path().join("mirror.example.org_x_dists_buster_updates_InRelease");
        std::fs::write(file, "-----BEGIN\nOrigin: Debian\n").unwrap();
        let source = &one_line("deb http://mirror.example.org/x/ buster/updates main")[0];
        assert_eq!(origin(lists.path(), source).as_deref(), Some("Debian"));
        assert_eq!(origin(Path::new("/nowhere"), source), None);
    }

    #[test]
    fn proxies_are_told_from_properties_of_the_archive() {
        let settings = settings(
            "APT \"\";\nAcquire::http::Proxy \"http://proxy.example.org:3128\";\nAcquire::https \"\";\n\
             Acquire::http::Proxy-Auto-Detect \"/usr/bin/find-proxy\";\nAcquire::Check-Valid-Until \"false\";\n\
             Acquire::http::Proxy::mirror.example.org \"DIRECT\";\n",
        );
        assert_eq!(
            settings.transport,
            ["Acquire::http::Proxy \"http://proxy.example.org:3128\";", "Acquire::http::Proxy::mirror.example.org \"DIRECT\";"]
        );
        assert_eq!(settings.archive, ["Acquire::Check-Valid-Until \"false\";"]);
    }
}
