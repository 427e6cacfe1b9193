//! The dead letters of all logs: stored, or still in a log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use buffer::frame::Frame;
use model::Nanos;
use stores::contract::{DeadLetters, Deadletter, Result};

use super::readers::Reading;
use crate::readers::scan;
use crate::sinks::records::{DeadLetterWriter, RecordWriter};

/// Reads the store and the logs.
pub(super) struct FleetLetters(pub(super) Arc<Reading>);

impl FleetLetters {
    /// The dead letters of a tenant that no sink has stored.
    async fn unstored(&self, tenant: &str) -> Result<Vec<Deadletter>> {
        let listing = self.0.directory.list().await?;
        let logs: Vec<String> = listing.logs.iter().map(|info| info.id.clone()).collect();
        let mut found = Vec::new();
        for log in self.0.open_all(&logs).await? {
            let letters = DeadLetterWriter { log: log.id().into(), store: Arc::clone(&self.0.stores.dead_letters) };
            let read = from_log(&*log, &letters, self.0.wait).await;
            found.extend(self.0.unless_gone(log.id(), read).await?.into_iter().flatten());
        }
        found.retain(|letter| *letter.tenant == *tenant);
        Ok(found)
    }
}

async fn from_log(log: &dyn Log, letters: &DeadLetterWriter, wait: Duration) -> Result<Vec<Deadletter>> {
    let cursors = log.cursors().await.map_err(|error| scan::busy(error.to_string()))?;
    let from = cursors.get(crate::DEAD_LETTERS).map_or_else(|| log.start(), |cursor| cursor.done_to);
    let (target, _) = scan::end(log, wait).await?;
    let mut found = Vec::new();
    let take = |frame: &Frame| {
        let records = frame.records().filter(|(offset, _)| *offset >= from);
        found.extend(records.filter_map(|(offset, record)| letters.keep(offset, &record)).map(|(letter, _)| letter));
    };
    scan::frames(log, from, target, take).await?;
    Ok(found)
}

fn place(letter: &Deadletter) -> (&str, u64, &str) {
    (&letter.log, letter.offset, &letter.stage)
}

#[async_trait]
impl DeadLetters for FleetLetters {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.0.stores.dead_letters.put(letters).await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let mut found = self.unstored(tenant).await?;
        found.retain(|letter| after.is_none_or(|after| place(letter) > after));
        // The store's are the later ones: they may have been replayed.
        let stored = self.0.stores.dead_letters.list(tenant, after, limit).await?;
        found.retain(|letter| !stored.iter().any(|held| place(held) == place(letter)));
        found.extend(stored);
        found.sort_by(|a, b| place(a).cmp(&place(b)));
        found.truncate(limit);
        Ok(found)
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        let mut unstored = self.unstored(tenant).await?;
        if let Some(stored) = self.0.stores.dead_letters.get(tenant, log, offset, stage).await? {
            return Ok(Some(stored));
        }
        let at = unstored.iter().position(|letter| place(letter) == (log, offset, stage));
        Ok(at.map(|at| unstored.swap_remove(at)))
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        let store = &self.0.stores.dead_letters;
        if store.get(tenant, log, offset, stage).await?.is_none() {
            // It is still in its log: the sink's later put changes nothing.
            let letter = self.get(tenant, log, offset, stage).await?;
            store.put(Vec::from_iter(letter)).await?;
        }
        store.mark_replayed(tenant, log, offset, stage, at).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.stores.dead_letters.count().await
    }

    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.stores.dead_letters.count_replayed(stage).await
    }
}
