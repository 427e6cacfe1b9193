//! Retained messages in memory, durable when they are applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::MemoryStore;
use crate::contract::{Result, Retained, RetainedMessage};

/// By tenant and topic.
#[derive(Debug, Default)]
pub(super) struct Messages(Mutex<BTreeMap<(Arc<str>, String), RetainedMessage>>);

impl Messages {
    pub(super) fn delete_some_of(&self, tenant: &str, most: usize) -> bool {
        let mut held = self.0.lock();
        let keys: Vec<_> = held.keys().filter(|(of, _)| **of == *tenant).take(most).cloned().collect();
        keys.iter().for_each(|key| drop(held.remove(key)));
        !keys.is_empty()
    }
}

impl MemoryStore {
    /// Returns the retained messages, by tenant and topic.
    pub fn retained_messages(&self) -> Vec<RetainedMessage> {
        self.retained.0.lock().values().cloned().collect()
    }
}

#[async_trait]
impl Retained for MemoryStore {
    async fn load(&self) -> Result<Vec<RetainedMessage>> {
        self.faults.read().await?;
        Ok(self.retained_messages())
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.faults.answer()?;
        self.faults.step("before the messages are applied").await;
        for change in changes {
            let mut messages = self.retained.0.lock();
            let key = (Arc::clone(&change.tenant), change.topic.clone());
            if change.payload.is_empty() {
                messages.remove(&key);
            } else {
                messages.insert(key, change);
            }
        }
        self.faults.step("after the messages were applied").await;
        Ok(())
    }
}
