//! Files of sites that end in `.j2`, in checkouts: rendered when an environment comes up, told where they can't be.

use std::path::{Path, PathBuf};

use adt::model::{Event, Failure, Kind, Request, Response};

use super::fakes::{Host, PLATFORM, Ran, id, init};

/// A platform with a site from a repository, and the site's checkout.
struct Town {
    host: Host,
    www: PathBuf,
    _folder: tempfile::TempDir,
}

impl Town {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path());
        host.define_with_source();
        // What a site gets that asks for nothing else.
        host.git(&["checkout", "--quiet", "main"]);
        let www = host.shop().join("1161/www");
        Self { host, www, _folder: folder }
    }

    fn run(&self, request: Request) -> Ran {
        self.host.process("test").run(request)
    }

    fn init(&self) -> Ran {
        self.run(init("1161"))
    }

    /// The steps of `env:up`.
    fn up(&self, dry_run: bool) -> Result<Vec<String>, Failure> {
        let ran = self.run(Request::EnvUp { id: id("1161"), dry_run });
        let planned = ran.events.into_iter().filter_map(|event| match event {
            Event::Planned { plan } => Some(plan),
            _ => None,
        });
        ran.result
            .map(|_| planned.flat_map(|plan| plan.steps().map(|step| step.action.to_string()).collect::<Vec<_>>()).collect())
    }

    fn reload(&self) -> Result<Response, Failure> {
        self.run(Request::EnvReload { id: id("1161"), data: false, dry_run: false }).result
    }

    fn branch(&self, branch: &str) -> Result<Response, Failure> {
        let branch = branch.parse().unwrap();
        self.run(Request::SiteBranch { id: id("1161"), site: "www".parse().unwrap(), branch, dry_run: false }).result
    }

    /// Puts a key below the site.
    fn define(&self, line: &str) {
        let origin = self.host.folder.join("origin");
        let source = format!("[sites.www]\nsource = \"{}\"\n{line}", origin.display());
        self.host.define(&PLATFORM.replace("[sites.www]", &source));
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.www.join(path), text).unwrap();
    }

    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.www.join(path)).ok()
    }

    fn status(&self) -> String {
        git(&self.www, &["status", "--porcelain"])
    }
}

fn git(folder: &Path, words: &[&str]) -> String {
    let mut git = std::process::Command::new("git");
    git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]).args(words).current_dir(folder);
    let output = git.output().expect("git is there");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_checkout_has_what_its_templates_become() {
    let town = Town::new();
    let ran = town.init();
    ran.result.unwrap();
    let first = town.text("app.ini").unwrap();
    assert!(first.starts_with("main ") && first.len() == "main ".len() + 32, "{first}");
    let secret = &first["main ".len()..];
    let database = ["adt.db", "adt.db-wal"].map(|name| std::fs::read(town.host.store().join(name)).unwrap_or_default()).concat();
    for said in [format!("{:?}", ran.events), String::from_utf8_lossy(&database).into_owned()] {
        assert!(said.contains("www") && !said.contains(secret));
    }
    assert_eq!(town.status(), "");
    assert_eq!(town.up(false).unwrap(), Vec::<String>::new());

    // The working tree's own text counts; nothing else is touched.
    town.write("app.ini.j2", "{{ roles.web | length }}\n");
    assert_eq!(town.up(true).unwrap(), ["render the templates of www"]);
    assert_eq!(town.text("app.ini").unwrap(), first);
    assert_eq!(town.up(false).unwrap(), ["render the templates of www"]);
    assert_eq!((town.text("app.ini").unwrap(), town.status()), ("2\n".to_owned(), " M app.ini.j2\n".to_owned()));
    // A file that git does not know is nobody's template.
    town.write("own.j2", "{{ nope }}");
    assert_eq!(town.up(false).unwrap(), Vec::<String>::new());
    std::fs::remove_file(town.www.join("own.j2")).unwrap();
    git(&town.www, &["checkout", "--quiet", "--", "."]);

    town.branch("hotfix").unwrap();
    assert_eq!(town.text("app.ini").unwrap(), first.replace("main", "hotfix"));
    git(&town.www, &["rm", "--quiet", "app.ini.j2"]);
    town.up(false).unwrap();
    assert_eq!((town.text("app.ini"), town.status()), (None, "D  app.ini.j2\n".to_owned()));
    git(&town.www, &["reset", "--quiet", "--hard"]);
    // Facts that change with the platform.
    town.write("app.ini.j2", "{{ site.aliases | join(',') }}");
    town.define("aliases = [\"www.shop.com\"]");
    town.reload().unwrap();
    assert_eq!(town.text("app.ini").unwrap(), "www.shop.com");
    // With nothing but its rendered files it holds no work.
    git(&town.www, &["reset", "--quiet", "--hard"]);
    town.up(false).unwrap();
    town.run(Request::EnvDestroy { id: id("1161"), dry_run: false }).result.unwrap();
    assert_eq!(town.host.leftovers(), Vec::<String>::new());
}

#[test]
fn what_can_not_be_rendered_is_told_before_anything_is_changed() {
    let town = Town::new();
    town.init().result.unwrap();
    let first = town.text("app.ini");
    let place = town.www.display().to_string();
    let refused = |result: Result<Vec<String>, Failure>, cause: &str| {
        let failure = result.unwrap_err();
        assert_eq!(failure.kind, Kind::Config, "{failure}");
        assert!(failure.to_string().contains(cause), "{failure}");
        assert!(failure.hints.last().unwrap().contains("`templates = "), "{failure:?}");
        assert_eq!(town.text("app.ini"), first);
    };
    town.write("app.ini.j2", "x\n{{ machine.name }}");
    for dry_run in [true, false] {
        refused(town.up(dry_run), &format!("{place}/app.ini.j2:2: `machine.name`: there is no such value"));
    }
    let failure = town.reload().unwrap_err();
    assert!(failure.hints.iter().any(|hint| hint.contains("known here: `machines`")), "{failure:?}");
    std::fs::remove_file(town.www.join("app.ini.j2")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", town.www.join("app.ini.j2")).unwrap();
    refused(town.up(false), "app.ini.j2` can't be used: it leads over a link");

    // None is adt's to render: what was rendered goes.
    town.define("templates = []");
    town.reload().unwrap();
    assert_eq!(town.text("app.ini"), None);
    std::fs::remove_file(town.www.join("app.ini.j2")).unwrap();
    town.write("app.ini.j2", "{{ another_tools }}");
    town.define("templates = [\"config\"]");
    town.reload().unwrap();

    // Neither git's files nor a person's are overwritten.
    git(&town.www, &["reset", "--quiet", "--hard"]);
    town.define("");
    town.write("app.ini", "mine");
    let failure = town.reload().unwrap_err();
    let text = failure.to_string();
    assert!(text.contains(&place) && text.contains("nothing is rendered over `app.ini`: adt did not make it"), "{text}");
    assert!(failure.hints[0].contains("move that file away"), "{failure:?}");
    git(&town.www, &["add", "app.ini"]);
    let failure = town.up(false).unwrap_err();
    assert!(failure.to_string().contains("git tracks it"), "{failure}");
    assert_eq!(town.text("app.ini").unwrap(), "mine");
}

#[test]
fn a_checkout_that_could_not_be_rendered_is_mended_where_it_lies() {
    let town = Town::new();
    let origin = town.host.folder.join("origin");
    std::fs::write(origin.join("app.ini.j2"), "{{ nope }}").unwrap();
    git(&origin, &["commit", "--quiet", "--all", "-m", "bad"]);
    let failure = town.init().result.unwrap_err();
    assert!(failure.to_string().contains("app.ini.j2:1: `nope`"), "{failure}");
    town.write("app.ini.j2", "{{ env }}");
    assert!(town.up(false).unwrap().contains(&"render the templates of www".to_owned()));
    assert_eq!(town.text("app.ini").unwrap(), "1161");

    // The same for another branch: the checkout stands there, and the same command does what was missing.
    git(&town.www, &["commit", "--quiet", "--all", "-m", "mended"]);
    git(&origin, &["branch", "bad"]);
    town.branch("bad").unwrap_err();
    git(&town.www, &["rm", "--quiet", "--cached", "app.ini.j2"]);
    git(&town.www, &["commit", "--quiet", "-m", "no template"]);
    town.branch("bad").unwrap();
    assert_eq!(town.text("app.ini"), None);
    assert_eq!(town.host.process("test").engine.store.database.site_codes(None).unwrap()[&id("1161")].len(), 1);
}

#[test]
fn rendering_keeps_to_limits_that_root_of_a_machine_cannot_raise() {
    let limits = ["--bounding-set=-sys_resource", "prlimit", "--core=0", super::adt::program()];
    let mut render = std::process::Command::new("setpriv");
    let render = render.args(limits).arg(adt::template::process::VERB).stdin(std::process::Stdio::null());
    // Without that power, as any user, it renders just the same.
    let ended = render.output().expect("it is part of util-linux");
    assert!(ended.status.success(), "{:?} {}", ended.status, String::from_utf8_lossy(&ended.stderr));
}
