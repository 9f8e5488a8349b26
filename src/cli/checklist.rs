//! Checks for people: verdicts below each other, a remedy under what needs one, and nothing wrapped that is to be copied.

use std::fmt::Write as _;

use console::{StyledObject, Term, style};

use crate::model::EnvironmentId;
use crate::model::response::{CheckItem, Checklist, Verdict};

/// Of the words for verdicts, and the space behind them.
const MARGIN: usize = 7;
/// Of the words for steps, likewise.
const STEP: usize = 13;
/// What was seen has at least this much of a line; subjects that leave less have a line of their own.
const NARROW: usize = 26;

/// For the terminal that stands behind stdout; programs get each item in one line.
pub fn text(list: &Checklist) -> String {
    let term = Term::stdout();
    render(list, term.is_term().then(|| usize::from(term.size().1)))
}

fn render(list: &Checklist, width: Option<usize>) -> String {
    let groups: Vec<_> = list.items.chunk_by(|one, next| one.environment == next.environment).collect();
    let lines: Vec<CheckItem> = groups.into_iter().flat_map(folded).collect();
    let steps = lines.iter().any(|item| item.step.is_some());
    let before = MARGIN + if steps { STEP } else { 0 };
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(before + 2 + NARROW));
    let longest = lines.iter().map(|item| item.subject.chars().count()).max().unwrap_or(0);
    let subjects = longest.min(room).min(44);
    let column = before + subjects + 2;
    let mut text = String::new();
    for item in &lines {
        let step = if steps { format!("{:<STEP$}", item.step.map_or("", |step| step.word())) } else { String::new() };
        let head = format!("{:<MARGIN$}{step}{:<subjects$}", mark(item.verdict), item.subject);
        let (between, seen) = match width {
            None => ("  ".to_owned(), item.seen.clone()),
            Some(width) => beside(item, subjects, column, width),
        };
        let head = if between.starts_with('\n') { head.trim_end() } else { &head };
        writeln!(text, "{head}{between}{seen}").expect("a string takes any text");
        remedy(&mut text, item);
    }
    text
}

/// What was seen in lines that fit, and what comes between it and its subject.
fn beside(item: &CheckItem, subjects: usize, column: usize, width: usize) -> (String, String) {
    let room = width.saturating_sub(column).max(NARROW);
    let longest = item.seen.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
    // A path that would be cut in two has the whole line instead.
    let (indent, room) = if longest > room { (MARGIN, width.saturating_sub(MARGIN)) } else { (column, room) };
    let next = format!("\n{:indent$}", "");
    let seen = wrapped(&item.seen, room).join(&next);
    let fits = indent == column && item.subject.chars().count() <= subjects;
    (if fits { "  ".to_owned() } else { next }, seen)
}

/// To be copied, so it is never broken.
fn remedy(text: &mut String, item: &CheckItem) {
    if let Some(remedy) = &item.remedy {
        writeln!(text, "{:MARGIN$}→ {remedy}", "").expect("a string takes any text");
    }
}

fn mark(verdict: Verdict) -> StyledObject<&'static str> {
    match verdict {
        Verdict::Ok => style("ok").green(),
        Verdict::Notice => style("note").yellow(),
        Verdict::Fault => style("FAULT").red(),
    }
}

/// Of an environment among several, one line if all is well; else what is not.
fn folded(items: &[CheckItem]) -> Vec<CheckItem> {
    let Some(id) = items.first().and_then(|item| item.environment.as_ref()) else { return items.to_vec() };
    let others: Vec<_> = items.iter().filter(|item| item.verdict != Verdict::Ok).cloned().collect();
    if others.is_empty() { vec![sound(id, items)] } else { others }
}

fn sound(id: &EnvironmentId, items: &[CheckItem]) -> CheckItem {
    CheckItem::ok(id.to_string(), format!("well: {} checks", items.len()))
}

/// Lines of at most `width` characters, broken at spaces; a longer word stays whole.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::response::CheckStep;

    fn way() -> Checklist {
        let host = "www.1161.hello.example.test";
        let items = vec![
            CheckItem::ok(host, "127.0.53.1, says resolv.conf").at(CheckStep::Name),
            CheckItem::fault(host, "nobody listens at 127.0.53.1:443: Connection refused", "adt host:up --detach")
                .at(CheckStep::Address),
            CheckItem::ok("hello/1161/web1", "runs").at(CheckStep::Machine),
        ];
        Checklist { items }
    }

    #[test]
    fn a_terminal_gets_lines_that_fit_and_remedies_that_are_whole() {
        let text = render(&way(), Some(80));
        assert_eq!(
            text,
            "ok     name         www.1161.hello.example.test  127.0.53.1, says resolv.conf\n\
             FAULT  address      www.1161.hello.example.test  nobody listens at\n\
             \x20                                                127.0.53.1:443: Connection\n\
             \x20                                                refused\n\
             \x20      → adt host:up --detach\n\
             ok     machine      hello/1161/web1              runs\n"
        );
        let path =
            Checklist { items: vec![CheckItem::ok("a library of this host", "/usr/lib/x86_64-linux-gnu/liblxc.so.1.7.0")] };
        assert_eq!(
            render(&path, Some(60)),
            "ok     a library of this host\n\x20      /usr/lib/x86_64-linux-gnu/liblxc.so.1.7.0\n"
        );
        assert!(render(&way(), Some(60)).lines().all(|line| line.chars().count() <= 60));
    }

    #[test]
    fn a_program_gets_a_line_for_each_item() {
        let text = render(&way(), None);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("  nobody listens at 127.0.53.1:443: Connection refused\n"), "{text}");
    }

    #[test]
    fn a_sound_environment_among_others_is_one_line() {
        let of = |name: &str, items: Vec<CheckItem>| -> Vec<CheckItem> {
            let id = EnvironmentId { platform: "hello".parse().unwrap(), name: name.parse().unwrap() };
            items.into_iter().map(|item| CheckItem { environment: Some(id.clone()), ..item }).collect()
        };
        let sound = way().items.into_iter().filter(|item| item.verdict == Verdict::Ok).collect();
        let text = render(&Checklist { items: [of("1161", sound), of("1162", way().items)].concat() }, None);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("ok ") && lines[0].contains("hello/1161 "), "{text}");
        assert!(lines[1].starts_with("FAULT") && lines[2].ends_with("→ adt host:up --detach"), "{text}");
    }
}
