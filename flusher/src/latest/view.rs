//! The states as readers see them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use model::DeviceKey;
use parking_lot::RwLock;
use stores::contract::{LatestState, LatestView, Result, StoreError};

use super::LatestMap;
use crate::status::Shared;

/// Answers from the map, once every log's sink has taken what was durable when the question came.
pub(crate) struct View {
    pub(crate) map: Arc<RwLock<LatestMap>>,
    pub(crate) sources: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    pub(crate) wait: Duration,
}

impl View {
    /// Returns when all that is durable now is in the map.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        for (log, shared) in &self.sources {
            let (target, _) = log.confirm_end().await;
            let place = shared.progress.reach(target, self.wait).await;
            if place.followed < target && !place.ended {
                let behind = target - place.followed;
                let reason = format!("the latest states are {behind} readings behind; ask again");
                return Err(StoreError::Busy { reason, retry_after: None });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl LatestView for View {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        self.catch_up().await?;
        let map = self.map.read();
        Ok(devices.iter().map(|device| map.get(device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        self.catch_up().await?;
        Ok(self.map.read().list(tenant, after, limit))
    }
}
