//! A store of one's own: Enlist's storage contract on [redb](https://docs.rs/redb), an embedded key-value database.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let store = enlist_example_custom_store::RedbStore::open("fleet.redb").await?;
//! let (fleet, drivers) = enlist_core::Fleet::builder(store).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! What it shows: how [`Store`](enlist_core::Store) is kept by an engine that is not ours in kind, without SQL, without
//! schema constraints, with one writer at a time; and that `tests/conformance.rs` holds it to the whole suite in a
//! screenful. Read it in this order:
//!
//! - `schema.rs`: the tables, and what each row is found by;
//! - `store.rs`: transactions on threads that may block, and every method of the contract;
//! - `identity.rs`: aggregates, guards, uniqueness; `contact.rs`: reports, heartbeats; `liveness.rs`: silence;
//! - `prune.rs`, `event.rs`, `subscription.rs`: what is old, what happened, who is told;
//! - `record.rs`: core's entities as JSON, field by field.
//!
//! What it does not show:
//!
//! - **Indexes.** Filters of hosts and events are asked of row after row, and pruning reads all events and containers.
//!   That is good for thousands of hosts, not for millions of events.
//! - **Several processes.** redb locks its file, so that a second process cannot open it. A store that can be shared has to
//!   tell subscriptions of what the others committed as well, or to give none.
//! - **Throughput.** Every write waits for the disk by itself, on a thread of its own, and JSON is not small.
//! - **Healing.** After a failure of the disk redb refuses everything until the file is opened anew: `check` says so, and
//!   whoever looks at `/readyz` starts the process again.
//! - **Migrations.** A file of another layout is refused with `SchemaVersion`.

mod contact;
mod error;
mod event;
mod identity;
mod liveness;
mod prune;
mod record;
mod schema;
mod store;
mod subscription;

pub use store::RedbStore;
