//! Words in systemd's units: nothing of a path or a setting is more than one.

/// Command lines expand variables, other settings don't.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dollar {
    IsExpanded,
    IsPlain,
}

/// One word, as systemd.syntax(7) reads it.
pub fn quoted(word: &str, dollar: Dollar) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('\n', "\\n");
    let word = if dollar == Dollar::IsExpanded { word.replace('$', "$$") } else { word };
    format!("\"{word}\"")
}
