//! The services over `MemoryStore`: real state machines, a real store, a clock that is moved by hand.

mod admin;
mod authenticate;
mod cache;
mod catch_up;
mod client_pool;
mod exchange;
mod feed;
mod host;
mod host_deletion;
mod ingest;
mod interleaving;
mod left_out;
mod limits;
mod liveness;
mod placement;
#[cfg(feature = "access-tokens")]
mod refresh;
mod retention;
mod revocation;
mod rotation;
mod series;
mod tenant_exchange;
mod watched;
mod window;
mod world;
