//! Topics whose messages no route matches: subscribers get them, and no reading is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hashbrown::HashMap;
use model::Nanos;
use parking_lot::Mutex;

/// Topics that are listed; the messages of further ones are counted together.
const TOPICS: usize = 1_000;
/// Bytes of a topic that is listed.
const TOPIC_BYTES: usize = 1_024;

/// The topics that no route matches, since the start. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Unrouted(Arc<Inner>);

type TenantTopic = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Inner {
    topics: Mutex<HashMap<TenantTopic, Arc<Counted>>>,
    others: Arc<Counted>,
}

/// The messages of a topic. Without a lock, since some devices send nothing else.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    client: Arc<str>,
    first: Nanos,
    messages: AtomicU64,
    last: AtomicI64,
}

/// A topic that no route matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnroutedTopic {
    /// Tenant of the senders.
    pub tenant: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The client that sent the first message.
    pub client: Arc<str>,
    /// Number of messages.
    pub messages: u64,
    /// Receive time of the first message.
    pub first: Nanos,
    /// Receive time of the last message.
    pub last: Nanos,
}

impl Counted {
    pub(crate) fn count(&self, received: Nanos) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.last.store(received, Ordering::Relaxed);
    }
}

impl Unrouted {
    /// Returns the entry of a topic. The first message of each topic is logged.
    pub(crate) fn entry(&self, tenant: &Arc<str>, client: &Arc<str>, topic: &str, received: Nanos) -> Arc<Counted> {
        let mut topics = self.0.topics.lock();
        let key = (Arc::clone(tenant), Arc::from(topic));
        if let Some(entry) = topics.get(&key) {
            return Arc::clone(entry);
        }
        if topics.len() >= TOPICS || topic.len() > TOPIC_BYTES {
            return Arc::clone(&self.0.others);
        }
        let entry = Counted { client: Arc::clone(client), first: received, ..Counted::default() };
        let entry = Arc::clone(topics.entry(key).insert(Arc::new(entry)).get());
        drop(topics);
        tracing::warn!(
            %tenant, %client, topic,
            "no route matches this topic: its messages go to subscribers only, and no reading is stored; \
             `weir unrouted` lists such topics"
        );
        entry
    }

    /// The listed topics, those with the most messages first, and the number of messages on
    /// further topics.
    pub fn list(&self) -> (Vec<UnroutedTopic>, u64) {
        let topics = self.0.topics.lock();
        let mut list: Vec<UnroutedTopic> = topics
            .iter()
            .map(|((tenant, topic), entry)| UnroutedTopic {
                tenant: Arc::clone(tenant),
                topic: Arc::clone(topic),
                client: Arc::clone(&entry.client),
                messages: entry.messages.load(Ordering::Relaxed),
                first: entry.first,
                last: entry.last.load(Ordering::Relaxed),
            })
            .collect();
        list.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.topic.cmp(&b.topic)));
        (list, self.0.others.messages.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_the_rest_is_counted() {
        let (unrouted, tenant, client) = (Unrouted::default(), Arc::from("t"), Arc::from("c"));
        for n in 0..TOPICS as i64 + 5 {
            for _ in 0..2 {
                unrouted.entry(&tenant, &client, &format!("x/{n}"), n).count(n);
            }
        }
        unrouted.entry(&tenant, &client, "x/7", 9).count(9);
        let (list, others) = unrouted.list();
        assert_eq!((list.len(), others), (TOPICS, 10));
        let first = &list[0];
        assert_eq!((&*first.topic, first.messages, first.first, first.last), ("x/7", 3, 7, 9));
    }
}
