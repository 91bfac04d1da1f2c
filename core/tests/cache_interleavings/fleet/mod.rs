//! The cache, its neighbours, and the races.

mod authenticate;
#[allow(dead_code, reason = "what it hears of the subscription takes no part in the races")]
#[path = "../../../src/fleet/cache.rs"]
mod cache;
mod races;
mod sync;
