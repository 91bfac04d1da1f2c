//! Following events as they are committed.
//!
//! One driver asks the store for its last position while anybody follows, and rings; each feed then reads what lies between
//! its own place and that position with its own query. The position is read before the query and the order of positions is
//! the order of commits, so nothing is lost between a list and a feed, or between two readings.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, Either};
use serde::Deserialize;

use crate::event::{Event, Position};
use crate::fleet::error::AdminError;
use crate::fleet::event::within_reach;
use crate::fleet::{Admin, Fleet, Inner, Timer, parse_cursor, query};
use crate::host::HostKind;
use crate::id::{ActorId, HostId, TenantId};
use crate::policy::{Action, Actor};
use crate::store::{EventQuery, StoreError, StoreErrorKind};
use crate::wire::EventReply;

/// How often the store is asked for its last position while somebody follows.
const LOOK: Duration = Duration::from_millis(250);
/// Every so many looks all feeds are rung, whether or not there is anything new.
const LOOKS_A_TICK: u32 = 4;
/// How many events a feed holds at most. It reads more only once these were taken.
const HELD: usize = 100;

/// Which events to follow: the query of `GET /v1/events/stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedFilter {
    /// Of this host only.
    #[serde(default, deserialize_with = "query::host_id")]
    pub host_id: Option<HostId>,
    /// Of this tenant only.
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    /// Of hosts of this kind only.
    #[serde(default)]
    pub kind: Option<HostKind>,
    /// Of this type only, as in `host.created`.
    #[serde(default)]
    pub r#type: Option<String>,
    /// A position, as of a page of events: what follows it is told. From now on, unless it is given.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// What a feed tells.
#[derive(Debug, Clone, PartialEq)]
pub enum FeedItem {
    /// Something happened.
    Event(Box<EventReply>),
    /// Nothing did that this feed shows: for about a second, or between what others were told. It is still there. Everything up to this position was told, so that whoever
    /// comes back with it misses nothing.
    Quiet(Position),
}

/// Events as they are committed, by whichever replica, in the order of their positions, each once. Made by
/// [`Admin::follow_events`]; its drop ends it.
///
/// It holds at most 100 events, and reads more only once they were taken.
pub struct EventFeed {
    fleet: Arc<Inner>,
    place: u64,
    /// What is asked next. Everything up to `after` was read.
    query: EventQuery,
    /// How far the store is known to reach.
    reach: Position,
    more: bool,
    held: VecDeque<Event>,
    heard: u64,
}

/// Who follows, and what was rung last.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    next_place: u64,
    followers: BTreeMap<u64, Follower>,
    rings: u64,
    reach: Position,
}

#[derive(Debug)]
struct Follower {
    actor: ActorId,
    waker: Option<Waker>,
}

impl Feeds {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) {
        self.state().open = true;
    }

    fn close(&self) {
        let wakers = {
            let mut state = self.state();
            state.open = false;
            state.wakers()
        };
        wake(wakers);
    }

    fn are_open(&self) -> bool {
        self.state().open
    }

    fn are_followed(&self) -> bool {
        !self.state().followers.is_empty()
    }

    /// Takes a place for a feed of `actor`, and the number of the last ring.
    fn enter(&self, actor: &ActorId, most: usize, most_of_actor: usize) -> Result<(u64, u64), AdminError> {
        let mut state = self.state();
        if !state.open {
            return Err(AdminError::Store(StoreError::new(StoreErrorKind::Unavailable)));
        }
        let of_actor = state.followers.values().filter(|follower| follower.actor == *actor).count();
        if state.followers.len() >= most || of_actor >= most_of_actor {
            return Err(AdminError::TooManyFeeds);
        }
        let place = state.next_place;
        state.next_place += 1;
        state.followers.insert(place, Follower { actor: actor.clone(), waker: None });
        Ok((place, state.rings))
    }

    fn leave(&self, place: u64) {
        self.state().followers.remove(&place);
    }

    /// Rings when the store reaches further than it did, and on a tick. A position never goes back: a store whose events
    /// were all pruned says that there is none.
    fn ring(&self, reach: Position, tick: bool) {
        let wakers = {
            let mut state = self.state();
            if reach <= state.reach && !tick {
                return;
            }
            state.reach = state.reach.max(reach);
            state.rings += 1;
            state.wakers()
        };
        wake(wakers);
    }

    /// The next ring after `heard`, and how far the store reaches; `None` once the feeds are closed.
    fn poll_ring(&self, place: u64, heard: u64, context: &Context<'_>) -> Poll<Option<(u64, Position)>> {
        let mut state = self.state();
        if !state.open {
            return Poll::Ready(None);
        }
        if state.rings != heard {
            return Poll::Ready(Some((state.rings, state.reach)));
        }
        if let Some(follower) = state.followers.get_mut(&place) {
            follower.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl State {
    fn wakers(&mut self) -> Vec<Waker> {
        self.followers.values_mut().filter_map(|follower| follower.waker.take()).collect()
    }
}

/// Once the lock is free: an executor may poll whom it wakes at once.
fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Fleet {
    /// Ends every feed of events, and refuses others: for a server that stops, whose drivers go on until its last request
    /// has ended.
    pub fn close_feeds(&self) {
        self.inner.feeds.close();
    }
}

impl Admin<'_> {
    /// Follows the events that the actor may see, from now on or from behind a position. What the actor may see is decided
    /// here, and again by [`EventFeed::reauthorise`].
    ///
    /// # Errors
    /// When the cursor is none of ours, or lies ahead of every event, as that of another database does; when as many feeds are open as may be ([`Limits::event_feeds`]); when the store does
    /// not answer or the drivers do not run, since nobody would ring.
    ///
    /// [`Limits::event_feeds`]: crate::fleet::Limits::event_feeds
    pub async fn follow_events(&self, filter: FeedFilter) -> Result<EventFeed, AdminError> {
        let from = parse_cursor(filter.cursor.as_deref())?;
        let limits = &self.fleet.limits;
        let (place, heard) =
            self.fleet.feeds.enter(&self.actor.id, limits.event_feeds, limits.event_feeds_per_actor)?;
        // From here on its drop gives the place back.
        let mut feed = EventFeed {
            fleet: Arc::clone(self.fleet),
            place,
            query: EventQuery {
                scope: self.fleet.policy.scope(self.actor, Action::ReadEvents),
                host_id: filter.host_id,
                tenant_id: filter.tenant_id,
                kind: filter.kind,
                r#type: filter.r#type,
                after: Position::START,
                limit: HELD,
            },
            reach: Position::START,
            more: false,
            held: VecDeque::new(),
            heard,
        };
        feed.reach = self.fleet.store.last_position().await?;
        feed.query.after = from.unwrap_or(feed.reach);
        within_reach(feed.query.after, feed.reach)?;
        Ok(feed)
    }
}

impl EventFeed {
    /// What comes next; `None` once the fleet has ended its feeds, its drivers have ended, or the store turns out to be
    /// another one, whose positions are lower. What was not told by then is told to whoever comes back.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the store does not answer. The feed stands where it stood, and may be asked again.
    pub async fn next(&mut self) -> Result<Option<FeedItem>, AdminError> {
        loop {
            // Asked first: whoever is far behind would not end for long.
            if !self.fleet.feeds.are_open() {
                return Ok(None);
            }
            if let Some(event) = self.held.pop_front() {
                return Ok(Some(FeedItem::Event(Box::new(event.into()))));
            }
            if self.more || self.query.after < self.reach {
                self.read().await?;
                if self.held.is_empty() && !self.more {
                    // Others write all the time: who is shown nothing of it has to be told that all the same.
                    return Ok(Some(FeedItem::Quiet(self.query.after)));
                }
                continue;
            }
            let Self { fleet, place, heard, .. } = self;
            let Some((ring, reach)) = poll_fn(|context| fleet.feeds.poll_ring(*place, *heard, context)).await else {
                return Ok(None);
            };
            self.heard = ring;
            self.reach = self.reach.max(reach);
            // Once it was told of events, none is as new as those: the store begins anew.
            if within_reach(self.query.after, self.reach).is_err() {
                tracing::warn!(position = %self.query.after, newest = %self.reach, "a feed of events ended: it is ahead of its store");
                return Ok(None);
            }
            if self.query.after >= self.reach {
                return Ok(Some(FeedItem::Quiet(self.query.after)));
            }
        }
    }

    /// Everything up to here was told, or is what [`EventFeed::next`] gives without waiting.
    pub fn position(&self) -> Position {
        self.held.front().map_or(self.query.after, |event| Position::new(event.position.get() - 1))
    }

    /// From now on tells what `actor` may see, who may be somebody else by now.
    pub fn reauthorise(&mut self, actor: &Actor) {
        let scope = self.fleet.policy.scope(actor, Action::ReadEvents);
        self.held.retain(|Event { event, .. }| scope.shows(&event.tenant_id, event.host_kind));
        self.query.scope = scope;
    }

    /// The time by the fleet's monotonic clock: what intervals on a feed are counted by.
    pub fn monotonic(&self) -> Duration {
        self.fleet.clock.monotonic()
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let page = self.fleet.store.list_events(&self.query).await?;
        if let Some(last) = page.items.last() {
            self.query.after = last.position;
        }
        // What lies behind the last of them and was not shown need not be looked through again.
        if !page.more {
            self.query.after = self.query.after.max(self.reach);
        }
        self.more = page.more;
        self.held.extend(page.items);
        Ok(())
    }
}

impl std::fmt::Debug for EventFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventFeed").field("query", &self.query).finish_non_exhaustive()
    }
}

impl Drop for EventFeed {
    fn drop(&mut self) {
        self.fleet.feeds.leave(self.place);
    }
}

/// Rings the feeds until `shutdown`; then, or when it is dropped, ends them.
pub(super) async fn ring_feeds(fleet: &Inner, timer: &impl Timer, shutdown: impl Future<Output = ()> + Unpin) {
    struct Closing<'a>(&'a Feeds);
    impl Drop for Closing<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let _closing = Closing(&fleet.feeds);
    let mut shutdown = shutdown.fuse();
    let mut looks = 0u32;
    let mut failing = false;
    loop {
        looks = looks.wrapping_add(1);
        if fleet.feeds.are_followed() {
            let tick = looks.is_multiple_of(LOOKS_A_TICK);
            match fleet.store.last_position().await {
                Ok(reach) => {
                    failing = false;
                    fleet.feeds.ring(reach, tick);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "new events were not looked for");
                    }
                    fleet.feeds.ring(Position::START, tick);
                }
            }
        }
        if let Either::Left(_) = future::select(&mut shutdown, timer.sleep(LOOK)).await {
            return;
        }
    }
}
