//! Snapshots of real machines: databases under write load come back from each of them with every row that was committed before.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::adt::Adt;

const PLATFORM: &str = r#"
[platform]
name = "bank"
[snapshots]
automatic = false
[machines.maria]
box = "mariadb"
data = ["/var/lib/mysql"]
[machines.post]
box = "postgresql"
data = ["/var/lib/postgresql"]
"#;

/// Each row is a statement and a transaction of its own; its number comes back once it is committed.
const MARIA: &str = "seq 1 1000000 | sed 's/.*/INSERT INTO entries VALUES (&) RETURNING n;/' | mariadb -N --unbuffered bank";
const POST: &str =
    "seq 1 1000000 | sed 's/.*/INSERT INTO entries VALUES (&) RETURNING n;/' | runuser -u postgres -- psql -qAt -d bank";

/// A client that writes as fast as it can, and the number of the last row that was committed.
struct Writer {
    child: Child,
    last: Arc<AtomicU64>,
}

impl Writer {
    fn new(adt: &Adt, machine: &str, script: &str) -> Self {
        let words = ["env:exec", "bank", "1", machine, "--", "sh", "-c", script];
        let mut child = adt.command(&words).stdout(Stdio::piped()).spawn().expect("the program starts");
        let last = Arc::new(AtomicU64::new(0));
        let (lines, seen) = (BufReader::new(child.stdout.take().expect("it is piped")).lines(), Arc::clone(&last));
        std::thread::spawn(move || {
            for number in lines.map_while(Result::ok).filter_map(|line| line.trim().parse().ok()) {
                seen.store(number, Ordering::SeqCst);
            }
        });
        Self { child, last }
    }

    fn committed(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Waits until it has written so many rows more: load is what the test is about.
    fn writes(&self, more: u64) {
        let (begin, deadline) = (self.committed(), Instant::now() + Duration::from_secs(60));
        while self.committed() < begin + more {
            assert!(Instant::now() < deadline, "the writer stands still at {begin}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asked(adt: &Adt, machine: &str, statement: &str) -> String {
    let client: &[&str] = match machine {
        "maria" => &["mariadb", "-N", "bank", "-e", statement],
        _ => &["runuser", "-u", "postgres", "--", "psql", "-qAt", "-F", "\t", "-d", "bank", "-c", statement],
    };
    let words = [&["env:exec", "bank", "1", machine, "--"], client].concat();
    let output = adt.command(&words).stderr(Stdio::piped()).output().expect("the program starts");
    assert!(output.status.success(), "{machine}: {statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How many snapshots the databases come back from.
const SNAPSHOTS: usize = 50;

#[test]
fn databases_come_back_from_each_of_fifty_snapshots_with_every_committed_row() {
    let Some(adt) = Adt::real() else { return };
    adt.platform_toml("bank", PLATFORM);
    adt.run("platform:init bank").ok();
    adt.run("env:init 1").ok();
    let words = ["env:exec", "bank", "1", "maria", "--", "mariadb", "-e", "CREATE DATABASE bank"];
    assert!(adt.command(&words).status().expect("the program starts").success());
    let words = ["env:exec", "bank", "1", "post", "--", "runuser", "-u", "postgres", "--", "createdb", "bank"];
    assert!(adt.command(&words).status().expect("the program starts").success());
    for machine in ["maria", "post"] {
        asked(&adt, machine, "CREATE TABLE entries (n INT PRIMARY KEY)");
    }
    let writers = [("maria", Writer::new(&adt, "maria", MARIA)), ("post", Writer::new(&adt, "post", POST))];
    let mut committed = Vec::new();
    for number in 0..SNAPSHOTS {
        writers.iter().for_each(|(_, writer)| writer.writes(5));
        committed.push(writers.each_ref().map(|(_, writer)| writer.committed()));
        adt.run(&format!("env:snapshot 1 s{number}")).ok();
    }
    drop(writers);
    let listed = adt.run("env:snapshots 1 --json").ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(SNAPSHOTS));
    for (number, committed) in committed.into_iter().enumerate() {
        adt.run(&format!("env:rewind 1 s{number} --yes")).ok();
        for (machine, before) in ["maria", "post"].into_iter().zip(committed) {
            let seen = asked(&adt, machine, "SELECT COUNT(*), COALESCE(MAX(n), 0) FROM entries");
            let (count, last) = seen.split_once('\t').expect("two columns");
            let (count, last): (u64, u64) = (count.parse().expect("a number"), last.parse().expect("a number"));
            assert!(last >= before, "s{number}: {machine} has {last}, but {before} was committed before");
            // Rows are committed one after the other: none is missing in between.
            assert_eq!(count, last, "s{number}: {machine}");
        }
    }
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_rewind_brings_back_data_files_and_machines_and_can_be_undone() {
    let Some(adt) = Adt::real() else { return };
    adt.run("platform:init hello").ok();
    adt.run("env:init 7").ok();
    let run = |machine: &str, script: &str| {
        let output = adt.command(&["env:exec", "hello", "7", machine, "--", "sh", "-c", script]).output().expect("it starts");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert!(run("db", "mariadb -e 'CREATE DATABASE kept; CREATE TABLE kept.t (n INT); INSERT INTO kept.t VALUES (1)'").0);
    assert!(run("web1", "echo one > /srv/note; mkfifo /srv/pipe; ln -s /nowhere /srv/link").0);
    adt.run("env:snapshot 7 good").ok().says("are copied").says("host:bootstrap --pool");
    adt.run("env:snapshot 7 good").fails(5).says("there is one of that name");
    assert!(run("db", "mariadb -e 'INSERT INTO kept.t VALUES (2); CREATE DATABASE late'").0);
    assert!(run("web1", "echo two > /srv/note; rm /srv/pipe /srv/link").0);
    adt.run("env:show 7").ok().says("/var/lib/mysql");

    adt.run("env:rewind 7 nosuch --yes").fails(4).says("there are good");
    adt.run("env:rewind 7 good").fails(2).says("--yes");
    adt.run("env:rewind 7 good --dry-run").ok().says("put db back as in the snapshot good");
    let told = adt.run("env:rewind 7 good --yes").ok().says("is as it was in `good`").says("undo it: adt env:rewind hello 7 2");
    assert_eq!(run("db", "mariadb -N -e 'SELECT n FROM kept.t; SHOW DATABASES LIKE \"late\"'").1, "1");
    assert_eq!(run("web1", "cat /srv/note; test -p /srv/pipe && readlink /srv/link").1, "one\n/nowhere");
    adt.run("env:up 7").ok().says("up already");
    // A machine that is made anew afterwards is not put back a second time.
    assert!(run("web2", "touch /srv/later").0);
    adt.run("env:halt 7").ok();
    adt.run("env:up 7").ok();
    assert!(run("web2", "test -e /srv/later").0);

    let undo =
        told.stderr.split("env:rewind hello 7 ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("it is told");
    adt.run(&format!("env:rewind 7 {undo} --yes --quiet")).ok();
    assert_eq!(run("db", "mariadb -N -e 'SELECT n FROM kept.t; SHOW DATABASES LIKE \"late\"'").1, "1\n2\nlate");
    assert_eq!(run("web1", "cat /srv/note").1, "two");
    adt.run("env:snapshots 7").ok().says("good").says("before a rewind to good");
    adt.run("env:snapshots 7 --remove good --yes").ok();
    adt.run("env:rewind 7 good --yes").fails(4);
    // What can destroy is preceded by one, which brings all of it back.
    adt.run("env:reload 7 --data --yes").ok();
    assert_eq!(run("db", "mariadb -N -e 'SHOW DATABASES LIKE \"kept\"'").1, "");
    adt.run("env:snapshots 7").ok().says("before the data went back to its seed");
    adt.run("env:rewind 7 --yes").ok();
    assert_eq!(run("db", "mariadb -N -e 'SHOW DATABASES LIKE \"kept\"'").1, "kept");
    // Of one that lies still, the way back waits for its next start, and nothing else may come between.
    adt.run("env:snapshot 7 still").ok();
    assert!(run("db", "mariadb -e 'DROP DATABASE kept'").0);
    adt.run("env:halt 7").ok();
    adt.run("env:rewind 7 still --yes").ok().says("from the next `env:up` on");
    adt.run("env:reload 7").fails(5).says("a rewind is not finished").says("adt env:up hello 7");
    adt.run("env:snapshots 7 --remove still --yes").fails(5).says("a rewind is not finished");
    adt.run("env:up 7").ok();
    assert_eq!(run("db", "mariadb -N -e 'SHOW DATABASES LIKE \"kept\"'").1, "kept");
    adt.run("env:reload 7").ok();
    adt.run("env:destroy 7 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Folders far deeper than any path reaches, with a file at their bottom; and the way down to it.
const DIG: &str =
    r#"chdir "/root" or die; for (1..3000) { mkdir "dd" or die; chdir "dd" or die } open F, ">bottom" or die; print F "deep""#;
const LOOK: &str = r#"chdir "/root" or die; for (1..3000) { chdir "dd" or die } open F, "bottom" or die; print <F>"#;

#[test]
fn folders_deeper_than_any_path_come_back() {
    let Some(adt) = Adt::real() else { return };
    adt.platform_toml("pit", "[platform]\nname = \"pit\"\n[machines.node]\nbox = \"debian\"\nmemory = \"160M\"\n");
    adt.run("platform:init pit").ok();
    adt.run("env:init pit 1").ok();
    let inside = |words: &[&str]| {
        let words = [&["env:exec", "pit", "1", "node", "--"], words].concat();
        let output = adt.command(&words).output().expect("the program starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    inside(&["perl", "-e", DIG]);
    adt.run("env:snapshot pit 1 dug").ok();
    inside(&["rm", "-rf", "/root/dd"]);
    adt.run("env:rewind pit 1 dug --yes").ok();
    assert!(inside(&["perl", "-e", LOOK]).contains("deep"));
    adt.run("platform:destroy pit --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
