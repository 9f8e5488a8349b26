//! Seeds on real database servers: loaded once, in every environment from its first moment, and each environment's own from then on.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::adt::Adt;
use super::real_hello::address;

const PLATFORM: &str = r#"
[platform]
name = "stock"
[machines.maria]
box = "mariadb"
count = 2
memory = "384M"
data = ["/var/lib/mysql"]
[machines.post]
box = "postgresql"
memory = "256M"
data = ["/var/lib/postgresql"]
[machines.plain]
box = "debian"
memory = "128M"
[data.shop]
machine = "maria"
engine = "mariadb"
seed = "seed/shop.sql.zst"
[data.prices]
machine = "maria"
engine = "mysql"
database = "prices"
user = "prices"
seed = "seed/prices.sql"
[data.orders]
machine = "maria"
engine = "mariadb"
database = "orders"
user = "orders"
seed = "seed/orders.sql.gz"
[data.notes]
machine = "post"
engine = "postgresql"
database = "notes"
user = "notes"
seed = "seed/notes.sql"
[data.archive]
machine = "post"
engine = "postgresql"
database = "archive"
user = "archive"
seed = "seed/archive.sql.zst"
[data.made]
machine = "post"
engine = "script"
seed = "seed/make.sh"
[data.ledger]
machine = "post"
engine = "postgresql"
database = "books"
seed = "seed/ledger.sql.gz"
[data.media]
machine = "post"
engine = "files"
seed = "seed/media"
target = "/srv/media files"
user = "www-data"
"#;

const SHOP: &str = "SET NAMES utf8mb4;\nCREATE TABLE shirts (name VARCHAR(40));\n\
                    INSERT INTO shirts VALUES ('grün'), ('blau');\n";

/// As `pg_dump --no-owner` writes it, an administrator's extension included.
const LEDGER: &str = "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE EXTENSION pg_trgm WITH SCHEMA public;\n\
                      CREATE TABLE public.entries (name text);\nCOPY public.entries (name) FROM stdin;\nfirst\nsecond\n\\.\n";

const NOTES: &str = "CREATE TABLE notes (text text);\nINSERT INTO notes VALUES ('grün');\n";

/// Leaves its traces in the middle and then, at first, can't go on.
const MAKE: &str = "#!/bin/sh\nset -e\ntest ! -e /srv/half\necho making half of it\ntouch /srv/half\n\
                    echo there is no moon to reach >&2\nexit 7\n";

/// A dump as a file, packed by a program of the host.
fn pack(folder: &Path, name: &str, text: &str, packer: &str) {
    let plain = folder.join("plain.sql");
    std::fs::write(&plain, text).expect("the folder is ours");
    let packed = Command::new(packer).args(["-q", "-c"]).arg(&plain).output().expect("the packer is installed");
    assert!(packed.status.success(), "{packer} packs");
    std::fs::write(folder.join("seed").join(name), packed.stdout).expect("the folder is ours");
    std::fs::remove_file(plain).expect("it was there");
}

/// What a program in a machine prints, and whether it ended well.
fn inside(adt: &Adt, environment: &str, machine: &str, argv: &[&str]) -> (bool, String) {
    let words = [&["env:exec", environment, machine, "--"], argv].concat();
    let output = adt.command(&words).stderr(Stdio::piped()).output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

fn well(adt: &Adt, environment: &str, machine: &str, argv: &[&str]) -> String {
    let (ended_well, text) = inside(adt, environment, machine, argv);
    assert!(ended_well, "{argv:?} in {environment}/{machine}: {text}");
    text
}

fn maria(adt: &Adt, environment: &str, statement: &str) -> String {
    well(adt, environment, "maria1", &["mariadb", "--skip-column-names", "stock", "--execute", statement])
}

/// As the environment's own user, over its network; `None` where the server lets it not in.
fn post(adt: &Adt, environment: &str, password: &str, statement: &str) -> Option<String> {
    let password = format!("PGPASSWORD={password}");
    let argv = ["env", &password, "psql", "-h", "post", "-U", "stock", "-d", "books", "-qAtc", statement];
    let (ended_well, text) = inside(adt, environment, "post", &argv);
    assert!(ended_well || text.contains("password authentication failed"), "{text}");
    ended_well.then_some(text)
}

#[test]
fn environments_start_with_the_seed_and_go_their_own_ways() {
    let Some(adt) = Adt::real() else { return };
    let folder = adt.platform_toml("stock", PLATFORM);
    std::fs::create_dir_all(folder.join("seed/media/deep")).expect("the folder is ours");
    std::fs::write(folder.join("seed/media/deep/cat.txt"), "meow").expect("the folder is ours");
    let secrets = folder.join("files/maria/etc");
    std::fs::create_dir_all(&secrets).expect("the folder is ours");
    std::fs::write(secrets.join("passwords.j2"), "{{ secret('shop') }} {{ secret('ledger') }}").expect("the folder is ours");
    pack(&folder, "ledger.sql.gz", LEDGER, "gzip");
    pack(&folder, "orders.sql.gz", &SHOP.replace("shirts", "orders"), "gzip");
    pack(&folder, "archive.sql.zst", NOTES, "zstd");
    std::fs::write(folder.join("seed/prices.sql"), SHOP.replace("shirts", "prices")).expect("the folder is ours");
    std::fs::write(folder.join("seed/notes.sql"), NOTES).expect("the folder is ours");
    std::fs::write(folder.join("seed/make.sh"), MAKE).expect("the folder is ours");
    std::fs::set_permissions(folder.join("seed/make.sh"), PermissionsExt::from_mode(0o755)).expect("it is ours");
    pack(&folder, "shop.sql.zst", &format!("{SHOP}INSERT INTO shirst VALUES ('rot');\n"), "zstd");
    adt.run("platform:init stock").ok();

    // A seed with a mistake in the middle leaves no layer of its role, be it a dump or a script.
    let told = adt.run("platform:build stock").fails(8);
    let told = told.says("seed/shop.sql.zst` (line 4)").says("shirst").says("stock-maria");
    told.says("stock-post").says("make.sh").says("exit code 7").says("making half of it").says("there is no moon to reach");
    std::fs::write(folder.join("seed/make.sh"), MAKE.replace("exit 7", "mv /srv/half /srv/whole")).expect("the folder is ours");
    adt.run("env:init 1").fails(8).says("(line 4)");
    adt.run("env:list").ok();
    let whole = std::fs::read(folder.join("seed/ledger.sql.gz")).expect("it was written above");
    pack(&folder, "shop.sql.zst", SHOP, "zstd");
    std::fs::write(folder.join("seed/ledger.sql.gz"), &whole[..whole.len() - 12]).expect("the folder is ours");
    adt.run("platform:build stock").fails(8).says("ledger.sql.gz").says("damaged or cut off");
    std::fs::write(folder.join("seed/ledger.sql.gz"), whole).expect("the folder is ours");
    adt.run("platform:build stock").ok();

    adt.run("env:init 1").ok();
    adt.run("env:init 2").ok();
    for environment in ["1", "2"] {
        assert_eq!(maria(&adt, environment, "SELECT name FROM shirts ORDER BY name"), "blau\ngrün");
        let seen = well(&adt, environment, "post", &["stat", "-c", "%U %a", "/srv/media files/deep/cat.txt"]);
        assert_eq!(seen, "www-data 644");
    }
    for (database, table) in [("prices", "prices"), ("orders", "orders")] {
        let ask = format!("SELECT name FROM {table} ORDER BY name");
        let argv = ["mariadb", "--skip-column-names", database, "--execute", &ask];
        assert_eq!(well(&adt, "1", "maria2", &argv), "blau\ngrün", "{database}");
    }
    for database in ["notes", "archive"] {
        let ask = ["psql", "-d", database, "-qAtc", "SELECT text FROM notes"];
        let argv = [&["env", "-C", "/", "runuser", "-u", "postgres", "--"], &ask[..]].concat();
        assert_eq!(well(&adt, "1", "post", &argv), "grün", "{database}");
    }
    well(&adt, "1", "post", &["sh", "-c", "test -e /srv/whole && ! test -e /srv/half"]);

    let passwords = |environment: &str| {
        let text = well(&adt, environment, "maria1", &["cat", "/etc/passwords"]);
        let (shop, ledger) = text.split_once(' ').expect("there are two");
        (shop.to_owned(), ledger.to_owned())
    };
    let (one, two) = (passwords("1"), passwords("2"));
    assert!(one.0 != two.0 && one.0 != one.1, "each is another");
    let login = |environment: &str, password: &str| {
        let password = format!("--password={password}");
        let argv = ["mariadb", "-h", "maria2", "-u", "stock", &password, "stock", "-e", "CREATE TABLE mine (n INT)"];
        inside(&adt, environment, "maria1", &argv)
    };
    assert!(login("1", &one.0).0);
    for wrong in [two.0.as_str(), ""] {
        let (ended_well, text) = login("1", wrong);
        assert!(!ended_well && text.contains("Access denied"), "{text}");
    }

    maria(&adt, "1", "INSERT INTO shirts VALUES ('rot')");
    assert_eq!(maria(&adt, "1", "SELECT COUNT(*) FROM shirts"), "3");
    assert_eq!(maria(&adt, "2", "SELECT COUNT(*) FROM shirts"), "2");
    // The table is the user's own: migrations change it.
    let grow = "ALTER TABLE entries ADD COLUMN n int; INSERT INTO entries VALUES ('third', 3)";
    post(&adt, "1", &one.1, grow).expect("the environment's own password opens");
    assert_eq!(post(&adt, "1", &two.1, "SELECT 1"), None);
    let names = "SELECT string_agg(name, ' ') FROM entries";
    assert_eq!(post(&adt, "1", &one.1, names).as_deref(), Some("first second third"));
    assert_eq!(post(&adt, "2", &two.1, names).as_deref(), Some("first second"));

    // A halt keeps what was written; only `--data` gives it up.
    adt.run("env:halt 1").ok();
    adt.run("env:up 1").ok();
    well(&adt, "1", "plain", &["touch", "/root/kept"]);
    pack(&folder, "shop.sql.zst", &format!("{SHOP}INSERT INTO shirts VALUES ('gelb');\n"), "zstd");
    let kept = "`maria` has a new box or seed and keeps its data in /var/lib/mysql";
    adt.run("env:reload 1").ok().says(kept).says("env:reload --data stock 1").says("maria1 made anew with its data");
    assert_eq!(maria(&adt, "1", "SELECT COUNT(*) FROM shirts WHERE name IN ('rot', 'gelb')"), "1");
    adt.run("env:reload 1 --data").fails(2).says("--yes");
    let shown = adt.run("env:reload 1 --data --dry-run").ok();
    let shown = shown.says("delete maria1").says("delete maria2").says("delete post");
    assert!(!shown.stdout.contains("plain"), "{}", shown.stdout);
    assert_eq!(maria(&adt, "1", "SELECT COUNT(*) FROM shirts"), "3");
    adt.run("env:reload 1 --data --yes").ok().says("the seed's again");
    assert_eq!(maria(&adt, "1", "SELECT name FROM shirts ORDER BY name"), "blau\ngelb\ngrün");
    assert_eq!(post(&adt, "1", &one.1, names).as_deref(), Some("first second"));
    assert!(login("1", &one.0).0);
    well(&adt, "1", "plain", &["test", "-e", "/root/kept"]);
    adt.run("env:up 1").ok().says("up already");
    assert_eq!(maria(&adt, "2", "SELECT COUNT(*) FROM shirts"), "2");

    adt.run("platform:destroy stock --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(adt.store().join("secrets")).map_or(0, Iterator::count), 0);
}

/// PHP logs in with the password that its environment's templates got, or no page would come. The host has no way out.
#[test]
fn wordpress_shows_its_seed_and_machines_their_files() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.run("platform:init wordpress").ok();
    let folder = adt.here().join("wordpress");
    let file = |path: &str, text: &str| {
        let file = folder.join("files").join(path);
        std::fs::create_dir_all(file.parent().expect("it lies in a folder")).expect("the folder is ours");
        std::fs::write(file, text).expect("the folder is ours");
    };
    file("web/etc/peers.j2", "{% for one in roles.web %}\n{{ one.name }} {{ one.v4 }}\n{% endfor %}\n");
    file("web/etc/plain", "{{ nothing }}");
    adt.run("env:init 5").ok();
    for machine in ["web1", "web2"] {
        let page = there(&adt, "5", machine, "/");
        assert!(page.contains("200 OK") && page.contains("Restored from the seed"), "{page}");
        assert!(!page.contains("install.php"), "{page}");
        let peers = format!("web1 {}\nweb2 {}", address(&adt, "5", "web1"), address(&adt, "5", "web2"));
        assert_eq!(well(&adt, "5", machine, &["cat", "/etc/peers"]), peers);
        assert_eq!(well(&adt, "5", machine, &["cat", "/etc/plain"]), "{{ nothing }}");
        assert_eq!(well(&adt, "5", machine, &["stat", "-c", "%a %U:%G", "/etc/adt/sites/www.env"]), "640 root:www-data");
    }
    well(&adt, "5", "web1", &["systemctl", "start", "wordpress-cron.service"]);
    let states = adt.run("env:exec 5 -- systemctl is-system-running").ok().stdout;
    assert_eq!(states.matches("running").count(), 3, "{states}");

    let variables = well(&adt, "5", "web1", &["cat", "/etc/adt/sites/www.env"]);
    let password = variables.split('"').nth(1).expect("its value stands in quotes");
    assert_eq!(password.len(), 32, "{variables}");
    let sheet = adt.run("env:show 5 --facts").ok();
    assert_eq!(sheet.json()["variables"]["www"]["DB_PASSWORD"], "********");
    assert_eq!(sheet.json()["data"]["db"]["user"], "wordpress");
    assert!(!sheet.stdout.contains(password), "a sheet of facts holds no secret");
    let kept = std::fs::read(adt.store().join("adt.db")).expect("the store is ours");
    assert!(!kept.windows(password.len()).any(|window| window == password.as_bytes()), "nor does the database");

    // What changed is put in place, what went is gone, and nobody else is restarted.
    let started = |machine: &str| well(&adt, "5", machine, &["stat", "-c", "%Y", "/proc/1"]);
    let (db, web) = (started("db"), started("web1"));
    file("web/etc/peers.j2", "{{ machine.nmae }}");
    adt.run("env:reload 5").fails(3).says("files/web/etc/peers.j2:1: `machine.nmae`").says("`name`");
    file("web/etc/peers.j2", "{{ machine.name }}");
    std::fs::remove_file(folder.join("files/web/etc/plain")).expect("it was written above");
    let plan = adt.run("env:reload 5 --dry-run").ok().stdout;
    assert!(plan.contains("stop web1") && plan.contains("stop web2") && !plan.contains("db"), "{plan}");
    adt.run("env:reload 5").ok().says("is reloaded: web1 restarted, web2 restarted");
    assert_eq!(well(&adt, "5", "web2", &["cat", "/etc/peers"]), "web2");
    assert!(!inside(&adt, "5", "web1", &["test", "-e", "/etc/plain"]).0);
    assert!(started("db") == db && started("web1") != web, "only the web servers are others");
    adt.run("env:reload 5").ok().says("nothing to reload");
    file("wbe/etc/x", "");
    adt.run("env:reload 5").fails(3).says("there is no machine `wbe`").says("`files/web`");

    adt.run("env:destroy 5 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// A page as another program of the same host gets it.
fn there(adt: &Adt, environment: &str, machine: &str, path: &str) -> String {
    let url = format!("http://{}{path}", address(adt, environment, machine));
    let host = format!("Host: www.{environment}.wordpress.example.test");
    let output = adt.program_there("curl").args(["--silent", "--include", "--header", &host, &url]).output();
    String::from_utf8_lossy(&output.expect("curl is installed").stdout).into_owned()
}
