//! The programs beside this one.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::Error;

/// A program that was built into the folder of this one.
pub(crate) fn program(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "there is no {name} beside this program: cargo build --release -p enlist-benches --bins, then -p enlist-examples \
         and -p enlist-benches-contract"
    )
    .into())
}

/// Runs a program to its end; what it says is one value of JSON.
pub(crate) async fn ask(command: &mut Command) -> Result<Value, Error> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", command.as_std().get_program().display(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `cargo run` builds one program alone: the others beside it would be missing, or old.
///
/// # Errors
/// When they cannot be built.
pub fn build() -> Result<(), Error> {
    let (Some(cargo), Some(folder)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(());
    };
    // One after the other: together they would be built with each other's features.
    for package in [
        &["-p", "enlist-benches", "--bins"][..],
        &["-p", "enlist-benches-contract", "--bins"],
        &["-p", "enlist-examples", "--bin", "enlist-server"],
    ] {
        let mut command = std::process::Command::new(&cargo);
        command.current_dir(&folder).args(["build", "--locked"]).args(package);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        // Those of this package: a build script that looks at them would have its crate built anew.
        for (name, _) in std::env::vars_os() {
            let said = name.to_string_lossy();
            if said.starts_with("CARGO_PKG_") || said.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        if !command.status()?.success() {
            return Err("the servers could not be built".into());
        }
    }
    Ok(())
}
