//! Retained messages in memory, durable when they are applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::MemoryStore;
use crate::contract::{Result, Retained, RetainedMessage, RetainedPage};

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

/// True for a message that belongs to an answer of so many bytes: the first one does.
fn up_to(bytes: &mut usize, most: usize, found: Option<&RetainedMessage>) -> bool {
    let is_part = *bytes < most;
    *bytes += found.map_or(1, RetainedMessage::bytes);
    is_part
}

#[async_trait]
impl Retained for MemoryStore {
    async fn page(&self, after: Option<(&str, &str)>, most_bytes: usize) -> Result<RetainedPage> {
        self.faults.read().await?;
        let held = self.retained.0.lock();
        let behind = |message: &&RetainedMessage| after.is_none_or(|after| (&*message.tenant, &*message.topic) > after);
        let (mut page, mut bytes) = (RetainedPage::default(), 0);
        for message in held.values().filter(behind) {
            bytes += message.bytes();
            page.messages.push(message.clone());
            if bytes >= most_bytes {
                page.next = Some((Arc::clone(&message.tenant), message.topic.clone()));
                break;
            }
        }
        Ok(page)
    }

    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>> {
        self.faults.read().await?;
        let held = self.retained.0.lock();
        Ok(topics.iter().map(|topic| held.contains_key(&(tenant.into(), topic.clone()))).collect())
    }

    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>> {
        self.faults.read().await?;
        let held = self.retained.0.lock();
        let mut bytes = 0;
        let found = topics.iter().map(|topic| held.get(&(tenant.into(), topic.clone())).cloned());
        Ok(found.take_while(|found| up_to(&mut bytes, most_bytes, found.as_ref())).collect())
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
