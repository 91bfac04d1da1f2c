//! The schema defends itself: what no state machine has is refused to whoever writes past the store.

mod common;

use std::time::Duration;

use common::{Hand, Server};
use enlist_core::Timestamp;
use enlist_core::agent_token::{AgentToken, AgentTokenState};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::install_token::{Binding, InstallToken};
use enlist_core::store::{
    Append, AppendOutcome, Commit, ContainerQuery, Expected, HostWrite, Known, Prune, Revision, Store, StoreErrorKind,
    Write,
};
use enlist_core::telemetry::Report;

/// A host of tenant `acme` with one Active agent token, one Issued install token, one event and one report.
async fn enrolled() -> (Server, Hand, Host) {
    let server = Server::migrated().await;
    let store = server.open();
    let host = sample::host("a");
    let token = AgentToken { state: AgentTokenState::Active { since: at(2) }, ..sample::agent_token(&host) };
    let write = HostWrite {
        agent_tokens: vec![token],
        install_tokens: vec![sample::install_token(&host)],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    store.commit(Commit::of(write, vec![sample::event(&host)])).await.unwrap();
    let hand = server.by_hand().await;
    (server, hand, host)
}

const ANY_HASH: &str = "sha256(gen_random_uuid()::text::bytea)";

/// A copy of the host's agent token under an id and a hash of its own, with some columns said otherwise.
fn another_agent_token(lineage: &str, state: &str, state_at: &str, hash: &str) -> String {
    format!(
        "WITH new AS MATERIALIZED (SELECT gen_random_uuid() AS id, {hash} AS hash),
              registered AS (INSERT INTO token_hashes (hash, token_id) SELECT hash, id FROM new ON CONFLICT DO NOTHING)
         INSERT INTO agent_tokens (id, host_id, lineage_id, hash, kind, origin, origin_actor_id, state, state_at,
                                   revoke_reason, created_at)
         SELECT new.id, a.host_id, {lineage}, new.hash, a.kind, a.origin, a.origin_actor_id, {state}, {state_at},
                a.revoke_reason, a.created_at
         FROM new, (SELECT * FROM agent_tokens LIMIT 1) AS a"
    )
}

#[tokio::test]
async fn a_second_active_token_of_a_lineage_is_refused() {
    let (_server, mut hand, _) = enrolled().await;
    let copy = |lineage| another_agent_token(lineage, "'active'", "a.state_at", ANY_HASH);
    assert_eq!(hand.refusal(&copy("a.lineage_id")).await, "agent_tokens_active");
    hand.run(&copy("gen_random_uuid()")).await;
}

#[tokio::test]
async fn a_second_pending_token_of_a_lineage_is_refused() {
    let (_server, mut hand, _) = enrolled().await;
    let copy = another_agent_token("a.lineage_id", "'pending'", "NULL", ANY_HASH);
    // One Active and one Pending stand side by side: that is a rotation.
    hand.run(&copy).await;
    assert_eq!(hand.refusal(&copy).await, "agent_tokens_pending");
}

#[tokio::test]
async fn ended_tokens_of_a_lineage_are_as_many_as_there_were() {
    let (_server, mut hand, _) = enrolled().await;
    hand.run("UPDATE agent_tokens SET state = 'revoked', revoke_reason = 'administrator'").await;
    for _ in 0..2 {
        hand.run(&another_agent_token("a.lineage_id", "'revoked'", "a.state_at", ANY_HASH)).await;
    }
}

#[tokio::test]
async fn a_second_issued_install_token_of_a_host_is_refused() {
    let (_server, mut hand, _) = enrolled().await;
    let copy = |host: &str, revision: &str| {
        format!(
            "WITH new AS MATERIALIZED (SELECT gen_random_uuid() AS id, {ANY_HASH} AS hash),
                  registered AS (INSERT INTO token_hashes (hash, token_id) SELECT hash, id FROM new)
             INSERT INTO install_tokens (id, revision, tenant_id, host_id, hash, credential_kind, state, created_by,
                                         created_at, expires_at)
             SELECT new.id, {revision}, t.tenant_id, {host}, new.hash, t.credential_kind, t.state, t.created_by,
                    t.created_at, t.expires_at
             FROM new, (SELECT * FROM install_tokens LIMIT 1) AS t"
        )
    };
    assert_eq!(hand.refusal(&copy("t.host_id", "NULL")).await, "install_tokens_issued");
    // A tenant's are as many as it likes; each is an aggregate, with a revision.
    hand.run(&copy("NULL", "1")).await;
    hand.run(&copy("NULL", "1")).await;
    assert_eq!(hand.refusal(&copy("NULL", "NULL")).await, "install_tokens_revision_own");
}

#[tokio::test]
async fn a_hash_is_seen_once_over_both_sorts_of_token_and_also_after_its_row_is_gone() {
    let (_server, mut hand, _) = enrolled().await;
    let with_hash = |hash| another_agent_token("gen_random_uuid()", "'pending'", "NULL", hash);
    let own = hand.refusal(&with_hash("(SELECT hash FROM agent_tokens LIMIT 1)")).await;
    assert!(["agent_tokens_hash", "agent_tokens_hash_seen"].contains(&own.as_str()), "{own}");
    let of_install_token = with_hash("(SELECT hash FROM install_tokens LIMIT 1)");
    assert_eq!(hand.refusal(&of_install_token).await, "agent_tokens_hash_seen");
    hand.run("CREATE TABLE gone AS SELECT hash FROM install_tokens; DELETE FROM install_tokens;").await;
    assert_eq!(hand.refusal(&with_hash("(SELECT hash FROM gone)")).await, "agent_tokens_hash_seen");
}

#[tokio::test]
async fn a_token_is_not_without_its_hash_in_the_register() {
    let (_server, mut hand, _) = enrolled().await;
    for (sql, why) in [
        (format!("UPDATE agent_tokens SET hash = {ANY_HASH}"), "agent_tokens_hash_seen"),
        (format!("UPDATE install_tokens SET hash = {ANY_HASH}"), "install_tokens_hash_seen"),
        ("DELETE FROM token_hashes USING agent_tokens AS a WHERE token_id = a.id".to_owned(), "agent_tokens_hash_seen"),
        (
            format!("INSERT INTO token_hashes (hash, token_id) SELECT {ANY_HASH}, id FROM agent_tokens"),
            "token_hashes_token",
        ),
    ] {
        assert_eq!(hand.refusal(&sql).await, why, "{sql}");
    }
}

#[tokio::test]
async fn a_state_of_an_agent_token_comes_with_exactly_its_facts() {
    let (_server, mut hand, _) = enrolled().await;
    for set in [
        "state = 'pending'",
        "state_at = NULL",
        "state = 'retired', succeeded_by = gen_random_uuid()",
        "state = 'retired', retired_by = 'agent'",
        "state = 'displaced'",
        "state = 'displaced', succeeded_by = gen_random_uuid(), retired_by = 'agent'",
        "state = 'revoked'",
        "revoke_reason = 'administrator'",
        "state = 'revoked', revoke_reason = 'boredom'",
        "state = 'lost'",
        "origin = 'exchange'",
        "origin = 'rotated'",
        "origin = 'proposed', origin_actor_id = NULL",
    ] {
        let refusal = hand.refusal(&format!("UPDATE agent_tokens SET {set}")).await;
        assert!(refusal.ends_with("_facts") || refusal.ends_with("_check"), "{set}: {refusal}");
    }
    hand.run("UPDATE agent_tokens SET state = 'retired', succeeded_by = gen_random_uuid(), retired_by = 'agent'").await;
}

#[tokio::test]
async fn a_consumed_install_token_has_a_claim_a_time_and_what_it_bought() {
    let (_server, mut hand, _) = enrolled().await;
    for set in [
        "state = 'consumed'",
        "state = 'consumed', state_at = now(), agent_token_id = gen_random_uuid()",
        "state = 'consumed', state_at = now(), claim = 'client', claim_hash = sha256('')",
        "state = 'consumed', claim = 'client', claim_hash = sha256(''), agent_token_id = gen_random_uuid()",
        "state = 'consumed', state_at = now(), claim = 'client', agent_token_id = gen_random_uuid()",
        "state = 'consumed', state_at = now(), claim = 'client', claim_hash = 'short', agent_token_id = gen_random_uuid()",
        "state = 'revoked'",
        "state = 'revoked', state_at = now(), claim = 'server'",
        "state_at = now()",
        "claim_hash = sha256('')",
    ] {
        let refusal = hand.refusal(&format!("UPDATE install_tokens SET {set}")).await;
        assert!(refusal.ends_with("_facts") || refusal.ends_with("_check"), "{set}: {refusal}");
    }
    // A server's claim may have had no Idempotency-Key.
    hand.run(
        "UPDATE install_tokens SET state = 'consumed', state_at = now(), claim = 'server',
                                   agent_token_id = gen_random_uuid()",
    )
    .await;
}

#[tokio::test]
async fn an_install_token_enrols_no_host_of_another_tenant() {
    let (server, mut hand, host) = enrolled().await;
    let refusal = hand.refusal("UPDATE install_tokens SET tenant_id = 'other'").await;
    assert_eq!(refusal, "install_tokens_host_of_tenant");
    // Nor through the store.
    let foreign = InstallToken { tenant_id: sample::tenant("other"), ..sample::install_token(&host) };
    let mut write = sample::write(Revision::FIRST, &host);
    hand.run("DELETE FROM install_tokens").await;
    write.install_tokens = vec![foreign];
    let refused = server.open().commit(Commit::of(write, Vec::new())).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Invalid);
}

#[tokio::test]
async fn a_token_is_written_with_the_aggregate_that_it_belongs_to() {
    let (server, _hand, host) = enrolled().await;
    let store = server.open();
    let of_host = Write::TenantInstallToken { expected: Expected::Absent, token: sample::install_token(&host) };
    let mut of_tenant = sample::write(Revision::FIRST, &host);
    of_tenant.install_tokens = vec![InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) }];
    let mut of_other = sample::write(Revision::FIRST, &host);
    of_other.agent_tokens = vec![sample::agent_token(&sample::host("b"))];
    // Under an id that another host's token has.
    let other = sample::host("c");
    let theirs = sample::agent_token(&other);
    sample::create_with_tokens(&store, &other, vec![theirs.clone()]).await;
    let mut stolen = sample::write(Revision::FIRST, &host);
    stolen.agent_tokens = vec![AgentToken { host_id: host.id, ..theirs }];
    for write in [of_host, of_tenant.into(), of_other.into(), stolen.into()] {
        let refused = store.commit(Commit::of(write, Vec::new())).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Invalid);
    }
}

#[tokio::test]
async fn nothing_is_without_a_tenant() {
    let (_server, mut hand, _) = enrolled().await;
    for table in ["hosts", "install_tokens", "events"] {
        let null = hand.refusal(&format!("UPDATE {table} SET tenant_id = NULL")).await;
        assert!(null.contains("null value in column \"tenant_id\""), "{table}: {null}");
        let empty = hand.refusal(&format!("UPDATE {table} SET tenant_id = ''")).await;
        assert_eq!(empty, format!("{table}_tenant_id_check"));
    }
}

#[tokio::test]
async fn a_hosts_event_names_the_kind_that_a_scope_asks_for() {
    let (_server, mut hand, _) = enrolled().await;
    assert_eq!(hand.refusal("UPDATE events SET host_kind = NULL").await, "events_host_kind");
    hand.run("UPDATE events SET host_kind = NULL, host_id = NULL").await;
    // A position is the sequence's to give.
    assert!(hand.refusal("INSERT INTO events (position) VALUES (1)").await.contains("position"));
}

#[tokio::test]
async fn presence_comes_with_exactly_its_facts() {
    let (_server, mut hand, _) = enrolled().await;
    for set in [
        "presence = 'online'",
        "presence = 'unreachable', last_seen_at = now()",
        "last_seen_at = now()",
        "presence = 'online', last_seen_at = now(), sweep_from = now(), unreachable_since = now()",
        // No sweep would find it.
        "presence = 'online', last_seen_at = now()",
        "presence = 'gone'",
    ] {
        assert_eq!(hand.refusal(&format!("UPDATE host_presence SET {set}")).await, "host_presence_facts", "{set}");
    }
    for set in [
        "presence = 'online', last_seen_at = now(), sweep_from = now()",
        "presence = 'unreachable', unreachable_since = now(), sweep_from = NULL",
        "presence = 'pending', last_seen_at = NULL, unreachable_since = NULL",
    ] {
        hand.run(&format!("UPDATE host_presence SET {set}")).await;
    }
    for version in ["containers_version", "facts_version"] {
        let refusal = hand.refusal(&format!("UPDATE host_presence SET {version} = -1")).await;
        assert_eq!(refusal, "host_presence_versions", "{version}");
    }
}

#[tokio::test]
async fn what_is_read_as_names_and_values_is_an_object() {
    let (_server, mut hand, _) = enrolled().await;
    for value in ["7", "null", "[]", "\"text\""] {
        let facts = hand.refusal(&format!("UPDATE host_presence SET facts = '{value}'")).await;
        assert_eq!(facts, "host_presence_facts_check", "{value}");
        let labels = hand.refusal(&format!("UPDATE hosts SET labels = '{value}'")).await;
        assert_eq!(labels, "hosts_labels_check", "{value}");
    }
}

/// As one that the store deletes: its agent is told, its hash stays refused, what it reported is read by nobody and goes.
#[tokio::test]
async fn a_host_that_is_deleted_by_hand_leaves_nothing_to_be_read() {
    let (server, mut hand, host) = enrolled().await;
    let store = server.open();
    store.append(vec![sample::append(&host, common::full_report(1))]).await.unwrap();
    let hash = sample::agent_tokens(&store, host.id).await[0].hash;
    // Under whatever search path.
    hand.run("SET search_path = pg_catalog; DELETE FROM enlist.hosts; SET search_path = enlist").await;
    assert!(matches!(store.authenticate(&hash).await.unwrap(), Some(Known::Tombstone(_))));
    assert!(store.list_telemetry(&common::everything(&host)).await.unwrap().items.is_empty());
    let containers = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 9 };
    assert!(store.list_containers(&containers).await.unwrap().items.is_empty());
    let prune = Prune {
        now: at(2),
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: 100,
    };
    store.prune(&prune).await.unwrap();
    for table in ["containers", "host_metric_snapshots", "deleted_hosts"] {
        assert_eq!(hand.value(&format!("SELECT count(*) FROM {table}")).await, "0", "{table}");
    }
}

#[tokio::test]
async fn numbers_stand_beside_their_containers() {
    let (server, mut hand, host) = enrolled().await;
    let mut report = sample::report(at(5));
    report.containers = vec![sample::container("a"), sample::container("b")];
    server.open().append(vec![sample::append(&host, report)]).await.unwrap();
    for set in [
        "container_cpu_cores = NULL",
        "container_cpu_cores = ARRAY[1.5]",
        "container_cpu_cores = '{}', container_numbers = '{}'",
        "container_numbers = NULL",
        "container_numbers = '{}'",
        "container_numbers = container_numbers[1:15]",
        "container_numbers = container_numbers || container_numbers",
    ] {
        let refusal = hand.refusal(&format!("UPDATE host_metric_snapshots SET {set}")).await;
        assert_eq!(refusal, "host_metric_snapshots_parallel", "{set}");
    }
    // A number that is unknown is an element that is null.
    hand.run("UPDATE host_metric_snapshots SET container_numbers[8] = 7, container_numbers[16] = NULL").await;
    let seen = hand.column("SELECT container_id || coalesce(pids, 0) FROM container_metric_snapshots ORDER BY 1").await;
    assert_eq!(seen, [Some("a7".to_owned()), Some("b0".to_owned())]);
}

#[tokio::test]
async fn a_container_is_described_whole_or_known_by_its_key_alone() {
    let (server, mut hand, host) = enrolled().await;
    server.open().append(vec![sample::append(&host, common::full_report(1))]).await.unwrap();
    for set in [
        "name = NULL",
        "image = NULL",
        "state = NULL",
        "first_seen_at = NULL",
        "last_seen_at = NULL",
        "named_until = now()",
        "name = NULL, image = NULL, state = NULL, first_seen_at = NULL, last_seen_at = NULL",
        "name = NULL, image = NULL, state = NULL, first_seen_at = NULL, last_seen_at = NULL, named_until = now(),
         removed_at = now()",
    ] {
        assert_eq!(hand.refusal(&format!("UPDATE containers SET {set}")).await, "containers_described", "{set}");
    }
    hand.run(
        "UPDATE containers SET name = NULL, image = NULL, state = NULL, first_seen_at = NULL, last_seen_at = NULL,
                               named_until = now() WHERE container_id = 'a'",
    )
    .await;
    // A key is the sequence's to give.
    assert!(hand.refusal("UPDATE containers SET container_key = 1").await.contains("container_key"));
}

/// Whatever the database's locale, and whatever the server's default is.
#[tokio::test]
async fn text_is_compared_byte_by_byte() {
    let (_server, mut hand, _) = enrolled().await;
    let other = hand.column(
        "SELECT table_name || '.' || column_name FROM information_schema.columns
         WHERE table_schema = 'enlist' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'
           AND table_name <> 'container_metric_snapshots'",
    );
    assert_eq!(other.await, Vec::<Option<String>>::new());
}

/// Neither generated nor checked, so each writer is tried: what sweeps find hosts by would hide one for ever.
#[tokio::test]
async fn every_writer_of_a_last_contact_writes_what_sweeps_find_it_by() {
    let (server, mut hand, host) = enrolled().await;
    let store = server.open();
    let found_by = "SELECT extract(epoch FROM sweep_from - timestamptz '2026-01-01Z')::integer::text || CASE
                        WHEN last_seen_at + make_interval(secs => coalesce(liveness_window, 0)) - sweep_from
                            BETWEEN interval '0' AND interval '59.999999 s'
                        THEN '' ELSE ', wrong' END
                    FROM host_presence WHERE last_seen_at IS NOT NULL";
    let append = async |report: Report| {
        let appended = store.append(vec![Append { contact: sample::contact(&host, report.recorded_at), report }]).await;
        assert!(matches!(appended.unwrap().outcomes[..], [AppendOutcome::Accepted]));
    };
    assert_eq!(hand.column(found_by).await, Vec::<Option<String>>::new());
    store.touch(vec![sample::contact(&host, at(0))]).await.unwrap();
    assert_eq!(hand.value(found_by).await, "0");
    // The transaction, and the statement.
    append(sample::report(at(65))).await;
    assert_eq!(hand.value(found_by).await, "65");
    append(sample::report(at(125))).await;
    assert_eq!(hand.value(found_by).await, "125");
    append(sample::report(at(184))).await;
    assert_eq!(hand.value(found_by).await, "125");
    // An older contact.
    store.touch(vec![sample::contact(&host, at(10))]).await.unwrap();
    assert_eq!(hand.value(found_by).await, "125");
    hand.run("UPDATE hosts SET liveness_window = 300").await;
    assert_eq!(hand.value(found_by).await, "484");
    append(sample::report(at(243))).await;
    assert_eq!(hand.value(found_by).await, "484");
    append(sample::report(at(244))).await;
    assert_eq!(hand.value(found_by).await, "544");
    hand.run("UPDATE hosts SET liveness_window = NULL").await;
    assert_eq!(hand.value(found_by).await, "244");
    // Silence leaves the last contact as it was.
    sample::watch(&store).await;
    let swept = store.sweep(sample::sweep(at(100_000), Duration::from_secs(90))).await.unwrap();
    assert_eq!(swept.events.len(), 1);
    assert_eq!(hand.value(found_by).await, "244");
}

/// As that of a host that was heard while a clock ran ahead, and whose last contact was set back by hand, that alone: by what
/// sweeps find hosts by, it would be well for as long as the clock was wrong.
#[tokio::test]
async fn what_sweeps_find_a_host_by_is_at_most_a_minute_old_and_never_to_come() {
    let (server, mut hand, host) = enrolled().await;
    let store = server.open();
    sample::watch(&store).await;
    for (window, end) in [("NULL", 1_000), ("25", 1_025)] {
        let micros = |seconds: i64| format!("timestamptz '{}' + interval '1 microsecond'", at(seconds));
        for (before, after) in [
            ("NULL".to_owned(), at(end)),
            (format!("'{}'", at(end - 60)), at(end)),
            (micros(end - 60), at(end - 60).saturating_add(Duration::from_micros(1))),
            (format!("'{}'", at(end)), at(end)),
            (micros(end), at(end)),
            (format!("'{}'", at(1_000_000_000)), at(end)),
        ] {
            let sql = format!("SELECT sweep_from({before}, '{}', {window}) = '{after}'", at(1_000));
            assert_eq!(hand.value(&sql).await, "true", "{sql}");
        }
    }
    // By each writer: a contact, a report, and one of a host that goes on as it did.
    let ahead = |seconds| {
        format!("UPDATE host_presence SET last_seen_at = '{}', sweep_from = '{}'", at(seconds), at(1_000_000_000))
    };
    store.touch(vec![sample::contact(&host, at(0))]).await.unwrap();
    let mut now = 1_000;
    for window in ["NULL", "25"] {
        hand.run(&format!("UPDATE hosts SET liveness_window = {window}")).await;
        for writer in ["contact", "report", "another"] {
            hand.run(&ahead(now)).await;
            if writer == "contact" {
                store.touch(vec![sample::contact(&host, at(now + 1))]).await.unwrap();
            } else {
                let report = sample::append(&host, sample::report(at(now + 1)));
                let appended = store.append(vec![report]).await.unwrap();
                assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]));
            }
            now += 1_000;
            let swept = store.sweep(sample::sweep(at(now), Duration::from_secs(90))).await.unwrap();
            assert_eq!(swept.events.len(), 1, "{writer}, {window}");
            store.touch(vec![sample::contact(&host, at(now))]).await.unwrap();
        }
    }
}

/// A report within the minute of the one before it touches no index at all.
#[tokio::test]
async fn a_contact_writes_to_the_index_of_those_online_once_a_minute() {
    let (server, mut hand, host) = enrolled().await;
    server.open().touch(vec![sample::contact(&host, at(0))]).await.unwrap();
    let heard = |seconds| {
        format!(
            "UPDATE host_presence SET last_seen_at = at, sweep_from = sweep_from(sweep_from, at, liveness_window)
             FROM (SELECT timestamptz '2026-01-01Z' + {seconds} * interval '1 s') AS v (at)"
        )
    };
    hand.run("BEGIN").await;
    for (seconds, expected) in [(59, "1"), (60, "1"), (119, "2")] {
        hand.run(&heard(seconds)).await;
        let hot = hand.value("SELECT pg_stat_get_xact_tuples_hot_updated('host_presence'::regclass)::text").await;
        assert_eq!(hot, expected, "at {seconds} s");
    }
    hand.run("ROLLBACK").await;
    // Of one with a window of its own, which ends at another second: once a minute as well.
    hand.run("UPDATE hosts SET liveness_window = 25").await;
    // Another session, that has counted nothing yet.
    let mut hand = server.by_hand().await;
    hand.run("BEGIN").await;
    for (seconds, expected) in [(59, "1"), (60, "1"), (119, "2")] {
        hand.run(&heard(seconds)).await;
        let hot = hand.value("SELECT pg_stat_get_xact_tuples_hot_updated('host_presence'::regclass)::text").await;
        assert_eq!(hot, expected, "at {seconds} s");
    }
    hand.run("ROLLBACK").await;
}

/// Whoever sets it, so that an older replica and a hand at the prompt do it too.
#[tokio::test]
async fn a_hosts_window_is_restated_where_it_is_looked_for_and_within_bounds() {
    let (_server, mut hand, _) = enrolled().await;
    for (window, restated) in [("7", "7"), ("86400", "86400"), ("NULL", "none")] {
        hand.run(&format!("UPDATE hosts SET liveness_window = {window}")).await;
        let value = hand.value("SELECT coalesce(liveness_window::text, 'none') FROM host_presence").await;
        assert_eq!(value, restated);
    }
    for window in [2, 86_401] {
        let refusal = hand.refusal(&format!("UPDATE hosts SET liveness_window = {window}")).await;
        assert_eq!(refusal, "hosts_liveness_window_check");
    }
}

/// An index more on a snapshot table costs every report, for ever; and to be distributed by host, contact tables have
/// keys that lead with the host, no sequence but that of containers' keys, and no foreign keys.
#[tokio::test]
async fn contact_tables_have_the_documented_indexes_and_nothing_that_binds_them() {
    let (_server, mut hand, _) = enrolled().await;
    let tables = "('host_presence', 'containers', 'host_metric_snapshots')";
    let indexes = hand
        .column(&format!(
            "SELECT tablename || regexp_replace(indexdef, '^.* USING btree',
                             CASE WHEN indexdef LIKE '%UNIQUE%' THEN '!' ELSE '' END)
         FROM pg_indexes WHERE schemaname = 'enlist' AND tablename IN {tables} ORDER BY 1"
        ))
        .await;
    let expected = [
        "containers (host_id) WHERE ((removed_at IS NULL) AND (name IS NOT NULL))",
        "containers (named_until) WHERE (name IS NULL)",
        "containers (removed_at) WHERE (removed_at IS NOT NULL)",
        "containers! (host_id, container_id)",
        "containers! (host_id, container_key)",
        "host_metric_snapshots! (host_id, recorded_at)",
        "host_presence (host_id) WHERE archived",
        "host_presence (presence, host_id) WHERE (NOT archived)",
        "host_presence (sweep_from) WHERE ((presence = 'online'::text) AND (liveness_window IS NOT NULL))",
        "host_presence (sweep_from) WHERE ((presence = 'online'::text) AND (liveness_window IS NULL))",
        "host_presence! (host_id)",
    ];
    assert_eq!(indexes.into_iter().flatten().collect::<Vec<_>>(), expected);
    let bound = hand
        .column(&format!(
            "SELECT conname FROM pg_constraint JOIN pg_class ON pg_class.oid IN (conrelid, confrelid)
         WHERE contype = 'f' AND relname IN {tables}
         UNION ALL
         SELECT column_name FROM information_schema.columns
         WHERE table_schema = 'enlist' AND table_name IN {tables}
           AND (is_identity = 'YES' OR column_default LIKE 'nextval%')"
        ))
        .await;
    assert_eq!(bound, [Some("container_key".to_owned())]);
}
