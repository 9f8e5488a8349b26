use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::tests::table;
use crate::model::Site;
use crate::model::names::{EnvironmentName, SiteName};
use crate::model::topology::Code;

/// The example of the design.
pub const EXAMPLE: &str = r#"[platform]
name = "shop"
summary = "Web shop: two web servers in front of one database"

[machines.web]
box = "web-php"
count = 2
memory = "512M"
cpus = 1
after = ["db"]

[machines.db]
box = "mariadb"
data = ["/var/lib/mysql"]

[sites.www]
source = "https://git.example.org/shop/www.git"
branch = "{{ env }}"
default_branch = "main"
on = "web"
path = "/srv/www"
port = 80
health = "/healthz"
aliases = ["www.shop-production.com"]
needs = ["api"]
buildpack = "deploy/buildpack"
predeploy = "deploy/predeploy"
postdeploy = "deploy/postdeploy"
[sites.www.env]
DATABASE_URL = "mysql://shop:{{ secret('db') }}@db/shop"

[sites.api]
on = "web"

[data.db]
machine = "db"
engine = "mariadb"
seed = "seed/shop.sql.zst"

[targets.production]
servers = ["root@a.example:2222"]
host_key = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDPP6/HFWVSCSWQXRk"
"#;

fn read(text: &str) -> Result<Platform, Vec<Fault>> {
    parse(Path::new("shop/platform.toml"), text)
}

/// A whole file around some lines: line 4 is the first of them.
fn with(lines: &str) -> String {
    format!("platform = {{ name = \"shop\" }}\n[machines.web]\nbox = \"web-php\"\n{lines}")
}

#[test]
fn the_designs_example_settles() {
    let platform = read(EXAMPLE).unwrap();
    assert_eq!(platform.folder, Path::new("shop"));
    let names: Vec<_> = platform.machines.iter().flat_map(Machine::names).map(|name| name.to_string()).collect();
    assert_eq!(names, ["web1", "web2", "db"], "in the order of the file");
    let web = &platform.machines[0];
    assert_eq!(web.limits.memory_bytes, Some(512 << 20));
    assert_eq!(web.limits.cpus, Some(1.0));
    assert_eq!(web.after[0].as_str(), "db");
    let place = web.boxed.place.as_ref().unwrap();
    assert_eq!((place.line, place.column, &EXAMPLE[place.span.clone()]), (6, 7, "\"web-php\""));
    let www = &platform.sites[0];
    assert_eq!(www.health, "/healthz");
    assert_eq!(www.code.default_branch.as_deref(), Some("main"));
    assert_eq!(www.code.buildpack, Some(PathBuf::from("deploy/buildpack")));
    assert_eq!(www.env[0].0, "DATABASE_URL");
    assert_eq!(platform.sites[1], Site::new(SiteName::new("api").unwrap(), RoleName::new("web").unwrap()));
    assert_eq!(platform.sites[1].code.branch, Code::BRANCH);
    let sql = platform.data[0].sql().unwrap();
    assert_eq!((sql.server.word(), sql.database.as_str(), sql.user.as_str()), ("mariadb", "shop", "shop"));
    let server = &platform.targets[0].servers[0];
    assert_eq!((server.to_string().as_str(), server.host_key.is_some()), ("root@a.example:2222", true));
    let stored: Platform = serde_json::from_str(&serde_json::to_string(&platform).unwrap()).unwrap();
    assert_eq!(stored, platform, "a stored platform is the same one");
}

#[test]
fn files_of_the_wrong_shape() {
    table(
        read,
        &[
            ("[platform\n", &["1:10 not valid TOML: unclosed table, expected `]`"]),
            (
                "a = b\n",
                &["1:5 not valid TOML: string values must be quoted, expected literal string (put the value in double quotes)"],
            ),
            ("a = 1\na = 2\n", &["2:1 not valid TOML: duplicate key (keep one of the two)"]),
            ("a = [1\nb = 2\n", &["2:1 not valid TOML: missing comma between array elements, expected `,`"]),
            (
                "a: 1\nb 2\n",
                &[
                    "1:2 not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`",
                    "2:3 not valid TOML: key with no value, expected `=`",
                ],
            ),
            ("", &["1:1 the file lacks `platform` (add `[platform]`)"]),
            ("[platform]\n", &["1:1 `platform` lacks `name` (add `name = \"…\"`)"]),
            (
                &with("cuont = 2\nmemory = 512\n[site.www]\n"),
                &[
                    "4:1 unknown key `cuont` (did you mean `count`?)",
                    "5:10 `memory` must be text, not a whole number (write \"512\")",
                    "6:2 unknown key `site` (did you mean `sites`?)",
                ],
            ),
            (
                &with("zzz = 2\n"),
                &[
                    "4:1 unknown key `zzz` (known here: `after`, `box`, `count`, `cpus`, `data`, `host`, `logs`, `memory`, `processes`, `provider`, `provision`, `summary`)",
                ],
            ),
            (&with("count = \"2\"\n"), &["4:9 `count` must be a whole number, not text (write 2 without quotes)"]),
            (&with("count = 0\n"), &["4:9 `count` is 0 (it must be between 1 and 61)"]),
            (&with("count = 99999999999999999999\n"), &["4:9 `count` is too large a number"]),
            (&with("cpus = 0\n"), &["4:8 `cpus` is 0 (it must be more than 0 and at most 4096)"]),
            (&with("cpus = nan\n"), &["4:8 `cpus` is NaN (it must be more than 0 and at most 4096)"]),
            (&with("cpus = -1.5\n"), &["4:8 `cpus` is -1.5 (it must be more than 0 and at most 4096)"]),
            (&with("processes = 1\n"), &["4:13 `processes` is 1 (it must be between 16 and 4194304)"]),
            (&with("after = \"web\"\n"), &["4:9 `after` must be a list, not text (write [\"web\"])"]),
            (&with("data = [1]\n"), &["4:9 each entry of `data` must be text, not a whole number (write \"1\")"]),
            (&with("[sites.www]\non = \"web\"\nport = 0\n"), &["6:8 `port` is 0 (it must be between 1 and 65535)"]),
        ],
    );
}

#[test]
fn names_that_dns_or_the_platform_refuses() {
    let long = "w".repeat(63);
    table(
        read,
        &[
            (
                "[platform]\nname = \"box\"\n[machines.a]\nbox = \"b\"\n",
                &["2:8 the platform name `box` is reserved for building boxes (choose another name)"],
            ),
            (
                "[platform]\nname = \"My_Shop\"\ndomain = \"shop.local\"\n[machines.a]\nbox = \"B\"\n",
                &[
                    "2:8 `My_Shop` is not a platform name: only lower-case letters, digits and hyphens make a DNS label (write `my-shop`)",
                    "3:10 `shop.local` is not a domain: `.local` belongs to multicast DNS, so many systems never ask a name server for it",
                    "5:7 `B` is not a box name: only lower-case letters, digits and hyphens make a DNS label (write `b`)",
                ],
            ),
            (
                "[platform]\nname = \"shop\"\n",
                &["2:8 the platform has no machine (add one, e.g. `[machines.web]` with `box = \"debian\"`)"],
            ),
            (
                &format!("platform = {{ name = \"shop\" }}\n[machines.{long}]\nbox = \"a\"\ncount = 2\n"),
                &[&format!(
                    "2:11 `{long}2` is not a machine name: it is longer than the 63 characters that DNS allows \
             (shorten the role's name: its machines carry their number after it)"
                )],
            ),
            (
                &with("[machines.web1]\nbox = \"a\"\n[machines.db]\nbox = \"a\"\ncount = 61\n"),
                &["8:9 with `db` the platform has 63 machines, but an environment holds 61 (lower the counts)"],
            ),
            (
                &with("count = 1\n[machines.web1]\nbox = \"a\"\n"),
                &["5:11 roles `web` and `web1` would both have a machine `web1` (rename one of the two roles)"],
            ),
            (
                &with("[sites.web]\non = \"web\"\n"),
                &["4:8 site `web` would share its DNS name with machine `web` (rename the site or the role)"],
            ),
        ],
    );
}

#[test]
fn machines_that_do_not_fit_together() {
    table(
        read,
        &[
            (&with("after = [\"bd\"]\n[machines.db]\nbox = \"a\"\n"), &["4:10 there is no machine `bd` (did you mean `db`?)"]),
            (
                &with("after = [\"db\"]\n[machines.db]\nbox = \"a\"\nafter = [\"web\"]\n"),
                &["4:10 machines wait for each other: web -> db -> web (remove one of these from `after`)"],
            ),
            (
                &with(
                    "after = [\"db\"]\n[machines.db]\nbox = \"a\"\nafter = [\"c\", \"d\"]\n[machines.c]\nbox = \"a\"\n[machines.d]\nbox = \"a\"\nafter = [\"db\"]",
                ),
                &["7:15 machines wait for each other: db -> d -> db (remove one of these from `after`)"],
            ),
            (&with("after = [\"web\"]\n"), &["4:10 machines wait for each other: web -> web (remove one of these from `after`)"]),
            (&with("memory = \"12M\"\n"), &["4:10 `12M` is too little memory for a machine to start (give it \"16M\" or more)"]),
            (
                &with("memory = \"512\"\n"),
                &[
                    "4:10 `512` is no amount of memory (write a whole number and K, M, G or T, e.g. \"512M\" or \"2G\", or \"unlimited\")",
                ],
            ),
            (
                &with("data = [\"lib\", \"/a/../b\", \"/\", \"/a\", \"/a\"]\n"),
                &[
                    "4:9 the folder `lib` is not absolute (name it as the machine sees it, e.g. `/var/lib/mysql`)",
                    "4:16 the folder `/a/../b` holds `..` (name it as the machine sees it, e.g. `/var/lib/mysql`)",
                    "4:27 the folder `/` is the whole machine (name it as the machine sees it, e.g. `/var/lib/mysql`)",
                    "4:38 folder `/a` is named twice (keep one of the two)",
                ],
            ),
            (
                &with("provision = [\"/etc/x\", \"../x\", \"\"]\n"),
                &[
                    "4:14 the path `/etc/x` is absolute (name a path inside the platform's folder)",
                    "4:24 the path `../x` leads outside with `..` (name a path inside the platform's folder)",
                    "4:32 the path `` is empty (name a path inside the platform's folder)",
                ],
            ),
        ],
    );
}

#[test]
fn sites_that_do_not_fit_together() {
    let site = |lines: &str| with(&format!("[sites.www]\non = \"web\"\n{lines}\n"));
    table(
        read,
        &[
            (&with("[sites.www]\non = \"wbe\"\n"), &["5:6 there is no machine `wbe` (did you mean `web`?)"]),
            (&site("needs = [\"api\"]"), &["6:10 there is no site `api` (known here: `www`)"]),
            (
                &site("needs = [\"api\"]\n[sites.api]\non = \"web\"\nneeds = [\"www\"]"),
                &["6:10 sites need each other: www -> api -> www (remove one of these from `needs`)"],
            ),
            (&site("health = \"healthz\""), &["6:10 the path `healthz` does not start with `/` (write `/healthz`)"]),
            (&site("protocol = \"spdy\""), &["6:12 `protocol` is `spdy` (it must be one of `http1`, `h2c`)"]),
            (
                &site("aliases = [\"https://x\", \"a.b\"]\n[sites.api]\non = \"web\"\naliases = [\"a.b\"]"),
                &[
                    "6:12 the alias `https://x` is not a host name (write only the name, in lower case, e.g. `www.example.org`)",
                    "9:12 alias `a.b` already belongs to site `www` (keep one of the two)",
                ],
            ),
            (
                &site("source = \"ext::sh -c id\"\ndefault_branch = \"-x\"\nbuildpack = \"../x\""),
                &[
                    "6:10 the source `ext::sh -c id` names a remote helper, which could run any program \
             (write a git address, e.g. `https://git.example.org/shop/www.git`)",
                    "7:18 `-x` is not a branch that git allows (write it as `git branch` shows it, e.g. `main`)",
                    "8:13 the path `../x` leads outside with `..` (name a path inside the site's repository)",
                ],
            ),
            (&site("templates = false"), &["6:13 `templates` must be a list, not true or false"]),
            (
                &site("templates = [\"../x\", \"config\", \"config\"]"),
                &[
                    "6:14 the path `../x` leads outside with `..` (name a path inside the site's repository)",
                    "6:32 path `config` is named twice (keep one of the two)",
                ],
            ),
            (
                &site("env = { \"a-b\" = \"\" }"),
                &["6:9 `a-b` is not the name of a variable (use letters, digits and underscores, e.g. `DATABASE_URL`)"],
            ),
        ],
    );
}

#[test]
fn data_names_machines() {
    table(
        read,
        &[
            (
                &with("[data.db]\nmachine = \"db\"\nseed = \"/x\"\n"),
                &[
                    "5:11 there is no machine `db` (known here: `web`)",
                    "6:8 the path `/x` is absolute (name a path inside the platform's folder)",
                    "6:8 nothing says what this seed is for (add `engine`: `mariadb`, `mysql`, `postgresql`, `files` or `script`)",
                ],
            ),
            (
                &with(
                    "[data.a]\nmachine = \"web\"\nengine = \"mariadb\"\nuser = \"x; --\"\ntarget = \"/x\"\n[data.b]\nmachine = \"web\"\nengine = \"files\"\n",
                ),
                &[
                    "7:8 `x; --` is not the name of a database user (use at most 32 letters, digits, underscores and hyphens, a letter first)",
                    "8:10 `target` is for files only (remove it, or choose another `engine`)",
                    "9:7 the data `b` has no `target` (name the folder inside the machine, e.g. `target = \"/srv/media\"`)",
                ],
            ),
            (
                &with("[data.a]\nmachine = \"web\"\nengine = \"mariadb\"\n[data.b]\nmachine = \"web\"\nengine = \"mariadb\"\n"),
                &[
                    "7:7 the data `a` and `b` are both in the database `shop` (give one of them another `database`)",
                    "7:7 the data `a` and `b` both have the user `shop` (give one of them another `user`: each has a password of its own)",
                ],
            ),
        ],
    );
}

#[test]
fn targets_name_a_server_and_nothing_else() {
    table(
        read,
        &[
            (
                &with("[targets.local]\nservers = []\n"),
                &[
                    "4:10 the target `local` is always the developer's own host (name the target after its purpose, e.g. `production`)",
                    "4:10 the target has no server (name it, e.g. `servers = [\"root@a.example\"]`)",
                ],
            ),
            (
                &with(
                    "[targets.a]\nservers = [\"root@a.example\", \"debian@a.example:2222\"]\nhost_key = \"SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDPP6/HFWVSCSWQXRk\"\n",
                ),
                &[
                    "5:30 two servers are called `a.example` (give one of them another name, e.g. in your `~/.ssh/config`)",
                    "6:12 each of several servers has a host key of its own (name them in `host_keys`, by server)",
                ],
            ),
            (
                &with(
                    "[targets.a]\nservers = [\"root@a.example\", \"root@b.example\"]\nhost_keys = { \"c.example\" = \"SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDPP6/HFWVSCSWQXRk\" }\n\
                     [targets.a.machines.wbe]\ncount = 2\n[targets.a.machines.web]\non = [\"a.exampel\"]\nmemory = \"1\"\ncount = 2\n",
                ),
                &[
                    "6:15 the target has no server `c.example` (did you mean `a.example`?)",
                    "7:21 there is no machine `wbe` (did you mean `web`?)",
                    "10:7 the target has no server `a.exampel` (did you mean `a.example`?)",
                    "11:10 `1` is no amount of memory (write a whole number and K, M, G or T, e.g. \"512M\" or \"2G\", or \"unlimited\")",
                    "12:9 `web` is a single machine, which has no number in its name (write `count = 1` below `[machines.web]` first)",
                ],
            ),
            (
                &with(
                    "[targets.a]\nservers = [\"root@a.example\"]\n[targets.a.machines.web]\ncpus = -1.5\nprocesses = 1\n[targets.a.machines.many]\ncount = 62\n\
                     [machines.many]\nbox = \"web-php\"\ncount = 1\n",
                ),
                &[
                    "7:8 `cpus` is -1.5 (it must be more than 0 and at most 4096)",
                    "8:13 `processes` is 1 (it must be between 16 and 4194304)",
                    "10:9 `count` is 62 (it must be between 1 and 61)",
                ],
            ),
            (
                &with(
                    "[targets.a]\nservers = [\"root@a.example\"]\n[targets.a.machines.app]\ncount = 12\n[machines.app]\nbox = \"web-php\"\ncount = 1\n\
                     [machines.app1]\nbox = \"web-php\"\ncount = 2\n[sites.app3]\non = \"web\"\n",
                ),
                &[
                    "4:10 roles `app` and `app1` would both have a machine `app11` (rename one of the two roles)",
                    "4:10 roles `app` and `app1` would both have a machine `app12` (rename one of the two roles)",
                    "14:8 site `app3` would share its DNS name with machine `app3` (rename the site or the role)",
                ],
            ),
            (
                &with(&format!(
                    "[targets.a]\nservers = [\"root@a.example\"]\n[targets.a.machines.{role}]\ncount = 10\n[machines.{role}]\nbox = \"web-php\"\ncount = 1\n",
                    role = "r".repeat(62)
                )),
                &[
                    "7:9 `rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr10` is not a machine name: it is longer than the 63 characters that DNS allows \
                     (shorten the role's name: its machines carry their number after it)",
                ],
            ),
            (
                &with("[targets.a]\nservers = [\"root@-oProxyCommand=id\"]\nhost_key = \"SHA256:x\"\n"),
                &[
                    "5:12 `root@-oProxyCommand=id` is not the address of a server: what stands behind the `@` is no host's name (write \
                     `root@HOST` or `root@HOST:PORT`)",
                    "6:12 `SHA256:x` is no fingerprint of a host key: `SHA256:` is not followed by 43 characters of base64 (on the \
                     server's console, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows it)",
                ],
            ),
            (
                &with("[targets.a]\nservers = [\"Ada!@a.example\"]\n"),
                &["5:12 `Ada!@a.example` is not the address of a server: what stands before the `@` is no user's name (write \
                     `root@HOST` or `root@HOST:PORT`)"],
            ),
        ],
    );
    // What nothing reads is not taken.
    for key in ["provider = \"x\"", "machines.web = { count = 4 }"] {
        read(&with(&format!("[targets.a]\nservers = [\"root@a.example\"]\n{key}\n"))).unwrap_err();
    }
}

const TWO_SITES: &str = "[sites.www]\non = \"web\"\n[sites.api]\non = \"web\"\n";

fn target(keys: &str) -> String {
    with(&format!("{TWO_SITES}[targets.a]\nservers = [\"root@a.example\"]\n{keys}"))
}

/// Of `open sesame`.
const HASH: &str = "$2y$10$2TQ8ITg9hp4GiKVCYvTlWueToqFO2YKyn46RWPoIO8sSXglrlDqWy";

#[test]
fn a_target_names_its_sites_to_the_world() {
    let edge = |keys: &str| read(&target(keys)).unwrap().targets[0].edge.clone();
    let names = |keys: &str| edge(keys).all().map(|(site, name)| format!("{site} {name}")).collect::<Vec<_>>();
    assert_eq!(names(""), Vec::<String>::new());
    assert_eq!(names("domain = \"shop.example\"\n"), ["api api.shop.example", "www www.shop.example"]);
    assert_eq!(
        names("domain = \"shop.example\"\nnames = { www = [\"shop.example\", \"www.shop.example\"], api = [] }\n"),
        ["www shop.example", "www www.shop.example"]
    );
    assert_eq!(names("names = { api = [\"api.example\"] }\n"), ["api api.example"]);
    let asked = edge("domain = \"shop.example\"\nemail = \"ops@shop.example\"\nhsts = 300\n");
    assert_eq!(asked.hsts, Some(300));
    let guarded =
        edge("domain = \"shop.example\"\ndeny = [\"203.0.113.0/24\", \"2001:db8::1\"]\nproxy_protocol = [\"10.0.0.5\"]\n");
    let asking = edge(&format!("domain = \"shop.example\"\nusers = {{ www = [\"ada:{HASH}\"] }}\nlimits = {{ requests = 5 }}\n"));
    assert_eq!((asking.users[&"www".parse().unwrap()]["ada"].as_str(), asking.limits.requests), (HASH, Some(5)));
    assert_eq!((guarded.deny.len(), guarded.proxy_protocol.len()), (2, 1));
    assert_eq!(asked.acme.unwrap().directory, "https://acme-v02.api.letsencrypt.org/directory");
}

#[test]
fn names_of_a_target_that_can_not_be_are_told_with_their_place() {
    let faults = |keys: &str| read(&target(keys)).unwrap_err();
    for (keys, told) in [
        ("names = { ww = [\"shop.example\"] }\n", "there is no site `ww` (did you mean `www`?)"),
        ("names = { www = [\"Shop.example\"] }\n", "write `shop.example`"),
        ("names = { www = [\"*.shop.example\"] }\n", "`*.shop.example` is not a"),
        ("names = { www = [\"shop\"] }\n", "`shop` has no domain"),
        ("names = { www = [\"203.0.113.7\"] }\n", "is an address"),
        ("names = { www = [\"shop.example\"], api = [\"shop.example\"] }\n", "already belongs to site `www`"),
        ("domain = \"shop.example\"\nnames = { api = [\"www.shop.example\"] }\n", "already belongs to site `api`"),
        ("domain = \"shop.local\"\n", "multicast"),
        ("hsts = 300\n", "no site of this target has a name"),
        ("email = \"ops@shop.example\"\n", "no site of this target has a name"),
        ("domain = \"shop.example\"\nhsts = 0\n", "must be between 1"),
        ("limits = { requests = 5 }\n", "no site of this target has a name"),
        ("domain = \"shop.example\"\nlimits = { requests = 0 }\n", "must be between 1"),
        ("domain = \"shop.example\"\nlimits = { at_once = 20000 }\n", "must be between 1"),
        ("domain = \"shop.example\"\nlimits = { request = 5 }\n", "did you mean `requests`"),
        ("users = { www = [\"ada:x\"] }\n", "has a name in the world"),
        ("domain = \"shop.example\"\nusers = { ww = [\"ada:x\"] }\n", "did you mean `www`"),
        ("domain = \"shop.example\"\nusers = { www = [] }\n", "nobody could see site `www`"),
        ("domain = \"shop.example\"\nusers = { www = [\"ada\"] }\n", "htpasswd -nB"),
        ("domain = \"shop.example\"\nusers = { www = [\":x\"] }\n", "name is empty"),
        ("domain = \"shop.example\"\nusers = { www = [\"ada:secret\"] }\n", "is not there as a bcrypt hash"),
        ("domain = \"shop.example\"\nusers = { www = [\"ada:$apr1$x$y\"] }\n", "is not there as a bcrypt hash"),
        ("domain = \"shop.example\"\nusers = { www = [\"ada:$2y$10$short\"] }\n", "no whole bcrypt hash"),
        (&format!("domain = \"shop.example\"\nusers = {{ www = [\"ada:{}\"] }}\n", HASH.replace("$10$", "$05$")), "at cost 5"),
        (&format!("domain = \"shop.example\"\nusers = {{ www = [\"ada:{}\"] }}\n", HASH.replace("$10$", "$31$")), "at cost 31"),
        (
            &format!("domain = \"shop.example\"\nusers = {{ www = [\"ada:{HASH}\", \"ada:{HASH}\"] }}\n"),
            "user `ada` is named twice",
        ),
        ("deny = [\"203.0.113.0/24\"]\n", "no site of this target has a name"),
        ("proxy_protocol = [\"10.0.0.5\"]\n", "no site of this target has a name"),
        ("domain = \"shop.example\"\ndeny = [\"203.0.113.7/24\"]\n", "bits behind its prefix"),
        ("domain = \"shop.example\"\ndeny = [\"0.0.0.0/0\"]\n", "it is everybody"),
        ("domain = \"shop.example\"\ndeny = [\"192.0.2.1\", \"192.0.2.1\"]\n", "keep one of the two"),
        ("domain = \"shop.example\"\nproxy_protocol = [\"lb.example\"]\n", "neither an address nor a network"),
        ("domain = \"shop.example\"\nproxy_protocol = [\"::/0\"]\n", "it is everybody"),
        ("domain = \"shop.example\"\nemail = \"ops\"\n", "no address of mail"),
        ("domain = \"shop.example\"\nemail = \"a@b.c,x@y.z\"\n", "no address of mail"),
        ("domain = \"shop.example\"\nacme = \"https://acme.example/directory\"\n", "add `email"),
        (
            "domain = \"shop.example\"\nemail = \"ops@shop.example\"\nacme = \"http://acme.example/directory\"\n",
            "no https address",
        ),
        ("domain = \"shop.example\"\nemail = \"ops@shop.example\"\nacme_ca = \"ca.pem\"\n", "no certificate in PEM"),
    ] {
        let all = faults(keys);
        let is_told = |fault: &Fault| format!("{} ({})", fault.message, fault.hint.as_deref().unwrap_or_default()).contains(told);
        assert!(all.iter().all(|fault| fault.place.is_some()) && all.iter().any(is_told), "{keys}: {all:?}");
        assert!(!all.iter().any(|fault| fault.message.contains("secret")), "{all:?}");
    }
}

#[test]
fn the_records_of_a_target_are_in_a_zone_with_a_key() {
    let records = |keys: &str| read(&target(&format!("domain = \"shop.example\"\n[targets.a.records]\n{keys}")));
    let zone = records("server = \"[2001:db8::53]:5353\"\nzone = \"shop.example\"\nkey_file = \"/etc/adt/shop.key\"\n").unwrap();
    let zone = zone.targets[0].records.clone().unwrap();
    assert_eq!((zone.server.to_string().as_str(), zone.ttl), ("[2001:db8::53]:5353", 300));
    let right = ["server = \"ns1.shop.example\"\n", "zone = \"shop.example\"\n", "key_file = \"keys/dns\"\n"];
    let zone = records(&right.concat()).unwrap().targets[0].records.clone().unwrap();
    assert_eq!((zone.server.to_string().as_str(), zone.key_file.as_path()), ("ns1.shop.example", Path::new("keys/dns")));
    for (which, line, told) in [
        (0, "server = \"ns1.shop.example:0\"\n", "`ns1.shop.example:0` is no name server"),
        (0, "server = \"ns1 -x\"\n", "is no name server"),
        (1, "zone = \"shop.test.\"\n", "is not a domain"),
        (1, "zone = \"other.example\"\n", "no site of this target has a name in the zone `other.example`"),
        (2, "key_file = \"../key\"\n", "leads outside"),
        (2, "", "lacks `key_file`"),
        (2, "key_file = \"k\"\nttl = 5\n", "must be between 30 and"),
        (2, "key_file = \"k\"\nsecret = \"x\"\n", "unknown key `secret`"),
    ] {
        let mut lines = right;
        lines[which] = line;
        let all = records(&lines.concat()).unwrap_err();
        let is_told = |fault: &Fault| format!("{} ({})", fault.message, fault.hint.as_deref().unwrap_or_default()).contains(told);
        assert!(all.iter().all(|fault| fault.place.is_some()) && all.iter().any(is_told), "{lines:?}: {all:?}");
    }
    let nameless = target("[targets.a.records]\nserver = \"ns1\"\nzone = \"shop.example\"\nkey_file = \"k\"\n");
    assert!(read(&nameless).unwrap_err()[0].message.contains("no site of this target has a name in the zone"));
}

#[test]
fn whole_host_names_fit_into_dns() {
    let (label, domain) = ("a".repeat(63), ["d"; 60].join("."));
    let text = format!("[platform]\nname = \"{label}\"\ndomain = \"{domain}\"\n[machines.{label}]\nbox = \"b\"\n");
    let faults = read(&text).unwrap_err();
    assert!(faults[0].message.ends_with("has 311 characters, but DNS allows 253"), "{faults:?}");

    let platform = read(&text.replace(&format!("domain = \"{domain}\"\n"), "")).unwrap();
    let environment = |name: &str| EnvironmentId { platform: platform.name.clone(), name: EnvironmentName::new(name).unwrap() };
    let domain = Domain::new(domain).unwrap();
    assert!(fits(&platform, &environment("1161"), &Domain::new("example.test").unwrap()).is_ok());
    assert!(fits(&platform, &environment("1161-again"), &domain).unwrap_err().message.contains("DNS allows 253"));
}

#[test]
fn the_same_box_is_equal_wherever_it_is_written() {
    let text = with("[machines.b]\n\nbox = \"web-php\"\n");
    let platform = read(&text).unwrap();
    assert_ne!(platform.machines[0].boxed.place, platform.machines[1].boxed.place);
    assert_eq!(platform.machines[0].boxed, platform.machines[1].boxed);
}

#[test]
fn templates_are_everywhere_somewhere_or_nowhere() {
    let paths = ["top.j2", "config/app.ini.j2", "config.j2/x", "configs/y.j2", "config/app.ini"];
    for (line, wanted) in [
        ("", vec!["top.j2", "config/app.ini.j2", "configs/y.j2"]),
        ("templates = [\".\"]", vec!["top.j2", "config/app.ini.j2", "configs/y.j2"]),
        ("templates = [\"./config\", \"top.j2\"]", vec!["top.j2", "config/app.ini.j2"]),
        ("templates = []", vec![]),
    ] {
        let platform = read(&with(&format!("[sites.www]\non = \"web\"\n{line}\n"))).unwrap();
        let chosen: Vec<_> = paths.into_iter().filter(|path| platform.sites[0].code.is_template(path)).collect();
        assert_eq!(chosen, wanted, "{line}");
    }
}

#[test]
fn the_machines_of_a_host_are_a_volume_apart() {
    let text = "[platform]\nname = \"shop\"\n[machines.node]\nbox = \"x\"\nhost = true\ndata = [\"/var/lib\", \"/var/lib/adt/more\"]\n\
                [machines.web]\nbox = \"x\"\n";
    let platform = read(text).unwrap();
    assert_eq!(platform.volumes(&platform.machines[0]), ["/var/lib", "/var/lib/adt"]);
    assert!(platform.volumes(&platform.machines[1]).is_empty() && !platform.holds_data(&platform.machines[1]));
}

fn some_platform() -> impl Strategy<Value = String> {
    let role = ("(web1?|db|a|b|A)", prop::option::of(0..40u32), prop::option::of("(web1?|db|a|b)"));
    let site = ("(www|api|web1?|db)", "(web1?|db|a)", prop::option::of("(www|api)"));
    (prop::collection::vec(role, 0..5), prop::collection::vec(site, 0..4)).prop_map(|(roles, sites)| {
        let mut text = "[platform]\nname = \"shop\"\n".to_owned();
        for (role, count, after) in roles {
            text += &format!("[machines.{role}]\nbox = \"x\"\n");
            text += &count.map(|count| format!("count = {count}\n")).unwrap_or_default();
            text += &after.map(|after| format!("after = [\"{after}\"]\n")).unwrap_or_default();
        }
        for (site, on, needs) in sites {
            text += &format!("[sites.{site}]\non = \"{on}\"\n");
            text += &needs.map(|needs| format!("needs = [\"{needs}\"]\n")).unwrap_or_default();
        }
        text
    })
}

proptest! {
    #[test]
    fn whatever_settles_keeps_the_promises_of_its_type(text in some_platform()) {
        let Ok(platform) = read(&text) else { return Ok(()) };
        let machines: Vec<MachineName> = platform.machines.iter().flat_map(Machine::names).collect();
        prop_assert_eq!(platform.machines_by_name().len(), machines.len(), "machine names are unique");
        prop_assert!((1..=MOST_MACHINES).contains(&machines.len()));
        for site in &platform.sites {
            prop_assert!(platform.machine(&site.on).is_some());
            prop_assert!(machines.iter().all(|machine| machine.as_str() != site.name.as_str()));
        }
        // `after` has an order: starting whatever waits for nothing more starts everything.
        let mut up: Vec<&RoleName> = Vec::new();
        for _ in &platform.machines {
            let next = platform.machines.iter().filter(|machine| machine.after.iter().all(|role| up.contains(&role)));
            up = next.map(|machine| &machine.role).collect();
        }
        prop_assert_eq!(up.len(), platform.machines.len());
    }
}
