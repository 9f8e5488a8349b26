//! Which browsers this host has, and who of them was told of adt's authorities. Must never know what their stores look like.
//!
//! A browser believes its own store only, which `certutil` changes. A host without browsers needs none of this, so nothing is
//! installed for it and nothing is said.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::host::requirement::{Requirement, find_program};
use crate::exec::people;
use crate::model::Domain;
use crate::model::response::CheckItem;
use crate::trust;

/// Needed wherever a browser is.
pub(in crate::engine) const CERTUTIL: Requirement = Requirement::Program { program: "certutil", package: "libnss3-tools" };

/// Chromium and its relatives read one store in each home. They are called so by Debian, by Ubuntu, and by their makers' packages.
const CHROMIUM: &[&str] = &[
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "brave-browser",
    "microsoft-edge",
    "vivaldi",
    "opera",
];
const FIREFOX: &[&str] = &["firefox", "firefox-esr"];

impl Engine {
    /// Root's, and the caller's.
    pub(in crate::engine) fn homes(&self) -> Vec<PathBuf> {
        let own = std::env::var_os("HOME").map(PathBuf::from);
        let mut homes: Vec<_> = own.into_iter().chain(self.caller.home.clone()).filter(|home| home.is_dir()).collect();
        homes.dedup();
        homes
    }

    /// Those whose browsers were told of a domain's authority are remembered, whoever asks.
    fn told_homes(&self, domain: &Domain) -> Vec<PathBuf> {
        let mut homes = self.homes();
        let told = trust::Installed::open(&self.store.folder).map(|known| known.places().to_vec()).unwrap_or_default();
        homes.extend(told.into_iter().filter(|place| &place.domain == domain).filter_map(|place| place.home));
        homes.sort();
        homes.dedup();
        homes
    }

    /// A browser of this host: a program, or what one left in a home.
    pub(in crate::engine) fn browser(&self) -> Option<PathBuf> {
        let program = program(CHROMIUM).or_else(|| program(FIREFOX));
        program.or_else(|| self.homes().iter().find_map(|home| trust::trace(home)))
    }

    /// None where nobody can tell them, which matters, and is said, only if there is a browser.
    pub(in crate::engine) fn homes_to_tell(&self, events: &Events) -> Vec<PathBuf> {
        if CERTUTIL.state().is_ok() {
            return self.homes();
        }
        if let Some(browser) = self.browser() {
            events.warn(format!(
                "pages show a certificate error in {}, because `certutil` is missing, which tells browsers whom to trust: \
                 `apt install libnss3-tools` or `adt host:bootstrap`, then `adt host:bind-proxy` again",
                browser.display()
            ));
        }
        Vec::new()
    }

    /// Browsers in these homes that were not told of a domain's authority, by their stores, and whose they are.
    pub(in crate::engine) fn check_browsers(&self, domain: &Domain, homes: &[PathBuf]) -> Vec<CheckItem> {
        if CERTUTIL.state().is_err() {
            let lost = |browser: PathBuf| {
                let seen = "pages show a certificate error in it: nobody can tell it of adt's authority without `certutil`";
                let remedy = "adt host:bootstrap && adt host:bind-proxy".to_owned();
                CheckItem::notice(browser.display().to_string(), seen, Some(remedy))
            };
            return self.browser().map(lost).into_iter().collect();
        }
        let Some(pem) = self.authority(domain) else { return Vec::new() };
        let is_own = |domain: &Domain, pem: &str| self.has_key_of(domain, pem);
        let (owner, has_chromium) = (self.owner(&is_own), program(CHROMIUM).is_some());
        let lacking: BTreeSet<_> = homes
            .iter()
            .filter_map(|home| trust::Home::open(home).ok())
            .flat_map(|home| {
                let person = people::user(home.owner.user).ok().flatten().map_or("nobody known".to_owned(), |user| user.name);
                let lacking = home.lacking(owner, domain, &pem, has_chromium);
                lacking.into_iter().map(move |folder| (folder, person.clone()))
            })
            .collect();
        let notice = |(folder, person): (PathBuf, String)| {
            let seen = format!("a browser of {person} that was not told of adt's authority: pages show a certificate error");
            CheckItem::notice(folder.display().to_string(), seen, Some("adt host:bind-proxy".to_owned()))
        };
        lacking.into_iter().map(notice).collect()
    }

    /// Those of everybody who was told once, and of the caller.
    pub(in crate::engine) fn check_every_browser(&self, domain: &Domain) -> Vec<CheckItem> {
        let homes = self.told_homes(domain);
        let mut items = self.check_browsers(domain, &homes);
        if let Some(browser) = self.browser().filter(|_| items.is_empty() && self.authority(domain).is_some()) {
            let homes: Vec<_> = homes.iter().map(|home| home.display().to_string()).collect();
            let seen = format!("told of adt's authority for {domain} in {}", homes.join(", "));
            items.push(CheckItem::ok(browser.display().to_string(), seen));
        }
        items
    }

    /// Nobody can tell a Firefox before it has made its profile.
    pub(in crate::engine) fn check_firefox(&self) -> Vec<CheckItem> {
        let notice = |home: PathBuf| {
            let seen = "Firefox was never started there, so it could not be told of adt's authority; once it was:";
            CheckItem::notice(home.display().to_string(), seen, Some("adt host:bind-proxy".to_owned()))
        };
        self.without_profile().into_iter().map(notice).collect()
    }

    /// The caller's home, if Firefox is there and has not started in it. Root browses nowhere.
    pub(in crate::engine) fn without_profile(&self) -> Option<PathBuf> {
        let home = self.caller.home.clone().filter(|home| home.is_dir() && !trust::has_firefox_profile(home))?;
        program(FIREFOX).map(|_| home)
    }
}

/// One line about a home whose browsers could not be changed: what that means, and why it is so.
pub(in crate::engine) fn untold(home: &Path, so: &str, error: &trust::Error) -> String {
    let causes: Vec<_> =
        std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source()).map(ToString::to_string).collect();
    let tail = error.tail().last().map(|line| format!(": {line}")).unwrap_or_default();
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("browsers in {} {so}: could not {}{tail}{hint}", home.display(), causes.join(": "))
}

fn program(names: &[&str]) -> Option<PathBuf> {
    let of_snap = |name: &str| Some(Path::new("/snap/bin").join(name)).filter(|file| file.exists());
    names.iter().find_map(|name| find_program(name).or_else(|| of_snap(name)))
}
