//! Damaged words of git: a server and a repository decide what git prints of them.

use super::checkout::State;
use super::mirror::{Answer, parse_refs};
use crate::dice::{Dice, rounds};
use crate::model::BranchName;

const LISTS: [&str; 3] = [
    "ref: refs/heads/trunk\tHEAD\n0a\tHEAD\n0a\trefs/heads/trunk\n0b\trefs/tags/v1\n0c\trefs/tags/v1^{}\n",
    "0a refs/heads/main\n0b refs/tags/v1\n",
    "# branch.oid 0a\n# branch.head main\n# branch.upstream origin/main\n1 .M N... 100644 100644 100644 0a 0a file\n? new\n",
];

const WORDS: &[&[u8]] = &[
    b"--upload-pack=id",
    b"-",
    b"\t",
    b" ",
    b"\n",
    b"\r",
    b"\0",
    b"..",
    b"/",
    b"refs/heads/",
    b"ref: ",
    b"^{}",
    b"# ",
    b"? ",
    b"\xff",
    b"\x1b[2J",
];

#[test]
fn damaged_lists_name_no_options_and_no_paths() {
    let seeds = LISTS.map(|list| list.as_bytes().to_vec());
    let mut dice = Dice::new();
    let mut heads = 0;
    for round in 0..rounds(50_000) {
        let text = String::from_utf8_lossy(&dice.damaged(&seeds, WORDS)).into_owned();
        let answer = Answer::parse(&text);
        heads += usize::from(answer.head.is_some());
        assert!(answer.head.is_none_or(|head| BranchName::new(head).is_ok()), "round {round}: {text:?}");
        for name in answer.refs.keys().chain(parse_refs(&text).keys()) {
            assert!(!name.contains(['\n', '\u{fffd}']), "round {round}: {text:?}");
        }
        let state = State::parse(&text);
        assert!(state.tracked <= state.changed && state.changed <= text.lines().count(), "round {round}: {text:?}");
    }
    assert!(heads > rounds(50_000) / 10, "hardly any list was one");
}
