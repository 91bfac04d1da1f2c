//! A server of one host that keeps the rotation table: the state machines are the real ones.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use enlist_agent_sdk::AgentToken as Secret;
use enlist_core::agent_token::{
    AgentToken, AgentTokenState, CredentialKind, Draft, Origin, Refusal, Request, Siblings, Verdict,
};
use enlist_core::lineage::Lineage;
use enlist_core::wire::Code;
use enlist_core::{AgentTokenId, Clock, HostId, InstallTokenId, LineageId, ManualClock, SystemEntropy, TokenHash};
use serde_json::json;

use super::{Answer, Asked, HOST_ID, acknowledged_at, file, ok, refusal};

/// Cheap to clone; clones are the same server.
#[derive(Clone)]
pub(crate) struct Fleet(Arc<Mutex<World>>);

pub(crate) struct World {
    pub(crate) tokens: Vec<AgentToken>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) life: Option<Duration>,
    /// Reuse and conflict.
    pub(crate) alarms: usize,
    /// How often work was served.
    pub(crate) served: usize,
    /// Where the agent keeps its credential: what it presents has to be durable there.
    directory: PathBuf,
}

impl Fleet {
    /// A host whose installed secret is this one, in use.
    pub(crate) fn new(secret: &str, directory: &Path, clock: &Arc<ManualClock>) -> Self {
        let id = AgentTokenId::generate(clock.now(), &SystemEntropy);
        let token = AgentToken {
            id,
            host_id: HOST_ID.parse::<HostId>().expect("an id"),
            lineage_id: LineageId::generate(clock.now(), &SystemEntropy),
            hash: hash(secret),
            kind: CredentialKind::Bearer,
            name: None,
            origin: Origin::Exchange(InstallTokenId::generate(clock.now(), &SystemEntropy)),
            state: AgentTokenState::Active { since: clock.now() },
            created_at: clock.now(),
            expires_at: None,
        };
        Self(Arc::new(Mutex::new(World {
            tokens: vec![token],
            clock: Arc::clone(clock),
            life: None,
            alarms: 0,
            served: 0,
            directory: directory.to_owned(),
        })))
    }

    pub(crate) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().expect("not poisoned")
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        self.world().answer(asked)
    }

    /// The hash of the token in use.
    pub(crate) fn active(&self) -> TokenHash {
        let world = self.world();
        let active = |token: &&AgentToken| matches!(token.state, AgentTokenState::Active { .. });
        world.tokens.iter().find(active).expect("one is in use").hash
    }
}

fn hash(secret: &str) -> TokenHash {
    Secret::new(secret).expect("a token").hash()
}

impl World {
    fn answer(&mut self, asked: &Asked) -> Answer {
        let bearer = asked.bearer.as_deref().expect("a credential");
        let presented = hash(bearer);
        let request = match asked.path.as_str() {
            "/v1/agent/token/rotate" => {
                let claim = TokenHash::from_hex(asked.body["claim"].as_str().expect("a claim")).expect("a hash");
                Request::Propose { hash: claim, seen_elsewhere: self.tokens.iter().any(|token| token.hash == claim) }
            }
            _ => Request::Serve,
        };
        self.check_durability(bearer, request);
        let now = self.clock.now();
        loop {
            let Some(token) = self.tokens.iter().find(|token| token.hash == presented).cloned() else {
                return refusal(Code::InvalidToken);
            };
            let lineage = Lineage::among(self.tokens.iter().cloned(), token.lineage_id);
            let successor = match token.state {
                AgentTokenState::Retired { successor, .. } => self.tokens.iter().find(|other| other.id == successor),
                _ => None,
            };
            let siblings = Siblings { pending: lineage.pending.as_ref(), successor };
            match token.judge(false, request, siblings, now) {
                Verdict::PromoteFirst => {
                    let promotion = lineage.promote(self.life, now).expect("it is pending");
                    self.put(promotion.promoted);
                    promotion.retired.into_iter().for_each(|token| self.put(token));
                }
                Verdict::Serve if asked.path == "/v1/agent/self" => {
                    return ok(json!({
                        "host_id": token.host_id, "tenant_id": "acme", "token_id": token.id, "kind": token.kind,
                        "expires_at": token.expires_at, "server_time": now,
                    }));
                }
                Verdict::Serve => {
                    self.served += 1;
                    return acknowledged_at(now, 30_000);
                }
                Verdict::Repeat => return ok(json!({"id": token.id, "state": "used"})),
                Verdict::Accept { displaces } => {
                    let Request::Propose { hash, .. } = request else { unreachable!("only a proposal is accepted") };
                    let draft = Draft { id: AgentTokenId::generate(now, &SystemEntropy), hash };
                    let proposal = lineage.propose(draft, displaces, now).expect("accepted");
                    self.put(proposal.proposed);
                    proposal.displaced.into_iter().for_each(|token| self.put(token));
                    return ok(json!({"id": draft.id, "state": "pending"}));
                }
                Verdict::Refused(refusal) => return self.refuse(refusal),
            }
        }
    }

    fn refuse(&mut self, refused: Refusal) -> Answer {
        self.alarms += usize::from(matches!(refused, Refusal::ReuseDetected | Refusal::RotationConflict));
        refusal(match refused {
            Refusal::HostArchived => Code::HostArchived,
            Refusal::Revoked => Code::TokenRevoked,
            Refusal::Expired => Code::TokenExpired,
            Refusal::Superseded => Code::TokenSuperseded,
            Refusal::ReuseDetected => Code::TokenReuseDetected,
            Refusal::Displaced => Code::TokenDisplaced,
            Refusal::ClaimInUse => Code::ClaimInUse,
            Refusal::RotationPending => Code::RotationPending,
            Refusal::RotationConflict => Code::RotationConflict,
        })
    }

    pub(crate) fn put(&mut self, token: AgentToken) {
        self.tokens.retain(|other| other.id != token.id);
        self.tokens.push(token);
    }

    /// Client rules 1 to 4, as far as the file shows them: it is what a crash at this moment leaves behind.
    fn check_durability(&self, bearer: &str, request: Request) {
        let installed = &file(&self.directory)["installed"];
        let successor = &installed["successor"];
        match request {
            Request::Propose { hash: claim, .. } => {
                assert_eq!(installed["token"], bearer, "the token in use is the durable one");
                assert_eq!(hash(successor["token"].as_str().expect("a durable successor")), claim);
            }
            Request::Serve if installed["token"] == bearer => {
                let held_up = successor.is_null() || successor["refused"] == true;
                assert!(held_up, "the token in use is presented for work beside a successor");
            }
            Request::Serve => {
                assert_eq!(successor["token"], bearer, "what is presented is durable");
                assert_eq!(successor["refused"], false, "the mark is gone before the successor is presented");
            }
        }
    }
}
