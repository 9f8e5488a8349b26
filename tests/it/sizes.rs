//! What a listing tells of disks: few machines are looked at while somebody waits, many behind the listing.

use adt::model::{Request, Response};

use super::fakes::{self, Host, id};

const MANY: usize = 9;
/// What each of the fake's machines takes.
const ONE: u64 = 4096;

#[test]
fn many_are_measured_behind_a_listing_and_few_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(folder.path());
    host.define(&fakes::PLATFORM.replace("count = 2", &format!("count = {}", MANY - 1)));
    let process = host.process("env:list");
    process.done(fakes::init("1161"));
    let listed = || {
        let Ok(Response::Environments(list)) = process.run(Request::EnvList { platform: None }).result else { panic!("no list") };
        list[0].disk
    };
    let database = &process.engine.store.database;
    let all = Some(MANY as u64 * ONE);
    assert_eq!(listed(), all, "nobody has measured it yet");
    database.note_disk(&id("1161"), 7).unwrap();
    assert_eq!(listed(), Some(7));
    process.engine.measure().unwrap();
    assert_eq!(listed(), all);

    process.done(Request::EnvHalt { id: id("1161"), dry_run: false });
    database.note_disk(&id("1161"), 7).unwrap();
    assert_eq!(listed(), all, "whoever halted it has measured it");

    host.define(fakes::PLATFORM);
    process.done(Request::EnvReload { id: id("1161"), data: false, dry_run: false });
    process.done(Request::EnvUp { id: id("1161"), dry_run: false });
    database.note_disk(&id("1161"), 7).unwrap();
    assert_eq!(listed(), Some(3 * ONE), "three are measured at once");
}
