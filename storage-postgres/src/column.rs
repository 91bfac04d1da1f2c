//! How values of ours stand in columns. Encoded here and nowhere else, so that no feature of sqlx for times, UUIDs or
//! JSON is switched on in the embedding service's build.

use std::str::FromStr;

use enlist_core::{AgentTokenId, EventId, HostId, InstallTokenId, LineageId, Timestamp, TokenHash};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, Postgres};
use sqlx::{Decode, Encode, Type};
use uuid::Uuid;

use crate::error::Failure;

/// Microseconds from 1970 to 2000, from where PostgreSQL counts.
const MICROS_TO_2000: i64 = 946_684_800_000_000;

/// Declares how a newtype stands on the wire: its type, that of arrays of it, and its bytes both ways.
macro_rules! column {
    ($name:ident, $oid:literal, $array_oid:literal, $encode:expr, $decode:expr) => {
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                // The numbers of built-in types are fixed for ever (`pg_type.dat`).
                PgTypeInfo::with_oid(Oid($oid))
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($array_oid))
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                let encode: fn(&Self, &mut PgArgumentBuffer) -> Result<(), BoxDynError> = $encode;
                encode(self, buffer)?;
                Ok(IsNull::No)
            }
        }

        impl Decode<'_, Postgres> for $name {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                // Every statement with values is of the extended protocol, and that is asked for binary values.
                if value.format() != PgValueFormat::Binary {
                    return Err("a value came as text".into());
                }
                let decode: fn(&[u8]) -> Result<Self, BoxDynError> = $decode;
                decode(value.as_bytes()?)
            }
        }
    };
}

/// An id: a `uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(Uuid);

column!(
    Id,
    2950,
    2951,
    |id, buffer| {
        buffer.extend_from_slice(id.0.as_bytes());
        Ok(())
    },
    |bytes| Uuid::from_slice(bytes).map(Self).map_err(|_| "an id is 16 bytes".into())
);

macro_rules! ids {
    ($($name:ident),*) => {$(
        impl From<$name> for Id {
            fn from(id: $name) -> Self {
                Self(*id.as_uuid())
            }
        }

        impl From<Id> for $name {
            fn from(id: Id) -> Self {
                Self::from_uuid(id.0)
            }
        }
    )*};
}
ids!(HostId, InstallTokenId, AgentTokenId, LineageId, EventId);

/// A token's hash: a `bytea` of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) TokenHash);

column!(
    Hash,
    17,
    1001,
    |hash, buffer| {
        buffer.extend_from_slice(hash.0.as_bytes());
        Ok(())
    },
    |bytes| {
        let bytes = bytes.try_into().map_err(|_| "a hash is 32 bytes")?;
        Ok(Self(TokenHash::from_bytes(bytes)))
    }
);

/// A moment: a `timestamptz`, which is microseconds since 2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct At(pub(crate) Timestamp);

column!(
    At,
    1184,
    1185,
    |at, buffer| {
        buffer.extend_from_slice(&at.bytes()?);
        Ok(())
    },
    |bytes| {
        let micros = i64::from_be_bytes(bytes.try_into().map_err(|_| "a time is 8 bytes")?);
        let at = micros.checked_add(MICROS_TO_2000).and_then(Timestamp::from_unix_micros);
        at.map(Self).ok_or_else(|| "a time is out of its bounds".into())
    }
);

/// A size, a counter or a revision: a `bigint` that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Count(pub(crate) u64);

column!(
    Count,
    20,
    1016,
    |count, buffer| {
        buffer.extend_from_slice(&count.bytes()?);
        Ok(())
    },
    |bytes| {
        let number = i64::from_be_bytes(bytes.try_into().map_err(|_| "a counter is 8 bytes")?);
        u64::try_from(number).map(Self).map_err(|_| "a counter is not negative".into())
    }
);

/// What stands in eight bytes.
pub(crate) trait EightBytes: Copy + Send + Sync + PgHasArrayType + Type<Postgres> {
    /// As they go over the wire.
    fn bytes(self) -> Result<[u8; 8], BoxDynError>;
}

impl EightBytes for f64 {
    fn bytes(self) -> Result<[u8; 8], BoxDynError> {
        Ok(self.to_be_bytes())
    }
}

impl EightBytes for Count {
    fn bytes(self) -> Result<[u8; 8], BoxDynError> {
        let number = i64::try_from(self.0).map_err(|_| "a counter is at most 2^63 - 1")?;
        Ok(number.to_be_bytes())
    }
}

impl EightBytes for At {
    fn bytes(self) -> Result<[u8; 8], BoxDynError> {
        Ok((self.0.unix_micros() - MICROS_TO_2000).to_be_bytes())
    }
}

/// Many values of one column. sqlx would write a `Vec` element by element, each with a length that is patched in afterwards:
/// for the hundred numbers of a report that is half as much work as all that is found out about it before.
#[derive(Debug)]
pub(crate) struct Values<T>(pub(crate) Vec<Option<T>>);

impl<T: EightBytes> Type<Postgres> for Values<T> {
    fn type_info() -> PgTypeInfo {
        T::array_type_info()
    }
}

impl<T: EightBytes> Encode<'_, Postgres> for Values<T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let number = i32::try_from(self.0.len()).map_err(|_| "too many values at once")?;
        let oid = T::type_info().oid().ok_or("a type without a number")?;
        // `array_recv`: dimensions, whether there are nulls (which it finds out itself), of what, how many, from which place on.
        for part in [1_u32, 0, oid.0, number.cast_unsigned(), 1] {
            buffer.extend_from_slice(&part.to_be_bytes());
        }
        buffer.reserve(self.0.len() * 12);
        for value in &self.0 {
            match value {
                None => buffer.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(value) => {
                    let mut element = [0; 12];
                    element[3] = 8;
                    element[4..].copy_from_slice(&value.bytes()?);
                    buffer.extend_from_slice(&element);
                }
            }
        }
        Ok(IsNull::No)
    }
}

/// Reads a bounded text back. The error is ours, since its own could repeat the text.
pub(crate) fn parse<T: FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::Corrupt("a stored text is out of its bounds"))
}

/// Reads a bounded text that may be absent.
pub(crate) fn parse_optional<T: FromStr>(text: Option<&str>) -> Result<Option<T>, Failure> {
    text.map(parse).transpose()
}

/// A fact that the schema demands of a row's state.
pub(crate) fn required<T>(fact: Option<T>) -> Result<T, Failure> {
    fact.ok_or(Failure::Corrupt("a stored state lacks one of its facts"))
}

/// A word that the schema does not admit.
pub(crate) const UNKNOWN_WORD: Failure = Failure::Corrupt("a stored word is none of those that it can be");

/// Writes a value as JSON text.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|_| Failure::Invalid("a value cannot be written as JSON"))
}

/// Reads JSON text back. The error is ours, since serde's would quote the value.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|_| Failure::Corrupt("a stored JSON text cannot be read"))
}

/// The `LIMIT` that reads one row more than a page holds, so that it shows whether any follow.
pub(crate) fn overread(limit: usize) -> i64 {
    bounded(limit).saturating_add(1)
}

/// A limit as PostgreSQL takes it.
pub(crate) fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: impl Encode<'static, Postgres>) -> Vec<u8> {
        let mut buffer = PgArgumentBuffer::default();
        let is_null = value.encode(&mut buffer).expect("it can be written");
        assert!(matches!(is_null, IsNull::No));
        buffer.to_vec()
    }

    #[test]
    fn many_values_are_written_as_sqlx_would() {
        let at = |micros| Some(At(Timestamp::from_unix_micros(micros).expect("within its bounds")));
        let reals = vec![Some(0.0), None, Some(-1.5), Some(f64::MAX), None];
        let counts = vec![None, Some(Count(0)), Some(Count(i64::MAX.unsigned_abs()))];
        let times = vec![at(0), at(MICROS_TO_2000), None];
        assert_eq!(written(Values(reals.clone())), written(reals));
        assert_eq!(written(Values(counts.clone())), written(counts));
        assert_eq!(written(Values(times.clone())), written(times));
        assert_eq!(written(Values::<Count>(Vec::new())), written(Vec::<Option<Count>>::new()));
    }

    #[test]
    fn a_counter_that_is_too_large_is_refused_among_many() {
        let mut buffer = PgArgumentBuffer::default();
        assert!(Values(vec![None, Some(Count(u64::MAX))]).encode(&mut buffer).is_err());
    }
}
