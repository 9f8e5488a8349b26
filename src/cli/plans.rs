//! `target:plan --out`, `target:apply`: a promotion that was looked at, as a file.
//!
//! It holds no secret and decides nothing: it names what is promoted, and what was seen when that was planned. What is done is planned
//! once more, and is the same where what is seen is the same.

use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::{Session, answer};
use crate::disk;
use crate::model::target::TargetStep;
use crate::model::{Digest, EnvironmentId, EnvironmentName, Failure, Kind, Request, Response};
use crate::servers::session::whole;

/// Longer than any, however many steps it has.
const MOST: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    from: EnvironmentId,
    target: EnvironmentName,
    seen: Digest,
    /// For people.
    #[serde(default)]
    steps: Vec<TargetStep>,
}

impl Session {
    pub(super) fn target_plan(
        &self,
        from: EnvironmentId,
        target: EnvironmentName,
        out: Option<&Path>,
    ) -> Result<ExitCode, Failure> {
        let request = Request::EnvPromote { id: from.clone(), target: target.clone(), dry_run: true, seen: None };
        let response = self.carry(&mut |each| self.connection.run(&request, each))?;
        if let (Some(out), Response::Promotion(promotion)) = (out, &response) {
            let seen = promotion.seen.clone().ok_or_else(crate::wire::asker::unexpected)?;
            let plan = Plan { from, target, seen, steps: promotion.steps.clone() };
            let path = self.surroundings.here.join(out);
            let text = serde_json::to_vec_pretty(&plan).expect("its keys are strings, so it becomes JSON");
            let written = disk::File::at(&path).mode(0o644).write(text);
            written.map_err(|error| Failure::new(Kind::Host, format!("write `{}`", path.display())).because(&error))?;
        }
        answer::print(&response, &self.global)?;
        Ok(answer::exit_code(&response))
    }
}

/// What a saved plan asks for.
pub(super) fn read(path: &Path) -> Result<Request, Failure> {
    let failed = || Failure::new(Kind::Usage, format!("read the plan `{}`", path.display()));
    let text = std::fs::File::open(path).and_then(|file| whole(file, MOST)).map_err(|error| failed().because(&error))?;
    let plan: Plan = serde_json::from_slice(&text)
        .map_err(|error| failed().because(&error).hint("`adt target:plan ENV TARGET --out FILE` writes one"))?;
    Ok(Request::EnvPromote { id: plan.from, target: plan.target, dry_run: false, seen: Some(plan.seen) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_plan_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.json");
        assert!(read(&file).is_err());
        for text in ["", "{}", "[]", r#"{"from":{"platform":"shop","name":"../1"},"target":"production","seen":"00"}"#] {
            std::fs::write(&file, text).unwrap();
            assert!(read(&file).is_err(), "{text}");
        }
        let seen = "a".repeat(64);
        let text = format!(r#"{{"from":{{"platform":"shop","name":"1161"}},"target":"production","seen":"{seen}"}}"#);
        std::fs::write(&file, text).unwrap();
        let Request::EnvPromote { id, target, dry_run: false, seen: Some(digest) } = read(&file).unwrap() else { panic!() };
        assert_eq!((id.to_string().as_str(), target.as_str(), digest.as_str()), ("shop/1161", "production", seen.as_str()));
    }
}
