//! What measures Enlist from inside a process: the store contract as servers use it, and administration as a service
//! calls it.

pub mod administration;
pub mod enrol;
pub mod opened;
pub mod reports;
