//! Pages of hosts: walked by the index that has the fewest rows for what is asked.

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use enlist_core::host::{HostKind, Status};
use enlist_core::store::{HostDrive, HostQuery, HostRecord, Page, Visible, behind_prefix};

use crate::column::overread;
use crate::error::Failure;
use crate::host;
use crate::statement::{Statement, Value, choose, count};

/// Rows of a name that are read and sorted sooner than those of other indexes are counted. Here alone: where each statement
/// is a way to a server, one more costs as much as the counting.
const FEW: usize = 64;

/// `list_hosts`. Several statements: in a transaction.
pub(crate) fn list(connection: &mut SqliteConnection, query: &HostQuery) -> Result<Page<HostRecord>, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    if visible.is_nothing() {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let drive = drive(connection, query, &visible)?;
    let places = walk(query, &visible, &drive).load::<Place>(connection)?;
    let places = Page::of_overread(places, query.limit);
    let keys: Vec<_> = places.items.into_iter().map(|place| place.host_key).collect();
    let mut items = Vec::with_capacity(keys.len());
    // A statement has a bound on its parameters, a page has none.
    for keys in keys.chunks(1_000) {
        items.extend(host::records(connection, keys)?.into_iter().map(|(record, ..)| record));
    }
    items.sort_unstable_by_key(|record| record.host.id);
    Ok(Page { items, more: places.more })
}

/// What to begin with: of all that `HostDrive::of` offers, whatever has the fewest rows.
fn drive(connection: &mut SqliteConnection, query: &HostQuery, visible: &Visible) -> Result<HostDrive, Failure> {
    let mut drives = HostDrive::of(query, visible);
    let rows_of = |drive: &HostDrive| rows_of(query, drive);
    // A name that few begin with is as good as any other: what all of a large tenant's hosts are counted for is spared.
    if let Some(named @ HostDrive::NamePrefix { .. }) = drives.last()
        && let Some(rows) = rows_of(named)
        && count(connection, rows, FEW)? < FEW
        && let Some(named) = drives.pop()
    {
        return Ok(named);
    }
    Ok(choose(connection, drives, rows_of)?.unwrap_or(HostDrive::Everything))
}

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = BigInt)]
    host_key: i64,
}

/// What is counted of a drive: rows behind the cursor, where the index has them in their order; nothing of what is all.
fn rows_of(query: &HostQuery, drive: &HostDrive) -> Option<Statement> {
    let mut text = Statement::default();
    let source = Source::of(drive);
    text.push("SELECT 1 FROM ").push(source.table).push(" WHERE ");
    match drive {
        HostDrive::Everything => return None,
        HostDrive::Tenants(tenants) => {
            text.push("h.tenant_id IN ").bind_all(tenants.clone());
        }
        other => source.condition(&mut text, other, None),
    }
    if !matches!(drive, HostDrive::NamePrefix { .. }) {
        behind(&mut text, source.id, query);
    }
    Some(text)
}

/// The keys of the page's hosts, and one more.
fn walk(query: &HostQuery, visible: &Visible, drive: &HostDrive) -> Statement {
    let mut text = Statement::default();
    match drive {
        HostDrive::Tenants(tenants) => {
            for (place, tenant_id) in tenants.iter().enumerate() {
                text.push(if place == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
                walk_one(&mut text, query, visible, drive, Some(tenant_id));
                text.push(")");
            }
            text.bind(" ORDER BY id LIMIT ?", Value::Number(overread(query.limit)));
        }
        _ => walk_one(&mut text, query, visible, drive, None),
    }
    text
}

/// What a drive is read from; that of a tenant's hosts is the index of their unique key. `INDEXED BY`, since SQLite knows nothing of how often a value is there; `CROSS JOIN`, below,
/// keeps it first.
struct Source {
    table: &'static str,
    id: &'static str,
}

impl Source {
    const fn of(drive: &HostDrive) -> Self {
        let (table, id) = match drive {
            HostDrive::Status(Status::Archived) => {
                ("host_presence AS p INDEXED BY host_presence_archived", "p.host_id")
            }
            HostDrive::Status(_) => ("host_presence AS p INDEXED BY host_presence_status", "p.host_id"),
            HostDrive::Tag(_) => ("host_tags AS t INDEXED BY host_tags_tag", "t.host_id"),
            HostDrive::TagOfStatus(..) => ("host_tags AS t INDEXED BY host_tags_status", "t.host_id"),
            HostDrive::Kind(_) => ("hosts AS h INDEXED BY hosts_kind", "h.id"),
            HostDrive::Tenants(_) => ("hosts AS h INDEXED BY sqlite_autoindex_hosts_2", "h.id"),
            HostDrive::NamePrefix { tenant_id: None, .. } => ("hosts AS h INDEXED BY hosts_named", "h.id"),
            HostDrive::NamePrefix { .. } => ("hosts AS h INDEXED BY hosts_named_in_tenant", "h.id"),
            HostDrive::Everything => ("hosts AS h INDEXED BY sqlite_autoindex_hosts_1", "h.id"),
        };
        Self { table, id }
    }

    fn condition(&self, text: &mut Statement, drive: &HostDrive, tenant_id: Option<&String>) {
        match drive {
            HostDrive::Status(Status::Archived) => {
                text.push("p.archived = 1");
            }
            HostDrive::Status(status) => {
                text.bind("p.presence = ? AND p.archived = 0", Value::Text(status.as_str().to_owned()));
            }
            HostDrive::Tag(tag) => {
                text.bind("t.tag = ?", Value::Text(tag.clone()));
            }
            HostDrive::TagOfStatus(tag, status) => {
                text.bind("t.tag = ?", Value::Text(tag.clone()));
                text.bind(" AND t.status = ?", Value::Text(status.as_str().to_owned()));
            }
            HostDrive::Kind(kind) => {
                text.bind("h.kind = ?", Value::Text(kind.as_str().to_owned()));
            }
            HostDrive::Tenants(_) | HostDrive::Everything => match tenant_id {
                Some(tenant_id) => {
                    text.bind("h.tenant_id = ?", Value::Text(tenant_id.clone()));
                }
                None => {
                    text.push("TRUE");
                }
            },
            HostDrive::NamePrefix { tenant_id, prefix } => {
                if let Some(tenant_id) = tenant_id {
                    text.bind("h.tenant_id = ? AND ", Value::Text(tenant_id.clone()));
                }
                named(text, "h.name", prefix);
            }
        }
    }
}

fn named(text: &mut Statement, column: &str, prefix: &str) {
    text.push(column).bind(" >= ?", Value::Text(prefix.to_owned()));
    if let Some(beyond) = behind_prefix(prefix) {
        text.push(" AND ").push(column).bind(" < ?", Value::Text(beyond));
    }
}

fn behind(text: &mut Statement, id: &str, query: &HostQuery) {
    // Always there, so that SQLite sees a range of the index that has the order.
    let after = query.after.map_or_else(Vec::new, |after| after.as_uuid().as_bytes().to_vec());
    text.push(" AND ").push(id).bind(" > ?", Value::Bytes(after));
}

/// Keys in the order of the ids. A `+` keeps a column from being looked up in an index: those are conditions of rows alone.
fn walk_one(text: &mut Statement, query: &HostQuery, visible: &Visible, drive: &HostDrive, tenant_id: Option<&String>) {
    let source = Source::of(drive);
    let of_presence = source.id == "p.host_id";
    text.push("SELECT ").push(source.id).push(" AS id, ");
    text.push(if of_presence { "p.host_key" } else { "h.host_key" }).push(" FROM ").push(source.table);
    let asks_host = *visible != Visible::Everything || query.kind.is_some() || query.name_prefix.is_some();
    if of_presence && asks_host {
        text.push(" CROSS JOIN hosts AS h ON h.host_key = p.host_key");
    } else if !of_presence && source.id != "h.id" {
        text.push(" CROSS JOIN hosts AS h ON h.id = ").push(source.id);
    }
    // What stands beside the tag is what would be found there.
    let status = query.status.filter(|_| !matches!(drive, HostDrive::TagOfStatus(..)));
    if status.is_some() && !of_presence {
        text.push(" CROSS JOIN host_presence AS p ON p.host_key = h.host_key");
    }
    text.push(" WHERE ");
    source.condition(text, drive, tenant_id);
    behind(text, source.id, query);
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, kind) => {
            text.bind(" AND +h.tenant_id = ?", Value::Text(tenant_id.clone()));
            if let Some(kind) = kind {
                text.bind(" AND +h.kind = ?", Value::Text(kind.as_str().to_owned()));
            }
        }
        Visible::Tenants { both, managed, byoc } => {
            text.push(" AND (+h.tenant_id IN ").bind_all(both.clone());
            for (kind, tenants) in [(HostKind::Managed, managed), (HostKind::Byoc, byoc)] {
                text.bind(" OR (+h.kind = ? AND +h.tenant_id IN ", Value::Text(kind.as_str().to_owned()));
                text.bind_all(tenants.clone()).push(")");
            }
            text.push(")");
        }
    }
    // `Status::of`, restated where rows are chosen: archived, else the presence.
    match status {
        None => {}
        Some(Status::Archived) => {
            text.push(" AND +p.archived = 1");
        }
        Some(status) => {
            text.bind(" AND +p.archived = 0 AND +p.presence = ?", Value::Text(status.as_str().to_owned()));
        }
    }
    if let Some(tag) = &query.tag
        && !matches!(drive, HostDrive::Tag(_) | HostDrive::TagOfStatus(..))
    {
        text.push(" AND EXISTS (SELECT 1 FROM host_tags AS g WHERE g.host_id = ").push(source.id);
        text.bind(" AND g.tag = ?)", Value::Text(tag.as_str().to_owned()));
    }
    if let Some(kind) = query.kind {
        text.bind(" AND +h.kind = ?", Value::Text(kind.as_str().to_owned()));
    }
    if let Some(prefix) = &query.name_prefix {
        text.push(" AND ");
        named(text, "+h.name", prefix);
    }
    text.push(" ORDER BY ").push(source.id).bind(" LIMIT ?", Value::Number(overread(query.limit)));
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection;
    use enlist_core::policy::{Kinds, Scope};

    use super::*;
    use crate::statement::plan;

    fn query(status: Option<Status>, tag: Option<&str>, prefix: Option<&str>) -> HostQuery {
        HostQuery {
            status,
            tag: tag.map(|tag| tag.parse().expect("a tag")),
            name_prefix: prefix.map(str::to_owned),
            ..HostQuery::new(Scope::All, 50)
        }
    }

    /// Each drive, and that its index is walked first, in its order.
    #[test]
    fn every_drive_walks_its_index_and_looks_up_the_rest() {
        let tenant = |tenant_id: &str| Scope::Tenants([(tenant_id.parse().expect("a tenant"), Kinds::Both)].into());
        let mut two = tenant("a");
        if let Scope::Tenants(tenants) = &mut two {
            tenants.insert("b".parse().expect("a tenant"), Kinds::Only(HostKind::Byoc));
        }
        let all = query(Some(Status::Online), Some("x"), Some("web-"));
        let by_name = |tenant_id: Option<&str>| HostDrive::NamePrefix {
            tenant_id: tenant_id.map(str::to_owned),
            prefix: "web-".to_owned(),
        };
        let cases = [
            (
                query(Some(Status::Unreachable), None, None),
                HostDrive::Status(Status::Unreachable),
                "host_presence_status",
            ),
            (query(Some(Status::Archived), None, None), HostDrive::Status(Status::Archived), "host_presence_archived"),
            (query(None, Some("x"), Some("web-")), HostDrive::Tag("x".to_owned()), "host_tags_tag"),
            (
                all.clone(),
                HostDrive::TagOfStatus("x".to_owned(), Status::Online),
                "host_tags_status (tag=? AND status=? AND host_id>?)",
            ),
            (all.clone(), HostDrive::Status(Status::Online), "host_presence_status"),
            (HostQuery { kind: Some(HostKind::Byoc), ..all.clone() }, HostDrive::Kind(HostKind::Byoc), "hosts_kind"),
            (
                HostQuery { scope: tenant("a"), ..all.clone() },
                HostDrive::Tenants(vec!["a".to_owned()]),
                "sqlite_autoindex_hosts_2",
            ),
            (
                HostQuery { scope: two, ..all.clone() },
                HostDrive::Tenants(vec!["a".to_owned(), "b".to_owned()]),
                "sqlite_autoindex_hosts_2",
            ),
            (all.clone(), HostDrive::Everything, "sqlite_autoindex_hosts_1"),
            (all.clone(), by_name(None), "hosts_named"),
            (HostQuery { scope: tenant("a"), ..all }, by_name(Some("a")), "hosts_named_in_tenant"),
        ];
        for (query, drive, index) in cases {
            let visible = Visible::of(&query.scope, None);
            let plan = plan(walk(&query, &visible, &drive));
            let sorts = matches!(drive, HostDrive::NamePrefix { .. });
            let merges = matches!(&drive, HostDrive::Tenants(_));
            assert!(
                plan[usize::from(plan.len() > 1 && merges)..].iter().any(|step| step.contains(index)),
                "{drive:?}: {plan:#?}"
            );
            assert!(
                plan.iter().all(|step| !step.starts_with("SCAN h") && !step.starts_with("SCAN p")),
                "{drive:?}: {plan:#?}"
            );
            let sorted = plan.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER BY"));
            assert_eq!(sorted && !merges, sorts, "{drive:?}: {plan:#?}");
        }
    }

    /// The tenant has as few, and would be taken where both are counted to the end.
    #[test]
    fn a_name_that_few_begin_with_decides_before_anything_else_is_counted() {
        let mut connection = SqliteConnection::establish(":memory:").expect("memory");
        crate::migrate::migrate(&mut connection).expect("the tables");
        let mut of = |hosts: usize| {
            let rows = format!(
                "DELETE FROM hosts;
                 WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {hosts})
                 INSERT INTO hosts (id, revision, tenant_id, kind, name, labels, cordoned, generation, created_at, updated_at)
                 SELECT randomblob(16), 1, 'a', 'byoc', 'web-' || n, '{{}}', 0, 0, 0, 0 FROM n"
            );
            connection.batch_execute("DROP TRIGGER IF EXISTS hosts_entered_first").expect("it is not what is tested");
            connection.batch_execute(&rows).expect("so many hosts");
            let scope = Scope::Tenants([("a".parse().expect("a tenant"), Kinds::Both)].into());
            let query = HostQuery { scope, ..query(None, None, Some("web-")) };
            let visible = Visible::of(&query.scope, None);
            drive(&mut connection, &query, &visible).expect("it is found")
        };
        assert!(matches!(of(FEW - 1), HostDrive::NamePrefix { .. }));
        assert_eq!(of(FEW), HostDrive::Tenants(vec!["a".to_owned()]));
    }

    #[test]
    fn rows_are_counted_in_the_index_alone() {
        for drive in [
            HostDrive::Status(Status::Unreachable),
            HostDrive::Status(Status::Archived),
            HostDrive::Tag("x".to_owned()),
            HostDrive::TagOfStatus("x".to_owned(), Status::Archived),
            HostDrive::Kind(HostKind::Byoc),
            HostDrive::Tenants(vec!["a".to_owned()]),
            HostDrive::NamePrefix { tenant_id: None, prefix: "w".to_owned() },
            HostDrive::NamePrefix { tenant_id: Some("a".to_owned()), prefix: "w".to_owned() },
        ] {
            let plan = plan(rows_of(&query(None, None, None), &drive).expect("it is counted"));
            assert!(plan.iter().any(|step| step.contains("USING COVERING INDEX")), "{drive:?}: {plan:#?}");
        }
    }
}
