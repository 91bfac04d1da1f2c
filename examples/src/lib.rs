//! What the reference programs share: the server, and how they log.
//!
//! The programs themselves are in `src/bin`: `enlist-server`, `enlist-agent`, `enlist-demo`.

pub mod logging;
pub mod server;

#[doc = include_str!("../../docs/embedding.md")]
pub mod embedding {}

#[doc = include_str!("../../docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("../../docs/storage.md")]
pub mod storage {}
