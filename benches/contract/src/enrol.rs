//! Hosts whose tokens are in use, many in each commit: enrolling them one by one would take longer than the past.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use enlist_benches::Error;
use enlist_core::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin};
use enlist_core::host::{Host, HostKind, HostName, Lifecycle};
use enlist_core::secret::Prefix;
use enlist_core::store::{Commit, Expected, HostWrite, Store};
use enlist_core::{ActorId, AgentTokenId, HostId, LineageId, PlainToken, SystemEntropy, TenantId, Timestamp};

/// Hosts of one commit.
const BATCH: u32 = 500;

/// Who reports, and by which token.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    /// The host.
    pub host_id: HostId,
    /// Its token.
    pub token_id: AgentTokenId,
}

/// Makes hosts in service, each with an Active token, and writes them to a file.
///
/// # Errors
/// When the store refuses them, or the file cannot be written.
pub async fn enrol(store: &dyn Store, hosts: u32, at: Timestamp, path: &Path) -> Result<Vec<Reporter>, Error> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut reporters = Vec::with_capacity(hosts as usize);
    for first in (0..hosts).step_by(BATCH as usize) {
        let mut commit = Commit::default();
        for number in first..hosts.min(first + BATCH) {
            let plain = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
            let (host, token) = host_with_token(number, at, &plain)?;
            writeln!(file, "{} {} {}", plain.expose(), host.id, token.id)?;
            reporters.push(Reporter { host_id: host.id, token_id: token.id });
            let write = HostWrite { agent_tokens: vec![token], ..HostWrite::new(Expected::Absent, host) };
            commit.writes.push(write.into());
        }
        store.commit(commit).await?;
    }
    file.flush()?;
    Ok(reporters)
}

/// Reads what [`enrol`] has written.
///
/// # Errors
/// When there is no such file, or another.
pub fn read(path: &Path) -> Result<Vec<Reporter>, Error> {
    let reporter = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let mut id = || words.next()?.parse().ok();
        Some(Reporter { host_id: HostId::from_uuid(id()?), token_id: AgentTokenId::from_uuid(id()?) })
    };
    let reporters: Option<Vec<_>> = std::fs::read_to_string(path)?.lines().map(reporter).collect();
    Ok(reporters.ok_or("the file of the hosts is not as expected")?)
}

fn host_with_token(number: u32, at: Timestamp, plain: &PlainToken) -> Result<(Host, AgentToken), Error> {
    let host = Host {
        id: HostId::generate(at, &SystemEntropy),
        tenant_id: TenantId::new("default")?,
        kind: HostKind::Managed,
        name: HostName::new(format!("host-{number}"))?,
        external_id: None,
        provider: None,
        availability_zone: None,
        address: None,
        tags: Default::default(),
        labels: Default::default(),
        liveness_window: None,
        cordoned: false,
        lifecycle: Lifecycle::Live,
        generation: 0,
        enrolled_at: Some(at),
        made_with: None,
        created_at: at,
        updated_at: at,
    };
    let token = token_of(host.id, at, plain)?;
    Ok((host, token))
}

/// An Active token of a host.
///
/// # Errors
/// None, as long as "bench" is a name of an actor.
pub fn token_of(host_id: HostId, at: Timestamp, plain: &PlainToken) -> Result<AgentToken, Error> {
    Ok(AgentToken {
        id: AgentTokenId::generate(at, &SystemEntropy),
        host_id,
        lineage_id: LineageId::generate(at, &SystemEntropy),
        hash: plain.hash(),
        kind: CredentialKind::Bearer,
        name: None,
        origin: Origin::Issued(ActorId::new("bench")?),
        state: AgentTokenState::Active { since: at },
        created_at: at,
        expires_at: None,
    })
}
