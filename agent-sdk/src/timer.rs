//! Sleeping as a capability, so that tests and simulations need not wait.

use std::time::Duration;

use async_trait::async_trait;

/// How the agent waits between contacts. [`TokioTimer`] unless the builder is given another.
#[async_trait]
pub trait Timer: Send + Sync + 'static {
    /// Returns after `by`, by the monotonic clock. Dropping the future stops the wait.
    async fn sleep(&self, by: Duration);
}

/// tokio's timer; needs a runtime with time enabled.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioTimer;

#[async_trait]
impl Timer for TokioTimer {
    async fn sleep(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }
}
