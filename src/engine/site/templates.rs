//! A site's own templates: what ends in `.j2` in its repository becomes a file beside it, with the environment's facts.
//!
//! A checkout is shared by all machines of its site, so its files know no `machine`; those of a release are rendered for each
//! machine apart and laid there with it. Archives are shared by environments and hold only the templates, so no secret is ever
//! in one. All are rendered before anything is changed.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};

use crate::engine::environment::facts::{self, unknown};
use crate::engine::site::code::{Codes, LiveSite, LiveSites, at_checkout};
use crate::engine::{Engine, Events};
use crate::model::facts::CodeFacts;
use crate::model::{Digest, Facts, Failure, Kind, MachineName, Site, SiteName};
use crate::releases::Manifest;
use crate::sources::rendered::{self, File, Template};
use crate::sources::{Error, checkout};
use crate::store::{Environment, SiteCode};
use crate::template::{self, Secret};

/// The files of a release that are rendered for one machine.
#[derive(Default)]
pub(in crate::engine) struct Rendering {
    /// Tells two renderings of a release apart; empty where it has no templates.
    pub stamp: String,
    pub files: Vec<File>,
}

impl Engine {
    /// What a release's templates are on one machine. `code` is what the site will run with it.
    fn rendering(
        &self,
        environment: &Environment,
        site: &Site,
        code: &SiteCode,
        manifest: &Manifest,
        machine: &MachineName,
    ) -> Result<Rendering, Failure> {
        // Those that the site no longer wants rendered stay as they are; more come with the next release.
        let templates: Vec<&Template> = manifest.templates.iter().filter(|one| site.code.is_template(&one.path)).collect();
        if templates.is_empty() {
            return Ok(Rendering::default());
        }
        let release = manifest.digest.short().to_owned();
        let known = CodeFacts { branch: Some(code.branch.clone()), commit: code.commit.clone(), release: Some(release) };
        let facts = facts::facts(self.store.install(), environment).on(machine).of_code(site, known);
        let files = render(site, &templates, &facts, &self.secret(&environment.id)?, &format!("{}: ", site.name))?;
        Ok(Rendering { stamp: stamp(&files), files })
    }

    /// The same for each machine of the site.
    pub(in crate::engine) fn renderings(
        &self,
        environment: &Environment,
        site: &Site,
        code: &SiteCode,
        manifest: &Manifest,
    ) -> Result<BTreeMap<MachineName, Rendering>, Failure> {
        let names = environment.definition.serving(site);
        let of = |name: MachineName| Ok((name.clone(), self.rendering(environment, site, code, manifest, &name)?));
        names.into_iter().map(of).collect()
    }

    /// Whether all templates of an environment's sites can be filled in, before anything is changed.
    pub(in crate::engine) fn try_sites(&self, environment: &Environment, codes: &Codes) -> Result<(), Failure> {
        let shelf = self.shelf()?;
        for site in &environment.definition.platform.sites {
            let Some((code, release)) = codes.get(&site.name).and_then(|code| Some((code, code.releases.first()?))) else {
                continue;
            };
            if let Ok(manifest) = shelf.get(release) {
                self.renderings(environment, site, code, &manifest)?;
            }
        }
        self.stale_checkouts(environment, &self.live_sites_of(environment, codes.clone())).map(drop)
    }

    fn checkouts_files(&self, environment: &Environment, site: &Site, live: &LiveSite) -> Result<Vec<File>, Failure> {
        let (person, folder) = (self.person_of(live.owner), &live.folder);
        if site.code.templates.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let told = |error| told(site, at_checkout(folder, error));
        let names = chosen(site, checkout::templates(&person, folder).map_err(told)?).map_err(told)?;
        let templates = rendered::read(folder, environment.owner.user, names.iter().map(String::as_str)).map_err(told)?;
        if templates.is_empty() {
            return Ok(Vec::new());
        }
        let (branch, commit) = checkout::head(&person, folder).map_err(told)?;
        let facts = facts::facts(self.store.install(), environment);
        let facts = facts.of_code(site, CodeFacts { branch, commit, release: None });
        let templates: Vec<&Template> = templates.iter().collect();
        render(site, &templates, &facts, &self.secret(&environment.id)?, &format!("{}/", folder.display()))
    }

    /// The checkouts that do not have what their templates become now.
    pub(in crate::engine) fn stale_checkouts(
        &self,
        environment: &Environment,
        live: &LiveSites,
    ) -> Result<BTreeSet<SiteName>, Failure> {
        let sites = environment.definition.platform.sites.iter().filter_map(|site| Some((site, live.get(&site.name)?)));
        let mut stale = BTreeSet::new();
        for (site, live) in sites.filter(|(_, live)| checkout::exists(&live.folder)) {
            let files = self.checkouts_files(environment, site, live)?;
            if !rendered::is_current(&live.folder, environment.owner.user, &files)
                .map_err(|error| at_checkout(&live.folder, error))?
            {
                stale.insert(site.name.clone());
            }
        }
        Ok(stale)
    }

    /// The step that gives a checkout what its templates become.
    pub(in crate::engine) fn render_checkout(
        &self,
        environment: &Environment,
        name: &SiteName,
        live: &LiveSite,
        events: &Events,
    ) -> Result<(), Failure> {
        let site = crate::engine::site::sites::find(&environment.definition.platform, &environment.id, name)?;
        let files = self.checkouts_files(environment, site, live)?;
        let laid = rendered::lay(&self.person_of(live.owner), &live.folder, environment.owner.user, &files);
        laid.map_err(|error| told(site, at_checkout(&live.folder, error)))?;
        if !files.is_empty() {
            let names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
            events.note(format!("{name}: rendered {}", names.join(", ")));
        }
        Ok(())
    }
}

/// Those of a repository's files that its site wants rendered.
pub(in crate::engine) fn chosen(site: &Site, files: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<String>, Error> {
    let meant = files.into_iter().filter(|path| site.code.is_template(&String::from_utf8_lossy(path)));
    let named = |path| {
        String::from_utf8(path).map_err(|error| Error::Unfit {
            file: String::from_utf8_lossy(error.as_bytes()).into_owned().into(),
            reason: "its name is no text".to_owned(),
        })
    };
    meant.map(named).collect()
}

/// `place` goes before each name in messages.
fn render(site: &Site, templates: &[&Template], facts: &Facts, secret: &Secret, place: &str) -> Result<Vec<File>, Failure> {
    let values = facts.values();
    let failed = |error| told(site, unknown(error));
    let mut files: BTreeMap<String, (&str, File)> = BTreeMap::new();
    for template in templates {
        let name = template.path.strip_suffix(".j2").unwrap_or(&template.path);
        let path = template::render_path(name, &values).map_err(failed)?;
        let text = template::render_with(&format!("{place}{}", template.path), &template.text, &values, secret);
        let file = File { path: path.clone(), mode: template.mode, text: text.map_err(failed)?.into() };
        if let Some((other, _)) = files.insert(path.clone(), (&template.path, file)) {
            let twice = Failure::new(Kind::Config, format!("render `{place}{}`", template.path));
            return Err(told(site, twice.cause(format!("`{other}` becomes `{path}`, too"))));
        }
    }
    Ok(files.into_values().map(|(_, file)| file).collect())
}

/// Other tools have files of this name, too.
pub(in crate::engine) fn told(site: &Site, failure: Failure) -> Failure {
    match failure.kind {
        Kind::Config => failure.hint(format!(
            "if adt is not to render all files of `{0}` that end in `.j2`, name those that are meant, e.g. \
             `templates = [\"config\"]`, or none with `[]`, below `[sites.{0}]`, then `adt env:reload`",
            site.name
        )),
        _ => failure,
    }
}

fn stamp(files: &[File]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        let text = file.text.expose_secret();
        hash.update(format!("{}\0{:o} {}\n", file.path, file.mode, text.len()));
        hash.update(text);
    }
    Digest::from_bytes(&hash.finalize()).short().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::environment::facts::tests::{PLATFORM, environment, secret};

    fn template(path: &str, text: &str) -> Template {
        Template { path: path.into(), mode: 0o640, text: text.into() }
    }

    fn rendered(templates: &[Template]) -> Result<Vec<File>, Failure> {
        let environment = environment(PLATFORM);
        let site = &environment.definition.platform.sites[0];
        let code = CodeFacts { branch: None, commit: "c0ffee".into(), release: Some("3f2a".into()) };
        let facts = facts::facts("test", &environment).on(&"web2".parse().unwrap()).of_code(site, code);
        render(site, &templates.iter().collect::<Vec<_>>(), &facts, &secret(), "www: ")
    }

    #[test]
    fn files_know_their_site_its_code_their_machine_and_secrets() {
        let files = rendered(&[
            template(
                "etc/{{ site.name }}.ini.j2",
                "{{ site.commit }} {{ site.release }} {{ machine.name }} {{ secret('db') }}\n",
            ),
            template("a.j2", ""),
        ]);
        let files = files.unwrap();
        let seen: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.mode, file.text.expose_secret())).collect();
        assert_eq!(seen, [("a", 0o640, ""), ("etc/www.ini", 0o640, "c0ffee 3f2a web2 <db>\n")]);
        assert_eq!(stamp(&files).len(), 12);
        assert_ne!(stamp(&files), stamp(&files[1..]));
        assert_ne!(stamp(&rendered(&[template("a.j2", "x")]).unwrap()), stamp(&rendered(&[template("a.j2", "y")]).unwrap()));
    }

    #[test]
    fn only_names_that_are_text_are_chosen() {
        let mut environment = environment(PLATFORM);
        let site = &mut environment.definition.platform.sites[0];
        let files = || [&b"a.j2"[..], b"b", b"\xff.j2", b"\xff"].map(<[u8]>::to_vec);
        assert!(chosen(site, files()).unwrap_err().to_string().contains("its name is no text"));
        site.code.templates = Some(vec!["a.j2".into()]);
        assert_eq!(chosen(site, files()).unwrap(), ["a.j2"]);
    }

    #[test]
    fn a_template_that_is_wrong_or_not_meant_says_where_and_what_to_do() {
        for (templates, text) in [
            (vec![template("a.j2", "x\n{{ site.prot }}")], "www: a.j2:2: `site.prot`: there is no such value"),
            (vec![template("a.j2", "{{ site.branch }}")], "www: a.j2:1: `site.branch`"),
            (vec![template("{{ hosts }}.j2", "")], "`hosts`"),
            (vec![template("../{{ env }}.j2", "")], "must stay below its folder"),
            (vec![template("{{ env }}.j2", ""), template("1161.j2", "")], "`{{ env }}.j2` becomes `1161`, too"),
        ] {
            let failure = rendered(&templates).err().unwrap();
            assert_eq!(failure.kind, Kind::Config);
            assert!(failure.to_string().contains(text), "{failure}");
            assert!(failure.hints.last().unwrap().contains("below `[sites.www]`"), "{failure:?}");
        }
    }
}
