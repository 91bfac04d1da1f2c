//! What is searched, and within which bounds.

use std::fmt;

use crate::mutation::Mutation;
use crate::time::Pace;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// One holder, from before its enrolment.
    Holder,
    /// One enrolled holder, and an administrator.
    Administrator,
    /// One enrolled holder, whose disk is copied at some moment: two holders from then on.
    Copied,
    /// One holder whose disk is copied at some moment, maybe before it has enrolled.
    CopiedEarly,
    /// One holder whose secrets the server makes.
    ServerMade,
    /// The same, whose disk is copied at some moment, maybe before it has enrolled.
    ServerMadeCopied,
}

impl Cast {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Holder, Self::Administrator, Self::Copied, Self::CopiedEarly, Self::ServerMade, Self::ServerMadeCopied];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Administrator => "administrator",
            Self::Copied => "copied",
            Self::CopiedEarly => "copied-early",
            Self::ServerMade => "server-made",
            Self::ServerMadeCopied => "server-made-copied",
        }
    }

    /// Whether somebody copies the disk.
    pub const fn is_copied(self) -> bool {
        matches!(self, Self::Copied | Self::CopiedEarly | Self::ServerMadeCopied)
    }

    /// Whether the server makes the secrets.
    pub const fn is_server_made(self) -> bool {
        matches!(self, Self::ServerMade | Self::ServerMadeCopied)
    }
}

/// One search. Messages are lost and repeated, holders crash, and days pass, as often as they like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who takes part.
    pub cast: Cast,
    /// How many secrets each holder draws, its first one included.
    pub secrets: u8,
    /// How many requests are under way at a time.
    pub in_flight: usize,
    /// How often the administrator acts.
    pub acts: u8,
    /// Whether the administrator may rotate without an overlap, too.
    pub cuts_off: bool,
    /// Whether tokens expire, each when it likes.
    pub expires: bool,
    /// The step of time.
    pub pace: Pace,
    /// Up to how many steps after it was sent a request arrives.
    pub latest: u8,
    /// A rule that is taken away.
    pub mutation: Option<Mutation>,
}

impl Config {
    /// The bounds that a test can afford.
    pub const fn small(cast: Cast) -> Self {
        Self {
            cast,
            secrets: 2,
            in_flight: 1,
            acts: if matches!(cast, Cast::Administrator) { 1 } else { 0 },
            cuts_off: false,
            expires: false,
            pace: Pace { steps_per_grace: 2 },
            latest: 2,
            mutation: None,
        }
    }

    /// The same with a rule taken away.
    #[must_use]
    pub const fn without(self, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..self }
    }

    /// Whether this rule is taken away.
    pub fn lacks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Config {
    /// What `--all` searches, for minutes in all; the README says what each took.
    pub fn all() -> Vec<Self> {
        let slow = Pace { steps_per_grace: 4 };
        let of = |cast, secrets, in_flight| Self { secrets, in_flight, ..Self::small(cast) };
        vec![
            Self { pace: slow, latest: 4, ..of(Cast::Holder, 4, 3) },
            Self { expires: true, ..of(Cast::Holder, 3, 3) },
            Self { pace: slow, latest: 4, ..of(Cast::ServerMade, 3, 3) },
            Self { acts: 2, ..of(Cast::Administrator, 3, 1) },
            Self { acts: 2, cuts_off: true, ..of(Cast::Administrator, 2, 2) },
            of(Cast::Copied, 2, 2),
            of(Cast::Copied, 3, 1),
            Self { expires: true, ..of(Cast::Copied, 2, 1) },
            of(Cast::CopiedEarly, 2, 1),
            of(Cast::ServerMadeCopied, 1, 2),
        ]
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cast, secrets, in_flight, acts, cuts_off, expires, pace, latest, mutation } = self;
        write!(f, "{}: {secrets} secrets a holder, {in_flight} requests under way, ", cast.name())?;
        if *acts > 0 {
            write!(f, "{acts} acts of the administrator{}, ", if *cuts_off { " with cut-offs" } else { "" })?;
        }
        if *expires {
            write!(f, "tokens expire, ")?;
        }
        write!(f, "the grace in {} steps, requests as late as {latest}", pace.steps_per_grace)?;
        match mutation {
            Some(mutation) => write!(f, "; rule taken away: {mutation}"),
            None => Ok(()),
        }
    }
}
