//! Inflating what a client has compressed, as it arrives and within bounds.

use std::io::{self, Write};
use std::task::Poll;

use enlist_core::fleet::BodyRoom;
use flate2::write::GzDecoder;

use crate::body::Unreadable;

/// How many members a stream may have. Legal ones have one or few, and each costs as much as some 64 KiB.
const MEMBERS: usize = 64;

/// After how many bytes other tasks get their turn: about a tenth of a millisecond.
const TURN: usize = 256 << 10;

/// A gzip stream (RFC 1952), of one member or several, on its way into a buffer.
pub(crate) struct Inflater {
    /// Absent only while one member ends and the next begins.
    member: Option<GzDecoder<Buffer>>,
    members: usize,
    since_turn: usize,
}

/// What was read so far: no larger than a limit, and with room in memory for all of it.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    limit: usize,
    room: BodyRoom,
    /// Why it took no more.
    full: Option<Unreadable>,
}

impl Buffer {
    pub(crate) const fn new(limit: usize, room: BodyRoom) -> Self {
        Self { bytes: Vec::new(), limit, room, full: None }
    }

    pub(crate) fn append(&mut self, more: &[u8]) -> Result<(), Unreadable> {
        let size = self.bytes.len().saturating_add(more.len());
        if size > self.limit {
            return Err(Unreadable::TooLarge(self.limit));
        }
        if size > self.bytes.capacity() {
            // What is held is what is claimed: the whole capacity, and never more than the limit.
            let capacity = size.max(2 * self.bytes.capacity()).max(TURN / 4).min(self.limit);
            self.room.grow(capacity - self.bytes.capacity()).map_err(|_| Unreadable::NoRoom)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    pub(crate) fn into_parts(self) -> (Vec<u8>, BodyRoom) {
        (self.bytes, self.room)
    }
}

impl Write for Buffer {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        match self.append(more) {
            Ok(()) => Ok(more.len()),
            Err(full) => {
                self.full = Some(full);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inflater {
    pub(crate) fn new(buffer: Buffer) -> Self {
        Self { member: Some(GzDecoder::new(buffer)), members: 1, since_turn: 0 }
    }

    /// Inflates the next piece, in steps of at most 32 KiB, so that a bomb ends at the limit.
    pub(crate) async fn push(&mut self, mut piece: &[u8]) -> Result<(), Unreadable> {
        while !piece.is_empty() {
            let member = self.member.as_mut().ok_or(Unreadable::Damaged)?;
            let before = member.get_ref().bytes.len();
            let taken = member.write(piece).map_err(|_| blame(member))?;
            piece = &piece[taken..];
            self.since_turn += member.get_ref().bytes.len() - before;
            if taken == 0 {
                self.next_member()?;
            }
            if self.since_turn >= TURN {
                self.since_turn = 0;
                yield_now().await;
            }
        }
        Ok(())
    }

    /// What it has inflated to, once all of it was pushed and its checksums agree.
    pub(crate) fn finish(mut self) -> Result<Buffer, Unreadable> {
        self.end_member()
    }

    fn next_member(&mut self) -> Result<(), Unreadable> {
        let buffer = self.end_member()?;
        if self.members == MEMBERS {
            return Err(Unreadable::Damaged);
        }
        self.members += 1;
        self.member = Some(GzDecoder::new(buffer));
        Ok(())
    }

    fn end_member(&mut self) -> Result<Buffer, Unreadable> {
        let mut member = self.member.take().ok_or(Unreadable::Damaged)?;
        member.try_finish().map_err(|_| blame(&mut member))?;
        member.finish().map_err(|_| Unreadable::Damaged)
    }
}

/// Why nothing more was inflated: the buffer took no more, or the stream is broken.
fn blame(member: &mut GzDecoder<Buffer>) -> Unreadable {
    member.get_mut().full.take().unwrap_or(Unreadable::Damaged)
}

/// Lets other tasks run.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
