//! Reports name their containers by keys: what that costs, and that a key is there for as long as it is named.

mod common;

use common::{Hand, SOMEBODY_WAITS, Server, everything, full_report, with_host};
use enlist_core::Timestamp;
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::store::{AppendOutcome, ContainerQuery, ContainerRecord, HostLookup, Prune, Pruned, Store};
use enlist_core::telemetry::{HostSnapshot, Report};
use enlist_storage_postgres::PgStore;

const DAY: i64 = 24 * 60 * 60;

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

fn complete(seconds: i64, ids: &[&str]) -> Report {
    let containers = ids.iter().map(|id| sample::container(id)).collect();
    Report { containers, containers_complete: true, ..sample::report(at(seconds)) }
}

async fn append(store: &PgStore, host: &Host, reports: &[&Report]) -> Vec<AppendOutcome> {
    let reports = reports.iter().map(|report| sample::append(host, (*report).clone()));
    store.append(reports.collect()).await.unwrap().outcomes
}

async fn stored(store: &PgStore, host: &Host) -> Vec<HostSnapshot> {
    store.list_telemetry(&everything(host)).await.unwrap().items
}

fn whole(reports: &[&Report]) -> Vec<HostSnapshot> {
    reports.iter().map(|report| HostSnapshot::of(report, report.recorded_at)).collect()
}

async fn listed(store: &PgStore, host: &Host) -> Vec<ContainerRecord> {
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 100 };
    store.list_containers(&query).await.unwrap().items
}

async fn version(store: &PgStore, host: &Host) -> u64 {
    store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap().presence.containers_version
}

async fn rows(hand: &mut Hand) -> String {
    hand.value("SELECT count(*) FROM containers").await
}

/// They would be half of what a fleet keeps.
#[tokio::test]
async fn the_ids_of_containers_take_no_room_in_a_report() {
    let (server, store, host) = with_host().await;
    let docker = ["0a", "1b", "2c"].map(|byte| byte.repeat(32));
    let reports = [complete(1, &["a", "b", "c"]), complete(2, &docker.each_ref().map(String::as_str))];
    append(&store, &host, &[&reports[0], &reports[1]]).await;
    let mut hand = server.by_hand().await;
    let sizes = hand.column("SELECT pg_column_size(s.*) FROM host_metric_snapshots AS s ORDER BY recorded_at").await;
    assert_eq!(sizes[0], sizes[1]);
    assert_eq!(stored(&store, &host).await, whole(&[&reports[0], &reports[1]]));
}

/// Whoever looks at the containers' table while somebody has locked it waits: a report that changes nothing does not.
#[tokio::test]
async fn a_report_whose_containers_are_known_does_not_touch_the_table_of_containers() {
    let (server, store, host) = with_host().await;
    let first = complete(100, &["a", "b"]);
    append(&store, &host, &[&first]).await;
    let mut hand = server.by_hand().await;
    hand.run("BEGIN; LOCK TABLE containers IN ACCESS EXCLUSIVE MODE").await;
    let reports = [complete(101, &["b", "a"]), complete(102, &["a", "b"])];
    for report in &reports {
        let outcomes = append(&store, &host, &[report]).await;
        assert!(matches!(outcomes[..], [AppendOutcome::Accepted]), "{outcomes:?}");
    }
    hand.run("COMMIT").await;
    assert_eq!(stored(&store, &host).await, whole(&[&first, &reports[0], &reports[1]]));
}

/// A backlog names what runs now, for the most part. It is looked for, and then asks for no key.
#[tokio::test]
async fn a_late_report_asks_only_for_keys_that_are_not_known() {
    let (server, store, host) = with_host().await;
    append(&store, &host, &[&complete(100, &["a", "b"])]).await;
    server
        .by_hand()
        .await
        .run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON containers FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
        )
        .await;
    let outcomes = append(&store, &host, &[&complete(50, &["b", "a"]), &complete(60, &["a"])]).await;
    assert!(matches!(outcomes[..], [AppendOutcome::Accepted, AppendOutcome::Accepted]), "{outcomes:?}");
    let outcomes = append(&store, &host, &[&complete(70, &["a", "other"])]).await;
    assert!(matches!(outcomes[..], [AppendOutcome::Failed(_)]), "{outcomes:?}");
}

/// What this handle remembers are the keys of rows that another has removed, pruned and made anew since.
#[tokio::test]
async fn a_key_that_is_remembered_is_believed_for_its_version_only() {
    let server = Server::migrated().await;
    let (here, there) = (server.open(), server.open());
    let host = sample::host("a");
    sample::create(&here, &host).await;
    append(&here, &host, &[&complete(1, &["a"])]).await;
    append(&there, &host, &[&complete(DAY, &[])]).await;
    there.prune(&Prune { containers_removed_before: at(2 * DAY), ..prune_nothing() }).await.unwrap();
    there.prune(&Prune { snapshots_before: at(9 * DAY), ..prune_nothing() }).await.unwrap();
    let mut hand = server.by_hand().await;
    assert_eq!(rows(&mut hand).await, "0");
    append(&there, &host, &[&complete(10 * DAY, &["a"])]).await;
    let reports = [complete(10 * DAY + 1, &["a"]), complete(10 * DAY + 2, &["a"])];
    append(&here, &host, &[&reports[0]]).await;
    append(&here, &host, &[&reports[1]]).await;
    assert_eq!(stored(&there, &host).await[1..], whole(&[&reports[0], &reports[1]]));
    let keys = hand.value("SELECT count(DISTINCT container_numbers[1]) FROM host_metric_snapshots").await;
    assert_eq!(keys, "1");
}

/// The rows that no list shows: made, kept and deleted when they have to be, and told to nobody.
#[tokio::test]
async fn a_row_for_the_sake_of_a_key_goes_with_the_last_report_that_names_it() {
    let (server, store, host) = with_host().await;
    let mut hand = server.by_hand().await;
    append(&store, &host, &[&complete(10, &["gone", "stays"])]).await;
    append(&store, &host, &[&complete(20, &["stays"])]).await;
    let before = version(&store, &host).await;
    let asked = Prune { containers_removed_before: at(20), snapshots_before: at(10), ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 0, more: false });
    assert_eq!(version(&store, &host).await, before);
    let asked = Prune { containers_removed_before: at(21), ..asked };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 1, more: false });
    assert_eq!(version(&store, &host).await, before + 1);
    assert_eq!(listed(&store, &host).await.len(), 1);
    assert_eq!(stored(&store, &host).await, whole(&[&complete(10, &["gone", "stays"]), &complete(20, &["stays"])]));
    // Two days later. A late report of the day before names it, and one that nobody ever saw.
    append(&store, &host, &[&complete(2 * DAY, &["stays"])]).await;
    let late = complete(DAY, &["gone", "older"]);
    append(&store, &host, &[&late]).await;
    assert_eq!((version(&store, &host).await, rows(&mut hand).await), (before + 1, "3".to_owned()));
    let day = |day: i64| Prune { snapshots_before: at(day * DAY), ..prune_nothing() };
    assert_eq!(store.prune(&day(1)).await.unwrap(), Pruned { rows: 0, more: false });
    assert_eq!(stored(&store, &host).await[0], whole(&[&late])[0]);
    assert_eq!(rows(&mut hand).await, "3");
    assert_eq!(store.prune(&day(2)).await.unwrap(), Pruned { rows: 0, more: false });
    assert_eq!((version(&store, &host).await, rows(&mut hand).await), (before + 1, "1".to_owned()));
    // It begins anew.
    append(&store, &host, &[&complete(3 * DAY, &["gone", "stays"])]).await;
    assert_eq!(listed(&store, &host).await[0].first_seen_at, at(3 * DAY));
}

/// A day that stays, because somebody reads it or because it is not over, keeps what names its containers.
#[tokio::test]
async fn a_key_stays_for_as_long_as_its_day_does() {
    let (server, store, host) = with_host().await;
    let mut hand = server.by_hand().await;
    let reports = [complete(10, &["gone"]), complete(20, &[])];
    append(&store, &host, &[&reports[0], &reports[1]]).await;
    let asked = Prune { containers_removed_before: at(DAY), snapshots_before: at(30), ..prune_nothing() };
    store.prune(&asked).await.unwrap();
    assert_eq!(stored(&store, &host).await, whole(&[&reports[0], &reports[1]]), "the day is not over");
    let mut reader = server.by_hand().await;
    reader.run("BEGIN; SELECT FROM host_metric_snapshots").await;
    store.prune(&Prune { snapshots_before: at(DAY), ..asked }).await.unwrap();
    reader.run("COMMIT").await;
    assert_eq!(stored(&store, &host).await, whole(&[&reports[0], &reports[1]]), "the day is read");
    store.prune(&Prune { snapshots_before: at(DAY), ..asked }).await.unwrap();
    assert_eq!((stored(&store, &host).await, rows(&mut hand).await), (Vec::new(), "0".to_owned()));
}

#[tokio::test]
async fn keys_go_within_the_limit_and_uncounted() {
    let (server, store, host) = with_host().await;
    let mut hand = server.by_hand().await;
    append(&store, &host, &[&complete(10, &["a", "b", "c"])]).await;
    append(&store, &host, &[&complete(20, &[])]).await;
    let forget = Prune { containers_removed_before: at(DAY), ..prune_nothing() };
    assert_eq!(store.prune(&forget).await.unwrap(), Pruned { rows: 3, more: false });
    let step = Prune { snapshots_before: at(DAY), limit: 2, ..prune_nothing() };
    assert_eq!(store.prune(&step).await.unwrap(), Pruned { rows: 0, more: true });
    assert_eq!(rows(&mut hand).await, "1");
    assert_eq!(store.prune(&step).await.unwrap(), Pruned { rows: 0, more: false });
    assert_eq!(rows(&mut hand).await, "0");
}

/// Between the look and the deletion a late report names the container again.
#[tokio::test]
async fn a_key_that_is_named_while_it_is_pruned_stays() {
    let (server, store, host) = with_host().await;
    append(&store, &host, &[&complete(9 * DAY, &[])]).await;
    append(&store, &host, &[&complete(0, &["late"])]).await;
    let mut hand = server.by_hand().await;
    // As an append does: the host's row is locked first.
    hand.run("BEGIN; SELECT FROM host_presence FOR UPDATE").await;
    let pruning = tokio::spawn({
        let store = store.clone();
        async move { store.prune(&Prune { snapshots_before: at(5 * DAY), ..prune_nothing() }).await.unwrap() }
    });
    server.by_hand().await.until(SOMEBODY_WAITS).await;
    let named = at(8 * DAY).unix_micros() / 1_000_000;
    hand.run(&format!("UPDATE containers SET named_until = to_timestamp({named}); COMMIT")).await;
    pruning.await.unwrap();
    assert_eq!(rows(&mut hand).await, "1");
}

/// A container that comes back while it is pruned is described, and stays so.
#[tokio::test]
async fn a_container_that_comes_back_while_it_is_pruned_stays() {
    let (server, store, host) = with_host().await;
    append(&store, &host, &[&complete(10, &["a"])]).await;
    append(&store, &host, &[&complete(20, &[])]).await;
    let mut hand = server.by_hand().await;
    hand.run("BEGIN; SELECT FROM host_presence FOR UPDATE").await;
    let pruning = tokio::spawn({
        let store = store.clone();
        async move { store.prune(&Prune { containers_removed_before: at(DAY), ..prune_nothing() }).await.unwrap() }
    });
    server.by_hand().await.until(SOMEBODY_WAITS).await;
    hand.run("UPDATE containers SET removed_at = NULL; COMMIT").await;
    assert_eq!(pruning.await.unwrap(), Pruned { rows: 0, more: false });
    assert_eq!(listed(&store, &host).await.len(), 1);
}

/// What a hand at the prompt has put there is newer than the host's newest report, and found all the same: the report of
/// that time is a conflict, which touches no container, and its neighbours are stored.
#[tokio::test]
async fn a_report_that_a_hand_has_stored_is_found_alone_and_in_a_group() {
    for others in [&[][..], &[complete(3, &["a", "b"]), complete(4, &["a"])]] {
        let (server, store, host) = with_host().await;
        append(&store, &host, &[&complete(1, &["a"])]).await;
        let mut hand = server.by_hand().await;
        hand.run(
            "INSERT INTO host_metric_snapshots (host_id, recorded_at, received_at)
             SELECT host_id, recorded_at + interval '1 second', received_at FROM host_metric_snapshots",
        )
        .await;
        let clash = complete(2, &["x"]);
        let reports: Vec<_> = std::iter::once(&clash).chain(others).collect();
        let outcomes = append(&store, &host, &reports).await;
        assert!(matches!(outcomes[0], AppendOutcome::Conflict), "{outcomes:?}");
        assert!(outcomes[1..].iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
        let expected: &[&str] = if others.is_empty() { &["a"] } else { &["a", "b"] };
        let seen = listed(&store, &host).await;
        assert_eq!(seen.iter().map(|row| row.container.container_id.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(rows(&mut hand).await, expected.len().to_string(), "nor for its key's sake");
    }
}

/// The view is for people: of every container that was measured, under the name by which it goes.
#[tokio::test]
async fn the_view_names_every_container_of_every_report() {
    let (server, store, host) = with_host().await;
    append(&store, &host, &[&full_report(10)]).await;
    append(&store, &host, &[&complete(5, &["late", "a"])]).await;
    append(&store, &host, &[&complete(20, &["c"])]).await;
    store.prune(&Prune { containers_removed_before: at(30), ..prune_nothing() }).await.unwrap();
    let mut hand = server.by_hand().await;
    let ids = "SELECT string_agg(container_id, ' ' ORDER BY recorded_at, container_id) FROM container_metric_snapshots";
    assert_eq!(hand.value(ids).await, "a late a b c c");
    // Where somebody has deleted a container, its numbers have no name, and the rest of the report can be read.
    hand.run("DELETE FROM containers WHERE container_id = 'late'").await;
    assert_eq!(hand.value("SELECT count(*) FROM container_metric_snapshots WHERE container_id IS NULL").await, "1");
    let left = stored(&store, &host).await;
    assert_eq!(left[0].containers.iter().map(|of| of.container_id.as_str()).collect::<Vec<_>>(), ["a"]);
}

/// A host that was deleted leaves no keys.
#[tokio::test]
async fn a_deleted_hosts_keys_go_with_what_it_reported() {
    let (server, store, host) = with_host().await;
    append(&store, &host, &[&complete(10, &["a"])]).await;
    append(&store, &host, &[&complete(5, &["late"])]).await;
    let mut hand = server.by_hand().await;
    hand.run("DELETE FROM hosts").await;
    let pruned = store.prune(&prune_nothing()).await.unwrap();
    assert_eq!(pruned, Pruned { rows: 4, more: false });
    assert_eq!(rows(&mut hand).await, "0");
}
