//! Runs a command with a PostgreSQL: `with-postgres [--] COMMAND ARGS…`.
//!
//! The command finds the server in `ENLIST_TEST_POSTGRES_URL`, and a PgBouncer before it in `ENLIST_TEST_PGBOUNCER_URL` if
//! PgBouncer is installed. Both are gone when the command has ended. A server that is named there already is used
//! instead. Ends as the command does; with 125 when there is no server, 126 when the command cannot be run.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use enlist_testing::{Cluster, Durability, Error, PGBOUNCER_URL, POSTGRES_URL, PgBouncer};

const WRONG_USE: u8 = 2;
const NO_SERVER: u8 = 125;
const NO_COMMAND: u8 = 126;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "--") {
        words.next();
    }
    let Some(program) = words.next() else {
        say("usage: with-postgres [--] COMMAND ARGS…");
        return WRONG_USE.into();
    };
    let code = run(program, words).unwrap_or_else(|error| {
        say(&error.to_string());
        NO_SERVER
    });
    code.into()
}

fn run(program: OsString, arguments: impl Iterator<Item = OsString>) -> Result<u8, Error> {
    let mut command = Command::new(&program);
    command.args(arguments);

    let given = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
    let (cluster, server) = match given(POSTGRES_URL) {
        Some(url) => (None, url),
        None => {
            let cluster = Cluster::start(Durability::Off)?;
            let url = cluster.url();
            (Some(cluster), url)
        }
    };
    command.env(POSTGRES_URL, &server);
    let pooler = if cluster.is_none() && given(PGBOUNCER_URL).is_some() {
        None
    } else {
        // One that is named would be before another server.
        command.env_remove(PGBOUNCER_URL);
        match PgBouncer::start(&server) {
            Ok(pooler) => Some(pooler),
            // A test that needs it will say so.
            Err(Error::Missing { .. }) => None,
            Err(error) => return Err(error),
        }
    };
    if let Some(pooler) = &pooler {
        command.env(PGBOUNCER_URL, pooler.url("postgres"));
    }

    let code = match command.status() {
        Ok(status) => code_of(status),
        Err(error) => {
            say(&format!("cannot run {}: {error}", program.display()));
            NO_COMMAND
        }
    };
    // The pooler before its server.
    drop(pooler);
    drop(cluster);
    Ok(code)
}

/// As a shell tells it: a signal is 128 and its number.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn say(text: &str) {
    // Nobody to tell is no reason to fail.
    let _ = writeln!(io::stderr(), "with-postgres: {text}");
}
