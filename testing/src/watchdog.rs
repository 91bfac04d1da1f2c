//! A server that does not outlive its owner.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Error;
use crate::account::Account;
use crate::directory::Directory;
use crate::error::tail;
use crate::programs::is_for_postgres;

const SCRIPT: &str = include_str!("watchdog.sh");
const SCRIPT_NAME: &str = "watchdog";
const POLL: Duration = Duration::from_millis(10);
/// Together with the pause between them: a minute.
const POLLS: u32 = 6_000;

/// A directory, and a shell that removes it when the pipe to it closes: by a drop, at the end of the process, or when
/// it is killed. The server is the shell's child, so no number of a process is ever mistaken for it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    directory: Directory,
    shell: Child,
    /// Only this process holds it: the standard library opens it so that no program inherits it.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Makes the directory and starts the shell, but not yet the server that it will run. `command` is made from the
    /// path of the directory.
    pub(crate) fn create(
        account: Account,
        stop_signal: &str,
        command: impl FnOnce(&Path) -> Command,
    ) -> Result<Self, Error> {
        let directory = Directory::create(account)?;
        let shell = Self::spawn(&directory, account, stop_signal, &command(directory.path()));
        // Without the shell nobody else is there to remove it.
        let mut shell = shell.inspect_err(|_| drop(fs::remove_dir_all(directory.path())))?;
        let pipe = shell.stdin.take();
        Ok(Self { directory, shell, pipe })
    }

    fn spawn(directory: &Directory, account: Account, stop_signal: &str, server: &Command) -> Result<Child, Error> {
        // A file, so that a list of processes stays legible. The shell holds it open: it may remove it.
        directory.append(SCRIPT_NAME, SCRIPT)?;
        let mut shell = Command::new("/bin/sh");
        shell.arg(directory.path().join(SCRIPT_NAME)).arg(directory.path()).arg(stop_signal);
        shell.arg(server.get_program()).args(server.get_args());
        prepare(&mut shell, account);
        // A group of its own: what the terminal or a test runner sends to the tests' group does not stop it.
        // Nothing of the owner's output: whoever reads that to its end would wait for the server.
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        shell.spawn().map_err(Error::io("start /bin/sh"))
    }

    /// Starts the server and waits until it is `ready`.
    pub(crate) fn start(&mut self, name: &str, ready: impl Fn(&Directory) -> bool) -> Result<(), Error> {
        if let Some(pipe) = &mut self.pipe {
            pipe.write_all(b"start\n").map_err(Error::io(format!("start {name}")))?;
        }
        for _ in 0..POLLS {
            if ready(&self.directory) {
                return Ok(());
            }
            if let Some(status) = self.directory.read("ended") {
                return Err(self.failed(format!("{name} ended with status {}", status.trim())));
            }
            thread::sleep(POLL);
        }
        Err(self.failed(format!("{name} was not ready within a minute")))
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    fn failed(&self, what: String) -> Error {
        Error::Failed { what, output: tail(&self.directory.read("log").unwrap_or_default()) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The shell ends when all is gone, and it does not wait for anything without end.
        let _ = self.shell.wait();
    }
}

/// Makes `command` independent of the caller: its user, its folder (which that user may not be able to enter), and the
/// variables that would change what PostgreSQL does.
pub(crate) fn prepare(command: &mut Command, account: Account) {
    account.apply(command);
    command.current_dir("/").env("LC_ALL", "C");
    for (variable, _) in env::vars_os().filter(|(variable, _)| is_for_postgres(variable)) {
        command.env_remove(variable);
    }
}
