//! The credential protocol of Enlist, searched exhaustively at small bounds.
//!
//! The model is written over the project's own transition functions: the server judges and changes tokens with
//! [`AgentToken`](enlist_core::agent_token::AgentToken), [`Lineage`](enlist_core::lineage::Lineage) and
//! [`InstallToken`](enlist_core::install_token::InstallToken), the holder rotates with the agent's
//! [`Keyring`](enlist_agent_sdk::keyring::Keyring), whose tokens are numbers here. What stands between them is written
//! down in this crate: a disk, a process that dies at any moment, a network that loses, repeats, reorders and delays, an
//! administrator, and somebody who copies the disk.
//!
//! What is searched is a [`Config`]; [`search()`](search::search) looks at every state within its bounds and says what became of each
//! [`property`]. A [`Mutation`] takes one rule away, to see that the search finds out.
//!
//! What the model leaves out: the end of the time in which an expired token can propose, the expiry of install tokens, archived and deleted hosts, caches, install tokens of a tenant, several install tokens of a host,
//! and the policy that revokes a lineage when a retired token is presented. A commit is atomic and the whole of a load, a
//! judgement and a commit is one step, since a conflict is judged anew.

pub mod config;
pub mod holder;
pub mod message;
pub mod mutation;
pub mod property;
pub mod quiet;
pub mod search;
pub mod server;
pub mod time;
pub mod world;

pub use config::{Cast, Config};
pub use mutation::Mutation;
