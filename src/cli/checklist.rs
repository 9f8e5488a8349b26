//! Checks for people: verdicts below each other, a remedy under what needs one, and nothing wrapped that is to be copied.

use std::fmt::Write as _;

use console::{StyledObject, Term, style};

use crate::model::EnvironmentId;
use crate::model::response::{CheckItem, Checklist, Verdict};

/// Of the words for verdicts, and the space behind them.
const MARGIN: usize = 7;
/// Of the words for steps, likewise.
const STEP: usize = 13;
/// What was seen gets lines of its own where less than this is left for it.
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
    let subjects = lines.iter().map(|item| item.subject.chars().count()).max().unwrap_or(0).min(44);
    let column = MARGIN + if steps { STEP } else { 0 } + subjects + 2;
    let mut text = String::new();
    for item in &lines {
        let step = if steps { format!("{:<STEP$}", item.step.map_or("", |step| step.word())) } else { String::new() };
        let head = format!("{:<MARGIN$}{step}{:<subjects$}", mark(item.verdict), item.subject);
        match width {
            None => writeln!(text, "{head}  {}", item.seen),
            Some(width) if width < column + NARROW => {
                let seen = wrapped(&item.seen, width.saturating_sub(MARGIN));
                writeln!(text, "{}\n{:MARGIN$}{}", head.trim_end(), "", seen.join(&format!("\n{:MARGIN$}", "")))
            }
            // One that is longer than the others moves its own text only.
            Some(width) => {
                let seen = wrapped(&item.seen, width - column);
                writeln!(text, "{head}  {}", seen.join(&format!("\n{:column$}", "")))
            }
        }
        .expect("a string takes any text");
        if let Some(remedy) = &item.remedy {
            writeln!(text, "{:MARGIN$}→ {remedy}", "").expect("a string takes any text");
        }
    }
    text
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
    let subjects: std::collections::BTreeSet<_> = items.iter().map(|item| &item.subject).collect();
    CheckItem::ok(id.to_string(), format!("{} checks of {} names and machines", items.len(), subjects.len()))
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
