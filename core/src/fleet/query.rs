//! Values of a query that are read in words of our own: a parser's quote the value, or know no more numbers than a register.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::id::HostId;

/// How many rows are asked for. Any whole number will do: [`page_size`](super::page_size) brings it within bounds.
pub(super) fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    struct Limit;
    impl<'de> Visitor<'de> for Limit {
        type Value = Option<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_none<E: Error>(self) -> Result<Option<usize>, E> {
            Ok(None)
        }

        fn visit_unit<E: Error>(self) -> Result<Option<usize>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
            deserializer.deserialize_any(self)
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Option<usize>, E> {
            Ok(Some(usize::try_from(number).unwrap_or(usize::MAX)))
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Option<usize>, E> {
            self.visit_u64(u64::try_from(number).unwrap_or_default())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Option<usize>, E> {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(E::custom("expected a whole number"));
            }
            // Of digits alone only too many cannot be read.
            Ok(Some(if text.starts_with('-') { 0 } else { digits.parse().unwrap_or(usize::MAX) }))
        }
    }
    deserializer.deserialize_option(Limit)
}

/// A host's id, if there is one.
pub(super) fn host_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HostId>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(|_| D::Error::custom("expected the id of a host"))).transpose()
}
