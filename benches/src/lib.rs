#![doc = include_str!("../README.md")]

pub mod baseline;
pub mod clock;
pub mod compare;
pub mod document;
pub mod floor;
pub mod history;
pub mod load;
pub mod machine;
pub mod process;
pub mod report;
pub mod statistics;

/// What the programs end with when something is not as it should be.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
