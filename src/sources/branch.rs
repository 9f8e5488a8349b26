//! Which branch of a site's repository an environment runs: the user's, else the ticket's, else the default. Pure.

use std::collections::BTreeMap;

use super::mirror::Branches;
use super::{Error, Result};
use crate::model::BranchName;
use crate::store::record::Choice;

/// What is wished for, strongest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish<'a> {
    /// What the user said.
    pub chosen: Option<&'a BranchName>,
    /// What the platform's pattern becomes for this ticket; `*` stands for any characters.
    pub pattern: &'a str,
    /// What the platform says where there is no such branch; without it, the branch that the repository names.
    pub default: Option<&'a str>,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub branch: String,
    pub commit: String,
    pub choice: Choice,
}

/// Picks a branch of those that `address` has.
pub fn pick(address: &str, wish: &Wish<'_>, branches: &Branches) -> Result<Pick> {
    let missing = |branch: &str| Error::NoBranch {
        address: address.to_owned(),
        branch: branch.to_owned(),
        known: nearest(branch, &branches.commits),
    };
    let take = |branch: &str, choice| match branches.commits.get(branch) {
        Some(commit) => Ok(Pick { branch: branch.to_owned(), commit: commit.clone(), choice }),
        None => Err(missing(branch)),
    };
    if let Some(chosen) = wish.chosen {
        return take(chosen.as_str(), Choice::Chosen);
    }
    match tickets(wish.pattern, branches)[..] {
        [branch] => return take(branch, Choice::Ticket),
        [] => {}
        ref several => {
            return Err(Error::SeveralBranches {
                address: address.to_owned(),
                pattern: wish.pattern.to_owned(),
                found: several.iter().map(|branch| (*branch).to_owned()).collect(),
            });
        }
    }
    let tried = wish.pattern.to_owned();
    match wish.default.or(branches.head.as_deref()) {
        Some(default) => take(default, Choice::Default { tried }),
        None => Err(missing(&tried)),
    }
}

/// Whether the ticket has a branch of its own.
pub fn has_ticket(pattern: &str, branches: &Branches) -> bool {
    !tickets(pattern, branches).is_empty()
}

fn tickets<'b>(pattern: &str, branches: &'b Branches) -> Vec<&'b str> {
    branches.commits.keys().map(String::as_str).filter(|branch| matches(pattern, branch)).collect()
}

/// `*` stands for any characters, also none.
fn matches(pattern: &str, branch: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == branch };
    let Some(branch) = branch.strip_prefix(head) else { return false };
    let starts = branch.char_indices().map(|(at, _)| at).chain([branch.len()]);
    starts.into_iter().any(|at| matches(rest, &branch[at..]))
}

/// The branches that were most likely meant.
fn nearest(branch: &str, commits: &BTreeMap<String, String>) -> Vec<String> {
    let mut known: Vec<_> = commits.keys().cloned().collect();
    known.sort_by_cached_key(|other| (strsim::damerau_levenshtein(branch, other), other.clone()));
    known.truncate(5);
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branches(names: &[&str], head: Option<&str>) -> Branches {
        let commits = names.iter().map(|name| ((*name).to_owned(), format!("commit of {name}"))).collect();
        Branches { head: head.map(str::to_owned), commits }
    }

    #[test]
    fn the_user_then_the_ticket_then_the_default() {
        let known = branches(&["main", "1161", "feature/7-cart", "feature/8-a", "feature/8-b"], Some("main"));
        let hotfix = BranchName::new("1161").unwrap();
        let default = |tried: &str| Choice::Default { tried: tried.into() };
        for (chosen, pattern, fallback, branch, choice) in [
            (Some(&hotfix), "feature/7-*", None, "1161", Choice::Chosen),
            (None, "1161", None, "1161", Choice::Ticket),
            (None, "feature/7-*", None, "feature/7-cart", Choice::Ticket),
            (None, "*/7-*", None, "feature/7-cart", Choice::Ticket),
            (None, "feature/9-*", None, "main", default("feature/9-*")),
            (None, "9", Some("1161"), "1161", default("9")),
        ] {
            let wish = Wish { chosen, pattern, default: fallback };
            let pick = pick("x", &wish, &known).unwrap();
            assert_eq!((pick.branch.as_str(), pick.choice), (branch, choice), "{wish:?}");
        }
    }

    #[test]
    fn what_can_not_be_picked_is_told_with_what_there_is() {
        let known = branches(&["main", "feature/8-a", "feature/8-b"], None);
        let two = pick("x", &Wish { pattern: "feature/8-*", ..Wish::default() }, &known).unwrap_err();
        assert!(two.to_string().contains("feature/8-a, feature/8-b"), "{two}");
        let mian = BranchName::new("mian").unwrap();
        let none = pick("x", &Wish { chosen: Some(&mian), ..Wish::default() }, &known).unwrap_err();
        assert!(matches!(&none, Error::NoBranch { known, .. } if known[0] == "main"), "{none}");
        assert!(pick("x", &Wish { pattern: "9", ..Wish::default() }, &known).is_err(), "no default is known");
        assert!(pick("x", &Wish { pattern: "9", default: Some("trunk"), ..Wish::default() }, &known).is_err());
    }
}
