//! What is PostgreSQL's own: versions, schemas, values, and what it says when it refuses.

mod common;

use std::error::Error;
use std::time::Duration;

use common::{Server, cut_off, everything, full_report, with_host};
use enlist_core::Timestamp;
use enlist_core::TokenHash;
use enlist_core::agent_token::{AgentToken, AgentTokenState};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::liveness::Verdict;
use enlist_core::policy::Scope;
use enlist_core::store::{
    AgentTokenQuery, AppendOutcome, Commit, Contact, ContainerQuery, EventQuery, Expected, HostLookup, HostQuery,
    HostWrite, InstallTokenQuery, Key, Prune, Revision, Store, StoreError, StoreErrorKind, Write,
};
use enlist_core::telemetry::Report;
use enlist_core::{Clock, SystemClock};
use enlist_storage_postgres::PgStore;
use enlist_storage_postgres::sqlx::postgres::PgPoolOptions;
use futures_util::future::join_all;
use futures_util::poll;

fn prune_nothing() -> Prune {
    Prune {
        now: at(0),
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: 100,
    }
}

/// One call of every method.
async fn every_answer(store: &PgStore) -> Vec<Result<(), StoreError>> {
    let host = sample::host("nobody");
    let host_id = host.id;
    vec![
        store.load(&Key::Host(host_id)).await.map(drop),
        store.commit(Commit::default()).await.map(drop),
        store.authenticate(&TokenHash::from_bytes([7; 32])).await.map(drop),
        store.find_host(&HostLookup::Id(host_id)).await.map(drop),
        store.list_hosts(&HostQuery::new(Scope::All, 1)).await.map(drop),
        store.list_install_tokens(&InstallTokenQuery { owner: host_id.into(), after: None, limit: 1 }).await.map(drop),
        store.list_agent_tokens(&AgentTokenQuery::new(host_id, 1)).await.map(drop),
        store.list_events(&EventQuery::new(Scope::All, 1)).await.map(drop),
        store.append(vec![sample::append(&host, sample::report(at(1)))]).await.map(drop),
        store.append(Vec::new()).await.map(drop),
        store.touch(vec![sample::contact(&host, at(1))]).await.map(drop),
        store.sweep(sample::sweep(at(1), Duration::from_secs(90))).await.map(drop),
        store.subscribe().await.map(drop),
        store.prune(&prune_nothing()).await.map(drop),
        store.list_containers(&ContainerQuery { host_id, removed: true, after: None, limit: 1 }).await.map(drop),
        store.list_telemetry(&everything(&host)).await.map(drop),
        store.check().await,
    ]
}

/// A replica whose clock runs ahead judges nobody by it.
#[tokio::test]
async fn a_sweep_is_not_later_than_the_database() {
    let (_server, store, host) = with_host().await;
    sample::watch(&store).await;
    let now = SystemClock::default().now();
    store.touch(vec![sample::contact(&host, now)]).await.unwrap();
    let ahead = now.saturating_add(Duration::from_secs(3_600));
    let swept = store.sweep(sample::sweep(ahead, Duration::from_secs(90))).await.unwrap();
    assert_eq!((swept.verdict, swept.events), (Verdict::Sweep { storm: false }, vec![]));
    assert!(swept.monitor.last_sweep_at() < Some(ahead));
}

async fn assert_every_answer_is(store: &PgStore, expected: Option<StoreErrorKind>) {
    for (index, answer) in every_answer(store).await.into_iter().enumerate() {
        assert_eq!(answer.err().map(|error| error.kind()), expected, "method {index}");
    }
}

async fn host_count(store: &PgStore) -> usize {
    store.list_hosts(&HostQuery::new(Scope::All, 100)).await.unwrap().items.len()
}

#[tokio::test]
async fn a_database_that_nobody_migrated_answers_nothing() {
    let server = Server::unmigrated().await;
    let (store, pooled) = (server.open(), server.open_through_pooler());
    for store in [&store, &pooled] {
        assert_every_answer_is(store, Some(StoreErrorKind::SchemaVersion)).await;
    }
    store.migrate().await.unwrap();
    // Another handle works as soon as one has migrated.
    for store in [&store, &pooled] {
        assert_every_answer_is(store, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_migrate_at_once_take_turns_and_the_next_changes_nothing() {
    let server = Server::unmigrated().await;
    let stores: Vec<_> =
        (0..8).map(|n| if n % 2 == 0 { server.open() } else { server.open_through_pooler() }).collect();
    for migrated in join_all(stores.iter().map(PgStore::migrate)).await {
        migrated.unwrap();
    }
    sample::create(&stores[0], &sample::host("a")).await;
    stores[1].migrate().await.unwrap();
    assert_eq!(host_count(&stores[2]).await, 1);
}

#[tokio::test]
async fn a_migration_needs_no_direct_way_and_leaves_no_lock_on_the_poolers_connection() {
    let server = Server::unmigrated().await;
    let pooler = enlist_testing::pooler_url(&server.by_hand().await.database().await).unwrap();
    let pool = PgPoolOptions::new().connect_lazy(&pooler).unwrap();
    let store = PgStore::builder(pool).through_pooler(true).build().unwrap();
    store.migrate().await.unwrap();
    assert_every_answer_is(&store, None).await;
    assert!(store.subscribe().await.unwrap().is_none());
    let mut hand = server.by_hand().await;
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(hand.value(locks).await, "0");
}

#[tokio::test]
async fn fleets_of_two_schemas_live_side_by_side() {
    let server = Server::unmigrated().await;
    let store = |schema: &str| PgStore::builder(server.pool()).schema(schema).listen_url(server.url()).build().unwrap();
    // A name that is a word of SQL too.
    let (here, there) = (store("fleet_1"), store("user"));
    here.migrate().await.unwrap();
    assert_every_answer_is(&there, Some(StoreErrorKind::SchemaVersion)).await;
    there.migrate().await.unwrap();
    let mut heard_there = there.subscribe().await.unwrap().expect("there is a direct way");
    let host = sample::host("a");
    for store in [&here, &there] {
        sample::create(store, &host).await;
        let appended = store.append(vec![sample::append(&host, full_report(1))]).await.unwrap();
        assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]));
        assert_eq!(appended.events[0].position.get(), 1);
    }
    let token = cut_off(&here, "b").await;
    heard_there.sync().await.unwrap();
    assert!(poll!(heard_there.next()).is_pending());
    assert_eq!((host_count(&here).await, host_count(&there).await), (2, 1));
    assert!(there.authenticate(&token.hash).await.unwrap().is_none());
    assert_eq!(PgStore::builder(server.pool()).schema("no such").build().unwrap_err().kind(), StoreErrorKind::Invalid);
}

#[tokio::test]
async fn an_additive_migration_of_a_later_version_is_lived_beside_and_a_later_epoch_is_not() {
    let (server, before, host) = with_host().await;
    let mut hand = server.by_hand().await;
    hand.run(
        "ALTER TABLE hosts ADD COLUMN later text;
         ALTER TABLE host_metric_snapshots ADD COLUMN later text;
         INSERT INTO schema_migrations (version) VALUES ('9999-01-01-000000');",
    )
    .await;
    let store = server.open();
    store.migrate().await.unwrap();
    for store in [&store, &before] {
        assert!(store.find_host(&HostLookup::Id(host.id)).await.unwrap().is_some());
    }
    sample::commit(&store, sample::write(Revision::FIRST, &host)).await;
    hand.run("UPDATE schema_epoch SET epoch = 2").await;
    let late = server.open();
    assert_every_answer_is(&late, Some(StoreErrorKind::SchemaVersion)).await;
    assert_eq!(late.migrate().await.unwrap_err().kind(), StoreErrorKind::SchemaVersion);
    assert_eq!(hand.value("SELECT count(*) FROM pg_inherits").await, "0", "nothing is touched");
}

#[tokio::test]
async fn an_epoch_that_is_raised_stops_the_replicas_that_run_as_soon_as_they_check() {
    let (server, store, _) = with_host().await;
    store.check().await.unwrap();
    let mut hand = server.by_hand().await;
    hand.run("UPDATE schema_epoch SET epoch = 2").await;
    assert_eq!(store.check().await.unwrap_err().kind(), StoreErrorKind::SchemaVersion);
    assert_every_answer_is(&store, Some(StoreErrorKind::SchemaVersion)).await;
    // A backup was restored.
    hand.run("UPDATE schema_epoch SET epoch = 1").await;
    assert_every_answer_is(&store, None).await;
}

#[tokio::test]
async fn a_schema_with_tables_of_somebody_elses_is_refused_whole() {
    let server = Server::unmigrated().await;
    let mut hand = server.by_hand().await;
    hand.run("CREATE SCHEMA enlist; CREATE TABLE enlist.host_presence (id int)").await;
    assert_eq!(server.open().migrate().await.unwrap_err().kind(), StoreErrorKind::Invalid);
    let tables = hand.column("SELECT tablename FROM pg_tables WHERE schemaname = 'enlist'").await;
    assert_eq!(tables, [Some("host_presence".to_owned())]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_its_password_is_told_to_nobody() {
    let refused = PgStore::connect("postgres://me:canary@localhost/x?host=/no/such/directory").await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(refused.is_retryable());
    assert!(!said(&refused).contains("canary"), "{}", said(&refused));
}

/// It stays so, however often it is tried.
#[tokio::test]
async fn a_url_that_cannot_be_read_is_invalid_and_its_password_is_told_to_nobody() {
    let broken = "postgres://me:canary@[broken";
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost/x").unwrap();
    let refusals =
        [PgStore::connect(broken).await.unwrap_err(), PgStore::builder(pool).listen_url(broken).build().unwrap_err()];
    for refused in refusals {
        assert_eq!(refused.kind(), StoreErrorKind::Invalid);
        assert!(!said(&refused).contains("canary"), "{}", said(&refused));
    }
}

#[tokio::test]
async fn a_store_that_is_printed_shows_no_password() {
    let url = "postgres://me:canary@localhost/x";
    let pool = PgPoolOptions::new().connect_lazy(url).unwrap();
    let builders = [
        PgStore::builder(pool.clone()).listen_url(url),
        PgStore::builder(pool.clone()).listen_options(url.parse().unwrap()),
        PgStore::builder(pool).listen_url("postgres://me:canary@[broken"),
    ];
    for builder in builders {
        assert!(!format!("{builder:?}").contains("canary"), "{builder:?}");
        let store = builder.build();
        assert!(!format!("{store:?}").contains("canary"), "{store:?}");
    }
}

/// A text with a zero byte cannot even be sent; it is no fault of the caller's to look for one.
#[tokio::test]
async fn what_no_text_can_be_is_found_nowhere() {
    let (_server, store, host) = with_host().await;
    store.append(vec![sample::append(&host, full_report(1))]).await.unwrap();
    let hosts = HostQuery { name_prefix: Some("a\0".to_owned()), ..HostQuery::new(Scope::All, 9) };
    assert!(store.list_hosts(&hosts).await.unwrap().items.is_empty());
    let events = EventQuery { r#type: Some("\0".to_owned()), ..EventQuery::new(Scope::All, 9) };
    assert!(store.list_events(&events).await.unwrap().items.is_empty());
    for (after, expected) in [("\0", &["a", "b", "c"][..]), ("a\0b", &["b", "c"]), ("b\0", &["c"])] {
        let query = ContainerQuery { host_id: host.id, removed: true, after: Some(after.to_owned()), limit: 9 };
        let behind = store.list_containers(&query).await.unwrap().items;
        let behind: Vec<_> = behind.iter().map(|row| row.container.container_id.as_str()).collect();
        assert_eq!(behind, expected, "{after:?}");
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_not_ready() {
    let (server, store, host) = with_host().await;
    store.check().await.unwrap();
    let mut hand = server.by_hand().await;
    let name = hand.database().await;
    hand.run(&format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on")).await;
    let store = server.open();
    assert_eq!(store.check().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let refused = store.touch(vec![sample::contact(&host, at(1))]).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    // It can still be read.
    assert!(store.find_host(&HostLookup::Id(host.id)).await.unwrap().is_some());
}

/// Nothing of a container's id is syntax to the arrays that it is stored in.
#[tokio::test]
async fn odd_container_ids_are_read_back() {
    let (_server, store, host) = with_host().await;
    let ids = ["\"", "\\", "{}", ",", "NULL", "a b", "é𝄞", "'", "null"];
    let report = Report { containers: ids.map(sample::container).to_vec(), ..sample::report(at(1)) };
    for expected in [AppendOutcome::Accepted, AppendOutcome::Duplicate] {
        let outcomes = store.append(vec![sample::append(&host, report.clone())]).await.unwrap().outcomes;
        assert_eq!(std::mem::discriminant(&outcomes[0]), std::mem::discriminant(&expected), "{outcomes:?}");
    }
    let mut sorted = ids;
    sorted.sort_unstable();
    let snapshots = store.list_telemetry(&everything(&host)).await.unwrap().items;
    assert_eq!(snapshots[0].containers.iter().map(|c| c.container_id.as_str()).collect::<Vec<_>>(), sorted);
    let query = ContainerQuery { host_id: host.id, removed: false, after: Some("a b".to_owned()), limit: 10 };
    let behind = store.list_containers(&query).await.unwrap().items;
    let behind: Vec<_> = behind.iter().map(|row| row.container.container_id.as_str()).collect();
    assert_eq!(behind, sorted.into_iter().filter(|id| *id > "a b").collect::<Vec<_>>());
}

/// Coarsely, and never backwards.
#[tokio::test]
async fn the_last_use_of_a_token_rises_by_minutes_and_never_falls() {
    let server = Server::migrated().await;
    let store = server.open();
    let host = sample::host("a");
    let token = AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
    let mut hand = server.by_hand().await;
    let stored_use = "SELECT extract(epoch FROM last_used_at)::bigint FROM agent_tokens";
    for (used, stored) in [(100, 100), (130, 100), (161, 161), (50, 161), (500, 500)] {
        let contact = Contact { token_id: token.id, ..sample::contact(&host, at(used)) };
        store.touch(vec![contact]).await.unwrap();
        assert_eq!(hand.value(stored_use).await, (at(stored).unix_micros() / 1_000_000).to_string());
    }
    // A commit of the token leaves it alone, and another host's contact does too.
    let mut write = sample::write(Revision::FIRST, &host);
    write.agent_tokens = vec![token.clone()];
    sample::commit(&store, write).await;
    let other = sample::host("b");
    sample::create(&store, &other).await;
    store.touch(vec![Contact { token_id: token.id, ..sample::contact(&other, at(9_000)) }]).await.unwrap();
    assert_eq!(hand.value(stored_use).await, (at(500).unix_micros() / 1_000_000).to_string());
}

/// Nobody is to be taken for a host whose reports are still there.
#[tokio::test]
async fn the_id_of_a_deleted_host_is_not_given_again_while_anything_of_it_is_left() {
    let (server, store, host) = with_host().await;
    store.append((0..10).map(|n| sample::append(&host, full_report(n))).collect()).await.unwrap();
    let deletion = Write::HostDeletion { expected: Revision::FIRST, host_id: host.id, at: at(20) };
    store.commit(Commit::of(deletion, Vec::new())).await.unwrap();
    let again = || Commit::of(HostWrite::new(Expected::Absent, host.clone()), Vec::new());
    assert_eq!(store.commit(again()).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    let step = Prune { limit: 4, ..prune_nothing() };
    // Three containers and ten reports, four of each at a time.
    let mut steps = Vec::new();
    while steps.last() != Some(&false) {
        let pruned = store.prune(&step).await.unwrap();
        assert!(pruned.rows <= 8);
        steps.push(pruned.more);
    }
    assert_eq!(steps, [true, true, false]);
    let mut hand = server.by_hand().await;
    for table in ["containers", "host_metric_snapshots", "host_presence", "deleted_hosts"] {
        assert_eq!(hand.value(&format!("SELECT count(*) FROM {table}")).await, "0", "{table}");
    }
}

fn said(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn an_error_holds_no_data() {
    let (_server, store, host) = with_host().await;
    let named = sample::host("canary-of-a-name");
    sample::create(&store, &named).await;
    let twin = Host { name: named.name.clone(), ..sample::host("b") };
    let clash = store.commit(Commit::of(HostWrite::new(Expected::Absent, twin), Vec::new())).await.unwrap_err();
    assert_eq!(clash.kind(), StoreErrorKind::NameTaken);
    assert!(said(&clash).contains("hosts_name"), "it says what was refused: {}", said(&clash));
    let mut broken = full_report(1);
    broken.containers[0].name = "canary\0of-a-container".to_owned();
    let mut outcomes = store.append(vec![sample::append(&host, broken)]).await.unwrap().outcomes;
    let Some(AppendOutcome::Failed(failed)) = outcomes.pop() else { panic!("it was stored") };
    for error in [clash, failed] {
        assert!(!said(&error).contains("canary"), "{}", said(&error));
    }
}

/// A row that somebody else wrote is said to be corrupt, not absent: a host must not lose its credential over it.
#[tokio::test]
async fn a_row_that_cannot_be_understood_is_corrupt_and_not_absent() {
    let (server, store, host) = with_host().await;
    server.by_hand().await.run("UPDATE hosts SET labels = '{\"canary\": 7}'").await;
    let refused = store.load(&Key::Host(host.id)).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Corrupt);
    assert!(!said(&refused).contains("canary"));
}
