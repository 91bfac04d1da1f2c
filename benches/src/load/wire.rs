//! The connection that reports go out on: HTTP/1.1 with as little as it takes.
//!
//! The load runs on the machine that it measures, so what a report costs it is missing from the server. It writes a
//! request whole, and reads of the answer the status and the body.

use std::net::SocketAddr;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Error;

/// More than an answer to a report has.
const HEADERS: usize = 32;
/// An answer to a report is a few hundred bytes.
const LONGEST: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// What is the same in each request: until the token.
    start: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Wire {
    pub(super) async fn connect(address: SocketAddr, path: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let start = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nauthorization: Bearer "
        );
        Ok(Self { stream, start, request: Vec::new(), answer: Vec::new() })
    }

    /// Sends JSON with a bearer token; the answer's body is valid until the next call. After an error the connection is of
    /// no use any more.
    pub(super) async fn post(&mut self, token: &str, body: &str) -> Result<(StatusCode, &[u8]), Error> {
        self.request.clear();
        for part in [&self.start, token, "\r\ncontent-length: ", &body.len().to_string(), "\r\n\r\n", body] {
            self.request.extend_from_slice(part.as_bytes());
        }
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some((status, from)) = whole(&self.answer)? {
                return Ok((status, &self.answer[from..]));
            }
            if self.answer.len() > LONGEST {
                return Err("an answer that does not end".into());
            }
        }
    }
}

/// The status, and where the body begins, once all of it is there.
fn whole(answer: &[u8]) -> Result<Option<(StatusCode, usize)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(from) = head.parse(answer)? else { return Ok(None) };
    let status = StatusCode::from_u16(head.code.ok_or("an answer without a status")?)?;
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        Some(length) => std::str::from_utf8(length.value)?.parse()?,
        None if status == StatusCode::NO_CONTENT => 0,
        None => return Err("an answer to a report says how long it is".into()),
    };
    Ok((answer.len() - from >= length).then_some((status, from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 4\r\n\r\nbody";
        for end in 0..answer.len() {
            assert_eq!(whole(&answer[..end]).unwrap(), None, "{end}");
        }
        let (status, from) = whole(answer).unwrap().unwrap();
        assert_eq!((status, &answer[from..]), (StatusCode::OK, &b"body"[..]));
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(whole(empty).unwrap(), Some((StatusCode::NO_CONTENT, empty.len())));
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(whole(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n").is_err());
        assert!(whole(b"what is this?\r\n\r\n").is_err());
    }
}
