//! Dead letters.

use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;

use super::Result;

/// A message that could not be read, or a reading that a store refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadletter {
    /// Log that holds the record.
    pub log: Arc<str>,
    /// Offset of the record in that log.
    pub offset: u64,
    /// Tenant of the sender.
    pub tenant: Arc<str>,
    /// Device, where it is known.
    pub device: Option<Arc<str>>,
    /// MQTT client id of the sender.
    pub client: String,
    /// Topic of the message.
    pub topic: String,
    /// The payload as received.
    pub payload: Vec<u8>,
    /// Receive time.
    pub received: Nanos,
    /// The projection whose store refused it; `ingest` when it could not be read.
    pub stage: String,
    /// The reason, for the operator.
    pub reason: String,
    /// Time of its replay, if it was replayed.
    pub replayed: Option<Nanos>,
}

/// Dead letters, in the order of (log, offset, stage).
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Adds letters, durably when it returns; one that is stored already (same tenant, log, offset
    /// and stage) changes nothing.
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()>;

    /// Returns up to `limit` letters of a tenant after `after` = (log, offset, stage).
    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>>;

    /// Returns one letter.
    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>>;

    /// Marks a letter as replayed.
    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()>;

    /// Counts the letters held, by tenant.
    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>>;

    /// Counts the letters of a stage that were replayed, by tenant.
    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        const PAGE: usize = 1_000;
        let mut counts = Vec::new();
        for (tenant, _) in self.count().await? {
            let (mut count, mut last) = (0, None::<Deadletter>);
            loop {
                let after = last.as_ref().map(|letter| (&*letter.log, letter.offset, &*letter.stage));
                let page = self.list(&tenant, after, PAGE).await?;
                count += page.iter().filter(|l| l.stage == stage && l.replayed.is_some()).count() as u64;
                let full = page.len() == PAGE;
                last = page.into_iter().last();
                if !full {
                    break;
                }
            }
            counts.push((tenant, count));
        }
        Ok(counts)
    }
}
