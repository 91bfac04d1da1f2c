//! Statements that are put together at run time: those whose index depends on what is asked for.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::Sqlite;
use enlist_core::store::{Choice, ENOUGH};

use crate::error::Failure;

/// A statement on its way, with what it asks for by `?`.
#[derive(Default)]
pub(crate) struct Statement {
    text: String,
    values: Vec<Value>,
}

/// What a `?` stands for.
pub(crate) enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
}

impl Statement {
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(crate) fn bind(&mut self, text: &str, value: Value) -> &mut Self {
        self.values.push(value);
        self.push(text)
    }

    pub(crate) fn bind_all(&mut self, texts: Vec<String>) -> &mut Self {
        self.push("(");
        for (place, text) in texts.into_iter().enumerate() {
            self.bind(if place == 0 { "?" } else { ", ?" }, Value::Text(text));
        }
        self.push(")")
    }

    pub(crate) fn load<T: QueryableByName<Sqlite> + 'static>(
        self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<T>, Failure> {
        let mut query = sql_query(self.text).into_boxed::<Sqlite>();
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind::<Text, _>(text),
                Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
                Value::Number(number) => query.bind::<BigInt, _>(number),
            };
        }
        Ok(query.load(connection)?)
    }
}

/// The one of `drives`, which are at least one, that has the fewest rows: counted only where there is a choice, and no
/// further than it matters, in what `rows_of` asks for; nothing where it is all there is.
pub(crate) fn choose<T>(
    connection: &mut SqliteConnection,
    drives: Vec<T>,
    rows_of: impl Fn(&T) -> Option<Statement>,
) -> Result<Option<T>, Failure> {
    let mut count = |drive: &T, limit: usize| rows_of(drive).map_or(Ok(limit), |rows| count(connection, rows, limit));
    let is_alone = drives.len() == 1;
    let mut drives = drives.into_iter();
    let Some(first) = drives.next() else { return Ok(None) };
    if is_alone {
        return Ok(Some(first));
    }
    let rows = count(&first, ENOUGH)?;
    let mut choice = Choice::new(first, rows);
    for drive in drives {
        let rows = count(&drive, choice.limit())?;
        choice.offer(drive, rows);
    }
    Ok(Some(choice.made()))
}

/// How many rows there are, counted no further than `limit`.
pub(crate) fn count(connection: &mut SqliteConnection, rows: Statement, limit: usize) -> Result<usize, Failure> {
    #[derive(QueryableByName)]
    struct Rows {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    let mut text = Statement { text: format!("SELECT count(*) AS number FROM ({}", rows.text), ..rows };
    text.bind(" LIMIT ?)", Value::Number(i64::try_from(limit).unwrap_or(i64::MAX)));
    let number = text.load::<Rows>(connection)?.first().map_or(0, |rows| rows.number);
    Ok(usize::try_from(number).unwrap_or(limit))
}

/// How SQLite would run it on the tables as they are made, step by step.
#[cfg(test)]
pub(crate) fn plan(statement: Statement) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Text)]
        detail: String,
    }
    let mut connection = SqliteConnection::establish(":memory:").expect("memory");
    crate::migrate::migrate(&mut connection).expect("the tables");
    let text = format!("EXPLAIN QUERY PLAN {}", statement.text);
    let steps = Statement { text, ..statement }.load::<Step>(&mut connection).expect("a statement");
    steps.into_iter().map(|step| step.detail).collect()
}
