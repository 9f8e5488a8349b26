use super::*;
use crate::config::tests::{table, told};

pub const EXAMPLE: &str = r#"domain = "paas.example.com"
domains = ["dev.bank.de", "x.org"]
store = "/srv/adt"
pool_v4 = "172.20.0.0/14"
nameservers = ["192.0.2.53", "2001:db8::53"]
boxes = ["/srv/boxes"]
provider = "docker"
grace_seconds = 30
"#;

fn read(text: &str) -> Result<HostSettings, Vec<Fault>> {
    settle(Some((Path::new("/etc/adt/adt.toml"), text)), &|_| None, &HostFlags::default())
}

fn origins(settings: &HostSettings) -> Vec<String> {
    settings.rows().into_iter().map(|(key, value, origin)| format!("{key} = {value} [{origin}]")).collect()
}

#[test]
fn defaults_need_no_file() {
    let settings = settle(None, &|_| None, &HostFlags::default()).unwrap();
    assert_eq!(
        origins(&settings),
        [
            "domain = example.test [default]",
            "domains =  [default]",
            "store = /var/lib/adt [default]",
            "pool_v4 = 10.213.0.0/16 [default]",
            "pool_ids = 1879048192-2147352575 [default]",
            "nameservers =  [default]",
            "boxes =  [default]",
            "provider = lxc [default]",
            "grace_seconds = 10 [default]",
            "listen = 127.77.77.77 [default]",
            "dns_over_tls = false [default]",
            "bring_back = true [default]",
        ]
    );
}

#[test]
fn a_file_gives_its_places() {
    assert_eq!(
        origins(&read(EXAMPLE).unwrap()),
        [
            "domain = paas.example.com [/etc/adt/adt.toml:1:10]",
            "domains = dev.bank.de, x.org [/etc/adt/adt.toml:2:11]",
            "store = /srv/adt [/etc/adt/adt.toml:3:9]",
            "pool_v4 = 172.20.0.0/14 [/etc/adt/adt.toml:4:11]",
            "pool_ids = 1879048192-2147352575 [default]",
            "nameservers = 192.0.2.53, 2001:db8::53 [/etc/adt/adt.toml:5:15]",
            "boxes = /srv/boxes [/etc/adt/adt.toml:6:9]",
            "provider = docker [/etc/adt/adt.toml:7:12]",
            "grace_seconds = 30 [/etc/adt/adt.toml:8:17]",
            "listen = 127.77.77.77 [default]",
            "dns_over_tls = false [default]",
            "bring_back = true [default]",
        ]
    );
}

#[test]
fn a_flag_beats_a_variable_beats_the_file() {
    let env = |name: &str| match name {
        "ADT_DOMAIN" => Some("variable.test".to_owned()),
        "ADT_BOXES" => Some("/a:/b:".to_owned()),
        "ADT_NAMESERVERS" => Some("192.0.2.1, 192.0.2.2".to_owned()),
        "ADT_STORE" => Some(String::new()),
        "ADT_GRACE_SECONDS" => Some("0".to_owned()),
        _ => None,
    };
    let flags = HostFlags { domain: Some("flag.test".into()), provider: Some("vm".into()), ..HostFlags::default() };
    let settings = settle(Some((Path::new("f"), EXAMPLE)), &env, &flags).unwrap();
    assert_eq!(
        origins(&settings),
        [
            "domain = flag.test [--domain]",
            "domains = dev.bank.de, x.org [f:2:11]",
            "store = /srv/adt [f:3:9]",
            "pool_v4 = 172.20.0.0/14 [f:4:11]",
            "pool_ids = 1879048192-2147352575 [default]",
            "nameservers = 192.0.2.1, 192.0.2.2 [ADT_NAMESERVERS]",
            "boxes = /a, /b [ADT_BOXES]",
            "provider = vm [--provider]",
            "grace_seconds = 0 [ADT_GRACE_SECONDS]",
            "listen = 127.77.77.77 [default]",
            "dns_over_tls = false [default]",
            "bring_back = true [default]",
        ]
    );
}

#[test]
fn a_platform_may_have_what_is_nobodys_or_given_to_it() {
    let settings = read(EXAMPLE).unwrap();
    let may = |word: &str| settings.may_have(&Domain::new(word).unwrap());
    assert!(["paas.example.com", "shop.test", "dev.bank.de", "a.dev.bank.de", "x.org"].into_iter().all(may));
    assert!(!["bank.de", "mydev.bank.de", "github.com", "org"].into_iter().any(may));
}

#[test]
fn settings_that_can_not_work() {
    table(
        read,
        &[
            ("domian = \"a\"\n", &["1:1 unknown key `domian` (did you mean `domain`?)"]),
            (
                "domain = \"a.local\"\nstore = \"adt\"\n",
                &[
                    "1:10 `a.local` is not a domain: `.local` belongs to multicast DNS, so many systems never ask a name server for it \
             (write e.g. `example.test`; `.test` is nobody's on the internet)",
                    "2:9 the folder `adt` is not absolute (write its whole path, e.g. `/var/lib/adt`)",
                ],
            ),
            (
                "pool_v4 = \"8.8.0.0/16\"\n",
                &[
                    "1:11 the address pool `8.8.0.0/16` is not private (take a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)",
                ],
            ),
            (
                "pool_v4 = \"10.0.0.0/7\"\n",
                &[
                    "1:11 the address pool `10.0.0.0/7` is not private (take a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)",
                ],
            ),
            ("pool_v4 = \"10.1.2.3/16\"\n", &["1:11 the address pool `10.1.2.3/16` has host bits (write `10.1.0.0/16`)"]),
            (
                "pool_v4 = \"10.1.2.0/27\"\n",
                &[
                    "1:11 the address pool `10.1.2.0/27` is too small for one environment (give it a /26 or more, e.g. `10.213.0.0/16`)",
                ],
            ),
            (
                "pool_v4 = \"fd00::/8\"\n",
                &["1:11 the address pool `fd00::/8` is not an IPv4 network (write e.g. `10.213.0.0/16`)"],
            ),
            (
                "pool_ids = \"1-x\"\n",
                &["1:12 the ids `1-x` are no range (write the first and the last, e.g. `1879048192-2147352575`)"],
            ),
            (
                "pool_ids = \"900000000-900065534\"\n",
                &[
                    "1:12 the ids `900000000-900065534` are too few for one machine (give it 65536 or more for each machine that runs)",
                ],
            ),
            (
                "pool_ids = \"100000-165535\"\n",
                &["1:12 the ids `100000-165535` are this host's own (take them between 200000 and 4294967294)"],
            ),
            (
                "nameservers = [\"dns.example\", \"127.0.0.53\"]\nboxes = [\"x\"]\n",
                &[
                    "1:16 the name server `dns.example` is not an IP address (write only IP addresses, e.g. `192.0.2.53`)",
                    "1:31 no machine can reach the name server `127.0.0.53` (name one by an address that machines can reach)",
                    "2:10 the folder `x` is not absolute (write its whole path, e.g. `/var/lib/adt`)",
                ],
            ),
            ("grace_seconds = -1\n", &["1:17 `grace_seconds` is -1 (it must be between 0 and 3600)"]),
        ],
    );
}

#[test]
fn faults_of_variables_and_flags_name_them() {
    let env = |name: &str| (name == "ADT_GRACE_SECONDS").then(|| "soon".to_owned());
    let flags = HostFlags { pool_v4: Some("everything".into()), ..HostFlags::default() };
    let faults = settle(None, &env, &flags).unwrap_err();
    assert_eq!(
        told(&faults),
        [
            "--pool-v4: the address pool `everything` is not an IPv4 network (write e.g. `10.213.0.0/16`)",
            "ADT_GRACE_SECONDS: `soon` is not a number of seconds between 0 and 3600 (write e.g. `10`)",
        ]
    );
}

#[test]
fn only_a_file_that_was_named_must_exist() {
    let missing = HostFlags { config: Some("/nowhere/adt.toml".into()), ..HostFlags::default() };
    let failure = read_settings(&missing).unwrap_err();
    assert!(failure.to_string().starts_with("could not read `/nowhere/adt.toml`: "), "{failure}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("adt.toml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let found = read_settings(&HostFlags { config: Some(file), ..HostFlags::default() }).unwrap();
    assert_eq!(found.grace_seconds.value, 30);
}

fn read_settings(flags: &HostFlags) -> Result<HostSettings, Failure> {
    super::read(&|_| None, flags)
}
