//! Transactions: how each method comes to a connection, and what order everything is locked in.
//!
//! # The order of locks
//!
//! Every writing transaction takes its locks in this order, so that two of them wait for each other but never in a
//! circle:
//!
//! 0. the row of `monitor`: sweeps only, before anything else;
//! 1. rows of `hosts`, sorted by id (`FOR UPDATE`): commits only;
//! 2. rows of `host_presence`, sorted by host (`FOR UPDATE`): commits, contact and pruning. Sweeps too, which pass over rows
//!    that others hold, and wait for none;
//! 3. tenants' install tokens, sorted by id: commits only;
//! 4. whatever belongs to a host that is locked: its tokens, tags, containers, snapshots. All of it is written under
//!    its host's row of `host_presence`, so the order among them does not matter. Triggers that restate a host's status
//!    beside its tags keep to this, also for whoever writes past the store;
//! 5. the advisory lock of the events, just before they are inserted: nothing is waited for behind it.
//!
//! The one statement that takes reports of hosts that go on as they did ([`steady`](crate::steady)) takes its locks in this
//! order too: presence sorted by host, then tokens.
//!
//! A commit of a host locks its presence as well, which it hardly ever writes, so that contact and commits take turns:
//! an append that had to wait for an archive reads the host in its *next* statement, which sees what was committed
//! while the lock was waited for (`READ COMMITTED` gives each statement a moment of its own).
//!
//! Unique keys over several hosts (names, external ids, hashes) are outside of this order: two commits that give two
//! names crosswise can still deadlock. The engine then ends one of them, and it is made again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use enlist_core::store::{Choice, ENOUGH, StoreError};
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Arguments as _, PgConnection, Postgres, QueryBuilder, Row};

use crate::column::Count;
use crate::error::Failure;
use crate::lease::Lease;
use crate::partition::Day;
use crate::store::Shared;

/// Durability is promised: a database that answers before it has written is told to write first. The isolation is
/// named, since the protocol above needs this one whatever the database's default is. A transaction that waits for
/// longer than a request would is given up, and the lock with it. One whose replica has vanished is ended before those
/// who wait for its locks give up. One message, and no round trip of its own.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL lock_timeout = '10s';
    SET LOCAL idle_in_transaction_session_timeout = '8s';
    SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'";
/// Several statements that see one moment. Pruning waits for readers too, so a vanished one is ended as well.
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '8s'";
/// The same for what is found by a walk through one index, in its order, and looked up row by row, whatever the engine
/// believes of how often a value is there: it would rather read and sort all that there is. Nor is it worth while to compile
/// such a walk, or to call other processes for it.
macro_rules! begin_walk {
    ($more:literal) => {
        concat!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET LOCAL idle_in_transaction_session_timeout = '8s';
             SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
             SET LOCAL enable_incremental_sort = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
             SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off",
            $more
        )
    };
}
const BEGIN_WALK: &str = begin_walk!("");
/// Of statements that are [`kept`](Db::kept): planned once, and not for every value again, which takes ten times as long as
/// the walk.
const BEGIN_KEPT_WALK: &str = begin_walk!("; SET LOCAL plan_cache_mode = force_generic_plan");
/// Behind a pooler, a single read needs a transaction too: between two messages the connection may be another.
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '8s'";
/// How statements begin that count rows: behind it stands from where, and which.
pub(crate) const COUNT: &str = "SELECT count(*) AS number FROM (SELECT FROM ";
/// How long a call may take. A link that went silent without an end would keep its caller for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a transaction that lost against others is made, all in all.
const ATTEMPTS: u32 = 8;

/// A connection at work.
pub(crate) struct Db {
    lease: Lease,
    shared: Arc<Shared>,
    missing: BTreeSet<Day>,
}

impl Db {
    /// A statement of this crate, qualified with the schema.
    pub(crate) fn query(&self, text: &'static str) -> Query<'static, Postgres, PgArguments> {
        self.query_with_room(text, 0, 0)
    }

    /// The same with room for the values: so many, in so many bytes.
    pub(crate) fn query_with_room(
        &self,
        text: &'static str,
        values: usize,
        bytes: usize,
    ) -> Query<'static, Postgres, PgArguments> {
        let mut arguments = PgArguments::default();
        arguments.reserve(values, bytes);
        sqlx::query_with(self.shared.sql.qualify(text), arguments).persistent(!self.shared.through_pooler)
    }

    /// A statement put together at run time: it begins so, and is not kept prepared, since its text has many forms.
    pub(crate) fn builder(&self, begin: &str) -> QueryBuilder<Postgres> {
        QueryBuilder::new(self.shared.sql.put_in(begin))
    }

    /// One of few forms, which is kept prepared.
    pub(crate) fn kept<'a>(&self, text: &'a mut QueryBuilder<Postgres>) -> Query<'a, Postgres, PgArguments> {
        text.build().persistent(!self.shared.through_pooler)
    }

    /// The connection that statements are run on.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.lease.connection()
    }

    /// Whether the partition of a day that was asked for cannot be had now.
    pub(crate) fn lacks(&self, day: Day) -> bool {
        self.missing.contains(&day)
    }

    /// What the store's handles share.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Db {
    /// The one of `drives` that has the fewest rows: counted only where there is a choice, and no further than it matters.
    /// `rows_of` begins with [`COUNT`]; nothing where it is all there is.
    pub(crate) async fn choose<T>(
        &mut self,
        drives: Vec<T>,
        rows_of: impl Fn(&Self, &T) -> Option<QueryBuilder<Postgres>>,
    ) -> Result<Option<T>, Failure> {
        let is_alone = drives.len() == 1;
        let mut drives = drives.into_iter();
        let Some(first) = drives.next() else { return Ok(None) };
        if is_alone {
            return Ok(Some(first));
        }
        let rows = self.count(rows_of(self, &first), ENOUGH).await?;
        let mut choice = Choice::new(first, rows);
        for drive in drives {
            let rows = self.count(rows_of(self, &drive), choice.limit()).await?;
            choice.offer(drive, rows);
        }
        Ok(Some(choice.made()))
    }

    async fn count(&mut self, rows: Option<QueryBuilder<Postgres>>, limit: usize) -> Result<usize, Failure> {
        let Some(mut text) = rows else { return Ok(limit) };
        text.push(" LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX)).push(") AS enough");
        let row = self.kept(&mut text).fetch_one(self.connection()).await?;
        let Count(number) = row.try_get("number")?;
        Ok(usize::try_from(number).unwrap_or(limit))
    }
}

impl Shared {
    /// Runs a read of one statement.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'a> FnOnce(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let begin = self.through_pooler.then_some(BEGIN_READ);
        Ok(self.read_in_task(begin, work).await?)
    }

    /// Runs a read of several statements that all see one moment.
    pub(crate) async fn snapshot<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'a> FnOnce(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + 'static,
    ) -> Result<T, StoreError> {
        Ok(self.read_in_task(Some(BEGIN_SNAPSHOT), work).await?)
    }

    /// The same, for a walk through one index.
    pub(crate) async fn walk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'a> FnOnce(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + 'static,
    ) -> Result<T, StoreError> {
        Ok(self.read_in_task(Some(BEGIN_WALK), work).await?)
    }

    /// The same, for statements that are [`kept`](Db::kept).
    pub(crate) async fn kept_walk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'a> FnOnce(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + 'static,
    ) -> Result<T, StoreError> {
        Ok(self.read_in_task(Some(BEGIN_KEPT_WALK), work).await?)
    }

    /// In a task of its own: when nobody waits for it any more, it ends in order, and its connection is kept.
    async fn read_in_task<T: Send + 'static>(
        self: &Arc<Self>,
        begin: Option<&'static str>,
        work: impl for<'a> FnOnce(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let shared = Arc::clone(self);
        in_task(async move { in_time(shared.read_once(begin, work)).await }).await
    }

    async fn read_once<T>(
        self: &Arc<Self>,
        begin: Option<&'static str>,
        work: impl for<'a> FnOnce(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let lease = match begin {
            Some(text) => Lease::begin(&self.pool, text).await?,
            None => Lease::acquire(&self.pool).await?,
        };
        let mut db = Db { lease, shared: Arc::clone(self), missing: BTreeSet::new() };
        let answer = match self.gate.check(&mut db).await {
            Ok(()) => work(&mut db).await,
            Err(failure) => Err(failure),
        };
        // A read has nothing to lose.
        match begin {
            Some(_) => db.lease.rollback().await,
            None => db.lease.give_back(),
        }
        answer
    }

    /// Runs `work` as one transaction, in a task of its own: whoever waits for it may go away, and it is still made
    /// whole or not at all. Made again when it lost against another one, or when a partition that it needs has gone.
    ///
    /// A connection that is lost during COMMIT leaves open what became of the transaction. It is not made again here,
    /// also not where that would do no harm: the caller has to repeat an unanswered call anyway, and one rule is easier
    /// to rely on than two.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'a> Fn(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(self);
        Ok(in_task(async move { shared.attempt(&[], work).await }).await?)
    }

    /// The same inside a task that was begun already. The partitions of `days` are there when `work` begins, but for
    /// those that [`Db::lacks`].
    pub(crate) async fn attempt<T: Send>(
        self: &Arc<Self>,
        days: &[Day],
        work: impl for<'a> Fn(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync,
    ) -> Result<T, Failure> {
        let mut attempt = 1;
        loop {
            // One that ran out of time is not made again: nobody knows what became of it.
            let failure = match in_time(self.once(days, &work)).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = if failure.lacks_partition() {
                self.partitions.forget();
                true
            } else {
                failure.lost_to_another()
            };
            if !again || attempt == ATTEMPTS {
                return Err(failure);
            }
            // Longer each time, so that those who lost together do not meet again together.
            let millis = 1u64 << attempt;
            tokio::time::sleep(Duration::from_millis(millis + u64::from(std::process::id()) % millis)).await;
            attempt += 1;
        }
    }

    async fn once<T>(
        self: &Arc<Self>,
        days: &[Day],
        work: &(impl for<'a> Fn(&'a mut Db) -> BoxFuture<'a, Result<T, Failure>> + Send + Sync),
    ) -> Result<T, Failure> {
        let mut missing = BTreeSet::new();
        if !days.is_empty() {
            // Nothing is made in a schema that is not this version's.
            if !self.gate.is_open() {
                self.read_once(Some(BEGIN_READ), |_| Box::pin(async { Ok(()) })).await?;
            }
            missing = self.partitions.ensure(self, days).await?;
        }
        let lease = Lease::begin(&self.pool, BEGIN).await?;
        let mut db = Db { lease, shared: Arc::clone(self), missing };
        let answer = match self.gate.check(&mut db).await {
            Ok(()) => work(&mut db).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(answer) => {
                db.lease.commit().await?;
                Ok(answer)
            }
            Err(failure) => {
                db.lease.rollback().await;
                Err(failure)
            }
        }
    }
}

impl Shared {
    /// Runs one statement that writes, as a transaction of its own, which is not made again: what it leaves open by losing its
    /// connection is as open as after a COMMIT. All of its rows are read, and the end that the engine tells behind them: that
    /// comes after the commit, the rows before it.
    ///
    /// Behind a pooler it stands in a transaction all the same: a statement is prepared by a message of its own, and the
    /// connection may be another by the next one.
    pub(crate) async fn write_alone(
        self: &Arc<Self>,
        statement: impl FnOnce(&Db) -> Result<Query<'static, Postgres, PgArguments>, Failure>,
    ) -> Result<Vec<PgRow>, Failure> {
        in_time(async {
            let lease = if self.through_pooler {
                Lease::begin(&self.pool, BEGIN).await?
            } else {
                self.kept.acquire(&self.pool).await?
            };
            let mut db = Db { lease, shared: Arc::clone(self), missing: BTreeSet::new() };
            let rows = match statement(&db) {
                Ok(statement) => statement.fetch_all(db.connection()).await.map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            match (&rows, self.through_pooler) {
                (Ok(_), true) => db.lease.commit().await?,
                (Err(_), true) => db.lease.rollback().await,
                (Ok(_), false) => self.kept.give_back(&self.pool, db.lease),
                (Err(_), false) => db.lease.give_back(),
            }
            rows
        })
        .await
    }
}

/// Gives up what takes too long. Its connection is closed with it.
async fn in_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = Failure::Unavailable("the database did not answer in time");
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(late))
}

/// Runs `work` in a task that goes on when nobody waits for it any more.
pub(crate) async fn in_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => Err(Failure::Panicked),
        Err(_) => Err(Failure::Unavailable("the runtime is shutting down")),
    }
}

/// How PostgreSQL would walk on the tables as they are made, step by step; `text` goes on behind `EXPLAIN`.
#[cfg(test)]
pub(crate) async fn plans<T: Send + Sync + 'static>(
    cases: Vec<T>,
    text: impl Fn(&Db, QueryBuilder<Postgres>, &T) -> QueryBuilder<Postgres> + Send + Sync + 'static,
) -> Vec<(T, Vec<String>)> {
    let database = enlist_testing::Database::empty("plans").await.expect("a database");
    let store = crate::PgStore::connect(database.url()).await.expect("it is there");
    store.migrate().await.expect("the tables");
    let walk = store.shared.walk(move |db| {
        Box::pin(async move {
            let mut plans = Vec::new();
            for case in cases {
                let mut text = text(db, db.builder("EXPLAIN (COSTS OFF) "), &case);
                let rows = text.build().persistent(false).fetch_all(db.connection()).await?;
                plans.push((case, rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?));
            }
            Ok(plans)
        })
    });
    let plans = walk.await.expect("statements");
    store.close().await;
    plans
}
