use std::path::Path;

use super::*;
use crate::config;
use crate::network::address;
use crate::store::record::Definition;
use crate::store::{Owner, Wanted};

pub const PLATFORM: &str = r#"
[platform]
name = "shop"
[machines.web]
box = "web-php"
count = 2
[machines.db]
box = "mariadb"
[sites.www]
on = "web"
[sites.www.env]
DATABASE_URL = "mysql://{{ data.db.user }}:{{ secret('db') }}@{{ data.db.machine }}/{{ data.db.database }}"
SELF = "{{ machine.name }} of {{ roles.web | length }} at {{ site.url }}"
[data.db]
machine = "db"
engine = "mariadb"
"#;

pub fn environment(text: &str) -> Environment {
    let platform = config::platform::parse(Path::new("/srv/shop/platform.toml"), text).unwrap();
    let names: Vec<_> = platform.machines.iter().flat_map(crate::model::Machine::names).collect();
    Environment {
        id: EnvironmentId { platform: "shop".parse().unwrap(), name: "1161".parse().unwrap() },
        wanted: Wanted::Up,
        created: 0,
        updated: 0,
        owner: Owner { name: "ada".into(), user: None },
        shared: false,
        network: "10.1.0.0/26".parse().unwrap(),
        definition: Definition {
            placed: BTreeMap::new(),
            seat: None,
            domain: "example.test".parse().unwrap(),
            providers: Default::default(),
            numbers: address::host_numbers(&BTreeMap::new(), &names),
            boxes: BTreeMap::new(),
            left_out: BTreeSet::new(),
            seeded: BTreeMap::new(),
            seeds: BTreeMap::new(),
            rewound: None,
            promoted: BTreeMap::new(),
            files: BTreeMap::new(),
            edge: Default::default(),
            platform,
        },
        disk: None,
    }
}

pub fn secret() -> Secret {
    Arc::new(|name| format!("<{name}>"))
}

#[test]
fn a_sites_variables_know_their_machine_their_database_and_its_password() {
    let environment = environment(PLATFORM);
    let platform = &environment.definition.platform;
    let facts = facts("test", &environment).on(&"web2".parse().unwrap());
    let all = variables(platform, &platform.sites[0], &facts, &secret()).unwrap();
    let wanted = [("DATABASE_URL", "mysql://shop:<db>@db/shop"), ("SELF", "web2 of 2 at https://www.1161.shop.example.test/")];
    assert_eq!(all, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let values = facts.values();
    assert_eq!(values["roles"]["web"][1]["number"], 2);
    assert_eq!(values["machines"]["db"]["host"], "db.1161.shop.example.test");
    assert_eq!(values["network"]["gateway"], "10.1.0.1");
}

#[test]
fn a_variable_that_names_nothing_says_where() {
    let environment = environment(&PLATFORM.replace("data.db.user", "data.bd.user"));
    let platform = &environment.definition.platform;
    let facts = facts("test", &environment).on(&"web1".parse().unwrap());
    let failure = variables(platform, &platform.sites[0], &facts, &secret()).unwrap_err();
    assert_eq!(failure.kind, Kind::Config);
    let text = failure.to_string();
    assert!(text.contains("/srv/shop/platform.toml: DATABASE_URL of [sites.www.env]:1: `data.bd.user`"), "{text}");
    assert_eq!(failure.hints, ["known here: `db`"]);
}
