//! The retained messages of all logs and the store.

use std::sync::Arc;

use buffer::Log;
use buffer::frame::Frame;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use stores::contract::{Result, RetainedMessage};

use super::Readers;
use crate::readers::scan;
use crate::sinks::records::retained_message;

/// The newest change of each topic of each tenant.
type Changes = HashMap<(Arc<str>, String), RetainedMessage, RandomState>;

impl Readers {
    /// Returns the retained messages: those of the store, with the changes that only the logs have
    /// yet. What was acknowledged before a kill is among them.
    ///
    /// # Errors
    /// [`StoreError::Busy`](stores::StoreError::Busy) when the logs or the store cannot be read
    /// now.
    pub async fn retained(&self) -> Result<Vec<RetainedMessage>> {
        let mut changes = Changes::default();
        for log in self.logs().await? {
            let found = self.changes(&*log, &mut changes).await;
            self.0.unless_gone(log.id(), found).await?;
        }
        // Last: a change that moves there meanwhile is seen twice, and is never missed.
        let stored = self.0.stores.retained.load().await?;
        for message in stored {
            keep_newest(&mut changes, message);
        }
        // A change without a payload cleared its topic.
        let purged = self.0.projections.purged();
        let is_held = |message: &RetainedMessage| !message.payload.is_empty() && !purged.has(&message.tenant);
        Ok(changes.into_values().filter(is_held).collect())
    }

    /// Adds the changes of a log that the store does not have.
    async fn changes(&self, log: &dyn Log, changes: &mut Changes) -> Result<()> {
        let (offsets, _) = scan::not_passed(log, crate::RETAINED, self.0.wait).await?;
        let take = |frame: &Frame| {
            for (_, record) in frame.records().filter(|(offset, _)| offsets.contains(offset)) {
                retained_message(&record).into_iter().for_each(|change| keep_newest(changes, change));
            }
        };
        scan::frames(log, offsets.start, offsets.end, take).await
    }
}

/// Takes a message unless there is a newer one of its topic; of two received at one time, the later
/// call's.
fn keep_newest(changes: &mut Changes, message: RetainedMessage) {
    let key = (Arc::clone(&message.tenant), message.topic.clone());
    match changes.get_mut(&key) {
        Some(held) if held.received > message.received => {}
        Some(held) => *held = message,
        None => {
            changes.insert(key, message);
        }
    }
}
