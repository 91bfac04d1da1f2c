//! Pages of hosts: walked by the index that has the fewest rows for what is asked.

use enlist_core::host::Status;
use enlist_core::store::{HostDrive, HostQuery, HostRecord, Page, Visible, behind_prefix};
use sqlx::{Postgres, QueryBuilder};

use crate::column::{Id, overread};
use crate::error::Failure;
use crate::host;
use crate::transaction::{COUNT, Db};

/// `list_hosts`. Several statements, and a walk.
pub(crate) async fn list(db: &mut Db, query: &HostQuery) -> Result<Page<HostRecord>, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    // A zero byte is in no text that PostgreSQL holds, and in none that it can be asked for.
    if visible.is_nothing() || query.name_prefix.as_ref().is_some_and(|prefix| prefix.contains('\0')) {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let drives = HostDrive::of(query, &visible);
    let drive = db.choose(drives, |db, drive| rows_of(db, query, drive)).await?.unwrap_or(HostDrive::Everything);
    let mut text = db.builder(host::FIND_AMONG);
    Walk { text: &mut text, query, visible: &visible }.ids(&drive, |text| db.shared().sql.put_in(text));
    text.push("))");
    let rows = text.build().persistent(false).fetch_all(db.connection()).await?;
    let mut items = rows.iter().map(host::record).collect::<Result<Vec<_>, _>>()?;
    items.sort_unstable_by_key(|record| record.host.id);
    Ok(Page::of_overread(items, query.limit))
}

/// What is counted of a drive: rows behind the cursor, where the index has them in their order; nothing of what is all.
fn rows_of(db: &Db, query: &HostQuery, drive: &HostDrive) -> Option<QueryBuilder<Postgres>> {
    if *drive == HostDrive::Everything {
        return None;
    }
    let source = Source::of(drive);
    let mut text = db.builder(COUNT);
    text.push(db.shared().sql.put_in(source.table)).push(" WHERE ");
    source.condition(&mut text, drive, None);
    if !matches!(drive, HostDrive::NamePrefix { .. }) {
        behind(&mut text, source.id, query);
    }
    Some(text)
}

/// What a drive is read from, and the id there.
struct Source {
    table: &'static str,
    id: &'static str,
}

impl Source {
    const fn of(drive: &HostDrive) -> Self {
        let (table, id) = match drive {
            HostDrive::Status(_) => ("{schema}.host_presence AS d", "d.host_id"),
            HostDrive::Tag(_) | HostDrive::TagOfStatus(..) => ("{schema}.host_tags AS d", "d.host_id"),
            HostDrive::Kind(_) | HostDrive::Tenants(_) | HostDrive::NamePrefix { .. } | HostDrive::Everything => {
                ("{schema}.hosts AS d", "d.id")
            }
        };
        Self { table, id }
    }

    /// To the letter what the partial indexes have.
    fn condition(&self, text: &mut QueryBuilder<Postgres>, drive: &HostDrive, tenant_id: Option<&String>) {
        match drive {
            HostDrive::Status(Status::Archived) => {
                text.push("d.archived");
            }
            HostDrive::Status(status) => {
                text.push("NOT d.archived AND d.presence = ").push_bind(status.as_str());
            }
            HostDrive::Tag(tag) => {
                text.push("d.tag = ").push_bind(tag.clone());
            }
            HostDrive::TagOfStatus(tag, status) => {
                text.push("d.tag = ").push_bind(tag.clone()).push(" AND d.status = ").push_bind(status.as_str());
            }
            HostDrive::Kind(kind) => {
                text.push("d.kind = ").push_bind(kind.as_str());
            }
            HostDrive::Tenants(tenants) => match tenant_id {
                Some(tenant_id) => {
                    text.push("d.tenant_id = ").push_bind(tenant_id.clone());
                }
                None => {
                    text.push("d.tenant_id = ANY(").push_bind(tenants.clone()).push(")");
                }
            },
            HostDrive::NamePrefix { tenant_id, prefix } => {
                if let Some(tenant_id) = tenant_id {
                    text.push("d.tenant_id = ").push_bind(tenant_id.clone()).push(" AND ");
                }
                named(text, "d", prefix);
            }
            HostDrive::Everything => {
                text.push("TRUE");
            }
        }
    }
}

fn named(text: &mut QueryBuilder<Postgres>, table: &str, prefix: &str) {
    text.push(table).push(".name >= ").push_bind(prefix.to_owned());
    if let Some(beyond) = behind_prefix(prefix) {
        text.push(" AND ").push(table).push(".name < ").push_bind(beyond);
    }
}

fn behind(text: &mut QueryBuilder<Postgres>, id: &str, query: &HostQuery) {
    if let Some(after) = query.after {
        text.push(" AND ").push(id).push(" > ").push_bind(Id::from(after));
    }
}

/// A statement on its way, for a query.
struct Walk<'a> {
    text: &'a mut QueryBuilder<Postgres>,
    query: &'a HostQuery,
    visible: &'a Visible,
}

impl Walk<'_> {
    /// The ids of the page, and one more, in any order.
    fn ids(&mut self, drive: &HostDrive, put_in: impl Fn(&str) -> String) {
        let HostDrive::Tenants(tenants) = drive else {
            return self.some_ids(drive, None, &put_in);
        };
        self.text.push("SELECT m.id FROM (");
        for (place, tenant_id) in tenants.iter().enumerate() {
            self.text.push(if place == 0 { "(" } else { " UNION ALL (" });
            self.some_ids(drive, Some(tenant_id), &put_in);
            self.text.push(")");
        }
        self.text.push(") AS m ORDER BY m.id LIMIT ").push_bind(overread(self.query.limit));
    }

    /// Ids in their order. What is looked up beside the index stands in queries of its own, which `OFFSET` keeps from being
    /// merged with it: then there is no way but to walk the index and look up each row.
    fn some_ids(&mut self, drive: &HostDrive, tenant_id: Option<&String>, put_in: &impl Fn(&str) -> String) {
        let Self { text, query, visible } = self;
        let Source { mut table, mut id } = Source::of(drive);
        if matches!(drive, HostDrive::NamePrefix { .. }) {
            // Few, and not in the order of ids: found first, whatever there is that has the order.
            text.push("WITH named AS MATERIALIZED (SELECT d.id FROM ").push(put_in(table)).push(" WHERE ");
            Source { table, id }.condition(text, drive, tenant_id);
            behind(text, id, query);
            text.push(") ");
            (table, id) = ("named AS d", "d.id");
        }
        text.push("SELECT ").push(id).push(" AS id FROM ").push(put_in(table));
        let asks_host = **visible != Visible::Everything || query.kind.is_some() || query.name_prefix.is_some();
        if asks_host {
            text.push(put_in(" CROSS JOIN LATERAL (SELECT * FROM {schema}.hosts AS o WHERE o.id = ")).push(id);
            text.push(" OFFSET 0) AS h");
        }
        // What the drive has of it, also beside the tag, is what would be found there.
        let status = query.status.filter(|_| !matches!(drive, HostDrive::Status(_) | HostDrive::TagOfStatus(..)));
        if status.is_some() {
            text.push(put_in(" CROSS JOIN LATERAL (SELECT * FROM {schema}.host_presence AS o WHERE o.host_id = "))
                .push(id);
            text.push(" OFFSET 0) AS p");
        }
        text.push(" WHERE ");
        if table.starts_with("named") {
            text.push("TRUE");
        } else {
            Source { table, id }.condition(text, drive, tenant_id);
            behind(text, id, query);
        }
        match visible {
            Visible::Everything => {}
            Visible::Tenant(tenant_id, kind) => {
                text.push(" AND h.tenant_id = ").push_bind(tenant_id.clone());
                if let Some(kind) = kind {
                    text.push(" AND h.kind = ").push_bind(kind.as_str());
                }
            }
            Visible::Tenants { both, managed, byoc } => {
                text.push(" AND (h.tenant_id = ANY(").push_bind(both.clone());
                text.push(") OR (h.kind = 'managed' AND h.tenant_id = ANY(").push_bind(managed.clone());
                text.push(")) OR (h.kind = 'byoc' AND h.tenant_id = ANY(").push_bind(byoc.clone()).push(")))");
            }
        }
        // `Status::of`, restated where rows are chosen: archived, else the presence.
        match status {
            None => {}
            Some(Status::Archived) => {
                text.push(" AND p.archived");
            }
            Some(status) => {
                text.push(" AND NOT p.archived AND p.presence = ").push_bind(status.as_str());
            }
        }
        if let Some(tag) = &query.tag
            && !matches!(drive, HostDrive::Tag(_) | HostDrive::TagOfStatus(..))
        {
            // As a value, which cannot be made a join of.
            text.push(put_in(" AND (SELECT TRUE FROM {schema}.host_tags AS t WHERE t.host_id = ")).push(id);
            text.push(" AND t.tag = ").push_bind(tag.as_str().to_owned()).push(")");
        }
        if let Some(kind) = query.kind {
            text.push(" AND h.kind = ").push_bind(kind.as_str());
        }
        if let Some(prefix) = &query.name_prefix {
            text.push(" AND ");
            named(text, "h", prefix);
        }
        text.push(" ORDER BY ").push(id).push(" LIMIT ").push_bind(overread(query.limit));
    }
}

#[cfg(test)]
mod tests {
    use enlist_core::host::HostKind;
    use enlist_core::policy::{Kinds, Scope};

    use super::*;
    use crate::transaction::plans;

    #[tokio::test]
    async fn every_drive_walks_its_index_and_looks_up_the_rest() {
        let scope = |tenants: &[&str]| {
            let kinds = Kinds::Only(HostKind::Byoc);
            Scope::Tenants(tenants.iter().map(|tenant| (tenant.parse().expect("a tenant"), kinds)).collect())
        };
        let all = HostQuery {
            status: Some(Status::Online),
            tag: Some("x".parse().expect("a tag")),
            kind: Some(HostKind::Byoc),
            name_prefix: Some("web-".to_owned()),
            ..HostQuery::new(Scope::All, 50)
        };
        let of = |query: &HostQuery, tenants: &[&str]| HostQuery { scope: scope(tenants), ..query.clone() };
        let tenants =
            |tenants: &[&str]| HostDrive::Tenants(tenants.iter().map(|tenant| (*tenant).to_owned()).collect());
        let by_name = |tenant_id: Option<&str>| HostDrive::NamePrefix {
            tenant_id: tenant_id.map(str::to_owned),
            prefix: "web-".to_owned(),
        };
        let unreachable = HostQuery { status: Some(Status::Unreachable), ..all.clone() };
        let archived = HostQuery { status: Some(Status::Archived), ..all.clone() };
        let cases = vec![
            (unreachable, HostDrive::Status(Status::Unreachable), "host_presence_status"),
            (archived, HostDrive::Status(Status::Archived), "host_presence_archived"),
            (all.clone(), HostDrive::Status(Status::Online), "host_presence_status"),
            (HostQuery { status: None, ..all.clone() }, HostDrive::Tag("x".to_owned()), "host_tags_tag"),
            (all.clone(), HostDrive::TagOfStatus("x".to_owned(), Status::Online), "host_tags_status"),
            (all.clone(), HostDrive::Kind(HostKind::Byoc), "hosts_kind"),
            (of(&all, &["a"]), tenants(&["a"]), "hosts_tenant"),
            (of(&all, &["a", "b"]), tenants(&["a", "b"]), "hosts_tenant"),
            (all.clone(), HostDrive::Everything, "hosts_pkey"),
            (all.clone(), by_name(None), "hosts_named"),
            (of(&all, &["a"]), by_name(Some("a")), "hosts_named_in_tenant"),
        ];
        let plans = plans(cases, |db, mut text, (query, drive, _)| {
            let visible = Visible::of(&query.scope, None);
            Walk { text: &mut text, query, visible: &visible }.ids(drive, |text| db.shared().sql.put_in(text));
            text
        });
        for ((_, drive, index), plan) in plans.await {
            let index = format!(" using {index} on ");
            let drives = |step: &&String| [" d", " d_1"].iter().any(|alias| step.ends_with(alias));
            let walked: Vec<_> = plan.iter().filter(|step| step.contains(" using ")).filter(drives).collect();
            assert!(!walked.is_empty() && walked.iter().all(|step| step.contains(&index)), "{drive:?}: {plan:#?}");
            assert!(plan.iter().all(|step| !step.contains("Seq Scan")), "{drive:?}: {plan:#?}");
            let looks_again = plan.iter().any(|step| step.contains(" on host_presence o"));
            assert!(!looks_again || !matches!(drive, HostDrive::Status(_)), "{drive:?}: {plan:#?}");
            let sorts = plan.iter().any(|step| step.contains("Sort Key") && !step.contains("Merge"));
            let has_to = matches!(&drive, HostDrive::NamePrefix { .. });
            let merges = matches!(&drive, HostDrive::Tenants(tenants) if tenants.len() > 1);
            assert_eq!(sorts && !merges, has_to, "{drive:?}: {plan:#?}");
        }
    }
}
