//! How an environment's sites log in to its databases: files that the servers read when they start. A box holds no password
//! and no user; each environment has its own, from its first start on and whenever it starts.
//!
//! MariaDB and MySQL run a file before they take their first client. PostgreSQL has no such thing, so its unit is done
//! starting only when the file has been run. Not chosen: logging in from outside once the server answers, because a machine
//! that is started by hand, or by its host's restart, would then be without.

use crate::model::topology::{Server, Sql};
use crate::model::{Check, Machine, Platform};
use crate::providers::File;
use crate::template::Secret;

const MARIADB: &str = "etc/adt/data/mariadb.sql";
const POSTGRESQL: &str = "etc/adt/data/postgresql.sql";

/// The files of a machine of this role.
pub fn files(platform: &Platform, machine: &Machine, secret: &Secret) -> Vec<File> {
    let own = |wanted: &dyn Fn(Server) -> bool| {
        let sets = platform.data.iter().filter(|set| set.machine == machine.role);
        let sets = sets.filter_map(|set| Some((set, set.sql()?))).filter(|(_, sql)| wanted(sql.server));
        sets.map(|(set, sql)| (sql, secret(&set.name))).collect::<Vec<_>>()
    };
    let statements = |all: &[(&Sql, String)]| all.iter().map(|(sql, password)| statements(sql, password)).collect::<String>();
    let mut files = Vec::new();
    let maria = own(&|server| matches!(server, Server::Mariadb | Server::Mysql));
    if !maria.is_empty() {
        files.push(secret_file(MARIADB, "mysql", statements(&maria)));
        files.push(plain("etc/mysql/conf.d/adt.cnf", format!("[mysqld]\ninit_file = /{MARIADB}\n")));
    }
    let postgres = own(&|server| server == Server::Postgresql);
    if !postgres.is_empty() {
        files.push(secret_file(POSTGRESQL, "postgres", statements(&postgres)));
        let run = format!(
            "[Service]\nExecStartPost=+/usr/sbin/runuser -u postgres -- /usr/bin/psql --no-psqlrc --quiet --output=/dev/null \
             --set=ON_ERROR_STOP=1 --dbname=postgres --file=/{POSTGRESQL}\n"
        );
        files.push(plain("etc/systemd/system/postgresql@.service.d/adt.conf", run));
    }
    files
}

/// What must hold beside a box's own checks: PostgreSQL's port is open before its users have their passwords.
pub fn check(platform: &Platform, machine: &Machine) -> Option<Check> {
    let mut sets = platform.data.iter().filter(|set| set.machine == machine.role).filter_map(|set| set.sql());
    let words = ["systemctl", "--quiet", "is-active", "postgresql@*"];
    sets.any(|sql| sql.server == Server::Postgresql).then(|| Check::Command { argv: words.map(str::to_owned).into() })
}

fn secret_file(path: &str, group: &str, text: String) -> File {
    File { path: path.into(), mode: 0o640, group: Some(group.into()), text: text.into() }
}

fn plain(path: &str, text: String) -> File {
    File { path: path.into(), mode: 0o644, group: None, text: text.into() }
}

/// Names were checked where they entered and passwords are letters and digits, so nothing here needs an escape. MariaDB takes
/// one statement a line.
fn statements(sql: &Sql, password: &str) -> String {
    let Sql { database, user, server } = sql;
    match server {
        Server::Mariadb | Server::Mysql => format!(
            "CREATE DATABASE IF NOT EXISTS `{database}`;\n\
             CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}';\n\
             ALTER USER '{user}'@'%' IDENTIFIED BY '{password}';\n\
             GRANT ALL PRIVILEGES ON `{database}`.* TO '{user}'@'%';\n"
        ),
        Server::Postgresql => format!(
            "SELECT 'CREATE ROLE \"{user}\"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') \\gexec\n\
             ALTER ROLE \"{user}\" LOGIN PASSWORD '{password}';\n\
             SELECT 'CREATE DATABASE \"{database}\" OWNER \"{user}\"'\n\
             WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}') \\gexec\n"
        ),
    }
}
