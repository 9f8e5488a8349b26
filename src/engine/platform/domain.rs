//! Whether a platform's own domain leaves others their names. What a name leads to is not known here.

use crate::engine::Engine;
use crate::engine::permission::Authority;
use crate::exec::Account;
use crate::model::{Domain, Failure, Kind, Platform, PlatformName};

impl Engine {
    /// Refuses a domain by which one person's platform would answer at another's names. Root's platforms may have any, and so
    /// may those of who works behind sudo.
    pub(in crate::engine) fn check_domain(&self, platform: &Platform, keeper: Option<&Account>) -> Result<(), Failure> {
        let (Some(domain), Some(keeper)) = (&platform.domain, keeper) else { return Ok(()) };
        let hosts = &self.settings.domain.value;
        if domain == hosts || (self.caller.authority == Authority::Root && self.person().user() == keeper.user) {
            return Ok(());
        }
        let refused = |cause: String| {
            Failure::new(Kind::Conflict, format!("give the platform `{}` the domain `{domain}`", platform.name))
                .cause(cause)
                .hint("choose another `domain` in `platform.toml`, or leave it out")
        };
        let own = below(&platform.name, domain);
        let host = hosts.as_str();
        // Any name directly below it is a platform's, now or some day.
        if is_within(domain.as_str(), host) || is_within(host, &own) {
            return Err(refused(format!(
                "names below `{host}`, which is this host's, are for platforms without a domain of their own"
            )));
        }
        for (name, theirs) in self.names_of_others(&platform.name, keeper)? {
            if is_within(&own, &theirs) || is_within(&theirs, &own) {
                return Err(refused(format!("its names would be among those of the platform `{name}`, `{theirs}`")));
            }
        }
        Ok(())
    }

    /// The names of platforms whose folders are somebody else's: as these say now, and as their environments have them.
    fn names_of_others(&self, but: &PlatformName, keeper: &Account) -> Result<Vec<(PlatformName, String)>, Failure> {
        let mut all = Vec::new();
        for record in self.store.database.platforms()? {
            if record.name == *but || self.keeper(&record).is_some_and(|other| other.user == keeper.user) {
                continue;
            }
            let now = self.read_platform(&record).map(|other| other.domain_or(&self.settings.domain.value).clone());
            let made = self.environments(Some(&record.name))?.into_iter().map(|environment| environment.definition.domain);
            all.extend(now.into_iter().chain(made).map(|domain| (record.name.clone(), below(&record.name, &domain))));
        }
        Ok(all)
    }
}

/// `shop.example.test`
fn below(name: &PlatformName, domain: &Domain) -> String {
    format!("{name}.{domain}")
}

/// Whether a name is another, or below it.
fn is_within(name: &str, other: &str) -> bool {
    name.strip_suffix(other).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
