//! Logs go to standard error; `ENLIST_LOG` says how much, in the words of `tracing`'s `EnvFilter`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Begins to log. `ENLIST_LOG` wins over `default`.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env("ENLIST_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    // Who embeds the server in a test may have begun already: theirs stays.
    let _ = log.try_init();
}
