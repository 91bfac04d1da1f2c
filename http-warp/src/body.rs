//! Bodies, read within bounds.

use bytes::{Buf, Bytes, BytesMut};
use enlist_core::wire::{Code, Problem};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};

/// The largest body of a request of administration, and of an exchange.
pub(crate) const SMALL_BODY: usize = 64 << 10;

/// How much of a refused body is read and dropped at most.
const DISCARDED: u64 = 4 << 20;

/// A body that was not read yet.
pub(crate) struct Body {
    stream: BoxStream<'static, Result<Bytes, warp::Error>>,
    declared: Option<u64>,
    encoded: bool,
    /// The client sends it only when it is asked to go on, which the first read does.
    withheld: bool,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("send the body as it is: no Content-Encoding is supported")]
    Encoded,
    #[error("the body ended before it was complete, or was not sent as HTTP asks for")]
    Broken,
}

impl Body {
    pub(crate) fn new<B: Buf>(
        headers: &HeaderMap,
        stream: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
    ) -> Self {
        let identity = |value: &http::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
        Self {
            stream: stream.map(|chunk| chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))).boxed(),
            declared: headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
            encoded: !headers.get_all(CONTENT_ENCODING).iter().all(identity),
            withheld: headers.contains_key(EXPECT),
        }
    }

    /// Reads all of it, at most `limit` bytes. A declared length beyond that is refused unread; a body without one is
    /// refused once it has become too long.
    pub(crate) async fn read(&mut self, limit: usize) -> Result<Bytes, Unreadable> {
        let result = self.read_within(limit).await;
        if result.is_err() {
            self.discard().await;
        }
        result
    }

    async fn read_within(&mut self, limit: usize) -> Result<Bytes, Unreadable> {
        if self.encoded {
            return Err(Unreadable::Encoded);
        }
        if self.declared.is_some_and(|declared| declared > limit as u64) {
            return Err(Unreadable::TooLarge(limit));
        }
        self.withheld = false;
        // Most bodies come in one piece, which need not be copied.
        let whole = self.next(0, limit).await?.unwrap_or_default();
        let Some(second) = self.next(whole.len(), limit).await? else { return Ok(whole) };
        let mut joined = BytesMut::from(whole);
        joined.extend_from_slice(&second);
        while let Some(chunk) = self.next(joined.len(), limit).await? {
            joined.extend_from_slice(&chunk);
        }
        Ok(joined.freeze())
    }

    /// The next piece of a body of which `had` bytes were read.
    async fn next(&mut self, had: usize, limit: usize) -> Result<Option<Bytes>, Unreadable> {
        match self.stream.next().await {
            Some(Ok(chunk)) if chunk.len() > limit - had => Err(Unreadable::TooLarge(limit)),
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(_)) => Err(Unreadable::Broken),
            None => Ok(None),
        }
    }

    /// Reads what the client has under way and drops it, within a bound.
    ///
    /// A client that writes its whole body before it reads the reply would otherwise find its connection reset, and
    /// never learn why it was refused: an agent would take that for a network that is down, and try for ever.
    pub(crate) async fn discard(&mut self) {
        if self.withheld || self.declared.is_some_and(|declared| declared > DISCARDED) {
            return;
        }
        let mut left = DISCARDED;
        while let Some(Ok(chunk)) = self.stream.next().await {
            match left.checked_sub(chunk.len() as u64) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        let code = match error {
            Unreadable::TooLarge(_) => Code::BodyTooLarge,
            Unreadable::Encoded => Code::UnsupportedEncoding,
            Unreadable::Broken => Code::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}
