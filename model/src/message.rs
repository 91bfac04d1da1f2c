//! What travels between holders and the server.

use std::fmt;

use enlist_agent_sdk::keyring::Answer;
use enlist_core::TokenHash;

/// A secret: a number that says who drew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(u8);

impl Secret {
    /// The `n`th that a holder drew.
    pub const fn of_holder(holder: usize, n: u8) -> Self {
        Self(if holder == 0 { n } else { 0x40 + n })
    }

    /// The `n`th that an administrator was given.
    pub const fn of_administrator(n: u8) -> Self {
        Self(0x80 + n)
    }

    /// What the server derives from a key for the `n`th token that it makes.
    pub const fn derived(n: u8) -> Self {
        Self(0xc0 + n)
    }

    /// What the server knows of it.
    pub const fn hash(self) -> TokenHash {
        TokenHash::from_bytes([self.0; 32])
    }

    /// What has this hash.
    pub const fn of_hash(hash: &TokenHash) -> Self {
        Self(hash.as_bytes()[0])
    }

    /// The number, from which the id of the token is made.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether this holder drew it.
    pub const fn is_of(self, holder: usize) -> bool {
        self.0 >> 6 == if holder == 0 { 0 } else { 1 }
    }
}

impl Secret {
    /// Whether an administrator was given it.
    pub const fn is_of_administrator(self) -> bool {
        self.0 >> 6 == 2
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = ['a', 'b', 'A', 's'][usize::from(self.0 >> 6)];
        write!(f, "{who}{}", self.0 & 0x3f)
    }
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// The exchange of the install token, for this secret's hash.
    Exchange(Secret),
    /// The exchange of the install token, with this `Idempotency-Key`; the server makes the secret.
    ExchangeByKey(Secret),
    /// Anything but a proposal, with this token.
    Serve(Secret),
    /// With the first token, the second as its successor.
    Propose(Secret, Secret),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(secret) => write!(f, "exchange for {secret}"),
            Self::ExchangeByKey(key) => write!(f, "exchange with key {key}"),
            Self::Serve(token) => write!(f, "request with {token}"),
            Self::Propose(token, successor) => write!(f, "proposal of {successor} with {token}"),
        }
    }
}

/// A request under way. It can arrive any number of times until it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// Who sent it.
    pub from: usize,
    /// What is asked.
    pub call: Call,
    /// How many steps ago it was sent.
    pub age: u8,
    /// Whether its sender still waits for the answer.
    pub awaited: bool,
}

/// What the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// 200 to an exchange, with the secret when the server made it.
    Bought(Option<Secret>),
    /// The exchange is refused.
    NotBought,
    /// The claim of the exchange was seen before.
    ClaimInUse,
    /// To a request with an agent token.
    To(Answer),
}
