//! How values of ours stand in columns. Encoded here and nowhere else, so that no feature of diesel for times or UUIDs
//! is switched on in the embedding service's build.

use std::str::FromStr;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Binary, Double};
use diesel::sqlite::Sqlite;
use enlist_core::{AgentTokenId, EventId, HostId, InstallTokenId, LineageId, Timestamp, TokenHash};
use rusqlite::types::{FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::Failure;

/// What a column cannot hold, for the connection of reports.
fn refused(why: &'static str) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(why.into())
}

/// What a column should not hold.
fn unreadable(why: &'static str) -> FromSqlError {
    FromSqlError::Other(why.into())
}

type Raw<'a> = <Sqlite as Backend>::RawValue<'a>;

/// An id: the 16 bytes of its UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, AsExpression, FromSqlRow)]
#[diesel(sql_type = Binary)]
pub(crate) struct Id(Uuid);

impl ToSql<Binary, Sqlite> for Id {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_bytes().as_slice());
        Ok(IsNull::No)
    }
}

impl FromSql<Binary, Sqlite> for Id {
    fn from_sql(mut value: Raw<'_>) -> deserialize::Result<Self> {
        Uuid::from_slice(value.read_blob()).map(Self).map_err(|_| "an id is 16 bytes".into())
    }
}

impl rusqlite::ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_bytes().as_slice().into())
    }
}

impl rusqlite::types::FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Uuid::from_slice(value.as_blob()?).map(Self).map_err(|_| unreadable("an id is 16 bytes"))
    }
}

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

/// A token's hash: its 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Binary)]
pub(crate) struct Hash(pub(crate) TokenHash);

impl ToSql<Binary, Sqlite> for Hash {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_bytes().as_slice());
        Ok(IsNull::No)
    }
}

impl FromSql<Binary, Sqlite> for Hash {
    fn from_sql(mut value: Raw<'_>) -> deserialize::Result<Self> {
        let bytes = value.read_blob().try_into().map_err(|_| "a hash is 32 bytes")?;
        Ok(Self(TokenHash::from_bytes(bytes)))
    }
}

/// A moment: microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = BigInt)]
pub(crate) struct At(pub(crate) Timestamp);

impl ToSql<BigInt, Sqlite> for At {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.unix_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<BigInt, Sqlite> for At {
    fn from_sql(mut value: Raw<'_>) -> deserialize::Result<Self> {
        Timestamp::from_unix_micros(value.read_long())
            .map(Self)
            .ok_or_else(|| "a time lies within the years 1970-9999".into())
    }
}

impl rusqlite::ToSql for At {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.unix_micros().into())
    }
}

impl rusqlite::types::FromSql for At {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let at = Timestamp::from_unix_micros(value.as_i64()?);
        at.map(Self).ok_or_else(|| unreadable("a time lies within the years 1970-9999"))
    }
}

/// A size, a counter, a revision: 0 to 2^63 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = BigInt)]
pub(crate) struct Count(pub(crate) u64);

impl ToSql<BigInt, Sqlite> for Count {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(i64::try_from(self.0).map_err(|_| "a counter is at most 2^63 - 1")?);
        Ok(IsNull::No)
    }
}

impl FromSql<BigInt, Sqlite> for Count {
    fn from_sql(mut value: Raw<'_>) -> deserialize::Result<Self> {
        u64::try_from(value.read_long()).map(Self).map_err(|_| "a counter is not negative".into())
    }
}

impl rusqlite::ToSql for Count {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(i64::try_from(self.0).map_err(|_| refused("a counter is at most 2^63 - 1"))?.into())
    }
}

impl rusqlite::types::FromSql for Count {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        u64::try_from(value.as_i64()?).map(Self).map_err(|_| unreadable("a counter is not negative"))
    }
}

/// A measured number. SQLite would turn NaN into NULL, and so a broken number into an unknown one.
#[derive(Debug, Clone, Copy, PartialEq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Double)]
pub(crate) struct Real(pub(crate) f64);

impl ToSql<Double, Sqlite> for Real {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        if !self.0.is_finite() {
            return Err("a measured number is finite".into());
        }
        out.set_value(self.0);
        Ok(IsNull::No)
    }
}

impl FromSql<Double, Sqlite> for Real {
    fn from_sql(mut value: Raw<'_>) -> deserialize::Result<Self> {
        Ok(Self(value.read_double()))
    }
}

impl rusqlite::ToSql for Real {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        if !self.0.is_finite() {
            return Err(refused("a measured number is finite"));
        }
        Ok(self.0.into())
    }
}

impl rusqlite::types::FromSql for Real {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_f64().map(Self)
    }
}

/// Reads a text column of a report's connection, without a copy.
pub(crate) fn text<'a>(row: &'a rusqlite::Row<'_>, place: usize) -> Result<Option<&'a str>, Failure> {
    row.get_ref(place)?.as_str_or_null().map_err(|_| Failure::Corrupt("a column of texts holds something else"))
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
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}
