//! Identities. Ours are UUIDv7 newtypes, so that their order is roughly the order of creation; those of the embedding
//! service are opaque bounded strings that are never parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::text::bounded_text;

/// Declares a UUIDv7 newtype.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id: UUIDv7 of `now` (milliseconds) and 74 bits of `entropy`.
            pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(uuid_v7(now, entropy))
            }

            /// Takes an id that was stored before.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id as a UUID, to store it.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// A host, for its whole life.
    HostId
}

impl HostId {
    /// The last eight bytes as a number, big-endian: of an id of ours, its random part. Candidates for placement stand in the
    /// order of it, and of the whole id among equals.
    pub const fn lot(&self) -> u64 {
        self.0.as_u64_pair().1
    }
}

uuid_id! {
    /// An install token. Public: it may stand in logs and events.
    InstallTokenId
}
uuid_id! {
    /// An agent token. Public: it may stand in logs and events.
    AgentTokenId
}
uuid_id! {
    /// An access token (its `jti`). Public: it may stand in logs.
    AccessTokenId
}
uuid_id! {
    /// An agent token and all its successors.
    LineageId
}
uuid_id! {
    /// An event. Its place in the order of events is its `position`, not this id.
    EventId
}

bounded_text! {
    /// What a project, a workspace or a team is to the embedding service: opaque, never parsed.
    TenantId, "tenant id", 1..=128, Printable
}
bounded_text! {
    /// Who asks for an administrative act, as the embedding service names them: opaque, never parsed.
    ActorId, "actor id", 1..=128, Printable
}

fn uuid_v7(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.unix_micros() / 1_000).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
