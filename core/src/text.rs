//! Bounded strings: the one place that says what a name, a tag or an opaque id may contain.

use std::fmt;

/// A text that is too short, too long, or holds a character that it must not.
///
/// It never repeats the text itself: what was refused may have been a secret pasted into the wrong field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is {min}–{max} bytes {allowed}")]
pub struct InvalidText {
    what: &'static str,
    min: usize,
    max: usize,
    allowed: Alphabet,
}

/// What characters a bounded text may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// Anything printable: no control characters, no surrounding white space.
    Printable,
    /// `[A-Za-z0-9._:/=-]`, for what ends up in paths and filters.
    Slug,
    /// The same, for what stands in paths by itself: neither `.` nor `..`.
    Segment,
    /// `[a-z0-9_]`, for metric names.
    Metric,
}

impl Alphabet {
    fn admits(self, text: &str) -> bool {
        match self {
            Self::Printable => is_graphic_ascii(text) || !text.chars().any(char::is_control) && text.trim() == text,
            Self::Slug => text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/=-".contains(&b)),
            Self::Segment => Self::Slug.admits(text) && !is_dot_segment(text),
            Self::Metric => text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
        }
    }
}

/// Whether clients take it out of a path before they send it (RFC 3986 §5.2.4), percent-encoded or not: what is called so has no
/// address, and a request that means it reaches something else.
pub(crate) fn is_dot_segment(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// Most texts, told by their bytes: reports hold dozens of them.
fn is_graphic_ascii(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Display for Alphabet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Printable => "without control characters or surrounding white space",
            Self::Slug => "of A-Z, a-z, 0-9 and . _ : / = -",
            Self::Segment => "of A-Z, a-z, 0-9 and . _ : / = -, and neither . nor ..",
            Self::Metric => "of a-z, 0-9 and _",
        })
    }
}

pub(crate) fn check(
    what: &'static str,
    min: usize,
    max: usize,
    allowed: Alphabet,
    text: &str,
) -> Result<(), InvalidText> {
    if (min..=max).contains(&text.len()) && allowed.admits(text) {
        Ok(())
    } else {
        Err(InvalidText { what, min, max, allowed })
    }
}

/// Declares a string newtype that can only hold what `check` admits.
macro_rules! bounded_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $min:literal..=$max:literal, $alphabet:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// The longest text that it can hold, in bytes.
            pub const MAX_BYTES: usize = $max;

            /// Checks and takes the text.
            ///
            /// # Errors
            /// When the text is out of bounds or holds a forbidden character.
            pub fn new(text: impl Into<String>) -> Result<Self, $crate::InvalidText> {
                let text = text.into();
                $crate::text::check($what, $min, $max, $crate::text::Alphabet::$alphabet, &text)?;
                Ok(Self(text.into_boxed_str()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::InvalidText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<String as serde::Deserialize>::deserialize(deserializer)?)
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use bounded_text;
