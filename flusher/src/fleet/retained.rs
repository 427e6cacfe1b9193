//! The retained messages of all logs and the store.

use std::sync::Arc;

use buffer::Log;
use buffer::frame::Frame;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use stores::contract::{Result, RetainedKey, RetainedMessage, RetainedPage};

use super::Readers;
use crate::readers::scan;
use crate::sinks::records::retained_message;

/// Bytes of the store's messages that are in memory at a time.
const PART_BYTES: usize = 4 << 20;

/// The newest change of each topic of each tenant.
type Changes = HashMap<RetainedKey, RetainedMessage, RandomState>;

impl Readers {
    /// Gives `take` the retained messages: those of the store, in its order, with true, and then
    /// the ones that only the logs have yet. What was acknowledged before a kill is among them. No
    /// more than a part of those of the store is in memory at a time.
    ///
    /// # Errors
    /// [`StoreError::Busy`](stores::StoreError::Busy) when the logs or the store cannot be read
    /// now; some were given then.
    pub async fn retained(&self, mut take: impl FnMut(RetainedMessage, bool)) -> Result<()> {
        let mut changes = Changes::default();
        for log in self.logs().await? {
            let found = self.changes(&*log, &mut changes).await;
            self.0.unless_gone(log.id(), found).await?;
        }
        let purged = self.0.projections.purged();
        let mut after = None;
        // Last: a change that moves there meanwhile is seen twice, and is never missed.
        loop {
            let RetainedPage { messages, next } = self.0.stores.retained.page(after.as_ref(), PART_BYTES).await?;
            for message in messages.into_iter().filter(|message| !purged.has(&message.tenant)) {
                let key = (Arc::clone(&message.tenant), message.topic.clone());
                match changes.get(&key) {
                    Some(change) if change.received > message.received => {}
                    _ => {
                        changes.remove(&key);
                        take(message, true);
                    }
                }
            }
            let Some(next) = next else { break };
            after = Some(next);
        }
        // A change without a payload cleared its topic.
        let is_held = |message: &RetainedMessage| !message.payload.is_empty() && !purged.has(&message.tenant);
        changes.into_values().filter(is_held).for_each(|message| take(message, false));
        Ok(())
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
