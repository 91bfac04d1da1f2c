//! Bodies, read within bounds.

use bytes::{Buf, Bytes, BytesMut};
use enlist_core::fleet::{BodyRoom, ReportError};
use enlist_core::wire::{Code, Problem};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};

use crate::inflate::{Buffer, Inflater};

/// The largest body of a request of administration, and of an exchange.
pub(crate) const SMALL_BODY: usize = 64 << 10;

/// How much of a refused body is read and dropped at most.
const DISCARDED: u64 = 4 << 20;

/// A body that was not read yet.
pub(crate) struct Body {
    stream: BoxStream<'static, Result<Bytes, warp::Error>>,
    declared: Option<u64>,
    coding: Coding,
    /// The client sends it only when it is asked to go on, which the first read does.
    withheld: bool,
}

/// What a client has done to a body before it sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    /// Something else, or several things.
    Unsupported,
}

/// A body that was read, and the room that it takes.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _room: Option<BodyRoom>,
}

/// How large a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// As it is sent, if it is compressed.
    pub(crate) compressed: usize,
    /// As it is read.
    pub(crate) whole: usize,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the body is larger than {0} bytes, or inflates to more")]
    TooLarge(usize),
    #[error("send the body as it is: no Content-Encoding is supported here")]
    Encoded,
    #[error("send the body as it is, or with Content-Encoding: gzip")]
    NotGzip,
    #[error("the body is not what its Content-Encoding says: damaged, cut short, or followed by something else")]
    Damaged,
    #[error("too many large bodies are held")]
    NoRoom,
    #[error("the body ended before it was complete, or was not sent as HTTP asks for")]
    Broken,
}

impl Body {
    pub(crate) fn new<B: Buf>(
        headers: &HeaderMap,
        stream: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
    ) -> Self {
        Self {
            stream: stream.map(|chunk| chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))).boxed(),
            declared: headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
            coding: Coding::of(headers),
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

    /// The same for a body that may be compressed. What inflates takes `room` as it does.
    pub(crate) async fn read_inflated(&mut self, bounds: Bounds, room: BodyRoom) -> Result<Held, Unreadable> {
        let result = match self.coding {
            Coding::Identity => self.read_within(bounds.whole).await.map(|bytes| Held { bytes, _room: None }),
            _ => self.hold(bounds, room).await,
        };
        if result.is_err() {
            self.discard().await;
        }
        result
    }

    /// The same for a body that is likely to be large: it takes `room` also as it is.
    pub(crate) async fn read_large(&mut self, bounds: Bounds, room: BodyRoom) -> Result<Held, Unreadable> {
        let result = self.hold(bounds, room).await;
        if result.is_err() {
            self.discard().await;
        }
        result
    }

    async fn hold(&mut self, bounds: Bounds, room: BodyRoom) -> Result<Held, Unreadable> {
        let mut buffer = Buffer::new(bounds.whole, room);
        match self.coding {
            Coding::Unsupported => return Err(Unreadable::NotGzip),
            Coding::Identity => {
                self.begin(bounds.whole)?;
                let mut had = 0;
                while let Some(chunk) = self.next(had, bounds.whole).await? {
                    had += chunk.len();
                    buffer.append(&chunk)?;
                }
            }
            Coding::Gzip => {
                self.begin(bounds.compressed)?;
                let (mut inflater, mut had) = (Inflater::new(buffer), 0);
                while let Some(chunk) = self.next(had, bounds.compressed).await? {
                    had += chunk.len();
                    inflater.push(&chunk).await?;
                }
                buffer = inflater.finish()?;
            }
        }
        let (bytes, room) = buffer.into_parts();
        Ok(Held { bytes: bytes.into(), _room: Some(room) })
    }

    /// Before the first piece is read: what says that it is too large is not read at all.
    fn begin(&mut self, limit: usize) -> Result<(), Unreadable> {
        if self.declared.is_some_and(|declared| declared > limit as u64) {
            return Err(Unreadable::TooLarge(limit));
        }
        self.withheld = false;
        Ok(())
    }

    async fn read_within(&mut self, limit: usize) -> Result<Bytes, Unreadable> {
        if self.coding != Coding::Identity {
            return Err(Unreadable::Encoded);
        }
        self.begin(limit)?;
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

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let mut codings = values
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
        match (codings.next(), codings.next()) {
            (None, _) => Self::Identity,
            (Some(coding), None) if [&b"gzip"[..], b"x-gzip"].iter().any(|gzip| coding.eq_ignore_ascii_case(gzip)) => {
                Self::Gzip
            }
            _ => Self::Unsupported,
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        let code = match error {
            Unreadable::TooLarge(_) => Code::BodyTooLarge,
            Unreadable::Encoded | Unreadable::NotGzip => Code::UnsupportedEncoding,
            Unreadable::Damaged => Code::InvalidEncoding,
            Unreadable::NoRoom => return ReportError::Overloaded.into(),
            Unreadable::Broken => Code::InvalidRequest,
        };
        let accept_encoding = match error {
            Unreadable::Encoded => Some("identity"),
            Unreadable::NotGzip => Some("gzip"),
            _ => None,
        };
        Self { accept_encoding, ..Self::new(code, error.to_string()) }
    }
}
