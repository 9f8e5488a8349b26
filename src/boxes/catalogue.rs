//! Where recipes come from, and what a recipe stands on.
//!
//! First found wins: the platform's own `boxes/`, the host's extra folders, the ones shipped inside the binary. The latter are
//! written to the store when they are needed, so that every recipe has a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::cache::Authors;
use super::inputs::{self, Inputs};
use super::{Error, Result, digest};
use crate::disk;
use crate::exec::{Account, HostPath, on_files_of};
use crate::model::{BoxName, BoxRef, Check, Digest, Failure, Health, Parent, Recipe};

/// Reads one `box.toml`.
pub type Parse<'a> = &'a dyn Fn(&Path) -> std::result::Result<Recipe, Failure>;

#[derive(rust_embed::Embed)]
#[folder = "$CARGO_MANIFEST_DIR/boxes"]
struct Shipped;

/// A recipe with everything that decides its layer known.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub recipe: Recipe,
    pub inputs: Inputs,
    pub digest: Digest,
    /// The layer it stands on; `None` for a base.
    pub parent: Option<Digest>,
    /// Its own, or else what it stands on says.
    pub health: Health,
    /// Its own log files and those of the boxes below it.
    pub logs: Vec<String>,
    /// Whose programs have run where it is built.
    pub authors: Authors,
    /// The same of the units that it enables.
    pub services: Vec<String>,
    /// Whose rights count in the recipe's folder, where that is a platform's.
    pub keeper: Option<Account>,
    /// It or a box below it is for machines that are hosts themselves.
    pub host: bool,
}

pub struct Catalogue<'a> {
    /// The folder of the platform whose boxes are among them: nothing of it may be a link that leads out.
    platform: Option<PathBuf>,
    /// Whose that folder is, and whose rights therefore count in it.
    keeper: Option<Account>,
    shipped: Option<PathBuf>,
    folders: Vec<PathBuf>,
    parse: Parse<'a>,
    architecture: String,
    /// Where digests of large files are remembered.
    known: Option<PathBuf>,
}

impl<'a> Catalogue<'a> {
    /// The boxes of a platform, of the folders `hosts` in the order of precedence, each of which holds one folder per box, and
    /// the shipped ones.
    pub fn open(store: &Path, platform: Option<HostPath<'_>>, hosts: &[PathBuf], parse: Parse<'a>) -> Result<Self> {
        let keeper = platform.and_then(|platform| platform.person.cloned());
        let platform = platform.map(|platform| platform.path);
        let own = platform.map(|platform| platform.join("boxes"));
        let shipped = extract(store)?;
        let folders = own.into_iter().chain(hosts.iter().cloned()).chain([shipped.clone()]).collect();
        let platform = platform.map(Path::to_owned);
        Ok(Self {
            platform,
            keeper,
            shipped: Some(shipped),
            known: Some(store.join("cache/digests")),
            ..Self::of_folders(folders, parse)
        })
    }

    /// Without the shipped recipes.
    pub fn of_folders(folders: Vec<PathBuf>, parse: Parse<'a>) -> Self {
        Self {
            platform: None,
            keeper: None,
            shipped: None,
            folders,
            parse,
            architecture: std::env::consts::ARCH.to_owned(),
            known: None,
        }
    }

    /// Every box with the file that wins for it.
    pub fn files(&self) -> Result<BTreeMap<BoxName, PathBuf>> {
        let mut found = BTreeMap::new();
        for folder in &self.folders {
            for (name, file) in on_files_of(self.keeper_of(folder), || self.files_in(folder))? {
                found.entry(name).or_insert(file);
            }
        }
        Ok(found)
    }

    fn files_in(&self, folder: &Path) -> Result<Vec<(BoxName, PathBuf)>> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("could not read", folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("could not read", folder))?.path();
            let name = path.file_name().and_then(|name| BoxName::new(name.to_string_lossy()).ok());
            let file = path.join("box.toml");
            if let Some(name) = name.filter(|_| file.is_file()) {
                self.check_inside(&name, folder, &path)?;
                found.push((name, file));
            }
        }
        Ok(found)
    }

    /// Whose rights count in a folder; nobody's but ours in one of the host's.
    fn keeper_of(&self, folder: &Path) -> Option<&Account> {
        let is_own = self.platform.as_ref().is_some_and(|platform| folder.starts_with(platform));
        self.keeper.as_ref().filter(|_| is_own)
    }

    /// A platform came from a stranger's repository: what its links lead to would be read as root. A host's folders are its own.
    fn check_inside(&self, name: &BoxName, folder: &Path, path: &Path) -> Result<()> {
        let Some(platform) = self.platform.as_ref().filter(|platform| folder.starts_with(platform)) else { return Ok(()) };
        let real = |path: &Path| path.canonicalize().map_err(Error::io("could not read", path));
        if real(path)?.starts_with(real(platform)?) {
            return Ok(());
        }
        Err(Error::Outside { name: name.clone(), path: path.to_owned() })
    }

    /// The recipe of one box.
    pub fn recipe(&self, name: &BoxName) -> Result<Recipe> {
        self.find(&BoxRef::new(name.clone()))
    }

    fn find(&self, wanted: &BoxRef) -> Result<Recipe> {
        let name = &wanted.name;
        let mut files = self.files()?;
        let Some(path) = files.remove(name) else {
            let known: Vec<_> = files.into_keys().collect();
            let nearest = nearest(name.as_str(), &known);
            return Err(Error::Unknown { name: name.clone(), place: wanted.place.clone().map(Box::new), nearest, known });
        };
        on_files_of(self.keeper_of(&path), || (self.parse)(&path))
            .map_err(|source| Error::Recipe { path, source: Box::new(source) })
    }

    /// A box with everything that it stands on, the base first.
    pub fn resolve(&self, name: &BoxName) -> Result<Vec<Resolved>> {
        self.resolve_recipe(self.recipe(name)?)
    }

    /// The same for a recipe that no folder holds: a platform's golden layer.
    pub fn resolve_recipe(&self, recipe: Recipe) -> Result<Vec<Resolved>> {
        let mut chain = vec![recipe];
        while let Some(Parent::Box(parent)) = chain.last().map(|recipe| recipe.parent.clone()) {
            if let Some(start) = chain.iter().position(|recipe| recipe.name == parent.name) {
                let names = chain[start..].iter().map(|recipe| recipe.name.to_string()).chain([parent.name.to_string()]);
                return Err(Error::Cycle { chain: names.collect() });
            }
            chain.push(self.find(&parent)?);
        }
        let last = chain.pop().expect("the chain starts with one recipe");
        chain.extend(split(last).into_iter().rev());
        let mut resolved: Vec<Resolved> = Vec::with_capacity(chain.len());
        for recipe in chain.into_iter().rev() {
            let below = resolved.last();
            let parent = below.map(|below| below.digest.clone());
            let health = recipe.health.clone().or_else(|| below.map(|below| below.health.clone())).unwrap_or_else(booted);
            let mut logs = below.map(|below| below.logs.clone()).unwrap_or_default();
            logs.extend(recipe.logs.iter().filter(|path| !below.is_some_and(|below| below.logs.contains(path))).cloned());
            let keeper = self.keeper_of(&recipe.folder);
            let inputs = inputs::read(&recipe, keeper, self.known.as_deref())?;
            let keeper = keeper.cloned();
            let digest = digest::of(&recipe, &self.architecture, parent.as_ref(), &inputs);
            let mut authors = below.map(|below| below.authors.clone()).unwrap_or_default();
            authors.extend(self.author(&recipe));
            let mut services = below.map(|below| below.services.clone()).unwrap_or_default();
            services.extend(recipe.services.iter().filter(|unit| !services.contains(unit)).cloned().collect::<Vec<_>>());
            let host = recipe.host || below.is_some_and(|below| below.host);
            resolved.push(Resolved { recipe, inputs, digest, parent, health, logs, authors, services, keeper, host });
        }
        Ok(resolved)
    }

    /// The folder that a recipe is from; none for what came with adt.
    fn author(&self, recipe: &Recipe) -> Option<PathBuf> {
        let holds = |folder: &&PathBuf| recipe.folder.starts_with(folder);
        if self.shipped.iter().any(|folder| holds(&folder)) {
            return None;
        }
        let known = self.platform.iter().find(holds).or_else(|| self.folders.iter().find(holds));
        Some(known.unwrap_or(&recipe.folder).clone())
    }

    /// Several boxes as one list in which a parent comes before its children and nothing is there twice.
    pub fn resolve_all<'n>(&self, names: impl IntoIterator<Item = &'n BoxName>) -> Result<Vec<Resolved>> {
        let mut all: Vec<Resolved> = Vec::new();
        for name in names {
            merge(&mut all, self.resolve(name)?);
        }
        Ok(all)
    }
}

/// What needs a running machine can't be done while a base is made, so a recipe that starts from a suite or an archive and does
/// more than unpack it is two layers: the bare base, shared by all that start from it, and the rest.
fn split(recipe: Recipe) -> Vec<Recipe> {
    let installs = !recipe.packages.is_empty() && !matches!(recipe.parent, Parent::Suite(_));
    let runs = installs || !(recipe.steps.is_empty() && recipe.services.is_empty() && recipe.mask.is_empty());
    let name = match &recipe.parent {
        Parent::Suite(suite) => BoxName::new(format!("base-{suite}")).ok(),
        Parent::Rootfs(_) | Parent::Oci(_) => BoxName::new(format!("base-{}", recipe.name)).ok(),
        Parent::Box(_) => None,
    };
    let Some(name) = name.filter(|_| runs) else { return vec![recipe] };
    let base = Recipe {
        summary: format!("What `{}` starts from", recipe.name),
        ..Recipe::bare(name.clone(), recipe.parent.clone(), recipe.folder.clone())
    };
    vec![base, Recipe { parent: Parent::Box(BoxRef::new(name)), ..recipe }]
}

fn booted() -> Health {
    Health { checks: vec![Check::Booted], deadline_seconds: 60 }
}

/// Adds a chain to a list of chains.
pub fn merge(all: &mut Vec<Resolved>, chain: Vec<Resolved>) {
    for resolved in chain {
        if !all.iter().any(|known| known.digest == resolved.digest) {
            all.push(resolved);
        }
    }
}

/// Writes the shipped recipes to the store once per content and returns their folder.
fn extract(store: &Path) -> Result<PathBuf> {
    let mut names: Vec<_> = Shipped::iter().collect();
    names.sort();
    let mut hash = Vec::new();
    for name in &names {
        let file = Shipped::get(name).expect("the name came from the list");
        hash.extend_from_slice(name.as_bytes());
        hash.push(0);
        hash.extend_from_slice(&file.metadata.sha256_hash());
    }
    let digest = Digest::from_bytes(&<sha2::Sha256 as sha2::Digest>::digest(&hash));
    let parent = store.join("shipped/boxes");
    let target = parent.join(digest.as_str());
    if target.is_dir() {
        return Ok(target);
    }
    std::fs::create_dir_all(&parent).map_err(Error::io("could not create", &parent))?;
    let temporary =
        tempfile::Builder::new().prefix(".new-").tempdir_in(&parent).map_err(Error::io("could not create", &parent))?;
    for name in &names {
        let file = Shipped::get(name).expect("the name came from the list");
        write_shipped(&temporary.path().join(name.as_ref()), &file.data)?;
    }
    set_mode(temporary.path(), 0o755)?;
    match disk::put_tree(temporary.path(), &target) {
        Ok(()) => drop(temporary.keep()),
        // Another command was faster; the content is the same.
        Err(_) if target.is_dir() => {}
        Err(error) => return Err(Error::io("could not create", target)(error)),
    }
    Ok(target)
}

/// The binary carries no modes; a script is known by its first two bytes.
fn write_shipped(path: &Path, data: &[u8]) -> Result<()> {
    let parent = path.parent().expect("the path was joined to a folder");
    std::fs::create_dir_all(parent).map_err(Error::io("could not create", parent))?;
    std::fs::write(path, data).map_err(Error::io("could not write", path))?;
    set_mode(path, if data.starts_with(b"#!") { 0o755 } else { 0o644 })
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(Error::io("could not change", path))
}

/// The known name that is most like `word`, if one is close enough to be meant.
fn nearest(word: &str, known: &[BoxName]) -> Option<BoxName> {
    let best = known.iter().min_by_key(|name| distance(word, name.as_str()))?;
    (distance(word, best.as_str()) <= 1 + word.len() / 4).then(|| best.clone())
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::Kind;

    pub(crate) fn recipe(name: &str, parent: Parent) -> Recipe {
        Recipe::bare(BoxName::new(name).unwrap(), parent, PathBuf::from("/"))
    }

    /// `box.toml` of these tests is one word: a suite, or a box with `@` before it.
    pub(crate) fn parse(path: &Path) -> std::result::Result<Recipe, Failure> {
        let text = std::fs::read_to_string(path).unwrap();
        let folder = path.parent().unwrap().to_owned();
        let from = match text.trim().strip_prefix('@') {
            Some(name) => Parent::Box(BoxRef::new(BoxName::new(name).unwrap())),
            None if text.trim().is_empty() => return Err(Failure::new(Kind::Config, "read it")),
            None => Parent::Suite(text.trim().to_owned()),
        };
        Ok(Recipe { folder: folder.clone(), ..recipe(&folder.file_name().unwrap().to_string_lossy(), from) })
    }

    pub(crate) fn write(folder: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("box.toml"), text).unwrap();
    }

    fn name(word: &str) -> BoxName {
        BoxName::new(word).unwrap()
    }

    #[test]
    fn the_first_folder_wins_and_parents_come_first() {
        let (own, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(host.path(), "base", "bookworm");
        write(host.path(), "web", "@base");
        write(own.path(), "base", "trixie");
        let catalogue = Catalogue::of_folders(vec![own.path().into(), "/nowhere".into(), host.path().into()], &parse);
        let chain = catalogue.resolve(&name("web")).unwrap();
        assert_eq!(chain[0].recipe.parent, Parent::Suite("trixie".into()));
        assert_eq!(chain[1].parent.as_ref(), Some(&chain[0].digest));
        assert_eq!(catalogue.resolve_all([&name("web"), &name("base")]).unwrap(), chain);
        let before = chain[1].digest.clone();
        write(own.path(), "base", "bookworm");
        assert_ne!(catalogue.resolve(&name("web")).unwrap()[1].digest, before, "a parent's change is a child's change");
    }

    #[test]
    fn an_unknown_box_names_the_nearest_and_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "web-php", "bookworm");
        write(folder.path(), "mariadb", "bookworm");
        write(folder.path(), "shop", "@web-phb");
        let catalogue = Catalogue::of_folders(vec![folder.path().into()], &parse);
        let error = catalogue.resolve(&name("shop")).unwrap_err();
        assert_eq!(error.to_string(), "no box is called `web-phb`");
        assert_eq!(error.hints(), ["did you mean `web-php`?", "known are: mariadb, shop, web-php"]);
        let error = catalogue.resolve(&name("zzzzzz")).unwrap_err();
        assert!(matches!(error, Error::Unknown { nearest: None, .. }));
    }

    #[test]
    fn a_circle_is_printed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "x", "@a");
        write(folder.path(), "a", "@b");
        write(folder.path(), "b", "@a");
        let catalogue = Catalogue::of_folders(vec![folder.path().into()], &parse);
        let error = catalogue.resolve(&name("x")).unwrap_err();
        assert_eq!(error.to_string(), "boxes stand on each other in a circle: a -> b -> a");
    }

    #[test]
    fn a_suite_with_steps_is_two_layers() {
        let mut whole = recipe("web", Parent::Suite("bookworm".into()));
        whole.packages = vec!["nginx".into()];
        let catalogue = Catalogue::of_folders(Vec::new(), &parse);
        assert_eq!(catalogue.resolve_recipe(whole.clone()).unwrap().len(), 1);
        whole.services = vec!["nginx".into()];
        let chain = catalogue.resolve_recipe(whole).unwrap();
        assert_eq!(chain.iter().map(|one| one.recipe.name.as_str()).collect::<Vec<_>>(), ["base-bookworm", "web"]);
        assert!(chain[0].recipe.packages.is_empty());
        assert_eq!(chain[1].parent.as_ref(), Some(&chain[0].digest));
        assert_eq!(chain[1].health, booted());
    }

    #[test]
    fn a_broken_recipe_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "x", "");
        let catalogue = Catalogue::of_folders(vec![folder.path().into()], &parse);
        let error = catalogue.resolve(&name("x")).unwrap_err();
        assert!(error.to_string().contains("x/box.toml"), "{error}");
        assert_eq!(error.kind(), Kind::Config);
    }

    #[test]
    fn shipped_recipes_are_written_once() {
        let store = tempfile::tempdir().unwrap();
        let first = extract(store.path()).unwrap();
        assert_eq!(extract(store.path()).unwrap(), first);
        assert_eq!(std::fs::read_dir(store.path().join("shipped/boxes")).unwrap().count(), 1);
    }
}
