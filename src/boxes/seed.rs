//! The commands that load a data set into a machine that is built. Pure: `build` runs them in order, with the dump as input of
//! the middle one.
//!
//! The data lies in the layer that all environments share, so it must be at rest there: a server that still had work to do
//! with it (to purge, to collect statistics) would do that in each environment anew, and copy the tables to do it.

use std::path::Path;

use super::Error;
use super::phases::shell;
use crate::model::Exec;
use crate::model::topology::{Server, Sql};

/// Starts the server and makes the database. The user is nobody's yet: it gets its password in each environment.
pub fn begin(sql: &Sql) -> Exec {
    let Sql { server, database, user } = sql;
    match server {
        // What would make each commit wait for the disk is of no use to a load that is repeated when it fails.
        Server::Mariadb | Server::Mysql => shell(
            "set -e
             systemctl start \"$1\"
             mysql --execute \"CREATE DATABASE IF NOT EXISTS \\`$2\\`;
                 SET GLOBAL innodb_flush_log_at_trx_commit = 0;
                 SET GLOBAL max_allowed_packet = 1073741824;
                 SET GLOBAL innodb_buffer_pool_size = 536870912\"",
            [server.word().to_owned(), database.clone()],
        ),
        // As the user who will use it, so that all of it is that user's own; with all rights, for what extensions need.
        Server::Postgresql => shell(
            "set -e
             for cluster in /etc/postgresql/*/*; do
                 version=${cluster%/*}
                 systemctl start \"postgresql@${version##*/}-${cluster##*/}\"
             done
             ask() { runuser -u postgres -- psql --no-psqlrc --quiet --tuples-only --no-align --dbname=postgres --command=\"$1\"; }
             [ \"$(ask \"SELECT 1 FROM pg_roles WHERE rolname = '$2'\")\" = 1 ] || ask \"CREATE ROLE \\\"$2\\\"\"
             ask \"ALTER ROLE \\\"$2\\\" SUPERUSER\"
             [ \"$(ask \"SELECT 1 FROM pg_database WHERE datname = '$1'\")\" = 1 ] || ask \"CREATE DATABASE \\\"$1\\\" OWNER \\\"$2\\\"\"",
            [database.clone(), user.clone()],
        ),
    }
}

/// Takes the dump as its input and stops at the first mistake in it.
pub fn load(sql: &Sql) -> Exec {
    let Sql { server, database, user } = sql;
    match server {
        Server::Mariadb | Server::Mysql => Exec::new([
            "mysql".to_owned(),
            "--batch".to_owned(),
            "--default-character-set=utf8mb4".to_owned(),
            "--max-allowed-packet=1G".to_owned(),
            format!("--database={database}"),
        ]),
        Server::Postgresql => {
            let fixed = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--quiet", "--output=/dev/null"];
            let own = [
                "--set=ON_ERROR_STOP=1".to_owned(),
                format!("--dbname={database}"),
                format!("--command=SET SESSION AUTHORIZATION \"{user}\""),
                "--file=-".to_owned(),
            ];
            Exec::new(fixed.into_iter().map(str::to_owned).chain(own))
        }
    }
}

/// Brings the data to rest and stops the server as slowly as it likes.
pub fn end(sql: &Sql) -> Exec {
    let Sql { server, database, user } = sql;
    match server {
        Server::Mariadb | Server::Mysql => shell(
            "set -e
             mysql --execute 'SET GLOBAL innodb_fast_shutdown = 0'
             mysqladmin shutdown
             systemctl stop \"$1\"
             rm -f /var/lib/mysql/ib_buffer_pool",
            [server.word().to_owned()],
        ),
        Server::Postgresql => shell(
            "set -e
             runuser -u postgres -- psql --no-psqlrc --quiet --dbname=\"$1\" \\
                 --command=\"ALTER ROLE \\\"$2\\\" NOSUPERUSER\" --command='VACUUM (ANALYZE)' --command=CHECKPOINT
             systemctl stop 'postgresql@*'",
            [database.clone(), user.clone()],
        ),
    }
}

pub fn make_folder(target: &str) -> Exec {
    Exec::new(["mkdir", "-p", "--", target])
}

/// Modes as git keeps them, whatever the umask of who cloned the platform.
pub fn own(target: &str, user: Option<&str>) -> Exec {
    shell(
        "set -e
         chmod -R u+rwX,go+rX,go-w -- \"$1\"
         chown -R \"$2:\" -- \"$1\"",
        [target.to_owned(), user.unwrap_or("root").to_owned()],
    )
}

/// What is wrong with a dump, from what the server's client said: `ERROR 1064 (42000) at line 3: …` or
/// `psql:<stdin>:3: ERROR:  …`.
pub fn failed(file: &Path, said: &[String]) -> Error {
    let place = |line: &str| -> Option<u64> {
        let after = line.split_once(" at line ").or_else(|| line.split_once("<stdin>:"))?.1;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let told = said.iter().find(|line| line.contains("ERROR")).or(said.last());
    Error::Seed {
        file: file.to_owned(),
        line: told.and_then(|line| place(line)),
        reason: told.map_or_else(|| "the server ended without a word".to_owned(), |line| line.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(server: Server) -> Sql {
        Sql { server, database: "shop".into(), user: "shop-user".into() }
    }

    #[test]
    fn the_scripts_are_good_shell() {
        for server in [Server::Mariadb, Server::Mysql, Server::Postgresql] {
            for exec in [begin(&sql(server)), end(&sql(server)), own("/srv/media", None)] {
                crate::exec::Command::new("sh").args(["-n", "-c", &exec.argv[2]]).run().unwrap();
            }
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (said, line, reason) in [
            (
                vec!["ERROR 1064 (42000) at line 312: You have an error"],
                Some(312),
                "ERROR 1064 (42000) at line 312: You have an error",
            ),
            (
                vec!["psql:<stdin>:7: NOTICE:  x", "psql:<stdin>:9: ERROR:  relation \"x\" does not exist", "LINE 1: x"],
                Some(9),
                "psql:<stdin>:9: ERROR:  relation \"x\" does not exist",
            ),
            (vec!["ERROR 2006 (HY000): Server has gone away"], None, "ERROR 2006 (HY000): Server has gone away"),
            (vec![], None, "the server ended without a word"),
        ] {
            let said: Vec<String> = said.into_iter().map(str::to_owned).collect();
            let Error::Seed { line: found, reason: told, .. } = failed(Path::new("dump.sql"), &said) else { panic!() };
            assert_eq!((found, told.as_str()), (line, reason));
        }
    }
}
