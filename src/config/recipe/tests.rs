use super::*;
use crate::config::tests::table;

pub const EXAMPLE: &str = r#"[box]
summary = "Apache with PHP"
from = { box = "debian" }
packages = ["apache2", "libstdc++6", "php=2:8.2+93", "nginx/bookworm-backports", "libc6:amd64"]
services = ["apache2"]
mask = ["e2scrub_reap.timer"]
exposes = [80]
[health]
http = { port = 80, path = "/" }
tcp = 3306
command = ["mysqladmin", "ping"]
[vars]
document_root = "/srv/www"
[[steps]]
files = "files"
[[steps]]
script = "setup.sh"
[[steps]]
ansible = "playbook.yml"
[[steps]]
salt = "states"
"#;

fn read(text: &str) -> Result<Recipe, Vec<Fault>> {
    parse(&BoxName::new("web-php").unwrap(), Path::new("boxes/web-php/box.toml"), text)
}

fn with(lines: &str) -> String {
    format!("[box]\nfrom.suite = \"bookworm\"\n{lines}\n")
}

#[test]
fn the_example_settles() {
    let recipe = read(EXAMPLE).unwrap();
    assert_eq!(recipe.folder, Path::new("boxes/web-php"));
    let Parent::Box(parent) = &recipe.parent else { panic!("{:?}", recipe.parent) };
    assert_eq!((parent.name.as_str(), parent.place.as_ref().unwrap().line), ("debian", 3));
    assert_eq!(recipe.packages.len(), 5);
    assert_eq!(recipe.services, ["apache2.service"]);
    assert_eq!(recipe.mask, ["e2scrub_reap.timer"]);
    let health = recipe.health.unwrap();
    assert_eq!(health.deadline_seconds, 60);
    assert_eq!(
        health.checks,
        [
            Check::Http { port: 80, path: "/".into(), host: None },
            Check::Tcp { port: 3306 },
            Check::Command { argv: vec!["mysqladmin".into(), "ping".into()] },
        ]
    );
    let steps: Vec<_> = recipe.steps.iter().map(|step| (step.word(), step.path().to_str().unwrap())).collect();
    assert_eq!(steps, [("files", "files"), ("script", "setup.sh"), ("ansible", "playbook.yml"), ("salt", "states")]);
    assert_eq!(recipe.vars["document_root"], "/srv/www");
}

#[test]
fn an_archive_can_be_pinned_and_nothing_else_can() {
    let sum = "0123456789abcdef".repeat(4);
    let from = |text: &str| read(&format!("[box]\nfrom = {{ {text} }}\n"));
    let recipe = from(&format!("oci = \"image\", sha256 = \"{}\"", sum.to_uppercase())).unwrap();
    let Parent::Oci(archive) = recipe.parent else { panic!("{:?}", recipe.parent) };
    assert_eq!(archive.sha256.unwrap().as_str(), sum);
    for (text, says) in [
        (format!("suite = \"bookworm\", sha256 = \"{sum}\""), "only an archive has a SHA-256"),
        (format!("box = \"debian\", sha256 = \"{sum}\""), "only an archive has a SHA-256"),
        (format!("rootfs = \"a\", sha256 = \"sha256:{sum}\""), "is not a SHA-256"),
        ("rootfs = \"a\", sha256 = \"\"".to_owned(), "is not a SHA-256"),
        (format!("sha256 = \"{sum}\""), "none is given"),
    ] {
        let faults = from(&text).unwrap_err();
        assert!(faults.len() == 1 && faults[0].message.contains(says), "{text}: {faults:?}");
    }
}

#[test]
fn every_kind_of_parent() {
    for (from, wanted) in [
        ("suite = \"bookworm\"", Parent::Suite("bookworm".into())),
        ("rootfs = \"base.tar.zst\"", Parent::Rootfs(Archive { path: "base.tar.zst".into(), sha256: None })),
        ("oci = \"image.tar\"", Parent::Oci(Archive { path: "image.tar".into(), sha256: None })),
    ] {
        let recipe = read(&format!("[box]\nfrom = {{ {from} }}\n")).unwrap();
        assert_eq!(recipe.parent, wanted);
        assert_eq!(recipe.health, None);
    }
    let recipe = read(&with("[health]\ndeadline = 5")).unwrap();
    assert_eq!(recipe.health, Some(Health { checks: vec![Check::Booted], deadline_seconds: 5 }));
}

#[test]
fn exactly_one_of_each() {
    let from = "give exactly one of `box`, `suite`, `rootfs`, `oci`, e.g. from = { suite = \"bookworm\" }";
    let step = "give exactly one of `files`, `script`, `ansible`, `salt`; begin another step with [[steps]]";
    table(
        read,
        &[
            ("[box]\n", &["1:1 `box` lacks `from` (add `[from]`)"]),
            ("[box]\nfrom = {}\n", &[&format!("2:8 a box starts from one thing, but none is given ({from})")]),
            (
                "[box]\nfrom = { box = \"a\", oci = \"b\" }\n",
                &[&format!("2:8 a box starts from one thing, but `box` and `oci` are given ({from})")],
            ),
            (
                "[box]\nfrom = { box = \"web-php\" }\n",
                &["2:16 box `web-php` starts from itself (name its parent, or a Debian suite)"],
            ),
            ("[box]\nfrom = \"debian\"\n", &["2:8 `from` must be a table, not text"]),
            (
                &with("[[steps]]\nfiles = \"a\"\nscript = \"b\"\n[[steps]]"),
                &[
                    &format!("3:1 a step does one thing, but `files` and `script` are given ({step})"),
                    &format!("6:1 a step does one thing, but none is given ({step})"),
                ],
            ),
            (&with("[[steps]]\nsrcipt = \"b\""), &["4:1 unknown key `srcipt` (did you mean `script`?)"]),
        ],
    );
}

#[test]
fn words_that_lead_astray() {
    let package = "write it as apt does, e.g. `apache2`, `php=2:8.2+93` or `nginx/bookworm-backports`";
    let unit = "write it as `systemctl` shows it, e.g. `apache2` or `apt-daily.timer`";
    let inside = "name a path inside the recipe's folder";
    table(
        read,
        &[
            (
                &with("packages = [\"-oX\", \"Apache2\", \"a b\", \"apache2-\", \"php=\", \"x\", \"\"]"),
                &[
                    &format!("3:13 `-oX` is not a Debian package ({package})"),
                    &format!("3:20 `Apache2` is not a Debian package ({package})"),
                    &format!("3:31 `a b` is not a Debian package ({package})"),
                    &format!("3:38 `apache2-` is not a Debian package ({package})"),
                    &format!("3:50 `php=` is not a Debian package ({package})"),
                    &format!("3:58 `x` is not a Debian package ({package})"),
                    &format!("3:63 `` is not a Debian package ({package})"),
                ],
            ),
            (
                &with("services = [\"--now\", \"a/b\"]\nmask = [\"\"]"),
                &[
                    &format!("3:13 `--now` is not a systemd unit ({unit})"),
                    &format!("3:22 `a/b` is not a systemd unit ({unit})"),
                    &format!("4:9 `` is not a systemd unit ({unit})"),
                ],
            ),
            (
                &with("services = [\"a\"]\nmask = [\"a.service\"]"),
                &["4:9 unit `a.service` is both started and masked (keep it in one of the two lists)"],
            ),
            (&with("exposes = [0]"), &["3:12 each entry of `exposes` is 0 (it must be between 1 and 65535)"]),
            (
                &with("[[steps]]\nscript = \"../x\"\n[[steps]]\nfiles = \"/\""),
                &[
                    &format!("4:10 the path `../x` leads outside with `..` ({inside})"),
                    &format!("6:9 the path `/` is absolute ({inside})"),
                ],
            ),
            ("[box]\nfrom.suite = \"--x\"\n", &["2:14 `--x` is not a Debian suite (write its code name, e.g. `bookworm`)"]),
            (
                &with("[health]\ncommand = []\nhttp.path = \"x\"\ndeadline = 1"),
                &[
                    "4:11 the health command names no program (write e.g. [\"mysqladmin\", \"ping\"])",
                    "5:13 the path `x` does not start with `/` (write `/x`)",
                ],
            ),
            (
                &with("[vars]\n\"a b\" = \"1\""),
                &["4:1 `a b` is not the name of a variable (use letters, digits and underscores, e.g. `document_root`)"],
            ),
            (&with("[vars]\na = 8080"), &["4:5 `a` must be text, not a whole number (write \"8080\")"]),
        ],
    );
}
