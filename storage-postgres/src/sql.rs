//! The texts of statements: written once, qualified with the schema once.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use enlist_core::store::{StoreError, StoreErrorKind};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// Longest name of a schema: what is derived from it has to fit into PostgreSQL's 63 bytes as well.
const MAX_SCHEMA: usize = 48;

/// A schema's name, and the statements that were qualified with it. Nothing relies on `search_path`: behind a pooler
/// it belongs to whoever used the connection last.
#[derive(Debug)]
pub(crate) struct Sql {
    schema: String,
    /// By the address of the text: each is a constant of this crate.
    qualified: RwLock<HashMap<(usize, usize), SqlStr>>,
}

impl Sql {
    /// Takes a schema's name: lower-case letters, digits and underscores.
    pub(crate) fn new(schema: &str) -> Result<Self, StoreError> {
        let begins = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let plain = schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !begins || !plain || schema.len() > MAX_SCHEMA || schema.starts_with("pg_") {
            let why = "a schema's name is 1-48 bytes of a-z, 0-9 and _, begins with no digit and not with pg_";
            return Err(StoreError::with_source(StoreErrorKind::Invalid, why));
        }
        Ok(Self { schema: schema.to_owned(), qualified: RwLock::default() })
    }

    /// The schema's name.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// The statement with `{schema}` put in.
    pub(crate) fn qualify(&self, text: &'static str) -> SqlStr {
        let key = (text.as_ptr() as usize, text.len());
        // Nothing can be half done behind either lock.
        if let Some(known) = self.qualified.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let made = AssertSqlSafe(std::sync::Arc::<str>::from(self.put_in(text))).into_sql_str();
        self.qualified.write().unwrap_or_else(PoisonError::into_inner).insert(key, made.clone());
        made
    }

    /// The same of a text that is used once, or made at run time of constants and numbers.
    pub(crate) fn put_in(&self, text: &str) -> String {
        // Quoted: a name may be a word of SQL. It holds nothing that would have to be escaped, see `new`.
        text.replace("{schema}", &format!("\"{}\"", self.schema))
    }

    /// The key of one of the schema's advisory locks. They are shared by all schemas and all users of a database, so
    /// it is a hash of 64 bits (FNV-1a) that nobody else hits by chance.
    pub(crate) fn lock_key(&self, what: &str) -> i64 {
        let text = format!("enlist/{}/{what}", self.schema);
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        hash.cast_signed()
    }

    /// The channel on which cut-offs are told. Channels belong to their database, so the schema makes it unique.
    pub(crate) fn channel(&self) -> String {
        format!("enlist/{}", self.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schemas_name_is_plain() {
        for good in ["enlist", "_a1", "user", &"x".repeat(48)] {
            assert!(Sql::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Enlist", "1a", "a-b", "a\"b", "pg_x", "a b", "é", &"x".repeat(49)] {
            assert_eq!(Sql::new(bad).unwrap_err().kind(), StoreErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn statements_are_qualified_and_locks_differ_by_schema_and_purpose() {
        let (one, other) = (Sql::new("one").unwrap(), Sql::new("other").unwrap());
        const TEXT: &str = "SELECT 1 FROM {schema}.hosts";
        assert_eq!(one.qualify(TEXT).as_str(), r#"SELECT 1 FROM "one".hosts"#);
        assert_eq!(one.qualify(TEXT).as_str(), one.put_in(TEXT));
        assert_ne!(one.lock_key("events"), other.lock_key("events"));
        assert_ne!(one.lock_key("events"), one.lock_key("migrate"));
    }
}
