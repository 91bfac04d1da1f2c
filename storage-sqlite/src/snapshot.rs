//! The numbers of a report's containers: the first twelve side by side in one row, the others in a row each.

use std::fmt::Write as _;
use std::sync::LazyLock;

use enlist_core::container::ContainerMetrics;
use rusqlite::{CachedStatement, Connection, Row, Statement};

use crate::column::{Count, Real};
use crate::error::Failure;

/// Places in a row of `report_containers`.
const PLACES: usize = 12;
/// Columns of a place: the container's key and its numbers.
const WIDTH: usize = 9;

/// Columns in the order of the table, so that the text stays short: it is what the statement is found by.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let mut text = "INSERT INTO report_containers VALUES (?".to_owned();
    for _ in 0..PLACES * WIDTH {
        text.push_str(",?");
    }
    text.push(')');
    text
});
const INSERT_MORE: &str = "INSERT INTO report_containers_more VALUES (?,?,?,?,?,?,?,?,?,?)";

static SELECT: LazyLock<String> = LazyLock::new(|| {
    let mut text = "SELECT ".to_owned();
    for place in 1..=PLACES {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "container_key_{place}, cpu_cores_{place}, memory_used_bytes_{place}, memory_limit_bytes_{place},
             network_rx_bytes_{place}, network_tx_bytes_{place}, block_read_bytes_{place}, block_write_bytes_{place},
             pids_{place}, "
        );
    }
    text.truncate(text.len() - 2);
    text.push_str(" FROM report_containers WHERE report_id = ?");
    text
});
const SELECT_MORE: &str = "
    SELECT container_key, cpu_cores, memory_used_bytes, memory_limit_bytes, network_rx_bytes, network_tx_bytes,
           block_read_bytes, block_write_bytes, pids
    FROM report_containers_more WHERE report_id = ?";

/// Which containers of a report are read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    All,
    /// That of this key.
    One(i64),
    None,
}

impl Wanted {
    fn is(self, key: i64) -> bool {
        match self {
            Self::All => true,
            Self::One(wanted) => wanted == key,
            Self::None => false,
        }
    }
}

/// Appends the numbers of the reports of a transaction.
pub(crate) struct Inserts<'a> {
    connection: &'a Connection,
    row: CachedStatement<'a>,
    /// Places that are bound since the report before. One that is not is null.
    bound: usize,
}

impl<'a> Inserts<'a> {
    pub(crate) fn new(connection: &'a Connection) -> Result<Self, Failure> {
        Ok(Self { connection, row: connection.prepare_cached(&INSERT)?, bound: 0 })
    }

    /// Those of a report's containers, by the keys of these.
    pub(crate) fn insert(&mut self, report_id: i64, containers: &[(i64, ContainerMetrics)]) -> Result<(), Failure> {
        if containers.is_empty() {
            return Ok(());
        }
        let (first, more) = containers.split_at(containers.len().min(PLACES));
        if first.len() < self.bound {
            self.row.clear_bindings();
        }
        self.bound = first.len();
        self.row.raw_bind_parameter(1, report_id)?;
        for (place, container) in first.iter().enumerate() {
            bind(&mut self.row, 2 + place * WIDTH, container)?;
        }
        self.row.raw_execute()?;
        if more.is_empty() {
            return Ok(());
        }
        let mut row = self.connection.prepare_cached(INSERT_MORE)?;
        // It stays bound from row to row.
        row.raw_bind_parameter(1, report_id)?;
        for container in more {
            bind(&mut row, 2, container)?;
            row.raw_execute()?;
        }
        Ok(())
    }
}

fn bind(row: &mut Statement<'_>, first: usize, (key, metrics): &(i64, ContainerMetrics)) -> rusqlite::Result<()> {
    row.raw_bind_parameter(first, key)?;
    row.raw_bind_parameter(first + 1, metrics.cpu_cores.map(Real))?;
    for (place, (_, count)) in metrics.counts().into_iter().enumerate() {
        row.raw_bind_parameter(first + 2 + place, count.map(Count))?;
    }
    Ok(())
}

/// The numbers of a report's containers, with their keys. It takes one statement, and a second only for a report whose
/// places are all taken.
pub(crate) fn read(
    connection: &Connection,
    report_id: i64,
    wanted: Wanted,
) -> Result<Vec<(i64, ContainerMetrics)>, Failure> {
    let mut found = Vec::new();
    if matches!(wanted, Wanted::None) {
        return Ok(found);
    }
    let mut statement = connection.prepare_cached(&SELECT)?;
    let mut rows = statement.query([report_id])?;
    let Some(row) = rows.next()? else { return Ok(found) };
    for place in 0..PLACES {
        let first = place * WIDTH;
        // They are taken from the first on.
        let Some(key) = row.get(first)? else { return Ok(found) };
        if wanted.is(key) {
            found.push((key, decode(row, first + 1)?));
        }
    }
    let mut statement = connection.prepare_cached(SELECT_MORE)?;
    let mut rows = statement.query([report_id])?;
    while let Some(row) = rows.next()? {
        let key = row.get(0)?;
        if wanted.is(key) {
            found.push((key, decode(row, 1)?));
        }
    }
    Ok(found)
}

fn decode(row: &Row<'_>, first: usize) -> rusqlite::Result<ContainerMetrics> {
    let count = |place| row.get::<_, Option<Count>>(first + place).map(|count| count.map(|count| count.0));
    Ok(ContainerMetrics {
        cpu_cores: row.get::<_, Option<Real>>(first)?.map(|real| real.0),
        memory_used_bytes: count(1)?,
        memory_limit_bytes: count(2)?,
        network_rx_bytes: count(3)?,
        network_tx_bytes: count(4)?,
        block_read_bytes: count(5)?,
        block_write_bytes: count(6)?,
        pids: count(7)?,
    })
}
