//! The agent's half of a rotation, as a pure state machine: which token to present next, and what an answer changes.
//!
//! It knows no clock, no disk and no network, and tokens are whatever the caller takes for them: the agent runs it with
//! secrets, the model of the protocol with numbers. The rules that it keeps are those of the rotation protocol
//! (`docs/credentials.md`):
//!
//! 1. A successor is kept durably before it is proposed, and stays the same until it was accepted for good, save that it
//!    is dropped for another when the server has seen it elsewhere (`claim_in_use`) or it had to yield (`token_displaced`).
//! 2. While there is one, the current token is not presented without it, unless its proposal was refused for the time
//!    being: then that is noted durably, and the work goes on with the current token.
//! 3. A successor is first presented after its proposal was accepted, with any note of a refusal durably gone before, or
//!    once the current token was refused for good.
//! 4. The current token is dropped only when its successor was accepted.
//!
//! Whoever runs it makes every change durable before the next request, and has one request under way at a time.

use enlist_core::agent_token::Refusal;

/// The tokens of one credential. [`Keyring::durable`] is the part of it that has to survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Keyring<T> {
    durable: Durable<T>,
    /// Whether the successor may be presented: forgotten by a crash, after which the proposal is repeated.
    presents: bool,
    /// Whether a rotation is wanted.
    due: bool,
}

/// What has to survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Durable<T> {
    /// The token in use.
    pub current: T,
    /// The one that is to follow it.
    pub successor: Option<Successor<T>>,
}

/// A token that is to follow the current one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Successor<T> {
    /// The token.
    pub token: T,
    /// Whether its proposal was refused for the time being.
    pub refused: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a, T> {
    /// Draw a successor and hand it to [`Keyring::draw`].
    Draw,
    /// Work with this token.
    Work(&'a T),
    /// Present `current` with the proposal of `successor`, and do nothing else with it.
    Propose {
        /// The token in use.
        current: &'a T,
        /// The one that is to follow it.
        successor: &'a T,
    },
    /// Present this successor, to see whether it is accepted.
    Present(&'a T),
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The server accepted it.
    Accepted,
    /// The server refused the token or the proposal, in its own form.
    Refused(Refusal),
    /// The server does not know the token, in its own form.
    Unknown,
    /// Nothing that counts: whether the request was acted on is not known.
    Unanswered,
}

impl<T> Keyring<T> {
    /// What a start, or a start after a crash, finds.
    pub const fn new(durable: Durable<T>) -> Self {
        Self { durable, presents: false, due: false }
    }

    /// A token and nothing to follow it.
    pub const fn of(current: T) -> Self {
        Self::new(Durable { current, successor: None })
    }

    /// What has to be kept.
    pub const fn durable(&self) -> &Durable<T> {
        &self.durable
    }

    /// Whether a successor waits whose proposal was refused for the time being.
    pub fn is_held_up(&self) -> bool {
        self.durable.successor.as_ref().is_some_and(|successor| successor.refused)
    }

    /// A rotation is wanted: because the token grows old, the server asks for one, or a refused proposal has waited long
    /// enough.
    pub fn rotate(&mut self) {
        self.due = true;
    }

    /// What to do next.
    pub const fn step(&self) -> Step<'_, T> {
        let Durable { current, successor } = &self.durable;
        match successor {
            None if self.due => Step::Draw,
            None => Step::Work(current),
            Some(successor) if self.presents => Step::Present(&successor.token),
            Some(successor) if successor.refused && !self.due => Step::Work(current),
            Some(successor) => Step::Propose { current, successor: &successor.token },
        }
    }

    /// Takes a successor that was just drawn.
    pub fn draw(&mut self, token: T) {
        self.durable.successor = Some(Successor { token, refused: false });
        self.presents = false;
    }

    /// The answer to a request of [`Step::Work`].
    pub const fn worked(&mut self, answer: Answer) {
        match answer {
            // Its time is over for everything but a proposal.
            Answer::Refused(Refusal::Expired) => self.due = true,
            Answer::Refused(refusal) if is_final(refusal) => self.presents = self.durable.successor.is_some(),
            _ => {}
        }
    }

    /// The answer to a request of [`Step::Propose`].
    pub fn proposed(&mut self, answer: Answer) {
        let Some(successor) = &mut self.durable.successor else { return };
        match answer {
            Answer::Accepted => {
                successor.refused = false;
                self.presents = true;
                self.due = false;
            }
            Answer::Refused(Refusal::ClaimInUse) => {
                self.durable.successor = None;
                self.due = true;
            }
            Answer::Refused(Refusal::RotationPending | Refusal::RotationConflict) => {
                successor.refused = true;
                self.due = false;
            }
            Answer::Refused(refusal) if is_final(refusal) => self.presents = true,
            Answer::Refused(_) | Answer::Unknown | Answer::Unanswered => {}
        }
    }

    /// The answer to a request of [`Step::Present`]. Gives the token that was dropped, if one was.
    pub fn presented(&mut self, answer: Answer) -> Option<T> {
        match answer {
            Answer::Accepted => {
                self.due = false;
                self.shift()
            }
            // Only one that was in use expires: then the server knows it, and it has retired the current one.
            Answer::Refused(Refusal::Expired) => {
                self.due = true;
                self.shift()
            }
            Answer::Refused(Refusal::Displaced) => {
                self.presents = false;
                self.due = true;
                self.durable.successor.take().map(|successor| successor.token)
            }
            Answer::Refused(Refusal::HostArchived) | Answer::Unanswered => None,
            // The answer to its proposal says more: whether it is to be drawn anew, or the current token still serves.
            Answer::Refused(_) | Answer::Unknown => {
                self.presents = false;
                None
            }
        }
    }

    /// The successor takes the place of the current token.
    fn shift(&mut self) -> Option<T> {
        self.presents = false;
        let successor = self.durable.successor.take()?;
        Some(std::mem::replace(&mut self.durable.current, successor.token))
    }
}

/// Whether the current token has come to its end, so that only its successor can help.
const fn is_final(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Revoked | Refusal::Expired | Refusal::Superseded | Refusal::ReuseDetected | Refusal::Displaced
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Accepted, Refused, Unanswered, Unknown};

    const ANSWERS: [Answer; 12] = [
        Accepted,
        Unanswered,
        Unknown,
        Refused(Refusal::HostArchived),
        Refused(Refusal::Revoked),
        Refused(Refusal::Expired),
        Refused(Refusal::Superseded),
        Refused(Refusal::ReuseDetected),
        Refused(Refusal::Displaced),
        Refused(Refusal::ClaimInUse),
        Refused(Refusal::RotationPending),
        Refused(Refusal::RotationConflict),
    ];

    /// What is durable (`1` in use, `2` to follow it, `!` once it was refused), then the next step.
    fn shape(ring: &Keyring<u8>) -> String {
        let Durable { current, successor } = ring.durable();
        let successor = successor.as_ref().map(|s| format!("+{}{}", s.token, if s.refused { "!" } else { "" }));
        let step = match ring.step() {
            Step::Draw => "draw".to_owned(),
            Step::Work(token) => format!("work {token}"),
            Step::Propose { current, successor } => format!("propose {current} {successor}"),
            Step::Present(token) => format!("present {token}"),
        };
        format!("{current}{}: {step}", successor.unwrap_or_default())
    }

    fn with_successor(refused: bool) -> Keyring<u8> {
        Keyring::new(Durable { current: 1, successor: Some(Successor { token: 2, refused }) })
    }

    fn presenting() -> Keyring<u8> {
        let mut ring = with_successor(false);
        ring.proposed(Accepted);
        ring
    }

    /// Every answer to the step that `from` is in, in the order of [`ANSWERS`].
    fn check(from: &Keyring<u8>, begins: &str, leads_to: [&str; 12]) {
        assert_eq!(shape(from), begins);
        for (answer, expected) in ANSWERS.into_iter().zip(leads_to) {
            let mut ring = from.clone();
            match from.step() {
                Step::Draw => unreachable!("a draw has no answer"),
                Step::Work(_) => ring.worked(answer),
                Step::Propose { .. } => ring.proposed(answer),
                Step::Present(_) => drop(ring.presented(answer)),
            }
            assert_eq!(shape(&ring), expected, "{begins}, then {answer:?}");
        }
    }

    #[test]
    fn work_without_a_successor() {
        let mut leads_to = ["1: work 1"; 12];
        leads_to[5] = "1: draw";
        check(&Keyring::of(1), "1: work 1", leads_to);
    }

    #[test]
    fn work_beside_a_refused_successor() {
        let works = "1+2!: work 1";
        let presents = "1+2!: present 2";
        check(
            &with_successor(true),
            works,
            [
                works,
                works,
                works,
                works,
                presents,
                "1+2!: propose 1 2",
                presents,
                presents,
                presents,
                works,
                works,
                works,
            ],
        );
    }

    #[test]
    fn propose() {
        let (proposes, presents) = ("1+2: propose 1 2", "1+2: present 2");
        let (draws, held_up) = ("1: draw", "1+2!: work 1");
        check(
            &with_successor(false),
            proposes,
            [
                presents, proposes, proposes, proposes, presents, presents, presents, presents, presents, draws,
                held_up, held_up,
            ],
        );
    }

    /// The note of the refusal goes only with a 200.
    #[test]
    fn propose_again_what_was_refused() {
        let mut ring = with_successor(true);
        ring.rotate();
        let (proposes, presents) = ("1+2!: propose 1 2", "1+2!: present 2");
        let (draws, held_up) = ("1: draw", "1+2!: work 1");
        check(
            &ring,
            proposes,
            [
                "1+2: present 2",
                proposes,
                proposes,
                proposes,
                presents,
                presents,
                presents,
                presents,
                presents,
                draws,
                held_up,
                held_up,
            ],
        );
    }

    #[test]
    fn present() {
        let (presents, proposes) = ("1+2: present 2", "1+2: propose 1 2");
        check(
            &presenting(),
            presents,
            [
                "2: work 2",
                presents,
                proposes,
                presents,
                proposes,
                "2: draw",
                proposes,
                proposes,
                "1: draw",
                proposes,
                proposes,
                proposes,
            ],
        );
    }

    /// Presented since the current token was refused for good, though its proposal never was accepted.
    #[test]
    fn present_what_was_refused() {
        let mut ring = with_successor(true);
        ring.worked(Refused(Refusal::Revoked));
        let (presents, works) = ("1+2!: present 2", "1+2!: work 1");
        check(
            &ring,
            presents,
            ["2: work 2", presents, works, presents, works, "2: draw", works, works, "1: draw", works, works, works],
        );
    }

    #[test]
    fn a_rotation_is_drawn_proposed_presented_and_done() {
        let mut ring = Keyring::of(1);
        ring.rotate();
        assert_eq!(shape(&ring), "1: draw");
        ring.draw(2);
        assert_eq!(shape(&ring), "1+2: propose 1 2");
        ring.proposed(Accepted);
        assert_eq!(ring.presented(Accepted), Some(1), "the token that was dropped");
        assert_eq!(shape(&ring), "2: work 2");
    }

    #[test]
    fn a_crash_forgets_that_the_proposal_was_accepted_and_repeats_it() {
        let ring = presenting();
        assert_eq!(shape(&ring), "1+2: present 2");
        assert_eq!(shape(&Keyring::new(ring.durable().clone())), "1+2: propose 1 2");
    }
}
