//! What an agent does not know: left out or `null`, and the two mean the same.
//!
//! serde takes `null` for an [`Option`] alone; these are for fields that are empty, or `false`, when they are left out.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a field whose `null` is its default.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a map whose `null` is the empty one, without the names whose value is `null`.
pub(crate) fn known<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    deserializer.deserialize_option(Known(PhantomData))
}

struct Known<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Known<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = entries.next_entry::<String, Option<V>>()? {
            // As if it were not there: it takes nothing from a value of the same name before it.
            if let Some(value) = value {
                map.insert(name, value);
            }
        }
        Ok(map)
    }
}
