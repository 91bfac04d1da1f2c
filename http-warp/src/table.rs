//! The table of routes, as the routes themselves enter it.

use std::sync::{Arc, Mutex, PoisonError};

use http::Method;

/// One method of one path. See [`Routes::table`](crate::Routes::table).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// What it answers to.
    pub method: Method,
    /// With its parameters in braces, as in `/v1/hosts/{host_id}`.
    pub path: &'static str,
    /// Whom it is for.
    pub caller: Caller,
}

/// Whom a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caller {
    /// Whoever asks; what is presented is judged by the verb itself.
    Anybody,
    /// A host that presents its credential.
    Agent,
    /// Somebody whom [`AdminAuth`](crate::AdminAuth) knows.
    Administrator,
}

/// What was entered while a filter was built.
#[derive(Clone, Default)]
pub(crate) struct Table(Arc<Mutex<Vec<Route>>>);

impl Table {
    pub(crate) fn enter(&self, route: Route) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(route);
    }

    pub(crate) fn routes(&self) -> Vec<Route> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
