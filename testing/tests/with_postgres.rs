//! The command around other commands.

mod common;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{eventually, is_running, server_process, socket_directory};
use enlist_testing::{PGBOUNCER_URL, POSTGRES_URL};
use rustix::process::{Pid, Signal, kill_process};

/// The command as it is without a server around it.
fn with_postgres() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-postgres"));
    command.env_remove(POSTGRES_URL).env_remove(PGBOUNCER_URL);
    command
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("the command");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_command_gets_a_server_and_a_pooler_which_are_gone_afterwards() {
    // A pooler that is named without its server is before another one.
    let output = stdout(with_postgres().env(PGBOUNCER_URL, "postgres://elsewhere/x").args([
        "--",
        "sh",
        "-c",
        "echo $ENLIST_TEST_POSTGRES_URL; echo $ENLIST_TEST_PGBOUNCER_URL; ls -d ${ENLIST_TEST_POSTGRES_URL#*host=}/data",
    ]));
    let lines: Vec<&str> = output.lines().collect();
    let [server, pooler, data] = lines[..] else { panic!("{output}") };
    assert!(Path::new(data).starts_with(socket_directory(server)));
    for url in [server, pooler] {
        assert!(!socket_directory(url).exists(), "{url}");
    }
}

#[test]
fn it_ends_as_the_command_does() {
    let status = |script: &str| {
        let mut command = with_postgres();
        command.env(POSTGRES_URL, "postgres://elsewhere/x").env(PGBOUNCER_URL, "postgres://elsewhere:1/x");
        command.args(["sh", "-c", script]).status().expect("the command").code()
    };
    assert_eq!(status("exit 0"), Some(0));
    assert_eq!(status("exit 7"), Some(7));
    assert_eq!(status("kill -KILL $$"), Some(137));
    assert_eq!(status(r#"test "$ENLIST_TEST_POSTGRES_URL" = postgres://elsewhere/x"#), Some(0));
    assert_eq!(status(r#"test "$ENLIST_TEST_PGBOUNCER_URL" = postgres://elsewhere:1/x"#), Some(0));
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let script = "echo $$; echo $ENLIST_TEST_POSTGRES_URL; echo $ENLIST_TEST_PGBOUNCER_URL; exec sleep 600";
    let mut owner = with_postgres().args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("the command");
    let mut lines = BufReader::new(owner.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let sleeper = Pid::from_raw(line().parse().expect("a number")).expect("not zero");
    let directories = [socket_directory(&line()), socket_directory(&line())];
    let server = server_process(&directories[0]);

    owner.kill().expect("SIGKILL");
    owner.wait().expect("its end");
    // The command of a killed owner lives on. It inherited nothing that would keep the server, too.
    assert!(is_running(sleeper));
    eventually("the server is gone", || !is_running(server));
    eventually("the directories are gone", || !directories.iter().any(|directory| directory.exists()));
    kill_process(sleeper, Signal::KILL).expect("SIGKILL");
}

#[test]
fn what_is_missing_is_said_plainly() {
    let output = with_postgres().env("ENLIST_TEST_POSTGRES_BIN", "/nowhere").arg("true").output().expect("the command");
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["/nowhere", "apt-get install postgresql", "ENLIST_TEST_POSTGRES_URL"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_server_that_does_not_start_is_quoted() {
    let folder = tempfile::tempdir_in("/tmp").expect("a directory");
    let program = |name: &str, script: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a program");
    };
    // Whoever it runs as.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("a directory");
    let directory_file = folder.path().join("where");
    fs::write(&directory_file, "").expect("a file");
    fs::set_permissions(&directory_file, Permissions::from_mode(0o666)).expect("a file");
    program("initdb", r#"mkdir "$2""#);
    program("postgres", r#"echo "$2" >"${0%/*}/where"; echo 'the disk is on fire' >&2; exit 3"#);

    let output =
        with_postgres().env("ENLIST_TEST_POSTGRES_BIN", folder.path()).arg("true").output().expect("the command");
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("the disk is on fire") && text.contains("status 3"), "{text}");
    let data = fs::read_to_string(&directory_file).expect("where its data was");
    let directory = Path::new(data.trim()).parent().expect("its directory");
    assert!(!directory.exists(), "{}", directory.display());
}
