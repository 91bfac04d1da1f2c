//! What the suite cannot ask of a store: what the file is like after the process, and what becomes of damage.

use enlist_core::agent_token::RevokeReason;
use enlist_core::conformance::sample::{self, at};
use enlist_core::event::Position;
use enlist_core::policy::Scope;
use enlist_core::store::{
    AppendOutcome, Change, Commit, EventQuery, Expected, HostLookup, HostWrite, Known, Revision, Store, StoreErrorKind,
    Write,
};
use enlist_example_custom_store::RedbStore;
use futures_util::FutureExt;
use redb::{Database, TableDefinition};

fn run(test: impl AsyncFnOnce(std::path::PathBuf)) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    runtime.block_on(test(directory.path().join("fleet.redb")));
}

#[test]
fn a_fleet_outlives_its_process() {
    run(async |path| {
        let store = RedbStore::open(&path).await.unwrap();
        let (host, gone) = (sample::host("a"), sample::host("gone"));
        let token = sample::agent_token(&gone);
        sample::create_with_tokens(&store, &gone, vec![token.clone()]).await;
        let create = HostWrite::new(Expected::Absent, host.clone());
        store.commit(Commit::of(create, vec![sample::event(&host)])).await.unwrap();
        let deletion = Write::HostDeletion { expected: Revision::FIRST, host_id: gone.id, at: at(9) };
        store.commit(Commit::of(deletion, vec![sample::event(&gone)])).await.unwrap();
        drop(store);

        let store = RedbStore::open(&path).await.unwrap();
        store.check().await.unwrap();
        assert_eq!(sample::load(&store, host.id).await.host, host);
        assert!(matches!(store.authenticate(&token.hash).await.unwrap(), Some(Known::Tombstone(_))));
        let events = vec![sample::event(&host)];
        let [event] = &store.commit(Commit { writes: Vec::new(), events }).await.unwrap()[..] else { panic!("one") };
        assert_eq!(event.position, Position::new(3));
        assert_eq!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.len(), 3);
    });
}

#[test]
fn a_file_that_is_open_already_or_of_another_layout_is_refused() {
    run(async |path| {
        let store = RedbStore::open(&path).await.unwrap();
        assert_eq!(RedbStore::open(&path).await.err().unwrap().kind(), StoreErrorKind::Unavailable);
        drop(store);
        scribble(&path, TableDefinition::<&str, u64>::new("meta"), "layout", 2);
        assert_eq!(RedbStore::open(&path).await.err().unwrap().kind(), StoreErrorKind::SchemaVersion);
    });
}

#[test]
fn a_record_that_cannot_be_read_is_corrupt_and_concerns_its_report_alone() {
    run(async |path| {
        let store = RedbStore::open(&path).await.unwrap();
        let (damaged, sound) = (sample::host("damaged"), sample::host("sound"));
        sample::create(&store, &damaged).await;
        sample::create(&store, &sound).await;
        drop(store);
        let presence = TableDefinition::<u128, &[u8]>::new("presence");
        scribble(&path, presence, damaged.id.as_uuid().as_u128(), &br#"{"shown":"secret"}"#[..]);

        let store = RedbStore::open(&path).await.unwrap();
        let error = store.find_host(&HostLookup::Id(damaged.id)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert!(!format!("{error:?}").contains("secret"));
        let reports = [&damaged, &sound].map(|host| sample::append(host, sample::report(at(1)))).to_vec();
        let outcomes = store.append(reports).await.unwrap().outcomes;
        assert!(matches!(&outcomes[..], [AppendOutcome::Failed(_), AppendOutcome::Accepted]), "{outcomes:?}");
    });
}

#[test]
fn what_is_cut_off_is_told_though_the_caller_went_away() {
    run(async |path| {
        let store = RedbStore::open(&path).await.unwrap();
        let host = sample::host("a");
        let token = sample::agent_token(&host);
        sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
        let mut subscription = store.subscribe().await.unwrap().unwrap();
        let hash = token.hash;
        let revoked = token.revoke(RevokeReason::Administrator, at(2)).unwrap();
        let write = HostWrite { agent_tokens: vec![revoked], ..sample::write(Revision::FIRST, &host) };
        assert!(store.commit(Commit::of(write, Vec::new())).now_or_never().is_none());
        assert_eq!(subscription.next().await, Change::AgentTokens(vec![hash]));
    });
}

/// Writes past the store.
fn scribble<K: redb::Key, V: redb::Value>(
    path: &std::path::Path,
    table: TableDefinition<'_, K, V>,
    key: K::SelfType<'_>,
    value: V::SelfType<'_>,
) {
    let transaction = Database::open(path).unwrap().begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(key, value).unwrap();
    transaction.commit().unwrap();
}
