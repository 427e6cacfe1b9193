//! Retained messages in memory, durable when they are applied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::MemoryStore;
use crate::contract::{Result, Retained, RetainedKey, RetainedMessage, RetainedPage};

/// By tenant and topic.
#[derive(Debug, Default)]
pub(super) struct Messages(Mutex<BTreeMap<RetainedKey, RetainedMessage>>);

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

/// Loads all messages in parts of so many bytes. Returns the messages in the order of the store,
/// and the number of parts.
///
/// # Errors
/// Like [`Retained::page`].
pub async fn load_in_parts(store: &impl Retained, most_bytes: usize) -> Result<(Vec<RetainedMessage>, usize)> {
    let (mut all, mut parts, mut after) = (Vec::new(), 0, None);
    loop {
        let RetainedPage { messages, next } = store.page(after.as_ref(), most_bytes).await?;
        all.extend(messages);
        parts += 1;
        if next.is_none() {
            return Ok((all, parts));
        }
        after = next;
    }
}

/// Loads all messages.
///
/// # Errors
/// Like [`Retained::page`].
pub async fn load_retained(store: &impl Retained) -> Result<Vec<RetainedMessage>> {
    Ok(load_in_parts(store, 4 << 20).await?.0)
}

/// Returns the part of messages behind one: about `most_bytes`, and one at least.
pub fn page_of(
    held: &BTreeMap<RetainedKey, RetainedMessage>,
    after: Option<&RetainedKey>,
    most_bytes: usize,
) -> RetainedPage {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let (mut page, mut bytes) = (RetainedPage::default(), 0);
    for (key, message) in held.range((from, Bound::Unbounded)) {
        bytes += message.bytes();
        page.messages.push(message.clone());
        if bytes >= most_bytes {
            page.next = Some(key.clone());
            break;
        }
    }
    page
}

/// Returns the messages of the first of these topics: about `most_bytes`, and one at least.
pub fn messages_of(
    held: &BTreeMap<RetainedKey, RetainedMessage>,
    tenant: &str,
    topics: &[String],
    most_bytes: usize,
) -> Vec<Option<RetainedMessage>> {
    let mut bytes = 0;
    let found = topics.iter().map(|topic| held.get(&(tenant.into(), topic.clone())).cloned());
    let is_part = |found: &Option<RetainedMessage>| {
        let is_part = bytes < most_bytes;
        bytes += found.as_ref().map_or(1, RetainedMessage::bytes);
        is_part
    };
    found.take_while(is_part).collect()
}

#[async_trait]
impl Retained for MemoryStore {
    async fn page(&self, after: Option<&RetainedKey>, most_bytes: usize) -> Result<RetainedPage> {
        self.faults.read().await?;
        Ok(page_of(&self.retained.0.lock(), after, most_bytes))
    }

    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>> {
        self.faults.read().await?;
        let held = self.retained.0.lock();
        Ok(topics.iter().map(|topic| held.contains_key(&(tenant.into(), topic.clone()))).collect())
    }

    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>> {
        self.faults.read().await?;
        Ok(messages_of(&self.retained.0.lock(), tenant, topics, most_bytes))
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
