//! Points at which something goes wrong, once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is killed at a point of the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victims {
    /// The server: its connections, and all that it had in memory.
    Server,
    /// Both at the same moment.
    Both,
}

/// The points of a run, in the order in which they are passed. One of them is the fault.
#[derive(Debug, Clone)]
pub(crate) struct Faults(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The number of the point that is the fault; none before it is armed.
    planned: Option<usize>,
    victims: Victims,
    passed: Vec<String>,
    /// The fault, once it happened.
    happened: Option<String>,
    /// Set until the harness has buried the dead.
    server_dead: bool,
    agent_dead: bool,
    /// Requests that came after the fault, and how many of them it took until one was authenticated.
    requests: usize,
    recovered_after: Option<usize>,
}

impl Faults {
    pub(crate) fn new(victims: Victims) -> Self {
        Self(Arc::new(Mutex::new(State {
            planned: None,
            victims,
            passed: Vec::new(),
            happened: None,
            server_dead: false,
            agent_dead: false,
            requests: 0,
            recovered_after: None,
        })))
    }

    /// From here on points are counted, and the `planned`th is the fault.
    pub(crate) fn arm(&self, planned: usize) {
        let mut state = self.lock();
        state.planned = Some(planned);
        state.passed.clear();
    }

    /// Passes a point of the server's: whether it was killed there.
    pub(crate) fn server(&self, point: String) -> bool {
        let mut state = self.lock();
        let hit = state.pass(point);
        if hit {
            state.server_dead = true;
            state.agent_dead = state.victims == Victims::Both;
        }
        hit
    }

    /// Passes a point of the agent's: whether it was killed there.
    pub(crate) fn agent(&self, point: &str) -> bool {
        let mut state = self.lock();
        let hit = state.pass(point.to_owned());
        state.agent_dead |= hit;
        hit
    }

    /// Notes a request that was answered: after the fault, how many it took to be authenticated again.
    pub(crate) fn answered(&self, authenticated: bool) {
        let mut state = self.lock();
        if state.happened.is_some() {
            state.requests += 1;
            if authenticated && state.recovered_after.is_none() {
                state.recovered_after = Some(state.requests);
            }
        }
    }

    pub(crate) fn server_is_dead(&self) -> bool {
        self.lock().server_dead
    }

    pub(crate) fn agent_is_dead(&self) -> bool {
        self.lock().agent_dead
    }

    pub(crate) fn server_lives_again(&self) {
        self.lock().server_dead = false;
    }

    pub(crate) fn agent_lives_again(&self) {
        self.lock().agent_dead = false;
    }

    /// The fault that happened, and after how many requests the host was authenticated again.
    pub(crate) fn outcome(&self) -> Option<(String, Option<usize>)> {
        let state = self.lock();
        state.happened.clone().map(|fault| (fault, state.recovered_after))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pass(&mut self, point: String) -> bool {
        let Some(planned) = self.planned.filter(|_| self.happened.is_none()) else { return false };
        let hit = self.passed.len() == planned;
        if hit {
            self.happened = Some(point.clone());
        }
        self.passed.push(point);
        hit
    }
}
