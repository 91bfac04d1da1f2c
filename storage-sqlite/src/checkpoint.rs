//! Folding the write-ahead log back into the file, beside the writer instead of in its way.
//!
//! Left to itself, SQLite does it inside whichever commit makes the log long enough, and everybody whose report is in that
//! commit waits for the whole file to be synchronised. Here a thread of its own does the most of it while reports go on,
//! and the writer only what came in meanwhile: the log begins again at its start once there is nothing left to fold back,
//! and somebody who is always behind would let it grow for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use enlist_core::store::StoreError;
use rusqlite::Connection;

use crate::connection::{Connections, Location, Role};
use crate::error::{Failure, unavailable};

/// Pages in the log from which on it is folded back: 80 MiB. The longer it may become, the more often a page was written
/// that is copied once: with a fifth of it, a report costs a third more.
pub(crate) const STEP: i64 = 20_480;

/// The thread looks after every so many pieces of the writer's work: a look costs a lone report more than a twentieth.
const EVERY: u32 = 16;

/// The writer's half.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
    unlooked: u32,
    rest: Arc<AtomicBool>,
}

impl Checkpoints {
    /// Starts the thread, which takes a log of `step` pages for long. In memory there is no log, and nothing to do.
    pub(crate) fn start(location: &Location, step: i64) -> Result<Self, StoreError> {
        let rest = Arc::new(AtomicBool::new(false));
        if location.is_memory() {
            return Ok(Self { thread: None, unlooked: 0, rest });
        }
        let connection = location.open_raw(Role::Writer)?;
        // One signal that waits says all that several would.
        let (wake, signals) = sync_channel(1);
        let asked = Arc::clone(&rest);
        let thread = thread::Builder::new()
            .name("enlist-sqlite-log".to_owned())
            .spawn(move || run(&connection, step, &signals, &asked))
            .map_err(unavailable)?;
        Ok(Self { thread: Some((wake, thread)), unlooked: 0, rest })
    }

    /// After each piece of the writer's work: folds back the rest, if it is asked to.
    pub(crate) fn after(&mut self, writer: &mut Connections) {
        let Some((wake, _)) = &self.thread else { return };
        if self.rest.swap(false, Ordering::Relaxed) {
            let folded = writer.reports().and_then(|connection| fold(connection));
            log(folded.map(drop));
        }
        self.unlooked += 1;
        if self.unlooked >= EVERY {
            self.unlooked = 0;
            // Full: it is to look anyway. Gone: the log is folded back by the writer, when it is longer still.
            let _ = wake.try_send(());
        }
    }

    /// Ends the thread, once it has done what it is at.
    pub(crate) fn end(self) {
        if let Some((wake, thread)) = self.thread {
            drop(wake);
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, step: i64, signals: &Receiver<()>, rest: &AtomicBool) {
    while signals.recv().is_ok() {
        match fold_if_long(connection, step) {
            Ok(true) => rest.store(true, Ordering::Relaxed),
            Ok(false) => {}
            Err(failure) => log(Err(failure)),
        }
    }
}

/// Folds the log back if it is long enough; whether it was.
fn fold_if_long(connection: &Connection, step: i64) -> Result<bool, Failure> {
    let long = Log::read(connection, "PRAGMA wal_checkpoint(NOOP)")?.left() >= step;
    if long {
        fold(connection)?;
    }
    Ok(long)
}

/// Folds back what no reader still needs, without waiting for anybody.
fn fold(connection: &Connection) -> Result<Log, Failure> {
    Log::read(connection, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// How many pages are in the log, and how many of them in the file too.
#[derive(Debug)]
struct Log {
    pages: i64,
    folded: i64,
}

impl Log {
    fn read(connection: &Connection, pragma: &str) -> Result<Self, Failure> {
        let mut statement = connection.prepare_cached(pragma)?;
        Ok(statement.query_row([], |row| Ok(Self { pages: row.get(1)?, folded: row.get(2)? }))?)
    }

    const fn left(&self) -> i64 {
        self.pages - self.folded
    }
}

/// Nothing is lost when it fails: the log holds everything, and it is tried again.
fn log(folded: Result<(), Failure>) {
    if let Err(failure) = folded {
        let error = StoreError::from(failure);
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot fold the write-ahead log back into the file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose writer has put about so many pages into the log.
    fn written(pages: usize) -> (tempfile::TempDir, Location, Connections) {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::File(directory.path().join("enlist.db").to_str().unwrap().to_owned());
        let mut writer = Connections::open(&location, Role::Writer).unwrap();
        writer.reports().unwrap().execute_batch("CREATE TABLE pages (page BLOB)").unwrap();
        write(&mut writer, pages);
        (directory, location, writer)
    }

    fn write(writer: &mut Connections, pages: usize) {
        for _ in 0..pages {
            writer.reports().unwrap().execute("INSERT INTO pages VALUES (zeroblob(3500))", []).unwrap();
        }
    }

    fn log_of(writer: &mut Connections) -> Log {
        Log::read(writer.reports().unwrap(), "PRAGMA wal_checkpoint(NOOP)").unwrap()
    }

    #[test]
    fn a_long_log_is_folded_back_and_begins_again() {
        let (_directory, location, mut writer) = written(100);
        let mut checkpoints = Checkpoints::start(&location, 100).unwrap();
        let asked = Arc::clone(&checkpoints.rest);
        (0..EVERY).for_each(|_| checkpoints.after(&mut writer));
        // What was signalled is done before the thread ends.
        checkpoints.end();
        assert_eq!(log_of(&mut writer).left(), 0);
        assert!(asked.load(Ordering::Relaxed));

        // It came in meanwhile, and is the writer's.
        write(&mut writer, 5);
        assert!(log_of(&mut writer).left() >= 5);
        let mut checkpoints = Checkpoints { rest: asked, ..Checkpoints::start(&location, 100).unwrap() };
        checkpoints.after(&mut writer);
        assert_eq!(log_of(&mut writer).left(), 0);
        write(&mut writer, 1);
        assert!(log_of(&mut writer).pages < 10, "{:?}", log_of(&mut writer));
        checkpoints.end();
    }

    #[test]
    fn a_short_log_is_left_alone() {
        let (_directory, location, mut writer) = written(10);
        let mut checkpoints = Checkpoints::start(&location, 100).unwrap();
        let asked = Arc::clone(&checkpoints.rest);
        (0..EVERY).for_each(|_| checkpoints.after(&mut writer));
        checkpoints.end();
        assert!(log_of(&mut writer).left() >= 10);
        assert!(!asked.load(Ordering::Relaxed));
    }

    #[test]
    fn the_writer_is_never_kept_waiting_by_a_reader() {
        let (_directory, location, mut writer) = written(100);
        let reader = location.open_raw(Role::Reader).unwrap();
        let at_a_moment = reader.unchecked_transaction().unwrap();
        let before: i64 = at_a_moment.query_row("SELECT count(*) FROM pages", [], |row| row.get(0)).unwrap();
        write(&mut writer, 20);
        // All but what the reader must not see yet.
        let log = fold(writer.reports().unwrap()).unwrap();
        assert!(log.folded > 0 && log.left() > 0, "{log:?}");
        assert_eq!(at_a_moment.query_row("SELECT count(*) FROM pages", [], |row| row.get::<_, i64>(0)), Ok(before));
    }
}
