//! The services over `MemoryStore`: real state machines, a real store, a clock that is moved by hand.

mod admin;
mod authenticate;
mod exchange;
mod ingest;
mod watched;
mod world;
