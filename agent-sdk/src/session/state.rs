//! What a session knows, and what it does next.

use std::sync::Arc;
use std::time::Duration;

use enlist_core::agent_token::CredentialKind;
use enlist_core::wire::{AgentSelf, Problem};
use enlist_core::{AgentTokenId, Entropy, Timestamp, TokenHash};

use crate::agent_token::{AccessToken, AgentToken};
use crate::backoff::{Backoff, full_jitter};
use crate::credential::{Credential, Facts, PendingEnrolment, Record};
use crate::keyring::{Keyring, Step};

/// After this long a proposal is repeated that was refused for the time being, and up to a tenth later.
const REPEAT_AFTER: Duration = Duration::from_secs(15 * 60);
/// A token is not replaced for its age, or since the server asks, before it has this one: neither a clock that is far off
/// nor a server that asks without end makes an agent rotate all the time.
const SHORTEST_AGE: Duration = Duration::from_secs(60);
/// The shortest time for which an access token is used before another is bought in good time.
const SHORTEST_USE: Duration = Duration::from_secs(15);

/// The installed credential in memory.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    pub(super) keyring: Keyring<Arc<AgentToken>>,
    pub(super) facts: Facts,
}

impl Ring {
    fn of(credential: Credential) -> Self {
        Self { keyring: Keyring::new(credential.tokens), facts: credential.facts }
    }

    /// A token of which the server has just said whose it is.
    pub(super) fn introduced(token: Arc<AgentToken>, who: AgentSelf, spent: Vec<TokenHash>, now: Timestamp) -> Self {
        let facts = Facts {
            host_id: who.host_id,
            tenant_id: who.tenant_id,
            token_id: who.token_id,
            kind: who.kind,
            expires_at: who.expires_at,
            obtained_at: Some(now),
            spent,
        };
        Self { keyring: Keyring::of(token), facts }
    }

    /// The server has just said who the token in use is.
    pub(super) fn learn(&mut self, who: AgentSelf, now: Timestamp) {
        let spent = std::mem::take(&mut self.facts.spent);
        self.facts = Self::introduced(Arc::clone(&self.keyring.durable().current), who, spent, now).facts;
    }

    fn credential(&self) -> Credential {
        Credential { tokens: self.keyring.durable().clone(), facts: self.facts.clone() }
    }
}

/// What is durable, or is to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) ring: Option<Ring>,
    pub(super) enrolment: Option<PendingEnrolment>,
    pub(super) trying: Option<Arc<AgentToken>>,
    pub(super) delivered: Option<TokenHash>,
}

impl Kept {
    pub(super) fn of(record: Record) -> Self {
        let Record { installed, enrolment, trying, delivered } = record;
        Self { ring: installed.map(Ring::of), enrolment, trying, delivered }
    }

    pub(super) fn record(&self) -> Record {
        Record {
            installed: self.ring.as_ref().map(Ring::credential),
            enrolment: self.enrolment.clone(),
            trying: self.trying.clone(),
            delivered: self.delivered,
        }
    }
}

/// An access token in use.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) token: Arc<AccessToken>,
    /// When to buy the next one, by the monotonic clock.
    renew: Duration,
    /// When it ends.
    end: Duration,
}

impl Access {
    /// One that was bought by a request sent at `sent`, when the wall clock showed `now`.
    pub(super) fn new(token: AccessToken, now: Timestamp, sent: Duration) -> Self {
        let life = token.expires_at().saturating_since(now);
        let (renew, end) = if life.is_zero() {
            // The two clocks do not agree: it is used until the server refuses it.
            (Duration::MAX, Duration::MAX)
        } else {
            (sent.saturating_add((life * 2 / 3).max(SHORTEST_USE)), sent.saturating_add(life))
        };
        Self { token: Arc::new(token), renew, end }
    }
}

/// A secret to be presented for work.
#[derive(Debug, Clone)]
pub(super) enum Presented {
    Agent(Arc<AgentToken>),
    Access(Arc<AccessToken>),
}

/// What to do next. The ring is a copy, to be kept once it was changed by the answer.
pub(super) enum Plan {
    Wait(Duration),
    Draw(Ring),
    Propose {
        ring: Ring,
        current: Arc<AgentToken>,
        successor: Arc<AgentToken>,
    },
    Present {
        ring: Ring,
        successor: Arc<AgentToken>,
    },
    /// Ask the server who the token in use is, and how long it lives.
    Confirm {
        ring: Ring,
        current: Arc<AgentToken>,
    },
    /// Buy an access token.
    Buy {
        current: Arc<AgentToken>,
    },
    Work(Presented),
    NotEnrolled,
}

/// All that a session knows. Times are the monotonic clock's.
#[derive(Debug)]
pub(super) struct State {
    pub(super) kept: Kept,
    /// What the store holds, by the hash of the document; `None` when that is not certain.
    pub(super) saved: Option<TokenHash>,
    /// Somebody else may have changed what is stored: it is to be read again.
    pub(super) stale: bool,
    /// The host was deleted, in these words: whoever asks is told.
    pub(super) deleted: Option<Box<Problem>>,
    /// A token that was delivered by hand and not decided upon yet.
    pub(super) delivered: Option<Arc<AgentToken>>,
    pub(super) access: Option<Access>,
    /// The server signs no access tokens.
    pub(super) no_keys: bool,

    /// Before this time nothing is asked with the credential.
    pub(super) gate: Duration,
    /// Before this time no rotation is begun, and no refused one repeated.
    pub(super) rotation_after: Duration,
    pub(super) confirm_after: Duration,
    pub(super) delivery_after: Duration,
    pub(super) buy_after: Duration,
    /// From when on the token in use is old enough to be replaced for its age.
    grown_after: Duration,
    /// How much earlier than at two thirds of its life the token in use is replaced, in 65 535ths of a twentieth of that life.
    early: u16,

    /// The caller wants a rotation.
    pub(super) wished: bool,
    /// The server wants one.
    pub(super) asked: bool,
    /// The successor was drawn by this process and never presented.
    pub(super) drawn_here: bool,
    /// The successor's public identity, once the server has said it.
    pub(super) successor_id: Option<AgentTokenId>,
    /// The server has said of the successor that it is in use.
    pub(super) used: bool,
    /// The server has refused the token in use for good, in these words.
    pub(super) lost: Option<Box<Problem>>,
    /// Since when the server has said of the token in use that its successor is.
    pub(super) superseded_since: Option<Duration>,
    /// The server has refused the successor as well.
    pub(super) successor_lost: bool,
    /// A request for work was accepted.
    pub(super) accepted: bool,
    /// A refusal was answered by doing something at once, and nothing was accepted since.
    pub(super) healed: bool,

    pub(super) backoff: Backoff,
    pub(super) delivery_backoff: Backoff,
}

impl State {
    pub(super) fn new(record: Record, now: Duration, entropy: &dyn Entropy) -> Self {
        let mut state = Self {
            kept: Kept::default(),
            saved: None,
            stale: false,
            deleted: None,
            delivered: None,
            access: None,
            no_keys: false,
            gate: Duration::ZERO,
            rotation_after: Duration::ZERO,
            confirm_after: Duration::ZERO,
            delivery_after: Duration::ZERO,
            buy_after: Duration::ZERO,
            grown_after: Duration::ZERO,
            early: 0,
            wished: false,
            asked: false,
            drawn_here: false,
            successor_id: None,
            used: false,
            lost: None,
            superseded_since: None,
            successor_lost: false,
            accepted: false,
            healed: false,
            backoff: Backoff::contact(),
            delivery_backoff: Backoff::enrolment(),
        };
        state.begin(record, now, entropy);
        state
    }

    /// What a start finds, or a start in the middle.
    pub(super) fn begin(&mut self, record: Record, now: Duration, entropy: &dyn Entropy) {
        self.kept = Kept::of(record);
        self.saved = None;
        self.stale = false;
        self.deleted = None;
        self.access = None;
        self.no_keys = false;
        self.gate = Duration::ZERO;
        self.rotation_after = Duration::ZERO;
        self.confirm_after = Duration::ZERO;
        self.grown_after = Duration::ZERO;
        self.accepted = false;
        self.healed = false;
        self.fresh(entropy);
        if self.is_held_up() {
            self.hold_up(now, entropy);
        }
    }

    /// Another token is in use than before.
    pub(super) fn shifted(&mut self, now: Duration, entropy: &dyn Entropy) {
        self.wished = false;
        self.asked = false;
        self.rotation_after = Duration::ZERO;
        self.grown_after = now.saturating_add(SHORTEST_AGE);
        self.confirm_after = Duration::ZERO;
        self.backoff.reset();
        self.fresh(entropy);
    }

    /// Nothing is known of the tokens but what is kept.
    fn fresh(&mut self, entropy: &dyn Entropy) {
        self.drawn_here = false;
        self.successor_id = None;
        self.used = false;
        self.lost = None;
        self.superseded_since = None;
        self.successor_lost = false;
        let mut early = [0; 2];
        entropy.fill(&mut early);
        self.early = u16::from_le_bytes(early);
    }

    /// The server asks for a rotation. It may have said so before the last one was over.
    pub(super) fn server_asks(&mut self, now: Duration) {
        self.asked |= now >= self.grown_after;
    }

    /// A successor was drawn.
    pub(super) fn drawn(&mut self) {
        self.drawn_here = true;
        self.successor_id = None;
        self.used = false;
        self.successor_lost = false;
    }

    /// The proposal was refused for the time being.
    pub(super) fn hold_up(&mut self, now: Duration, entropy: &dyn Entropy) {
        self.wished = false;
        self.asked = false;
        self.rotation_after = now.saturating_add(REPEAT_AFTER + full_jitter(REPEAT_AFTER / 10, entropy));
    }

    pub(super) fn is_held_up(&self) -> bool {
        self.kept.ring.as_ref().is_some_and(|ring| ring.keyring.is_held_up())
    }

    /// Whether the server has refused all that there is.
    pub(super) fn is_lost(&self) -> bool {
        let successor = self.kept.ring.as_ref().is_some_and(|ring| ring.keyring.durable().successor.is_some());
        if successor { self.successor_lost && (self.lost.is_some() || self.used) } else { self.lost.is_some() }
    }

    /// An access token that is not known to have ended.
    pub(super) fn usable_access(&self, now: Duration) -> Option<Presented> {
        let access = self.access.as_ref().filter(|access| now < access.end)?;
        Some(Presented::Access(Arc::clone(&access.token)))
    }

    pub(super) fn plan(&self, monotonic: Duration, now: Timestamp) -> Plan {
        let Some(ring) = &self.kept.ring else { return Plan::NotEnrolled };
        let mut ring = ring.clone();
        let open = monotonic >= self.rotation_after;
        let held_up = ring.keyring.is_held_up();
        let grown = monotonic >= self.grown_after;
        if open && (held_up || self.wished || self.asked || grown && self.is_old(&ring.facts, now)) {
            ring.keyring.rotate();
        }
        let until_rotation = self.rotation_after.saturating_sub(monotonic);
        let (current, next) = match ring.keyring.step() {
            Step::Draw if !open => return Plan::Wait(until_rotation),
            Step::Draw => return Plan::Draw(ring),
            Step::Propose { .. } if held_up && !open => return Plan::Wait(until_rotation),
            Step::Propose { current, successor } => (Arc::clone(current), Some((Arc::clone(successor), false))),
            Step::Present(successor) => {
                (Arc::clone(&ring.keyring.durable().current), Some((Arc::clone(successor), true)))
            }
            Step::Work(current) => (Arc::clone(current), None),
        };
        match next {
            Some((successor, true)) => Plan::Present { ring, successor },
            Some((successor, false)) => Plan::Propose { ring, current, successor },
            None if self.accepted && ring.facts.obtained_at.is_none() && monotonic >= self.confirm_after => {
                Plan::Confirm { ring, current }
            }
            None => self.plan_work(&ring.facts, current, monotonic),
        }
    }

    fn plan_work(&self, facts: &Facts, current: Arc<AgentToken>, monotonic: Duration) -> Plan {
        if facts.kind != CredentialKind::Refresh || self.no_keys {
            return Plan::Work(Presented::Agent(current));
        }
        match self.usable_access(monotonic) {
            Some(access) if !self.is_access_due(monotonic) => Plan::Work(access),
            _ => Plan::Buy { current },
        }
    }

    fn is_access_due(&self, monotonic: Duration) -> bool {
        self.access.as_ref().is_none_or(|access| monotonic >= access.renew) && monotonic >= self.buy_after
    }

    /// Two thirds of its life are over, or up to a twentieth of the life less than that, so that a fleet spreads.
    fn is_old(&self, facts: &Facts, now: Timestamp) -> bool {
        let (Some(obtained), Some(end)) = (facts.obtained_at, facts.expires_at) else { return false };
        let life = end.saturating_since(obtained);
        let early = (life / 20).mul_f64(f64::from(self.early) / f64::from(u16::MAX));
        // A life that was over before it began: the clocks do not agree, and the server will say when it is over.
        !life.is_zero() && now >= obtained.saturating_add(life * 2 / 3 - early)
    }
}
