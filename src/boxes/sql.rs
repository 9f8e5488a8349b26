//! What is said to a database server from inside its machine while a seed is loaded, as values. Pure: `build` runs them.
//!
//! Everything goes through the local socket as the server's own administrator, so no password is needed or left in a layer.
//! Names were checked where they entered, so none of them needs an escape.

use crate::model::Exec;
use crate::model::topology::{Server, Sql};

/// Owns what a PostgreSQL dump makes until it is handed to the database's user: a dump may hold what only an administrator may
/// make, and what the first administrator owns can't be handed over as a whole.
const LOADER: &str = "adt_seed";

pub fn start(server: Server) -> Exec {
    Exec::new(["systemctl", "start", unit(server)])
}

/// Cleanly, so that a machine on the layer has nothing to recover. PostgreSQL's own unit only stands for its clusters'.
pub fn stop(server: Server) -> Exec {
    let clusters = (server == Server::Postgresql).then_some("postgresql@*");
    Exec::new(["systemctl", "stop"].into_iter().chain(clusters).chain([unit(server)]))
}

fn unit(server: Server) -> &'static str {
    server.word()
}

/// Runs the statements on its input and ends at the first error.
pub fn administer(server: Server) -> Exec {
    match server {
        Server::Mariadb | Server::Mysql => maria(&[]),
        Server::Postgresql => psql("postgres"),
    }
}

/// Runs the dump on its input and ends at the first error, which it tells with its line.
pub fn load(into: &Sql) -> Exec {
    match into.server {
        Server::Mariadb | Server::Mysql => maria(&[format!("--database={}", into.database)]),
        Server::Postgresql => {
            let mut exec = psql(&into.database);
            exec.env.push(("PGOPTIONS".to_owned(), format!("-c role={LOADER}")));
            exec
        }
    }
}

fn maria(more: &[String]) -> Exec {
    // Rows may be as large as the server takes them.
    let fixed = ["/bin/sh", "-c", "exec \"$(command -v mariadb || command -v mysql)\" \"$@\"", "adt"];
    let options = ["--batch", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"];
    Exec::new(fixed.into_iter().chain(options).map(str::to_owned).chain(more.iter().cloned()))
}

fn psql(database: &str) -> Exec {
    let fixed = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"];
    let database = format!("--dbname={database}");
    // Only with a file does it tell lines.
    let argv = fixed.into_iter().map(str::to_owned).chain([database, "--file=-".to_owned()]);
    Exec { cwd: Some("/".to_owned()), ..Exec::new(argv) }
}

/// Makes the database. Its user can't log in: each environment gives a password of its own.
pub fn before(into: &Sql) -> String {
    let Sql { server, database, user } = into;
    match server {
        Server::Mariadb | Server::Mysql => format!("CREATE DATABASE IF NOT EXISTS `{database}`;\n"),
        Server::Postgresql => format!(
            "SELECT 'CREATE ROLE \"{user}\"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') \\gexec\n\
             SELECT 'CREATE DATABASE \"{database}\" OWNER \"{user}\"'\n\
             WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}') \\gexec\n\
             CREATE ROLE {LOADER} SUPERUSER;\n"
        ),
    }
}

/// Hands over what the dump made; nothing where the database's user has all rights in it anyway.
pub fn after(into: &Sql) -> Option<String> {
    let Sql { server, database, user } = into;
    match server {
        Server::Mariadb | Server::Mysql => None,
        Server::Postgresql => Some(format!(
            "\\connect \"{database}\"\n\
             REASSIGN OWNED BY {LOADER} TO \"{user}\";\n\
             DROP OWNED BY {LOADER};\n\
             DROP ROLE {LOADER};\n"
        )),
    }
}
