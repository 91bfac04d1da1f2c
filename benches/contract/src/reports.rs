//! Reports as the server would hand them to the store.

use enlist_benches::report::Report;
use enlist_benches::{Error, clock};
use enlist_core::store::{Append, AppendOutcome, Appended, Contact};
use enlist_core::telemetry::parse_report;
use enlist_core::{EventId, SystemEntropy, Timestamp};

use crate::enrol::Reporter;

/// When it arrived.
#[derive(Debug, Clone, Copy)]
pub enum Arrival {
    /// As soon as it was measured: in the past.
    AtOnce,
    /// Now, as with reports that are sent.
    Now,
}

/// Makes appends of reports: by way of JSON, so that the store gets what it gets from a server.
#[derive(Debug)]
pub struct Maker {
    reporters: Vec<Reporter>,
    arrival: Arrival,
    json: String,
}

impl Maker {
    /// Of these hosts, by their numbers.
    pub const fn new(reporters: Vec<Reporter>, arrival: Arrival) -> Self {
        Self { reporters, arrival, json: String::new() }
    }

    /// One append.
    ///
    /// # Errors
    /// When the host is none of those, or core does not take the report.
    pub fn make(&mut self, report: &Report) -> Result<Append, Error> {
        self.json.clear();
        report.write_json(&mut self.json);
        let at = match self.arrival {
            Arrival::AtOnce => report.recorded_at,
            Arrival::Now => clock::unix_micros(),
        };
        let at = Timestamp::from_unix_micros(at).ok_or("a time outside the years 1970-9999")?;
        let Reporter { host_id, token_id } = *self.reporters.get(report.host as usize).ok_or("a host is missing")?;
        let contact = Contact { host_id, token_id, at, event_id: EventId::generate(at, &SystemEntropy) };
        let report = parse_report(self.json.as_bytes()).map_err(|error| error.detail)?;
        Ok(Append { contact, report })
    }
}

/// All of them were stored as new ones.
///
/// # Errors
/// When one was not.
pub fn check(appended: &Appended) -> Result<(), Error> {
    match appended.outcomes.iter().find(|outcome| !matches!(outcome, AppendOutcome::Accepted)) {
        None => Ok(()),
        Some(outcome) => Err(format!("a report was not accepted: {outcome:?}").into()),
    }
}
