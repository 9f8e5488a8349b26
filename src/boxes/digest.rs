//! What a layer's name is made of: everything that decides its content, and nothing else. Not the time, not the folder.

use sha2::{Digest as _, Sha256};

use super::inputs::{Content, Inputs};
use crate::model::{BuildStep, Digest, Parent, Recipe};

/// Raised when the builder makes other layers of the same recipe.
const FORMAT: u32 = 1;

/// The digest of a recipe over its parent. Pure.
pub fn of(recipe: &Recipe, architecture: &str, parent: Option<&Digest>, inputs: &Inputs) -> Digest {
    let mut hash = Fields(Sha256::new());
    hash.field("format", FORMAT.to_string());
    hash.field("name", recipe.name.as_str());
    match (&recipe.parent, parent) {
        (Parent::Suite(suite), _) => hash.field("suite", suite),
        (Parent::Rootfs(_), _) => hash.field("rootfs", ""),
        (Parent::Oci(_), _) => hash.field("oci", ""),
        (Parent::Box(_), Some(parent)) => hash.field("parent", parent.as_str()),
        (Parent::Box(above), None) => unreachable!("box `{}` was resolved without its parent `{}`", recipe.name, above.name),
    }
    hash.field("architecture", architecture);
    hash.list("packages", &sorted(&recipe.packages));
    hash.list("services", &sorted(&recipe.services));
    hash.list("mask", &sorted(&recipe.mask));
    hash.list("exposes", &recipe.exposes.iter().map(u16::to_string).collect::<Vec<_>>());
    hash.field("health", serde_json::to_string(&recipe.health).expect("a health check is plain data"));
    hash.field("vars", serde_json::to_string(&recipe.vars).expect("variables came from a file and are plain data"));
    hash.list("steps", &recipe.steps.iter().map(step_text).collect::<Vec<_>>());
    for material in inputs.base.iter().chain(&inputs.steps) {
        hash.field("material", material.entries.len().to_string());
        for entry in &material.entries {
            hash.field("path", entry.path.as_os_str().as_encoded_bytes());
            hash.field("mode", format!("{:o}", entry.mode));
            match &entry.content {
                Content::File(digest) => hash.field("file", digest.as_str()),
                Content::Folder => hash.field("folder", ""),
                Content::Link(target) => hash.field("link", target.as_os_str().as_encoded_bytes()),
            }
        }
    }
    Digest::from_bytes(&hash.0.finalize())
}

/// apt and systemd do not care for the order of names.
fn sorted(words: &[String]) -> Vec<String> {
    let mut words = words.to_vec();
    words.sort();
    words.dedup();
    words
}

fn step_text(step: &BuildStep) -> String {
    // Names of scripts and trees don't reach the layer; a playbook's does, it decides what is run.
    match step {
        BuildStep::Files(_) | BuildStep::Script(_) => step.word().to_owned(),
        BuildStep::Ansible(_) | BuildStep::Salt(_) => format!("{} {}", step.word(), step.path().display()),
        BuildStep::Seed { engine, .. } => {
            format!("{} {}", step.word(), serde_json::to_string(engine).expect("a data set's engine is plain data"))
        }
    }
}

/// Each field carries its length, so that no two different lists of fields are the same bytes.
struct Fields(Sha256);

impl Fields {
    fn field(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update((bytes.len() as u64).to_be_bytes());
            self.0.update(bytes);
        }
    }

    fn list(&mut self, name: &str, values: &[String]) {
        self.field(name, values.len().to_string());
        for value in values {
            self.field(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::boxes::catalogue::tests::recipe;
    use crate::boxes::inputs;
    use crate::model::BoxRef;
    use proptest::prelude::*;

    fn digest(recipe: &Recipe) -> Digest {
        of(recipe, "amd64", None, &inputs::read(recipe, None, None).unwrap())
    }

    #[test]
    fn the_folder_and_times_do_not_matter_but_content_and_mode_do() {
        let one = tempfile::tempdir().unwrap();
        let two = tempfile::tempdir().unwrap();
        let make = |folder: &Path, text: &str| {
            std::fs::write(folder.join("setup"), text).unwrap();
            let mut recipe = recipe("web", Parent::Suite("bookworm".into()));
            recipe.steps = vec![BuildStep::Script("setup".into())];
            recipe.folder = folder.to_owned();
            recipe
        };
        let first = digest(&make(one.path(), "echo"));
        let second = make(two.path(), "echo");
        assert_eq!(first, digest(&second));
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(two.path().join("setup"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(first, digest(&second));
        assert_ne!(first, digest(&make(one.path(), "echo 2")));
    }

    #[test]
    fn every_part_of_a_recipe_counts() {
        let plain = recipe("web", Parent::Suite("bookworm".into()));
        let parent = Digest::from_bytes(&[7; 32]);
        let mut changed = vec![plain.clone(); 7];
        changed[0].packages.push("nginx".into());
        changed[1].services.push("nginx".into());
        changed[2].mask.push("nginx".into());
        changed[3].exposes.push(80);
        changed[4].vars.insert("a".into(), "1".into());
        changed[5].health = Some(crate::model::Health { checks: Vec::new(), deadline_seconds: 1 });
        changed[6].parent = Parent::Suite("trixie".into());
        let mut seen = std::collections::BTreeSet::from([digest(&plain)]);
        for recipe in &changed {
            assert!(seen.insert(digest(recipe)), "{recipe:?}");
        }
        assert!(seen.insert(of(&plain, "arm64", None, &Inputs::default())));
        assert!(seen.insert(of(
            &recipe("web", Parent::Box(BoxRef::new(plain.name.clone()))),
            "amd64",
            Some(&parent),
            &Inputs::default()
        )));
        let mut summary = plain.clone();
        summary.summary = "other words".into();
        assert_eq!(digest(&summary), digest(&plain));
    }

    proptest! {
        #[test]
        fn order_and_repetition_of_packages_do_not_matter(mut words in proptest::collection::vec("[a-z]{1,6}", 0..6)) {
            let mut one = recipe("web", Parent::Suite("bookworm".into()));
            one.packages = words.clone();
            words.reverse();
            words.extend(words.first().cloned());
            let mut two = one.clone();
            two.packages = words;
            prop_assert_eq!(digest(&one), digest(&two));
        }

        #[test]
        fn fields_never_run_into_each_other(a in "[a-c ]{0,4}", b in "[a-c ]{0,4}", c in "[a-c ]{0,4}", d in "[a-c ]{0,4}") {
            let with = |packages: [&String; 2]| {
                let mut recipe = recipe("web", Parent::Suite("bookworm".into()));
                recipe.services = vec![packages[0].clone()];
                recipe.mask = vec![packages[1].clone()];
                digest(&recipe)
            };
            prop_assert_eq!((&a, &b) == (&c, &d), with([&a, &b]) == with([&c, &d]));
        }
    }
}
