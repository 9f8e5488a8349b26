//! What a release's name is made of: everything that decides its content, and nothing else. Not the commit, whose message
//! changes no file; not the environment, so that one build serves all of them.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::model::Digest;

/// Raised when the same inputs become another release.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// git's name for the commit's files.
    pub tree: String,
    /// Its files that are rendered for each machine.
    pub templates: Vec<String>,
    /// The program of the tree that builds it; without one the tree is the release.
    pub buildpack: Option<PathBuf>,
    /// What the build's machine stands on. A tree that nothing is built in is the same on every box.
    pub layers: Vec<Digest>,
    /// Where releases lie on machines: virtual environments and the like remember where they were made.
    pub folder: String,
    pub user: String,
    pub variables: Vec<(String, String)>,
}

impl Inputs {
    pub fn digest(&self) -> Digest {
        let mut hash = Fields(Sha256::new());
        hash.field("format", FORMAT.to_string());
        hash.field("tree", &self.tree);
        for template in &self.templates {
            hash.field("template", template);
        }
        if let Some(buildpack) = &self.buildpack {
            hash.field("buildpack", buildpack.as_os_str().as_encoded_bytes());
            hash.field("architecture", std::env::consts::ARCH);
            hash.field("folder", &self.folder);
            hash.field("user", &self.user);
            for layer in &self.layers {
                hash.field("layer", layer.as_str());
            }
            for (name, value) in &self.variables {
                hash.field("variable", name);
                hash.field("value", value);
            }
        }
        Digest::from_bytes(&hash.0.finalize())
    }
}

/// Each field with its name and length, so that no two lists of fields run into each other.
struct Fields(Sha256);

impl Fields {
    fn field(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.0.update(format!("{name} {}\n", value.len()));
        self.0.update(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        Inputs {
            tree: "4b825dc6".into(),
            templates: vec!["app.ini.j2".into()],
            buildpack: Some("deploy/buildpack".into()),
            layers: vec![Digest::from_bytes(&[1; 32])],
            folder: "/srv/www.releases".into(),
            user: "www-data".into(),
            variables: vec![("ADT_SITE".into(), "www".into())],
        }
    }

    #[test]
    fn every_input_makes_another_release() {
        let changes: [fn(&mut Inputs); 7] = [
            |inputs| inputs.tree = "4b825dc7".into(),
            |inputs| inputs.templates.clear(),
            |inputs| inputs.buildpack = Some("deploy/other".into()),
            |inputs| inputs.layers.push(Digest::from_bytes(&[2; 32])),
            |inputs| inputs.folder = "/srv/app.releases".into(),
            |inputs| inputs.user = "app".into(),
            |inputs| inputs.variables[0].1 = "api".into(),
        ];
        let mut seen = std::collections::BTreeSet::from([inputs().digest()]);
        for change in changes {
            let mut other = inputs();
            change(&mut other);
            assert!(seen.insert(other.digest()), "{other:?}");
        }
        assert_eq!(inputs().digest(), inputs().digest());
    }

    #[test]
    fn what_is_not_built_is_the_same_on_every_box() {
        let bare = Inputs { buildpack: None, ..inputs() };
        let elsewhere = Inputs { layers: Vec::new(), user: "app".into(), ..bare.clone() };
        assert_eq!(bare.digest(), elsewhere.digest());
        assert_ne!(bare.digest(), inputs().digest());
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let split = |name: &str, value: &str| Inputs { variables: vec![(name.into(), value.into())], ..inputs() };
        assert_ne!(split("A", "BC").digest(), split("AB", "C").digest());
    }
}
