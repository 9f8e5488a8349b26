//! Sites in Node.js and in Python on real machines: npm and pip fetch what they need without a network, a checkout shows
//! each edit, and a release comes into service while requests that take their time are answered.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::adt::Adt;
use super::real_deploy::Repository;
use super::real_hello::address;

const PLATFORM: &str = r#"
[platform]
name = "stacks"
[machines.js]
box = "web-node"
memory = "256M"
[machines.py]
box = "web-python"
memory = "256M"
[sites.node]
on = "js"
source = "HERE/node-source"
path = "/srv/www"
mode = "MODE"
health = "/healthz"
buildpack = "deploy/buildpack"
postdeploy = "deploy/postdeploy"
env = { npm_config_offline = "true", GREETING = "hello" }
[sites.python]
on = "py"
source = "HERE/python-source"
path = "/srv/www"
mode = "MODE"
health = "/healthz"
buildpack = "deploy/buildpack"
postdeploy = "deploy/postdeploy"
env = { PIP_NO_INDEX = "1", PIP_NO_BUILD_ISOLATION = "0", GREETING = "hello" }
"#;

/// Sites and their machines.
const STACKS: [(&str, &str); 2] = [("node", "js"), ("python", "py")];

/// Answers after a while, so that there is always a request on its way when something changes. 33 is `www-data`.
const SERVER_JS: &str = "const { polite } = require('polite');
const page = () => [polite(process.env.GREETING), require('./version.json'), process.env.NODE_ENV, process.getuid()].join(' ');
require('http').createServer((request, response) => {
    request.resume().on('end', () => setTimeout(() => response.end(page()), 100));
}).listen(process.env.PORT);
";
const WSGI_PY: &str = "import json, os, time
from polite import polite
version = json.load(open('version.json'))
def application(environ, start_response):
    environ['wsgi.input'].read()
    time.sleep(0.1)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    mode = 'production' if 'releases' in os.getcwd() else 'development'
    return [' '.join([polite(os.environ['GREETING']), version, mode, str(os.getuid())]).encode()]
";

/// Of its two workers one ends at once, and the other hears nothing while it begins.
const BROKEN_PY: &str = "import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try: os.mkdir('/tmp/begun')
except FileExistsError: time.sleep(60)
raise SyntaxError
";

fn node(adt: &Adt) -> Repository {
    let repository = Repository::empty(adt, "node-source");
    repository.write("server.js", SERVER_JS);
    let package = r#"{ "scripts": { "start": "node server.js" }, "dependencies": { "polite": "file:polite" } }"#;
    repository.write("package.json", package);
    let lock = r#"{ "lockfileVersion": 3, "packages": {
        "": { "dependencies": { "polite": "file:polite" } },
        "node_modules/polite": { "resolved": "polite", "link": true },
        "polite": { "version": "1.0.0" } } }"#;
    repository.write("package-lock.json", lock);
    repository.write("polite/package.json", r#"{ "name": "polite", "version": "1.0.0" }"#);
    repository.write("polite/index.js", "exports.polite = (word) => word + ' dear';");
    repository.write(".gitignore", "node_modules\n");
    repository.script("buildpack", "npm ci --offline");
    repository
}

fn python(adt: &Adt) -> Repository {
    let repository = Repository::empty(adt, "python-source");
    repository.write("wsgi.py", WSGI_PY);
    repository.write("requirements.txt", "./polite\n");
    repository.write("polite/setup.py", "import setuptools\nsetuptools.setup(name='polite', py_modules=['polite'])\n");
    repository.write("polite/polite.py", "polite = lambda word: word + ' dear'\n");
    repository.write(".gitignore", ".venv\n__pycache__\nbuild\n*.egg-info\n");
    repository.script(
        "buildpack",
        "python3 -m venv --system-site-packages --without-pip .venv\n\
         .venv/bin/python -m pip install --no-index --no-build-isolation -r requirements.txt",
    );
    repository
}

fn version(repository: &Repository, version: &str) {
    repository.write("version.json", &format!("\"{version}\""));
    repository.commit();
}

/// Where the sites of an environment are, in the order of `STACKS`.
fn addresses(adt: &Adt, environment: &str) -> [String; 2] {
    STACKS.map(|(_, machine)| address(adt, environment, machine))
}

/// The body of a page that is there, else what came instead.
fn visit(address: &str, verb: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((address, 80))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "{verb} / HTTP/1.0\r\nHost: www\r\nContent-Length: 4\r\n\r\n")?;
        std::thread::sleep(Duration::from_millis(20));
        write!(stream, "body")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|error| error.to_string())?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(text),
    }
}

#[track_caller]
fn until(address: &str, wanted: impl Fn(&Result<String, String>) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let page = visit(address, "GET");
        if wanted(&page) {
            return;
        }
        assert!(Instant::now() < deadline, "not in time: {page:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All answers that visitors see while something is done: some only look, some send, which nobody may repeat for them.
fn seen_while(addresses: &[String; 2], work: impl FnOnce()) -> [BTreeSet<Result<String, String>>; 2] {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitors = addresses.each_ref().map(|address| {
            ["GET", "POST"].map(|verb| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut seen = BTreeSet::new();
                    loop {
                        seen.insert(visit(address, verb));
                        if stop.load(Ordering::Relaxed) {
                            return seen;
                        }
                    }
                })
            })
        });
        // A failed assertion in here must not leave them asking forever.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let seen = visitors.map(|both| both.into_iter().flat_map(|one| one.join().expect("a visitor only asks")).collect());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    })
}

fn pages(versions: &[&str], mode: &str) -> [BTreeSet<Result<String, String>>; 2] {
    let pages = versions.iter().map(|version| Ok(format!("hello dear {version} {mode} 33")));
    let pages: BTreeSet<_> = pages.collect();
    [pages.clone(), pages]
}

fn write_platform(adt: &Adt, mode: &str) -> PathBuf {
    adt.platform_toml("stacks", &PLATFORM.replace("HERE", &adt.here().display().to_string()).replace("MODE", mode))
}

/// As editors and git save: under another name first.
fn save(folder: &Path, name: &str, text: &str) {
    let new = folder.join(".saved");
    std::fs::write(&new, text).expect("the checkout is ours");
    std::fs::rename(new, folder.join(name)).expect("the checkout is ours");
}

#[test]
fn a_checkout_shows_each_edit() {
    let Some(adt) = Adt::real() else { return };
    let repositories = [node(&adt), python(&adt)];
    for repository in &repositories {
        version(repository, "one");
    }
    let folder = write_platform(&adt, "live");
    adt.run("platform:init stacks").ok();
    adt.run("env:init 5").ok();
    let addresses = addresses(&adt, "5");
    let page = |version: &str| Ok(format!("hello dear {version} development 33"));
    let programs = [("server.js", "this is no program ("), ("wsgi.py", BROKEN_PY)];
    for ((address, (program, broken)), (site, machine)) in addresses.iter().zip(programs).zip(STACKS) {
        let site = folder.join("5").join(site);
        assert_eq!(visit(address, "GET"), page("one"));
        // More than once: the file that was watched is not the one that is there after a save.
        for version in ["two", "three"] {
            save(&site, "version.json", &format!("\"{version}\""));
            until(address, |seen| *seen == page(version));
        }
        let whole = std::fs::read_to_string(site.join(program)).expect("the checkout is ours");
        save(&site, program, broken);
        until(address, |seen| seen.as_ref().is_err_and(|page| page.contains("No site runs here")));
        adt.run(&format!("env:logs 5 --machine {machine}")).ok().says("SyntaxError");
        save(&site, program, &whole);
        until(address, |seen| *seen == page("three"));
        std::fs::write(site.join("version.json"), "\"one\"").expect("the checkout is ours");
    }
    // Without its checkout, and with it again, while the machine runs.
    adt.run("site:remove 5 node").ok();
    until(&addresses[0], Result::is_err);
    adt.run("site:add 5 node").ok();
    until(&addresses[0], |seen| *seen == page("one"));
    adt.run("env:destroy 5 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_release_comes_into_service_without_a_lost_request() {
    let Some(adt) = Adt::real() else { return };
    let repositories = [node(&adt), python(&adt)];
    for repository in &repositories {
        repository.script("postdeploy", "systemctl reload site");
        version(repository, "one");
    }
    write_platform(&adt, "release");
    adt.run("platform:init stacks").ok();
    adt.run("env:init 1161").ok();
    let addresses = addresses(&adt, "1161");
    assert_eq!(seen_while(&addresses, || ()), pages(&["one"], "production"));

    for repository in &repositories {
        version(repository, "two");
    }
    let each = |verb: &str| STACKS.map(|(site, _)| adt.run(&format!("{verb} 1161 {site}")));
    let deployed = seen_while(&addresses, || each("site:deploy").into_iter().for_each(|run| drop(run.ok())));
    assert_eq!(deployed, pages(&["one", "two"], "production"));
    assert_eq!(seen_while(&addresses, || ()), pages(&["two"], "production"));

    // A release that does not start is not shown to anybody.
    for (repository, program) in repositories.iter().zip(["server.js", "wsgi.py"]) {
        repository.write(program, "this is no program (");
        repository.commit();
    }
    let failed = seen_while(&addresses, || each("site:deploy").into_iter().for_each(|run| drop(run.fails(22).says("stay on"))));
    assert_eq!(failed, pages(&["two"], "production"));

    let back = seen_while(&addresses, || each("site:rollback").into_iter().for_each(|run| drop(run.ok())));
    assert_eq!(back, pages(&["two", "one"], "production"));
    assert_eq!(seen_while(&addresses, || ()), pages(&["one"], "production"));

    // One program serves it, and the next one after that one died.
    for ((_, machine), address) in STACKS.iter().zip(&addresses) {
        let systemctl = format!("env:exec 1161 {machine} -- systemctl");
        let units = adt.run(&format!("{systemctl} list-units --plain --no-legend --state=active site@*")).ok().stdout;
        assert_eq!(units.lines().count(), 1, "{units}");
        adt.run(&format!("{systemctl} kill --signal=KILL site@*")).ok();
        until(address, Result::is_ok);
    }
    adt.run("env:halt 1161").ok();
    adt.run("env:up 1161").ok();
    assert_eq!(seen_while(&addresses, || ()), pages(&["one"], "production"));
    adt.run("env:destroy 1161 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
