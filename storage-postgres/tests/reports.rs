//! Reports that cannot be stored: which of them fail, and what becomes of the others.

mod common;

use common::{Hand, everything, full_report, with_host};
use enlist_core::conformance::sample::{self, at};
use enlist_core::store::{AppendOutcome, ContainerQuery, Store, StoreErrorKind};
use enlist_core::telemetry::Report;

async fn refuse_reports_at(hand: &mut Hand, seconds: i64, code: &str) {
    hand.run(&format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION ''refused'' USING ERRCODE = ''{code}''; END';
         CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON host_metric_snapshots FOR EACH ROW
            WHEN (extract(epoch FROM NEW.recorded_at) = {}) EXECUTE FUNCTION refuse()",
        at(seconds).unix_micros() / 1_000_000
    ))
    .await;
}

#[tokio::test]
async fn a_report_that_cannot_be_stored_fails_alone() {
    let (server, store, host) = with_host().await;
    let other = sample::host("other");
    sample::create(&store, &other).await;
    refuse_reports_at(&mut server.by_hand().await, 2, "P0001").await;
    let mut reports = [1, 2, 3].map(|seconds| sample::append(&host, full_report(seconds))).to_vec();
    reports.insert(1, sample::append(&other, full_report(2)));
    reports.push(sample::append(&other, full_report(4)));
    let appended = store.append(reports).await.unwrap();
    let accepted = |outcome: &AppendOutcome| matches!(outcome, AppendOutcome::Accepted);
    assert_eq!(appended.outcomes.iter().map(accepted).collect::<Vec<_>>(), [true, false, false, true, true]);
    let AppendOutcome::Failed(error) = &appended.outcomes[1] else { panic!("{:?}", appended.outcomes) };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    // Nothing of it is there, its containers' rows included, until the one after it names them.
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
    let (server, store, host) = with_host().await;
    let mut hand = server.by_hand().await;
    refuse_reports_at(&mut hand, 2, "53100").await;
    let reports = [1, 2, 3].map(|seconds| sample::append(&host, full_report(seconds))).to_vec();
    let refused = store.append(reports.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(store.list_telemetry(&everything(&host)).await.unwrap().items.is_empty());
    hand.run("DROP TRIGGER refuse ON host_metric_snapshots").await;
    let appended = store.append(reports).await.unwrap();
    assert!(appended.outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)));
}

#[tokio::test]
async fn values_that_no_column_holds_fail_their_report_alone() {
    let (_server, store, host) = with_host().await;
    let broken = |seconds, break_it: fn(&mut Report)| {
        let mut report = full_report(seconds);
        break_it(&mut report);
        report
    };
    let reports = [
        full_report(1),
        broken(2, |report| report.host.metrics.uptime_seconds = Some(u64::MAX)),
        broken(3, |report| report.containers[1].metrics.as_mut().unwrap().cpu_cores = Some(f64::NAN)),
        broken(4, |report| report.host.custom = [("x".to_owned(), f64::INFINITY)].into()),
        broken(5, |report| report.containers.push(report.containers[0].clone())),
        broken(6, |report| report.containers[0].restarts = Some(u64::MAX)),
        // PostgreSQL's texts hold no zero byte.
        broken(7, |report| report.containers[0].container_id = "a\0b".to_owned()),
        full_report(8),
    ];
    let reports = reports.map(|report| sample::append(&host, report)).to_vec();
    let outcomes = store.append(reports).await.unwrap().outcomes;
    let kinds = outcomes.iter().map(|outcome| match outcome {
        AppendOutcome::Failed(error) => Some(error.kind()),
        _ => None,
    });
    let invalid = Some(StoreErrorKind::Invalid);
    assert_eq!(kinds.collect::<Vec<_>>(), [None, invalid, invalid, invalid, invalid, invalid, invalid, None]);
    assert_eq!(store.list_telemetry(&everything(&host)).await.unwrap().items.len(), 2);
}

/// Between two reports the server stops to answer: those behind would each wait in vain.
#[tokio::test]
async fn when_the_server_fails_while_reports_are_stored_one_by_one_the_rest_is_not_tried() {
    let (server, store, host) = with_host().await;
    server
        .by_hand()
        .await
        .run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF (NEW.custom ->> 'bad')::float = 1 THEN RAISE EXCEPTION 'refused' USING ERRCODE = 'P0001'; END IF;
                 IF (NEW.custom ->> 'bad')::float = 2 THEN RAISE EXCEPTION 'refused' USING ERRCODE = '53100'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON host_metric_snapshots FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let reports = [(1, 0.0), (2, 1.0), (3, 0.0), (4, 2.0), (5, 0.0), (6, 0.0)].map(|(seconds, bad)| {
        let mut report = full_report(seconds);
        report.host.custom = [("bad".to_owned(), bad)].into();
        sample::append(&host, report)
    });
    let outcomes = store.append(reports.to_vec()).await.unwrap().outcomes;
    let kinds = outcomes.iter().map(|outcome| match outcome {
        AppendOutcome::Failed(error) => Some(error.kind()),
        _ => None,
    });
    let (invalid, away) = (Some(StoreErrorKind::Invalid), Some(StoreErrorKind::Unavailable));
    assert_eq!(kinds.collect::<Vec<_>>(), [None, invalid, None, away, away, away]);
    let stored = store.list_telemetry(&everything(&host)).await.unwrap().items;
    assert_eq!(stored.iter().map(|snapshot| snapshot.recorded_at).collect::<Vec<_>>(), [at(1), at(3)]);
}
