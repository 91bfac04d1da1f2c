//! What the monitor of silence says of itself.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Whether hosts that fall silent are called unreachable: part of `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorReply {
    /// Whether, and if not, why not.
    pub status: MonitorStatus,
    /// When any replica last looked for silent hosts, by the store's clock.
    pub last_sweep_at: Option<Timestamp>,
    /// Until when verdicts are held back, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
    /// Since when many have fallen silent at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded_since: Option<Timestamp>,
}

/// The monitor's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MonitorStatus {
    /// They are.
    Ok,
    /// Not yet: nobody has looked for a while, so nobody may have listened either.
    Suspended,
    /// Many fell silent at once, so that the cause may be on this side. Verdicts are held back until `held_until`; without it they
    /// are made, and say so.
    Degraded,
    /// This replica has not looked for them of late: its drivers do not run, or the store does not answer.
    Stalled,
}
