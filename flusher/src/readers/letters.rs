//! The dead letters as readers see them: every message that was acknowledged before the query is in
//! the answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use model::Nanos;
use stores::contract::{DeadLetters, Deadletter, Result, StoreError};

use crate::status::Shared;

/// Answers from the store, once every log's sink has delivered all that was durable when the query
/// came.
pub(crate) struct LettersView {
    pub(crate) store: Arc<dyn DeadLetters>,
    pub(crate) sources: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    pub(crate) wait: Duration,
}

impl LettersView {
    async fn catch_up(&self) -> Result<()> {
        for (log, shared) in &self.sources {
            let (target, _) = log.confirm_end().await;
            if shared.done_to() < target && !shared.progress.delivered(target, self.wait).await {
                let reason = format!("the dead letters of log {} are not all stored yet; ask again", log.id());
                return Err(StoreError::busy(reason));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl DeadLetters for LettersView {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.store.put(letters).await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        self.catch_up().await?;
        self.store.list(tenant, after, limit).await
    }

    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        self.catch_up().await?;
        self.store.newest(tenant, log, most).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        self.catch_up().await?;
        self.store.get(tenant, log, offset, stage).await
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        self.store.mark_replayed(tenant, log, offset, stage, at).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.store.count().await
    }

    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        self.store.count_replayed(stage).await
    }
}
