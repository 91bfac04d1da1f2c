//! Credentials against everything that can go wrong: the SDK's agent, real HTTP, real stores, and a fault at every step.

mod agent;
mod away;
mod copies;
mod every_fault;
mod faults;
mod lost_replies;
mod server;
mod store;
