//! Hosts with liveness windows of their own, shorter and longer than the fleet's.

use std::time::Duration;

use super::Fixture;
use super::sample::{self, at};
use crate::clock::Timestamp;
use crate::event::EventBody;
use crate::host::Host;
use crate::id::HostId;
use crate::liveness::{LivenessWindow, Pace, Verdict};
use crate::store::{Expected, Revision, Store, Sweep, Swept};

const WINDOW: Duration = Duration::from_secs(90);

fn window(seconds: u64) -> Option<LivenessWindow> {
    Some(LivenessWindow::from_secs(seconds).expect("it is within bounds"))
}

/// A host with this window, that was heard last at `seen`, in seconds.
async fn heard(store: &impl Store, liveness_window: Option<LivenessWindow>, seen: i64) -> Host {
    let host = Host { liveness_window, ..sample::host(&sample::hash().to_hex()) };
    sample::create(store, &host).await;
    hear(store, &host, seen).await;
    host
}

async fn hear(store: &impl Store, host: &Host, seen: i64) {
    store.touch(vec![sample::contact(host, at(seen))]).await.unwrap();
}

async fn sweep(store: &impl Store, now: Timestamp) -> Swept {
    store.sweep(sample::sweep(now, WINDOW)).await.unwrap()
}

fn told(swept: &Swept) -> Vec<HostId> {
    swept.events.iter().filter_map(|event| event.event.host_id).collect()
}

fn just_beyond(seconds: i64) -> Timestamp {
    at(seconds).saturating_add(Duration::from_micros(1))
}

/// To the microsecond, whichever is longer; the fleet's is for those without.
pub async fn a_host_falls_silent_by_its_own_window(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&here).await;
    let short = heard(&here, window(10), 0).await;
    let fleets = heard(&here, None, 0).await;
    let long = heard(&here, window(86_400), 0).await;
    for (host, seconds) in [(short, 10), (fleets, 90), (long, 86_400)] {
        assert_eq!(told(&sweep(&there, at(seconds)).await), []);
        let swept = sweep(&there, just_beyond(seconds)).await;
        assert_eq!(told(&swept), [host.id]);
        assert_eq!(swept.events[0].event.body, EventBody::HostUnreachable { last_seen_at: at(0), storm: false });
        assert_eq!(told(&sweep(&here, just_beyond(seconds)).await), []);
    }
}

/// A contact counts for it as for any other, and brings it back.
pub async fn contacts_count_within_a_hosts_own_window(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    for own in [10, 600] {
        let host = heard(&store, window(own), 0).await;
        let own = i64::try_from(own).unwrap();
        hear(&store, &host, own).await;
        store.append(vec![sample::append(&host, sample::report(at(own + 1)))]).await.unwrap();
        assert_eq!(told(&sweep(&store, at(own + 1 + own)).await), []);
        assert_eq!(told(&sweep(&store, just_beyond(own + 1 + own)).await), [host.id]);
        hear(&store, &host, 3 * own).await;
        assert_eq!(told(&sweep(&store, at(4 * own)).await), []);
        assert_eq!(told(&sweep(&store, just_beyond(4 * own)).await), [host.id]);
    }
}

/// Whoever sets it, and however long ago the host was heard: before its first contact, between two, and away again.
pub async fn another_window_counts_from_its_commit_on(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&here).await;
    let host = sample::host("a");
    sample::create(&here, &host).await;
    let mut revision = Revision::FIRST;
    let set = async |revision: &mut Revision, liveness_window| {
        sample::commit(&there, sample::write(*revision, &Host { liveness_window, ..host.clone() })).await;
        *revision = Expected::Revision(*revision).next();
    };
    set(&mut revision, window(600)).await;
    hear(&here, &host, 0).await;
    assert_eq!(told(&sweep(&here, at(600)).await), []);
    set(&mut revision, None).await;
    assert_eq!(told(&sweep(&here, at(600)).await), [host.id]);
    hear(&here, &host, 700).await;
    assert_eq!(told(&sweep(&here, at(720)).await), []);
    set(&mut revision, window(10)).await;
    assert_eq!(told(&sweep(&here, at(720)).await), [host.id]);
    hear(&here, &host, 800).await;
    set(&mut revision, window(20)).await;
    assert_eq!(told(&sweep(&here, at(820)).await), []);
    set(&mut revision, window(10)).await;
    assert_eq!(told(&sweep(&here, at(820)).await), [host.id]);
}

/// It may have been heard meanwhile by nobody: its own window begins anew. A shorter one waits for the fleet's.
pub async fn an_absence_does_not_count_towards_any_window(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let pace = Pace { window: WINDOW, tick: Duration::from_secs(10) };
    let sweep = async |store, seconds| {
        let swept: Swept = Store::sweep(store, Sweep { pace, ..sample::sweep(at(seconds), WINDOW) }).await.unwrap();
        swept
    };
    for seconds in (0..=130).step_by(10) {
        sweep(&here, seconds).await;
    }
    let long = heard(&here, window(600), 50).await;
    let short = heard(&here, window(10), 125).await;
    // Nobody sweeps between 130 and 1,000.
    for seconds in (1_000..=1_700).step_by(10) {
        let swept = sweep(&there, seconds).await;
        let expected = match seconds {
            1_090 => vec![short.id],
            1_600 => vec![long.id],
            _ => vec![],
        };
        assert_eq!(told(&swept), expected, "at {seconds}");
    }
}

/// Who has fallen and who is left is told by each host's own window as well.
pub async fn a_storm_is_told_by_each_hosts_own_window(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    for own in [window(10), window(86_400)] {
        for _ in 0..5 {
            heard(&store, own, 0).await;
        }
    }
    let swept = sweep(&store, at(11)).await;
    assert_eq!(swept.verdict, Verdict::Holding { since: at(11), until: at(11 + 450) }, "5 of 10");
    heard(&store, window(86_400), 0).await;
    let swept = sweep(&store, at(12)).await;
    assert_eq!((swept.verdict, swept.events.len()), (Verdict::Sweep { storm: false }, 5), "5 of 11");
    // Long after that, those with the long window are left.
    for _ in 0..5 {
        heard(&store, None, 9_000).await;
    }
    let swept = sweep(&store, at(9_100)).await;
    assert_eq!((swept.verdict, swept.events.len()), (Verdict::Sweep { storm: false }, 5), "5 of 11");
}

/// Of those that are silent, those whose windows ended first are judged first, and none is passed over for long.
pub async fn windows_that_ended_first_are_judged_first(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    let long = heard(&store, window(3_600), 0).await;
    let fleets = heard(&store, None, 1_000).await;
    let short = heard(&store, window(10), 500).await;
    heard(&store, window(7_200), 0).await;
    for (host, more) in [(short, true), (fleets, true), (long, false)] {
        let sweep = sample::sweep(at(5_000), WINDOW);
        let sweep = Sweep { event_ids: sweep.event_ids[..1].to_vec(), ..sweep };
        let swept = store.sweep(sweep).await.unwrap();
        assert_eq!((told(&swept), swept.more), (vec![host.id], more));
    }
}
