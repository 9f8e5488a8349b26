//! Checks that several documents share: names, paths, references and cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use crate::model::BadName;

use super::at::At;
use super::fault::Faults;

/// The word that was probably meant, if one is close enough to be more than a guess.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A hint for a word that is none of `known`.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone, none: &str) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<_> = known.into_iter().map(|word| format!("`{word}`")).collect();
            if all.is_empty() { none.to_owned() } else { format!("known here: {}", all.join(", ")) }
        }
    }
}

/// A name of the model, or a fault with the nearest spelling that would do.
pub fn name<T>(faults: &mut Faults, word: &At<String>, new: impl Fn(String) -> Result<T, BadName>) -> Option<T> {
    match new(word.to_string()) {
        Ok(name) => Some(name),
        Err(error) => {
            let near = label_like(word);
            let hint = (near != **word && new(near.clone()).is_ok()).then(|| format!("write `{near}`"));
            faults.push(word.span(), error.to_string(), hint);
            None
        }
    }
}

fn label_like(word: &str) -> String {
    let mapped: String =
        word.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' }).collect();
    mapped.trim_matches(['-', '.']).to_owned()
}

/// A line for people. It comes to their terminals, which take control characters for commands.
pub fn summary(faults: &mut Faults, line: Option<&At<String>>) -> String {
    let Some(line) = line else { return String::new() };
    if line.chars().any(char::is_control) {
        faults.add_hint(line.span(), "a summary holds a control character", "write one plain line");
    }
    line.to_string()
}

/// A path below the file's own folder: relative and without `..`.
pub fn inner_path(faults: &mut Faults, path: &At<String>, inside: &str) -> Option<PathBuf> {
    let reason = if path.is_empty() {
        "is empty"
    } else if path.chars().any(char::is_control) {
        "holds a control character"
    } else if Path::new(path.as_str()).is_absolute() {
        "is absolute"
    } else if has_parent(path) {
        "leads outside with `..`"
    } else {
        return Some(PathBuf::from(path.as_str()));
    };
    faults.add_hint(path.span(), format!("the path `{}` {reason}", path.escape_debug()), format!("name a path inside {inside}"));
    None
}

/// A folder or link inside a machine.
pub fn machine_path(faults: &mut Faults, path: &At<String>) -> Option<String> {
    let reason = if !path.starts_with('/') {
        "is not absolute"
    } else if has_parent(path) {
        "holds `..`"
    } else if Path::new(path.as_str()).components().count() == 1 {
        "is the whole machine"
    } else if path.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Some(path.to_string());
    };
    faults.add_hint(
        path.span(),
        format!("the folder `{}` {reason}", path.escape_debug()),
        "name it as the machine sees it, e.g. `/var/lib/mysql`",
    );
    None
}

/// A log file inside a machine; `*` and `?` stand for any characters of a name, as in a shell.
pub fn log_path(faults: &mut Faults, path: &At<String>) -> Option<String> {
    let reason = if !path.starts_with('/') {
        "is not absolute"
    } else if has_parent(path) {
        "holds `..`"
    } else if path.ends_with('/') {
        "is a folder"
    } else if path.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Some(path.to_string());
    };
    faults.add_hint(
        path.span(),
        format!("the log file `{}` {reason}", path.escape_debug()),
        "name it as the machine sees it, e.g. `/var/log/apache2/*.log`",
    );
    None
}

fn has_parent(path: &str) -> bool {
    Path::new(path).components().any(|part| part == Component::ParentDir)
}

/// What a health check asks a web server for.
pub fn url_path(faults: &mut Faults, path: &At<String>) -> String {
    if !path.starts_with('/') {
        faults.add_hint(
            path.span(),
            format!("the path `{}` does not start with `/`", path.escape_debug()),
            format!("write `/{}`", path.escape_debug()),
        );
    } else if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        faults.add_hint(path.span(), "a URL's path can't hold blanks", "write a blank as `%20`");
    }
    path.to_string()
}

/// A host name that is not ours, so unlike our labels it may come from anywhere; still lower case, as DNS compares it.
pub fn is_host_name(word: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    word.len() <= 253 && word.split('.').all(label)
}

/// `host[:port]`, `[address]:port`: a host that may also be known to this computer alone.
pub fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            (named.then_some(host)?, port)
        }
    };
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port != 0))?;
    Some((host.to_owned(), port))
}

/// One name with what it refers to.
pub struct Node<'a> {
    pub name: &'a str,
    pub to: &'a [At<String>],
}

/// The names of one cycle, the first again at the end, and the word that leads from the first to the second; `None` where
/// everything can be put in an order.
pub fn cycle<'a>(nodes: &[Node<'a>]) -> Option<(Vec<&'a str>, Range<usize>)> {
    let mut left: BTreeMap<&str, &'a [At<String>]> = nodes.iter().map(|node| (node.name, node.to)).collect();
    loop {
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, to| to.iter().any(|to| names.contains(to.as_str())));
        if left.len() == names.len() {
            break;
        }
    }
    // Whatever is left refers to something that is left, so walking on must come back to where it was.
    let next = |from: &str| left.get(from)?.iter().find(|to| left.contains_key(to.as_str()));
    let mut path = vec![nodes.iter().find(|node| left.contains_key(node.name))?.name];
    loop {
        let to = next(path[path.len() - 1])?.as_str();
        let start = path.iter().position(|name| *name == to);
        path.push(to);
        if let Some(start) = start {
            let cycle = path.split_off(start);
            let span = next(cycle[0])?.span();
            return Some((cycle, span));
        }
    }
}

/// A name that a shell and a process environment take.
pub fn is_variable(word: &str) -> bool {
    let starts = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// systemd.unit(5): letters, digits and `:-_.\`, with `@` before an instance; a name without a type is a service.
pub fn unit(faults: &mut Faults, word: &At<String>) -> Option<String> {
    const TYPES: [&str; 11] =
        ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];
    let shaped = (1..=255).contains(&word.len())
        && !word.starts_with(['-', '.', '@'])
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    if shaped {
        let typed = word.rsplit_once('.').is_some_and(|(_, kind)| TYPES.contains(&kind));
        return Some(if typed { word.to_string() } else { format!("{}.service", **word) });
    }
    let hint = "write it as `systemctl` shows it, e.g. `apache2` or `apt-daily.timer`";
    faults.add_hint(word.span(), format!("`{}` is not a systemd unit", word.escape_debug()), hint);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports() {
        for (text, wanted) in [
            ("logs.example.org", Some(("logs.example.org", 7))),
            ("10.0.0.1:514", Some(("10.0.0.1", 514))),
            ("[2001:db8::1]:514", Some(("2001:db8::1", 514))),
            ("[::1]", Some(("::1", 7))),
            ("", None),
            (":514", None),
            ("a:0", None),
            ("a:99999", None),
            ("user@a", None),
            ("a/path", None),
            ("[nonsense]:1", None),
        ] {
            assert_eq!(host_and_port(text, 7), wanted.map(|(host, port): (&str, u16)| (host.to_owned(), port)), "{text}");
        }
    }
}
