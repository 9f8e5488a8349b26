//! Whoever wrote a platform's repository tries to read or write the host of those who use it: with `platform.toml`, the recipes
//! of its boxes, its templates and its links. adt reads all of them as root.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use adt::model::Response;

use super::adt::{Adt, program};
use super::fakes::{Host, id, init};

const SECRET: &str = "root-alone-knows-5eC237";
const WEB: &str = "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"web\"\n";
const RECIPE: &str = "[box]\nfrom = { rootfs = \"rootfs.tar\" }\n";

/// A folder of the host that no repository has any business with.
struct Canary {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

impl Canary {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("adt-hostile-").tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
        for name in ["secret", "web/secret", "web/box.toml", "roles/web/secret"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("it is ours");
            std::fs::write(path, format!("{SECRET}\n")).expect("it is ours");
        }
        let before = contents(folder.path());
        Self { folder, before }
    }

    fn at(&self, path: &str) -> String {
        self.folder.path().join(path).to_str().expect("it is ASCII").to_owned()
    }

    /// Nothing of it has changed, and no text of it is in any of these folders or in what was said.
    #[track_caller]
    fn untouched(&self, what: &str, said: &str, folders: &[&Path]) {
        assert_eq!(contents(self.folder.path()), self.before, "{what}");
        assert!(!said.contains(SECRET), "{what}: {said}");
        for folder in folders {
            for (path, bytes) in contents(folder) {
                let holds = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
                assert!(!holds, "{what}: `{}` holds the secret", path.display());
            }
        }
    }
}

/// Plain files and links below a folder; links are not followed.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).into_iter().flatten();
    let content = |entry: walkdir::DirEntry| {
        let path = entry.path().to_owned();
        let kind = entry.file_type();
        let bytes = if kind.is_file() {
            std::fs::read(&path).unwrap_or_default()
        } else if kind.is_symlink() {
            std::fs::read_link(&path).unwrap_or_default().into_os_string().into_encoded_bytes()
        } else {
            return None;
        };
        Some((path, bytes))
    };
    entries.filter_map(content).collect()
}

/// A platform's folder with one box, as it comes out of a repository.
fn repository(adt: &Adt, platform: &str, recipe: &str) -> PathBuf {
    adt::disk::tree::remove(&adt.here().join("shop")).expect("the folder is ours");
    let folder = adt.platform_toml("shop", platform);
    let web = folder.join("boxes/web");
    std::fs::create_dir_all(&web).expect("the folder is ours");
    std::fs::write(web.join("box.toml"), recipe).expect("the folder is ours");
    std::fs::write(web.join("rootfs.tar"), "no archive").expect("the folder is ours");
    folder
}

/// What `platform:init` says of a repository, which it must refuse before anything is known, built or started.
#[track_caller]
fn refused(adt: &Adt, what: &str) -> String {
    let (code, said) = ended(adt, &["platform:init", "shop"], what);
    // A crash has another code, or none.
    assert_eq!(code, Some(3), "{what}: {said}");
    assert!(!said.contains('\u{1b}') && !said.contains("panicked"), "{what}: {said}");
    said
}

#[track_caller]
fn ended(adt: &Adt, words: &[&str], what: &str) -> (Option<i32>, String) {
    let mut out = tempfile::tempfile().expect("a test can make files");
    let (first, second) = (out.try_clone().expect("it is open"), out.try_clone().expect("it is open"));
    let mut child = adt.command(words).stdout(first).stderr(second).spawn().expect("the program starts");
    let start = Instant::now();
    let code = loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => break status.code(),
            None if start.elapsed() > Duration::from_secs(120) => {
                let _ = child.kill();
                panic!("{what}: `adt {words:?}` does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut said = Vec::new();
    out.seek(SeekFrom::Start(0)).and_then(|_| out.read_to_end(&mut said)).expect("it is open");
    (code, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn no_link_of_a_repository_leads_to_a_file_of_the_host() {
    let canary = Canary::new();
    let with = |more: &str| format!("{WEB}{more}");
    type Make<'a> = &'a dyn Fn(&Path);
    let link = |from: &Path, to: &str| {
        let _ = std::fs::remove_file(from);
        let _ = std::fs::remove_dir_all(from);
        symlink(to, from).expect("the folder is ours");
    };
    let steps = |step: &str| format!("{RECIPE}[[steps]]\n{step}\n");
    let database = "[data.db]\nmachine = \"web\"\nengine = \"mariadb\"\nseed = \"seed.sql\"\n";
    let attacks: [(&str, String, String, Make); 14] = [
        ("platform.toml", with(""), RECIPE.into(), &|top| link(&top.join("platform.toml"), &canary.at("secret"))),
        ("platform.toml, upwards", with(""), RECIPE.into(), &|top| {
            let up = "../".repeat(12);
            link(&top.join("platform.toml"), &format!("{up}{}", canary.at("secret").trim_start_matches('/')));
        }),
        ("platform.toml is endless", with(""), RECIPE.into(), &|top| link(&top.join("platform.toml"), "/dev/zero")),
        ("platform.toml is a pipe", with(""), RECIPE.into(), &|top| {
            let path = top.join("platform.toml");
            std::fs::remove_file(&path).expect("it is ours");
            assert!(Command::new("mkfifo").arg(&path).status().expect("a host has it").success());
        }),
        ("box.toml", with(""), RECIPE.into(), &|top| link(&top.join("boxes/web/box.toml"), &canary.at("web/box.toml"))),
        ("the folder of a box", with(""), RECIPE.into(), &|top| link(&top.join("boxes/web"), &canary.at("web"))),
        ("the folder of all boxes", with(""), RECIPE.into(), &|top| link(&top.join("boxes"), &canary.at(""))),
        ("a root file system", with(""), RECIPE.into(), &|top| link(&top.join("boxes/web/rootfs.tar"), &canary.at("secret"))),
        ("the files of a step", with(""), steps("files = \"files\""), &|top| {
            link(&top.join("boxes/web/files"), &canary.at("web"))
        }),
        ("a script", with(""), steps("script = \"setup\""), &|top| link(&top.join("boxes/web/setup"), &canary.at("secret"))),
        ("a playbook", with(""), steps("ansible = \"site.yml\""), &|top| {
            link(&top.join("boxes/web/site.yml"), &canary.at("secret"))
        }),
        ("a script of a machine", with("provision = [\"setup\"]\n"), RECIPE.into(), &|top| {
            link(&top.join("setup"), &canary.at("secret"))
        }),
        ("a seed", with(database), RECIPE.into(), &|top| link(&top.join("seed.sql"), &canary.at("secret"))),
        ("a folder on the way", with("provision = [\"a/secret\"]\n"), RECIPE.into(), &|top| {
            link(&top.join("a"), &canary.at("web"))
        }),
    ];
    let adt = Adt::new();
    for (what, platform, recipe, make) in attacks {
        let folder = repository(&adt, &platform, &recipe);
        make(&folder);
        let said = refused(&adt, what);
        canary.untouched(what, &said, &[adt.path()]);
    }
}

#[test]
fn no_word_of_a_platform_becomes_more_than_a_word() {
    let canary = Canary::new();
    let outside = canary.at("new");
    let site = |line: &str| format!("{WEB}[sites.www]\non = \"web\"\n{line}\n");
    let web = |line: &str| format!("{WEB}{line}\n");
    let attacks: Vec<(&str, String)> = vec![
        ("a platform's name upwards", WEB.replace("shop", "../../etc")),
        ("a platform's name with a quote", WEB.replace("\"shop\"", "'sh\"op'")),
        ("a machine's name upwards", WEB.replace("machines.web", "machines.\"../web\"")),
        ("a machine's name with a line", WEB.replace("machines.web", "machines.\"web\\n[Service]\"")),
        ("a site's name for Apache", format!("{WEB}[sites.\"www>\\nLoadModule x /tmp/x.so\"]\non = \"web\"\n")),
        ("a site's name for a shell", format!("{WEB}[sites.\"$(touch {outside})\"]\non = \"web\"\n")),
        ("an alias for nginx", site("aliases = [\"a.test; } server { root /;\"]")),
        ("an alias for Apache", site("aliases = [\"a.test\\n</VirtualHost>\"]")),
        ("an alias for Bind", site("aliases = [\"a.test\\\" { type master; file \\\"/etc/shadow\\\"; };\"]")),
        ("an alias of everything", site("aliases = [\"*\"]")),
        ("a domain for Bind", WEB.replace("name = \"shop\"", "name = \"shop\"\ndomain = \"a.test; include /etc/shadow;\"")),
        ("a domain of dots", WEB.replace("name = \"shop\"", "name = \"shop\"\ndomain = \"..\"")),
        ("a check with a line", site("health = \"/\\r\\nHost: evil\"")),
        ("a folder upwards", site("path = \"/srv/../../etc\"")),
        ("a folder with a line", site("path = \"/srv/www\\nlxc.mount.entry = / srv none bind\"")),
        ("a user for a shell", site("user = \"root; id\"")),
        ("a user as an option", site("user = \"-u0\"")),
        ("a program upwards", site("buildpack = \"../../../../bin/sh\"")),
        ("an absolute program", site("predeploy = \"/bin/sh\"")),
        ("templates upwards", site("templates = [\"../../other\"]")),
        ("a source that is a program", site(&format!("source = \"ext::sh -c touch% {outside}\""))),
        ("a source that is an option", site(&format!("source = \"--upload-pack=touch {outside}\""))),
        ("a branch that is an option", site("source = \"https://x.test/y\"\ndefault_branch = \"--upload-pack=x\"")),
        ("a variable with a line", site("env = { \"A\\nLD_PRELOAD\" = \"x\" }")),
        ("a variable with a zero", site("env = { A = \"\\u0000\" }")),
        ("logs upwards", site("logs = [\"/var/log/../../etc/shadow\"]")),
        ("logs with a line", site("logs = [\"/var/log/a\\nb\"]")),
        ("a service upwards", site("network = [\"../db:1\"]")),
        ("a script upwards", web("provision = [\"../../../etc/passwd\"]")),
        ("an absolute script", web(&format!("provision = [\"{}\"]", canary.at("secret")))),
        ("data upwards", web("data = [\"/var/../..\"]")),
        ("data that is all", web("data = [\"/\"]")),
        ("a seed upwards", web("[data.db]\nmachine = \"web\"\nengine = \"mariadb\"\nseed = \"../../secret\"")),
        ("a database for SQL", web("[data.db]\nmachine = \"web\"\nengine = \"mariadb\"\ndatabase = \"a`; DROP\"")),
        ("a summary for the terminal", WEB.replace("name = \"shop\"", "name = \"shop\"\nsummary = \"\\u001b[2J\"")),
        ("a machine's summary for the terminal", web("summary = \"\\u001b]0;x\\u0007\"")),
        ("too many machines", web("count = 18446744073709551615")),
        ("a number beyond all", web("count = 99999999999999999999999999")),
        ("no number", web("cpus = nan")),
        ("more than all", web("cpus = inf")),
        ("memory beyond all", web("memory = \"99999999999999999999T\"")),
        ("memory beyond 64 bits", web("memory = \"16777216T\"")),
        ("a port beyond all", site("port = 65536")),
        ("lists in lists", format!("{WEB}x = {}1{}\n", "[".repeat(100_000), "]".repeat(100_000))),
        ("tables in tables", format!("{WEB}x = {}1{}\n", "{a=".repeat(100_000), "}".repeat(100_000))),
        ("keys in keys", format!("{WEB}{}a = 1\n", "a.".repeat(100_000))),
        ("headers in headers", format!("{WEB}[{}a]\n", "a.".repeat(100_000))),
        ("a text without end", format!("{WEB}# {}\n", "x".repeat(2 << 20))),
    ];
    let adt = Adt::new();
    for (what, platform) in attacks {
        eprintln!("{what}");
        repository(&adt, &platform, RECIPE);
        let said = refused(&adt, what);
        canary.untouched(what, &said, &[adt.path()]);
    }
}

#[test]
fn no_word_of_a_recipe_becomes_more_than_a_word() {
    let canary = Canary::new();
    let recipe = |line: &str| format!("{RECIPE}{line}\n");
    let attacks: Vec<(&str, String)> = vec![
        ("an archive upwards", RECIPE.replace("rootfs.tar", "../../../../../../etc/passwd")),
        ("an absolute archive", RECIPE.replace("rootfs.tar", &canary.at("secret"))),
        ("an image upwards", RECIPE.replace("rootfs = \"rootfs.tar\"", "oci = \"..\"")),
        ("a suite as an option", RECIPE.replace("rootfs = \"rootfs.tar\"", "suite = \"--setup-hook=id\"")),
        ("a suite upwards", RECIPE.replace("rootfs = \"rootfs.tar\"", "suite = \"a/../../b\"")),
        ("a package as an option", recipe("packages = [\"-oDPkg::Pre-Invoke::=id\"]")),
        ("a package as a file", recipe("packages = [\"./evil.deb\"]")),
        ("a package for a shell", recipe("packages = [\"a;id\"]")),
        ("a unit upwards", recipe("services = [\"../../x.service\"]")),
        ("a unit as an option", recipe("mask = [\"--root=/\"]")),
        ("a variable with a line", recipe("[vars]\n\"A\\nB\" = \"x\"")),
        ("a variable with a zero", recipe("[vars]\nA = \"\\u0000\"")),
        ("files upwards", recipe("[[steps]]\nfiles = \"../..\"")),
        ("an absolute script", recipe("[[steps]]\nscript = \"/bin/sh\"")),
        ("a playbook upwards", recipe("[[steps]]\nansible = \"../../x.yml\"")),
        ("states upwards", recipe("[[steps]]\nsalt = \"a/../../..\"")),
        ("logs upwards", recipe("logs = [\"/var/log/../../etc/shadow\"]")),
        ("a summary for the terminal", recipe("summary = \"\\u001b[2J\"")),
        ("a command that is none", recipe("[health]\ncommand = []")),
        ("a port beyond all", recipe("exposes = [70000]")),
        ("lists in lists", recipe(&format!("packages = {}", "[".repeat(100_000)))),
        ("keys in keys", recipe(&format!("{}a = 1", "a.".repeat(100_000)))),
    ];
    let adt = Adt::new();
    for (what, recipe) in attacks {
        eprintln!("{what}");
        repository(&adt, WEB, &recipe);
        let said = refused(&adt, what);
        canary.untouched(what, &said, &[adt.path()]);
    }
}

/// A platform on fakes, one of whose machines gets this file.
struct Town {
    host: Host,
    folder: tempfile::TempDir,
}

impl Town {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a test can make folders");
        Self { host: Host::new(folder.path()), folder }
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.host.shop().join("files/web").join(path);
        std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder is ours");
        std::fs::write(path, text).expect("the folder is ours");
    }

    /// What went wrong, or each file that the machine got.
    fn init(&self) -> Result<BTreeMap<String, String>, String> {
        let process = self.host.process("env:init");
        match process.run(init("1161")).result {
            Ok(Response::Done(_)) => Ok(process.machines.files(&id("1161").machine(&"web1".parse().expect("it is a label")))),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(format!("{failure:?}")),
        }
    }
}

#[test]
fn no_template_reads_the_host() {
    let canary = Canary::new();
    let secret = canary.at("secret");
    let attacks: Vec<(&str, String)> = vec![
        ("include", format!("{{% include \"{secret}\" %}}")),
        ("include upwards", "{% include \"../../../../../../etc/passwd\" %}".into()),
        ("import", format!("{{% import \"{secret}\" as x %}}{{{{ x }}}}")),
        ("import of names", format!("{{% from \"{secret}\" import x %}}")),
        ("extends", format!("{{% extends \"{secret}\" %}}")),
        ("the environment", "{{ env.PATH }}".into()),
        ("the environment by a function", "{{ env('PATH') }}".into()),
        ("a file by a function", format!("{{{{ lookup('file', '{secret}') }}}}")),
        ("a program", "{{ cycler.__init__.__globals__.os.popen('id').read() }}".into()),
        ("a module", "{{ ''.__class__.__mro__ }}".into()),
        ("all that is known", "{{ debug().env }}".into()),
        ("a loop without end", "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}".into()),
        ("a macro that calls itself", "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}".into()),
        (
            "a text that doubles",
            format!(
                "{{% set a = 'x' * 1000 %}}{}",
                "{% for b in range(1000) %}{{ a }}{{ a }}{{ a }}{{ a }}{% endfor %}".repeat(50)
            ),
        ),
        ("nested without end", format!("{}x", "{% if true %}".repeat(50_000))),
        ("brackets without end", format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000))),
        ("a list without end", format!("{{{{ {} }}}}", "[".repeat(50_000))),
        ("signs without end", format!("{{{{ {}1 }}}}", "-".repeat(50_000))),
    ];
    // Some of these end the process that parses them, which is not adt's own.
    adt::template::process::by(program().into());
    for (what, template) in attacks {
        eprintln!("{what}");
        let town = Town::new();
        town.file("etc/app.conf.j2", &template);
        let error = town.init().map(|files| format!("{files:?}")).expect_err(what);
        assert!(error.contains("app.conf.j2"), "{what}: {error}");
        canary.untouched(what, &error, &[town.folder.path()]);
    }
}

#[test]
fn no_name_or_link_of_a_file_leads_out_of_its_machine() {
    let canary = Canary::new();
    let names = [
        "{{ '..\\u002f..\\u002f..\\u002f..\\u002ftmp\\u002fadt-hostile' }}",
        "{{ '\\u002ftmp\\u002fadt-hostile' }}",
        "{{ '.' }}{{ '.' }}",
        "a{{ '\\n' }}b",
        "{{ '' }}",
    ];
    for name in names {
        let town = Town::new();
        town.file(&format!("etc/{name}.j2"), "x");
        let error = town.init().map(|files| format!("{files:?}")).expect_err(name);
        canary.untouched(name, &error, &[town.folder.path()]);
        assert!(!Path::new("/tmp/adt-hostile").exists());
    }
    for (what, from, to) in [
        ("the folder of all files", "files", "roles"),
        ("the folder of a machine", "files/web", "web"),
        ("a folder of a machine", "files/web/etc", "web"),
        ("a file of a machine", "files/web/secret", "secret"),
    ] {
        let town = Town::new();
        let from = town.host.shop().join(from);
        std::fs::create_dir_all(from.parent().expect("it lies in a folder")).expect("the folder is ours");
        symlink(canary.at(to), from).expect("the folder is ours");
        let said = town.init().map(|files| format!("{files:?}")).unwrap_or_else(|error| error);
        canary.untouched(what, &said, &[town.folder.path()]);
        assert!(said.contains("it is no"), "{what}: {said}");
    }
}
