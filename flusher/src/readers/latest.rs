//! The latest states as readers see them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use model::DeviceKey;
use stores::contract::{LatestState, LatestView, Result, StoreError};

use crate::sinks::latest::States;
use crate::status::Shared;

/// A query waits this long for the store's states after a start.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers from memory, once every log's sink has taken all that was durable when the query came.
pub(crate) struct StatesView {
    pub(crate) states: Option<Arc<States>>,
    pub(crate) sources: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    pub(crate) wait: Duration,
}

impl StatesView {
    /// Returns when all that is durable now is in memory.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        for (log, shared) in &self.sources {
            let (target, _) = log.confirm_end().await;
            let position = shared.progress.reach(target, self.wait).await;
            if position.followed < target && !position.ended {
                let behind = target - position.followed;
                return Err(StoreError::busy(format!("the latest states are {behind} readings behind; ask again")));
            }
        }
        Ok(())
    }

    async fn loaded(&self) -> Result<&States> {
        let busy = || StoreError::busy("the latest states are not loaded yet; ask again");
        let states = self.states.as_deref().ok_or_else(busy)?;
        if !states.wait_loaded(PATIENCE).await {
            return Err(busy());
        }
        self.catch_up().await?;
        Ok(states)
    }
}

#[async_trait]
impl LatestView for StatesView {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let map = self.loaded().await?.map.read();
        Ok(devices.iter().map(|device| map.get(device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        Ok(self.loaded().await?.map.read().list(tenant, after, limit))
    }
}
