//! The reference agent: `enlist-agent enrol`, then `enlist-agent run`.

#![allow(clippy::print_stdout, reason = "a program says what it did")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use enlist_agent_sdk::{
    Agent, AgentToken, BoxError, Client, Collector, Enrolment, Event, Events, ExternalId, FileCredentialStore,
    HostName, InstallToken, Outcome, ProposedHost, SystemCollector, this_machine,
};
use enlist_examples::logging;
use enlist_examples::server::terminated;

/// A host's agent: enrols it, and reports what this machine does.
// No `Debug`, and tokens are read after clap: neither may print what was pasted.
#[derive(Parser)]
#[command(name = "enlist-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Exchange an install token for a credential. Done already, it changes nothing.
    Enrol {
        #[command(flatten)]
        common: Common,
        /// The install token that the administrator gave.
        #[arg(long, env = "ENLIST_INSTALL_TOKEN", hide_env_values = true)]
        token: String,
        #[command(flatten)]
        machine: Machine,
    },
    /// Report until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        common: Common,
        /// The install token to enrol with, if this host is not enrolled yet. It may stay in the unit file.
        #[arg(long, env = "ENLIST_INSTALL_TOKEN", hide_env_values = true)]
        token: Option<String>,
        #[command(flatten)]
        machine: Machine,
        /// A file with an agent token that an administrator has delivered by hand. It is tried beside the credential that is
        /// kept, takes its place once the server has accepted it, and may stay where it is.
        #[arg(long, env = "ENLIST_AGENT_TOKEN_FILE", value_name = "PATH")]
        agent_token_file: Option<PathBuf>,
        /// Report at least this often; the server may ask for more.
        #[arg(long, env = "ENLIST_INTERVAL", value_parser = humantime::parse_duration)]
        interval: Option<Duration>,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// The server.
    #[arg(long, env = "ENLIST_SERVER", default_value = "http://127.0.0.1:7070")]
    server: String,
    /// The directory that keeps the credential.
    #[arg(long, env = "ENLIST_STATE_DIR", default_value = "enlist-agent-state")]
    state_dir: PathBuf,
}

/// What the host is, for an install token of a tenant, which makes it. One of a host knows already.
#[derive(Debug, Args)]
struct Machine {
    /// What to call the host: this machine's host name, unless said otherwise.
    #[arg(long, env = "ENLIST_HOST_NAME")]
    name: Option<HostName>,
    /// What the host is found by when it has lost its credential: a hash of this machine's id, if it has one and unless said
    /// otherwise. Clones that share a machine id need one each.
    #[arg(long, env = "ENLIST_EXTERNAL_ID")]
    external_id: Option<ExternalId>,
}

impl Machine {
    fn proposed(self) -> ProposedHost {
        let ProposedHost { name, external_id } = this_machine();
        ProposedHost { name: self.name.or(name), external_id: self.external_id.or(external_id) }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    logging::init("info");
    let done = match command {
        Command::Enrol { common, token, machine } => enrol(common, token, machine).await,
        Command::Run { common, token, machine, agent_token_file, interval } => {
            run(common, token, machine, agent_token_file, interval).await
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error as &dyn std::error::Error, "the agent cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn enrol(common: Common, token: String, machine: Machine) -> Result<(), BoxError> {
    let token = InstallToken::new(token)?;
    let client = Client::new(&common.server)?;
    let facts = SystemCollector::new()?.collect().await.facts;
    let store = Arc::new(FileCredentialStore::new(common.state_dir));
    let credential = Enrolment::new(client, store).facts(facts).host(machine.proposed()).run(&token).await?;
    println!("enrolled as host {}", credential.host_id());
    Ok(())
}

async fn run(
    common: Common,
    token: Option<String>,
    machine: Machine,
    agent_token_file: Option<PathBuf>,
    interval: Option<Duration>,
) -> Result<(), BoxError> {
    let mut builder = Agent::builder(&common.server)
        .state_dir(common.state_dir)
        .agent_version(concat!("enlist-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(token) = token {
        builder = builder.install_token(InstallToken::new(token)?).host(machine.proposed());
    }
    if let Some(path) = agent_token_file {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        builder = builder.agent_token(AgentToken::new(text.trim_end())?);
    }
    if let Some(interval) = interval {
        builder = builder.interval(interval);
    }
    let (agent, events) = builder.open().await?;
    let told = tokio::spawn(tell(events));
    let outcome = agent.run(terminated()).await;
    // The events that stand in the queue are still told.
    let _ = told.await;
    match outcome? {
        Outcome::Shutdown => tracing::info!("stopped"),
        outcome => tracing::warn!(?outcome, "this host is out of service"),
    }
    Ok(())
}

async fn tell(mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Enrolled { host_id, tenant_id } => tracing::info!(%host_id, %tenant_id, "enrolled"),
            Event::Reported { status, at, .. } => tracing::debug!(?status, %at, "reported"),
            Event::ConnectivityLost { error } => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the server does not answer");
            }
            Event::ConnectivityRestored => tracing::info!("the server answers again"),
            Event::Refused { problem } => tracing::warn!(code = %problem.code, detail = problem.detail, "refused"),
            other => tracing::info!(event = ?other, "agent"),
        }
    }
}
