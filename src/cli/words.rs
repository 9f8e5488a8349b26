//! From the words of the command line to names: which platform is meant where it was left out.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::model::request::SiteWish;
use crate::model::target::REHEARSAL;
use crate::model::{BranchName, EnvironmentId, EnvironmentName, Failure, Kind, MachineName, PlatformName, SiteName};
use crate::wire::message::Platform;

/// What the words may mean besides what they say.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// `-p` or `ADT_PLATFORM`.
    pub chosen: Option<String>,
    pub here: PathBuf,
    pub platforms: Vec<Platform>,
    /// `--target`: the one environment that is meant.
    pub target: Option<EnvironmentId>,
}

impl Surroundings {
    /// The platform whose folder we stand in, and the first folder below it on the way here.
    fn around(&self) -> Option<(&Platform, Option<EnvironmentName>)> {
        // Nested platforms: the innermost folder counts.
        let inside = self.platforms.iter().filter(|platform| self.here.starts_with(&platform.folder));
        let platform = inside.max_by_key(|platform| platform.folder.components().count())?;
        let below = self.here.strip_prefix(&platform.folder).unwrap_or(Path::new(""));
        let first = below.components().next().and_then(|part| part.as_os_str().to_str()?.parse().ok());
        Some((platform, first))
    }

    /// The platform that is meant by nothing but the surroundings.
    pub fn platform(&self, word: Option<&str>) -> Result<PlatformName, Failure> {
        if let Some(word) = word.or(self.chosen.as_deref()) {
            return name(word);
        }
        if let Some((platform, _)) = self.around() {
            return Ok(platform.name.clone());
        }
        // A server that is rehearsed on is no platform of anybody's.
        let own: Vec<_> = self.platforms.iter().filter(|platform| platform.name.as_str() != REHEARSAL).collect();
        match own.as_slice() {
            [only] => Ok(only.name.clone()),
            [] => Err(Failure::new(Kind::NotFound, "choose the platform")
                .cause("this host knows none")
                .hint("add one with `adt platform:init`, e.g. `adt platform:init hello`")),
            several => {
                let known: Vec<_> = several.iter().map(|platform| platform.name.to_string()).collect();
                Err(Failure::new(Kind::Usage, "choose the platform")
                    .cause("this host knows several")
                    .hint(format!("name one of {}, or stand in its folder", known.join(", "))))
            }
        }
    }

    /// Whether a first word names a platform rather than an environment.
    fn names_platform(&self, word: &str) -> bool {
        self.platforms.iter().any(|platform| platform.name.as_str() == word)
    }

    /// `[PLATFORM] [ENV]...`
    pub fn fleet(&self, words: &[String]) -> Result<(PlatformName, Vec<EnvironmentName>), Failure> {
        let (platform, rest) = match words {
            [first, rest @ ..] if self.names_platform(first) => (name(first)?, rest),
            // One unknown word is more likely a platform that is not there than an environment.
            [only] if self.chosen.is_none() && self.around().is_none() && self.platforms.len() != 1 => {
                (name(only)?, [].as_slice())
            }
            all => (self.platform(None)?, all),
        };
        let names: Result<Vec<EnvironmentName>, _> = rest.iter().map(|word| name(word)).collect();
        Ok((platform, names?))
    }

    /// `[PLATFORM] ENV`, or `PLATFORM/ENV`, or nothing inside an environment's folder.
    pub fn environment(&self, words: &[String]) -> Result<EnvironmentId, Failure> {
        if let Some(id) = &self.target {
            return match words {
                [] => Ok(id.clone()),
                [word, ..] => Err(Failure::new(Kind::Usage, "read the environment's name")
                    .cause(format!("`{}` stands beside `--target {}`, which is `{id}`", word.escape_debug(), id.name))
                    .hint("leave it out; `-p` names another platform")),
            };
        }
        match words {
            [] => match self.around() {
                Some((platform, Some(environment))) => Ok(EnvironmentId { platform: platform.name.clone(), name: environment }),
                Some((_, None)) | None => Err(Failure::new(Kind::Usage, "choose the environment")
                    .cause("none was named, and this is no environment's folder")
                    .hint("name it, e.g. `adt env:up 1161`; `adt env:list` shows them")),
            },
            [word] => match word.split_once('/') {
                Some((platform, environment)) => Ok(EnvironmentId { platform: name(platform)?, name: name(environment)? }),
                None => {
                    // Checked first: what is wrong with the word itself helps more than which platform is missing.
                    let environment = name(word)?;
                    Ok(EnvironmentId { platform: self.platform(None)?, name: environment })
                }
            },
            [platform, environment] => Ok(EnvironmentId { platform: name(platform)?, name: name(environment)? }),
            _ => Err(Failure::new(Kind::Usage, "read the environment's name").cause("there are too many words")),
        }
    }

    /// `[PLATFORM] ENV [SITE[:BRANCH]]...`: two words are platform and environment, unless the second can only be a site.
    pub fn environment_and_sites(
        &self,
        words: &[String],
        sites_of: &dyn Fn(&PlatformName) -> Vec<SiteName>,
    ) -> Result<(EnvironmentId, Vec<SiteWish>), Failure> {
        let is_site = |word: &String| {
            let known = || self.platform(None).map(|platform| sites_of(&platform)).unwrap_or_default();
            word.contains(':') || known().iter().any(|site| site.as_str() == word)
        };
        let count = match words {
            [] => 0,
            [first, _, ..] if self.names_platform(first) => 2,
            [first, ..] if first.contains('/') => 1,
            [_, second] if !is_site(second) => 2,
            _ => 1,
        };
        let id = self.environment(&words[..count])?;
        let sites: Result<Vec<_>, _> = words[count..].iter().map(|word| site(word)).collect();
        Ok((id, sites?))
    }

    /// `[PLATFORM] ENV [MACHINE]...`: the words before the machines are recognised by what is known.
    pub fn machines(
        &self,
        words: &[String],
        known: &dyn Fn(&EnvironmentId) -> Option<Vec<MachineName>>,
    ) -> Result<(EnvironmentId, Vec<MachineName>), Failure> {
        self.followed(words, &|id| known(id).is_some())
    }

    /// `[PLATFORM] ENV [NAME]...`: whose names they are, who asks knows.
    pub fn followed<T: std::str::FromStr<Err = crate::model::BadName>>(
        &self,
        words: &[String],
        known: &dyn Fn(&EnvironmentId) -> bool,
    ) -> Result<(EnvironmentId, Vec<T>), Failure> {
        if self.target.is_some() {
            let names: Result<Vec<T>, _> = words.iter().map(|word| name(word)).collect();
            return Ok((self.environment(&[])?, names?));
        }
        let with_platform = words.len() >= 2 && self.names_platform(&words[0]) && {
            let id = self.environment(&words[..2]);
            // A platform and an environment of one name: the reading that finds something wins.
            id.is_ok_and(|id| known(&id)) || words.len() > 2
        };
        let count = match (with_platform, words.is_empty()) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 1,
        };
        let id = self.environment(&words[..count])?;
        let names: Result<Vec<T>, _> = words[count..].iter().map(|word| name(word)).collect();
        Ok((id, names?))
    }
}

/// `www` or `www:hotfix`
pub fn site(word: &str) -> Result<SiteWish, Failure> {
    match word.split_once(':') {
        Some((site, branch)) => Ok(SiteWish { site: name(site)?, branch: Some(self::branch(branch)?) }),
        None => Ok(SiteWish { site: name(word)?, branch: None }),
    }
}

pub fn branch(word: &str) -> Result<BranchName, Failure> {
    word.parse().map_err(|error: crate::model::BadName| {
        Failure::new(Kind::Usage, "read the command line")
            .because(&error)
            .hint("write it as `git branch` shows it, e.g. `feature/1161`")
    })
}

pub fn name<T: std::str::FromStr<Err = crate::model::BadName>>(word: &str) -> Result<T, Failure> {
    word.parse().map_err(|error: crate::model::BadName| {
        Failure::new(Kind::Usage, "read the command line")
            .because(&error)
            .hint("names become part of host names: lower-case letters, digits and hyphens, e.g. `1161`")
    })
}

pub fn network(word: &str) -> Result<IpNet, Failure> {
    crate::model::access::network(word).map_err(|reason| {
        Failure::new(Kind::Usage, format!("read the network `{}`", word.escape_debug()))
            .cause(reason)
            .hint("write an address, as `203.0.113.7`, or a network, as `203.0.113.0/24`")
    })
}

/// `8h`, up to a month.
pub fn seconds(word: &str) -> Result<u32, Failure> {
    const MONTH: u32 = 30 * 24 * 3600;
    let read = word.parse::<jiff::SignedDuration>().ok().and_then(|time| u32::try_from(time.as_secs()).ok());
    // Days are longer than a clock's, to whoever thinks of summer time; here they are not.
    let days = word.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()).and_then(|days| days.checked_mul(24 * 3600));
    read.or(days).filter(|seconds| (1..=MONTH).contains(seconds)).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("read the time `{}`", word.escape_debug()))
            .cause("it is no time between a second and 30 days")
            .hint("write e.g. `8h`, `30m` or `2d`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(here: &str, platforms: &[&str]) -> Surroundings {
        let platform = |name: &&str| Platform { name: name.parse().unwrap(), folder: format!("/home/ada/{name}").into() };
        let platforms = platforms.iter().map(platform);
        Surroundings { chosen: None, here: here.into(), platforms: platforms.collect(), target: None }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_time_is_at_most_a_month() {
        for (word, wanted) in [("8h", 28_800), ("30m", 1800), ("2d", 172_800), ("1h30m", 5400), ("30d", 2_592_000)] {
            assert_eq!(seconds(word).unwrap(), wanted, "{word}");
        }
        for word in ["", "0s", "-1h", "31d", "8", "h", "4294967295d", "999999999999h"] {
            assert!(seconds(word).is_err(), "{word}");
        }
    }

    #[test]
    fn the_platform_comes_from_words_folder_or_being_the_only_one() {
        let cases = [
            ("/", &["shop", "blog"][..], "shop 1161", "shop/1161"),
            ("/", &["shop", "blog"], "blog/7", "blog/7"),
            ("/home/ada/blog/src", &["shop", "blog"], "7", "blog/7"),
            ("/home/ada/shop/1161/www", &["shop", "blog"], "", "shop/1161"),
            ("/", &["shop"], "1161", "shop/1161"),
        ];
        for (here, platforms, text, expected) in cases {
            let id = surroundings(here, platforms).environment(&words(text)).unwrap();
            assert_eq!(id.to_string(), expected, "{here} {text}");
        }
    }

    #[test]
    fn what_can_not_be_known_is_asked_for() {
        for (platforms, text, kind) in [
            (&[][..], "1161", Kind::NotFound),
            (&["shop", "blog"], "1161", Kind::Usage),
            (&["shop"], "", Kind::Usage),
            (&["shop"], "A_B", Kind::Usage),
            (&["shop"], "a b c", Kind::Usage),
        ] {
            let failure = surroundings("/", platforms).environment(&words(text)).unwrap_err();
            assert_eq!(failure.kind, kind, "{text}: {failure}");
        }
    }

    #[test]
    fn machines_follow_the_environment_with_or_without_its_platform() {
        let known = |id: &EnvironmentId| (id.to_string() == "shop/1161").then(Vec::new);
        let surroundings = surroundings("/", &["shop"]);
        for (text, machines) in [("shop 1161", 0), ("shop 1161 web1", 1), ("1161 web1", 1), ("1161", 0), ("1161 web1 web2", 2)] {
            let (id, found) = surroundings.machines(&words(text), &known).unwrap();
            assert_eq!((id.to_string().as_str(), found.len()), ("shop/1161", machines), "{text}");
        }
    }

    #[test]
    fn sites_follow_the_environment() {
        let sites = |_: &PlatformName| vec!["www".parse().unwrap(), "api".parse().unwrap()];
        for (text, id, found) in [
            ("shop 1161", "shop/1161", ""),
            ("1161", "shop/1161", ""),
            ("other 1161", "other/1161", ""),
            ("1161 www", "shop/1161", "www"),
            ("1161 www:hotfix api", "shop/1161", "www:hotfix api"),
            ("shop 1161 www:feature/x", "shop/1161", "www:feature/x"),
            ("shop/7 api", "shop/7", "api"),
        ] {
            let (environment, wishes) = surroundings("/", &["shop"]).environment_and_sites(&words(text), &sites).unwrap();
            let wishes: Vec<_> = wishes
                .iter()
                .map(|wish| wish.branch.as_ref().map_or(wish.site.to_string(), |branch| format!("{}:{branch}", wish.site)))
                .collect();
            assert_eq!((environment.to_string().as_str(), wishes.join(" ").as_str()), (id, found), "{text}");
        }
        let refused = surroundings("/", &["shop"]).environment_and_sites(&words("1161 www:-x"), &sites).unwrap_err();
        assert_eq!(refused.kind, Kind::Usage);
    }

    #[test]
    fn a_fleet_is_a_platform_and_perhaps_some_of_its_environments() {
        let surroundings = surroundings("/", &["shop"]);
        for (text, environments) in [("", 0), ("shop", 0), ("shop 1 2", 2), ("1 2", 2), ("1", 1)] {
            let (platform, names) = surroundings.fleet(&words(text)).unwrap();
            assert_eq!((platform.as_str(), names.len()), ("shop", environments), "{text}");
        }
    }
}
