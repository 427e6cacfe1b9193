//! The latest states as readers see them.

use async_trait::async_trait;
use model::DeviceKey;

use crate::contract::{LatestState, Result};

/// Latest states, including what is durable in the log and not yet in the store.
#[async_trait]
pub trait LatestView: Send + Sync + 'static {
    /// Returns the states of these devices: at least everything durable when the call began; `None`
    /// for a device that never sent a reading.
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>>;

    /// Returns up to `limit` states of a tenant with device ids after `after`, by device id.
    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>>;
}
