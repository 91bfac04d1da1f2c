//! A past for Enlist's tables.

use enlist_benches::Error;
use enlist_benches_contract::enrol::enrol;
use enlist_benches_contract::opened::Opened;
use enlist_benches_contract::reports::{Arrival, Maker, check};
use enlist_core::Timestamp;
use enlist_core::store::Append;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Fleet;

/// Reports of one call.
const BATCH: usize = 400;

pub(crate) async fn grow(fleet: &Fleet, reports: u32) -> Result<Value, Error> {
    let opened = Opened::open(&fleet.database).await?;
    let store = opened.store();
    let start = Timestamp::from_unix_micros(fleet.start).ok_or("the past begins before 1970")?;
    let reporters = enrol(&*store, fleet.hosts, start, &fleet.hosts_file).await?;
    // Made on one core while they are stored on another.
    let (sender, mut receiver) = mpsc::channel::<Result<Vec<Append>, Error>>(2);
    let past = fleet.history().reports(0).take(reports as usize);
    std::thread::spawn(move || {
        let mut maker = Maker::new(reporters, Arrival::AtOnce);
        let mut appends = past.map(|report| maker.make(&report));
        loop {
            let batch: Result<Vec<_>, _> = appends.by_ref().take(BATCH).collect();
            let is_last = batch.as_ref().map_or(true, Vec::is_empty);
            if sender.blocking_send(batch).is_err() || is_last {
                return;
            }
        }
    });
    while let Some(batch) = receiver.recv().await {
        check(&store.append(batch?).await?)?;
    }
    opened.close().await;
    Ok(json!({ "reports": reports }))
}
