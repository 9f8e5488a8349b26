//! Text of machines, repositories and programs on its way to a person's terminal. A terminal obeys what is written to it: it can be
//! made to hide what was there, to rename its window, to fill the clipboard, and some type an answer. So what a terminal would obey
//! goes or is spelled out, and only colours may stay.

use std::borrow::Cow;

/// What becomes of the colours that a program chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    Stay,
    Go,
}

/// What a terminal shows and no more: tabs and ends of lines stay. Sequences that are whole go, as tools mean them for a terminal that
/// does what they say; what is left of others is spelled out. No colour reaches the next line.
pub fn visible(text: &str, colours: Colours) -> Cow<'_, str> {
    if text.chars().all(|c| c == '\n' || is_harmless(c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut coloured = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let sequence = if matches!(c, '\x1b' | '\u{80}'..='\u{9f}') { sequence(rest) } else { None };
        let (length, is_colour) = sequence.unwrap_or((c.len_utf8(), false));
        if sequence.is_none() {
            if c == '\n' && std::mem::take(&mut coloured) {
                shown.push_str(RESET);
            }
            if c == '\n' || is_harmless(c) { shown.push(c) } else { spell(c, &mut shown) }
        } else if is_colour && colours == Colours::Stay {
            shown.push_str(&rest[..length]);
            coloured = !is_reset(&rest[..length]);
        }
        rest = &rest[length..];
    }
    if coloured {
        shown.push_str(RESET);
    }
    Cow::Owned(shown)
}

/// Everything that is not text is spelled out, colours and ends of lines too: for who wants to see what was written.
pub fn spelled(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| if is_harmless(c) { shown.push(c) } else { spell(c, &mut shown) });
    Cow::Owned(shown)
}

/// JSON says the same with these spelled out, which stand in its strings only. It spells what is below a space itself.
pub fn spelled_json(text: String) -> String {
    if text.chars().all(|c| c == '\n' || is_harmless(c)) {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' || is_harmless(c) { shown.push(c) } else { shown.push_str(&format!("\\u{:04x}", u32::from(c))) }
    }
    shown
}

const RESET: &str = "\x1b[0m";

/// Neither a control character, also of those beyond ASCII, nor one that turns the direction of text.
fn is_harmless(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c == '\t' || !(c.is_control() || turns)
}

fn spell(c: char, shown: &mut String) {
    match c {
        '\n' => shown.push_str("\\n"),
        // At the end of a line it is how some programs end lines.
        '\r' => shown.push_str("\\r"),
        '\0'..='\u{ff}' => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
        c => shown.extend(c.escape_unicode()),
    }
}

/// The length of the whole sequence of ECMA-48 that the text begins with, and whether it only sets colours and the like.
fn sequence(text: &str) -> Option<(usize, bool)> {
    let mut chars = text.char_indices();
    let (_, first) = chars.next()?;
    let kind = match first {
        '\x1b' => chars.next()?.1,
        // The same in one character.
        first => char::from_u32(u32::from(first) - 0x40)?,
    };
    match kind {
        '[' => {
            let start = chars.offset();
            let (end, last) = chars.find(|(_, c)| !matches!(c, ' '..='?'))?;
            let is_plain = first == '\x1b' && text[start..end].bytes().all(|byte| byte.is_ascii_digit() || b";:".contains(&byte));
            matches!(last, '@'..='~').then(|| (end + 1, last == 'm' && is_plain))
        }
        // A string, e.g. a title, which must end in the same line.
        ']' | 'P' | 'X' | '^' | '_' => {
            let mut before = ' ';
            for (at, c) in chars {
                match c {
                    '\x07' | '\u{9c}' => return Some((at + c.len_utf8(), false)),
                    '\\' if before == '\x1b' => return Some((at + 1, false)),
                    '\n' => return None,
                    _ => before = c,
                }
            }
            None
        }
        _ => None,
    }
}

fn is_reset(sequence: &str) -> bool {
    matches!(sequence, "\x1b[m" | "\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_colours_are_obeyed() {
        for (text, stays, goes) in [
            ("plain\ttext äöü\n", "plain\ttext äöü\n", "plain\ttext äöü\n"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b[31mred\nnext", "\x1b[31mred\x1b[0m\nnext", "red\nnext"),
            ("a\x1b[2K\x1b[1Gb\x1b[?1049h\x1b[6nc", "abc", "abc"),
            ("\x1b]0;title\x07a\x1b]52;c;cm0gLXJm\x1b\\b\x1b]8;;http://x\x1b\\link", "ablink", "ablink"),
            ("\x1bP$q\"p\x1b\\a\x1b_x\u{9c}b", "ab", "ab"),
            ("\x1b]0;no end\nnext", "\\x1b]0;no end\nnext", "\\x1b]0;no end\nnext"),
            ("\x1bc\x1b", "\\x1bc\\x1b", "\\x1bc\\x1b"),
            ("\u{9b}2Ja\u{9b}31mb\u{9d}0;t\u{9c}c\u{90}", "abc\\x90", "abc\\x90"),
            ("\x1b[>4;2m\x1b[?1m\x1b[31\u{7f}m", "\\x1b[31\\x7fm", "\\x1b[31\\x7fm"),
            ("a\rb\x07\x08\x7f\0", "a\\rb\\x07\\x08\\x7f\\x00", "a\\rb\\x07\\x08\\x7f\\x00"),
            ("\u{202e}abc\u{200f}", "\\u{202e}abc\\u{200f}", "\\u{202e}abc\\u{200f}"),
        ] {
            assert_eq!(visible(text, Colours::Stay), stays, "{text:?}");
            assert_eq!(visible(text, Colours::Go), goes, "{text:?}");
        }
    }

    #[test]
    fn escapes_are_spelled_out() {
        for (text, wanted) in [
            ("plain\ttext äöü", "plain\ttext äöü"),
            ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            ("\u{9b}2J", "\\x9b2J"),
            ("a\rb\x07\x7f\0\n", "a\\rb\\x07\\x7f\\x00\\n"),
            ("\u{202e}abc", "\\u{202e}abc"),
        ] {
            assert_eq!(spelled(text), wanted);
        }
    }

    #[test]
    fn json_stays_what_it_says() {
        let value = serde_json::json!({ "a": "\u{9b}2J\x7f\u{202e}\x1b]\n" });
        let text = spelled_json(serde_json::to_string_pretty(&value).unwrap());
        assert!(text.contains("\\u009b2J\\u007f\\u202e\\u001b]\\n"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    proptest! {
        #[test]
        fn nothing_a_terminal_obeys_is_left(text in "(\\PC|\x1b|\\[|\\]|[0-9;?m]|\u{9b}|\u{9d}|\\\\|\x07|\n|[\0-\x1f\u{7f}-\u{9f}])*") {
            prop_assert!(!spelled(&text).chars().any(|c| c.is_control() && c != '\t'));
            let dull = visible(&text, Colours::Go);
            prop_assert!(!dull.chars().any(|c| c.is_control() && !"\t\n".contains(c)), "{dull:?}");
            let bright = visible(&text, Colours::Stay);
            for part in bright.split('\x1b').skip(1) {
                let end = part.find(|c: char| !"[0123456789;:".contains(c));
                prop_assert!(part.starts_with('[') && end.is_some_and(|end| part[end..].starts_with('m')), "{bright:?}");
            }
            prop_assert!(!bright.chars().any(|c| c.is_control() && !"\t\n\x1b".contains(c)), "{bright:?}");
        }
    }
}
