//! A connection on which nothing moves.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Ends a connection that has neither said nor taken anything for a while. A time-out of its own for reading would end
/// streams, whose clients take all the time and say nothing.
///
/// Only waiting to read is bounded: a client that takes nothing is for the time-out of `inner`.
pub(super) struct Stalling<S> {
    inner: S,
    patience: Duration,
    end: Pin<Box<Sleep>>,
    counts: bool,
}

impl<S> Stalling<S> {
    pub(super) fn new(inner: S, patience: Duration) -> Self {
        Self { inner, patience, end: Box::pin(sleep(patience)), counts: false }
    }

    /// Nothing came. The time counts from the first such moment after something had moved.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.counts {
            self.end.as_mut().reset(Instant::now() + self.patience);
            self.counts = true;
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn moved<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.counts &= !matches!(polled, Poll::Ready(Ok(_)));
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_read(context, buffer) {
            Poll::Pending => this.wait(context),
            polled => this.moved(polled),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.moved(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
        this.moved(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_takes_what_is_written_is_not_cut_off_for_saying_nothing() {
        let (here, mut there) = duplex(64);
        let (mut reads, mut writes) = tokio::io::split(Stalling::new(here, PATIENCE));
        let waiting = tokio::spawn(async move { reads.read_u8().await });
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(15)).await;
            writes.write_u8(1).await.unwrap();
            there.read_u8().await.unwrap();
        }
        assert!(!waiting.is_finished());
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_ends() {
        let (here, _there) = duplex(64);
        let begun = Instant::now();
        let ended = Stalling::new(here, PATIENCE).read_u8().await.unwrap_err();
        assert_eq!((ended.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }
}
