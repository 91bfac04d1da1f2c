//! The services over `MemoryStore`: real state machines, a real store, a clock that is moved by hand.

mod admin;
mod authenticate;
mod cache;
mod exchange;
mod ingest;
mod retention;
mod watched;
mod world;
