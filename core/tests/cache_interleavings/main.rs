//! The cache of credentials in every interleaving: its own source file, compiled against locks and atomics whose
//! scheduler can be made to try all orders (shuttle). What is around it here are the modules that the file imports.
//! Atomics are sequentially consistent here, whatever ordering they ask for; the fence relies on the lock alone.

mod fleet;

mod clock {
    pub(crate) use enlist_core::Timestamp;
}

mod secret {
    pub(crate) use enlist_core::TokenHash;
}
