//! The shipped example on real machines: from nothing to two web servers and a database, and back to nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::adt::Adt;

/// The body of a page.
pub fn get(address: &str, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect((address, 80)).expect("the web server listens");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers with text");
    text
}

/// Where a machine of an environment is.
pub fn address(adt: &Adt, environment: &str, machine: &str) -> String {
    let shown = adt.run(&format!("env:show {environment} --json")).ok().json();
    let machines = shown["machines"].as_array().expect("an environment has machines");
    let found = machines.iter().find(|one| one["name"] == machine).expect("the machine is one of them");
    found["addresses"][0].as_str().expect("it has an address").to_owned()
}

#[test]
fn an_environment_comes_works_and_goes() {
    let Some(adt) = Adt::real() else { return };
    adt.run("platform:init hello").ok().says("platform `hello` is in");
    adt.run("env:init 1161").ok().says("`hello/1161` is up");
    adt.run("env:init 1161").ok().says("exists already").says("up already");
    adt.run("env:up 1161").ok().says("up already");
    for machine in ["web1", "web2"] {
        let page = get(&address(&adt, "1161", machine), "www.1161.hello.example.test", "/");
        assert!(page.contains("200 OK") && page.contains(machine) && page.contains("1161"), "{page}");
    }
    adt.run("env:check 1161 --json").well_but_for_names().says("adt host:up --detach");
    let seen = adt.run("env:exec 1161 -- hostname").ok().stdout;
    assert_eq!(seen.lines().count(), 3, "{seen}");
    adt.run("env:halt 1161").ok().says("is halted");
    adt.run("env:halt 1161").ok().says("halted already");
    adt.run("env:destroy 1161 --yes").ok().says("is destroyed");
    adt.run("env:destroy 1161 --yes").ok().says("destroyed already");
    adt.run("env:destroy 77 --yes").fails(4).says("could not find the environment");
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_damaged_database_is_replaced_and_nothing_is_lost() {
    let Some(adt) = Adt::real() else { return };
    adt.run("platform:init hello").ok();
    adt.run("env:init 1161").ok();
    adt.run("env:exec 1161 web1 -- touch /root/kept").ok();
    let folder = adt.store().to_owned();
    for file in ["adt.db-wal", "adt.db-shm"] {
        let _ = std::fs::remove_file(folder.join(file));
    }
    std::fs::write(folder.join("adt.db"), "no database at all ".repeat(500)).expect("the store is ours");
    adt.run("env:list").fails(11).says("damaged").says("hint:");
    std::fs::remove_file(folder.join("adt.db")).expect("it was there");
    adt.run("platform:init hello").ok();
    adt.run("env:init 1161").ok().says("`hello/1161` is up");
    adt.run("env:exec 1161 web1 -- test -e /root/kept").ok();
    adt.run("env:destroy 1161 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
