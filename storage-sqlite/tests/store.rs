//! What is SQLite's own: files, versions, locks, threads.

mod common;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use common::File;
use diesel::connection::SimpleConnection;
use enlist_core::Timestamp;
use enlist_core::TokenHash;
use enlist_core::agent_token::{AgentToken, AgentTokenState};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{Host, Tag};
use enlist_core::policy::Scope;
use enlist_core::store::{
    AgentTokenQuery, AppendOutcome, Commit, Contact, ContainerQuery, EventQuery, Expected, HostLookup, HostQuery,
    HostWrite, InstallTokenQuery, Key, Revision, Store, StoreError, StoreErrorKind, TelemetryQuery,
};
use enlist_core::telemetry::Report;
use enlist_storage_sqlite::SqliteStore;
use futures_util::poll;

fn everything(host: &Host) -> TelemetryQuery {
    TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 1_000)
}

/// A report of three containers, with numbers each.
fn full_report(seconds: i64) -> Report {
    let containers = ["a", "b", "c"].map(sample::container).to_vec();
    Report { containers, containers_complete: true, ..sample::report(at(seconds)) }
}

async fn with_host() -> (File, SqliteStore, Host) {
    let file = File::migrated().await;
    let store = file.open().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    (file, store, host)
}

/// One call of every method.
async fn every_answer(store: &SqliteStore) -> Vec<Result<(), StoreError>> {
    let host = sample::host("nobody");
    let hash = TokenHash::from_bytes([7; 32]);
    vec![
        store.load(&Key::Host(host.id)).await.map(drop),
        store.commit(Commit::default()).await.map(drop),
        store.authenticate(&hash).await.map(drop),
        store.find_host(&HostLookup::Id(host.id)).await.map(drop),
        store.list_hosts(&HostQuery::new(Scope::All, 1)).await.map(drop),
        store.list_install_tokens(&InstallTokenQuery { owner: host.id.into(), after: None, limit: 1 }).await.map(drop),
        store.list_agent_tokens(&AgentTokenQuery::new(host.id, 1)).await.map(drop),
        store.list_events(&EventQuery::new(Scope::All, 1)).await.map(drop),
        store.append(vec![sample::append(&host, sample::report(at(1)))]).await.map(drop),
        store.touch(vec![sample::contact(&host, at(1))]).await.map(drop),
        store.sweep(sample::sweep(at(1), Duration::from_secs(90))).await.map(drop),
        store.subscribe().await.map(drop),
        store.prune(&common::prune_nothing()).await.map(drop),
        store
            .list_containers(&ContainerQuery { host_id: host.id, removed: true, after: None, limit: 1 })
            .await
            .map(drop),
        store.list_telemetry(&everything(&host)).await.map(drop),
        store.check().await,
    ]
}

async fn assert_every_answer_is(store: &SqliteStore, expected: Option<StoreErrorKind>) {
    for (index, answer) in every_answer(store).await.into_iter().enumerate() {
        assert_eq!(answer.err().map(|error| error.kind()), expected, "method {index}");
    }
}

#[tokio::test]
async fn a_database_that_nobody_migrated_opens_and_answers_nothing_else() {
    let file = File::unmigrated();
    for store in [file.open().await, SqliteStore::open(":memory:").await.unwrap()] {
        assert_every_answer_is(&store, Some(StoreErrorKind::SchemaVersion)).await;
        store.migrate().await.unwrap();
        assert_every_answer_is(&store, None).await;
    }
}

#[tokio::test]
async fn a_handle_works_as_soon_as_another_has_migrated() {
    let file = File::unmigrated();
    let (early, late) = (file.open().await, file.open().await);
    assert_every_answer_is(&early, Some(StoreErrorKind::SchemaVersion)).await;
    late.migrate().await.unwrap();
    assert_every_answer_is(&early, None).await;
}

#[tokio::test]
async fn handles_that_migrate_at_once_take_turns_and_the_next_changes_nothing() {
    let file = File::unmigrated();
    let stores = [file.open().await, file.open().await, file.open().await];
    for migrated in futures_util::future::join_all(stores.iter().map(SqliteStore::migrate)).await {
        migrated.unwrap();
    }
    sample::create(&stores[0], &sample::host("a")).await;
    stores[1].migrate().await.unwrap();
    let page = stores[2].list_hosts(&HostQuery::new(Scope::All, 10)).await.unwrap();
    assert_eq!(page.items.len(), 1);
}

#[tokio::test]
async fn an_additive_migration_of_a_later_version_is_lived_beside() {
    let (file, _, host) = with_host().await;
    file.by_hand().run(
        "ALTER TABLE hosts ADD COLUMN later TEXT;
         INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000');",
    );
    let store = file.open().await;
    store.migrate().await.unwrap();
    assert!(store.find_host(&HostLookup::Id(host.id)).await.unwrap().is_some());
    sample::commit(&store, sample::write(Revision::FIRST, &host)).await;
}

/// All there is of a host to be read.
async fn all_of(store: &SqliteStore, host: &Host) -> String {
    let containers = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 100 };
    let all = (
        store.load(&Key::Host(host.id)).await.unwrap(),
        store.find_host(&HostLookup::Id(host.id)).await.unwrap(),
        store.list_agent_tokens(&AgentTokenQuery::new(host.id, 100)).await.unwrap(),
        store.list_events(&EventQuery::new(Scope::All, 100)).await.unwrap(),
        store.list_containers(&containers).await.unwrap(),
        store.list_telemetry(&everything(host)).await.unwrap(),
    );
    format!("{all:#?}")
}

#[tokio::test]
async fn a_file_of_the_first_version_is_upgraded_with_its_data() {
    let (now, store, host) = with_host().await;
    let host = Host { tags: [Tag::new("a").unwrap()].into(), cordoned: true, ..host };
    let mut write = sample::write(Revision::FIRST, &host);
    write.agent_tokens = vec![sample::agent_token(&host)];
    write.install_tokens = vec![sample::install_token(&host)];
    store.commit(Commit::of(write, vec![sample::event(&host)])).await.unwrap();
    // The second is older than the newest, and names a container that is known by its key alone.
    let late = Report { containers: vec![sample::container("before")], ..sample::report(at(4)) };
    store.append(vec![sample::append(&host, full_report(5)), sample::append(&host, late)]).await.unwrap();
    let before = all_of(&store, &host).await;
    store.close().await;

    let first = File::unmigrated();
    let mut hand = first.by_hand();
    hand.run(include_str!("../migrations/2026-11-22-000000_first_light/up.sql"));
    hand.run(
        "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL,
                                                  run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
         INSERT INTO __diesel_schema_migrations (version) VALUES ('20261122000000');",
    );
    hand.run(&format!("ATTACH '{}' AS source", now.path()));
    for table in [
        "hosts",
        "host_tags",
        "install_tokens",
        "agent_tokens",
        "events",
        "host_presence",
        "containers",
        "host_metric_snapshots",
        "report_containers",
        "report_containers_more",
    ] {
        let columns = hand.column(&format!("SELECT name AS value FROM pragma_table_info('{table}', 'main')"));
        let columns = columns.into_iter().flatten().collect::<Vec<_>>().join(", ");
        hand.run(&format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}"));
    }
    drop(hand);

    let upgraded = first.open().await;
    assert_every_answer_is(&upgraded, Some(StoreErrorKind::SchemaVersion)).await;
    upgraded.migrate().await.unwrap();
    assert_every_answer_is(&upgraded, None).await;
    assert_eq!(all_of(&upgraded, &host).await, before);
    let named_until = first.by_hand().column("SELECT named_until AS value FROM containers WHERE name IS NULL");
    assert_eq!(named_until, [Some(at(5).unix_micros().to_string())]);
    let tags = first.by_hand().column("SELECT tag || ' ' || status || ' ' || cordoned AS value FROM host_tags");
    assert_eq!(tags, [Some("a online 1".to_owned())]);
    assert_eq!(first.by_hand().column("SELECT epoch AS value FROM schema_epoch"), [Some("1".to_owned())]);
}

#[tokio::test]
async fn a_later_epoch_is_refused_before_anything_is_touched() {
    let (file, _, _) = with_host().await;
    file.by_hand().run("UPDATE schema_epoch SET epoch = 2");
    let refused = SqliteStore::open(&file.path()).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::SchemaVersion);
}

#[tokio::test]
async fn a_file_of_somebody_elses_is_refused() {
    let file = File::unmigrated();
    std::fs::write(file.path(), "certainly not a database, and long enough to be looked at".repeat(20)).unwrap();
    assert_eq!(SqliteStore::open(&file.path()).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let file = File::unmigrated();
    file.by_hand().run("CREATE TABLE hosts (id INTEGER)");
    let refused = file.open().await.migrate().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Invalid);
    // All of it, or none.
    assert_eq!(file.by_hand().column("SELECT name AS value FROM sqlite_master"), [Some("hosts".to_owned())]);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_unavailable() {
    let refused = SqliteStore::open("sqlite:///no/such/directory/enlist.db").await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(!format!("{refused:?}").contains("directory/"), "an error holds no data");
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let (file, store, host) = with_host().await;
    store.append(vec![sample::append(&host, full_report(5))]).await.unwrap();
    let snapshots = store.list_telemetry(&everything(&host)).await.unwrap();
    store.close().await;
    let store = file.open().await;
    assert_eq!(sample::load(&store, host.id).await.host, host);
    assert_eq!(store.list_telemetry(&everything(&host)).await.unwrap(), snapshots);
}

/// So that a backup of the one file is a backup of the fleet.
#[tokio::test]
async fn closing_folds_the_log_back_into_the_file_whoever_still_holds_a_handle() {
    let (file, store, host) = with_host().await;
    let wal = format!("{}-wal", file.path());
    assert!(Path::new(&wal).exists());
    let other = store.clone();
    // Asked before it was closed: it is still done.
    let mut last = Box::pin(other.append(vec![sample::append(&host, full_report(5))]));
    assert!(futures_util::poll!(last.as_mut()).is_pending());
    store.close().await;
    last.await.unwrap();
    assert!(!Path::new(&wal).exists());
    assert_every_answer_is(&other, Some(StoreErrorKind::Unavailable)).await;
    other.close().await;
    assert_eq!(file.open().await.list_telemetry(&everything(&host)).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn two_handles_on_a_file_see_and_guard_each_others_writes() {
    let (file, here, host) = with_host().await;
    let there = file.open().await;
    assert_eq!(sample::load(&there, host.id).await.revision, Revision::FIRST);
    sample::commit(&there, sample::write(Revision::FIRST, &Host { cordoned: true, ..host.clone() })).await;
    let stale = Commit::of(sample::write(Revision::FIRST, &host), Vec::new());
    assert_eq!(here.commit(stale).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert!(sample::load(&here, host.id).await.host.cordoned);
}

/// Polled once while another process holds the lock, then dropped: each is there whole or not at all, and none keeps
/// the lock.
#[tokio::test]
async fn futures_dropped_while_they_wait_for_the_lock_leave_nothing_open() {
    let (file, store, host) = with_host().await;
    let mut other = file.by_hand();
    other.run("BEGIN IMMEDIATE");
    let made: Vec<_> = (0..10).map(|n| sample::host(&format!("dropped-{n}"))).collect();
    for (n, new) in (0..).zip(&made) {
        let write =
            HostWrite { agent_tokens: vec![sample::agent_token(new)], ..HostWrite::new(Expected::Absent, new.clone()) };
        let mut commit = store.commit(Commit::of(write, vec![sample::event(new)]));
        let mut append = store.append(vec![sample::append(&host, full_report(n))]);
        assert!(poll!(commit.as_mut()).is_pending());
        assert!(poll!(append.as_mut()).is_pending());
    }
    other.run("COMMIT");
    store.check().await.unwrap();
    for new in &made {
        let events = EventQuery { host_id: Some(new.id), ..EventQuery::new(Scope::All, 10) };
        let events = store.list_events(&events).await.unwrap().items.len();
        match store.load(&Key::Host(new.id)).await.unwrap() {
            None => assert_eq!(events, 0),
            Some(_) => {
                assert_eq!(sample::load(&store, new.id).await.agent_tokens.len(), 1);
                assert_eq!(events, 1);
            }
        }
    }
    for snapshot in store.list_telemetry(&everything(&host)).await.unwrap().items {
        assert_eq!(snapshot.containers.len(), 3);
    }
    // Nobody holds the lock.
    other.0.batch_execute("PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; COMMIT;").unwrap();
}

#[tokio::test]
async fn a_report_that_cannot_be_stored_fails_alone() {
    let (file, store, host) = with_host().await;
    let other = sample::host("other");
    sample::create(&store, &other).await;
    let bad = at(2).unix_micros();
    file.by_hand().run(&format!(
        "CREATE TRIGGER bad BEFORE INSERT ON host_metric_snapshots WHEN NEW.recorded_at = {bad} BEGIN
            SELECT RAISE(ABORT, 'this one cannot be stored');
         END;"
    ));
    let reports = [1, 2, 3].map(|seconds| sample::append(&host, full_report(seconds)));
    let mut reports = reports.to_vec();
    reports.insert(1, sample::append(&other, full_report(2)));
    reports.push(sample::append(&other, full_report(4)));
    let appended = store.append(reports).await.unwrap();
    let accepted = |outcome: &AppendOutcome| matches!(outcome, AppendOutcome::Accepted);
    assert_eq!(appended.outcomes.iter().map(accepted).collect::<Vec<_>>(), [true, false, false, true, true]);
    let AppendOutcome::Failed(error) = &appended.outcomes[1] else { panic!("{:?}", appended.outcomes) };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    // Nothing of it is there, its containers' rows and keys included, until the one after it names them.
    let times = store.list_telemetry(&everything(&host)).await.unwrap().items;
    assert_eq!(times.iter().map(|snapshot| snapshot.recorded_at).collect::<Vec<_>>(), [at(1), at(3)]);
    let containers = ContainerQuery { host_id: other.id, removed: true, after: None, limit: 10 };
    let containers = store.list_containers(&containers).await.unwrap().items;
    assert!(containers.iter().all(|container| container.first_seen_at == at(4)));
    // What a report says never changes presence: both hosts came online by their first contact, once.
    let online: Vec<_> = appended.events.iter().map(|event| (event.event.host_id, event.event.at)).collect();
    assert_eq!(online, [(Some(host.id), at(1)), (Some(other.id), at(2))]);
}

/// The disk is full for all of them: the caller keeps the reports, and none is stored in part.
#[tokio::test]
async fn a_disk_that_is_full_fails_the_whole_call() {
    let (file, store, host) = with_host().await;
    let bad = at(2).unix_micros();
    file.by_hand().run(&format!(
        "CREATE TRIGGER full BEFORE INSERT ON host_metric_snapshots WHEN NEW.recorded_at = {bad} BEGIN
            SELECT RAISE(ABORT, 'database or disk is full');
         END;"
    ));
    let reports = [1, 2, 3].map(|seconds| sample::append(&host, full_report(seconds)));
    let refused = store.append(reports.to_vec()).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(store.list_telemetry(&everything(&host)).await.unwrap().items.is_empty());
    file.by_hand().run("DROP TRIGGER full");
    let appended = store.append(reports.to_vec()).await.unwrap();
    assert!(appended.outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)));
}

#[tokio::test]
async fn numbers_that_no_column_holds_fail_their_report_alone() {
    let (_file, store, host) = with_host().await;
    let mut counter = full_report(2);
    counter.host.metrics.uptime_seconds = Some(u64::MAX);
    let mut number = full_report(3);
    number.containers[1].metrics.as_mut().unwrap().cpu_cores = Some(f64::NAN);
    let mut custom = full_report(4);
    custom.host.custom.insert("x".to_owned(), f64::INFINITY);
    let mut twice = full_report(5);
    twice.containers.push(twice.containers[0].clone());
    let reports = [full_report(1), counter, number, custom, twice, full_report(6)];
    let reports = reports.map(|report| sample::append(&host, report)).to_vec();
    let outcomes = store.append(reports).await.unwrap().outcomes;
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            AppendOutcome::Failed(error) => Some(error.kind()),
            _ => None,
        })
        .collect();
    let invalid = Some(StoreErrorKind::Invalid);
    assert_eq!(kinds, [None, invalid, invalid, invalid, invalid, None]);
    assert_eq!(store.list_telemetry(&everything(&host)).await.unwrap().items.len(), 2);
}

/// Coarsely, and never backwards.
#[tokio::test]
async fn the_last_use_of_a_token_rises_by_minutes_and_never_falls() {
    let file = File::migrated().await;
    let store = file.open().await;
    let host = sample::host("a");
    let token = AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
    let mut hand = file.by_hand();
    for (used, stored) in [(100, 100), (130, 100), (161, 161), (50, 161), (500, 500)] {
        let contact = Contact { token_id: token.id, ..sample::contact(&host, at(used)) };
        store.touch(vec![contact]).await.unwrap();
        let last_used_at = hand.column("SELECT last_used_at AS value FROM agent_tokens");
        assert_eq!(last_used_at, [Some(at(stored).unix_micros().to_string())]);
    }
    // A commit of the token leaves it alone.
    let mut write = sample::write(Revision::FIRST, &host);
    write.agent_tokens = vec![token];
    sample::commit(&store, write).await;
    assert_ne!(hand.column("SELECT last_used_at AS value FROM agent_tokens"), [None]);
}

#[tokio::test]
async fn an_error_holds_no_data() {
    let (_file, store, host) = with_host().await;
    let named = sample::host("canary-of-a-name");
    sample::create(&store, &named).await;
    let twin = Host { name: named.name.clone(), ..sample::host("b") };
    let clash = store.commit(Commit::of(HostWrite::new(Expected::Absent, twin), Vec::new())).await.unwrap_err();
    assert_eq!(clash.kind(), StoreErrorKind::NameTaken);
    let mut broken = full_report(1);
    broken.containers[0].name = "canary-of-a-container".to_owned();
    broken.containers.push(broken.containers[0].clone());
    let mut outcomes = store.append(vec![sample::append(&host, broken)]).await.unwrap().outcomes;
    let Some(AppendOutcome::Failed(failed)) = outcomes.pop() else { panic!("it was stored") };
    for error in [clash, failed] {
        let mut text = format!("{error} {error:?}");
        let mut source = error.source();
        while let Some(cause) = source {
            text += &format!(" {cause} {cause:?}");
            source = cause.source();
        }
        assert!(!text.contains("canary"), "{text}");
    }
}

/// A row that somebody else wrote is said to be corrupt, not absent: a host must not lose its credential over it.
#[tokio::test]
async fn a_row_that_cannot_be_understood_is_corrupt_and_not_absent() {
    let (file, store, host) = with_host().await;
    file.by_hand().run("UPDATE hosts SET labels = '[\"canary\"]'");
    let refused = store.load(&Key::Host(host.id)).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Corrupt);
    assert!(!format!("{refused:?}").contains("canary"));
}
