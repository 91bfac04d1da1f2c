//! Connections of the pool, for as long as something is done on them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, raw_sql};
use tokio::time::Instant;

use crate::error::Failure;

/// How long a connection goes from one lone statement to the next before it sees the pool again.
const KEPT: Duration = Duration::from_millis(100);

/// A connection of the pool. It goes back there only when nothing is open on it; otherwise it is closed.
///
/// Not sqlx's `Transaction`: that counts a transaction only after the server has answered `BEGIN`, and gives a
/// connection back with one open when its future was dropped, or had failed, before that.
pub(crate) struct Lease {
    connection: PoolConnection<Postgres>,
    since: Instant,
    clean: bool,
    /// Whether a task will take it out of [`KeptLease`] in time.
    watched: bool,
}

impl Lease {
    /// A connection on which nothing is open.
    pub(crate) async fn acquire(pool: &PgPool) -> Result<Self, Failure> {
        Ok(Self { connection: pool.acquire().await?, since: Instant::now(), clean: false, watched: false })
    }

    /// Begins a transaction on a connection of the pool.
    pub(crate) async fn begin(pool: &PgPool, text: &'static str) -> Result<Self, Failure> {
        let mut lease = Self::acquire(pool).await?;
        raw_sql(text).execute(lease.connection()).await?;
        Ok(lease)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(crate) async fn commit(mut self) -> Result<(), Failure> {
        raw_sql("COMMIT").execute(self.connection()).await?;
        self.give_back();
        Ok(())
    }

    /// What went wrong before says more than how the rollback went; where that fails, the connection is closed.
    pub(crate) async fn rollback(mut self) {
        self.clean = raw_sql("ROLLBACK").execute(self.connection()).await.is_ok();
    }

    /// Ends it where no transaction was begun, or the last one has ended.
    pub(crate) fn give_back(mut self) {
        self.clean = true;
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= KEPT
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.clean {
            self.connection.close_on_drop();
        }
    }
}

/// A connection that lone statements follow each other on. The pool asks the server after every use whether a connection still
/// works, which costs nearly as much as the smallest statement on both sides, and a report that comes alone is not much more.
///
/// It is never the last one that the pool has for others, and goes back after [`KEPT`], whether it is used or not.
#[derive(Default)]
pub(crate) struct KeptLease {
    idle: Arc<Idle>,
}

impl KeptLease {
    /// That connection, or one of the pool.
    pub(crate) async fn acquire(&self, pool: &PgPool) -> Result<Lease, Failure> {
        match self.idle.replace(None) {
            Some(mut lease) if !lease.is_over() && !pool.is_closed() => {
                lease.clean = false;
                Ok(lease)
            }
            _ => Lease::acquire(pool).await,
        }
    }

    /// Ends the use of a connection on which nothing is open, and keeps it for the next one if nobody else misses it.
    pub(crate) fn give_back(&self, pool: &PgPool, mut lease: Lease) {
        lease.clean = true;
        let others_have_some = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        if lease.is_over() || pool.is_closed() || !others_have_some {
            return;
        }
        if !lease.watched {
            lease.watched = true;
            let (watch, over) = (Watch(Arc::clone(&self.idle)), lease.since + KEPT);
            tokio::spawn(async move {
                tokio::time::sleep_until(over).await;
                drop(watch);
            });
        }
        drop(self.idle.replace(Some(lease)));
    }
}

#[derive(Default)]
struct Idle(Mutex<Option<Lease>>);

impl Idle {
    fn replace(&self, lease: Option<Lease>) -> Option<Lease> {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), lease)
    }
}

/// Empties what it watches when its time has come, and when its runtime goes before that: outside of one, the pool cannot
/// take a connection back.
struct Watch(Arc<Idle>);

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.0.replace(None));
    }
}
