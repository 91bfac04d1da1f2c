//! Reports read back: by range, and in pages.

use super::Fixture;
use super::contact::{append, new_host, with_containers};
use super::sample::{self, at};
use crate::store::{ContainerQuery, ContainerRecord, Store, TelemetryQuery};
use crate::telemetry::HostSnapshot;

/// `from` belongs to it, `to` does not; every page size gives the same.
pub async fn telemetry_is_read_by_range_in_pages(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (new_host(&store).await, new_host(&store).await);
    // Not in the order of time: a backlog comes newest first.
    for seconds in [5, 1, 4, 2, 3, 6] {
        append(&store, &host, &[&with_containers(at(seconds), true, &["b", "a"])]).await;
        append(&store, &other, &[&sample::report(at(seconds))]).await;
    }
    for limit in [1, 2, 3, 4, 10] {
        let seen = sample::walk(|last: Option<&HostSnapshot>| {
            let after = last.map(|snapshot| snapshot.recorded_at);
            let query = TelemetryQuery { host_id: host.id, from: at(2), to: at(6), after, limit };
            let store = &store;
            async move { store.list_telemetry(&query).await.unwrap() }
        })
        .await;
        let times: Vec<_> = seen.iter().map(|snapshot| snapshot.recorded_at).collect();
        assert_eq!(times, [2, 3, 4, 5].map(at), "in pages of {limit}");
        for snapshot in seen {
            let ids: Vec<_> = snapshot.containers.iter().map(|container| container.container_id.as_str()).collect();
            assert_eq!(ids, ["a", "b"]);
        }
    }
}

/// A cursor only ever moves the beginning on, and a range that ends before it begins holds nothing.
pub async fn a_cursor_widens_no_range(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    for seconds in 1..=6 {
        append(&store, &host, &[&sample::report(at(seconds))]).await;
    }
    for (from, to, after, expected) in [
        (3, 6, Some(0), &[3, 4, 5][..]),
        (3, 6, Some(1), &[3, 4, 5]),
        (3, 6, Some(2), &[3, 4, 5]),
        (3, 6, Some(3), &[4, 5]),
        (3, 6, Some(5), &[]),
        (3, 6, Some(9), &[]),
        (3, 3, None, &[]),
        (3, 3, Some(1), &[]),
        (5, 2, None, &[]),
        (5, 2, Some(1), &[]),
        (5, 2, Some(5), &[]),
    ] {
        let query = TelemetryQuery { host_id: host.id, from: at(from), to: at(to), after: after.map(at), limit: 10 };
        let page = store.list_telemetry(&query).await.unwrap();
        let times: Vec<_> = page.items.iter().map(|snapshot| snapshot.recorded_at).collect();
        assert_eq!(times, expected.iter().copied().map(at).collect::<Vec<_>>(), "{from} to {to} after {after:?}");
        assert!(!page.more);
    }
}

/// In the order of their ids, to the byte.
pub async fn containers_are_read_in_pages(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (new_host(&store).await, new_host(&store).await);
    let ids = ["A", "B", "a", "b", "c", "é", "主"];
    append(&store, &host, &[&with_containers(at(1), true, &["主", "b", "B", "a", "c", "A", "é"])]).await;
    append(&store, &other, &[&with_containers(at(1), true, &["x"])]).await;
    for limit in [1, 2, 7, 8] {
        let seen = sample::walk(|last: Option<&ContainerRecord>| {
            let after = last.map(|row| row.container.container_id.clone());
            let query = ContainerQuery { host_id: host.id, removed: false, after, limit };
            let store = &store;
            async move { store.list_containers(&query).await.unwrap() }
        })
        .await;
        let seen: Vec<_> = seen.iter().map(|row| row.container.container_id.as_str()).collect();
        assert_eq!(seen, ids, "in pages of {limit}");
    }
}
