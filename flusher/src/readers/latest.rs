//! The latest states as readers see them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use model::DeviceKey;
use stores::contract::{LatestState, LatestView, Result, StoreError};

use crate::sinks::latest::{Question, States};
use crate::status::Shared;

/// Answers from memory and the store, once every log's sink has taken all that was durable when the
/// query came.
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
            let position = shared.progress.reach_when_not_full(target, self.wait).await;
            if position.followed < target && !position.ended {
                let behind = target - position.followed;
                return Err(StoreError::busy(format!("the latest states are {behind} readings behind; ask again")));
            }
        }
        Ok(())
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Vec<LatestState>> {
        self.catch_up().await?;
        match &self.states {
            Some(states) => states.all(question).await,
            None => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl LatestView for StatesView {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let mut found = self.ask(&Question::Some(devices)).await?.into_iter().peekable();
        // The answer has the order of the question.
        Ok(devices.iter().map(|device| found.next_if(|state| state.device == *device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        self.ask(&Question::List { tenant, after, limit }).await
    }
}
