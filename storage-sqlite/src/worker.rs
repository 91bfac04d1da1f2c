//! The threads that talk to SQLite: one that writes, a few that read, and one that folds the log back.
//!
//! A call hands its work over a bounded queue and waits for the answer without blocking its executor. The work runs to
//! its end on the thread whether or not anybody still waits: a future that is dropped can therefore never leave a
//! transaction open, and a commit is there whole or not at all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use enlist_core::store::{StoreError, StoreErrorKind};
use futures_channel::oneshot;

use crate::checkpoint::{Checkpoints, STEP};
use crate::connection::{Connections, Location, Role};
use crate::error::{Failure, unavailable};

/// How many pieces of work may wait on a queue. More than that is an overload that waiting does not cure.
pub(crate) const QUEUE: usize = 1_024;
/// How many reads run at once on a file.
const READERS: usize = 4;

type Work = Box<dyn FnOnce(&mut Connections) + Send>;

/// The queues to the threads. The threads end when it is closed or dropped, once they have done what was queued.
#[derive(Debug)]
pub(crate) struct Workers {
    /// `None` once it is closed.
    queues: RwLock<Option<Queues>>,
    closing: Closing,
}

#[derive(Debug)]
struct Queues {
    writer: SyncSender<Work>,
    /// In memory, where one connection does everything, the same queue.
    readers: SyncSender<Work>,
}

/// Whoever waits for the database to be closed; `None` once it is.
type Closing = Arc<Mutex<Option<Vec<oneshot::Sender<()>>>>>;

impl Workers {
    /// Opens the database on a thread of its own, and starts the others.
    pub(crate) async fn start(location: Location) -> Result<Self, StoreError> {
        let (writer, writes) = sync_channel(QUEUE);
        let (readers, reads) = match location {
            Location::Memory(_) => (writer.clone(), None),
            Location::File(_) => {
                let (sender, receiver) = sync_channel(QUEUE);
                (sender, Some(Arc::new(Mutex::new(receiver))))
            }
        };
        let closing: Closing = Arc::new(Mutex::new(Some(Vec::new())));
        let (started, opened) = oneshot::channel();
        let at_end = Arc::clone(&closing);
        thread::Builder::new()
            .name("enlist-sqlite-writer".to_owned())
            .spawn(move || {
                run_writer(&location, &writes, reads, started);
                for waiting in at_end.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().flatten() {
                    // Whoever waited may have gone.
                    let _ = waiting.send(());
                }
            })
            .map_err(unavailable)?;
        opened.await.map_err(|_| unavailable("the writer's thread ended while it opened the database"))??;
        Ok(Self { queues: RwLock::new(Some(Queues { writer, readers })), closing })
    }

    /// Runs `work` on the writing connections.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connections) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        run(self.queue(|queues| &queues.writer)?, work).await
    }

    /// Runs `work` on connections that read.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connections) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        run(self.queue(|queues| &queues.readers)?, work).await
    }

    /// Takes no more work; what was queued is still done. Is told when the last connection is closed; cancelled if that
    /// was before.
    pub(crate) fn close(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = &mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner) {
            waiting.push(sender);
        }
        *self.queues.write().unwrap_or_else(PoisonError::into_inner) = None;
        receiver
    }

    fn queue(&self, which: impl FnOnce(&Queues) -> &SyncSender<Work>) -> Result<SyncSender<Work>, StoreError> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.as_ref().map(|queues| which(queues).clone()).ok_or_else(|| unavailable("the store was closed"))
    }
}

async fn run<T: Send + 'static>(
    queue: SyncSender<Work>,
    work: impl FnOnce(&mut Connections) -> Result<T, Failure> + Send + 'static,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    let job: Work = Box::new(move |connections| {
        // Nobody waits any more, and nothing was begun.
        if reply.is_canceled() {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| work(connections))).unwrap_or(Err(Failure::Panicked));
        let _ = reply.send(result.map_err(StoreError::from));
    });
    // Never a blocking send: this runs on the caller's executor.
    queue.try_send(job).map_err(|refused| match refused {
        TrySendError::Full(_) => unavailable("too much work is waiting for the database"),
        TrySendError::Disconnected(_) => unavailable("the database's thread has ended"),
    })?;
    // The threads end with the last sender: who only waits must not hold one.
    drop(queue);
    answer.await.map_err(|_| StoreError::from(StoreErrorKind::Unavailable))?
}

fn run_writer(
    location: &Location,
    writes: &Receiver<Work>,
    reads: Option<Arc<Mutex<Receiver<Work>>>>,
    started: oneshot::Sender<Result<(), StoreError>>,
) {
    let opened = Connections::open(location, Role::Writer).and_then(|writer| {
        let readers = reads.map_or_else(|| Ok(Vec::new()), |reads| start_readers(location, &reads))?;
        Ok((writer, readers, Checkpoints::start(location, STEP)?))
    });
    let (mut writer, readers, mut checkpoints) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    if started.send(Ok(())).is_ok() {
        while let Ok(work) = writes.recv() {
            work(&mut writer);
            writer.replace_broken();
            checkpoints.after(&mut writer);
        }
    }
    checkpoints.end();
    // The readers' queue has ended with ours. The writer closes last: the last connection to close is the one that
    // folds the write-ahead log back into the file, which one that may not write could not do.
    for reader in readers {
        let _ = reader.join();
    }
    drop(writer);
}

fn start_readers(location: &Location, reads: &Arc<Mutex<Receiver<Work>>>) -> Result<Vec<JoinHandle<()>>, StoreError> {
    (0..READERS)
        .map(|index| {
            let mut reader = Connections::open(location, Role::Reader)?;
            let reads = Arc::clone(reads);
            thread::Builder::new()
                .name(format!("enlist-sqlite-reader-{index}"))
                .spawn(move || {
                    while let Some(work) = next(&reads) {
                        work(&mut reader);
                        reader.replace_broken();
                    }
                })
                .map_err(unavailable)
        })
        .collect()
}

/// The one idle reader that holds the lock waits for work, the others for the lock.
fn next(reads: &Mutex<Receiver<Work>>) -> Option<Work> {
    reads.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
    use diesel::{QueryDsl, RunQueryDsl, SqliteConnection};

    use super::*;
    use crate::schema::sqlite_master;
    use crate::transaction::immediate;

    fn tables(connections: &mut Connections) -> Result<i64, Failure> {
        Ok(sqlite_master::table.count().get_result(&mut connections.diesel)?)
    }

    fn make_table(connection: &mut SqliteConnection) -> Result<(), Failure> {
        Ok(connection.batch_execute("CREATE TABLE half_done (id INTEGER)")?)
    }

    /// In memory, so that the connection that panicked is the one that is asked afterwards.
    #[tokio::test]
    async fn a_panic_rolls_back_and_the_thread_goes_on() {
        let workers = Workers::start(Location::parse(":memory:").unwrap()).await.unwrap();
        let panicking = |connections: &mut Connections| {
            immediate(&mut connections.diesel, |connection| -> Result<(), Failure> {
                make_table(connection)?;
                panic!("on purpose");
            })
        };
        assert_eq!(workers.write(panicking).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
        assert_eq!(workers.read(tables).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_was_left_inside_a_transaction_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("enlist.db").to_str().unwrap().to_owned();
        let workers = Workers::start(Location::File(path)).await.unwrap();
        let open_ended = |connections: &mut Connections| {
            <AnsiTransactionManager as TransactionManager<_>>::begin_transaction(&mut connections.diesel)?;
            make_table(&mut connections.diesel)
        };
        workers.write(open_ended).await.unwrap();
        workers.write(|connections| immediate(&mut connections.diesel, make_table)).await.unwrap();
        assert_eq!(workers.read(tables).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_full_queue_answers_at_once_instead_of_blocking_the_executor() {
        let workers = Workers::start(Location::parse(":memory:").unwrap()).await.unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let mut waiting = Vec::new();
        // One is at work and holds the thread, the others fill the queue.
        let busy = workers.write(move |_| {
            let _ = held.recv();
            Ok(())
        });
        waiting.push(Box::pin(busy) as std::pin::Pin<Box<dyn Future<Output = _>>>);
        let refused = loop {
            let mut next = waiting.pop().expect("there is always one more");
            match futures_util::poll!(next.as_mut()) {
                std::task::Poll::Ready(answer) => break answer,
                std::task::Poll::Pending => waiting.push(next),
            }
            assert!(waiting.len() <= QUEUE + 2, "the queue is bounded");
            waiting.push(Box::pin(workers.write(|_| Ok(()))));
        };
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Unavailable);
        release.send(()).unwrap();
        for answer in waiting {
            answer.await.unwrap();
        }
    }
}
